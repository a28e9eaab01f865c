//! Each way to say to NATS who one is, against a real nats-server that wants to know.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::ConnectOptions;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local_stack::authority::Authority;
use local_stack::identity_provider::{Application, IdentityProvider, IdentityProviderOptions, Proof, TENANT};
use local_stack::nats_auth::Permissions;
use local_stack::nats_auth::callout::{Callout, CalloutOptions, Role};
use local_stack::nats_auth::operator::Operator;
use local_stack::stack::{LocalStack, LocalStackOptions};

use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

pub const MINUTE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 500;

/// What the sink does with NATS, and no more than that.
pub fn of_a_sink() -> Permissions {
    Permissions::new(&["$JS.API.>", "$JS.ACK.>", "dead.>", "_INBOX.>"], &["_INBOX.>"])
}

/// A stack whose NATS server has these lines in its configuration.
pub async fn stack(nats_config: String) -> LocalStack {
    let options = LocalStackOptions { nats_config: Some(nats_config), ..LocalStackOptions::default() };
    LocalStack::start(options).await.expect("the local stack starts")
}

/// The numbers from 1 to `EVENTS` go from the stream into a table, each once.
async fn moves_events(world: &World, name: &str) {
    world.stream(STREAM, "numbers.>").await;
    let table = world.table(name);
    let mut sink = numbers::sink(world, &table, "", "");
    sink.start();
    world.publish((1..=EVENTS).map(numbers::event)).await;
    sink.ready(MINUTE).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, EVENTS).await, Account { missing: 0, duplicates: 0 });
    let (status, checked, _) = sink.command(&["check"]).await;
    assert!(status.success(), "{checked}");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
    world.jetstream.delete_stream(STREAM).await.expect("the stream is deleted");
}

/// A file in the world's folder that holds a secret, readable for its owner alone.
pub fn secret(world: &World, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    // as it should be done: complete under another name, and then put in its place
    let fresh = world.write(&format!("{name}.new"), content);
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::fs::rename(fresh, world.path(name)).expect("it is put in its place");
}

/// A world below an operator, with a client that may do everything.
pub async fn world_of(operator: &Operator, nats: &str) -> World {
    let stack = stack(operator.server_config().expect("it can be signed")).await;
    let admin = operator.user("admin", &Permissions::default(), &[], None).expect("it can be signed");
    let options = ConnectOptions::with_credentials(&admin.credentials()).expect("they are sound");
    let client = options.connect(stack.nats_url()).await.expect("the admin logs in");
    let nats = format!("servers = [\"{}\"]\n{nats}", stack.nats_url());
    World::on_guarded(stack, client, nats).await
}

#[tokio::test(flavor = "multi_thread")]
async fn by_credentials_below_an_operator() {
    let operator = Operator::default();
    let world = world_of(&operator, "credentials_file = \"sink.creds\"").await;
    let user =
        operator.user("sink", &of_a_sink(), &["role:loader"], Some(MINUTE * 10)).expect("it can be signed");
    secret(&world, "sink.creds", &user.credentials());
    moves_events(&world, "by_credentials").await;
}

