//! Transactions beside each other, as Azure SQL has them by default: readers see what is committed and wait for
//! nobody, and races are not hidden.

use std::time::Duration;

use tiberius::IntoRow;

use crate::fixture::{Fixture, SqlClient, batch, error_of, int, number_of, run};

/// Whether a PostgreSQL session waits for a lock; asked of the server behind the server.
async fn until_somebody_waits(fixture: &Fixture) {
    let (client, connection) = fixture.postgres.config().connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let work = async {
        while client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.unwrap();
    connection.abort();
}

async fn number(client: &mut SqlClient, sql: &str) -> Option<u32> {
    batch(client, sql).await.as_ref().err().map(number_of)
}

#[tokio::test]
async fn open_loads_into_one_table_go_on_together_and_nobody_sees_them() {
    let fixture = Fixture::start().await;
    let mut reader = fixture.connect().await;
    run(&mut reader, "CREATE TABLE dbo.t (id bigint NOT NULL PRIMARY KEY, name nvarchar(20))").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = fixture.connect().await;
        run(&mut client, "BEGIN TRANSACTION").await;
        clients.push(client);
    }
    // row by row in turns: each load is open while the others take rows
    let mut loads = Vec::new();
    for client in &mut clients {
        loads.push(client.bulk_insert("dbo.t").await.unwrap());
    }
    for round in 0..2_000i64 {
        for (writer, load) in (0i64..).zip(&mut loads) {
            load.send((writer * 1_000_000 + round, Some("name")).into_row()).await.unwrap();
        }
    }
    for load in loads {
        assert_eq!(load.finalize().await.unwrap().total(), 2_000);
    }
    assert_eq!(int(&mut reader, "SELECT COUNT(*) FROM dbo.t").await, 0);
    for (committed, client) in (1..).zip(&mut clients) {
        run(client, "COMMIT").await;
        assert_eq!(int(&mut reader, "SELECT COUNT(*) FROM dbo.t").await, committed * 2_000);
    }
}

#[tokio::test]
async fn without_hints_two_transactions_both_insert_what_was_absent() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "CREATE TABLE dbo.t (id int NOT NULL, who int NOT NULL)").await;
    let insert = |who: i32| {
        format!(
            "INSERT INTO dbo.t (id, who) SELECT 1, {who} WHERE NOT EXISTS (SELECT 1 FROM dbo.t WHERE id = 1); \
             SELECT @@ROWCOUNT"
        )
    };
    run(&mut first, "BEGIN TRANSACTION").await;
    run(&mut second, "BEGIN TRANSACTION").await;
    assert_eq!(int(&mut first, &insert(1)).await, 1);
    assert_eq!(int(&mut second, &insert(2)).await, 1, "the race is hidden");
    run(&mut first, "COMMIT").await;
    run(&mut second, "COMMIT").await;
    assert_eq!(int(&mut first, "SELECT COUNT(*) FROM dbo.t").await, 2);
}

#[tokio::test]
async fn with_updlock_and_holdlock_only_one_of_two_inserts_what_was_absent() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "CREATE TABLE dbo.t (id int NOT NULL, who int NOT NULL)").await;
    let insert = |who: i32| {
        format!(
            "INSERT INTO dbo.t (id, who) SELECT 1, {who} \
             WHERE NOT EXISTS (SELECT 1 FROM dbo.t WITH (UPDLOCK, HOLDLOCK) WHERE id = 1); \
             SELECT @@ROWCOUNT"
        )
    };
    for ending in ["COMMIT", "ROLLBACK"] {
        run(&mut first, "DELETE FROM dbo.t; BEGIN TRANSACTION").await;
        assert_eq!(int(&mut first, &insert(1)).await, 1);
        run(&mut second, "SET LOCK_TIMEOUT 100; BEGIN TRANSACTION").await;
        assert_eq!(number(&mut second, &insert(2)).await, Some(1222), "the lock is missing");
        run(&mut second, "SET LOCK_TIMEOUT -1").await;
        let sql = insert(2);
        let waits = async {
            until_somebody_waits(&fixture).await;
            run(&mut first, ending).await;
        };
        let (inserted, ()) = tokio::join!(int(&mut second, &sql), waits);
        assert_eq!(inserted, i32::from(ending == "ROLLBACK"), "{ending}");
        run(&mut second, "COMMIT").await;
        assert_eq!(int(&mut first, "SELECT COUNT(*) FROM dbo.t").await, 1, "{ending}");
    }
}

