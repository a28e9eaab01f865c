//! A nats-server whose users have permissions, beside the SQL server of the world; pipelines of every kind; and sinks that log
//! in as whom the test says.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, SubjectTransform};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions};
use local_stack::nats_server::{NatsServer, NatsServerOptions};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::numbers;
use crate::support::{Sink, Sql, World, eventually};

pub const MINUTE: Duration = Duration::from_secs(60);
/// Of all users on both sides.
pub const PASSWORD: &str = "Grants-1";
const LIMITS: &str = "shutdown_grace = \"2s\"\nretry_window = \"1s\"";

/// A pipeline, with a stream and a table of its own.
#[derive(Debug, Clone)]
pub struct Kind {
    pub name: &'static str,
    /// The fields that make it what it is.
    pub fields: &'static str,
    /// What its events are published on.
    pub published: &'static str,
    pub has_receipts: bool,
    pub creates_table: bool,
}

pub const KINDS: [Kind; 5] = [
    Kind {
        name: "appended",
        fields: "durable = \"sink-appended\"\nsubjects = [\"appended.>\"]",
        published: "appended.all",
        has_receipts: true,
        creates_table: false,
    },
    Kind {
        name: "keyed",
        fields: "durable = \"sink-keyed\"\nsubjects = [\"keyed.a.>\", \"keyed.b.>\"]\nwrite = \"upsert\"\nkey = [\"id\"]\n\
                 sequence_column = \"stream_sequence\"",
        published: "keyed.a.all",
        has_receipts: false,
        creates_table: false,
    },
    Kind {
        name: "made",
        fields: "durable = \"sink-made\"\nsubjects = [\"made.>\"]\ncreate_table = true",
        published: "made.all",
        has_receipts: false,
        creates_table: true,
    },
    Kind {
        name: "once",
        fields: "subjects = [\"once.a.>\", \"once.b.>\", \"once.c.>\"]\ndelivery = \"exactly_once\"\nlease = \"1s\"\n\
                 partitions = { subjects = [[\"once.a.>\"], [\"once.b.>\", \"once.c.>\"]] }",
        published: "once.a.all",
        has_receipts: true,
        creates_table: false,
    },
    Kind {
        name: "counted",
        fields: "subjects = [\"counted.*.*\"]\ndelivery = \"exactly_once\"\nlease = \"1s\"\n\
                 partitions = { count = 2, subject = \"counted.{partition}.*\" }",
        published: "counted.all",
        has_receipts: false,
        creates_table: false,
    },
];

pub fn kind(name: &str) -> Kind {
    KINDS.into_iter().find(|kind| kind.name == name).expect("a kind")
}

impl Kind {
    pub fn stream(&self) -> String {
        self.name.to_uppercase()
    }

    pub fn table(&self) -> String {
        format!("grants_{}.rows", self.name)
    }

    /// As a `[[pipeline]]` has it, without its name and where its dead letters go.
    fn pipeline(&self) -> String {
        let receipts = match self.has_receipts {
            true => format!("receipts = {{ subject = \"receipts.{}\" }}\n", self.name),
            false => String::new(),
        };
        format!(
            "stream = \"{}\"\nschema = \"numbers.toml\"\ntable = \"{}\"\nbatch = {{ max_age = \"10ms\" }}\n{receipts}{}\n",
            self.stream(),
            self.table(),
            self.fields
        )
    }
}

/// The servers, and what is on them.
pub struct Stand {
    pub world: World,
    nats: NatsServer,
    pub admin: Context,
}

impl Stand {
    /// Starts a nats-server on `port` with these users, and makes streams and tables, as an administrator would.
    pub async fn start(world: World, port: u16, users: &str) -> Self {
        let options = NatsServerOptions {
            port: Some(port),
            extra_config: Some(users.to_owned()),
            ..NatsServerOptions::default()
        };
        let nats = NatsServer::start(options).await.expect("the nats-server starts");
        let admin = connect(&nats, "admin", "_INBOX.admin").await;
        let stand = Self { world, nats, admin: jetstream::new(admin) };
        for (name, subjects) in [("DEAD_LETTERS", "dead.>"), ("RECEIPTS", "receipts.>"), ("OTHER", "other.>")]
        {
            stand.stream(name, subjects, None).await;
        }
        for kind in &KINDS {
            let transform = (kind.name == "counted").then(|| SubjectTransform {
                source: "counted.*".to_owned(),
                destination: "counted.{{partition(2,1)}}.{{wildcard(1)}}".to_owned(),
            });
            let subjects = if transform.is_some() { "counted.*" } else { &format!("{}.>", kind.name) };
            stand.stream(&kind.stream(), subjects, transform).await;
        }
        stand
    }

