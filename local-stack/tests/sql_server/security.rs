//! Users, roles and what the catalogue says of them.

use local_stack::sql_server::{Login, SqlServerOptions, Storage};
use tiberius::AuthMethod;

use crate::fixture::{Fixture, batch, error_of, int, number_of, rows, run, values};

async fn with_logins() -> Fixture {
    Fixture::with_options(|config| SqlServerOptions {
        other_logins: vec![Login { user: "worker".into(), password: "Worker-1".into() }],
        ..SqlServerOptions::new(Storage::Postgres(config))
    })
    .await
}

#[tokio::test]
async fn a_login_is_somebody_in_the_database_once_it_has_a_user() {
    let fixture = with_logins().await;
    let mut dbo = fixture.connect().await;
    let try_login = async |user: &str, password: &str, database: &str| {
        let mut config = fixture.config();
        config.database(database);
        config.authentication(AuthMethod::sql_server(user, password));
        fixture.try_connect(config).await
    };
    let number = async |user: &str, password: &str, database: &str| {
        try_login(user, password, database).await.err().map(|error| number_of(&error))
    };
    // GIVEN a login without a user THEN it cannot open the database
    assert_eq!(number("worker", "Worker-1", "sinkdb").await, Some(4060));
    assert_eq!(number("worker", "wrong", "sinkdb").await, Some(18456));
    // WHEN it has one THEN it can
    run(&mut dbo, "CREATE USER [the worker] FOR LOGIN worker").await;
    let mut worker = try_login("worker", "Worker-1", "sinkdb").await.unwrap();
    assert_eq!(
        texts(&mut worker, "SELECT USER_NAME(), CURRENT_USER, SUSER_SNAME(), ORIGINAL_LOGIN()").await,
        ["the worker", "the worker", "worker", "worker"]
    );
    assert_eq!(number("worker", "wrong", "sinkdb").await, Some(18456));
    // AND not any longer when it may not connect
    run(&mut dbo, "DENY CONNECT TO [the worker]").await;
    assert_eq!(number("worker", "Worker-1", "sinkdb").await, Some(4060));
    run(&mut dbo, "GRANT CONNECT TO [the worker]; DROP USER [the worker]").await;
    assert_eq!(number("worker", "Worker-1", "sinkdb").await, Some(4060));

    // a user with a password of its own needs no login
    run(&mut dbo, "CREATE USER contained WITH PASSWORD = N'Own-Password-1'").await;
    try_login("Contained", "Own-Password-1", "sinkdb").await.unwrap();
    assert_eq!(number("contained", "Own-Password-2", "sinkdb").await, Some(18456));
    assert_eq!(number("contained", "", "sinkdb").await, Some(18456));
    // and one without either cannot log in
    run(&mut dbo, "CREATE USER nobody WITHOUT LOGIN").await;
    assert_eq!(number("nobody", "", "sinkdb").await, Some(18456));
}

