//! Who may do what: checked before a statement runs, and changed by GRANT and its like.
//!
//! The rules are functions in the database, so that what one session changes holds for the next statement of all
//! others, and goes with a rollback. dbo is asked nothing.

use super::super::batch::{Ddl, PermissionChange, PrincipalKind, Securable, Security, UserKind};
use super::super::bind::{Access, split_name};
use super::super::catalogue::Table;
use super::super::encode::quote_literal;
use super::super::error::SqlError;
use super::identity::{DBO, password_hash};
use super::transaction::Outcome;
use super::{Session, Writer};

const OF_DATABASE: i32 = 0;
const OF_OBJECT: i32 = 1;
const OF_SCHEMA: i32 = 3;

impl Session {
    /// Checks what a statement needs. The error names the first permission that is missing.
    pub(super) async fn check_permissions(&mut self, accesses: &[Access]) -> Outcome<()> {
        if self.identity.principal == DBO || accesses.is_empty() {
            return Ok(Ok(()));
        }
        let needed: Vec<String> = accesses
            .iter()
            .enumerate()
            .map(|(index, Access { permission, table })| {
                format!("({index}, '{permission}', {})", table.object_id)
            })
            .collect();
        let sql = format!(
            "SELECT index FROM (VALUES {}) AS needed (index, permission, id) \
             WHERE NOT tsql.allows(tsql.me(), permission, {OF_OBJECT}, id) ORDER BY index LIMIT 1",
            needed.join(", ")
        );
        let missing = match self.number(&sql).await? {
            Ok(missing) => missing.and_then(|index| accesses.get(usize::try_from(index).ok()?)),
            Err(error) => return Ok(Err(error)),
        };
        Ok(match missing {
            None => Ok(()),
            Some(Access { permission, table }) => Err(self.denied(permission, table)),
        })
    }

    fn denied(&self, permission: &str, table: &Table) -> SqlError {
        let message = format!(
            "The {permission} permission was denied on the object '{}', database '{}', schema '{}'.",
            table.name, self.shared.database, table.schema
        );
        SqlError::new(229, 14, 5, message)
    }

    /// Whether the session's user has a permission.
    async fn may(&mut self, permission: &str, class: i32, id: i32) -> Outcome<bool> {
        if self.identity.principal == DBO {
            return Ok(Ok(true));
        }
        let sql = format!("SELECT tsql.allows(tsql.me(), '{permission}', {class}, {id})::int4");
        Ok(self.number(&sql).await?.map(|allowed| allowed == Some(1)))
    }

    /// INSERT BULK needs INSERT, and ALTER as well where it is to get around constraints.
    pub(super) async fn check_load(
        &mut self,
        table: &Table,
        name: &[String],
        skips_checks: bool,
    ) -> Outcome<()> {
        for (permission, is_needed) in [("INSERT", true), ("ALTER", skips_checks)] {
            if is_needed && !table.is_view && !table.name.starts_with('#') {
                match self.may(permission, OF_OBJECT, table.object_id).await? {
                    Ok(true) => {}
                    Ok(false) if permission == "ALTER" => {
                        let message = format!(
                            "Bulk copy failed. User does not have ALTER TABLE permission on table '{}'. ALTER TABLE permission is required on the target table of a bulk copy operation if the table has triggers or check constraints, but 'FIRE_TRIGGERS' or 'CHECK_CONSTRAINTS' bulk hints are not specified as options to the bulk copy command.",
                            name.join(".")
                        );
                        return Ok(Err(SqlError::new(5304, 16, 1, message)));
                    }
                    Ok(false) => return Ok(Err(self.denied(permission, table))),
                    Err(error) => return Ok(Err(error)),
                }
            }
        }
        Ok(Ok(()))
    }