    async fn stream(&self, name: &str, subjects: &str, subject_transform: Option<SubjectTransform>) {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            subject_transform,
            ..Config::default()
        };
        self.admin.create_stream(config).await.expect("a stream");
    }

    pub async fn client(&self, user: &str, inbox_prefix: &str) -> Client {
        connect(&self.nats, user, inbox_prefix).await
    }

    pub async fn publish(&self, subject: &str, payload: &[u8]) {
        let sent = self.admin.publish(subject.to_owned(), payload.to_vec().into()).await.expect("a publish");
        sent.await.expect("the stream confirms");
    }

    /// Publishes an event that becomes a row, and one that becomes a dead letter.
    pub async fn publish_good_and_bad(&self, kind: &Kind, id: u64) {
        self.publish(kind.published, &numbers::event(id).2).await;
        self.publish(kind.published, b"no json").await;
    }

    /// Publishes an event whose headers break the connection of whoever receives it.
    pub async fn publish_unreadable(&self, kind: &Kind) {
        let mut stream = self.admin.get_stream(kind.stream()).await.expect("the stream");
        let before = stream.info().await.expect("its info").state.last_sequence;
        let mut tcp = TcpStream::connect(("127.0.0.1", self.nats.port())).await.expect("it listens");
        let headers = b"NATS/1.0\r\nWho: \xe9t\xe9\r\n\r\n";
        let (length, total) = (headers.len(), headers.len() + 2);
        let connect =
            format!("{{\"verbose\":false,\"headers\":true,\"user\":\"admin\",\"pass\":\"{PASSWORD}\"}}");
        let head = format!("CONNECT {connect}\r\nHPUB {} {length} {total}\r\n", kind.published);
        let message = [head.as_bytes(), headers, b"{}\r\n"].concat();
        tcp.write_all(&message).await.expect("it reads");
        eventually("the raw message is stored", MINUTE, async || {
            (stream.info().await.ok()?.state.last_sequence > before).then_some(())
        })
        .await;
    }

    pub fn url(&self) -> String {
        self.nats.url()
    }
}

async fn connect(nats: &NatsServer, user: &str, inbox_prefix: &str) -> Client {
    ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned())
        .custom_inbox_prefix(inbox_prefix)
        .request_timeout(Some(Duration::from_secs(2)))
        .connect(nats.url())
        .await
        .expect("it may connect")
}

/// A sink of these pipelines, that logs in as these users.
pub fn sink(world: &World, port: u16, kinds: &[Kind], nats_user: &str, sql_user: &str) -> Sink {
    world.write("numbers.toml", numbers::SCHEMA);
    world.write("grants.password", PASSWORD);
    let (first, others) = kinds.split_first().expect("a pipeline");
    let sink = world.config(first.name, LIMITS, &first.pipeline());
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    // the loader's own is the default
    let inbox = match nats_user.starts_with("nats_sql_sink_") {
        true => format!("\ninbox_prefix = \"_INBOX.{nats_user}\""),
        false => String::new(),
    };
    let lines = text.lines().map(|line| {
        if line.starts_with("servers = ") {
            format!(
                "servers = [\"nats://127.0.0.1:{port}\"]\nuser = \"{nats_user}\"\n\
                 password_file = \"grants.password\"{inbox}"
            )
        } else if line.starts_with("auth = ") {
            format!(
                "max_connections = 8\nauth = {{ method = \"sql_login\", user = \"{sql_user}\", password_file = \"grants.password\" }}"
            )
        } else {
            line.to_owned()
        }
    });
    let mut text = lines.collect::<Vec<_>>().join("\n");
    for kind in others {
        let name = kind.name;
        text.push_str(&format!(
            "\n[[pipeline]]\nname = \"{name}\"\ndead_letter = {{ stream = \"DEAD_LETTERS\", subject = \"dead.{name}\" }}\n{}",
            kind.pipeline()
        ));
    }
    std::fs::write(&sink.config, text).expect("a configuration");
    sink
}