#[tokio::test]
async fn a_plain_read_waits_for_nobody_and_readcommittedlock_waits_for_the_writer() {
    let fixture = Fixture::start().await;
    let mut writer = fixture.connect().await;
    let mut reader = fixture.connect().await;
    run(&mut writer, "CREATE TABLE dbo.p (id int NOT NULL PRIMARY KEY, seq int NOT NULL)").await;
    run(&mut writer, "INSERT INTO dbo.p VALUES (1, 10); BEGIN TRANSACTION; UPDATE dbo.p SET seq = 20").await;
    assert_eq!(int(&mut reader, "SELECT seq FROM dbo.p").await, 10);
    for hints in ["READCOMMITTEDLOCK", "UPDLOCK, READCOMMITTEDLOCK"] {
        let locked = format!("SELECT seq FROM dbo.p WITH ({hints}) WHERE id = 1");
        assert_eq!(error_of(&mut reader, &format!("SET LOCK_TIMEOUT 50; {locked}")).await, 1222);
    }
    run(&mut reader, "SET LOCK_TIMEOUT -1").await;
    let waits = async {
        until_somebody_waits(&fixture).await;
        run(&mut writer, "COMMIT").await;
    };
    let sql = "SELECT seq FROM dbo.p WITH (UPDLOCK, READCOMMITTEDLOCK) WHERE id = 1";
    let (seen, ()) = tokio::join!(int(&mut reader, sql), waits);
    assert_eq!(seen, 20, "a commit in flight was not waited for");
}

#[tokio::test]
async fn a_lock_taken_by_a_statement_that_failed_stays_with_its_transaction() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "CREATE TABLE dbo.t (id int NOT NULL PRIMARY KEY); INSERT INTO dbo.t VALUES (1)").await;
    let failing = "INSERT INTO dbo.t SELECT MAX(id) FROM dbo.t WITH (UPDLOCK, HOLDLOCK)";
    run(&mut first, "BEGIN TRANSACTION").await;
    assert_eq!(error_of(&mut first, failing).await, 2627);
    assert_eq!(error_of(&mut second, "SET LOCK_TIMEOUT 50; INSERT INTO dbo.t VALUES (2)").await, 1222);
    run(&mut first, "ROLLBACK").await;
    run(&mut second, "INSERT INTO dbo.t VALUES (2)").await;
}

#[tokio::test]
async fn a_lock_timeout_outlives_a_rollback_and_not_its_procedure() {
    let fixture = Fixture::start().await;
    let mut holder = fixture.connect().await;
    let mut client = fixture.connect().await;
    run(&mut holder, "CREATE TABLE dbo.t (id int NOT NULL); INSERT INTO dbo.t VALUES (1)").await;
    run(&mut holder, "BEGIN TRANSACTION; UPDATE dbo.t SET id = 2").await;
    let update = "UPDATE dbo.t SET id = 3";
    for ending in ["ROLLBACK", "SAVE TRANSACTION s; SET LOCK_TIMEOUT 30; ROLLBACK TRANSACTION s"] {
        run(&mut client, &format!("BEGIN TRANSACTION; SET LOCK_TIMEOUT 50; {ending}")).await;
        assert_eq!(error_of(&mut client, update).await, 1222, "{ending}");
        run(&mut client, "IF @@TRANCOUNT > 0 ROLLBACK; SET LOCK_TIMEOUT -1").await;
    }
    // sp_executesql gives options back as they were
    run(&mut client, "SET LOCK_TIMEOUT 50").await;
    client.execute("SET LOCK_TIMEOUT -1", &[]).await.unwrap();
    assert_eq!(error_of(&mut client, update).await, 1222);
}

