//! The stand-in for SQL Server, judged by the Python clients that others wrote. `make test-clients` asks the Node
//! client too, and prints the whole matrix.

#![allow(
    clippy::unwrap_used,
    dead_code,
    reason = "what tests share says what it expects by panicking, and not all share all of it"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::{Gateway, SqlServer, SqlServerOptions, Storage, TokenOptions};
use local_stack::tools::TOOLS_VARIABLE;

#[path = "support/issuer.rs"]
mod issuer;

use issuer::{AUDIENCE, Issuer, at, key_file};

/// Where `make test` installs the clients.
fn installed_clients() -> PathBuf {
    let tools = std::env::var_os(TOOLS_VARIABLE).filter(|folder| !folder.is_empty());
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let clients = tools.map_or_else(|| project.join(".tools"), PathBuf::from).join("clients");
    assert!(
        clients.join("pytds").is_dir(),
        "the Python clients of SQL Server are not installed in {}: run `make clients`, or `make test`, which does it",
        clients.display()
    );
    clients
}

#[tokio::test]
async fn python_clients_find_nothing_wrong() {
    let clients = installed_clients();
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let options = SqlServerOptions::new(Storage::Postgres(postgres.config()));
    let (login, database) = (options.logins[0].clone(), options.database.clone());
    let server = SqlServer::start(options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let server_file = folder.path().join("server.json");
    let address = serde_json::json!({
        "port": server.address().port(),
        "user": login.user,
        "password": login.password,
        "database": database,
        "ca_file": ca_file,
    });
    std::fs::write(&server_file, address.to_string()).unwrap();
    let output = tokio::process::Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/matrix.py"))
        .arg("--server")
        .arg(&server_file)
        .args(["mssql-python", "pymssql", "python-tds"])
        .env("PYTHONPATH", &clients)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let matrix = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{matrix}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Logs in with the token of the environment, by Microsoft's ODBC driver, at each port; prints who it is.
const LOG_IN_BY_TOKEN: &str = r#"
import os, struct, mssql_python
ACCESS_TOKEN = 1256  # SQL_COPT_SS_ACCESS_TOKEN
token = os.environ["TOKEN"].encode("utf-16-le")
for port in os.environ["PORTS"].split():
    at = f"Server=localhost,{port};Database=sinkdb;Encrypt=yes;TrustServerCertificate=no"
    try:
        connection = mssql_python.connect(at, attrs_before={ACCESS_TOKEN: struct.pack("=i", len(token)) + token})
        print(*connection.cursor().execute("SELECT USER_NAME(), SUSER_SNAME()").fetchone())
    except mssql_python.Error as error:
        print(str(error).split("]")[-1])
"#;

#[tokio::test]
async fn microsofts_driver_logs_in_by_token_and_follows_a_redirect() {
    // GIVEN a server that takes tokens, and a gateway before it
    let clients = installed_clients();
    let issuer = Issuer::rsa("k");
    let keys = key_file(&[&issuer]);
    let postgres = Postgres::start(PostgresOptions::default()).await.unwrap();
    let server = SqlServer::start(SqlServerOptions {
        tokens: Some(TokenOptions {
            admin: Some("ann@example.com".into()),
            ..TokenOptions::new(keys.path())
        }),
        gateway: Some(Gateway::default()),
        ..SqlServerOptions::new(Storage::Postgres(postgres.config()))
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem()).unwrap();
    let ports = format!("{} {}", server.address().port(), server.gateway_address().unwrap().port());
    let claims =
        |user: &str, seconds: i64| serde_json::json!({"aud": AUDIENCE, "exp": at(seconds), "upn": user});
    let refused = "Login failed for user '<token-identified principal>'.";
    for (claims, answer) in [
        (claims("ann@example.com", 600), "dbo ann@example.com".to_owned()),
        (claims("nobody@example.com", 600), refused.to_owned()),
        (claims("ann@example.com", -1), format!("{refused} Token is expired.")),
    ] {
        // WHEN the driver logs in with a token, at the one and at the other
        let output = tokio::process::Command::new("python3")
            .args(["-c", LOG_IN_BY_TOKEN])
            .env("PYTHONPATH", &clients)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SSL_CERT_FILE", &ca_file)
            .env("TOKEN", issuer.sign(&claims))
            .env("PORTS", &ports)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        // THEN both answer as the token deserves
        let told = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines, [answer.as_str(); 2], "{}", String::from_utf8_lossy(&output.stderr));
    }
}