#[tokio::test]
async fn users_and_roles_are_refused_with_sql_servers_numbers() {
    let fixture = with_logins().await;
    let mut dbo = fixture.connect().await;
    run(&mut dbo, "CREATE USER a WITHOUT LOGIN; CREATE ROLE r; CREATE ROLE s; ALTER ROLE r ADD MEMBER a; ALTER ROLE s ADD MEMBER r").await;
    run(&mut dbo, "CREATE TABLE dbo.t (n int); CREATE SCHEMA owned AUTHORIZATION a; CREATE USER own WITH PASSWORD = 'Own-1'").await;
    run(&mut dbo, "GRANT SELECT ON dbo.t TO a WITH GRANT OPTION").await;
    for (sql, number) in [
        ("CREATE USER A WITHOUT LOGIN", 15023),
        ("CREATE ROLE a", 15023),
        ("CREATE USER b FOR LOGIN missing", 15007),
        ("CREATE USER b", 15007),
        ("CREATE USER b FOR LOGIN sink", 15063),
        ("DROP USER missing", 15151),
        ("DROP USER r", 15151),
        ("DROP ROLE db_owner", 15150),
        ("DROP USER dbo", 15150),
        ("DROP USER a", 15138),
        ("DROP ROLE r", 15144),
        ("ALTER ROLE missing ADD MEMBER a", 15151),
        ("ALTER ROLE r ADD MEMBER missing", 15151),
        ("ALTER ROLE r ADD MEMBER s", 15413),
        ("ALTER ROLE db_datareader ADD MEMBER dbo", 15405),
        ("GRANT SELECT ON dbo.missing TO a", 15151),
        ("GRANT SELECT ON SCHEMA::missing TO a", 15151),
        ("GRANT SELECT ON dbo.t TO missing", 15151),
        ("GRANT SELECT ON dbo.t TO dbo", 4624),
        ("GRANT SELECT ON dbo.t TO db_datareader", 4617),
        ("REVOKE SELECT ON dbo.t FROM a", 4611),
    ] {
        assert_eq!(error_of(&mut dbo, sql).await, number, "{sql}");
    }
    run(
        &mut dbo,
        "DROP USER IF EXISTS missing; DROP ROLE IF EXISTS missing; REVOKE SELECT ON dbo.t FROM a CASCADE",
    )
    .await;
    run(
        &mut dbo,
        "ALTER ROLE s DROP MEMBER r; ALTER ROLE r DROP MEMBER a; DROP ROLE r; DROP SCHEMA owned; DROP USER a",
    )
    .await;

    // GIVEN a user who may do nothing THEN it can neither make others nor give itself anything
    let mut own = fixture.connect_as("own", "Own-1").await;
    for (sql, number) in [
        ("CREATE USER x WITHOUT LOGIN", 15247),
        ("CREATE ROLE x", 15247),
        ("DROP ROLE s", 15151),
        ("ALTER ROLE s ADD MEMBER own", 15151),
        ("ALTER ROLE db_owner ADD MEMBER own", 15151),
        ("GRANT SELECT ON dbo.t TO own", 15151),
        ("GRANT CONTROL TO own", 15151),
        ("GRANT SELECT ON dbo.t TO public", 15151),
    ] {
        assert_eq!(error_of(&mut own, sql).await, number, "{sql}");
    }
}

