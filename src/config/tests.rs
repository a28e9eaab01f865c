//! What a configuration may say, and what is said about one that it may not.

use insta::assert_snapshot;

use super::*;

mod documentation;
mod exactly_once;
mod keyed;

/// Valid, and complete enough that each test can change one thing.
const VALID: &str = r#"
memory = "256MiB"
shutdown_grace = "25s"
retry_window = "2m"

[nats]
servers = ["nats://127.0.0.1:4222"]

[sql]
server = "127.0.0.1,1433"
database = "sinkdb"
encrypt = "required"
packet_size = 16383
max_connections = 4
connect_timeout = "15s"
auth = { method = "sql_login", user = "sink", password_file = "sql.password" }

[http]
listen = "127.0.0.1:9464"

[log]
filter = "info"

[[pipeline]]
name = "telemetry"
stream = "EVENTS"
durable = "sink-telemetry"
subjects = ["events.>"]
schema = "schemas/telemetry.toml"
table = "dbo.telemetry"
batch = { max_rows = 102400, max_bytes = "32MiB", max_age = "1s" }
writers = { min = 1, max = 4 }
dead_letter = { stream = "DEAD_LETTERS", subject = "dead.telemetry" }
"#;

const SECOND_PIPELINE: &str = r#"
[[pipeline]]
name = "telemetry"
stream = "EVENTS"
durable = "sink-telemetry"
subjects = ["events.>"]
schema = "schemas/telemetry.toml"
table = "dbo.telemetry2"
dead_letter = { stream = "DEAD_LETTERS", subject = "dead.telemetry" }
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("db.example.net".to_owned()),
        "SQL_PASSWORD" | "CLIENT_SECRET" | "NATS_PASSWORD" | "NATS_TOKEN" => Some("canary".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml(text, Path::new("/etc/sink/sink.toml"), &environment)
}

/// [`VALID`] with `old` replaced.
fn changed(old: &str, new: &str) -> String {
    assert_eq!(VALID.matches(old).count(), 1, "{old:?} is there once");
    VALID.replace(old, new)
}

/// [`VALID`] with a line added behind the one that begins with `after`.
fn added(after: &str, line: &str) -> String {
    changed(after, &format!("{line}\n{after}"))
}

fn problems(text: &str) -> Vec<Problem> {
    match load(text) {
        Ok(_) => panic!("it is accepted:\n{text}"),
        Err(error) => error.problems,
    }
}

/// `text` has one problem, of `field`, whose description contains `part`.
fn assert_refused(text: &str, field: &str, part: &str) {
    let problems = problems(text);
    let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 1, "{shown:#?}");
    assert_eq!(problems[0].field, field, "{shown:#?}");
    assert!(shown[0].contains(part), "{part:?} is not in {shown:#?}");
    assert!(problems[0].position.is_some(), "it has no position: {shown:#?}");
}

#[test]
fn too_little_memory_is_refused_with_the_batches_that_do_not_fit() {
    let shown: Vec<_> =
        problems(&changed("\"256MiB\"", "\"15MiB\"")).iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:#?}");
    assert!(shown[0].starts_with("memory = \"15MiB\": must be from 16MiB to"), "{shown:#?}");
    assert!(shown[1].contains("hint: write \"3840KiB\", or `memory = \"128MiB\"`"), "{shown:#?}");
}

#[test]
fn what_is_not_written_has_its_default() {
    let config = load(VALID).expect("it is valid");
    assert_eq!(config.memory_bytes(), 256 << 20);
    assert_eq!(config.sql.commit_timeout, Duration::from_secs(60));
    assert_eq!(config.sql.encrypt, Encryption::Required);
    assert_eq!(config.nats.auth(), NatsAuth::None);
    let pipeline = &config.pipelines[0];
    assert_eq!(pipeline.delivery, DeliveryGuarantee::AtLeastOnce);
    assert_eq!(pipeline.write, WriteMode::Append);
    assert_eq!((pipeline.max_deliveries, pipeline.ack_wait), (10, Duration::from_secs(30)));
    assert!(!pipeline.create_table);
}

