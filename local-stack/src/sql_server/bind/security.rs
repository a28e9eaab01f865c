//! Functions about who one is, and what one may do.

use sqlparser::ast::{Expr, Ident};

use super::super::error::SqlError;
use super::super::types::SqlType;
use super::property::{NAME, constant_text};
use super::{Binder, Bound, Scope, Typed};

/// Functions with parentheses, by their names in capitals.
pub(super) fn is_known(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "SUSER_SNAME",
        "SUSER_NAME",
        "SYSTEM_USER",
        "ORIGINAL_LOGIN",
        "USER_NAME",
        "CURRENT_USER",
        "SESSION_USER",
        "USER",
        "USER_ID",
        "DATABASE_PRINCIPAL_ID",
        "IS_MEMBER",
        "IS_ROLEMEMBER",
        "IS_SRVROLEMEMBER",
        "HAS_PERMS_BY_NAME",
    ];
    NAMES.contains(&name)
}

/// Functions that are called without parentheses; the words are reserved.
pub(super) fn is_niladic(name: &Ident) -> bool {
    name.quote_style.is_none()
        && ["CURRENT_USER", "SESSION_USER", "SYSTEM_USER", "USER"]
            .iter()
            .any(|function| name.value.eq_ignore_ascii_case(function))
}

impl Binder<'_> {
    /// A function by its name in capitals.
    pub(super) fn security_function(
        &self,
        name: &str,
        arguments: &[&Expr],
        scope: &Scope<'_>,
    ) -> Bound<Typed> {
        let most = match name {
            "USER_NAME" | "USER_ID" | "DATABASE_PRINCIPAL_ID" | "IS_MEMBER" | "IS_SRVROLEMEMBER" => 1,
            "IS_ROLEMEMBER" => 2,
            "HAS_PERMS_BY_NAME" => 3,
            _ => 0,
        };
        let least = match name {
            "IS_MEMBER" | "IS_ROLEMEMBER" | "IS_SRVROLEMEMBER" => 1,
            "HAS_PERMS_BY_NAME" => 3,
            _ => 0,
        };
        if arguments.len() > most {
            return Err(SqlError::unsupported(&format!("{name} of so many arguments")).into());
        }
        if arguments.len() < least {
            let message = format!("The {} function requires more arguments.", name.to_ascii_lowercase());
            return Err(SqlError::new(174, 15, 1, message).into());
        }
        let text = |index: usize| -> Bound<String> {
            Ok(match arguments.get(index) {
                Some(argument) => self.text(argument, scope)?.sql,
                None => "NULL::text".into(),
            })
        };
        let int = |sql: String| Typed::new(sql, SqlType::Int, true);
        Ok(match name {
            "SUSER_SNAME" | "SUSER_NAME" | "SYSTEM_USER" | "ORIGINAL_LOGIN" => {
                constant_text(&self.session.login, NAME)
            }
            "USER_NAME" if !arguments.is_empty() => {
                Typed::new(format!("tsql.principal_name({})", self.int(arguments[0], scope)?), NAME, true)
            }
            "USER_ID" | "DATABASE_PRINCIPAL_ID" if arguments.is_empty() => {
                int(format!("({})::int4", self.session.principal))
            }
            "USER_ID" | "DATABASE_PRINCIPAL_ID" => int(format!("tsql.principal_id({})", text(0)?)),
            "IS_MEMBER" | "IS_ROLEMEMBER" => int(format!("tsql.is_member({}, {})", text(0)?, text(1)?)),
            "IS_SRVROLEMEMBER" => int(format!("tsql.is_server_role_member({})", text(0)?)),
            "HAS_PERMS_BY_NAME" => {
                int(format!("tsql.has_permission({}, {}, {})", text(0)?, text(1)?, text(2)?))
            }
            _ => constant_text(&self.session.user, NAME),
        })
    }
}
