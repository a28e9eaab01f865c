//! Crashes under load: what was answered as committed is there whole, and of the rest nothing, or all of a batch
//! whose commit was not answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use local_stack::postgres::Postgres;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tiberius::IntoRow;
use tokio::sync::mpsc;

use crate::fixture::{Fixture, SqlClient, batch, rows, run};

/// How many times the server is killed; see CONTRIBUTING.md.
const KILLS: &str = "NATS_SQL_SINK_TEST_KILLS";
const DEFAULT_KILLS: usize = 6;
const LOADERS: usize = 4;
const ROWS: i32 = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The commit was answered.
    Committed,
    /// The commit was sent, and not answered.
    Unknown,
    /// Before the commit was sent, or with an error of the server's, it was over.
    NotCommitted,
}

async fn load(client: &mut SqlClient, id: i32) -> tiberius::Result<u64> {
    let mut request = client.bulk_insert("dbo.t").await?;
    for n in 1..=ROWS {
        request.send((id, n, Some("some text to make the row longer")).into_row()).await?;
    }
    Ok(request.finalize().await?.total())
}

async fn try_batch(client: &mut SqlClient, id: i32) -> Fate {
    if batch(client, "SET XACT_ABORT ON; BEGIN TRANSACTION").await.is_err() || load(client, id).await.is_err()
    {
        return Fate::NotCommitted;
    }
    match batch(client, "IF XACT_STATE() <> 1 THROW 50404, N'gone', 1; COMMIT TRANSACTION").await {
        Ok(_) => Fate::Committed,
        Err(error) if error.code().is_some() => Fate::NotCommitted,
        Err(_) => Fate::Unknown,
    }
}

/// Loads batches until the connection is lost.
async fn loader(mut client: SqlClient, ids: Arc<AtomicI32>, fates: mpsc::Sender<(i32, Fate)>) {
    loop {
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let fate = try_batch(&mut client, id).await;
        fates.send((id, fate)).await.unwrap();
        if fate != Fate::Committed {
            return;
        }
    }
}

/// Looks for batches of which only a part can be seen, until the connection is lost.
async fn reader(mut client: SqlClient) -> Vec<i32> {
    let torn = format!("SELECT batch FROM dbo.t GROUP BY batch HAVING COUNT(*) <> {ROWS}");
    while let Ok(results) = batch(&mut client, &torn).await {
        let torn: Vec<i32> = results.iter().flatten().map(|row| row.get(0).unwrap()).collect();
        if !torn.is_empty() {
            return torn;
        }
    }
    Vec::new()
}

/// The process of a session that works for the SQL server.
async fn a_backend(postgres: &Postgres) -> i32 {
    let mut config = postgres.config();
    let (client, connection) = config.dbname("sinkdb").connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let found = client
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'sql-server-stand-in' ORDER BY random() LIMIT 1",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    connection.abort();
    found
}

async fn connect(fixture: &Fixture) -> SqlClient {
    // after a crash of one of its processes PostgreSQL recovers by itself, and refuses connections meanwhile
    let work = async {
        loop {
            if let Ok(client) = fixture.try_connect(fixture.config()).await {
                return client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_no_committed_batch_is_missing_or_torn_after_kills_under_load() {
    let kills = std::env::var(KILLS).map_or(DEFAULT_KILLS, |kills| kills.parse().unwrap());
    let mut fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (batch int NOT NULL, n int NOT NULL, text nvarchar(60), CONSTRAINT pk PRIMARY KEY (batch, n))").await;
    let ids = Arc::new(AtomicI32::new(1));
    let mut fates = BTreeMap::new();
    let mut unknown = 0;
    for round in 0..kills {
        let (sender, mut receiver) = mpsc::channel(1024);
        let mut work = Vec::new();
        for _ in 0..LOADERS {
            work.push(tokio::spawn(loader(connect(&fixture).await, ids.clone(), sender.clone())));
        }
        let reading = tokio::spawn(reader(connect(&fixture).await));
        drop(sender);
        // never at the same point of the work
        for _ in 0..LOADERS * 2 + round % 7 {
            let (id, fate) = receiver.recv().await.unwrap();
            fates.insert(id, fate);
        }
        match round % 3 {
            0 => {
                fixture.postgres.kill().await;
                fixture.postgres.restart().await.unwrap();
            }
            1 => kill(Pid::from_raw(a_backend(&fixture.postgres).await), Signal::SIGKILL).unwrap(),
            _ => fixture.server.faults().disconnect_all(),
        }
        while let Some((id, fate)) = receiver.recv().await {
            fates.insert(id, fate);
        }
        for loader in work {
            loader.await.unwrap();
        }
        assert_eq!(reading.await.unwrap(), [0i32; 0], "round {round}: seen in part");
        unknown += fates.values().filter(|fate| **fate == Fate::Unknown).count();
        verify(&fixture, &mut fates, round).await;
    }
    let committed = fates.values().filter(|fate| **fate == Fate::Committed).count();
    println!("{kills} kills, {committed} batches committed of {}, {unknown} commits unanswered", fates.len());
    assert!(committed >= kills * LOADERS);
}

async fn verify(fixture: &Fixture, fates: &mut BTreeMap<i32, Fate>, round: usize) {
    let mut client = connect(fixture).await;
    // the lock waits for transactions that are still on their way
    let stored = rows(
        &mut client,
        "SELECT batch, COUNT(*), COUNT(DISTINCT n), SUM(n) FROM dbo.t WITH (TABLOCK) GROUP BY batch",
    )
    .await;
    let stored: BTreeMap<i32, (i32, i32, i32)> = stored
        .iter()
        .map(|row| {
            let int = |index: usize| row.get::<i32, _>(index).unwrap();
            (int(0), (int(1), int(2), int(3)))
        })
        .collect();
    for (id, found) in &stored {
        assert_eq!(*found, (ROWS, ROWS, ROWS * (ROWS + 1) / 2), "round {round}: batch {id} is torn");
        let fate = fates.get_mut(id).unwrap();
        assert_ne!(*fate, Fate::NotCommitted, "round {round}: batch {id} was not committed, and is there");
        // from here on it must stay
        *fate = Fate::Committed;
    }
    for (id, fate) in fates {
        let is_stored = stored.contains_key(id);
        assert!(is_stored || *fate != Fate::Committed, "round {round}: batch {id} is missing");
        if !is_stored {
            *fate = Fate::NotCommitted;
        }
    }
}
