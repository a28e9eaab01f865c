//! What was measured, for people and for programs.

use std::sync::Arc;
use std::time::Duration;

use crate::Server;
use crate::clients::Client;

/// One way of sending rows, and what its rounds gave.
pub(crate) struct Case {
    pub(crate) server: Arc<Server>,
    pub(crate) client: Client,
    pub(crate) connections: usize,
    packet_bytes: u32,
    is_encrypted: bool,
    rounds: Vec<Round>,
}

struct Round {
    rows: u64,
    rate: f64,
    /// Seconds of processor time for a million rows.
    server: f64,
    client: f64,
}

impl Case {
    pub(crate) fn new(
        server: &Arc<Server>,
        client: Client,
        connections: usize,
        packet_bytes: u32,
        is_encrypted: bool,
    ) -> Self {
        let server = Arc::clone(server);
        Self { server, client, connections, packet_bytes, is_encrypted, rounds: Vec::new() }
    }

    pub(crate) fn add(&mut self, rows: u64, elapsed: Duration, server: Duration, client: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
        let count = rows as f64;
        let millions = count / 1e6;
        self.rounds.push(Round {
            rows,
            rate: count / elapsed.as_secs_f64(),
            server: server.as_secs_f64() / millions,
            client: client.as_secs_f64() / millions,
        });
    }

    fn client_name(&self) -> &'static str {
        match self.client {
            Client::Replay(_) => "replayed bulk load",
            Client::Sink(_) => "sink's writer",
            Client::Insert(_) => "INSERT, parameters",
        }
    }

    /// Least, median, greatest.
    fn spread(&self, of: impl Fn(&Round) -> f64) -> [f64; 3] {
        let mut values: Vec<f64> = self.rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        [values[0], values[values.len() / 2], values[values.len() - 1]]
    }
}

/// Prints all cases.
pub(crate) fn print(cases: &[Case], json: bool, rounds: usize, load_before: &str, load_after: &str) {
    if json {
        let cases: Vec<_> = cases.iter().map(as_json).collect();
        let report = serde_json::json!({
            "cases": cases, "rounds": rounds, "columns": 10,
            "load_average": { "before": load_before, "after": load_after },
        });
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
        return;
    }
    println!(
        "{:<19} {:<11} {:>5} {:>7} {:<4} {:>10} {:>22}  {:>7} {:>7}",
        "client", "storage", "conns", "packet", "TLS", "rows/s", "(least, greatest)", "server", "client"
    );
    for case in cases {
        let [least, median, greatest] = case.spread(|round| round.rate);
        println!(
            "{:<19} {:<11} {:>5} {:>7} {:<4} {median:>10.0} {:>22}  {:>7.2} {:>7.2}",
            case.client_name(),
            case.server.name,
            case.connections,
            case.packet_bytes,
            if case.is_encrypted { "on" } else { "off" },
            format!("({least:.0}, {greatest:.0})"),
            case.spread(|round| round.server)[1],
            case.spread(|round| round.client)[1],
        );
    }
    println!(
        "\nrows of 10 columns; medians of {rounds} rounds; server and client: seconds of processor time of this \
         process' threads for a million rows, PostgreSQL's own not included; load average {load_before} before, \
         {load_after} after"
    );
}

fn as_json(case: &Case) -> serde_json::Value {
    let [least, median, greatest] = case.spread(|round| round.rate);
    serde_json::json!({
        "client": case.client_name(),
        "storage": case.server.name,
        "connections": case.connections,
        "packet_bytes": case.packet_bytes,
        "tls": case.is_encrypted,
        "rows_a_round": case.rounds[0].rows,
        "rows_per_second": { "median": median, "least": least, "greatest": greatest },
        "processor_seconds_per_million_rows": {
            "server": case.spread(|round| round.server)[1],
            "client": case.spread(|round| round.client)[1],
        },
    })
}