/// What `grants` prints in a form.
pub async fn grants(sink: &Sink, form: &str, more: &[&str]) -> String {
    let arguments = [&["grants", "--form", form], more].concat();
    let (status, output, errors) = sink.command(&arguments).await;
    assert!(status.success(), "{errors}");
    output
}

/// What `grants` prints of a role, for programs.
pub async fn role(sink: &Sink, role: &str) -> Value {
    role_with(sink, role, &[]).await
}

/// The same, with what the configuration does not hold.
pub async fn role_with(sink: &Sink, role: &str, more: &[&str]) -> Value {
    let printed = grants(sink, "json", &[&["--role", role], more].concat()).await;
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    printed["roles"][0].clone()
}

/// Subjects, each with the verb.
pub type Rights = Vec<(&'static str, String)>;

/// All subjects of a role.
pub fn subjects(role: &Value) -> Rights {
    let of = |verb: &'static str| {
        let list = role["nats"]["permissions"][verb]["allow"].as_array().expect("a list").clone();
        list.into_iter().map(move |subject| (verb, subject.as_str().expect("a subject").to_owned()))
    };
    of("publish").chain(of("subscribe")).collect()
}

/// A user of the server's configuration.
pub fn nats_user(name: &str, rights: &[(&'static str, String)]) -> String {
    let list = |verb: &str| {
        let own = rights.iter().filter(|(own, _)| *own == verb);
        let own: Vec<String> = own.map(|(_, subject)| format!("{subject:?}")).collect();
        match own.as_slice() {
            [] => "{ deny: [\">\"] }".to_owned(),
            own => format!("{{ allow: [{}] }}", own.join(", ")),
        }
    };
    format!(
        "{{ user: {name:?}, password: {PASSWORD:?}, permissions: {{ publish: {}, subscribe: {} }} }}\n",
        list("publish"),
        list("subscribe")
    )
}

/// A user for each of these rights, without it.
pub fn without_each(name: &str, rights: &[(&'static str, String)]) -> Vec<(Without, String)> {
    let without = |(index, (verb, subject)): (usize, &(&'static str, String))| {
        let user = format!("{name}_{index}");
        let mut others = rights.to_vec();
        others.remove(index);
        let text = nats_user(&user, &others);
        (Without { user, verb, subject: subject.clone() }, text)
    };
    rights.iter().enumerate().map(without).collect()
}

/// A user of NATS, without one right.
pub struct Without {
    pub user: String,
    pub verb: &'static str,
    pub subject: String,
}

impl Without {
    /// What is said of it.
    pub fn named(&self) -> String {
        format!("let this user {} on \"{}\"", self.verb, self.subject)
    }
}

/// Makes the schemas, and the tables that the sink does not make, and users of the database that log in by a password.
pub async fn prepare_sql(sql: &mut Sql, users: &[&str]) {
    for kind in &KINDS {
        sql.execute(&format!(
            "IF SCHEMA_ID(N'grants_{0}') IS NULL EXEC (N'CREATE SCHEMA grants_{0}')",
            kind.name
        ))
        .await;
        if !kind.creates_table {
            let key = if kind.name == "keyed" { " PRIMARY KEY" } else { "" };
            sql.execute(&format!(
                "CREATE TABLE {} (id bigint NOT NULL{key}, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)",
                kind.table()
            ))
            .await;
        }
    }
    for user in users {
        sql.execute(&format!("CREATE USER [{user}] WITH PASSWORD = '{PASSWORD}'")).await;
    }
}

/// Leaves the database as it was.
pub async fn clean_sql(sql: &mut Sql) {
    for kind in &KINDS {
        let name = kind.name;
        for table in ["progress", "leases", "workers", "receipts"] {
            sql.execute(&format!("DELETE FROM nats_sql_sink.{table} WHERE pipeline = N'{name}'")).await;
        }
        sql.execute(&format!("DROP TABLE {}; DROP SCHEMA grants_{name}", kind.table())).await;
    }
}
