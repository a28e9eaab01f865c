//! Each fault, as a client meets it.

use std::time::{Duration, Instant};

use local_stack::sql_server::faults::{Condition, Effect, Fault, Faults, Moment, Occasion, ScriptedFault};
use tiberius::{IntoRow, SqlBulkCopyOption};

use crate::fixture::{Fixture, SqlClient, batch, error_of, int, number_of, run};

/// What the sink sends to commit a batch.
const SINKS_COMMIT: &str =
    "IF XACT_STATE() <> 1 THROW 50404, N'the transaction of this batch is gone', 1; COMMIT TRANSACTION";

async fn with_table() -> (Fixture, SqlClient) {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20))").await;
    (fixture, client)
}

fn script(fixture: &Fixture, fault: Fault) -> ScriptedFault {
    fixture.server.faults().script(fault).unwrap()
}

async fn load(client: &mut SqlClient, rows: i64) -> tiberius::Result<u64> {
    let options = SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::CheckConstraints;
    let mut request = client.bulk_insert_with_options("dbo.t", &["*"], options, &[]).await?;
    for id in 0..rows {
        request.send((id, Some("name")).into_row()).await?;
    }
    Ok(request.finalize().await?.total())
}

async fn count(client: &mut SqlClient) -> i32 {
    int(client, "SELECT COUNT(*) FROM dbo.t").await
}

/// A connection was lost: no number of the server's.
fn is_lost<T: std::fmt::Debug>(result: tiberius::Result<T>) -> bool {
    result.unwrap_err().code().is_none()
}

#[tokio::test]
async fn the_nth_load_is_rejected_and_the_others_are_not() {
    let (fixture, mut client) = with_table().await;
    let fault = script(&fixture, Fault::new(Occasion::BulkLoad, Effect::Reject(1105.into())).nth(2));
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
    let error = load(&mut client, 10).await.unwrap_err();
    assert_eq!(number_of(&error), 1105);
    let tiberius::error::Error::Server(token) = &error else { panic!("{error}") };
    assert_eq!((token.class(), token.state()), (17, 2));
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
    assert_eq!(count(&mut client).await, 20);
    assert_eq!(fault.strikes(), 1);

    // under XACT_ABORT the error takes the transaction with it, as any other does
    script(&fixture, Fault::new(Occasion::BulkLoad, Effect::Reject(1205.into())).nth(1));
    run(&mut client, "SET XACT_ABORT ON; BEGIN TRAN").await;
    assert_eq!(number_of(&load(&mut client, 10).await.unwrap_err()), 1205);
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 0);

    // Azure SQL ends the connection with an error of class 20
    script(&fixture, Fault::new(Occasion::BulkLoad, Effect::Reject(40501.into())).nth(1));
    assert_eq!(number_of(&load(&mut client, 10).await.unwrap_err()), 40501);
    assert!(is_lost(client.simple_query("SELECT 1").await.map(|_| ())));
}

#[tokio::test]
async fn a_fraction_of_loads_is_rejected_and_the_rest_is_there() {
    let (fixture, mut client) = with_table().await;
    let fault = Fault::new(Occasion::BulkLoad, Effect::Reject(1204.into())).fraction(0.5, 3);
    // class 19 would end the transaction, and here the load alone is one
    let fault = script(&fixture, fault);
    let mut taken = 0;
    for _ in 0..40 {
        match load(&mut client, 5).await {
            Ok(rows) => taken += i32::try_from(rows).unwrap(),
            Err(error) => assert_eq!(number_of(&error), 1204),
        }
    }
    assert_eq!(count(&mut client).await, taken);
    assert!((5..35).contains(&fault.strikes()), "{}", fault.strikes());
    assert_eq!(u64::try_from(taken).unwrap() / 5 + fault.strikes(), 40);
}

#[tokio::test]
async fn a_connection_is_dropped_before_during_and_after_a_load() {
    let (fixture, mut client) = with_table().await;
    for (moment, stored) in [(Moment::Before, 0), (Moment::During, 0), (Moment::After, 50_000)] {
        let fault = script(&fixture, Fault::new(Occasion::BulkLoad, Effect::Disconnect(moment)).nth(1));
        let mut loading = fixture.connect().await;
        assert!(is_lost(load(&mut loading, 50_000).await), "{moment:?}");
        fault.wait_for_strikes(1).await;
        // waits for what the lost session held
        run(&mut client, "DELETE FROM dbo.t WHERE id < 0").await;
        assert_eq!(count(&mut client).await, stored, "{moment:?}");
    }
    // in a transaction, what was loaded goes with the connection
    let mut loading = fixture.connect().await;
    run(&mut loading, "BEGIN TRAN").await;
    script(&fixture, Fault::new(Occasion::BulkLoad, Effect::Disconnect(Moment::After)).nth(1));
    assert!(is_lost(load(&mut loading, 10).await));
    assert_eq!(count(&mut client).await, 50_000);
}

