//! A worker's configuration: the four modes side by side, as four pipelines.

use std::fmt::Write as _;

use super::sql::DATABASE;
use super::{Lane, Stand};

/// The text of a configuration that listens on this port.
pub(super) fn text(stand: &Stand, http: u16) -> String {
    let servers = match &stand.nats_proxy {
        Some(proxy) => vec![format!("nats://{}", proxy.address())],
        None => stand.nats.urls(),
    };
    let servers: Vec<String> = servers.iter().map(|url| format!("\"{url}\"")).collect();
    let mut text = format!(
        r#"shutdown_grace = "5s"
retry_window = "10s"
memory = "256MiB"

[nats]
servers = [{servers}]

[sql]
server = "127.0.0.1,{port}"
database = "{DATABASE}"
ca_file = "{ca}"
max_connections = 12
connect_timeout = "5s"
auth = {{ method = "sql_login", user = "{user}", password_file = "sql.password" }}

[http]
listen = "127.0.0.1:{http}"
"#,
        servers = servers.join(", "),
        port = stand.sql_proxy.address().port(),
        ca = stand.sql.ca_file().display(),
        user = stand.worker_login.0,
    );
    for lane in &stand.lanes {
        text.push_str(&pipeline(stand, lane));
    }
    text
}

fn pipeline(stand: &Stand, lane: &Lane) -> String {
    let (mode, options) = (lane.mode, &stand.options);
    let mut text = format!(
        r#"
[[pipeline]]
name = "{name}"
stream = "{stream}"
subjects = ["{name}.>"]
schema = "schema.toml"
table = "{table}"
ack_wait = "{ack_wait}s"
max_deliveries = 3
batch = {{ max_rows = {max_rows}, max_bytes = "8MiB", max_age = "{max_age}" }}
writers = {{ min = 1, max = 2 }}
dead_letter = {{ stream = "{dead}", subject = "dead.{name}" }}
"#,
        name = mode.name,
        stream = mode.stream(),
        table = mode.table(),
        ack_wait = options.ack_wait_seconds,
        max_rows = options.max_rows,
        max_age = options.max_age,
        dead = stand.dead_letter_stream(mode),
    );
    let _ = write!(text, "{}{}", mode.pipeline.trim_start(), options.pipeline);
    text
}
