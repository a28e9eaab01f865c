//! TLS with NATS that is not as it should be: refused, with a message that says which.

use async_nats::ConnectOptions;
use local_stack::authority::{Authority, Pem};
use local_stack::downgrade::Downgrade;
use local_stack::nats_server::{NatsServer, NatsServerOptions};

use crate::nats_identity::MINUTE;
use crate::numbers;
use crate::support::{World, eventually};

/// A server of its own with this certificate.
struct Guarded {
    server: NatsServer,
    /// Read again at a restart.
    _folder: tempfile::TempDir,
}

impl Guarded {
    async fn start(pem: &Pem) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("server.pem"), &pem.certificate).expect("it can be written");
        std::fs::write(path("server.key"), &pem.key).expect("it can be written");
        let tls = format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\" }}",
            path("server.pem").display(),
            path("server.key").display()
        );
        let options = NatsServerOptions { extra_config: Some(tls), ..NatsServerOptions::default() };
        Self { server: NatsServer::start(options).await.expect("the server starts"), _folder: folder }
    }
}

/// What `check` says of NATS.
async fn found(world: &mut World, nats: String) -> String {
    world.nats = nats;
    let (_, found, _) = numbers::sink(world, "dbo.none", "", "").command(&["check"]).await;
    found.lines().find(|line| line.contains(" nats: ")).unwrap_or_else(|| panic!("{found}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_server_is_said() {
    let mut world = World::start().await;
    let (authority, other) = (Authority::new().expect("one"), Authority::new().expect("another"));
    world.write("nats-ca.pem", &authority.pem());
    world.write("other-ca.pem", &other.pem());
    let good = Guarded::start(&authority.server(&["localhost", "127.0.0.1"]).expect("a certificate")).await;
    let elsewhere = Guarded::start(&authority.server(&["elsewhere.example"]).expect("a certificate")).await;
    let expired = Guarded::start(&authority.expired_server(&["localhost"]).expect("a certificate")).await;
    let plain = NatsServer::start(NatsServerOptions::default()).await.expect("the server starts");
    let address = ([127, 0, 0, 1], good.server.port()).into();
    let downgrade = Downgrade::of_nats(address, &authority.pem()).await.expect("it listens");
    let nats =
        |scheme: &str, port: u16, tls: &str| format!("servers = [\"{scheme}://localhost:{port}\"]\n{tls}");
    let trusting = "tls = { ca_file = \"nats-ca.pem\" }";
    let (good, elsewhere, expired, plain, downgrade) =
        (&good, elsewhere.server.port(), expired.server.port(), plain.port(), downgrade.address().port());
    let port = good.server.port();

    for (nats, expected) in [
        (nats("tls", port, trusting), "ok       nats: connected"),
        (nats("nats", port, trusting), "ok       nats: connected"),
        (nats("tls", port, "tls = { ca_file = \"other-ca.pem\" }"), "of an authority that is not trusted"),
        (nats("tls", elsewhere, trusting), "is for another host name"),
        (nats("tls", expired, trusting), "has expired"),
        (nats("tls", plain, trusting), "the server answers without tls"),
        // somebody in between takes it away: whoever asks for TLS, in whichever way, is not taken in
        (nats("nats", downgrade, ""), "ok       nats: connected"),
        (nats("tls", downgrade, trusting), "the server answers without tls"),
        (nats("nats", downgrade, "tls = { required = true }"), "the server answers without tls"),
        (nats("nats", downgrade, trusting), "the server answers without tls"),
    ] {
        let line = found(&mut world, nats.clone()).await;
        assert!(line.contains(expected), "{nats}\n{line}\nexpected: {expected}");
    }
}

/// GIVEN a sink that is connected with TLS
/// WHEN the server comes back with a certificate of an authority that is not trusted, and then that authority is put into
/// the file
/// THEN the sink says which, stays away, and comes back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_exchanged_while_the_sink_runs() {
    let (authority, other) = (Authority::new().expect("one"), Authority::new().expect("another"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let put = |pem: Pem| {
        std::fs::write(path("server.pem"), pem.certificate).expect("it can be written");
        std::fs::write(path("server.key"), pem.key).expect("it can be written");
    };
    put(authority.server(&["localhost"]).expect("a certificate"));
    std::fs::write(path("ca.pem"), authority.pem()).expect("it can be written");
    let tls =
        format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}", path("server.pem"), path("server.key"));
    let stack = crate::nats_identity::stack(tls).await;
    let address = stack.nats_url().replace("nats://127.0.0.1", "tls://localhost");
    let admin = ConnectOptions::new().add_root_certificates(path("ca.pem").into());
    let admin = admin.connect(&address).await.expect("the admin connects");
    let nats = format!("servers = [\"{address}\"]\ntls = {{ ca_file = \"nats-ca.pem\" }}");
    let mut world = World::on_guarded(stack, admin, nats).await;
    world.write("nats-ca.pem", &authority.pem());
    world.stream(numbers::STREAM, "numbers.>").await;
    let table = world.table("authority");
    let mut sink = numbers::sink(&world, &table, "", "");
    sink.start();
    sink.ready(MINUTE).await;

    put(other.server(&["localhost"]).expect("a certificate"));
    world.stack.nats().restart().await.expect("the server starts again");
    eventually("the sink says what it refuses", MINUTE, async || {
        sink.log().contains("of an authority that is not trusted").then_some(())
    })
    .await;
    let connected = sink.log().matches("event=connected").count();
    world.write("nats-ca.pem", &other.pem());
    eventually("the sink is connected again", MINUTE, async || {
        (sink.log().matches("event=connected").count() > connected).then_some(())
    })
    .await;
    assert!(sink.terminate(MINUTE).await.success());
    let mut sql = world.sql().await;
    sql.execute(&format!("DROP TABLE {table}")).await;
}
