//! With exactly what is printed everything works; and who has a role can do nothing beyond it.

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt as _;
use serde_json::Value;

use super::stand::{
    KINDS, MINUTE, PASSWORD, Rights, Stand, Without, clean_sql, grants, prepare_sql, role, role_with, sink,
    subjects, without_each,
};
use super::tries::Tries;
use crate::numbers::{self, Account};
use crate::support::{Sink, World, eventually};

const EVENTS: u64 = 200;

/// GIVEN pipelines of every kind, and identities with what `grants` prints for them and no more
/// WHEN events are published, some of them bad
/// THEN all become rows, receipts and dead letters; `check --strict` finds nothing missing and nothing too much; and what other
/// roles do beyond their own business is refused.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_what_is_printed_is_enough_and_nothing_else_can_be_done() {
    let world = World::start().await;
    let mut sql = world.sql().await;
    prepare_sql(&mut sql, &["grants_loader", "nats_sql_sink_analyst"]).await;
    let port = local_stack::free_port().expect("a free port");
    let mut loader = sink(&world, port, &KINDS, "nats_loader", "grants_loader");
    // the table that the worker makes is not there yet, and the analyst's rights are on tables
    sql.execute(&grants(&loader, "sql", &["--role", "loader"]).await).await;
    let published: Vec<&str> = KINDS.iter().flat_map(|kind| ["--publish", kind.published]).collect();
    let more = [&published[..], &["--receipts-stream", "RECEIPTS"]].concat();
    let operators =
        without_each("nats_sql_sink_operator", &subjects(&role(&loader, "dead_letter_operator").await));
    let mut more_users: String = operators.iter().map(|(_, text)| text.as_str()).collect();
    let mut lacking = Vec::new();
    for name in ["publisher", "receipts_reader"] {
        let user = format!("nats_sql_sink_{name}");
        let rights = subjects(&role_with(&loader, name, &more).await);
        let withouts = without_each(&user, &rights);
        assert!(withouts.len() > 5, "{name}: {}", withouts.len());
        more_users.extend(withouts.iter().map(|(_, text)| text.as_str()));
        lacking.push((user, rights, withouts.into_iter().map(|(without, _)| without).collect::<Vec<_>>()));
    }
    let analyst = role(&loader, "analyst").await;
    let users = with_passwords(&grants(&loader, "nats-config", &more).await, &more_users);
    let stand = Stand::start(world, port, &users).await;

    // GIVEN the publisher's rights
    let publisher = stand.client("nats_sql_sink_publisher", "_INBOX.nats_sql_sink_publisher").await;
    let publisher = jetstream::new(publisher);
    for kind in &KINDS {
        for id in 1..=EVENTS {
            let sent =
                publisher.publish(kind.published, numbers::event(id).2.into()).await.expect("a publish");
            sent.await.expect("the stream confirms");
        }
        let sent = publisher.publish(kind.published, "no json".into()).await.expect("a publish");
        sent.await.expect("the stream confirms");
    }
    loader.start();
    loader.ready(MINUTE).await;
    for kind in &KINDS {
        eventually(&format!("{} is written", kind.name), MINUTE, async || {
            let rows = sql.number(&format!("SELECT COUNT_BIG(*) FROM {}", kind.table())).await;
            (rows >= i64::try_from(EVENTS).ok()?).then_some(())
        })
        .await;
        let account = numbers::account(&mut sql, &kind.table(), EVENTS).await;
        assert_eq!(account, Account { missing: 0, duplicates: 0 }, "{}", kind.name);
    }
    let letters = u64::try_from(KINDS.len()).expect("a number");
    holds(&stand, "DEAD_LETTERS", letters).await;
    let receipts = "SELECT COUNT_BIG(*) FROM nats_sql_sink.receipts";
    eventually("all receipts are published", MINUTE, async || {
        (sql.number(receipts).await == 0).then_some(())
    })
    .await;
    // also what breaks a connection, and what that needs
    for kind in &KINDS {
        stand.publish_unreadable(kind).await;
    }
    holds(&stand, "DEAD_LETTERS", 2 * letters).await;
    loader.ready(MINUTE).await;
    assert!(loader.terminate(MINUTE).await.success());
    let log = loader.log();
    assert!(!log.contains("Violation") && !log.contains("does not let this user"), "{log}");

    let (status, output, _) = loader.command(&["check", "--strict"]).await;
    assert!(status.success(), "{output}");
    assert!(!output.contains("warning") || !output.contains("rights"), "{output}");
    assert_eq!(output.matches("has what is needed, and no more").count(), 2, "{output}");

    sql.execute(&grants(&loader, "sql", &["--role", "analyst"]).await).await;
    the_analyst_reads_and_does_nothing_else(&stand).await;
    the_receipts_reader_reads_receipts_and_nothing_else(&stand).await;
    the_publisher_publishes_and_does_nothing_else(&stand).await;
    none_can_be_left_out_of_what_readers_and_publishers_have(&stand, lacking).await;
    none_can_be_left_out_of_what_the_analyst_has(&stand, &analyst["sql"]["rights"]).await;
    the_dead_letter_operator_gives_events_back(&stand, port, operators).await;
    too_much_is_found(&stand, &loader, port).await;
    an_answer_goes_where_whoever_asks_wants_it(&stand).await;
    sql.execute(
        "DROP USER grants_loader; DROP USER nats_sql_sink_analyst; DROP ROLE nats_sql_sink_loader_role; \
         DROP ROLE nats_sql_sink_analyst_role",
    )
    .await;
    clean_sql(&mut sql).await;
}

