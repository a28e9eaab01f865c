//! What the server says of itself: properties, `@@` variables, the error that was caught.

use sqlparser::ast::Expr;

use super::super::encode::quote_literal;
use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::{Binder, Bound, Typed};

pub(super) const NAME: SqlType = SqlType::NVarChar(Length::Limited(128), Collation::Latin1);
const VERSION_TEXT: &str = "Microsoft SQL Azure (RTM) - 12.0.2000.8\n\tStand-in of nats-sql-sink's local stack for development, in front of PostgreSQL";

fn nvarchar(n: u16) -> SqlType {
    SqlType::NVarChar(Length::Limited(n), Collation::Latin1)
}

pub(super) fn constant_text(text: &str, sql_type: SqlType) -> Typed {
    Typed::new(format!("{}::text", quote_literal(text)), sql_type, true)
}

/// A name between brackets; NULL for what is too long to be a name.
pub(super) fn quote_name(name: &Typed) -> Typed {
    let sql = &name.sql;
    let quoted = format!(
        "(CASE WHEN tsql.utf16_length({sql}) <= 128 THEN '[' || replace({sql}, ']', ']]') || ']' END)"
    );
    Typed::new(quoted, nvarchar(258), true)
}

impl Binder<'_> {
    pub(super) fn caught(&self, name: &str) -> Typed {
        let error = self.session.caught.as_ref();
        let int = |value: Option<i32>| {
            Typed::new(
                value.map_or("NULL::int4".to_owned(), |value| format!("({value})::int4")),
                SqlType::Int,
                true,
            )
        };
        match name {
            "ERROR_NUMBER" => int(error.map(|error| error.number)),
            "ERROR_SEVERITY" => int(error.map(|error| i32::from(error.class))),
            "ERROR_STATE" => int(error.map(|error| i32::from(error.state))),
            "ERROR_LINE" => int(error.map(|_| 1)),
            "ERROR_MESSAGE" => match error {
                Some(error) => constant_text(&error.message, nvarchar(4000)),
                None => Typed::new("NULL::text", nvarchar(4000), true),
            },
            _ => Typed::new("NULL::text", NAME, true),
        }
    }

    /// `@@NAME`, the two signs taken off.
    pub(super) fn global(&self, name: &str) -> Bound<Typed> {
        let int = |value: i64| Typed::new(format!("({value})::int4"), SqlType::Int, false);
        Ok(match name.to_ascii_uppercase().as_str() {
            "TRANCOUNT" => int(i64::from(self.session.transaction_count)),
            "ROWCOUNT" => int(self.session.row_count),
            "ERROR" => int(i64::from(self.session.last_error)),
            "SPID" => Typed::new(format!("({})::int2", self.session.session_id), SqlType::SmallInt, false),
            "VERSION" => constant_text(VERSION_TEXT, nvarchar(300)),
            "SERVERNAME" => constant_text("local-stack", NAME),
            "LANGUAGE" => constant_text("us_english", NAME),
            "MAX_PRECISION" => Typed::new("38::int2", SqlType::TinyInt, false),
            "DATEFIRST" => Typed::new("7::int2", SqlType::TinyInt, false),
            "MICROSOFTVERSION" => int(0x0C00_07D0),
            "NESTLEVEL" | "FETCH_STATUS" => int(0),
            _ => return Err(SqlError::unsupported(&format!("@@{name}")).into()),
        })
    }
}

pub(super) fn constant_argument(argument: &Expr) -> Result<&str, SqlError> {
    match argument {
        Expr::Value(value) => match &value.value {
            sqlparser::ast::Value::SingleQuotedString(text)
            | sqlparser::ast::Value::NationalStringLiteral(text) => Ok(text),
            _ => Err(SqlError::syntax(&argument.to_string())),
        },
        _ => Err(SqlError::unsupported("a property whose name is not a constant")),
    }
}

/// SQL Server gives a `sql_variant`; the type within it is given here.
pub(super) fn server_property(name: &str) -> Typed {
    let int = |value: i32| Typed::new(format!("({value})::int4"), SqlType::Int, true);
    match name.to_ascii_lowercase().as_str() {
        "engineedition" => int(5),
        "edition" => constant_text("SQL Azure", nvarchar(128)),
        "productversion" => constant_text("12.0.2000.8", nvarchar(128)),
        "productlevel" => constant_text("RTM", nvarchar(128)),
        "productmajorversion" => constant_text("12", nvarchar(128)),
        "productminorversion" => constant_text("0", nvarchar(128)),
        "productbuild" => constant_text("2000", nvarchar(128)),
        "servername" | "machinename" => constant_text("local-stack", nvarchar(128)),
        "collation" => constant_text(Collation::Latin1.name(), nvarchar(128)),
        "isintegratedsecurityonly"
        | "isclustered"
        | "ishadrenabled"
        | "isxtpsupported"
        | "isfulltextinstalled"
        | "ispolybaseinstalled"
        | "issingleuser" => int(0),
        _ => Typed::new("NULL::text", nvarchar(128), true),
    }
}

pub(super) fn database_property(name: &str) -> Typed {
    let int = |value: i32| Typed::new(format!("({value})::int4"), SqlType::Int, true);
    match name.to_ascii_lowercase().as_str() {
        "collation" => constant_text(Collation::Latin1.name(), nvarchar(128)),
        "updateability" => constant_text("READ_WRITE", nvarchar(128)),
        "status" => constant_text("ONLINE", nvarchar(128)),
        "recovery" => constant_text("FULL", nvarchar(128)),
        "edition" => constant_text("GeneralPurpose", nvarchar(128)),
        "serviceobjective" => constant_text("GP_S_Gen5_1", nvarchar(128)),
        "useraccess" => constant_text("MULTI_USER", nvarchar(128)),
        "version" => int(957),
        "isautoclose" | "isautoshrink" | "isinstandby" => int(0),
        _ => Typed::new("NULL::text", nvarchar(128), true),
    }
}
