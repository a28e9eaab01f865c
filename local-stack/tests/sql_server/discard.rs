//! The storage that keeps no rows, and INSERTs with parameters.

use tiberius::{IntoRow, ToSql};

use crate::fixture::{Fixture, SqlClient, int, number_of, rows, run};

const TWO_ROWS: &str =
    "INSERT INTO dbo.t (id, name, small, amount) VALUES (@P1, @P2, @P3, @P4), (@P5, @P2, @P3, @P4)";

async fn insert(client: &mut SqlClient, sql: &str, parameters: &[&dyn ToSql]) -> Result<u64, u32> {
    client
        .execute(sql, parameters)
        .await
        .map(tiberius::ExecuteResult::total)
        .map_err(|error| number_of(&error))
}

async fn insert_two(client: &mut SqlClient, id: Option<i64>, name: &str, small: i32) -> Result<u64, u32> {
    insert(client, TWO_ROWS, &[&id, &name, &small, &1.5f64, &7i64]).await
}

/// The first of a kind goes another way than those after it: each error is provoked on both.
#[tokio::test]
async fn inserts_with_parameters_are_checked_and_counted_and_not_kept() {
    let fixture = Fixture::discarding().await;
    let mut client = fixture.connect().await;
    const TABLE: &str =
        "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(5), small tinyint, amount float)";
    run(&mut client, TABLE).await;
    for known in [false, true] {
        if known {
            assert_eq!(insert_two(&mut client, Some(1), "name", 255).await, Ok(2));
        }
        assert_eq!(insert_two(&mut client, None, "name", 255).await, Err(515), "known: {known}");
        assert_eq!(insert_two(&mut client, Some(1), "longer", 255).await, Err(2628), "known: {known}");
        assert_eq!(insert_two(&mut client, Some(1), "name", 256).await, Err(220), "known: {known}");
        assert_eq!(insert_two(&mut client, Some(1), "é😀", 0).await, Ok(2), "known: {known}");
    }
    assert_eq!(int(&mut client, "SELECT @@ROWCOUNT").await, 2);
    // what PostgreSQL has to convert is counted as well
    let text = "INSERT INTO dbo.t (id, small) VALUES (@P1, @P2)";
    for _ in 0..2 {
        assert_eq!(insert(&mut client, text, &[&17i64, &"17"]).await, Ok(1));
        assert_eq!(insert(&mut client, text, &[&17i64, &"seventeen"]).await, Err(245));
    }
    run(&mut client, "BEGIN TRANSACTION").await;
    assert_eq!(insert_two(&mut client, Some(1), "name", 1).await, Ok(2));
    run(&mut client, "COMMIT TRANSACTION").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
    // everything else is as with PostgreSQL
    run(&mut client, "INSERT INTO dbo.t (id) VALUES (1)").await;
    assert_eq!(insert(&mut client, "UPDATE dbo.t SET small = @P1", &[&1i32]).await, Ok(1));
    assert_eq!(rows(&mut client, "SELECT small FROM dbo.t").await.len(), 1);
}

#[tokio::test]
async fn a_table_that_changes_is_looked_at_again() {
    let fixture = Fixture::discarding().await;
    let (mut client, mut other) = (fixture.connect().await, fixture.connect().await);
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(20), small int, amount float)")
        .await;
    for _ in 0..2 {
        assert_eq!(insert_two(&mut client, Some(1), "a long name", 256).await, Ok(2));
    }
    run(&mut other, "ALTER TABLE dbo.t ADD CONSTRAINT c CHECK (small < 100)").await;
    assert_eq!(insert_two(&mut client, Some(1), "a long name", 256).await, Err(547));
    run(&mut other, "DROP TABLE dbo.t").await;
    assert_eq!(insert_two(&mut client, Some(1), "a long name", 256).await, Err(208));
    run(&mut other, "CREATE TABLE dbo.t (id bigint NOT NULL, name nvarchar(5), small int, amount float)")
        .await;
    assert_eq!(insert_two(&mut client, Some(1), "a long name", 256).await, Err(2628));
    assert_eq!(insert_two(&mut client, Some(1), "name", 256).await, Ok(2));
    // a change that is not committed yet counts for nobody else, and then for all
    run(&mut other, "BEGIN TRANSACTION; CREATE TABLE dbo.u (n int)").await;
    assert_eq!(insert_two(&mut client, Some(1), "name", 256).await, Ok(2));
    run(&mut other, "DROP TABLE dbo.u; COMMIT TRANSACTION").await;
    assert_eq!(insert_two(&mut client, Some(1), "name", 256).await, Ok(2));
}

#[tokio::test]
async fn rows_count_when_they_are_committed() {
    let fixture = Fixture::discarding().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id bigint NOT NULL)").await;
    load(&mut client, 3).await;
    for (end, rows) in [("COMMIT TRANSACTION", 5), ("ROLLBACK TRANSACTION", 7)] {
        run(&mut client, "BEGIN TRANSACTION").await;
        load(&mut client, rows).await;
        run(&mut client, end).await;
    }
    // a statement that PostgreSQL sees, and one that is known
    const TWO: &str = "INSERT INTO dbo.t (id) VALUES (@P1), (@P1)";
    for _ in 0..2 {
        assert_eq!(insert(&mut client, TWO, &[&1i64]).await, Ok(2));
    }
    for end in ["COMMIT TRANSACTION", "ROLLBACK TRANSACTION"] {
        run(&mut client, "BEGIN TRANSACTION").await;
        assert_eq!(insert(&mut client, TWO, &[&1i64]).await, Ok(2));
        run(&mut client, end).await;
    }
    let counts = fixture.server.loads();
    assert_eq!(counts.rows_inserted_and_discarded, 6);
    assert_eq!((counts.loads_begun, counts.loads_committed, counts.rows_committed), (3, 2, 8));
    assert_eq!(counts.rows_committed_in_large_loads, 0);
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t").await, 0);
}

async fn load(client: &mut SqlClient, rows: i64) {
    let mut request = client.bulk_insert("dbo.t").await.unwrap();
    for id in 0..rows {
        request.send(id.into_row()).await.unwrap();
    }
    assert_eq!(request.finalize().await.unwrap().total(), u64::try_from(rows).unwrap());
}
