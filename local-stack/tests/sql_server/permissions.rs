//! What a user may not do, by whatever statement it is tried.

use tiberius::{IntoRow, SqlBulkCopyOption};

use crate::fixture::{Fixture, SqlClient, batch, error_of, int, number_of, run};

const PASSWORD: &str = "Least-1";

/// Tables `dbo.t` and `dbo.other`, a user `u` who may do nothing, and dbo.
async fn with_user() -> (Fixture, SqlClient, SqlClient) {
    let fixture = Fixture::start().await;
    let mut dbo = fixture.connect().await;
    run(&mut dbo, "CREATE TABLE dbo.t (n int NOT NULL, a nvarchar(20)); CREATE TABLE dbo.other (n int NOT NULL, a nvarchar(20))").await;
    run(&mut dbo, "INSERT INTO dbo.t VALUES (1, N'one'); INSERT INTO dbo.other VALUES (1, N'one')").await;
    run(&mut dbo, &format!("CREATE USER u WITH PASSWORD = '{PASSWORD}'")).await;
    let user = fixture.connect_as("u", PASSWORD).await;
    (fixture, dbo, user)
}

/// Statements with the permissions on `dbo.t` that each needs; on `dbo.other` the user has all.
const STATEMENTS: &[(&str, &[&str])] = &[
    ("SELECT * FROM dbo.t", &["SELECT"]),
    ("SELECT 1 FROM t", &["SELECT"]),
    ("SELECT COUNT(*) FROM [dbo].[T] AS x WITH (NOLOCK)", &["SELECT"]),
    ("SELECT TOP 0 * FROM sinkdb.dbo.t", &["SELECT"]),
    ("SET FMTONLY ON; SELECT * FROM dbo.t; SET FMTONLY OFF", &["SELECT"]),
    ("SELECT o.n FROM dbo.other o JOIN dbo.t ON t.n = o.n", &["SELECT"]),
    ("SELECT n FROM dbo.other WHERE EXISTS (SELECT 1 FROM dbo.t)", &["SELECT"]),
    ("SELECT n FROM dbo.other WHERE n IN (SELECT n FROM dbo.t)", &["SELECT"]),
    ("SELECT (SELECT MAX(n) FROM dbo.t) AS m", &["SELECT"]),
    ("SELECT x.n FROM (SELECT n FROM dbo.t) AS x", &["SELECT"]),
    ("WITH c AS (SELECT n FROM dbo.t) SELECT n FROM c", &["SELECT"]),
    ("WITH other AS (SELECT n FROM dbo.t) SELECT n FROM other", &["SELECT"]),
    ("SELECT n FROM dbo.other UNION ALL SELECT n FROM dbo.t", &["SELECT"]),
    ("SELECT n FROM dbo.other ORDER BY (SELECT MAX(n) FROM dbo.t)", &["SELECT"]),
    ("SELECT CASE WHEN EXISTS (SELECT 1 FROM dbo.t) THEN 1 ELSE 0 END", &["SELECT"]),
    ("DECLARE @n int = (SELECT MAX(n) FROM dbo.t)", &["SELECT"]),
    ("DECLARE @n int; SELECT @n = n FROM dbo.t", &["SELECT"]),
    ("DECLARE @n int; SET @n = (SELECT MAX(n) FROM dbo.t)", &["SELECT"]),
    ("IF EXISTS (SELECT 1 FROM dbo.t) SELECT 1", &["SELECT"]),
    ("DECLARE @n nvarchar(max); SET @n = N'SELECT * FROM dbo.t'; EXEC (@n)", &["SELECT"]),
    ("EXEC (N'SELECT * FROM dbo.t')", &["SELECT"]),
    ("EXEC sp_executesql N'SELECT * FROM dbo.t WHERE n = @n', N'@n int', @n = 1", &["SELECT"]),
    ("INSERT INTO dbo.t (n) VALUES (2)", &["INSERT"]),
    ("INSERT dbo.t SELECT n, a FROM dbo.other", &["INSERT"]),
    ("INSERT INTO dbo.other SELECT n, a FROM dbo.t", &["SELECT"]),
    ("INSERT INTO dbo.other (n) VALUES ((SELECT MAX(n) FROM dbo.t))", &["SELECT"]),
    (
        "INSERT INTO dbo.t (n) SELECT n FROM dbo.other o WHERE NOT EXISTS (SELECT 1 FROM dbo.t WITH (UPDLOCK, HOLDLOCK) WHERE t.n = o.n)",
        &["SELECT", "INSERT"],
    ),
    ("EXEC (N'INSERT INTO dbo.t (n) VALUES (2)')", &["INSERT"]),
    ("UPDATE dbo.t SET a = N'x'", &["UPDATE"]),
    ("UPDATE dbo.t SET a = N'x' WHERE n = 1", &["SELECT", "UPDATE"]),
    ("UPDATE dbo.t SET n = n + 1", &["SELECT", "UPDATE"]),
    ("UPDATE x SET a = o.a FROM dbo.t AS x JOIN dbo.other o ON o.n = x.n", &["SELECT", "UPDATE"]),
    ("UPDATE o SET a = x.a FROM dbo.other o JOIN dbo.t AS x ON o.n = x.n", &["SELECT"]),
    ("UPDATE dbo.other SET a = (SELECT MAX(a) FROM dbo.t)", &["SELECT"]),
    ("DELETE FROM dbo.t", &["DELETE"]),
    ("DELETE FROM dbo.t WHERE n = 5", &["SELECT", "DELETE"]),
    ("DELETE x FROM dbo.t AS x JOIN dbo.other o ON o.n = x.n", &["SELECT", "DELETE"]),
    ("DELETE FROM dbo.other WHERE n IN (SELECT n + 100 FROM dbo.t)", &["SELECT"]),
    ("BEGIN TRY SELECT * FROM dbo.t END TRY BEGIN CATCH THROW END CATCH", &["SELECT"]),
    ("TRUNCATE TABLE dbo.t", &["ALTER"]),
    ("ALTER TABLE dbo.t ADD more int", &["ALTER"]),
    ("CREATE INDEX i ON dbo.t (n)", &["ALTER"]),
    ("DROP TABLE dbo.t", &["CONTROL"]),
];

