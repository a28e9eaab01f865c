//! The sink logs in to the database by access tokens, which end while it works.

use std::time::{Duration, Instant};

use local_stack::identity_provider::{
    Application, Behaviour, ClientCertificate, IdentityProvider, IdentityProviderOptions, Proof,
    SYSTEM_IDENTITY, SigningKey, TENANT,
};
use local_stack::sql_server::TokenOptions;

use crate::exactly_once;
use crate::numbers::{self, Account, STREAM};
use crate::support::{Sink, World, eventually};

const MINUTE: Duration = Duration::from_secs(60);
/// How long a token is good for, and how long the sinks are under load: short in the suite. With 20 and 120 it is the test that
/// a release wants.
const TOKEN_SECONDS: &str = "NATS_SQL_SINK_TEST_TOKEN_SECONDS";
const RUN_SECONDS: &str = "NATS_SQL_SINK_TEST_RUN_SECONDS";

const SECRET: &str = "canary-client-secret";
const CLUSTER: &str = "https://cluster.example/";
const SUBJECT: &str = "system:serviceaccount:events:sink";

fn seconds(variable: &str, default: u64) -> Duration {
    let seconds = std::env::var(variable).ok().map(|text| text.parse().expect(variable));
    Duration::from_secs(seconds.unwrap_or(default))
}

/// A provider, a world whose SQL server verifies its tokens, and the stream.
async fn start(life: Duration) -> (IdentityProvider, World) {
    start_with_admin(life, None).await
}

/// The same, with an application that may do everything, as an Entra admin.
async fn start_with_admin(life: Duration, admin: Option<&str>) -> (IdentityProvider, World) {
    let options = IdentityProviderOptions { token_life: life, ..IdentityProviderOptions::default() };
    let provider = IdentityProvider::start(options).await.expect("a provider");
    let keys = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), provider.jwks()).expect("the keys");
    let tokens = TokenOptions { admin: admin.map(str::to_owned), ..TokenOptions::new(keys.path()) };
    let world = World::start_with_tokens(tokens).await;
    world.write("entra-ca.pem", provider.ca_pem());
    world.stream(STREAM, "numbers.>").await;
    (provider, world)
}

/// A sink that logs in with this `sql.auth`, into a table on which the application of this name has the least rights.
async fn sink(world: &World, name: &str, application: &str, auth: &str) -> (Sink, String) {
    let table = world.table(name);
    let mut sql = world.sql().await;
    sql.execute(&format!(
        "CREATE TABLE {table} (id bigint NOT NULL, name nvarchar(40) NULL, stream_sequence bigint NOT NULL)"
    ))
    .await;
    let user =
        format!("IF USER_ID('{application}') IS NULL CREATE USER [{application}] FROM EXTERNAL PROVIDER");
    sql.execute(&user).await;
    sql.execute(&format!("GRANT SELECT, INSERT ON {table} TO [{application}]")).await;
    world.write("numbers.toml", numbers::SCHEMA);
    let pipeline = format!(
        "stream = \"{STREAM}\"\ndurable = \"{name}\"\nsubjects = [\"numbers.>\"]\nschema = \"numbers.toml\"\n\
         table = \"{table}\"\nbatch = {{ max_age = \"100ms\" }}"
    );
    let sink = world.config(name, "", &pipeline);
    log_in(&sink, auth);
    (sink, table)
}

/// Puts another `sql.auth` into the configuration, and says that tokens are to be told of.
fn log_in(sink: &Sink, auth: &str) {
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    let auth = format!("auth = {{ {auth} }}");
    let mut lines: Vec<&str> =
        text.lines().map(|line| if line.starts_with("auth = ") { auth.as_str() } else { line }).collect();
    lines.push("[log]\nfilter = \"info,nats_sql_sink::identity=debug\"");
    std::fs::write(&sink.config, lines.join("\n")).expect("a configuration");
}

/// What belongs to every application's `sql.auth`.
fn entra(provider: &IdentityProvider, application: &Application) -> String {
    format!(
        "tenant_id = \"{TENANT}\", client_id = \"{}\", authority = \"{}\", ca_file = \"entra-ca.pem\"",
        application.client_id,
        provider.authority()
    )
}

