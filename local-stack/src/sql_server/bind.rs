//! From T-SQL to PostgreSQL's SQL: names are looked up, every expression is given the type that SQL
//! Server gives it, and only then is it written down for PostgreSQL, with its conversions spelled out.
//!
//! What is not known here is refused by its name; nothing is passed on unread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use super::catalogue::Table;
use super::catalogue::temporary::is_temporary;
use super::encode::quote_identifier;
use super::error::SqlError;
use super::token::{ColumnOrigin, ResultColumn};
use super::types::SqlType;

mod aggregate;
mod convert;
mod date;
mod dml;
mod expression;
mod arithmetic;
mod constant;
mod from;
mod function;
mod grouping;
mod permission;
mod property;
mod query;
mod scope;
mod security;
mod set_operation;
mod updatable;

pub(super) use convert::{Conversion, convert};
pub(super) use permission::{Access, Permission};
pub(super) use scope::{Relation, Scope};

/// Expressions and queries within each other.
const MAX_DEPTH: usize = 128;

/// Why a statement was not bound.
#[derive(Debug)]
pub(super) enum BindError {
    /// A table has to be looked up first; then binding starts again.
    Missing(TableName),
    Refused(SqlError),
}

impl From<SqlError> for BindError {
    fn from(error: SqlError) -> Self {
        Self::Refused(error)
    }
}

pub(super) type Bound<T> = Result<T, BindError>;

/// Schema and name, both in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

/// Tables that were looked up for the statement at hand.
pub(super) type Tables = HashMap<TableName, Option<Arc<Table>>>;

/// A variable's type and its value, in PostgreSQL's SQL.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    pub(super) sql_type: SqlType,
    pub(super) sql: String,
}

/// What expressions may ask of the session.
#[derive(Clone, Debug)]
pub(super) struct SessionFacts {
    pub(super) database: String,
    /// Who logged in.
    pub(super) login: String,
    /// The user of the database, and its number.
    pub(super) user: String,
    pub(super) principal: i32,
    pub(super) session_id: i16,
    pub(super) transaction_count: i32,
    pub(super) transaction_state: i16,
    pub(super) row_count: i64,
    pub(super) last_error: i32,
    /// Number, class, state and message of the error that a CATCH block was entered with.
    pub(super) caught: Option<SqlError>,
}

/// A value: how PostgreSQL computes it and which type it has in T-SQL.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) sql: String,
    /// `None` for a bare NULL.
    pub(super) sql_type: Option<SqlType>,
    pub(super) nullable: bool,
    pub(super) origin: ColumnOrigin,
    /// The name that a result's column takes from it.
    pub(super) name: Option<String>,
    /// Digits of an integer constant: beside a decimal it counts as no more than those.
    pub(super) digits: Option<u8>,
}

impl Typed {
    pub(super) fn new(sql: impl Into<String>, sql_type: SqlType, nullable: bool) -> Self {
        Self {
            sql: sql.into(),
            sql_type: Some(sql_type),
            nullable,
            origin: ColumnOrigin::Expression,
            name: None,
            digits: None,
        }
    }

    pub(super) fn null() -> Self {
        Self {
            sql: "NULL".into(),
            sql_type: None,
            nullable: true,
            origin: ColumnOrigin::Expression,
            name: None,
            digits: None,
        }
    }

    /// SQL Server takes a bare NULL for an int where it needs a type.
    pub(super) fn type_or_int(&self) -> SqlType {
        self.sql_type.unwrap_or(SqlType::Int)
    }
}

/// A query for PostgreSQL, and what comes back. Its columns are named `c1`, `c2` and so on.
#[derive(Clone, Debug)]
pub(super) struct BoundQuery {
    pub(super) sql: String,
    pub(super) columns: Vec<ResultColumn>,
    /// Variables that take the columns' values, where it is a `SELECT @a = …`.
    pub(super) assigns: Vec<String>,
}

impl BoundQuery {
    /// Whether a variable that it assigns is also read in it, so that the order of its rows matters.
    pub(super) fn reads_what_it_assigns(&self, query: &sqlparser::ast::Query) -> bool {
        if self.assigns.is_empty() {
            return false;
        }
        let text = query.to_string().to_lowercase();
        let words = |c: char| !(c.is_alphanumeric() || matches!(c, '@' | '_' | '#' | '$'));
        self.assigns.iter().any(|name| text.split(words).filter(|word| word == name).count() > 1)
    }
}

/// Locks that hints ask for, taken before the statement runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableLock {
    /// The table's quoted name in PostgreSQL.
    pub(super) table: String,
    pub(super) mode: &'static str,
}

