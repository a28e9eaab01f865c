use crate::fixture::{Fixture, batch, error_of, int, run};

#[tokio::test]
async fn transactions_nest_in_number_and_end_as_one() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL PRIMARY KEY)").await;
    run(&mut client, "BEGIN TRAN; BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (1); COMMIT").await;
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 1);
    run(&mut client, "SAVE TRAN here; INSERT INTO dbo.t VALUES (2); ROLLBACK TRAN here; COMMIT").await;
    assert_eq!(int(&mut client, "SELECT SUM(n) FROM dbo.t").await, 1);
    assert_eq!(error_of(&mut client, "COMMIT").await, 3902);
    assert_eq!(error_of(&mut client, "ROLLBACK").await, 3903);
}

#[tokio::test]
async fn the_clients_own_transaction_requests_hold() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL PRIMARY KEY)").await;
    client.begin_transaction().await.unwrap();
    run(&mut client, "INSERT INTO dbo.t VALUES (1)").await;
    client.rollback_transaction().await.unwrap();
    client.begin_transaction().await.unwrap();
    run(&mut client, "INSERT INTO dbo.t VALUES (2)").await;
    client.commit_transaction().await.unwrap();
    assert_eq!(int(&mut client, "SELECT SUM(n) FROM dbo.t").await, 2);
}

#[tokio::test]
async fn an_error_spares_the_transaction_unless_xact_abort_is_on() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL PRIMARY KEY)").await;
    run(&mut client, "BEGIN TRAN; INSERT INTO dbo.t VALUES (1)").await;
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t VALUES (1)").await, 2627);
    assert_eq!(error_of(&mut client, "SELECT 1/0").await, 8134);
    run(&mut client, "INSERT INTO dbo.t VALUES (2); COMMIT").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 2);

    run(&mut client, "SET XACT_ABORT ON; BEGIN TRAN; INSERT INTO dbo.t VALUES (3)").await;
    assert_eq!(
        error_of(&mut client, "INSERT INTO dbo.t VALUES (1); INSERT INTO dbo.t VALUES (4)").await,
        2627
    );
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 2);

    // without it, the rest of the batch runs
    run(&mut client, "SET XACT_ABORT OFF").await;
    assert_eq!(
        error_of(&mut client, "INSERT INTO dbo.t VALUES (1); INSERT INTO dbo.t VALUES (4)").await,
        2627
    );
    let mut other = fixture.connect().await;
    assert_eq!(int(&mut other, "SELECT COUNT(*) FROM dbo.t").await, 3);
}

#[tokio::test]
async fn the_sinks_commit_batch_throws_unless_all_is_well() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.progress (id int NOT NULL PRIMARY KEY, seq bigint NOT NULL); INSERT INTO dbo.progress VALUES (1, 10)").await;
    let commit = |previous: i64, last: i64| {
        format!(
            "IF XACT_STATE() <> 1 THROW 50001, 'not in a transaction', 1; \
             UPDATE dbo.progress SET seq = {last} WHERE id = 1 AND seq = {previous} AND {last} > seq; \
             IF @@ROWCOUNT <> 1 THROW 50002, 'progress moved', 1; \
             COMMIT TRANSACTION"
        )
    };
    run(&mut client, "SET XACT_ABORT ON; BEGIN TRAN").await;
    run(&mut client, &commit(10, 20)).await;
    assert_eq!(int(&mut client, "SELECT CAST(seq AS int) FROM dbo.progress").await, 20);
    assert_eq!(error_of(&mut client, &commit(20, 30)).await, 50001);
    run(&mut client, "BEGIN TRAN").await;
    assert_eq!(error_of(&mut client, &commit(10, 30)).await, 50002);
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(int(&mut client, "SELECT CAST(seq AS int) FROM dbo.progress").await, 20);
}

#[tokio::test]
async fn locks_wait_time_out_and_break_a_deadlock() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(
        &mut first,
        "CREATE TABLE dbo.t (n int NOT NULL PRIMARY KEY, v int); INSERT INTO dbo.t VALUES (1, 0), (2, 0)",
    )
    .await;
    run(&mut first, "BEGIN TRAN; UPDATE dbo.t SET v = 1 WHERE n = 1").await;
    // a plain read sees the last committed version
    assert_eq!(int(&mut second, "SELECT v FROM dbo.t WHERE n = 1").await, 0);
    run(&mut second, "SET LOCK_TIMEOUT 100").await;
    assert_eq!(error_of(&mut second, "UPDATE dbo.t SET v = 2 WHERE n = 1").await, 1222);
    run(&mut second, "SET LOCK_TIMEOUT -1; BEGIN TRAN; UPDATE dbo.t SET v = 2 WHERE n = 2").await;
    let wait = async {
        let result = batch(&mut first, "UPDATE dbo.t SET v = 3 WHERE n = 2").await;
        result.as_ref().err().map(crate::fixture::number_of)
    };
    let cross = async {
        let result = batch(&mut second, "UPDATE dbo.t SET v = 3 WHERE n = 1").await;
        result.as_ref().err().map(crate::fixture::number_of)
    };
    let (a, b) = tokio::join!(wait, cross);
    // PostgreSQL looks for a deadlock after a second, and whoever looks first is the victim
    assert!(matches!((a, b), (Some(1205), None) | (None, Some(1205))), "{a:?} {b:?}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_runs_for_it() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (n int NOT NULL)").await;
    let mut other = fixture.connect().await;
    run(&mut other, "BEGIN TRAN; INSERT INTO dbo.t VALUES (1)").await;
    {
        let wait = other.simple_query("WAITFOR DELAY '00:05:00'");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(300), wait).await.is_err());
    }
    drop(other);
    // its lock goes with it
    run(&mut client, "ALTER TABLE dbo.t ADD m int NULL").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
}