/// What the file of a server would have besides: passwords, and an administrator.
fn with_passwords(printed: &str, more_users: &str) -> String {
    let variables: Vec<&str> =
        printed.lines().filter_map(|line| line.trim().strip_prefix("password: $")).collect();
    assert_eq!(variables.len(), 5, "{printed}");
    let variables: String = variables.iter().map(|name| format!("{name}: \"{PASSWORD}\"\n")).collect();
    let admin = format!(
        "users: [\n{{ user: admin, password: \"{PASSWORD}\" }}\n{{ user: wide, password: \"{PASSWORD}\", permissions: \
         {{ publish: [\"$JS.API.>\", \"$SYS.REQ.USER.INFO\"], subscribe: [\"_INBOX.>\"] }} }}\n{more_users}"
    );
    format!("{variables}{}", printed.replacen("users: [\n", &admin, 1))
}

async fn holds(stand: &Stand, stream: &str, messages: u64) {
    let mut stream = stand.admin.get_stream(stream).await.expect("the stream");
    eventually("the stream holds what it must", MINUTE, async || {
        (stream.info().await.ok()?.state.messages == messages).then_some(())
    })
    .await;
}

async fn the_analyst_reads_and_does_nothing_else(stand: &Stand) {
    let mut analyst = stand.world.sql_as("nats_sql_sink_analyst", PASSWORD).await;
    for kind in &KINDS {
        let table = kind.table();
        let rows = analyst.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
        assert_eq!(rows, i64::try_from(EVENTS).expect("a number"));
        for (statement, number) in [
            (format!("INSERT INTO {table} (id, stream_sequence) VALUES (0, 0)"), 229),
            (format!("UPDATE {table} SET name = N'x'"), 229),
            (format!("DELETE FROM {table}"), 229),
            (format!("TRUNCATE TABLE {table}"), 1088),
            (format!("ALTER TABLE {table} ADD more int"), 1088),
            (format!("CREATE INDEX i ON {table} (id)"), 1088),
            (format!("DROP TABLE {table}"), 3701),
            (format!("INSERT BULK {table} ([id] bigint, [stream_sequence] bigint)"), 229),
            (format!("CREATE TABLE grants_{}.mine (n int)", kind.name), 262),
        ] {
            assert_eq!(analyst.refusal(&statement).await, Some(number), "{statement}");
        }
    }
    for table in ["progress", "leases", "workers", "receipts"] {
        for statement in [
            format!("SELECT * FROM nats_sql_sink.{table}"),
            format!("DELETE FROM nats_sql_sink.{table}"),
            format!("UPDATE nats_sql_sink.{table} SET pipeline = N'x'"),
        ] {
            assert_eq!(analyst.refusal(&statement).await, Some(229), "{statement}");
        }
    }
    for (statement, number) in [
        ("CREATE SCHEMA mine", 262),
        ("CREATE USER more WITHOUT LOGIN", 15247),
        ("CREATE ROLE more", 15247),
        ("ALTER ROLE nats_sql_sink_loader_role ADD MEMBER nats_sql_sink_analyst", 15151),
        ("ALTER ROLE db_owner ADD MEMBER nats_sql_sink_analyst", 15151),
        ("GRANT INSERT ON grants_once.rows TO nats_sql_sink_analyst", 15151),
    ] {
        assert_eq!(analyst.refusal(statement).await, Some(number), "{statement}");
    }
    // and on NATS nothing at all
    let mut tries = Tries::of(stand, "nats_sql_sink_analyst", "_INBOX.nats_sql_sink_analyst").await;
    tries.all_refused(&everything(&[])).await;
    for subject in
        ["_INBOX.nats_sql_sink_analyst.>", "_INBOX.nats_sql_sink_loader.>", "receipts.>", "once.>", ">"]
    {
        tries.subscription_refused(subject).await;
    }
}