fn expected(permission: &str, sql: &str) -> u32 {
    match permission {
        "ALTER" => 1088,
        "CONTROL" => 3701,
        _ if sql.contains("TABLE") => panic!("{sql}"),
        _ => 229,
    }
}

#[tokio::test]
async fn no_statement_gets_around_a_missing_permission() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    run(&mut dbo, "GRANT SELECT, INSERT, UPDATE, DELETE ON dbo.other TO u").await;
    for (sql, needed) in STATEMENTS {
        for missing in *needed {
            // GIVEN all that the statement needs but one
            for permission in needed.iter().filter(|permission| *permission != missing) {
                run(&mut dbo, &format!("GRANT {permission} ON OBJECT::dbo.t TO u")).await;
            }
            // THEN it is refused, and nothing is done
            let before = int(
                &mut dbo,
                "SELECT CHECKSUM_OF FROM (SELECT COUNT(*) * 100 + MAX(n) AS CHECKSUM_OF FROM dbo.t) x",
            )
            .await;
            assert_eq!(error_of(&mut user, sql).await, expected(missing, sql), "{sql} without {missing}");
            let after = int(
                &mut dbo,
                "SELECT CHECKSUM_OF FROM (SELECT COUNT(*) * 100 + MAX(n) AS CHECKSUM_OF FROM dbo.t) x",
            )
            .await;
            assert_eq!(before, after, "{sql} without {missing}");
            run(&mut dbo, "REVOKE SELECT, INSERT, UPDATE, DELETE, ALTER, CONTROL ON dbo.t FROM u").await;
        }
        // WHEN it has all THEN it runs
        for permission in *needed {
            run(&mut dbo, &format!("GRANT {permission} ON dbo.t TO u")).await;
        }
        if let Err(error) = batch(&mut user, &format!("BEGIN TRANSACTION; {sql}")).await {
            panic!("{sql}: {error}");
        }
        run(&mut user, "ROLLBACK").await;
        run(&mut dbo, "REVOKE SELECT, INSERT, UPDATE, DELETE, ALTER, CONTROL ON dbo.t FROM u").await;
    }
}