/// An application with a secret, and its `sql.auth`.
fn with_secret(provider: &IdentityProvider, world: &World, name: &str) -> String {
    let application = Application::new(name, Proof::Secret(SECRET.to_owned()));
    world.write("client.secret", SECRET);
    let auth = entra(provider, &application);
    provider.register(application);
    format!("method = \"client_secret\", {auth}, client_secret_file = \"client.secret\"")
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// Keeps a token in a file fresh, as a sidecar does: a file that is there is always whole.
async fn keep_file(provider: &IdentityProvider, world: &World, name: &str, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        let token = provider.mint(name).expect("a token");
        let new = world.write("access.token.new", &token);
        std::fs::rename(new, world.path("access.token")).expect("the token is put in place");
    }
}

/// How many events of this metric there were, whatever its labels.
async fn none_of(sink: &Sink, name: &str, metric: &str) {
    let count = sink.metric(metric).await.expect("the sink answers");
    assert!(count < 0.5, "{name}: {metric} is {count}:\n{}", sink.log());
}

async fn no_failed_batch(sink: &Sink, name: &str) {
    for metric in [
        "nats_sql_sink_retries_total",
        "nats_sql_sink_sql_errors_total",
        "nats_sql_sink_events_redelivered_total",
        "nats_sql_sink_outcomes_unknown_total",
    ] {
        none_of(sink, name, metric).await;
    }
}

async fn not_ready(sink: &Sink, text: &str) -> String {
    eventually(&format!("not ready because of {text}"), MINUTE, async || {
        let (status, body) = sink.get("/readyz").await?;
        (status == 503 && body.contains(text)).then_some(body)
    })
    .await
}

/// GIVEN a sink for each way to have tokens, side by side, and tokens of a few seconds
/// WHEN events come all the time, for several times as long
/// THEN each has every event once, and no batch has failed.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_every_method_outlives_its_tokens() {
    let (life, run) = (seconds(TOKEN_SECONDS, 6), seconds(RUN_SECONDS, 18));
    let (provider, world) = start(life).await;

    let secret = with_secret(&provider, &world, "by-secret");
    let certificate = ClientCertificate::generate("by-certificate").expect("a certificate");
    world.write("client.pem", &certificate.pem);
    let by_certificate = Application::new("by-certificate", Proof::Certificate(Box::new(certificate)));
    let certificate = format!(
        "method = \"client_certificate\", {}, certificate_file = \"client.pem\"",
        entra(&provider, &by_certificate)
    );
    provider.register(by_certificate);
    let cluster = SigningKey::generate("cluster").expect("a key");
    let token = cluster.workload_token(CLUSTER, SUBJECT, 60 * MINUTE).expect("a token");
    let federated = world.write("federated.token", &token);
    let (issuer, subject) = (CLUSTER.to_owned(), SUBJECT.to_owned());
    let workload =
        Application::new("by-workload", Proof::Federation { issuer, subject, key: Box::new(cluster) });
    // as the mutating webhook of workload identity sets them in a pod
    let in_pod = [
        ("AZURE_TENANT_ID", TENANT.to_owned()),
        ("AZURE_CLIENT_ID", workload.client_id.clone()),
        ("AZURE_FEDERATED_TOKEN_FILE", federated.display().to_string()),
        ("AZURE_AUTHORITY_HOST", provider.authority()),
    ];
    provider.register(workload);
    provider.register(Application::new("by-file", Proof::None));
    let on_machine = provider.managed_identity();
    let assigned = Application::new("by-assigned", Proof::None);
    let by_assigned = format!("method = \"managed_identity\", client_id = \"{}\"", assigned.client_id);
    provider.register(assigned);

    let file = keep_file(&provider, &world, "by-file", life.mul_f64(0.4));
    let ways = [
        ("by-secret", secret, Vec::new()),
        ("by-certificate", certificate, Vec::new()),
        (
            "by-workload",
            "method = \"workload_identity\", ca_file = \"entra-ca.pem\"".to_owned(),
            borrowed(&in_pod),
        ),
        (SYSTEM_IDENTITY, "method = \"managed_identity\"".to_owned(), borrowed(&on_machine)),
        ("by-assigned", by_assigned, borrowed(&on_machine)),
        ("by-file", "method = \"access_token_file\", token_file = \"access.token\"".to_owned(), Vec::new()),
    ];
    let work = async {
        let mut sinks = Vec::new();
        for (name, auth, environment) in &ways {
            let (mut sink, table) = sink(&world, &name.replace('-', "_"), name, auth).await;
            sink.start_with(environment);
            sinks.push((*name, sink, table));
        }
        for (_, sink, _) in &sinks {
            sink.ready(MINUTE).await;
        }
        let (started, mut count) = (Instant::now(), 0);
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while started.elapsed() < run {
            ticks.tick().await;
            world.publish((count + 1..=count + 50).map(numbers::event)).await;
            count += 50;
        }
        let mut sql = world.sql().await;
        for (name, sink, table) in &mut sinks {
            world.settled(STREAM, &name.replace('-', "_"), MINUTE).await;
            let account = numbers::account(&mut sql, table, count).await;
            assert_eq!(account, Account { missing: 0, duplicates: 0 }, "{name}");
            no_failed_batch(sink, name).await;
            let left = sink
                .metric_where("nats_sql_sink_credential_expires_in_seconds", "plane=\"sql\"")
                .await
                .expect("the sink answers");
            assert!(left > 0.0 && left <= life.as_secs_f64(), "{name}: the token is good for {left} s");
            let tokens = sink.log().matches("new access token").count();
            // each is renewed at half of its life or a little later
            let expected = usize::try_from(run.as_secs() / life.as_secs()).expect("a count");
            assert!(tokens > expected, "{name}: {tokens} tokens in {run:?}");
            println!("{name}: {count} events, {tokens} tokens of {life:?} in {run:?}");
            assert!(sink.terminate(MINUTE).await.success());
        }
    };
    tokio::select! {
        () = work => {}
        () = file => unreachable!("it never ends"),
    }
    assert_eq!(provider.counts().refused, 0);
}

