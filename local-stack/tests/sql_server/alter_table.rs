//! ALTER TABLE: what a table that drifts under a running load goes through.

use tiberius::{ColumnData, IntoRow};

use crate::fixture::{Fixture, error_of, int, run, values};

#[tokio::test]
async fn columns_change_their_type_and_go() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id int NOT NULL CONSTRAINT pk_t PRIMARY KEY, name varchar(5) NULL, amount int NULL CONSTRAINT df_amount DEFAULT 7, twice AS amount * 2, CONSTRAINT low CHECK (amount < 100))").await;
    run(&mut client, "INSERT INTO dbo.t (id, name) VALUES (1, 'abcde')").await;
    run(&mut client, "ALTER TABLE dbo.t ALTER COLUMN name nvarchar(20) NOT NULL").await;
    run(&mut client, "INSERT INTO dbo.t (id, name) VALUES (2, N'abcdefgh\u{e9}')").await;
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t (id, name) VALUES (3, NULL)").await, 515);
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t ALTER COLUMN name int").await, 245);
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t ALTER COLUMN name nvarchar(3)").await, 2628);
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t ALTER COLUMN nothing int").await, 4924);
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t ALTER COLUMN id varchar(10) NOT NULL").await, 4922);
    run(&mut client, "ALTER TABLE dbo.t ADD gone int NULL; ALTER TABLE dbo.t DROP COLUMN gone").await;
    run(&mut client, "ALTER TABLE dbo.t ADD again bigint NULL").await;
    assert_eq!(values(&mut client, "SELECT * FROM dbo.t WHERE id = 1").await.len(), 5);
    // a load takes the table as it is now
    let mut request = client.bulk_insert("dbo.t").await.unwrap();
    request.send((4, Some("x"), Some(50), Some(1i64)).into_row()).await.unwrap();
    assert_eq!(request.finalize().await.unwrap().total(), 1);
    assert_eq!(
        values(&mut client, "SELECT twice, again FROM dbo.t WHERE id = 4").await,
        [ColumnData::I32(Some(100)), ColumnData::I64(Some(1))]
    );
    run(&mut client, "ALTER TABLE dbo.t DROP COLUMN IF EXISTS nothing").await;
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t DROP COLUMN nothing").await, 4924);
}

#[tokio::test]
async fn what_others_stand_on_stays_until_they_are_gone() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    run(&mut client, "CREATE TABLE dbo.t (id int NOT NULL CONSTRAINT pk_t PRIMARY KEY, amount int NULL CONSTRAINT df_amount DEFAULT 7, twice AS amount * 2, note int, CONSTRAINT low CHECK (amount < 100))").await;
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t DROP COLUMN id").await, 4922);
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t DROP COLUMN amount").await, 4922);
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t (id, amount) VALUES (1, 100)").await, 547);
    run(&mut client, "ALTER TABLE dbo.t DROP CONSTRAINT low").await;
    run(&mut client, "INSERT INTO dbo.t (id, amount) VALUES (1, 100)").await;
    run(&mut client, "ALTER TABLE dbo.t DROP CONSTRAINT df_amount; ALTER TABLE dbo.t DROP COLUMN twice; ALTER TABLE dbo.t DROP COLUMN amount").await;
    assert_eq!(error_of(&mut client, "INSERT INTO dbo.t (id) VALUES (1)").await, 2627);
    run(&mut client, "ALTER TABLE dbo.t DROP CONSTRAINT pk_t; INSERT INTO dbo.t (id) VALUES (1)").await;
    assert_eq!(int(&mut client, "SELECT COUNT(*) FROM dbo.t WHERE id = 1").await, 2);
    assert_eq!(
        int(
            &mut client,
            "SELECT COUNT(*) FROM sys.indexes WHERE object_id = OBJECT_ID('dbo.t') AND type = 0"
        )
        .await,
        1
    );
    assert_eq!(error_of(&mut client, "ALTER TABLE dbo.t DROP CONSTRAINT pk_t").await, 3728);
}