#[tokio::test]
async fn an_error_names_permission_object_and_schema_as_sql_server_does() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    let told = async |user: &mut SqlClient, sql: &str| match batch(user, sql).await {
        Err(tiberius::error::Error::Server(error)) => {
            (error.class(), error.state(), error.message().to_owned())
        }
        other => panic!("{sql}: {other:?}"),
    };
    assert_eq!(
        told(&mut user, "SELECT * FROM t").await,
        (
            14,
            5,
            "The SELECT permission was denied on the object 't', database 'sinkdb', schema 'dbo'.".into()
        )
    );
    assert_eq!(
        told(&mut user, "CREATE TABLE dbo.mine (n int)").await,
        (14, 1, "CREATE TABLE permission denied in database 'sinkdb'.".into())
    );
    // what is not there at all is not there for anybody
    for (sql, number) in [
        ("SELECT * FROM dbo.missing", 208),
        ("ALTER TABLE dbo.missing ADD n int", 4902),
        ("CREATE INDEX i ON dbo.missing (n)", 1088),
        ("TRUNCATE TABLE dbo.missing", 4701),
        ("DROP TABLE dbo.missing", 3701),
    ] {
        assert_eq!(error_of(&mut user, sql).await, number, "{sql}");
        assert_eq!(error_of(&mut dbo, sql).await, number, "{sql}");
    }
}

#[tokio::test]
async fn by_parameters_it_is_the_same() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    let error = match user.query("SELECT n FROM dbo.t WHERE n = @P1", &[&1i32]).await {
        Err(error) => error,
        Ok(stream) => stream.into_results().await.unwrap_err(),
    };
    assert_eq!(number_of(&error), 229);
    let refused = user.execute("INSERT INTO dbo.t (n) VALUES (@P1)", &[&1i32]).await;
    assert_eq!(number_of(&refused.unwrap_err()), 229);
    // the same request is refused that was answered when one might
    run(&mut dbo, "GRANT SELECT ON dbo.t TO u").await;
    let again = "SELECT n FROM dbo.t WHERE n = @P1";
    assert_eq!(user.query(again, &[&1i32]).await.unwrap().into_results().await.unwrap()[0].len(), 1);
    run(&mut dbo, "DENY SELECT ON dbo.t TO u").await;
    let error = match user.query(again, &[&1i32]).await {
        Err(error) => error,
        Ok(stream) => stream.into_results().await.unwrap_err(),
    };
    assert_eq!(number_of(&error), 229);
}

#[tokio::test]
async fn a_denial_takes_precedence_wherever_it_stands() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    run(&mut dbo, "CREATE ROLE readers; CREATE ROLE outer_readers; ALTER ROLE outer_readers ADD MEMBER readers; ALTER ROLE readers ADD MEMBER u").await;
    let select = "SELECT n FROM dbo.t";
    // every place that a grant may stand at
    for grant in [
        "ON dbo.t TO u",
        "ON SCHEMA::dbo TO u",
        "TO u",
        "ON dbo.t TO readers",
        "ON SCHEMA::dbo TO outer_readers",
        "ON dbo.t TO public",
    ] {
        run(&mut dbo, &format!("GRANT SELECT {grant}")).await;
        run(&mut user, select).await;
        for deny in [
            "SELECT ON dbo.t TO u",
            "SELECT ON SCHEMA::dbo TO outer_readers",
            "SELECT TO readers",
            "CONTROL ON dbo.t TO public",
        ] {
            // the same entry would be overwritten, and a grant of it stands for neither then
            if deny == format!("SELECT {grant}") {
                continue;
            }
            run(&mut dbo, &format!("DENY {deny}")).await;
            assert_eq!(error_of(&mut user, select).await, 229, "GRANT SELECT {grant}; DENY {deny}");
            run(&mut dbo, &format!("REVOKE {deny}")).await;
        }
        run(&mut user, select).await;
        run(&mut dbo, &format!("REVOKE SELECT {grant}")).await;
        assert_eq!(error_of(&mut user, select).await, 229, "after REVOKE SELECT {grant}");
    }
    // dbo is asked nothing
    run(&mut dbo, "DENY SELECT ON dbo.t TO public").await;
    run(&mut dbo, select).await;
    // a member of db_owner may do everything that is not denied to it
    run(&mut dbo, "REVOKE SELECT ON dbo.t FROM public; ALTER ROLE db_owner ADD MEMBER u").await;
    run(&mut user, "SELECT n FROM dbo.t; CREATE TABLE dbo.mine (n int); DROP TABLE dbo.mine; CREATE USER v WITHOUT LOGIN").await;
    run(&mut dbo, "DENY SELECT ON dbo.t TO u").await;
    assert_eq!(error_of(&mut user, select).await, 229);
}