/// GIVEN a provider that is away when the token is to be renewed
/// WHEN it is back before the token ends
/// THEN nobody has noticed but the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_not_missed_while_the_token_is_good() {
    let life = Duration::from_secs(16);
    let (provider, world) = start(life).await;
    let auth = with_secret(&provider, &world, "patient");
    let (mut sink, table) = sink(&world, "patient", "patient", &auth).await;
    sink.start();
    sink.ready(MINUTE).await;
    provider.behave(Behaviour::Status(503));
    let mut count = 0;
    // from the first request in vain until three quarters of the token's life are over
    let had = provider.counts().minted;
    let mut since = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let started = Instant::now();
    while since.is_none_or(|since: Instant| since.elapsed() < life / 5) {
        assert!(started.elapsed() < MINUTE, "nobody asks for a token");
        ticks.tick().await;
        world.publish((count + 1..=count + 10).map(numbers::event)).await;
        count += 10;
        if since.is_none() && provider.counts().failed > 0 {
            since = Some(Instant::now());
        }
    }
    assert_eq!(provider.counts().minted, had);
    provider.behave(Behaviour::Normal);
    eventually("another token", MINUTE, async || (provider.counts().minted > had).then_some(())).await;
    world.settled(STREAM, "patient", MINUTE).await;
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, count).await, Account { missing: 0, duplicates: 0 });
    no_failed_batch(&sink, "patient").await;
    let log = sink.log();
    assert!(log.contains("no new access token, trying again") && log.contains("answers with 503"), "{log}");
    assert!(!log.contains(SECRET), "{log}");
}

/// GIVEN a provider that is away for longer than a token
/// WHEN it is back
/// THEN the sink goes on by itself, and every event is in the table once.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_longer_absence_it_goes_on() {
    let (provider, world) = start(Duration::from_secs(4)).await;
    let auth = with_secret(&provider, &world, "longer");
    let (mut sink, table) = sink(&world, "longer", "longer", &auth).await;
    sink.start();
    sink.ready(MINUTE).await;
    for behaviour in [Behaviour::HangUp, Behaviour::Status(429)] {
        let failures = || sink.metric_where("nats_sql_sink_retries_total", "disposition=\"retry\"");
        let before = failures().await.expect("the sink answers");
        provider.behave(behaviour);
        eventually("a batch finds no token", MINUTE, async || {
            world.publish([numbers::event(1)]).await;
            (failures().await? > before).then_some(())
        })
        .await;
        provider.behave(Behaviour::Normal);
        world.settled(STREAM, "longer", MINUTE).await;
    }
    let stops = sink.metric_where("nats_sql_sink_retries_total", "disposition=\"stop\"").await;
    assert_eq!(stops, Some(0.0), "{}", sink.log());
    let mut sql = world.sql().await;
    let (rows, sequences) = (
        sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await,
        sql.number(&format!("SELECT COUNT_BIG(DISTINCT stream_sequence) FROM {table}")).await,
    );
    let mut stream = world.jetstream.get_stream(STREAM).await.expect("the stream");
    let published = stream.info().await.expect("its info").state.messages;
    assert_eq!((rows, sequences), (published.cast_signed(), published.cast_signed()));
}

