//! A worker's configuration.

use std::fmt::Write as _;
use std::path::Path;

use test_bench::sql_client::SqlAccess;

use super::{DEAD_STREAM, DEAD_SUBJECT, STREAM, TABLE};
use crate::events::SUBJECT;
use crate::scenario::{Delivery, Scenario};

/// What a configuration is made from.
pub(super) struct Wiring<'a> {
    pub(super) nats_url: &'a str,
    pub(super) sql: &'a SqlAccess,
    /// The SQL server's port, or that of a proxy before it.
    pub(super) sql_port: u16,
    pub(super) password_file: &'a Path,
    pub(super) http: u16,
    pub(super) pipeline: &'a str,
    pub(super) scenario: &'a Scenario,
}

/// Its text.
pub(super) fn text(wiring: &Wiring<'_>) -> String {
    let Wiring { nats_url, sql, sql_port, password_file, http, pipeline, scenario } = wiring;
    let sink = &scenario.sink;
    // a proxy is on this machine
    let host = if *sql_port == sql.port { sql.host.as_str() } else { "127.0.0.1" };
    let trust = match &sql.ca_file {
        _ if sql.trust_server_certificate => "trust_server_certificate = true".to_owned(),
        Some(file) => format!("ca_file = {}", quoted(&file.display().to_string())),
        None => String::new(),
    };
    let mut text = format!(
        r#"memory = {memory}

[nats]
servers = [{nats}]

[sql]
server = {server}
database = {database}
{trust}
max_connections = {connections}
auth = {{ method = "sql_login", user = {user}, password_file = {password_file} }}

[http]
listen = "127.0.0.1:{http}"

[[pipeline]]
name = "{pipeline}"
stream = "{STREAM}"
subjects = {subjects}
schema = "schema.toml"
table = "{TABLE}"
create_table = true
ack_wait = {ack_wait}
batch = {{ {max_rows}{max_bytes}max_age = {max_age} }}
writers = {{ min = {min}, max = {max} }}
dead_letter = {{ stream = "{DEAD_STREAM}", subject = "{DEAD_SUBJECT}" }}
"#,
        memory = quoted(&sink.memory),
        subjects = subjects(sink.delivery),
        nats = quoted(nats_url),
        server = quoted(&format!("{host},{sql_port}")),
        database = quoted(&sql.database),
        connections = sink.writers.max.max(4),
        user = quoted(&sql.user),
        password_file = quoted(&password_file.display().to_string()),
        ack_wait = quoted(&sink.ack_wait),
        max_rows = sink.max_rows.map_or_else(String::new, |rows| format!("max_rows = {rows}, ")),
        max_bytes = (sink.max_bytes.as_ref())
            .map_or_else(String::new, |bytes| format!("max_bytes = {}, ", quoted(bytes))),
        max_age = quoted(&sink.max_age),
        min = sink.writers.min,
        max = sink.writers.max,
    );
    text.push_str(&scenario.events.shape.write_fields(sink.write));
    // writing to a text cannot fail
    let _ = match sink.delivery {
        Delivery::AtLeastOnce => writeln!(text, "durable = \"{pipeline}\""),
        Delivery::ExactlyOnce => {
            writeln!(text, "delivery = \"exactly_once\"\npartitions = {}", partitions(sink.partitions))
        }
    };
    text
}

/// The filters; those of partitions have to take exactly what the pipeline does.
fn subjects(delivery: Delivery) -> String {
    match delivery {
        Delivery::AtLeastOnce => format!("[\"{SUBJECT}.>\"]"),
        Delivery::ExactlyOnce => filters(0..crate::scenario::PARTITIONS),
    }
}

fn filters(numbers: impl Iterator<Item = u64>) -> String {
    let filters = numbers.map(|number| format!("\"{SUBJECT}.{number}.>\""));
    format!("[{}]", filters.collect::<Vec<_>>().join(", "))
}

/// So many lists of filters, which together take all four of the numbers that subjects have.
fn partitions(count: u64) -> String {
    let numbers_of =
        |partition| (0..crate::scenario::PARTITIONS).filter(move |number| number % count == partition);
    let lists: Vec<String> = (0..count).map(|partition| filters(numbers_of(partition))).collect();
    format!("{{ subjects = [{}] }}", lists.join(", "))
}

/// A text of TOML; JSON's quoted strings are such.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Plan, names};

    fn access(ca_file: Option<&str>) -> SqlAccess {
        SqlAccess {
            host: "127.0.0.1".into(),
            port: 1433,
            database: "sinkdb".into(),
            user: "sink".into(),
            password: "unused".into(),
            ca_file: ca_file.map(Into::into),
            trust_server_certificate: false,
        }
    }

    #[test]
    fn the_sink_takes_the_configuration_of_every_shipped_scenario() {
        let folder = tempfile::tempdir().unwrap();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, "secret").unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, "").unwrap();
        for name in names() {
            for (title, scenario) in Plan::load(name).unwrap().variants {
                let text = text(&Wiring {
                    nats_url: "nats://127.0.0.1:4222",
                    sql: &access(ca_file.to_str()),
                    sql_port: 1433,
                    password_file: &password_file,
                    http: 9464,
                    pipeline: "load-test-1",
                    scenario: &scenario,
                });
                std::fs::write(folder.path().join("schema.toml"), scenario.events.shape.schema()).unwrap();
                let file = folder.path().join("worker.toml");
                std::fs::write(&file, &text).unwrap();
                let loaded = nats_sql_sink::config::Config::load(&file);
                assert!(loaded.is_ok(), "{name} {title:?}: {}\n{text}", loaded.unwrap_err());
            }
        }
    }

    #[test]
    fn partitions_together_read_all_numbers() {
        for count in 1..=4 {
            let text = partitions(count);
            for number in 0..4 {
                assert_eq!(text.matches(&format!("{SUBJECT}.{number}.>")).count(), 1, "{text}");
            }
        }
    }
}