#[test]
fn paths_are_relative_to_the_file() {
    let config = load(&added("[sql]", "tls = { ca_file = \"/abs/ca.pem\" }")).expect("it is valid");
    assert_eq!(config.pipelines[0].schema, Path::new("/etc/sink/schemas/telemetry.toml"));
    assert_eq!(
        config.sql.auth.password_source(),
        Some(SecretSource::File(PathBuf::from("/etc/sink/sql.password")))
    );
    assert_eq!(config.nats.tls.ca_file.as_deref(), Some(Path::new("/abs/ca.pem")));
}

#[test]
fn variables_are_expanded_in_strings() {
    let config = load(&changed("\"127.0.0.1,1433\"", "\"tcp:${HOST},1444\"")).expect("it is valid");
    assert_eq!(config.sql.server.to_string(), "db.example.net,1444");
    let config = load(&changed("name = \"telemetry\"", "name = \"telemetry\"\nlease = \"${LEASE}\"")).err();
    let problem = &config.expect("LEASE is not set").problems[0];
    assert_eq!(problem.field, "pipeline[0].lease");
    assert!(problem.to_string().contains("the environment variable LEASE is not set"), "{problem}");
}

#[test]
fn numbers_out_of_their_range_are_refused() {
    for (old, new, field, part) in [
        ("\"256MiB\"", "\"5GiB\"", "memory", "= \"5GiB\": must be from 16MiB to"),
        ("\"256MiB\"", "\"4GiB\"", "memory", "= \"4GiB\": must be from 16MiB to 4294967295B"),
        ("\"25s\"", "\"0s\"", "shutdown_grace", "from 1s to 1h"),
        ("\"25s\"", "\"2h\"", "shutdown_grace", "from 1s to 1h"),
        ("\"2m\"", "\"0s\"", "retry_window", "from 1s to 1day"),
        ("packet_size = 16383", "packet_size = 511", "sql.packet_size", "from 512 to 32767"),
        ("packet_size = 16383", "packet_size = 32768", "sql.packet_size", "from 512 to 32767"),
        ("packet_size = 16383", "packet_size = 16384", "sql.packet_size", "at most 16383 where"),
        ("connect_timeout = \"15s\"", "connect_timeout = \"0s\"", "sql.connect_timeout", "from 1s"),
        ("connect_timeout", "command_timeout = \"0s\"\nconnect_timeout", "sql.command_timeout", "from 1s"),
        ("connect_timeout", "commit_timeout = \"0s\"\nconnect_timeout", "sql.commit_timeout", "from 1s"),
        ("max_rows = 102400", "max_rows = 0", "pipeline[0].batch.max_rows", "= 0: must be from 1 to 1048576"),
        ("max_rows = 102400", "max_rows = 1048577", "pipeline[0].batch.max_rows", "from 1 to 1048576"),
        ("\"32MiB\"", "\"0B\"", "pipeline[0].batch.max_bytes", "from 1B to 64MiB"),
        (
            "\"32MiB\"",
            "\"65MiB\"",
            "pipeline[0].batch.max_bytes",
            "hint: write \"64MiB\", or `memory = \"260MiB\"`",
        ),
        ("max_age = \"1s\"", "max_age = \"0s\"", "pipeline[0].batch.max_age", "from 1ms to 1h"),
        ("min = 1", "min = 0", "pipeline[0].writers.min", "at least 1"),
        ("min = 1", "min = 5", "pipeline[0].writers.max", "at least `min`, 5"),
        ("max = 4", "max = 5", "pipeline[0].writers.max", "`sql.max_connections`, 4"),
        ("name =", "max_deliveries = 0\nname =", "pipeline[0].max_deliveries", "at least 1"),
        ("name =", "ack_wait = \"999ms\"\nname =", "pipeline[0].ack_wait", "from 1s to 1h"),
    ] {
        assert_refused(&changed(old, new), field, part);
    }
}

