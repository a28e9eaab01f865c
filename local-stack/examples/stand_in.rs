//! The stand-in for SQL Server alone, for clients that are no tests of Rust's: it says on one line of standard
//! output, in JSON, where it is and who may log in, and serves until its standard input ends. With `--discard` it keeps
//! no rows.

use std::error::Error;
use std::io::{Read as _, Write as _};

use local_stack::postgres::{Postgres, PostgresOptions};
use local_stack::sql_server::{SqlServer, SqlServerOptions, Storage};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let postgres = Postgres::start(PostgresOptions::default()).await?;
    let is_discarding = std::env::args().skip(1).any(|argument| argument == "--discard");
    let storage = if is_discarding { Storage::Discard } else { Storage::Postgres };
    let options = SqlServerOptions::new(storage(postgres.config()));
    let Some(login) = options.logins.first().cloned() else { return Err("no login".into()) };
    let database = options.database.clone();
    let server = SqlServer::start(options).await?;
    let folder = tempfile::tempdir()?;
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, server.ca_pem())?;
    let started = serde_json::json!({
        "port": server.address().port(),
        "user": login.user,
        "password": login.password,
        "database": database,
        "ca_file": ca_file,
    });
    let mut output = std::io::stdout();
    writeln!(output, "{started}")?;
    output.flush()?;
    // whoever started it has gone when this ends, however it went
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    server.stop().await;
    Ok(())
}
