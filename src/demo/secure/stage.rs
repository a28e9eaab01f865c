//! The servers of the secured demo, who may log in to them, and what the demo itself does there: each as the role that it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use local_stack::authority::Authority;
use local_stack::identity_provider::{
    Application, ClientCertificate, IdentityProvider, IdentityProviderOptions, Proof, TENANT,
};
use local_stack::nats_auth::Permissions;
use local_stack::nats_auth::operator::{Operator, User};
use local_stack::sql_server::TokenOptions;
use local_stack::stack::{LocalStack, LocalStackOptions};
use serde_json::Value;

use super::super::table::Account;
use super::super::{MAX_ACK_INFLIGHT, SCHEMA, create_streams, restrict};
use crate::config::{Config, SqlConfig};
use crate::mssql;
use crate::mssql::connect::{Connector, Session};
use crate::mssql::statements;
use crate::schema::Schema;

/// What users are called on both sides, by their role; `grants` calls them so.
const LOADER: &str = "nats_sql_sink_loader";
const ANALYST: &str = "nats_sql_sink_analyst";
/// Who owns the database.
const OWNER: &str = "demo-owner";
/// A third of the sites each, so that there are partitions to share.
const PARTITIONS: [[&str; 2]; 3] = [
    ["events.rotterdam.>", "events.gdansk.>"],
    ["events.porto.>", "events.tallinn.>"],
    ["events.genoa.>", "events.bergen.>"],
];

/// Everything that stands around the sink.
pub(super) struct Stage {
    folder: PathBuf,
    stack: LocalStack,
    provider: IdentityProvider,
    operator: Operator,
    loader: Application,
    /// What `grants` printed.
    granted: Value,
    /// Whom the sink logs in to NATS as, and before a rotation did.
    users: Vec<User>,
    /// For the rotation; made beforehand, as that takes a while.
    next_certificate: Option<ClientCertificate>,
    pub(super) config_path: PathBuf,
    pub(super) http: SocketAddr,
}

impl Stage {
    /// Starts the servers, and writes what the sink needs but for its rights.
    pub(super) async fn start(folder: &Path, token_life: Duration) -> anyhow::Result<Self> {
        let options = IdentityProviderOptions { token_life, ..IdentityProviderOptions::default() };
        let provider = IdentityProvider::start(options).await.context("starting the identity provider")?;
        let making = || -> anyhow::Result<_> {
            Ok((ClientCertificate::generate(LOADER)?, ClientCertificate::generate(LOADER)?))
        };
        let (certificate, next_certificate) = tokio::task::spawn_blocking(making).await??;
        let write = |name: &str, text: &str| write(folder, name, text);
        write("loader.pem", &certificate.pem)?;
        let loader = Application::new(LOADER, Proof::Certificate(Box::new(certificate)));
        for application in
            [loader.clone(), Application::new(ANALYST, Proof::None), Application::new(OWNER, Proof::None)]
        {
            provider.register(application);
        }
        let (operator, authority) = (Operator::default(), Authority::new()?);
        let server = authority.server(&["localhost", "127.0.0.1"])?;
        write("nats-ca.pem", &authority.pem())?;
        write("nats-server.pem", &server.certificate)?;
        write("nats-server.key", &server.key)?;
        write("entra-ca.pem", provider.ca_pem())?;
        write("entra-keys.json", &provider.jwks())?;
        let path = |name: &str| Value::from(folder.join(name).display().to_string());
        let nats_config = format!(
            "{}tls {{ cert_file: {}, key_file: {} }}\n",
            operator.server_config()?,
            path("nats-server.pem"),
            path("nats-server.key")
        );
        let tokens = TokenOptions {
            admin: Some(OWNER.to_owned()),
            ..TokenOptions::new(folder.join("entra-keys.json"))
        };
        let stack = LocalStack::start(LocalStackOptions {
            data_dir: Some(folder.join("stack")),
            nats_config: Some(nats_config),
            tokens: Some(tokens),
            ..LocalStackOptions::default()
        })
        .await
        .context("starting the local stack")?;
        write("ca.pem", stack.sql_ca_pem())?;
        write("telemetry.toml", SCHEMA)?;
        let http = SocketAddr::from(([127, 0, 0, 1], local_stack::free_port()?));
        let mut stage = Self {
            folder: folder.to_owned(),
            stack,
            provider,
            operator,
            loader,
            granted: Value::Null,
            users: Vec::new(),
            next_certificate: Some(next_certificate),
            config_path: folder.join("demo.toml"),
            http,
        };
        write("demo.toml", &stage.config())?;
        stage.granted = stage.grants().await?;
        Ok(stage)
    }