/// Binds one statement.
pub(super) struct Binder<'a> {
    pub(super) tables: &'a Tables,
    pub(super) session: &'a SessionFacts,
    pub(super) variables: &'a HashMap<String, Variable>,
    pub(super) locks: RefCell<Vec<TableLock>>,
    pub(super) accesses: RefCell<Vec<Access>>,
    aliases: Cell<usize>,
    depth: Cell<usize>,
    common_tables: RefCell<Vec<CommonTable>>,
    row_source: Cell<Option<updatable::Wanted>>,
    row_columns: RefCell<Vec<Option<String>>>,
}

/// A common table expression that is in sight.
#[derive(Clone, Debug)]
struct CommonTable {
    name: String,
    /// `None` while it is being bound: it would refer to itself.
    columns: Option<Vec<ResultColumn>>,
    alias: String,
    query: Arc<sqlparser::ast::Query>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(
        tables: &'a Tables,
        session: &'a SessionFacts,
        variables: &'a HashMap<String, Variable>,
    ) -> Self {
        Self {
            tables,
            session,
            variables,
            locks: RefCell::new(Vec::new()),
            accesses: RefCell::new(Vec::new()),
            aliases: Cell::new(0),
            depth: Cell::new(0),
            common_tables: RefCell::new(Vec::new()),
            row_source: Cell::new(None),
            row_columns: RefCell::new(Vec::new()),
        }
    }

    /// Binds what is within something else, as long as it does not go too deep for the stack.
    fn deeper<T>(&self, bind: impl FnOnce() -> Bound<T>) -> Bound<T> {
        if self.depth.get() >= MAX_DEPTH {
            return Err(SqlError::too_deep().into());
        }
        self.depth.set(self.depth.get() + 1);
        let bound = bind();
        self.depth.set(self.depth.get() - 1);
        bound
    }

    /// A name that is used nowhere else in the statement.
    fn alias(&self) -> String {
        self.aliases.set(self.aliases.get() + 1);
        format!("t{}", self.aliases.get())
    }

    /// Finds a table by the parts of its name, and notes what for.
    pub(super) fn table(&self, parts: &[String], permission: Permission) -> Bound<Arc<Table>> {
        let (schema, name) = split_name(parts, &self.session.database)?;
        let key = TableName { schema: schema.to_lowercase(), name: name.to_lowercase() };
        match self.tables.get(&key) {
            None => Err(BindError::Missing(key)),
            Some(None) => {
                Err(SqlError::new(208, 16, 1, format!("Invalid object name '{}'.", parts.join("."))).into())
            }
            Some(Some(table)) => {
                self.needs(permission, table);
                Ok(table.clone())
            }
        }
    }

    fn lock(&self, table: &str, mode: &'static str) {
        self.locks.borrow_mut().push(TableLock { table: table.to_owned(), mode });
    }
}

/// Schema and name out of `[[database.]schema.]name`.
///
/// Temporary tables have a schema of their own here, so that none of the database can be taken for one.
pub(super) fn split_name<'n>(parts: &'n [String], database: &str) -> Result<(&'n str, &'n str), SqlError> {
    let is_tempdb = |name: &str| name.eq_ignore_ascii_case("tempdb");
    match parts {
        [.., name] if name.starts_with("##") => Err(SqlError::unsupported("global temporary table")),
        [name] | [_, name] if is_temporary(name) => Ok(("tempdb", name)),
        [other, _, name]
            if is_temporary(name) && (is_tempdb(other) || super::catalogue::same_name(other, database)) =>
        {
            Ok(("tempdb", name))
        }
        [other, schema, name] if is_tempdb(other) && schema.eq_ignore_ascii_case("sys") => {
            Ok(("tempdb.sys", name))
        }
        [name] => Ok(("dbo", name)),
        [schema, name] => Ok((if schema.is_empty() { "dbo" } else { schema }, name)),
        [other, schema, name] if super::catalogue::same_name(other, database) => {
            Ok((if schema.is_empty() { "dbo" } else { schema }, name))
        }
        [other, _, _] => Err(SqlError::new(
            40515,
            15,
            1,
            format!(
                "Reference to database and/or server name in '{other}' is not supported in this version of SQL Server."
            ),
        )),
        _ => Err(SqlError::unsupported("name of four parts")),
    }
}

/// The name of a query's nth column, counted from 0.
pub(super) fn column_alias(index: usize) -> String {
    quote_identifier(&format!("c{}", index + 1))
}