#[tokio::test]
async fn the_fixed_roles_allow_what_their_names_say() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    run(&mut dbo, "CREATE SCHEMA s").await;
    let tried = [
        ("SELECT n FROM dbo.t", 229),
        ("INSERT INTO dbo.t (n) VALUES (1)", 229),
        ("UPDATE dbo.t SET a = N'x'", 229),
        ("DELETE FROM dbo.t", 229),
        ("CREATE TABLE s.made (n int)", 262),
        ("ALTER TABLE dbo.t ADD m int", 1088),
        ("TRUNCATE TABLE dbo.t", 1088),
        ("DROP TABLE dbo.other", 3701),
        ("CREATE SCHEMA z", 262),
        ("DROP SCHEMA s", 15151),
    ];
    for (role, allowed) in [
        ("db_datareader", [true, false, false, false, false, false, false, false, false, false]),
        ("db_datawriter", [false, true, true, true, false, false, false, false, false, false]),
        ("db_ddladmin", [false, false, false, false, true, true, true, true, true, true]),
        ("db_owner", [true; 10]),
        ("db_denydatareader", [false; 10]),
    ] {
        run(&mut dbo, &format!("ALTER ROLE {role} ADD MEMBER u")).await;
        for ((sql, number), allowed) in tried.iter().zip(allowed) {
            run(&mut user, "BEGIN TRANSACTION").await;
            let outcome = batch(&mut user, sql).await.err().map(|error| number_of(&error));
            assert_eq!(outcome, if allowed { None } else { Some(*number) }, "{role}: {sql}");
            run(&mut user, "IF @@TRANCOUNT > 0 ROLLBACK").await;
        }
        run(&mut dbo, &format!("ALTER ROLE {role} DROP MEMBER u")).await;
    }
    // CREATE TABLE alone does not say where
    run(&mut dbo, "GRANT CREATE TABLE TO u").await;
    assert_eq!(error_of(&mut user, "CREATE TABLE s.made (n int)").await, 2760);
    run(&mut dbo, "GRANT ALTER ON SCHEMA::s TO u").await;
    run(&mut user, "CREATE TABLE s.made (n int)").await;
    assert_eq!(error_of(&mut user, "SELECT n FROM s.made").await, 229);
    run(&mut user, "DROP TABLE s.made").await;
    // the owner of a schema may do everything in it
    run(&mut dbo, "CREATE SCHEMA mine AUTHORIZATION u").await;
    run(&mut user, "CREATE TABLE mine.a (n int); INSERT INTO mine.a VALUES (1); SELECT n FROM mine.a; GRANT SELECT ON mine.a TO public; DROP TABLE mine.a").await;
}