    fn config(&self) -> String {
        let list = |subjects: &[&str]| format!("{subjects:?}");
        let partitions: Vec<String> = PARTITIONS.iter().map(|subjects| list(subjects)).collect();
        format!(
            r#"# Written by `nats-sql-sink demo --secure`.

[nats]
servers = ["{nats}"]
credentials_file = "loader.creds"
inbox_prefix = "_INBOX.{LOADER}"
tls = {{ ca_file = "nats-ca.pem", required = true }}

{sql}
[sql.auth]
method = "client_certificate"
tenant_id = "{TENANT}"
client_id = "{client}"
certificate_file = "loader.pem"
authority = "{authority}"
ca_file = "entra-ca.pem"

[rotation]
max_age = "24h"

[http]
listen = "{http}"

[log]
filter = "info,nats_sql_sink::identity=debug"

[[pipeline]]
name = "telemetry"
stream = "EVENTS"
durable = "sink-telemetry"
subjects = {subjects}
delivery = "exactly_once"
partitions = {{ subjects = [{partitions}] }}
schema = "telemetry.toml"
table = "dbo.telemetry"
dead_letter = {{ stream = "DEAD_LETTERS", subject = "dead.telemetry" }}
"#,
            nats = self.nats_url(),
            sql = self.sql_section("ca.pem"),
            client = self.loader.client_id,
            authority = self.provider.authority(),
            http = self.http,
            subjects = list(&PARTITIONS.concat()),
            partitions = partitions.join(", "),
        )
    }

    fn sql_section(&self, ca_file: &str) -> String {
        format!(
            "[sql]\nserver = \"127.0.0.1,{}\"\ndatabase = \"{}\"\nencrypt = \"required\"\nca_file = \"{ca_file}\"\n",
            self.stack.sql_address().port(),
            self.stack.sql_database()
        )
    }

    fn nats_url(&self) -> String {
        self.stack.nats_url().replace("nats://127.0.0.1", "tls://localhost")
    }

