//! Secrets of NATS that end, are taken back, or are exchanged, while events flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::ConnectOptions;
use local_stack::nats_auth::operator::{Operator, User};
use local_stack::proxy::Proxy;
use nix::sys::signal::Signal;

use crate::nats_identity::{MINUTE, of_a_sink, secret, world_of};
use crate::numbers::{self, Account, DURABLE, STREAM};
use crate::support::{Sink, World, eventually};

const CREDENTIALS: &str = "credentials_file = \"sink.creds\"";
const PIPELINE: &str =
    "ack_wait = \"10s\"\nbatch = { max_rows = 500, max_bytes = \"8MiB\", max_age = \"50ms\" }";

fn user(operator: &Operator, seconds: Option<u64>) -> User {
    operator.user("sink", &of_a_sink(), &["role:loader"], seconds.map(Duration::from_secs)).expect("a user")
}

/// A sink that is ready, and events that are published without a pause until they are stopped.
struct Flow {
    world: Arc<World>,
    sink: Sink,
    table: String,
    stop: Arc<AtomicBool>,
    publishing: tokio::task::JoinHandle<u64>,
}

impl Flow {
    async fn start(world: World, name: &str, top: &str) -> Self {
        world.stream(STREAM, "numbers.>").await;
        let table = world.table(name);
        let mut sink = numbers::sink(&world, &table, top, PIPELINE);
        sink.start();
        sink.ready(MINUTE).await;
        let (world, stop) = (Arc::new(world), Arc::new(AtomicBool::new(false)));
        let publishing = tokio::spawn({
            let (world, stop) = (Arc::clone(&world), Arc::clone(&stop));
            async move {
                let mut published = 0;
                while !stop.load(Ordering::Relaxed) {
                    world.publish((published + 1..=published + 100).map(numbers::event)).await;
                    published += 100;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                published
            }
        });
        Self { world, sink, table, stop, publishing }
    }

    /// How often the sink has gone over to another identity.
    async fn exchanged(&self, times: usize) {
        eventually("the sink connects with another identity", MINUTE, async || {
            (self.sink.log().matches("is_new_identity=true").count() >= times).then_some(())
        })
        .await;
    }

    async fn says(&self, text: &str) {
        eventually(text, MINUTE, async || self.sink.log().contains(text).then_some(())).await;
    }

    async fn is_ready(&self) -> bool {
        self.sink.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// Nothing is missing and nothing is there twice; how many events were delivered again.
    async fn end(mut self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let published = (&mut self.publishing).await.expect("all was published");
        self.world.settled(STREAM, DURABLE, MINUTE).await;
        let redelivered = self.sink.metric("nats_sql_sink_events_redelivered_total").await.expect("a count");
        let mut sql = self.world.sql().await;
        let account = numbers::account(&mut sql, &self.table, published).await;
        println!("{published} events, {redelivered} delivered again");
        assert_eq!(account, Account { missing: 0, duplicates: 0 });
        let log = self.sink.log();
        assert!(!log.contains("SUA") && !log.contains("eyJ"), "a secret is in the log:\n{log}");
        assert!(self.sink.terminate(MINUTE).await.success());
        sql.execute(&format!("DROP TABLE {}", self.table)).await;
        redelivered
    }
}

/// GIVEN a user JWT that lasts seconds
/// WHEN the next one is in the file before its end, and the one after that only later
/// THEN the sink goes over to the first without an event delivered twice, is thrown out by the end of it, and comes back by
/// the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_jwt_that_ends_is_followed_by_the_next() {
    let operator = Operator::default();
    let world = world_of(&operator, CREDENTIALS).await;
    secret(&world, "sink.creds", &user(&operator, Some(30)).credentials());
    let flow = Flow::start(world, "ending", "").await;
    secret(&flow.world, "sink.creds", &user(&operator, Some(8)).credentials());
    flow.exchanged(1).await;
    assert!(flow.is_ready().await);
    let redelivered = flow.sink.metric("nats_sql_sink_events_redelivered_total").await.expect("a count");
    assert!(redelivered < 0.5, "{redelivered} events were on their way when the connection was made anew");

    // its end comes before the next one
    flow.says("event=disconnected").await;
    eventually("the server refuses the one that has ended", MINUTE, async || {
        flow.sink.log().contains("authorization violation").then_some(())
    })
    .await;
    flow.says("the secret has ended").await;
    secret(&flow.world, "sink.creds", &user(&operator, None).credentials());
    flow.exchanged(2).await;
    flow.end().await;
}

/// GIVEN a user in mid-run
/// WHEN it is revoked, and another one is in the file shortly afterwards
/// THEN the sink is thrown out, comes back as the other one, and nothing is lost or twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_revoked_is_followed_by_another() {
    let mut operator = Operator::default();
    let world = world_of(&operator, CREDENTIALS).await;
    let revoked = user(&operator, None);
    secret(&world, "sink.creds", &revoked.credentials());
    let flow = Flow::start(world, "revoked", "").await;
    let server = flow.world.stack.nats_url();
    operator.revoke(&revoked, &server, ConnectOptions::new()).await.expect("the server takes it");
    flow.says("authorization violation").await;
    secret(&flow.world, "sink.creds", &user(&operator, None).credentials());
    flow.exchanged(1).await;
    flow.end().await;
}

