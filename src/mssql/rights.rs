//! What the session's user may do, asked of the server.

use tiberius::Row;

use crate::error::{Error, Phase, Result};
use crate::mssql::connect::Session;
use crate::mssql::query;
use crate::mssql::statements::rights::{
    self as statements, FIXED_ROLES, OF_DATABASE, OF_OBJECTS, OF_ROLES, OF_USERS, SERVER_ROLES,
};
use crate::rights::sql::{Securable, SqlRight};
use crate::sql_name::{Identifier, TableName};

/// A user, and of which fixed roles it is a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its name in the database.
    pub user: String,
    /// Fixed roles of the database and of the server.
    pub roles: Vec<&'static str>,
}

/// A permission that the user has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As T-SQL calls it.
    pub permission: &'static str,
    /// On what.
    pub securable: Securable,
}

/// Which of these the user has not.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn missing(session: &mut Session, needed: &[SqlRight]) -> Result<Vec<SqlRight>> {
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let rows = query(session, &statements::held(needed)).await.map_err(failed)?;
    let mut missing = Vec::new();
    for (row, right) in rows.iter().zip(needed) {
        if !is_one(row, "held")? {
            missing.push(right.clone());
        }
    }
    Ok(missing)
}

/// Who the user is.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn membership(session: &mut Session) -> Result<Membership> {
    let rows = query(session, &statements::memberships()).await.map_err(failed)?;
    let mut membership = Membership { user: String::new(), roles: Vec::new() };
    if let Some(row) = rows.first() {
        membership.user = text(row, "user_name")?;
        for role in FIXED_ROLES.into_iter().chain(SERVER_ROLES) {
            if is_one(row, role)? {
                membership.roles.push(role);
            }
        }
    }
    Ok(membership)
}

/// Everything by which the user writes, reads or comes to more. What a permission on something larger says is not repeated of
/// what is in it.
///
/// # Errors
///
/// The server's, and the connection's.
pub async fn held(session: &mut Session) -> Result<Vec<Held>> {
    let mut held: Vec<Held> = Vec::new();
    for row in &query(session, &statements::of_database()).await.map_err(failed)? {
        collect(&mut held, row, &OF_DATABASE, &Securable::Database)?;
    }
    for row in &query(session, &statements::of_schemas()).await.map_err(failed)? {
        if let Ok(schema) = Identifier::new(text(row, "schema_name")?) {
            collect(&mut held, row, &OF_OBJECTS, &Securable::Schema(schema))?;
        }
    }
    for row in &query(session, &statements::of_objects()).await.map_err(failed)? {
        let names = (Identifier::new(text(row, "schema_name")?), Identifier::new(text(row, "object_name")?));
        if let (Ok(schema), Ok(table)) = names {
            collect(&mut held, row, &OF_OBJECTS, &Securable::Table(TableName { schema, table }))?;
        }
    }
    for row in &query(session, &statements::of_users()).await.map_err(failed)? {
        if let Ok(user) = Identifier::new(text(row, "name")?) {
            collect(&mut held, row, &OF_USERS, &Securable::User(user))?;
        }
    }
    for row in &query(session, &statements::of_roles()).await.map_err(failed)? {
        if let Ok(role) = Identifier::new(text(row, "name")?) {
            collect(&mut held, row, &OF_ROLES, &Securable::Role(role))?;
        }
    }
    Ok(held)
}

fn collect(
    held: &mut Vec<Held>,
    row: &Row,
    permissions: &[&'static str],
    securable: &Securable,
) -> Result<()> {
    for permission in permissions {
        let is_said = |own: &Held| own.says(permission, securable);
        if is_one(row, permission)? && !held.iter().any(is_said) {
            held.push(Held { permission, securable: securable.clone() });
        }
    }
    Ok(())
}

impl Held {
    /// Whether this is the permission, or one that it follows from.
    pub fn says(&self, permission: &str, securable: &Securable) -> bool {
        let is_implied = match (self.permission, permission, securable) {
            ("CONTROL", _, _) | ("ALTER ANY ROLE", "ALTER", Securable::Role(_)) => true,
            (own, permission, _) => own == permission,
        };
        is_implied && self.securable.has(securable)
    }
}

fn is_one(row: &Row, column: &str) -> Result<bool> {
    Ok(row.try_get::<i32, _>(column).map_err(failed)? == Some(1))
}

fn text(row: &Row, column: &str) -> Result<String> {
    Ok(row.try_get::<&str, _>(column).map_err(failed)?.unwrap_or_default().to_owned())
}

fn failed(error: tiberius::error::Error) -> Error {
    Error::sql(Phase::Target, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_something_larger_is_not_said_again() {
        let name = |text: &str| Identifier::new(text).expect("a name");
        let (role, user) = (Securable::Role(name("r")), Securable::User(name("u")));
        let view = Securable::Table("s.v".parse().expect("a name"));
        let says = |permission, on: &Securable, other: &str, of: &Securable| {
            Held { permission, securable: on.clone() }.says(other, of)
        };
        for (permission, on, other, of, expected) in [
            ("ALTER ANY ROLE", &Securable::Database, "ALTER", &role, true),
            ("ALTER ANY ROLE", &Securable::Database, "CONTROL", &role, false),
            ("ALTER ANY ROLE", &Securable::Database, "ALTER", &view, false),
            ("CONTROL", &Securable::Database, "IMPERSONATE", &user, true),
            ("CONTROL", &user, "IMPERSONATE", &user, true),
            ("ALTER", &Securable::Database, "IMPERSONATE", &user, false),
            ("CONTROL", &Securable::Schema(name("u")), "IMPERSONATE", &user, false),
            ("EXECUTE", &Securable::Schema(name("s")), "EXECUTE", &view, true),
            ("EXECUTE", &Securable::Schema(name("s")), "TAKE OWNERSHIP", &view, false),
        ] {
            assert_eq!(says(permission, on, other, of), expected, "{permission} on {on}, {other} on {of}");
        }
    }
}