/// GIVEN a server that begins with TLS, wants a certificate, and knows users by password and by key
#[tokio::test(flavor = "multi_thread")]
async fn by_password_or_key_with_a_certificate_and_tls_first() {
    let authority = Authority::new().expect("an authority");
    let server = authority.server(&["localhost", "127.0.0.1"]).expect("a certificate");
    let client = authority.client("sink", SystemTime::now() + MINUTE * 60).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, content) in [
        ("ca.pem", authority.pem()),
        ("server.pem", server.certificate),
        ("server.key", server.key),
        ("client.pem", client.certificate.clone()),
        ("client.key", client.key.clone()),
    ] {
        std::fs::write(path(name), content).expect("it can be written");
    }
    let key = nkeys::KeyPair::new_user();
    let options = LocalStackOptions {
        nats_speaks_first: false,
        nats_config: Some(format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true, handshake_first: true }}\n\
             authorization {{ users: [ {{ user: admin, password: admin }}, {{ user: sink, password: \"by password\" }}, \
             {{ nkey: {} }} ] }}",
            path("server.pem"),
            path("server.key"),
            path("ca.pem"),
            key.public_key()
        )),
        ..LocalStackOptions::default()
    };
    let stack = LocalStack::start(options).await.expect("the local stack starts");
    let address = stack.nats_url().replace("nats://127.0.0.1", "tls://localhost");
    let admin = ConnectOptions::with_user_and_password("admin".to_owned(), "admin".to_owned())
        .add_root_certificates(path("ca.pem").into())
        .add_client_certificate(path("client.pem").into(), path("client.key").into())
        .tls_first();
    let admin = admin.connect(&address).await.expect("the admin logs in");
    let nats = format!(
        "servers = [\"{address}\"]\nLOGIN\ntls = {{ ca_file = \"nats-ca.pem\", cert_file = \"client.pem\", \
         key_file = \"client.key\", first = true }}"
    );
    let mut world = World::on_guarded(stack, admin, nats).await;
    world.write("nats-ca.pem", &authority.pem());
    world.write("client.pem", &client.certificate);
    secret(&world, "client.key", &client.key);
    secret(&world, "nats.password", "by password\n");
    secret(&world, "nats.nkey", &key.seed().expect("a seed"));
    let with = world.nats.clone();
    for (name, login) in [
        ("by_password", "user = \"sink\"\npassword_file = \"nats.password\""),
        ("by_key", "nkey_seed_file = \"nats.nkey\""),
    ] {
        world.nats = with.replace("LOGIN", login);
        moves_events(&world, name).await;
    }
    // WHEN the handshake does not come first THEN the server waits for it, and says nothing
    world.nats = with
        .replace("LOGIN", "user = \"sink\"\npassword_file = \"nats.password\"")
        .replace(", first = true", "");
    let (status, found, _) = numbers::sink(&world, "dbo.none", "", "").command(&["check"]).await;
    assert!(!status.success() && found.contains("FAILED   nats: "), "{found}");
    // WHEN no certificate is shown THEN the server says what it misses
    world.nats = with
        .replace("LOGIN", "user = \"sink\"\npassword_file = \"nats.password\"")
        .replace("cert_file = \"client.pem\", key_file = \"client.key\", ", "");
    let (_, found, _) = numbers::sink(&world, "dbo.none", "", "").command(&["check"]).await;
    assert!(found.contains("the server refuses the handshake: CertificateRequired"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_token() {
    let stack = stack("authorization { token: \"a plain token\" }".to_owned()).await;
    let admin = ConnectOptions::with_token("a plain token".to_owned()).connect(stack.nats_url()).await;
    let nats = format!("servers = [\"{}\"]\ntoken_file = \"nats.token\"", stack.nats_url());
    let world = World::on_guarded(stack, admin.expect("the admin logs in"), nats).await;
    secret(&world, "nats.token", "a plain token\n");
    moves_events(&world, "by_token").await;
    // WHEN it is another one THEN it is refused, and not shown
    secret(&world, "nats.token", "canary");
    let (status, found, log) = numbers::sink(&world, "dbo.none", "", "").command(&["check"]).await;
    assert!(!status.success() && found.contains("authorization violation"), "{found}");
    assert!(!found.contains("canary") && !log.contains("canary"), "{found}{log}");
}

/// A provider of tokens, with one key.
struct Provider {
    key: EncodingKey,
}

impl Provider {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { key: EncodingKey::from_ec_der(pair.serialized_der()) }
    }

    fn keys(&self) -> JwkSet {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a public key");
        key.common.key_id = Some("one".to_owned());
        JwkSet { keys: vec![key] }
    }

    fn token(&self, subject: &str, roles: &[&str], life: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        let claims = serde_json::json!({
            "aud": AUDIENCE, "sub": subject, "roles": roles, "iat": now, "exp": now + life.as_secs(),
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("one".to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).expect("it can be signed")
    }
}

/// What tokens for NATS are for.
const AUDIENCE: &str = "api://nats";

const POLICY: &str = "
loader: publish $JS.API.> $JS.ACK.> dead.> _INBOX.> subscribe _INBOX.>
admin: publish > subscribe >
analyst: publish $JS.API.INFO subscribe _INBOX.>
";

async fn refreshed(sink: &Sink, times: u64) {
    eventually("the sink connects with further tokens", MINUTE, async || {
        (sink.log().matches("is_new_identity=true").count() as u64 >= times).then_some(())
    })
    .await;
}

/// GIVEN a server that asks an auth callout, which knows a provider of tokens and what their roles may do
/// WHEN the sink shows tokens that last a few seconds, and something else puts a fresh one into the file each time
/// THEN it goes on with each of them, and a role that may not read reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_token_of_a_provider_that_a_callout_knows() {
    let mut callout = Callout::default();
    let provider = Provider::new();
    let stack = stack(callout.server_config()).await;
    let policy = CalloutOptions {
        keys: provider.keys(),
        audience: AUDIENCE.to_owned(),
        roles: Role::read(POLICY).expect("a policy"),
    };
    callout.answer(&stack.nats_url(), ConnectOptions::new(), policy).await.expect("the callout answers");
    let admin = ConnectOptions::with_token(provider.token("admin", &["admin"], MINUTE * 30));
    let admin = admin.connect(stack.nats_url()).await.expect("the admin logs in");
    let nats = format!("servers = [\"{}\"]\ntoken_file = \"nats.token\"", stack.nats_url());
    let world = World::on_guarded(stack, admin, nats).await;
    world.stream(STREAM, "numbers.>").await;

    secret(&world, "nats.token", &provider.token("nobody", &["unknown"], MINUTE));
    let table = world.table("by_callout");
    let mut sink = numbers::sink(&world, &table, "", "ack_wait = \"5s\"");
    let (status, found, _) = sink.command(&["check"]).await;
    assert!(!status.success() && found.contains("authorization violation"), "{found}");
    assert_eq!((callout.admitted(), callout.refused()), (1, 1));
    secret(&world, "nats.token", &provider.token("analyst", &["analyst"], MINUTE));
    let (status, found, _) = sink.command(&["check"]).await;
    assert!(!status.success() && found.contains("FAILED"), "{found}");

    // longer than going over to another one can take: an idle pull is waited for for up to 10 s
    let life = Duration::from_secs(30);
    secret(&world, "nats.token", &provider.token("sink", &["loader"], life));
    sink.start();
    let mut published = 0;
    for round in 1..=3 {
        world.publish((published + 1..=published + EVENTS).map(numbers::event)).await;
        published += EVENTS;
        sink.ready(MINUTE).await;
        world.settled(STREAM, DURABLE, MINUTE).await;
        secret(&world, "nats.token", &provider.token("sink", &["loader"], life));
        refreshed(&sink, round).await;
    }
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, published).await, Account { missing: 0, duplicates: 0 });
    let expires_in = sink.metric_where("nats_sql_sink_credential_expires_in_seconds", "plane=\"nats\"").await;
    assert!(expires_in.is_some_and(|left| left > 0.0 && left <= 30.0), "{expires_in:?}");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}

/// GIVEN a server that asks an auth callout, and an application that a provider gives tokens to
/// WHEN the sink is told to ask for them
/// THEN it shows one at each connection, goes over to the next before the server ends the connection with the one at hand, and
/// loses and doubles nothing.
#[tokio::test(flavor = "multi_thread")]
async fn by_tokens_that_it_asks_for() {
    // longer than going over to another one can take, as above
    let options = IdentityProviderOptions { token_life: MINUTE / 2, audience: AUDIENCE.to_owned() };
    let provider = IdentityProvider::start(options).await.expect("a provider");
    let application = |name: &str, role: &str| {
        let application = Application::new(name, Proof::Secret(format!("canary-{name}"))).with_roles(&[role]);
        provider.register(application.clone());
        application.client_id
    };
    let (sink_id, stranger_id) = (application("sink", "loader"), application("other", "none"));
    provider.register(Application::new("admin", Proof::None).with_roles(&["admin"]));
    let mut callout = Callout::default();
    let stack = stack(callout.server_config()).await;
    let policy = CalloutOptions {
        keys: serde_json::from_str(&provider.jwks()).expect("keys"),
        audience: AUDIENCE.to_owned(),
        roles: Role::read(POLICY).expect("a policy"),
    };
    callout.answer(&stack.nats_url(), ConnectOptions::new(), policy).await.expect("the callout answers");
    provider.set_token_life(60 * MINUTE);
    let admin = ConnectOptions::with_token(provider.mint("admin").expect("a token"));
    let admin = admin.connect(stack.nats_url()).await.expect("the admin logs in");
    provider.set_token_life(MINUTE / 2);
    let nats = |id: &str, secret: &str| {
        format!(
            "servers = [\"{}\"]\ntoken_from = {{ method = \"client_secret\", scope = \"{AUDIENCE}/.default\", \
             tenant_id = \"{TENANT}\", client_id = \"{id}\", client_secret_file = \"{secret}\", authority = \"{}\", \
             ca_file = \"entra-ca.pem\" }}",
            stack.nats_url(),
            provider.authority()
        )
    };
    let (of_sink, of_stranger) = (nats(&sink_id, "client.secret"), nats(&stranger_id, "other.secret"));
    let mut world = World::on_guarded(stack, admin, of_stranger).await;
    world.write("entra-ca.pem", provider.ca_pem());
    secret(&world, "client.secret", "canary-wrong");
    secret(&world, "other.secret", "canary-other");
    world.stream(STREAM, "numbers.>").await;
    // one whose role the callout does not know has a token, and is not let in
    let (status, found, _) = numbers::sink(&world, "dbo.none", "", "").command(&["check"]).await;
    assert!(!status.success() && found.contains("authorization violation"), "{found}");
    world.nats = of_sink;

    let table = world.table("by_asking");
    let mut sink = numbers::sink(&world, &table, "", "ack_wait = \"5s\"");
    sink.start();
    // no token: it says why, and goes on when the secret is the right one
    eventually("it says that it has no token", MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains("nats.token_from") && body.contains("AADSTS7000215")).then_some(())
    })
    .await;
    secret(&world, "client.secret", "canary-sink");
    sink.ready(MINUTE).await;
    let mut published = 0;
    for round in 1..=3 {
        world.publish((published + 1..=published + EVENTS).map(numbers::event)).await;
        published += EVENTS;
        world.settled(STREAM, DURABLE, MINUTE).await;
        refreshed(&sink, round).await;
    }
    sink.ready(MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, published).await, Account { missing: 0, duplicates: 0 });
    let expires_in = sink.metric_where("nats_sql_sink_credential_expires_in_seconds", "plane=\"nats\"").await;
    assert!(expires_in.is_some_and(|left| left > 0.0 && left <= 30.0), "{expires_in:?}");
    let log = sink.log();
    assert!(!log.contains("canary") && !log.contains("authorization violation"), "{log}");
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}