/// GIVEN events that flow over a slow connection, so that some are always on their way
/// WHEN the file is half written, then of a stranger, and then whole
/// THEN the former identity stays, which is said without showing anything, until the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_good_changes_nothing() {
    let operator = Operator::default();
    let mut world = world_of(&operator, CREDENTIALS).await;
    let proxy = Proxy::start(([127, 0, 0, 1], world.stack.nats().port()).into()).await.expect("it listens");
    proxy.add_latency(Duration::from_millis(200));
    world.nats = world.nats.replace(&world.stack.nats_url(), &format!("nats://{}", proxy.address()));
    secret(&world, "sink.creds", &user(&operator, None).credentials());
    let flow = Flow::start(world, "half", "[rotation]\nmax_age = \"1m\"").await;
    let whole = user(&operator, None).credentials();

    flow.world.write("sink.creds", &whole[..whole.len() / 2]);
    flow.says("is not what the field is for").await;
    let (_, page) = flow.sink.get("/").await.expect("a page");
    assert!(page.contains("a new secret cannot be used: nats.credentials_file"), "{page}");
    assert!(flow.is_ready().await);

    secret(&flow.world, "sink.creds", &user(&Operator::default(), None).credentials());
    flow.says("a new secret cannot be used: nats: cannot connect").await;
    assert!(flow.is_ready().await);
    assert!(!flow.sink.log().contains("event=disconnected"), "it never left");

    secret(&flow.world, "sink.creds", &whole);
    flow.sink.signal(Signal::SIGHUP);
    flow.exchanged(1).await;
    flow.says("looking at all secrets").await;
    flow.says("the secrets were exchanged").await;
    let age = flow.sink.metric_where("nats_sql_sink_credential_age_seconds", "plane=\"nats\"").await;
    assert!(age.is_some_and(|age| age < 60.0), "{age:?}");
    let redelivered = flow.end().await;
    assert!(redelivered < 0.5, "{redelivered} events were on their way when the connection was made anew");
}

/// GIVEN a file that is gone
/// WHEN the server is killed and comes back
/// THEN the sink logs in with what it read before.
#[tokio::test(flavor = "multi_thread")]
async fn without_its_file_the_sink_comes_back_as_who_it_was() {
    let operator = Operator::default();
    let mut world = world_of(&operator, CREDENTIALS).await;
    secret(&world, "sink.creds", &user(&operator, None).credentials());
    world.stream(STREAM, "numbers.>").await;
    let table = world.table("gone");
    let mut sink = numbers::sink(&world, &table, "", PIPELINE);
    sink.start();
    sink.ready(MINUTE).await;
    std::fs::remove_file(world.path("sink.creds")).expect("it is there");
    world.stack.nats().restart().await.expect("the server starts again");
    world.publish((1..=500).map(numbers::event)).await;
    world.settled(STREAM, DURABLE, MINUTE).await;
    assert!(sink.log().contains("connecting with the former one"), "{}", sink.log());
    let mut sql = world.sql().await;
    assert_eq!(numbers::account(&mut sql, &table, 500).await, Account { missing: 0, duplicates: 0 });
    assert!(sink.terminate(MINUTE).await.success());
    sql.execute(&format!("DROP TABLE {table}")).await;
}
