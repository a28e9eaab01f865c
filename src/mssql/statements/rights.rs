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

/// The same on schemas and what is in them.
pub(in crate::mssql) const OF_OBJECTS: [&str; 8] =
    ["CONTROL", "ALTER", "TAKE OWNERSHIP", "EXECUTE", "SELECT", "INSERT", "UPDATE", "DELETE"];

/// The same on users: who may be another may do what that one may.
pub(in crate::mssql) const OF_USERS: [&str; 2] = ["CONTROL", "IMPERSONATE"];

/// The same on roles: who may alter one may join it.
pub(in crate::mssql) const OF_ROLES: [&str; 2] = ["CONTROL", "ALTER"];

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

/// The database's name. Without quotes one that has a dot is taken for a name of several parts, of which nothing is known.
const THIS_DATABASE: &str = "QUOTENAME(DB_NAME())";

/// A row for each right, by its number: whether it is held, NULL where what it is on is not there or may not be seen.
pub(in crate::mssql) fn held(rights: &[SqlRight]) -> String {
    let rows: Vec<String> = rights
        .iter()
        .enumerate()
        .map(|(number, right)| {
            let name = match right.securable.quoted() {
                None => THIS_DATABASE.to_owned(),
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
    format!("SELECT {}", of(THIS_DATABASE, "DATABASE", &OF_DATABASE))
}

/// A row for each schema: which permissions on it are held.
pub(in crate::mssql) fn of_schemas() -> String {
    let columns = of("QUOTENAME(s.name)", "SCHEMA", &OF_OBJECTS);
    format!("SELECT s.name AS schema_name, {columns} FROM sys.schemas AS s")
}

/// A row for each table, view, procedure and function that may be seen: which permissions on it are held. What came with the server
/// is for everybody.
pub(in crate::mssql) fn of_objects() -> String {
    let columns = of("QUOTENAME(s.name) + N'.' + QUOTENAME(o.name)", "OBJECT", &OF_OBJECTS);
    format!(
        "SELECT s.name AS schema_name, o.name AS object_name, {columns} \
         FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id \
         WHERE o.type IN ('U', 'V', 'P', 'FN', 'IF', 'TF') AND o.is_ms_shipped = 0"
    )
}

/// A row for each other user that may be seen: which permissions on it are held.
pub(in crate::mssql) fn of_users() -> String {
    // a member of a group of Entra ID may have no number of its own
    let others = "p.type NOT IN ('A', 'R') AND p.principal_id <> COALESCE(DATABASE_PRINCIPAL_ID(), 0)";
    of_principals("USER", &OF_USERS, others)
}

/// A row for each role that may be seen: which permissions on it are held.
pub(in crate::mssql) fn of_roles() -> String {
    of_principals("ROLE", &OF_ROLES, "p.type = 'R'")
}

fn of_principals(class: &str, permissions: &[&str], which: &str) -> String {
    let columns = of("QUOTENAME(p.name)", class, permissions);
    format!("SELECT p.name AS name, {columns} FROM sys.database_principals AS p WHERE {which}")
}

fn of(name: &str, class: &str, permissions: &[&str]) -> String {
    let columns: Vec<String> = permissions
        .iter()
        .map(|permission| format!("HAS_PERMS_BY_NAME({name}, N'{class}', N'{permission}') AS [{permission}]"))
        .collect();
    columns.join(", ")
}