#[tokio::test]
async fn a_connection_is_dropped_before_a_commit_or_after_it_and_before_its_answer() {
    let (fixture, mut client) = with_table().await;
    let mut expected = 0;
    for by_request in [false, true] {
        for (moment, stored) in [(Moment::Before, 0), (Moment::After, 10)] {
            let fault = script(&fixture, Fault::new(Occasion::Commit, Effect::Disconnect(moment)).nth(1));
            let mut loading = fixture.connect().await;
            let lost = if by_request {
                loading.begin_transaction().await.unwrap();
                load(&mut loading, 10).await.unwrap();
                is_lost(loading.commit_transaction().await)
            } else {
                run(&mut loading, "SET XACT_ABORT ON; BEGIN TRANSACTION").await;
                load(&mut loading, 10).await.unwrap();
                is_lost(crate::fixture::batch(&mut loading, SINKS_COMMIT).await)
            };
            assert!(lost, "{by_request} {moment:?}");
            expected += stored;
            assert_eq!(count(&mut client).await, expected, "{by_request} {moment:?}");
            assert_eq!(fault.strikes(), 1);
        }
    }
}

#[tokio::test]
async fn a_commit_is_rejected_or_done_and_answered_with_an_error() {
    let (fixture, mut client) = with_table().await;
    let mut loading = fixture.connect().await;
    script(&fixture, Fault::new(Occasion::Commit, Effect::Reject(1205.into())).nth(1));
    run(&mut loading, "BEGIN TRANSACTION").await;
    load(&mut loading, 10).await.unwrap();
    assert_eq!(error_of(&mut loading, SINKS_COMMIT).await, 1205);
    assert_eq!(int(&mut loading, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(count(&mut client).await, 0);

    script(&fixture, Fault::new(Occasion::Commit, Effect::FailAfterWrite(40197.into())).nth(1));
    run(&mut loading, "BEGIN TRANSACTION").await;
    load(&mut loading, 10).await.unwrap();
    assert_eq!(error_of(&mut loading, SINKS_COMMIT).await, 40197);
    assert!(is_lost(loading.simple_query("SELECT 1").await.map(|_| ())), "the session goes on");
    assert_eq!(count(&mut client).await, 10);

    let mut loading = fixture.connect().await;
    script(&fixture, Fault::new(Occasion::BulkLoad, Effect::FailAfterWrite(40197.into())).nth(1));
    assert_eq!(number_of(&load(&mut loading, 10).await.unwrap_err()), 40197);
    assert_eq!(count(&mut client).await, 20);
}

#[tokio::test]
async fn an_answer_is_held_until_it_is_released() {
    let (fixture, mut client) = with_table().await;
    for occasion in [Occasion::BulkLoad, Occasion::Commit] {
        let fault = script(&fixture, Fault::new(occasion, Effect::HoldAnswer).at_most(1));
        let mut loading = fixture.connect().await;
        let work = tokio::spawn(async move {
            run(&mut loading, "BEGIN TRANSACTION").await;
            load(&mut loading, 10).await.unwrap();
            run(&mut loading, SINKS_COMMIT).await;
        });
        fault.wait_for_strikes(1).await;
        assert!(!work.is_finished());
        if occasion == Occasion::Commit {
            assert_eq!(count(&mut client).await, 20, "a held answer is that of a commit that was done");
        }
        fault.release();
        work.await.unwrap();
    }
    // a client that gives up does not hang on: its connection is gone
    let fault = script(&fixture, Fault::new(Occasion::Commit, Effect::HoldAnswer));
    let mut leaving = fixture.connect().await;
    run(&mut leaving, "BEGIN TRANSACTION").await;
    let connections = fixture.server.faults().connections();
    let work = tokio::spawn(async move { run(&mut leaving, "COMMIT").await });
    fault.wait_for_strikes(1).await;
    work.abort();
    until(|| fixture.server.faults().connections() < connections).await;
}

#[tokio::test]
async fn an_answer_is_delayed() {
    let (fixture, mut client) = with_table().await;
    let delay = Duration::from_millis(300);
    let fault = script(&fixture, Fault::new(Occasion::BulkLoad, Effect::DelayAnswer(delay)));
    let started = Instant::now();
    load(&mut client, 10).await.unwrap();
    assert!(started.elapsed() >= delay);
    assert_eq!(fault.strikes(), 1);
    fault.remove();
    load(&mut client, 10).await.unwrap();
    assert_eq!(fault.strikes(), 1);
    assert_eq!(count(&mut client).await, 20);

    script(&fixture, Fault::new(Occasion::Login, Effect::DelayAnswer(delay)).nth(1));
    let started = Instant::now();
    fixture.connect().await;
    assert!(started.elapsed() >= delay);
}

#[tokio::test]
async fn logins_are_refused_dropped_and_limited() {
    let (fixture, client) = with_table().await;
    let faults = fixture.server.faults();
    script(&fixture, Fault::new(Occasion::Login, Effect::Reject(40613.into())).nth(1));
    let refused = fixture.try_connect(fixture.config()).await;
    assert_eq!(refused.as_ref().err().map(number_of), Some(40613));
    script(&fixture, Fault::new(Occasion::Login, Effect::Disconnect(Moment::Before)).nth(1));
    let lost = fixture.try_connect(fixture.config()).await;
    assert!(lost.is_err_and(|error| error.code().is_none()));

    until(|| faults.connections() == 1).await;
    for error in [10928, 10929] {
        faults.limit_connections(Some(1), error);
        let refused = fixture.try_connect(fixture.config()).await;
        assert_eq!(refused.as_ref().err().map(number_of), Some(u32::try_from(error).unwrap()));
    }
    assert_eq!(faults.struck(Condition::Connections), 2);
    drop(client);
    until(|| faults.connections() == 0).await;
    fixture.connect().await;
}

#[tokio::test]
async fn loads_together_take_no_more_rows_a_second_than_the_limit() {
    let (fixture, mut client) = with_table().await;
    fixture.server.faults().limit_rows_per_second(Some(20_000));
    let mut other = fixture.connect().await;
    let started = Instant::now();
    let (a, b) = tokio::join!(load(&mut client, 10_000), load(&mut other, 10_000));
    assert_eq!((a.unwrap(), b.unwrap()), (10_000, 10_000));
    // one packet of each may go unpaid
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    assert!(fixture.server.faults().struck(Condition::RowsPerSecond) > 0);
    fixture.server.faults().limit_rows_per_second(None);
    assert_eq!(load(&mut client, 200_000).await.unwrap(), 200_000);
}

#[tokio::test]
async fn loads_at_once_bring_in_more_where_each_has_a_limit_of_its_own() {
    let (fixture, mut client) = with_table().await;
    fixture.server.faults().limit_rows_per_second_of_a_load(Some(20_000));
    let mut other = fixture.connect().await;
    let started = Instant::now();
    let (a, b) = tokio::join!(load(&mut client, 10_000), load(&mut other, 10_000));
    assert_eq!((a.unwrap(), b.unwrap()), (10_000, 10_000));
    let together = started.elapsed();
    assert!(together >= Duration::from_millis(480), "{together:?}");
    let started = Instant::now();
    load(&mut client, 10_000).await.unwrap();
    load(&mut other, 10_000).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(960), "{:?}", started.elapsed());
    assert!(fixture.server.faults().struck(Condition::RowsPerSecondOfALoad) > 0);
}

#[tokio::test]
async fn loads_beyond_the_limit_are_refused_until_another_ends() {
    let (fixture, mut client) = with_table().await;
    let faults = fixture.server.faults();
    faults.limit_rows_per_second_of_a_load(Some(20_000));
    faults.limit_loads(Some(1), 10928);
    let mut other = fixture.connect().await;
    let long = tokio::spawn(async move { load(&mut client, 20_000).await });
    until(|| faults.struck(Condition::RowsPerSecondOfALoad) > 0).await;
    assert_eq!(number_of(&load(&mut other, 10).await.unwrap_err()), 10928);
    assert_eq!(long.await.unwrap().unwrap(), 20_000);
    // nothing of the refused one is left behind, neither rows nor its place; its session is, by the class of the error
    let mut other = fixture.connect().await;
    assert_eq!(load(&mut other, 10).await.unwrap(), 10);
    assert_eq!(count(&mut other).await, 20_010);
    assert_eq!(faults.struck(Condition::Loads), 1);
}

#[tokio::test]
async fn a_full_database_takes_nothing_more_and_can_be_emptied() {
    let (fixture, mut client) = with_table().await;
    let faults = fixture.server.faults();
    load(&mut client, 10).await.unwrap();
    faults.fill_database(1105, Duration::MAX);
    assert_eq!(number_of(&load(&mut client, 10).await.unwrap_err()), 1105);
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t VALUES (1, N'a')").await, 1105);
    assert_eq!(error_of(&mut client, "CREATE TABLE dbo.u (n int)").await, 1105);
    run(&mut client, "DELETE FROM dbo.t").await;
    faults.fill_database(9002, Duration::MAX);
    assert_eq!(error_of(&mut client, "DELETE FROM dbo.t").await, 9002);
    assert_eq!(count(&mut client).await, 0);
    faults.fill_database(40544, Duration::MAX);
    let mut loading = fixture.connect().await;
    assert_eq!(number_of(&load(&mut loading, 10).await.unwrap_err()), 40544);
    assert_eq!(faults.struck(Condition::DatabaseFull), 5);
    faults.clear();
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
}

#[tokio::test]
async fn in_a_failover_connections_can_only_read_and_logins_are_refused() {
    let (fixture, mut client) = with_table().await;
    let faults = fixture.server.faults();
    load(&mut client, 10).await.unwrap();
    let mut writing = fixture.connect().await;
    run(&mut writing, "BEGIN TRANSACTION").await;
    load(&mut writing, 10).await.unwrap();
    let mut reading = fixture.connect().await;
    run(&mut reading, "BEGIN TRANSACTION; SELECT COUNT(*) FROM dbo.t").await;

    faults.fail_over(Duration::MAX);
    assert_eq!(number_of(&load(&mut client, 10).await.unwrap_err()), 3906);
    assert_eq!(error_of(&mut client, "UPDATE dbo.t SET name = N'b'").await, 3906);
    assert_eq!(error_of(&mut writing, SINKS_COMMIT).await, 3906);
    run(&mut reading, SINKS_COMMIT).await;
    assert_eq!(count(&mut client).await, 10);
    let refused = fixture.try_connect(fixture.config()).await;
    assert_eq!(refused.as_ref().err().map(number_of), Some(40613));

    // it ends by itself
    faults.fail_over(Duration::from_millis(200));
    let started = Instant::now();
    while let Err(error) = fixture.try_connect(fixture.config()).await {
        assert_eq!(number_of(&error), 40613);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
    assert!(faults.struck(Condition::Failover) >= 4);
}

#[tokio::test]
async fn a_fault_can_begin_a_failover() {
    let (fixture, mut client) = with_table().await;
    let fault = Fault::new(Occasion::BulkLoad, Effect::FailOver(Duration::MAX)).nth(2);
    let fault = script(&fixture, fault);
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
    assert_eq!(number_of(&load(&mut client, 10).await.unwrap_err()), 3906);
    assert_eq!(fault.strikes(), 1);
    fixture.server.faults().clear();
    assert_eq!(load(&mut client, 10).await.unwrap(), 10);
}

#[tokio::test]
async fn a_session_ends_when_its_token_has_expired() {
    let (fixture, mut client) = with_table().await;
    let faults = fixture.server.faults();
    faults.expire_tokens(Duration::MAX);
    let error = batch(&mut client, "SELECT 1").await.unwrap_err();
    assert_eq!(number_of(&error), 18456);
    assert!(error.to_string().contains("Token is expired"), "{error}");
    assert!(is_lost(client.simple_query("SELECT 1").await.map(|_| ())));
    let refused = fixture.try_connect(fixture.config()).await;
    let error = refused.err().unwrap();
    assert_eq!(number_of(&error), 18456);
    assert!(error.to_string().contains("Token is expired"), "{error}");
    assert_eq!(faults.struck(Condition::TokensExpired), 2);
    faults.clear();
    fixture.connect().await;
}

#[tokio::test]
async fn all_connections_can_be_ended_at_once() {
    let (fixture, mut client) = with_table().await;
    let mut writing = fixture.connect().await;
    run(&mut writing, "BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (1, N'a')").await;
    fixture.server.faults().disconnect_all();
    assert!(is_lost(client.simple_query("SELECT 1").await.map(|_| ())));
    assert!(is_lost(writing.simple_query("COMMIT").await.map(|_| ())));
    assert_eq!(count(&mut fixture.connect().await).await, 0);
}

#[tokio::test]
async fn faults_from_a_file_strike_too() {
    let faults = Faults::from_toml("[[fault]]\non = 'commit'\nnth = 2\nerror = 1205\n").unwrap();
    let fixture = Fixture::with_faults(faults).await;
    let mut client = fixture.connect().await;
    run(&mut client, "BEGIN TRAN; COMMIT").await;
    assert_eq!(error_of(&mut client, "BEGIN TRAN; COMMIT").await, 1205);
    run(&mut client, "BEGIN TRAN; COMMIT").await;
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