#[test]
fn values_of_a_wrong_form_are_refused() {
    for (old, new, field, part) in [
        ("\"256MiB\"", "\"256 apples\"", "memory", "= \"256 apples\""),
        ("\"25s\"", "25", "shutdown_grace", "= 25: must be a duration such as"),
        ("\"25s\"", "\"25 apples\"", "shutdown_grace", "= \"25 apples\": must be a duration such as"),
        ("max_rows = 102400", "max_rows = -1", "pipeline[0].batch.max_rows", "= -1: must be a whole number"),
        (
            "max_rows = 102400",
            "max_rows = \"1\"",
            "pipeline[0].batch.max_rows",
            "= \"1\": must be a whole number",
        ),
        ("\"127.0.0.1:9464\"", "\"9464\"", "http.listen", "= \"9464\""),
        ("\"dbo.telemetry\"", "\"a.b.c\"", "pipeline[0].table", "= \"a.b.c\": a name of 3 parts"),
        ("\"dbo.telemetry\"", "\"#t\"", "pipeline[0].table", "temporary"),
        ("\"127.0.0.1,1433\"", "\"h\\\\SQLEXPRESS\"", "sql.server", "named instances are not supported"),
        ("\"127.0.0.1,1433\"", "\"h:1433\"", "sql.server", "after a comma"),
        ("\"required\"", "\"requird\"", "sql.encrypt", "hint: did you mean \"required\"?"),
        ("\"info\"", "\"info\"\nformat = \"xml\"", "log.format", "must be one of text, json"),
        ("filter = \"info\"", "filter = \"x=loud\"", "log.filter", "must be a level"),
        ("[\"events.>\"]", "\"events.>\"", "pipeline[0].subjects", "must be an array"),
    ] {
        assert_refused(&changed(old, new), field, part);
    }
}

#[test]
fn names_that_nats_does_not_take_are_refused() {
    for (old, new, field, part) in [
        ("name = \"telemetry\"", "name = \"\"", "pipeline[0].name", "1 to 64"),
        ("name = \"telemetry\"", "name = \"a b\"", "pipeline[0].name", "= \"a b\": must be 1 to 64"),
        ("\"EVENTS\"", "\"EVENTS.EU\"", "pipeline[0].stream", "= \"EVENTS.EU\": must not have blanks"),
        ("\"sink-telemetry\"", "\"a*\"", "pipeline[0].durable", "= \"a*\": must not have blanks"),
        ("[\"events.>\"]", "[]", "pipeline[0].subjects", "hint: write `subjects = [\">\"]`"),
        ("[\"events.>\"]", "[\"events.>.x\"]", "pipeline[0].subjects[0]", "only as its last token"),
        ("[\"events.>\"]", "[\"a.*\", \"a.b\"]", "pipeline[0].subjects[1]", "must not overlap with \"a.*\""),
        ("\"DEAD_LETTERS\"", "\"\"", "pipeline[0].dead_letter.stream", "must not be empty"),
        ("\"dead.telemetry\"", "\"dead.*\"", "pipeline[0].dead_letter.subject", "must not have wildcards"),
        ("\"schemas/telemetry.toml\"", "\"\"", "pipeline[0].schema", "must name a file"),
        ("database = \"sinkdb\"", "database = \"\"", "sql.database", "empty"),
        ("user = \"sink\"", "user = \"\"", "sql.auth.user", "must name the login"),
    ] {
        assert_refused(&changed(old, new), field, part);
    }
}

#[test]
fn a_pipeline_does_not_receive_its_own_dead_letters() {
    for subject in ["events.dead", "events"] {
        // GIVEN dead letters in the stream that is read, on subjects below `subject`
        let text = changed(
            "stream = \"DEAD_LETTERS\", subject = \"dead.telemetry\"",
            &format!("stream = \"EVENTS\", subject = \"{subject}\""),
        );
        // THEN they are refused where the pipeline would receive them
        assert_refused(
            &text,
            "pipeline[0].dead_letter.subject",
            "must not be received by the pipeline itself",
        );
    }
    let text = changed("\"DEAD_LETTERS\"", "\"EVENTS\"");
    assert!(load(&text).is_ok(), "other subjects of the same stream are fine");
}