#[tokio::test]
async fn one_sees_what_one_has_any_permission_on() {
    let (_fixture, mut dbo, mut user) = with_user().await;
    run(&mut dbo, "ALTER TABLE dbo.t ADD CONSTRAINT pk PRIMARY KEY (n)").await;
    let seen = [
        "SELECT COUNT(*) FROM sys.tables WHERE name = 't'",
        "SELECT COUNT(*) FROM sys.objects WHERE name = 'pk'",
        "SELECT COUNT(*) FROM sys.columns WHERE name = 'a'",
        "SELECT COUNT(*) FROM sys.indexes WHERE name = 'pk'",
        "SELECT COUNT(*) FROM sys.index_columns",
        "SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_NAME = 't'",
        "SELECT COUNT(*) FROM INFORMATION_SCHEMA.COLUMNS WHERE COLUMN_NAME = 'a'",
        "SELECT CASE WHEN OBJECT_ID('dbo.t') IS NULL THEN 0 ELSE 1 END",
        "SELECT CASE WHEN COL_LENGTH('dbo.t', 'a') IS NULL THEN 0 ELSE 1 END",
    ];
    for sql in seen {
        assert_eq!(int(&mut user, sql).await, 0, "{sql}");
    }
    for (permission, sees) in [
        ("GRANT SELECT ON dbo.t TO u", 1),
        ("GRANT INSERT ON dbo.t TO public", 1),
        ("GRANT VIEW DEFINITION ON dbo.t TO u", 1),
        ("DENY SELECT ON dbo.t TO u", 0),
    ] {
        run(&mut dbo, permission).await;
        for sql in seen {
            assert_eq!(int(&mut user, sql).await, sees, "{permission}: {sql}");
        }
        run(&mut dbo, &permission.replace("GRANT", "REVOKE").replace("DENY", "REVOKE")).await;
    }
    run(&mut dbo, "GRANT SELECT ON dbo.t TO u; DENY VIEW DEFINITION ON dbo.t TO u").await;
    assert_eq!(int(&mut user, seen[0]).await, 0);
    assert_eq!(int(&mut dbo, seen[0]).await, 1);
}

/// Loads one row into `dbo.t`, without asking for the table's columns first: that needs SELECT.
async fn load(client: &mut SqlClient, checks: bool) -> Result<u64, u32> {
    let mut options = SqlBulkCopyOption::KeepNulls.into();
    if checks {
        options |= SqlBulkCopyOption::CheckConstraints;
    }
    let outcome = async {
        let mut request = client.bulk_insert_with_options("dbo.t", &["n", "a"], options, &[]).await?;
        request.send((7i32, Some("seven")).into_row()).await?;
        request.finalize().await
    };
    outcome.await.map(|done| done.total()).map_err(|error| number_of(&error))
}

#[tokio::test]
async fn a_bulk_load_needs_insert_and_alter_where_it_gets_around_constraints() {
    let (fixture, mut dbo, mut user) = with_user().await;
    // tiberius asks for the columns first
    run(&mut dbo, "GRANT SELECT ON dbo.t TO u").await;
    assert_eq!(load(&mut user, true).await, Err(229));
    // whatever the client does, INSERT BULK itself is what is refused
    let announced = "INSERT BULK dbo.t ([n] int, [a] nvarchar(20)) WITH (KEEP_NULLS, CHECK_CONSTRAINTS)";
    assert_eq!(error_of(&mut user, announced).await, 229);

    let mut user = fixture.connect_as("u", PASSWORD).await;
    run(&mut dbo, "GRANT INSERT ON dbo.t TO u").await;
    assert_eq!(load(&mut user, true).await, Ok(1));
    // no constraint is there to get around
    assert_eq!(load(&mut user, false).await, Ok(1));
    run(&mut dbo, "ALTER TABLE dbo.t ADD CONSTRAINT few CHECK (n < 100)").await;
    assert_eq!(load(&mut user, true).await, Ok(1));
    assert_eq!(load(&mut user, false).await, Err(5304));
    let mut user = fixture.connect_as("u", PASSWORD).await;
    run(&mut dbo, "GRANT ALTER ON dbo.t TO u").await;
    assert_eq!(load(&mut user, false).await, Ok(1));
    // ALTER stands for no INSERT
    run(&mut dbo, "DENY INSERT ON SCHEMA::dbo TO u").await;
    assert_eq!(load(&mut user, true).await, Err(229));
    assert_eq!(int(&mut dbo, "SELECT COUNT(*) FROM dbo.t WHERE n = 7").await, 4);
}