async fn the_receipts_reader_reads_receipts_and_nothing_else(stand: &Stand) {
    let prefix = "_INBOX.nats_sql_sink_receipts_reader";
    let client = stand.client("nats_sql_sink_receipts_reader", prefix).await;
    let reader = jetstream::new(client.clone());
    for kind in KINDS.iter().filter(|kind| kind.has_receipts) {
        let config = pull::Config {
            durable_name: Some(format!("{}-receipts", kind.name)),
            filter_subject: format!("receipts.{}", kind.name),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let consumer = reader.create_consumer_on_stream(config, "RECEIPTS").await.expect("its consumer");
        let mut messages = consumer.messages().await.expect("its messages");
        let receipt = tokio::time::timeout(MINUTE, messages.next()).await.expect("in time");
        let receipt = receipt.expect("one").expect("a message");
        let body: serde_json::Value = serde_json::from_slice(&receipt.payload).expect("JSON");
        assert_eq!(body["pipeline"], kind.name);
        receipt.double_ack().await.expect("it may acknowledge");
    }
    let own = [
        "$JS.API.CONSUMER.CREATE.RECEIPTS.once-receipts.receipts.once",
        "$JS.API.CONSUMER.INFO.RECEIPTS.once-receipts",
    ];
    let mut tries = Tries::of(stand, "nats_sql_sink_receipts_reader", prefix).await;
    tries.all_refused(&everything(&own)).await;
    // the name of its own consumer, with another filter
    for subject in
        ["$JS.API.CONSUMER.CREATE.RECEIPTS.once-receipts", "$JS.API.CONSUMER.CREATE.RECEIPTS.once-receipts.>"]
    {
        tries.refused(subject).await;
    }
    for subject in
        ["receipts.>", "once.>", "dead.>", "_INBOX.>", "_INBOX.nats_sql_sink_loader.>", "$JS.ACK.>", ">"]
    {
        tries.subscription_refused(subject).await;
    }
}

async fn the_publisher_publishes_and_does_nothing_else(stand: &Stand) {
    let prefix = "_INBOX.nats_sql_sink_publisher";
    let mut tries = Tries::of(stand, "nats_sql_sink_publisher", prefix).await;
    let own: Vec<&str> = KINDS.iter().map(|kind| kind.published).collect();
    tries.all_refused(&everything(&own)).await;
    for subject in ["once.>", "receipts.>", "dead.>", "_INBOX.>", "_INBOX.nats_sql_sink_loader.>", ">"] {
        tries.subscription_refused(subject).await;
    }
}

/// What no permission keeps somebody from who may pull: docs/least-privilege.md tells of it, and can say less where this fails.
async fn an_answer_goes_where_whoever_asks_wants_it(stand: &Stand) {
    let prefix = "_INBOX.nats_sql_sink_receipts_reader";
    let client = stand.client("nats_sql_sink_receipts_reader", prefix).await;
    let pull = "$JS.API.CONSUMER.MSG.NEXT.RECEIPTS.once-receipts";
    let deletion = "$JS.API.STREAM.DELETE.OTHER";
    // JSON that is none: what is answered has no body
    client.publish_with_reply(pull, deletion, "{".into()).await.expect("it is sent");
    client.flush().await.expect("the server has it");
    eventually("the server still sends answers anywhere", MINUTE, async || {
        stand.admin.get_stream("OTHER").await.is_err().then_some(())
    })
    .await;
}

/// With all its rights a role does what each of them is for; without one of them the server refuses just that, by its name.
async fn none_can_be_left_out_of_what_readers_and_publishers_have(
    stand: &Stand,
    roles: Vec<(String, Rights, Vec<Without>)>,
) {
    for (user, rights, withouts) in roles {
        let prefix = format!("_INBOX.{user}");
        let mut all = Tries::of(stand, &user, &prefix).await;
        for (verb, subject) in &rights {
            all.taken(verb, subject).await;
        }
        for without in &withouts {
            Tries::of(stand, &without.user, &prefix).await.missed(without).await;
        }
    }
}

async fn none_can_be_left_out_of_what_the_analyst_has(stand: &Stand, rights: &Value) {
    let rights = rights.as_array().expect("a list");
    assert_eq!(rights.len(), KINDS.len(), "{rights:?}");
    let mut sql = stand.world.sql().await;
    let on = |right: &Value| right["on"].as_str().expect("a table").to_owned();
    for missing in rights {
        assert_eq!((right(missing, "permission"), right(missing, "class")), ("SELECT", "OBJECT"));
        sql.execute(&format!("CREATE USER grants_reader WITH PASSWORD = '{PASSWORD}'")).await;
        for granted in rights.iter().filter(|right| *right != missing) {
            sql.execute(&format!("GRANT SELECT ON OBJECT::{} TO grants_reader", on(granted))).await;
        }
        let mut reader = stand.world.sql_as("grants_reader", PASSWORD).await;
        for right in rights {
            let said = reader.refused(&format!("SELECT COUNT_BIG(*) FROM {}", on(right))).await;
            let expected = (right == missing).then_some(229);
            assert_eq!(said.as_ref().map(|(number, _)| *number), expected, "{right}: {said:?}");
            if let Some((_, text)) = said {
                let schema = on(missing).split('.').next().expect("a schema").replace(['[', ']'], "");
                assert!(text.contains("SELECT") && text.contains("rows") && text.contains(&schema), "{text}");
            }
        }
        drop(reader);
        sql.execute("DROP USER grants_reader").await;
    }
}

fn right<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().expect("a text")
}

