//! Secrets and rows, looked for in everything that a worker says.
//!
//! The log of each worker of each test is searched, and of those that are told to stop the metrics and the pages too; with
//! [`EVERYTHING`] set (`make test-canaries`) all that its crates can say is logged.

use std::path::Path;

use crate::numbers::ROW_CANARY;

/// The environment variable that makes the workers log all they can.
pub const EVERYTHING: &str = "NATS_SQL_SINK_TEST_CANARIES";
/// A filter that quiets nobody.
pub const LOUDEST: &str = "trace,async_nats=trace,hyper=trace,hyper_util=trace,tiberius=trace";
/// A secret is looked for line by line, and shorter lines could be anything.
const SHORTEST: usize = 8;
/// Files that the configuration names, and that hold no secret.
const PUBLIC: [&str; 2] = ["ca_file", "cert_file"];

/// The secrets of a configuration, from the files that it names, line by line.
pub fn of(config: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(config).expect("the configuration");
    let folder = config.parent().unwrap_or(Path::new("."));
    let mut found = Vec::new();
    let words = text.split([',', '{', '}', '\n']).filter_map(|field| field.split_once('='));
    for (name, value) in words.map(|(name, value)| (name.trim(), value.trim())) {
        if !name.ends_with("_file") || PUBLIC.contains(&name) {
            continue;
        }
        // some tests put the file there later, or never
        let secret = match std::fs::read(folder.join(value.trim_matches('"'))) {
            Ok(secret) => String::from_utf8_lossy(&secret).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{name}: {error}"),
        };
        let lines = secret.lines().map(str::trim);
        found.extend(
            lines.filter(|line| line.len() >= SHORTEST && !line.starts_with("--")).map(str::to_owned),
        );
    }
    found
}

/// The lines of a text that hold one of these secrets, or a row.
pub fn found<'a>(secrets: &[String], text: &'a str) -> Vec<&'a str> {
    let is_told = |line: &&str| {
        line.contains(ROW_CANARY) || secrets.iter().any(|secret| line.contains(secret.as_str()))
    };
    text.lines().filter(is_told).collect()
}

/// GIVEN a configuration with secrets in files
/// WHEN a worker were to say one of them, or a row
/// THEN the search finds it, and nothing else.
#[test]
fn a_canary_that_is_said_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("sql.password", "Canary-of-the-login\n");
    write(
        "user.creds",
        "-----BEGIN NATS USER JWT-----\nCanary.of.the.jwt\n------END NATS USER JWT------\nshort\n",
    );
    write("ca.pem", "not a secret\n");
    write(
        "sink.toml",
        "[nats]\ncredentials_file = \"user.creds\"\n[sql]\nca_file = \"ca.pem\"\n\
         auth = { method = \"sql_login\", user = \"sink\", password_file = \"sql.password\" }\n",
    );
    let secrets = of(&folder.path().join("sink.toml"));
    assert_eq!(secrets, ["Canary.of.the.jwt", "Canary-of-the-login"]);
    for said in [
        "INFO logging in with Canary-of-the-login".to_owned(),
        "TRACE connect {\"jwt\":\"Canary.of.the.jwt\"}".to_owned(),
        format!("DEBUG event {{\"name\":\"{ROW_CANARY} 17\"}}"),
    ] {
        let log = format!("INFO starting, not a secret, short\n{said}\nINFO stopped\n");
        assert_eq!(found(&secrets, &log), [said.as_str()]);
    }
    assert_eq!(found(&secrets, "INFO starting\nINFO stopped\n"), Vec::<&str>::new());
}