#[tokio::test]
async fn an_error_anywhere_in_a_statement_leaves_the_transaction_as_it_was() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id int NOT NULL PRIMARY KEY)").await;
    run(&mut client, "BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (1)").await;
    for (failing, error) in [
        ("DECLARE @x int = 1 / 0", 8134),
        ("DECLARE @x int; SELECT @x = 1 / 0", 8134),
        ("IF 1 / 0 = 1 SELECT 1", 8134),
        ("CREATE TABLE dbo.t (id int)", 2714),
        ("SELECT id FROM dbo.missing", 208),
        ("INSERT INTO dbo.t VALUES (1)", 2627),
        ("ROLLBACK TRANSACTION nothing_saved", 6401),
        ("SELECT CAST('x' AS int)", 245),
    ] {
        assert_eq!(error_of(&mut client, failing).await, error, "{failing}");
        assert_eq!(int(&mut client, "SELECT XACT_STATE() + 0").await, 1, "{failing}");
    }
    run(&mut client, "INSERT INTO dbo.t VALUES (2); COMMIT").await;
    let mut other = fixture.connect().await;
    assert_eq!(int(&mut other, "SELECT COUNT(*) FROM dbo.t").await, 2, "answered as committed, and is not");
}

#[tokio::test]
async fn under_xact_abort_an_error_within_try_dooms_the_transaction() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id int NOT NULL PRIMARY KEY); SET XACT_ABORT ON").await;
    let doomed = |catch: &str| {
        format!(
            "BEGIN TRY BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (1); INSERT INTO dbo.t VALUES (1); \
             COMMIT; END TRY BEGIN CATCH {catch} END CATCH"
        )
    };
    // what it wrote can still be read
    let read = "SELECT XACT_STATE() * 10 + (SELECT COUNT(*) FROM dbo.t); ROLLBACK;";
    assert_eq!(int(&mut client, &doomed(read)).await, -9);
    assert_eq!(error_of(&mut client, &doomed("INSERT INTO dbo.t VALUES (2);")).await, 3930);
    assert_eq!(error_of(&mut client, &doomed("COMMIT;")).await, 3930);
    assert_eq!(error_of(&mut client, &doomed("PRINT N'go on';")).await, 3998);
    assert_eq!(int(&mut client, "SELECT @@TRANCOUNT").await, 0);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
}

#[tokio::test]
async fn a_deadlocks_victim_gets_1205_and_loses_its_transaction_and_the_other_goes_on() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    run(&mut first, "CREATE TABLE dbo.t (id int NOT NULL PRIMARY KEY, v int NOT NULL)").await;
    run(&mut first, "INSERT INTO dbo.t VALUES (1, 0), (2, 0)").await;
    run(&mut first, "BEGIN TRANSACTION; UPDATE dbo.t SET v = 1 WHERE id = 1").await;
    run(&mut second, "BEGIN TRANSACTION; UPDATE dbo.t SET v = 2 WHERE id = 2").await;
    let (a, b) = tokio::join!(
        number(&mut first, "UPDATE dbo.t SET v = 1 WHERE id = 2"),
        number(&mut second, "UPDATE dbo.t SET v = 2 WHERE id = 1"),
    );
    let (victim, winner, value) = match (a, b) {
        (Some(1205), None) => (&mut first, &mut second, 2),
        (None, Some(1205)) => (&mut second, &mut first, 1),
        other => panic!("{other:?}"),
    };
    assert_eq!(int(victim, "SELECT @@TRANCOUNT").await, 0);
    run(winner, "COMMIT").await;
    assert_eq!(int(victim, "SELECT SUM(v) FROM dbo.t").await, 2 * value);
}

const GET: &str = "DECLARE @r int; EXEC @r = sp_getapplock @Resource = N'sink', @LockMode = N'Exclusive'";

#[tokio::test]
async fn an_application_lock_of_a_transaction_goes_with_it() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    assert_eq!(error_of(&mut first, GET).await, 3918);
    run(&mut first, "BEGIN TRANSACTION").await;
    assert_eq!(int(&mut first, &format!("{GET}; SELECT @r")).await, 0);
    // what a savepoint rolls back is not the lock
    run(&mut first, "SAVE TRANSACTION s").await;
    run(&mut first, "EXEC sp_getapplock N'other', 'Exclusive'; ROLLBACK TRANSACTION s").await;
    run(&mut second, "SET XACT_ABORT ON; BEGIN TRANSACTION").await;
    for resource in ["sink", "other"] {
        let get = format!(
            "DECLARE @r int; EXEC @r = sp_getapplock '{resource}', Exclusive, @LockTimeout = 50; SELECT @r"
        );
        assert_eq!(int(&mut second, &get).await, -1, "{resource}");
    }
    assert_eq!(int(&mut second, &format!("{GET}, @LockTimeout = 0; SELECT @r")).await, -1);
    assert_eq!(int(&mut second, "SELECT @@TRANCOUNT").await, 1, "a wait in vain is no error");
    let waits = async {
        until_somebody_waits(&fixture).await;
        run(&mut first, "COMMIT").await;
    };
    let sql = format!("{GET}; SELECT @r");
    let (status, ()) = tokio::join!(int(&mut second, &sql), waits);
    assert_eq!(status, 1, "granted after waiting");
    run(&mut second, "ROLLBACK").await;
    run(&mut first, "BEGIN TRANSACTION").await;
    assert_eq!(int(&mut first, &format!("{GET}, @LockTimeout = 0; SELECT @r")).await, 0);
}