    /// What `grants` prints for the configuration.
    async fn grants(&self) -> anyhow::Result<Value> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let output = tokio::process::Command::new(program)
            .args(["grants", "--form", "json", "--config"])
            .arg(&self.config_path)
            .output()
            .await
            .context("running `grants`")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`grants` failed: {errors}");
        write(&self.folder, "grants.json", &String::from_utf8_lossy(&output.stdout))?;
        serde_json::from_slice(&output.stdout).context("what `grants` printed")
    }

    fn granted(&self, role: &str) -> anyhow::Result<&Value> {
        let roles = self.granted["roles"].as_array().context("`grants` prints roles")?;
        roles.iter().find(|granted| granted["role"] == role).with_context(|| format!("the role {role}"))
    }

    /// A user of NATS with what is granted to the role, and nothing else.
    fn user(&self, role: &str) -> anyhow::Result<(User, String)> {
        let nats = &self.granted(role)?["nats"];
        let allowed = |kind: &str| -> anyhow::Result<Vec<&str>> {
            let subjects = nats["permissions"][kind]["allow"].as_array().context("lists of subjects")?;
            ensure!(!subjects.is_empty(), "an empty list would allow everything");
            Ok(subjects.iter().filter_map(Value::as_str).collect())
        };
        let permissions = Permissions::new(&allowed("publish")?, &allowed("subscribe")?);
        let tag = format!("role:{role}");
        let user = self.operator.user(&format!("nats_sql_sink_{role}"), &permissions, &[&tag], None)?;
        let inbox = nats["inbox_prefix"].as_str().context("an inbox prefix")?.to_owned();
        Ok((user, inbox))
    }

    fn tls(&self) -> ConnectOptions {
        ConnectOptions::new().add_root_certificates(self.folder.join("nats-ca.pem")).require_tls(true)
    }

    /// The owners of both sides make streams, tables, users and roles. Gives a publisher's connection.
    pub(super) async fn prepare(&mut self) -> anyhow::Result<Context> {
        let owner = self.operator.user(OWNER, &Permissions::default(), &[], None)?;
        let client = self.tls().credentials(&owner.credentials())?.connect(self.nats_url()).await?;
        create_streams(&async_nats::jetstream::new(client)).await?;

        let planned = Config::load(&self.config_path)?;
        let schema = Schema::parse(SCHEMA).context("the demo's schema")?;
        let pipeline = planned.pipelines.first().context("the demo has one pipeline")?;
        let mut session = self.session(OWNER).await?;
        let mut script = vec![statements::create_table(&pipeline.table, &schema, None)];
        script.extend(statements::state::create_state());
        for role in ["loader", "analyst"] {
            let granted = self.granted(role)?["sql"]["statements"].as_array().context("statements")?;
            script.extend(granted.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        for statement in script {
            mssql::query(&mut session, &statement).await.with_context(|| statement.clone())?;
        }
        let (loader, _) = self.user("loader")?;
        self.put("loader.creds", &loader.credentials())?;
        self.users.push(loader);
        let (publisher, inbox) = self.user("publisher")?;
        let options = self.tls().credentials(&publisher.credentials())?.custom_inbox_prefix(inbox);
        let client = options.connect(self.nats_url()).await.context("connecting as the publisher")?;
        Ok(ContextBuilder::new().max_ack_inflight(MAX_ACK_INFLIGHT).build(client))
    }

    /// New credentials for both sides, as whoever looks after them would put them in place.
    pub(super) fn rotate(&mut self) -> anyhow::Result<()> {
        let (user, _) = self.user("loader")?;
        self.put("loader.creds", &user.credentials())?;
        self.users.push(user);
        let next = self.next_certificate.take().context("one rotation")?;
        self.put("loader.pem", &next.pem)?;
        let application = self.loader.clone().with_proof(Proof::Certificate(Box::new(next)));
        self.provider.register(application);
        Ok(())
    }

    /// Nobody can log in any more with what the sink had at first.
    pub(super) async fn revoke_the_former_user(&mut self) -> anyhow::Result<()> {
        let former = self.users.first().context("the sink's first user")?;
        let (url, options) = (self.nats_url(), self.tls());
        self.operator.revoke(former, &url, options).await.context("revoking the former user")
    }

    /// What the table holds, as an analyst reads it.
    pub(super) async fn account(&self) -> anyhow::Result<Account> {
        let config = Config::load(&self.config_path)?;
        let pipeline = config.pipelines.first().context("the demo has one pipeline")?;
        let mut session = self.session(ANALYST).await.context("logging in as the analyst")?;
        Account::read(&mut session, &pipeline.table).await
    }

    /// A session of the database by a fresh token for this name.
    async fn session(&self, name: &str) -> anyhow::Result<Session> {
        let token = self.provider.mint(name).with_context(|| format!("a token for {name}"))?;
        self.put("demo.token", &token)?;
        let path = |name: &str| Value::from(self.folder.join(name).display().to_string());
        let text = format!(
            "{}auth = {{ method = \"access_token_file\", token_file = {} }}\n",
            self.sql_section(&self.folder.join("ca.pem").display().to_string()),
            path("demo.token")
        );
        let mut sections: toml::Table = toml::from_str(&text).context("the demo's own configuration")?;
        let sql = sections.remove("sql").context("its section")?;
        let config: SqlConfig = sql.try_into().context("the demo's own configuration")?;
        let session = Box::pin(Connector::new(config).open()).await?;
        std::fs::remove_file(self.folder.join("demo.token")).context("removing a token")?;
        Ok(session)
    }

    /// Puts a secret in its place: whole, and readable for its owner alone.
    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let fresh = format!("{name}.new");
        write(&self.folder, &fresh, text)?;
        std::fs::rename(self.folder.join(&fresh), self.folder.join(name))
            .with_context(|| format!("putting {name} in its place"))
    }
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    restrict(&path)
}
