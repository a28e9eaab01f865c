//! The T-SQL that asks what the session's user may do. All of it answers about that user alone, and may be asked by everybody.

use super::literal;
use crate::rights::sql::{Securable, SqlRight};

/// Permissions on the database by which somebody writes, or comes to more permissions. Those that a server does not know it
/// answers with NULL.
pub(in crate::mssql) const OF_DATABASE: [&str; 17] = [
    "CONTROL",
    "ALTER",
    "ALTER ANY USER",
    "ALTER ANY ROLE",
    "ALTER ANY SCHEMA",
    "ALTER ANY DATABASE DDL TRIGGER",
    "TAKE OWNERSHIP",
    "CREATE SCHEMA",
    "CREATE TABLE",
    "CREATE VIEW",
    "CREATE PROCEDURE",
    "CREATE FUNCTION",
    "EXECUTE",
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
];

/// The same on schemas and tables.
pub(in crate::mssql) const OF_TABLES: [&str; 6] =
    ["CONTROL", "ALTER", "SELECT", "INSERT", "UPDATE", "DELETE"];

/// Fixed roles of the database by which somebody has more than a worker needs.
pub(in crate::mssql) const FIXED_ROLES: [&str; 7] = [
    "db_owner",
    "db_securityadmin",
    "db_accessadmin",
    "db_ddladmin",
    "db_datawriter",
    "db_datareader",
    "db_backupoperator",
];

/// The same of the server. Azure SQL Database knows their names, and has no members of them.
pub(in crate::mssql) const SERVER_ROLES: [&str; 3] = ["sysadmin", "securityadmin", "serveradmin"];

/// A row for each right, by its number: whether it is held, NULL where what it is on is not there or may not be seen.
pub(in crate::mssql) fn held(rights: &[SqlRight]) -> String {
    let rows: Vec<String> = rights
        .iter()
        .enumerate()
        .map(|(number, right)| {
            let name = match right.securable.quoted() {
                None => "DB_NAME()".to_owned(),
                Some(name) => literal(&name),
            };
            format!("SELECT {number} AS number, {} AS held", has(&name, &right.securable, right.permission))
        })
        .collect();
    format!("{} ORDER BY number", rows.join(" UNION ALL "))
}

fn has(name: &str, securable: &Securable, permission: &str) -> String {
    format!("HAS_PERMS_BY_NAME({name}, N'{}', {})", securable.class(), literal(permission))
}

/// One row: the user, and of which fixed roles it is a member.
pub(in crate::mssql) fn memberships() -> String {
    let fixed = FIXED_ROLES.iter().map(|role| format!("IS_MEMBER(N'{role}') AS {role}"));
    let of_server = SERVER_ROLES.iter().map(|role| format!("IS_SRVROLEMEMBER(N'{role}') AS {role}"));
    let columns: Vec<String> = fixed.chain(of_server).collect();
    format!("SELECT USER_NAME() AS user_name, {}", columns.join(", "))
}

/// One row: which permissions on the database are held.
pub(in crate::mssql) fn of_database() -> String {
    let columns: Vec<String> = OF_DATABASE
        .iter()
        .map(|permission| {
            format!("HAS_PERMS_BY_NAME(DB_NAME(), N'DATABASE', N'{permission}') AS [{permission}]")
        })
        .collect();
    format!("SELECT {}", columns.join(", "))
}

/// A row for each schema: which permissions on it are held.
pub(in crate::mssql) fn of_schemas() -> String {
    format!("SELECT s.name AS schema_name, {} FROM sys.schemas AS s", of("QUOTENAME(s.name)", "SCHEMA"))
}

/// A row for each table that may be seen: which permissions on it are held.
pub(in crate::mssql) fn of_tables() -> String {
    let name = "QUOTENAME(s.name) + N'.' + QUOTENAME(t.name)";
    format!(
        "SELECT s.name AS schema_name, t.name AS table_name, {} \
         FROM sys.tables AS t JOIN sys.schemas AS s ON s.schema_id = t.schema_id",
        of(name, "OBJECT")
    )
}

fn of(name: &str, class: &str) -> String {
    let columns: Vec<String> = OF_TABLES
        .iter()
        .map(|permission| format!("HAS_PERMS_BY_NAME({name}, N'{class}', N'{permission}') AS [{permission}]"))
        .collect();
    columns.join(", ")
}