#[tokio::test]
async fn the_catalogue_says_who_may_do_what() {
    let fixture = with_logins().await;
    let mut dbo = fixture.connect().await;
    run(&mut dbo, "CREATE TABLE dbo.t (n int); CREATE ROLE loaders; CREATE USER a WITH PASSWORD = 'A-1'; CREATE USER e FROM EXTERNAL PROVIDER").await;
    run(&mut dbo, "CREATE ROLE its_own AUTHORIZATION a; GRANT TAKE OWNERSHIP ON SCHEMA::dbo TO loaders")
        .await;
    run(&mut dbo, "ALTER ROLE loaders ADD MEMBER a; GRANT INSERT ON dbo.t TO loaders; DENY SELECT ON SCHEMA::dbo TO a; GRANT CREATE TABLE TO a").await;
    let sql = "SELECT name, type, type_desc, authentication_type_desc FROM sys.database_principals WHERE name IN ('a', 'e', 'loaders', 'dbo') ORDER BY name";
    let principals: Vec<Vec<String>> = rows(&mut dbo, sql)
        .await
        .iter()
        .map(|row| (0..4).map(|column| row.get::<&str, _>(column).unwrap().to_owned()).collect())
        .collect();
    assert_eq!(
        principals,
        [
            ["a", "S", "SQL_USER", "DATABASE"],
            ["dbo", "S", "SQL_USER", "INSTANCE"],
            ["e", "E", "EXTERNAL_USER", "EXTERNAL"],
            ["loaders", "R", "DATABASE_ROLE", "NONE"],
        ]
    );
    let sql = "SELECT p.state_desc + ' ' + p.permission_name + ' ' + p.class_desc + ' ' + g.name AS what FROM sys.database_permissions p \
        JOIN sys.database_principals g ON g.principal_id = p.grantee_principal_id WHERE g.name IN ('a', 'loaders') ORDER BY what";
    let permissions: Vec<String> =
        rows(&mut dbo, sql).await.iter().map(|row| row.get::<&str, _>(0).unwrap().to_owned()).collect();
    assert_eq!(
        permissions,
        [
            "DENY SELECT SCHEMA a",
            "GRANT CONNECT DATABASE a",
            "GRANT CREATE TABLE DATABASE a",
            "GRANT INSERT OBJECT_OR_COLUMN loaders",
            "GRANT TAKE OWNERSHIP SCHEMA loaders",
        ]
    );
    let members = "SELECT COUNT(*) FROM sys.database_role_members m JOIN sys.database_principals r ON r.principal_id = m.role_principal_id WHERE r.name = 'loaders'";
    assert_eq!(int(&mut dbo, members).await, 1);

    let mut a = fixture.connect_as("a", "A-1").await;
    for (sql, expected) in [
        ("IS_MEMBER('loaders')", Some(1)),
        ("IS_MEMBER('db_owner')", Some(0)),
        ("IS_MEMBER('public')", Some(1)),
        ("IS_MEMBER('missing')", None),
        ("IS_SRVROLEMEMBER('sysadmin')", Some(0)),
        ("IS_SRVROLEMEMBER('Public')", Some(1)),
        ("IS_SRVROLEMEMBER('missing')", None),
        ("IS_ROLEMEMBER('loaders', 'e')", Some(0)),
        ("IS_ROLEMEMBER('db_owner', 'dbo')", Some(1)),
        ("HAS_PERMS_BY_NAME('dbo.t', 'OBJECT', 'INSERT')", Some(1)),
        ("HAS_PERMS_BY_NAME('[dbo].[t]', 'OBJECT', 'SELECT')", Some(0)),
        ("HAS_PERMS_BY_NAME('dbo.t', 'OBJECT', 'ANY')", Some(1)),
        ("HAS_PERMS_BY_NAME('dbo.missing', 'OBJECT', 'SELECT')", None),
        ("HAS_PERMS_BY_NAME('dbo.t', 'OBJECT', 'NONSENSE')", None),
        ("HAS_PERMS_BY_NAME('sys.all_columns', 'OBJECT', 'SELECT')", Some(1)),
        ("HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE')", Some(1)),
        ("HAS_PERMS_BY_NAME(NULL, 'DATABASE', 'CREATE SCHEMA')", Some(0)),
        ("HAS_PERMS_BY_NAME(QUOTENAME(DB_NAME()), 'DATABASE', 'CREATE TABLE')", Some(1)),
        ("HAS_PERMS_BY_NAME('dbo', 'SCHEMA', 'ALTER')", Some(0)),
        ("HAS_PERMS_BY_NAME('dbo', 'SCHEMA', 'TAKE OWNERSHIP')", Some(1)),
        ("HAS_PERMS_BY_NAME('dbo', 'SCHEMA', 'EXECUTE')", None),
        ("HAS_PERMS_BY_NAME('[its_own]', 'ROLE', 'ALTER')", Some(1)),
        ("HAS_PERMS_BY_NAME('loaders', 'ROLE', 'ALTER')", Some(0)),
        ("HAS_PERMS_BY_NAME('loaders', 'ROLE', 'IMPERSONATE')", None),
        ("HAS_PERMS_BY_NAME('loaders', 'USER', 'ALTER')", None),
        ("HAS_PERMS_BY_NAME('dbo', 'USER', 'IMPERSONATE')", Some(0)),
        ("HAS_PERMS_BY_NAME('e', 'USER', 'IMPERSONATE')", None),
    ] {
        let got = values(&mut a, &format!("SELECT {sql}")).await;
        assert_eq!(got, [tiberius::ColumnData::I32(expected)], "{sql}");
    }
    for (sql, expected) in [("'e', 'USER', 'IMPERSONATE'", 1), ("'db_owner', 'ROLE', 'ALTER'", 1)] {
        assert_eq!(int(&mut dbo, &format!("SELECT HAS_PERMS_BY_NAME({sql})")).await, expected, "{sql}");
    }
    // others are not shown to somebody who has nothing to do with them
    assert_eq!(int(&mut a, "SELECT COUNT(*) FROM sys.database_principals WHERE name = 'e'").await, 0);
    assert_eq!(
        int(&mut a, "SELECT COUNT(*) FROM sys.database_principals WHERE name IN ('a', 'loaders', 'public')")
            .await,
        3
    );
}