/// By `dlq`, and with any of its rights missing by what names that.
async fn the_dead_letter_operator_gives_events_back(
    stand: &Stand,
    port: u16,
    operators: Vec<(Without, String)>,
) {
    let user = "nats_sql_sink_dead_letter_operator";
    let prefix = "_INBOX.nats_sql_sink_dead_letter_operator";
    let one_of = |pipeline| ["dlq", "replay", "--pipeline", pipeline, "--limit", "1", "--delete", "--all"];
    let operator = sink(&stand.world, port, &KINDS, user, "nobody");
    let (_, listed, _) = operator.command(&["dlq", "list", "--count"]).await;
    assert!(KINDS.iter().all(|kind| listed.contains(&format!("{}: 1 ", kind.name))), "{listed}");
    let (status, output, errors) = operator.command(&one_of("made")).await;
    assert!(status.success() && output.contains("published again, at "), "{output}{errors}");
    let mut tried = 0;
    for (without, _) in operators {
        // publishing on the subjects of other pipelines is not part of it
        if without.subject.ends_with('>')
            && !without.subject.starts_with("_INBOX")
            && without.subject != "appended.>"
            || without.subject.starts_with("counted")
        {
            continue;
        }
        let operator = sink(&stand.world, port, &KINDS, &without.user, "nobody");
        let text = std::fs::read_to_string(&operator.config).expect("the configuration");
        let text = text.replace(&format!("_INBOX.{}", without.user), prefix);
        std::fs::write(&operator.config, text).expect("a configuration");
        let (status, output, errors) = operator.command(&one_of("appended")).await;
        assert!(
            !status.success() && errors.contains(&without.named()),
            "{}\n{output}{errors}",
            without.named()
        );
        tried += 1;
    }
    assert_eq!(tried, 5, "the stream's three endpoints, the events, and the replies");
    let mut tries = Tries::of(stand, user, prefix).await;
    let own = [
        "appended.all",
        "once.a.all",
        "once.a.more",
        "$JS.API.STREAM.INFO.DEAD_LETTERS",
        "$JS.API.STREAM.MSG.GET.DEAD_LETTERS",
        "$JS.API.STREAM.MSG.DELETE.DEAD_LETTERS",
    ];
    tries.all_refused(&everything(&own)).await;
    for subject in ["once.>", "receipts.>", "dead.>", "_INBOX.>", "_INBOX.nats_sql_sink_loader.>", ">"] {
        tries.subscription_refused(subject).await;
    }
}

