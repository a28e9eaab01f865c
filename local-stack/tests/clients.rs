//! The stand-in for SQL Server, judged by the Python clients that others wrote. `make test-clients` asks the Node
//! client too, and prints the whole matrix.

#![allow(clippy::unwrap_used, reason = "what tests share says what it expects by panicking, as tests do")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};
use local_stack::tools::TOOLS_VARIABLE;

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