#[tokio::test]
async fn an_application_lock_of_a_session_stays_until_it_is_released() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    let get = |mode: &str| {
        format!(
            "DECLARE @r int; EXEC @r = sys.sp_getapplock @Resource = N'sink', @LockMode = '{mode}', \
             @LockOwner = 'Session', @LockTimeout = 0; SELECT @r"
        )
    };
    let release = "EXEC sp_releaseapplock @Resource = N'sink', @LockOwner = 'Session'";
    run(&mut first, "BEGIN TRANSACTION").await;
    assert_eq!(int(&mut first, &get("Shared")).await, 0);
    run(&mut first, "ROLLBACK").await;
    assert_eq!(int(&mut second, &get("Shared")).await, 0, "two may share");
    assert_eq!(int(&mut second, &get("Exclusive")).await, -1);
    run(&mut first, release).await;
    assert_eq!(int(&mut second, &get("Exclusive")).await, 0);
    assert_eq!(error_of(&mut first, release).await, 1223);
    // asked for twice, it is released twice
    run(&mut second, release).await;
    assert_eq!(int(&mut first, &get("Exclusive")).await, -1);
    run(&mut second, release).await;
    assert_eq!(int(&mut first, &get("Exclusive")).await, 0);
    // and a connection that ends gives it back
    drop(first);
    let waits = get("Exclusive").replace("@LockTimeout = 0", "@LockTimeout = 20000");
    assert!(int(&mut second, &waits).await >= 0);
    for (call, error) in [
        ("EXEC sp_getapplock N'x', 'Sometimes', 'Session'", 1225),
        ("EXEC sp_getapplock N'x', 'Shared', 'Nobody'", 1226),
        ("EXEC sp_getapplock N'x', 'Shared', 'Session', -2", 1227),
        ("EXEC sp_getapplock @Resource = N'x'", 201),
        ("EXEC sp_getapplock @Resource = N'x', @Mode = 'Shared'", 8145),
    ] {
        assert_eq!(error_of(&mut second, call).await, error, "{call}");
    }
}

#[tokio::test]
async fn application_locks_that_wait_for_each_other_have_a_victim() {
    let fixture = Fixture::start().await;
    let mut first = fixture.connect().await;
    let mut second = fixture.connect().await;
    let get = |name: &str| {
        format!("DECLARE @r int; EXEC @r = sp_getapplock N'{name}', 'Exclusive', 'Session'; SELECT @r")
    };
    assert_eq!(int(&mut first, &get("a")).await, 0);
    assert_eq!(int(&mut second, &get("b")).await, 0);
    let (sql_a, sql_b) = (get("b"), get("a"));
    let to_release = "EXEC sp_releaseapplock N'a', 'Session'; EXEC sp_releaseapplock N'b', 'Session'";
    let one = async {
        let status = int(&mut first, &sql_a).await;
        if status == -3 {
            run(&mut first, "EXEC sp_releaseapplock N'a', 'Session'").await;
        } else {
            run(&mut first, to_release).await;
        }
        status
    };
    let other = async {
        let status = int(&mut second, &sql_b).await;
        if status == -3 {
            run(&mut second, "EXEC sp_releaseapplock N'b', 'Session'").await;
        } else {
            run(&mut second, to_release).await;
        }
        status
    };
    let statuses = tokio::join!(one, other);
    assert!(matches!(statuses, (-3, 1) | (1, -3)), "{statuses:?}");
}