/// GIVEN identities that may do more than is needed THEN `check` says so, and refuses them with `--strict`.
async fn too_much_is_found(stand: &Stand, loader: &Sink, port: u16) {
    let mut sql = stand.world.sql().await;
    for (grant, told) in [
        ("GRANT INSERT ON SCHEMA::dbo TO grants_loader", "INSERT on SCHEMA::[dbo]"),
        ("GRANT DELETE ON grants_once.rows TO grants_loader", "DELETE on OBJECT::[grants_once].[rows]"),
        ("GRANT TAKE OWNERSHIP ON SCHEMA::dbo TO grants_loader", "TAKE OWNERSHIP on SCHEMA::[dbo]"),
        ("CREATE ROLE grants_owned AUTHORIZATION grants_loader", "CONTROL on ROLE::[grants_owned]"),
        ("GRANT ALTER ANY ROLE TO grants_loader", "ALTER ANY ROLE on the database"),
        ("GRANT CONTROL TO grants_loader", "CONTROL on the database"),
        ("ALTER ROLE db_owner ADD MEMBER grants_loader", "member of db_owner"),
    ] {
        sql.execute(grant).await;
        let (status, output, _) = loader.command(&["check"]).await;
        assert!(status.success(), "{output}");
        let line = output.lines().find(|line| line.contains(told));
        assert!(line.is_some_and(|line| line.starts_with("warning  sql rights")), "{told}: {output}");
        // what follows from it is not told besides
        assert_eq!(output.matches("more than is needed").count(), 1, "{output}");
        let (status, output, _) = loader.command(&["check", "--strict"]).await;
        assert!(!status.success() && output.contains("FAILED   sql rights"), "{output}");
        let revoke = match grant.split_once(' ') {
            Some(("GRANT", rest)) => format!("REVOKE {}", rest.replace(" TO ", " FROM ")),
            Some(("CREATE", _)) => "DROP ROLE grants_owned".to_owned(),
            _ => grant.replace("ADD", "DROP"),
        };
        sql.execute(&revoke).await;
    }
    for (user, told) in [("admin", "publish on \">\" (everything)"), ("wide", "publish on \"$JS.API.>\"")] {
        let other = sink(&stand.world, port, &KINDS, user, "grants_loader");
        let (_, output, _) = other.command(&["check"]).await;
        let line = output.lines().find(|line| line.contains(told));
        assert!(line.is_some_and(|line| line.starts_with("warning  nats rights")), "{told}: {output}");
        let (status, output, _) = other.command(&["check", "--strict"]).await;
        assert!(!status.success() && output.contains("FAILED   nats rights"), "{output}");
    }
}

/// All endpoints that read or change something, but for these.
fn everything(own: &[&str]) -> Vec<String> {
    let mut subjects = Vec::new();
    for stream in ["ONCE", "APPENDED", "DEAD_LETTERS", "RECEIPTS", "OTHER"] {
        for endpoint in [
            "STREAM.INFO",
            "STREAM.CREATE",
            "STREAM.UPDATE",
            "STREAM.DELETE",
            "STREAM.PURGE",
            "STREAM.SNAPSHOT",
            "STREAM.RESTORE",
            "STREAM.MSG.GET",
            "STREAM.MSG.DELETE",
            "DIRECT.GET",
            "CONSUMER.CREATE",
            "CONSUMER.NAMES",
            "CONSUMER.LIST",
        ] {
            subjects.push(format!("$JS.API.{endpoint}.{stream}"));
        }
        for endpoint in ["CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE", "RESET", "UNPIN"]
        {
            subjects.push(format!("$JS.API.CONSUMER.{endpoint}.{stream}.other"));
        }
        subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}.other.>"));
        subjects.push(format!("$JS.ACK.{stream}.other.1.1.1.1.0"));
    }
    for subject in [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.CONSUMER.INFO.APPENDED.sink-appended",
        "$JS.API.CONSUMER.MSG.NEXT.APPENDED.sink-appended",
        "$JS.API.CONSUMER.DELETE.APPENDED.sink-appended",
        "$JS.ACK.APPENDED.sink-appended.1.1.1.1.0",
        "$SYS.REQ.USER.INFO",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.ACCOUNT.PING.CONNZ",
        "appended.all",
        "once.a.all",
        "once.a.more",
        "counted.all",
        "other.a",
        "receipts.once",
        "receipts.other",
        "dead.once.once.ONCE.1.1",
        "dead.x",
        "_INBOX.nats_sql_sink_loader.x",
        "anything",
    ] {
        subjects.push(subject.to_owned());
    }
    subjects.retain(|subject| !own.contains(&subject.as_str()));
    subjects
}