/// GIVEN a token that the database refuses, though it says that it is good
/// WHEN the sink logs in with it
/// THEN it has a fresh one and logs in with that; where that is refused as well it says so, and asks for no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_tried_once_with_a_fresh_token() {
    let (provider, world) = start(60 * MINUTE).await;
    let auth = with_secret(&provider, &world, "stale");
    let refusals = async |sink: &Sink, disposition: &str| {
        let label = format!("number=\"18456\",disposition=\"{disposition}\"");
        sink.metric_where("nats_sql_sink_sql_errors_total", &label).await.expect("the sink answers")
    };
    let (mut once, _) = sink(&world, "stale", "stale", &auth).await;
    provider.behave(Behaviour::Unverifiable(1));
    once.start();
    once.ready(MINUTE).await;
    let counted = (refusals(&once, "reauthenticate").await, refusals(&once, "stop").await);
    assert_eq!(counted, (1.0, 0.0), "{}", once.log());
    assert_eq!(provider.counts().minted, 2);

    provider.behave(Behaviour::Unverifiable(u32::MAX));
    let mut ever = once.another();
    ever.start();
    not_ready(&ever, "18456").await;
    eventually("a second login in vain", MINUTE, async || {
        (refusals(&ever, "stop").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(refusals(&ever, "reauthenticate").await.to_bits(), 1.0_f64.to_bits(), "{}", ever.log());
    assert_eq!(provider.counts().minted, 4, "a fresh token for each sink, and no more");
}

/// GIVEN an application whose secret is another one
/// WHEN the sink asks for a token
/// THEN it says so by Entra ID's number, shows nothing, and goes on when the file has the right one.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_without_showing_it() {
    let (provider, world) = start(60 * MINUTE).await;
    let auth = with_secret(&provider, &world, "mistaken");
    let (mut sink, _) = sink(&world, "mistaken", "mistaken", &auth).await;
    world.write("client.secret", "canary-another-secret");
    let text = std::fs::read_to_string(&sink.config).expect("the configuration");
    let everything = text.replace("info,nats_sql_sink::identity=debug", "trace");
    std::fs::write(&sink.config, everything).expect("a configuration");
    sink.start();
    let body = not_ready(&sink, "AADSTS7000215").await;
    assert!(body.contains("invalid_client") && body.contains("answers with 401"), "{body}");
    assert_eq!(provider.counts().minted, 0);
    world.write("client.secret", SECRET);
    sink.ready(MINUTE).await;
    let (_, status) = sink.get("/").await.expect("the status page");
    let (_, metrics) = sink.get("/metrics").await.expect("the metrics");
    for (place, text) in [("log", sink.log()), ("readyz", body), ("page", status), ("metrics", metrics)] {
        for secret in ["canary", "eyJ"] {
            // a line of the log that has it is shown, not all of trace
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "the {place} shows a secret");
        }
    }
}

/// GIVEN an identity provider whose certificate is of an authority that nobody has named
/// WHEN the sink asks it for a token
/// THEN it sends nothing, and says which certificate it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_with_a_strange_certificate_is_refused() {
    let (provider, world) = start(60 * MINUTE).await;
    let auth = with_secret(&provider, &world, "strange");
    let (mut sink, _) = sink(&world, "strange", "strange", &auth).await;
    // the SQL server's authority is another one
    world.write("entra-ca.pem", world.stack.sql_ca_pem());
    sink.start();
    let body = not_ready(&sink, "is refused").await;
    let expected = format!("the certificate of {} is refused", provider.authority());
    assert!(body.contains(&expected) && body.contains("sql.auth.ca_file"), "{body}");
    let counts = provider.counts();
    assert_eq!((counts.minted, counts.refused, counts.failed), (0, 0, 0));
    // what `check` says of it
    let (status, stdout, _) = sink.command(&["check"]).await;
    assert!(!status.success() && stdout.contains(&expected), "{stdout}");
    world.write("entra-ca.pem", provider.ca_pem());
    sink.ready(MINUTE).await;
}