#[test]
fn what_excludes_each_other_is_refused() {
    for (text, field, part) in [
        (added("[sql]", "user = \"u\""), "nats.user", "needs a password"),
        (added("[sql]", "password_file = \"p\""), "nats.password_file", "needs `user`"),
        (added("[sql]", "tls = { cert_file = \"c\" }"), "nats.tls.cert_file", "needs `key_file`"),
        (added("[sql]", "tls = { key_file = \"c\" }"), "nats.tls.key_file", "needs `cert_file`"),
        (
            added("[sql]", "credentials_file = \"c\"\ntoken_file = \"t\""),
            "nats",
            "only one way of authentication may be given, not credentials_file and token",
        ),
        (
            added("[sql]", "token_file = \"t\"\ntoken = \"${NATS_TOKEN}\""),
            "nats.token",
            "and `token_file` exclude each other",
        ),
        (
            changed("password_file =", "password = \"${SQL_PASSWORD}\", password_file ="),
            "sql.auth.password",
            "and `password_file` exclude each other",
        ),
        (
            added("database", "trust_server_certificate = true\nca_file = \"ca\""),
            "sql.trust_server_certificate",
            "and `ca_file` exclude each other",
        ),
        (
            changed("127.0.0.1,1433\"\ndatabase", "db,1433\"\ndatabase").replace("\"required\"", "\"off\""),
            "sql.encrypt",
            "loopback",
        ),
    ] {
        assert_refused(&text, field, part);
    }
    let text = changed("\"required\"", "\"off\"").replace("16383", "32767");
    assert!(load(&text).is_ok(), "without encryption, to this machine, packets may be larger");
}

#[test]
fn servers_of_nats_are_checked() {
    for (server, part) in [
        ("http://h:80", "must begin with"),
        ("nats://", "must name a host"),
        ("nats://h:port", "must be `nats://host:port`"),
        ("nats://h:4222/x", "must end after host and port"),
        ("ws://h:80", "must begin with"),
    ] {
        let text = changed("nats://127.0.0.1:4222", server);
        assert_refused(&text, "nats.servers[0]", part);
    }
    for server in ["h", "h:4222", "nats://h", "tls://h:4222", "nats://[::1]:4222"] {
        assert!(load(&changed("nats://127.0.0.1:4222", server)).is_ok(), "{server}");
    }
    assert_refused(&changed("[\"nats://127.0.0.1:4222\"]", "[]"), "nats.servers", "at least one");
}

#[test]
fn pipelines_differ_in_name_and_consumer() {
    let fields = |text: &str| problems(text).into_iter().map(|problem| problem.field).collect::<Vec<_>>();
    let both = format!("{VALID}{SECOND_PIPELINE}");
    assert_eq!(fields(&both), ["pipeline[1].name", "pipeline[1].durable"]);
    let other = SECOND_PIPELINE.replace("name = \"telemetry\"", "name = \"two\"").replace("sink-", "other-");
    assert!(load(&format!("{VALID}{other}")).is_ok());
    // each is sure of a connection
    let few = VALID.replace("max_connections = 4", "max_connections = 1").replace("max = 4", "max = 1");
    assert!(load(&few).is_ok());
    let other = other.replace("dead_letter", "writers = { max = 1 }\ndead_letter");
    assert_eq!(fields(&format!("{few}{other}")), ["sql.max_connections"]);
    let none = &VALID[..VALID.find("[[pipeline]]").expect("it is there")];
    assert_eq!(problems(none)[0].field, "pipeline");
}

#[test]
fn missing_fields_are_named() {
    for (old, new, field) in [
        ("database = \"sinkdb\"", "", "sql.database"),
        ("server = \"127.0.0.1,1433\"", "", "sql.server"),
        ("method = \"sql_login\", ", "", "sql.auth.method"),
        ("name = \"telemetry\"", "", "pipeline[0].name"),
        ("table = \"dbo.telemetry\"", "", "pipeline[0].table"),
        ("stream = \"DEAD_LETTERS\", ", "", "pipeline[0].dead_letter.stream"),
    ] {
        assert_refused(&changed(old, new), field, "is missing");
    }
    assert_refused(
        &changed(", password_file = \"sql.password\"", ""),
        "sql.auth.password_file",
        "is missing",
    );
}

