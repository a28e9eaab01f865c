//! Rights in the database.

use std::fmt;

use crate::config::{DeliveryGuarantee, PipelineConfig};
use crate::keyed::Keyed;
use crate::schema::Schema;
use crate::sql_name::{Identifier, TableName};

/// The schema of the sink's own tables.
const OWN_SCHEMA: &str = "nats_sql_sink";

/// What a right is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Securable {
    /// The database.
    Database,
    /// A schema, and all that is or will be in it.
    Schema(Identifier),
    /// A table, or what else is in a schema: a view, a procedure, a function.
    Table(TableName),
    /// One of the sink's own tables.
    Own(&'static str),
    /// A user of the database.
    User(Identifier),
    /// A role of the database.
    Role(Identifier),
}

impl Securable {
    /// The class, as `HAS_PERMS_BY_NAME` and GRANT call it.
    pub fn class(&self) -> &'static str {
        match self {
            Securable::Database => "DATABASE",
            Securable::Schema(_) => "SCHEMA",
            Securable::Table(_) | Securable::Own(_) => "OBJECT",
            Securable::User(_) => "USER",
            Securable::Role(_) => "ROLE",
        }
    }

    /// Whether `other` is this, or in it. Names are compared as most databases do, without regard to case.
    pub fn has(&self, other: &Securable) -> bool {
        let schema_of = |securable: &Securable| match securable {
            Securable::Database | Securable::User(_) | Securable::Role(_) => None,
            Securable::Schema(schema) => Some(schema.as_str().to_lowercase()),
            Securable::Table(table) => Some(table.schema.as_str().to_lowercase()),
            Securable::Own(_) => Some(OWN_SCHEMA.to_owned()),
        };
        let name = |securable: &Securable| securable.quoted().map(|name| name.to_lowercase());
        match self {
            Securable::Database => true,
            Securable::Schema(_) => schema_of(self) == schema_of(other),
            Securable::Table(_) | Securable::Own(_) | Securable::User(_) | Securable::Role(_) => {
                self.class() == other.class() && name(self) == name(other)
            }
        }
    }

    /// Its name, quoted; `None` for the database.
    pub fn quoted(&self) -> Option<String> {
        match self {
            Securable::Database => None,
            Securable::Schema(name) | Securable::User(name) | Securable::Role(name) => Some(name.quoted()),
            Securable::Table(table) => Some(table.quoted()),
            Securable::Own(table) => Some(format!("[{OWN_SCHEMA}].[{table}]")),
        }
    }
}

/// As a GRANT names it.
impl fmt::Display for Securable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quoted() {
            None => formatter.write_str("the database"),
            Some(name) => write!(formatter, "{}::{name}", self.class()),
        }
    }
}

/// A right in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRight {
    /// As T-SQL calls it.
    pub permission: &'static str,
    /// On what.
    pub securable: Securable,
    /// What it is for.
    pub purpose: &'static str,
}

/// `SELECT ON OBJECT::[dbo].[t]`.
impl fmt::Display for SqlRight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.securable {
            Securable::Database => formatter.write_str(self.permission),
            _ => write!(formatter, "{} ON {}", self.permission, self.securable),
        }
    }
}

/// Rights, each once.
#[derive(Debug, Default)]
struct Rights(Vec<SqlRight>);

impl Rights {
    fn add(&mut self, permissions: &[(&'static str, &'static str)], securable: &Securable) {
        for (permission, purpose) in permissions {
            let is_same = |own: &SqlRight| own.permission == *permission && own.securable == *securable;
            if !self.0.iter().any(is_same) {
                self.0.push(SqlRight { permission, securable: securable.clone(), purpose });
            }
        }
    }
}

/// Those of the sink's own tables that a pipeline uses.
pub fn own_tables(pipeline: &PipelineConfig) -> Vec<&'static str> {
    let mut tables = Vec::new();
    if pipeline.delivery == DeliveryGuarantee::ExactlyOnce {
        tables.extend(["progress", "leases", "workers"]);
    }
    if pipeline.receipts.is_some() {
        tables.push("receipts");
    }
    tables
}

/// What the worker needs for these pipelines, and what `partitions change` and `new-stream` need besides where
/// `changes_partitions`.
///
/// Where a table is to be created by the worker its rights are on the schema: nothing can be granted on a table that is not
/// there, and a table belongs to its schema's owner and not to who creates it.
pub fn loader<'a>(
    planned: impl IntoIterator<Item = (&'a PipelineConfig, &'a Schema)>,
    changes_partitions: bool,
) -> Vec<SqlRight> {
    let mut rights = Rights::default();
    for (pipeline, schema) in planned {
        let target = match pipeline.create_table {
            true => Securable::Schema(pipeline.table.schema.clone()),
            false => Securable::Table(pipeline.table.clone()),
        };
        if pipeline.create_table {
            rights.add(&[("CREATE TABLE", "creating the table")], &Securable::Database);
            rights.add(&[("ALTER", "creating the table in this schema")], &target);
        }
        rights.add(&[("SELECT", "reading the table's shape"), ("INSERT", "loading rows")], &target);
        if Keyed::of(pipeline, schema).is_some_and(|keyed| keyed.guard.is_some()) {
            rights.add(&[("UPDATE", "replacing rows by their key")], &target);
        }
        own_rights(&mut rights, pipeline, changes_partitions);
    }
    rights.0
}

fn own_rights(rights: &mut Rights, pipeline: &PipelineConfig, changes_partitions: bool) {
    for table in own_tables(pipeline) {
        let (permissions, on_change): (&[_], &[_]) = match table {
            "progress" => (
                &[
                    ("SELECT", "reading how far partitions are read"),
                    ("INSERT", "beginning with a pipeline"),
                    ("UPDATE", "moving the progress in the transaction of the rows"),
                ],
                &[("DELETE", "`partitions change` and `partitions new-stream`")],
            ),
            "leases" => (
                &[
                    ("SELECT", "seeing who reads which partition"),
                    ("INSERT", "beginning with a pipeline"),
                    ("UPDATE", "claiming partitions, and giving them back"),
                ],
                &[("DELETE", "`partitions change` and `partitions new-stream`")],
            ),
            "workers" => (
                &[
                    ("SELECT", "seeing who works"),
                    ("INSERT", "saying that one works"),
                    ("UPDATE", "saying that one still works"),
                    ("DELETE", "taking leave"),
                ],
                &[],
            ),
            _ => (
                &[
                    ("SELECT", "reading what is to be announced"),
                    ("INSERT", "leaving a receipt in the transaction of the rows"),
                    ("DELETE", "removing what is announced"),
                ],
                &[],
            ),
        };
        rights.add(permissions, &Securable::Own(table));
        if changes_partitions {
            rights.add(on_change, &Securable::Own(table));
        }
    }
}

/// A table that is there needs nothing of what creating it does.
pub fn for_existing(right: &SqlRight, table: &TableName) -> Option<SqlRight> {
    match (&right.securable, right.permission) {
        (Securable::Database, _) | (Securable::Schema(_), "ALTER") => None,
        (Securable::Schema(schema), _) if *schema == table.schema => {
            Some(SqlRight { securable: Securable::Table(table.clone()), ..right.clone() })
        }
        _ => Some(right.clone()),
    }
}

/// What somebody needs who reads the tables.
pub fn analyst<'a>(pipelines: impl IntoIterator<Item = &'a PipelineConfig>) -> Vec<SqlRight> {
    let mut rights = Rights::default();
    for pipeline in pipelines {
        rights.add(&[("SELECT", "reading the rows")], &Securable::Table(pipeline.table.clone()));
    }
    rights.0
}