    /// Checks what a statement needs that changes what there is. What one may not change is said not to be there.
    pub(super) async fn check_ddl(&mut self, ddl: &Ddl) -> Outcome<()> {
        if self.identity.principal == DBO {
            return Ok(Ok(()));
        }
        match ddl {
            Ddl::CreateTable { name, .. } => self.check_create_table(name).await,
            Ddl::AlterTableAdd { name, .. }
            | Ddl::AlterColumn { name, .. }
            | Ddl::DropColumns { name, .. }
            | Ddl::DropConstraints { name, .. } => self.check_alter(name, |name| cannot_find(name, 13)).await,
            Ddl::CreateIndex { table, .. } => self.check_alter(table, |name| cannot_find(name, 12)).await,
            Ddl::Truncate(name) => self.check_alter(name, |name| cannot_find(name, 7)).await,
            Ddl::DropTable { names, .. } => {
                for name in names {
                    if let Err(error) = self.check_drop_table(name).await? {
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(()))
            }
            Ddl::DropIndex { table, name, .. } => {
                self.check_alter(table, |table| cannot_drop("index", &format!("{table}.{name}"))).await
            }
            Ddl::CreateSchema { .. } => match self.may("CREATE SCHEMA", OF_DATABASE, 0).await? {
                Ok(true) => Ok(Ok(())),
                Ok(false) => Ok(Err(self.denied_in_database("CREATE SCHEMA"))),
                Err(error) => Ok(Err(error)),
            },
            Ddl::DropSchema { name, .. } => {
                let id = match self.schema_number(name).await? {
                    Ok(id) => id,
                    Err(error) => return Ok(Err(error)),
                };
                match self.may("ALTER", OF_SCHEMA, id.unwrap_or(0)).await? {
                    Ok(true) => Ok(Ok(())),
                    Ok(false) if id.is_none() => Ok(Ok(())),
                    Ok(false) => {
                        let message = format!(
                            "Cannot drop the schema '{name}', because it does not exist or you do not have permission."
                        );
                        Ok(Err(SqlError::new(15151, 16, 1, message)))
                    }
                    Err(error) => Ok(Err(error)),
                }
            }
        }
    }

    fn denied_in_database(&self, permission: &str) -> SqlError {
        let message = format!("{permission} permission denied in database '{}'.", self.shared.database);
        SqlError::new(262, 14, 1, message)
    }

    async fn schema_number(&mut self, name: &str) -> Outcome<Option<i32>> {
        self.number(&format!("SELECT tsql.schema_id({})", quote_literal(name))).await
    }

    pub(super) async fn check_create_table(&mut self, name: &[String]) -> Outcome<()> {
        let schema = match split_name(name, &self.shared.database) {
            Ok((_, table)) if table.starts_with('#') => return Ok(Ok(())),
            Ok((schema, _)) => schema,
            Err(error) => return Ok(Err(error)),
        };
        match self.may("CREATE TABLE", OF_DATABASE, 0).await? {
            Ok(true) => {}
            Ok(false) => return Ok(Err(self.denied_in_database("CREATE TABLE"))),
            Err(error) => return Ok(Err(error)),
        }
        let id = match self.schema_number(schema).await? {
            Ok(Some(id)) => id,
            // said when the table is made
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        match self.may("ALTER", OF_SCHEMA, id).await? {
            Ok(true) => Ok(Ok(())),
            Ok(false) => {
                let message = format!(
                    "The specified schema name \"{schema}\" either does not exist or you do not have permission to use it."
                );
                Ok(Err(SqlError::new(2760, 16, 1, message)))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn check_alter(&mut self, name: &[String], error: impl Fn(&str) -> SqlError) -> Outcome<()> {
        self.check_changed(name, &[("ALTER", OF_OBJECT)], error).await
    }

    /// Of a table itself CONTROL, or ALTER of the schema that it leaves.
    async fn check_drop_table(&mut self, name: &[String]) -> Outcome<()> {
        let needed = [("CONTROL", OF_OBJECT), ("ALTER", OF_SCHEMA)];
        self.check_changed(name, &needed, |name| cannot_drop("table", name)).await
    }

    /// One of these permissions; what is not there at all is left to the statement.
    async fn check_changed(
        &mut self,
        name: &[String],
        needed: &[(&str, i32)],
        error: impl Fn(&str) -> SqlError,
    ) -> Outcome<()> {
        let table = match self.existing(name).await? {
            Ok(table) if table.name.starts_with('#') => return Ok(Ok(())),
            Ok(table) => table,
            Err(_) => return Ok(Ok(())),
        };
        for (permission, class) in needed {
            let id = if *class == OF_SCHEMA {
                match self.schema_number(&table.schema).await? {
                    Ok(id) => id.unwrap_or(0),
                    Err(error) => return Ok(Err(error)),
                }
            } else {
                table.object_id
            };
            match self.may(permission, *class, id).await? {
                Ok(true) => return Ok(Ok(())),
                Ok(false) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Err(error(&name.join("."))))
    }

    /// CREATE, ALTER and DROP of users and roles, GRANT, REVOKE and DENY.
    pub(super) async fn security(&mut self, writer: &mut Writer, security: &Security) -> Outcome<()> {
        if self.is_doomed {
            return Ok(Err(SqlError::doomed()));
        }
        if let Err(error) = self.begin_implicitly(writer).await? {
            return Ok(Err(error));
        }
        match self.security_script(security) {
            Ok(script) => self.run_script(&script).await,
            Err(error) => Ok(Err(error)),
        }
    }

    fn security_script(&self, security: &Security) -> Result<String, SqlError> {
        let literal = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quote_literal);
        Ok(match security {
            Security::CreateUser { name, kind } => self.create_user_script(name, kind)?,
            Security::CreateRole { name, owner } => {
                format!("SELECT tsql.create_role({}, {})", quote_literal(name), literal(owner.as_deref()))
            }
            Security::ChangePassword(change) => {
                let salt = uuid::Uuid::new_v4().simple().to_string();
                let hash = password_hash(&salt, &change.password);
                format!("SELECT tsql.change_password({}, '{salt}', '{hash}')", quote_literal(&change.user))
            }
            Security::Drop { kind, name, if_exists } => {
                let kind = match kind {
                    PrincipalKind::User => "USER",
                    PrincipalKind::Role => "ROLE",
                };
                format!("SELECT tsql.drop_principal('{kind}', {}, {if_exists})", quote_literal(name))
            }
            Security::AlterRole { role, member, is_added } => {
                format!(
                    "SELECT tsql.alter_role({}, {}, {is_added})",
                    quote_literal(role),
                    quote_literal(member)
                )
            }
            Security::Permission(change) => self.permission_script(change)?,
        })
    }

    fn create_user_script(&self, name: &str, kind: &UserKind) -> Result<String, SqlError> {
        let (mut login, mut salt, mut hash, mut external) = (None, None, None, None);
        match kind {
            UserKind::Password(password) => {
                let fresh = uuid::Uuid::new_v4().simple().to_string();
                hash = Some(password_hash(&fresh, password));
                salt = Some(fresh);
            }
            UserKind::Login(wanted) => {
                let wanted = wanted.as_deref().unwrap_or(name);
                let logins = self.shared.logins.iter().chain(&self.shared.other_logins);
                let is_dbo = self.shared.logins.iter().any(|own| own.user.eq_ignore_ascii_case(wanted));
                if is_dbo {
                    let message = "The login already has an account under a different user name.";
                    return Err(SqlError::new(15063, 16, 1, message));
                }
                let known = logins.clone().find(|own| own.user.eq_ignore_ascii_case(wanted));
                let Some(known) = known else {
                    let message = format!("'{wanted}' is not a valid login or you do not have permission.");
                    return Err(SqlError::new(15007, 16, 1, message));
                };
                login = Some(known.user.clone());
            }
            UserKind::WithoutLogin => {}
            UserKind::External(id) => external.clone_from(id),
        }
        let is_external = matches!(kind, UserKind::External(_));
        let literal =
            |text: Option<String>| text.map_or_else(|| "NULL".to_owned(), |text| quote_literal(&text));
        Ok(format!(
            "SELECT tsql.create_user({}, '{}', {}, {}, {}, {})",
            quote_literal(name),
            if is_external { 'E' } else { 'S' },
            literal(login),
            literal(salt),
            literal(hash),
            literal(external)
        ))
    }

    fn permission_script(&self, change: &PermissionChange) -> Result<String, SqlError> {
        let (class, schema, name) = match &change.securable {
            Securable::Database => (OF_DATABASE, "", self.shared.database.as_str()),
            Securable::Schema(name) => (OF_SCHEMA, "", name.as_str()),
            Securable::Object(name) => {
                let (schema, name) = split_name(name, &self.shared.database)?;
                (OF_OBJECT, schema, name)
            }
        };
        let mut script = Vec::new();
        for permission in &change.permissions {
            for principal in &change.principals {
                script.push(format!(
                    "SELECT tsql.change_permission('{}', '{permission}', {class}, {}, {}, {}, {}, {})",
                    change.verb,
                    quote_literal(schema),
                    quote_literal(name),
                    quote_literal(principal),
                    change.is_grantable,
                    change.cascades
                ));
            }
        }
        Ok(script.join("; "))
    }
}

/// The error of a statement whose table is not there: not that of a query, and where permissions hide the table the
/// same text.
pub(super) fn of_missing(ddl: &Ddl, error: SqlError) -> SqlError {
    if error.number != 208 {
        return error;
    }
    match ddl {
        Ddl::AlterTableAdd { name, .. } => {
            SqlError { number: 4902, state: 1, ..cannot_find(&name.join("."), 1) }
        }
        Ddl::CreateIndex { table, .. } => cannot_find(&table.join("."), 12),
        _ => error,
    }
}

fn cannot_find(name: &str, state: u8) -> SqlError {
    let message = format!(
        "Cannot find the object \"{name}\" because it does not exist or you do not have permissions."
    );
    SqlError::new(1088, 16, state, message)
}

fn cannot_drop(kind: &str, name: &str) -> SqlError {
    let message =
        format!("Cannot drop the {kind} '{name}', because it does not exist or you do not have permission.");
    SqlError::new(3701, 14, 20, message)
}