/// GIVEN a pipeline that keeps leases and announces its commits, each by a session that lasts
/// WHEN their tokens end again and again
/// THEN no lease is lost, no receipt is late, and no event is missing or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn leases_and_receipts_outlive_their_tokens() {
    let (life, run) = (Duration::from_secs(6), Duration::from_secs(15));
    let (provider, world) = start_with_admin(life, Some("keeper")).await;
    world.stream("RECEIPTS", "receipts.>").await;
    let auth = with_secret(&provider, &world, "keeper");
    let table = exactly_once::table(&world, "kept").await;
    let more = "batch = { max_age = \"100ms\" }\nreceipts = { subject = \"receipts.kept\" }";
    let mut sink = exactly_once::sink(&world, "kept", &table, 2, more);
    log_in(&sink, &auth);
    sink.start();
    sink.ready(MINUTE).await;
    let (started, mut count) = (Instant::now(), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while started.elapsed() < run {
        ticks.tick().await;
        world.publish((count + 1..=count + 20).map(|id| exactly_once::event(id, 2))).await;
        count += 20;
    }
    let mut sql = world.sql().await;
    exactly_once::rows(&mut sql, &table, count, MINUTE).await;
    assert_eq!(numbers::account(&mut sql, &table, count).await, Account { missing: 0, duplicates: 0 });
    no_failed_batch(&sink, "kept").await;
    let waiting = "SELECT COUNT_BIG(*) FROM nats_sql_sink.receipts WHERE pipeline = N'kept'";
    eventually("all receipts are published", MINUTE, async || (sql.number(waiting).await == 0).then_some(()))
        .await;
    let expired = sink.metric_where("nats_sql_sink_partitions_claimed_total", "from=\"expired\"").await;
    assert_eq!(expired, Some(0.0));
    let log = sink.log();
    for trouble in ["leases cannot be kept", "receipts cannot be published", "has taken the partition over"] {
        assert!(!log.contains(trouble), "{trouble}:\n{log}");
    }
    assert!(log.matches("new access token").count() > 4, "{log}");
    assert!(sink.terminate(MINUTE).await.success());
}

/// GIVEN a developer who is logged in to the Azure CLI, as far as a script can stand for it
/// WHEN the sink looks whether everything is there
/// THEN it logs in by the CLI's token, and says what the CLI says where nobody is logged in.
#[tokio::test(flavor = "multi_thread")]
async fn the_azure_cli_is_asked() {
    use std::os::unix::fs::PermissionsExt as _;
    let (provider, world) = start(60 * MINUTE).await;
    provider.register(Application::new("developer", Proof::None));
    let (mut sink, _) = sink(&world, "developer", "developer", "method = \"azure_cli\"").await;
    let answer = format!(
        r#"{{"accessToken":"{}","expires_on":4102444800,"tokenType":"Bearer"}}"#,
        provider.mint("developer").expect("a token")
    );
    let answer = world.write("answer.json", &answer);
    let script = |text: &str| {
        let az = world.write("az", text);
        std::fs::set_permissions(az, std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    };
    script("#!/bin/sh\necho 'ERROR: Please run az login to setup account.' >&2\nexit 1\n");
    let path = std::env::var("PATH").expect("a path");
    let folder = answer.parent().expect("a folder").display();
    sink.start_with(&[("PATH", &format!("{folder}:{path}"))]);
    not_ready(&sink, "Please run az login").await;
    script(&format!(
        "#!/bin/sh\n[ \"$*\" = 'account get-access-token -o json --scope https://database.windows.net/.default' ] && cat {}\n",
        answer.display()
    ));
    sink.ready(MINUTE).await;
    assert!(!sink.log().contains("eyJ"), "{}", sink.log());
}
