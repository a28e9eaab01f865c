//! TLS with the database that is not as it should be: refused, with a message that says which.

use std::net::SocketAddr;

use local_stack::authority::{Authority, Pem};
use local_stack::downgrade::Downgrade;
use local_stack::sql_server::{Login, SqlServer, SqlServerOptions, Storage, TlsMaterial};

use crate::nats_identity::MINUTE;
use crate::numbers;
use crate::support::{World, eventually};

/// A server with this certificate, in front of the database of the world.
async fn server(world: &mut World, authority: &Authority, pem: &Pem, listen: SocketAddr) -> SqlServer {
    let (user, password) = world.sql_login();
    let login = Login { user: user.to_owned(), password: password.to_owned() };
    let tls = TlsMaterial::from_pem(&authority.pem(), &pem.certificate, &pem.key).expect("a certificate");
    let storage = Storage::Postgres(world.stack.postgres().config());
    let options = SqlServerOptions {
        listen,
        logins: vec![login],
        tls: Some(tls),
        database: world.stack.sql_database().to_owned(),
        ..SqlServerOptions::new(storage)
    };
    SqlServer::start(options).await.expect("the server starts")
}

/// Puts these lines into the configuration in place of where the server is and whom it trusts.
fn reach(config: &std::path::Path, port: u16, trust: &str) {
    let text = std::fs::read_to_string(config).expect("the configuration");
    let lines = text.lines().map(|line| match line {
        line if line.starts_with("server = ") => format!("server = \"localhost,{port}\""),
        line if line.starts_with("ca_file = ") => trust.to_owned(),
        line => line.to_owned(),
    });
    std::fs::write(config, lines.collect::<Vec<_>>().join("\n")).expect("a configuration");
}

/// What `check` says of the database.
async fn found(world: &World, port: u16, trust: &str) -> String {
    let sink = numbers::sink(world, "dbo.none", "", "");
    reach(&sink.config, port, trust);
    let (_, found, _) = sink.command(&["check"]).await;
    found.lines().find(|line| line.contains(" sql: ")).unwrap_or_else(|| panic!("{found}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_server_is_said() {
    let mut world = World::start_with_faults().await;
    let (authority, other) = (Authority::new().expect("one"), Authority::new().expect("another"));
    world.write("sql-ca.pem", &authority.pem());
    world.write("other-ca.pem", &other.pem());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let pem = authority.server(&["localhost", "127.0.0.1"]).expect("a certificate");
    let good = server(&mut world, &authority, &pem, any).await;
    let pem = authority.server(&["elsewhere.example"]).expect("a certificate");
    let elsewhere = server(&mut world, &authority, &pem, any).await;
    let pem = authority.expired_server(&["localhost"]).expect("a certificate");
    let expired = server(&mut world, &authority, &pem, any).await;
    let downgrade = Downgrade::of_sql(good.address()).await.expect("it listens");
    let port = |server: &SqlServer| server.address().port();

    for encrypt in ["required", "strict"] {
        let trusting = format!("ca_file = \"sql-ca.pem\"\nencrypt = \"{encrypt}\"");
        let distrusting = format!("ca_file = \"other-ca.pem\"\nencrypt = \"{encrypt}\"");
        let of_the_system = format!("encrypt = \"{encrypt}\"");
        for (port, trust, expected) in [
            (port(&good), &trusting, "ok       sql: logged in"),
            (port(&good), &distrusting, "of an authority that is not trusted: see sql.ca_file"),
            (port(&good), &of_the_system, "of an authority that is not trusted: see sql.ca_file"),
            (port(&elsewhere), &trusting, "is for another host name than the one in sql.server"),
            (port(&expired), &trusting, "has expired"),
            (downgrade.address().port(), &trusting, "the server answers without tls"),
        ] {
            let line = found(&world, port, trust).await;
            assert!(line.contains(expected), "{trust}\n{line}\nexpected: {expected}");
        }
    }
    // who does not ask for encryption is taken in: it is not the man in between who is at fault above
    let line = found(&world, downgrade.address().port(), "encrypt = \"off\"").await;
    assert!(line.contains("ok       sql: logged in"), "{line}");
}

/// GIVEN a worker that writes
/// WHEN the server comes back with a certificate of an authority that is not trusted, and then that authority is put into
/// the file
/// THEN the worker says which, is not ready, and then writes on by itself, with nothing lost or doubled.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_exchanged_while_the_sink_runs() {
    let mut world = World::start_with_faults().await;
    let (authority, other) = (Authority::new().expect("one"), Authority::new().expect("another"));
    world.write("sql-ca.pem", &authority.pem());
    let listen = SocketAddr::from(([127, 0, 0, 1], local_stack::free_port().expect("a free port")));
    let pem = authority.server(&["localhost"]).expect("a certificate");
    let first = server(&mut world, &authority, &pem, listen).await;
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = world.table("authority");
    let mut sink = numbers::sink(&world, &table, "retry_window = \"1s\"", "");
    reach(&sink.config, listen.port(), "ca_file = \"sql-ca.pem\"");
    sink.start();
    sink.ready(MINUTE).await;
    world.publish((1..=100).map(numbers::event)).await;
    let mut sql = world.sql().await;
    let mut written = async |rows: i64| {
        eventually("all is written", MINUTE, async || {
            (sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await == rows).then_some(())
        })
        .await;
    };
    written(100).await;

    first.stop().await;
    let pem = other.server(&["localhost"]).expect("a certificate");
    let _second = server(&mut world, &other, &pem, listen).await;
    world.publish((101..=200).map(numbers::event)).await;
    eventually("the sink says what it refuses", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("of an authority that is not trusted")).then_some(())
    })
    .await;
    world.write("sql-ca.pem", &other.pem());
    written(200).await;
    sink.ready(MINUTE).await;
    let account = numbers::account(&mut sql, &table, 200).await;
    assert_eq!(account, numbers::Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}