#[test]
fn unknown_fields_are_refused_with_a_suggestion() {
    for (old, new, field, part) in [
        ("memory =", "memori =", "memori", "did you mean `memory`?"),
        ("max_rows =", "max_row =", "pipeline[0].batch.max_row", "did you mean `max_rows`?"),
        ("user = \"sink\"", "usr = \"sink\"", "sql.auth.usr", "did you mean `user`?"),
        ("listen =", "xyzzy =", "http.xyzzy", "the fields here are"),
        ("[http]", "[htpp]", "htpp", "did you mean `http`?"),
        ("[[pipeline]]", "[[pipelines]]", "pipelines", "did you mean `pipeline`?"),
    ] {
        assert_refused(&changed(old, new), field, part);
    }
}

#[test]
fn all_problems_are_told_at_once_and_in_the_words_of_the_file() {
    let text = changed("max_rows = 102400", "max_rows = 0")
        .replace("\"25s\"", "\"0s\"")
        .replace("max = 4 }", "max = 9 }")
        .replace("\"32MiB\"", "\"1GiB\"");
    assert_snapshot!(load(&text).expect_err("it is wrong"), @r#"
    the configuration /etc/sink/sink.toml has 4 problems
      shutdown_grace = "0s": must be from 1s to 1h (line 3, column 1)
      pipeline[0].batch.max_rows = 0: must be from 1 to 1048576 (line 31, column 11)
      pipeline[0].batch.max_bytes = "1GiB": must be from 1B to 64MiB, a quarter of `memory`, so that one batch can fill while others are decoded and written (line 31, column 25)
        hint: write "64MiB"
      pipeline[0].writers.max = 9: must be at most `sql.max_connections`, 4 (line 32, column 22)
    "#);
}

#[test]
fn one_problem_is_told_with_its_place_and_a_hint() {
    let shown = |text: &str| load(text).expect_err("it is wrong");
    assert_snapshot!(shown(&changed("max_rows =", "max_row =")), @"
    the configuration /etc/sink/sink.toml has a problem
      pipeline[0].batch.max_row: there is no such field (line 31, column 11)
        hint: did you mean `max_rows`?
    ");
    assert_snapshot!(shown(&changed("\"127.0.0.1,1433\"", "\"${DB_HOST}\"")), @r#"
    the configuration /etc/sink/sink.toml has a problem
      sql.server = "${DB_HOST}": the environment variable DB_HOST is not set, or not UTF-8 (line 10, column 1)
    "#);
    assert_snapshot!(shown("memory = 256MiB"), @"
    the configuration /etc/sink/sink.toml has a problem
      not TOML: string values must be quoted, expected literal string (line 1, column 10)
    ");
    assert_snapshot!(shown(&changed("password_file = \"sql.password\"", "password = \"canary\"")), @r#"
    the configuration /etc/sink/sink.toml has a problem
      sql.auth.password: a secret comes from a file or from the environment: must be `"${VARIABLE}"` and nothing else (line 16, column 58)
    "#);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/does/not/exist.toml")).expect_err("it is not there");
    assert!(
        matches!(&error.kind, ConfigErrorKind::Read(cause) if cause.kind() == std::io::ErrorKind::NotFound)
    );
    assert!(error.to_string().starts_with("cannot read the configuration /does/not/exist.toml: "), "{error}");
}

#[test]
fn no_secret_is_shown_whatever_is_wrong() {
    let sql_auth = "method = \"sql_login\", user = \"sink\", password_file = \"sql.password\"";
    let sql = |auth: &str| changed(sql_auth, auth);
    let nats = |lines: &str| added("[sql]", lines);
    for text in [
        sql("method = \"sql_login\", user = \"sink\", password = \"canary\""),
        sql("method = \"sql_login\", user = \"sink\", password = \"canary ${SQL_PASSWORD}\""),
        sql("method = \"sql_login\", user = \"sink\", password = \"canary${UNSET}\""),
        sql("method = \"sql_login\", user = \"sink\", password = \"canary${\""),
        sql("method = \"sql_login\", user = \"sink\", password = [\"canary\"]"),
        sql("method = \"sql_login\", user = \"sink\", password = { canary = \"canary\" }"),
        sql("method = \"sql_login\", user = \"sink\", password = canary"),
        sql("method = \"sql_login\", user = \"sink\", pasword = \"canary\""),
        sql("method = \"client_secret\", tenant_id = \"t\", client_id = \"c\", client_secret = \"canary\""),
        sql(
            "method = \"client_secret\", tenant_id = \"t\", client_id = \"c\", client_secret = \"canary${UNSET}\"",
        ),
        sql("method = \"client_secret\", authority = \"https://u:canary@h\""),
        sql("method = \"sql_logn\", password = \"${SQL_PASSWORD}\""),
        changed(&format!("{{ {sql_auth} }}"), "\"sink:canary\""),
        nats("user = \"u\"\npassword = \"canary\""),
        nats("token = \"canary\""),
        nats("token = \"canary\nx\""),
        changed("nats://127.0.0.1:4222", "nats://u:canary@h:4222"),
        changed("nats://127.0.0.1:4222", "ws://canary@h"),
        changed("nats://127.0.0.1:4222", "nats://u:${NATS_PASSWORD}@h:4222"),
        changed("[\"nats://127.0.0.1:4222\"]", "\"nats://u:canary@h:4222\""),
        changed("[\"nats://127.0.0.1:4222\"]", "\"nats://u:canary@h${UNSET}\""),
        changed("[\"nats://127.0.0.1:4222\"]", "{ url = \"nats://u:canary@h\" }"),
        changed("nats://127.0.0.1:4222", "nats://u:canary@h${UNSET}"),
        changed("nats://127.0.0.1:4222", "nats://u:canary\\u0040h${UNSET}"),
        changed("servers = [", "\"nats://u:canary@h\" = ["),
        changed("servers = [\"nats://127.0.0.1:4222\"]", "nats://u:canary@h"),
        changed("\"127.0.0.1,1433\"", "\"Server=tcp:x,1433;User=u;Password=canary\""),
        changed("\"127.0.0.1,1433\"", "\"Server=tcp:x;User=u; pwd = canary\""),
        changed("\"127.0.0.1,1433\"", "\"x;Password=canary${UNSET}\""),
        changed("\"sinkdb\"", &format!("\"Password=canary{}\"", "x".repeat(128))),
        changed("\"dbo.telemetry\"", "\"a.b.canary@c\""),
        changed("[\"events.>\"]", "[\"a.*\", \"a.token=canary\"]"),
        changed("[\"events.>\"]", "[\"a.secret=canary\", \"a.*\"]"),
        changed("\"256MiB\"", "\"1 password=canary\""),
        changed("\"25s\"", "\"1s password=canary\""),
        changed("\"127.0.0.1:9464\"", "\"u:canary@h:1\""),
        changed("\"required\"", "\"required;Password=canary\""),
        changed("filter = \"info\"", "filter = \"password=canary\""),
        changed("name = \"telemetry\"", "name = \"canary@h\""),
    ] {
        let error = load(&text).expect_err(&text);
        assert!(!error.to_string().replace("{ canary", "").contains("canary"), "{error}");
    }
}

#[test]
fn a_value_that_is_not_shown_is_still_told_of() {
    let text = changed("[\"nats://127.0.0.1:4222\"]", "\"nats://u:canary@h:4222\"");
    let part = "= [not shown: it may hold a secret]: must be an array";
    assert_refused(&text, "nats.servers", part);
    let text = changed("[\"events.>\"]", "[\"a.secret=canary\", \"a.*\"]");
    let part = "must not overlap with [not shown: it may hold a secret]: JetStream refuses it";
    assert_refused(&text, "pipeline[0].subjects[1]", part);
}

#[test]
fn a_configuration_does_not_show_what_it_does_not_hold() {
    // GIVEN secrets in the environment
    let text = changed("password_file = \"sql.password\"", "password = \"${SQL_PASSWORD}\"");
    let text = text.replace("[sql]", "user = \"u\"\npassword = \"${NATS_PASSWORD}\"\n[sql]");
    let config = load(&text).expect("it is valid");
    // THEN the configuration knows only where they are
    let variable = |name: &str| SecretSource::Environment(name.to_owned());
    assert_eq!(config.sql.auth.password_source(), Some(variable("SQL_PASSWORD")));
    assert_eq!(config.nats.auth(), NatsAuth::UserPassword { user: "u", password: variable("NATS_PASSWORD") });
    assert!(!format!("{config:?}").contains("canary"));
}