#[tokio::test]
async fn a_permission_comes_and_goes_with_the_transaction_that_changes_it() {
    let fixture = with_logins().await;
    let mut dbo = fixture.connect().await;
    run(&mut dbo, "CREATE TABLE dbo.t (n int); CREATE USER a WITH PASSWORD = 'A-1'").await;
    let mut a = fixture.connect_as("a", "A-1").await;
    // WHEN it is granted THEN the next statement of a session that is open has it, once it is committed
    run(&mut dbo, "BEGIN TRANSACTION; GRANT SELECT ON dbo.t TO a").await;
    assert_eq!(error_of(&mut a, "SELECT * FROM dbo.t").await, 229);
    run(&mut dbo, "COMMIT").await;
    run(&mut a, "SELECT * FROM dbo.t").await;
    // AND a rollback takes back what was taken
    run(&mut dbo, "BEGIN TRANSACTION; REVOKE SELECT ON dbo.t TO a; ROLLBACK").await;
    run(&mut a, "BEGIN TRANSACTION; SELECT * FROM dbo.t").await;
    run(&mut dbo, "REVOKE SELECT ON dbo.t FROM a").await;
    assert_eq!(error_of(&mut a, "SELECT * FROM dbo.t").await, 229);
    // AND its transaction is as it was
    assert_eq!(int(&mut a, "SELECT @@TRANCOUNT").await, 1);
    assert!(batch(&mut a, "ROLLBACK").await.is_ok());
    // a table that takes the place of another does not take its permissions
    run(&mut dbo, "GRANT SELECT ON dbo.t TO a; DROP TABLE dbo.t; CREATE TABLE dbo.t (n int)").await;
    assert_eq!(error_of(&mut a, "SELECT * FROM dbo.t").await, 229);
}

#[tokio::test]
async fn what_is_not_there_is_refused_by_name() {
    let fixture = Fixture::start().await;
    let mut client = fixture.connect().await;
    for sql in [
        "EXECUTE AS USER = 'dbo'",
        "EXEC AS USER = 'dbo'",
        "REVERT",
        "CREATE LOGIN x WITH PASSWORD = 'X-1'",
        "ALTER USER dbo WITH NAME = x",
        "CREATE APPLICATION ROLE x WITH PASSWORD = 'X-1'",
        "EXEC sp_addrolemember 'db_owner', 'x'",
        "GRANT SELECT (a) ON dbo.t TO public",
        "GRANT SELECT ON dbo.t TO public AS dbo",
        "GRANT EXECUTE TO public",
        "ALTER ROLE x WITH NAME = y",
        "CREATE USER x FOR CERTIFICATE y",
        "CREATE USER x WITHOUT LOGIN WITH DEFAULT_SCHEMA = y",
        "SELECT HAS_PERMS_BY_NAME('x', 'ASSEMBLY', 'ALTER')",
        "GRANT IMPERSONATE ON USER::dbo TO public",
        "SELECT HAS_PERMS_BY_NAME(NULL, NULL, 'VIEW SERVER STATE')",
        "SELECT HAS_PERMS_BY_NAME('dbo.t', 'OBJECT', 'SELECT', 'a', 'COLUMN')",
        "SELECT * FROM sys.fn_my_permissions(NULL, 'DATABASE')",
    ] {
        assert_eq!(error_of(&mut client, sql).await, 40517, "{sql}");
    }
}

async fn texts(client: &mut crate::fixture::SqlClient, sql: &str) -> Vec<String> {
    values(client, sql)
        .await
        .into_iter()
        .map(|value| match value {
            tiberius::ColumnData::String(Some(text)) => text.into_owned(),
            other => panic!("{sql}: {other:?}"),
        })
        .collect()
}
