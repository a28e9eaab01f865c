//! Storage that keeps no rows, for INSERTs with parameters: what sinks send that know no bulk load.
//!
//! The first of a kind goes to PostgreSQL, which checks it and takes it back. Those that follow, with the same text, are
//! checked here as a bulk load's rows are, without PostgreSQL; where a value is not what its column takes as it is, it
//! is PostgreSQL that converts or refuses it.

use std::sync::atomic::Ordering;

use sqlparser::ast::{Expr, Insert, ObjectName, SetExpr, Statement as SqlStatement, TableObject};

use super::super::Storage;
use super::super::batch::{self, Declaration, Statement, name_parts};
use super::super::bind::Permission;
use super::super::catalogue::temporary::is_temporary;
use super::super::decode::{ColumnDecoder, Target};
use super::super::packet::ConnectionError;
use super::super::token::{COMMAND_INSERT, ColumnOrigin, Done, DoneKind};
use super::super::types::SqlType;
use super::rpc::Parameter;
use super::{Session, Writer};

/// Statements that a session has plans for.
const MAX_PLANS: usize = 64;
/// Ways in which clients send one kind of value.
const MAX_DECODERS: usize = 64;

/// An INSERT whose values are parameters, and nothing else.
pub(super) struct InsertPlan {
    declarations: String,
    text: String,
    /// [`super::super::Shared::structure`] when it was made.
    structure: u64,
    statement: Statement,
    /// Its parameters, by their place in the declarations.
    parameters: Vec<PlannedParameter>,
    rows: u64,
}

struct PlannedParameter {
    name: String,
    declared: SqlType,
    /// Every column that it goes into.
    columns: Vec<PlannedColumn>,
}

struct PlannedColumn {
    sql_type: SqlType,
    nullable: bool,
    target: Target,
    /// For each type that a client sent so far.
    decoders: Vec<ColumnDecoder>,
}

impl PlannedColumn {
    /// Whether a value can be stored as it is.
    fn takes(&mut self, parameter: &Parameter<'_>, scratch: &mut Vec<u8>) -> bool {
        let known = self.decoders.iter().position(|decoder| decoder.reads(parameter.wire));
        let index = known.unwrap_or(self.decoders.len());
        if known.is_none() {
            let decoder =
                ColumnDecoder::new(parameter.wire, self.sql_type, self.nullable, self.target.clone());
            match decoder {
                Ok(decoder) if index < MAX_DECODERS => self.decoders.push(decoder),
                _ => return false,
            }
        }
        scratch.clear();
        let mut cursor = super::Cursor::new(parameter.bytes);
        self.decoders[index].decode(&mut cursor, scratch).is_ok()
    }
}

/// Clients declare a text of another length otherwise: both tell a plan from others.
fn key(declarations: &str, text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (declarations, text).hash(&mut hasher);
    hasher.finish()
}

/// Whether the rows of an INSERT are parameters and come from nowhere else. What goes into a temporary table is meant to
/// be read again, and is kept.
pub(super) fn is_parameterised(insert: &Insert) -> bool {
    let is_parameter = |value: &Expr| matches!(value, Expr::Identifier(name) if name.value.starts_with('@'));
    let names_temporary = |name: &ObjectName| {
        name_parts(name).is_ok_and(|parts| parts.last().is_some_and(|name| is_temporary(name)))
    };
    if matches!(&insert.table, TableObject::TableName(name) if names_temporary(name)) {
        return false;
    }
    insert.source.as_ref().is_some_and(|source| {
        matches!(source.body.as_ref(), SetExpr::Values(values)
            if values.rows.iter().any(|row| row.iter().any(is_parameter)))
    })
}

/// Whether a statement may change what tables there are, or who may write to them.
pub(super) fn changes_structure(statement: &Statement) -> bool {
    !matches!(
        statement,
        Statement::Sql(_)
            | Statement::InsertBulk(_)
            | Statement::If { .. }
            | Statement::Block(_)
            | Statement::Try { .. }
            | Statement::Declare(_)
            | Statement::SetVariable(..)
            | Statement::SetOption(_)
            | Statement::Begin
            | Statement::Commit
            | Statement::Rollback(_)
            | Statement::Save(_)
            | Statement::Throw(_)
            | Statement::Print(_)
            | Statement::WaitFor(_)
            | Statement::Use(_)
            | Statement::AppLock(_)
            | Statement::Return
    )
}

impl Session {
    /// Whether INSERTs with parameters are counted and not kept.
    pub(super) fn discards(&self) -> bool {
        matches!(self.shared.storage, Storage::Discard(_))
    }

    /// Counts rows of an INSERT that are not kept, when their transaction is committed.
    pub(super) fn count_discarded(&mut self, rows: u64) {
        self.open_loads.add_discarded(rows);
        if self.facts.transaction_count == 0 {
            self.open_loads.commit(&self.shared.loads);
        }
    }

    /// No plan that was made before holds; none that another session made does once the transaction has ended.
    pub(super) fn structure_changed(&mut self) {
        self.changed_structure = self.facts.transaction_count > 0;
        self.shared.structure.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts the rows of an INSERT that is known and whose values are right. `false` where PostgreSQL has to see it.
    pub(super) fn take_planned(
        &mut self,
        writer: &mut Writer,
        declarations: &str,
        text: &str,
        parameters: &[Parameter<'_>],
    ) -> bool {
        if self.insert_plans.is_empty() || self.is_doomed || self.options.implicit_transactions {
            return false;
        }
        let key = key(declarations, text);
        let Some(mut plan) = self.insert_plans.remove(&key) else { return false };
        if plan.structure != self.shared.structure.load(Ordering::SeqCst)
            || plan.declarations != declarations
            || plan.text != text
        {
            return false;
        }
        let mut scratch = Vec::new();
        let is_right = plan.parameters.len() == parameters.len()
            && self.refused_write(&plan.statement).is_none()
            && plan.parameters.iter_mut().zip(parameters).all(|(planned, parameter)| {
                let is_named =
                    parameter.name.is_empty() || parameter.name.eq_ignore_ascii_case(&planned.name);
                // what a declaration changes about a value is for PostgreSQL to say
                is_named
                    && !parameter.is_output
                    && parameter.fits(planned.declared)
                    && planned.columns.iter_mut().all(|column| column.takes(parameter, &mut scratch))
            });
        if is_right {
            self.facts.last_error = 0;
            self.facts.row_count = i64::try_from(plan.rows).unwrap_or(i64::MAX);
            self.count_discarded(plan.rows);
            let rows = (!self.options.no_count).then_some(plan.rows);
            self.done(writer, Done { rows, more: true, command: COMMAND_INSERT, ..Done::default() });
        }
        self.insert_plans.insert(key, plan);
        is_right
    }

    /// Makes a plan for an INSERT that PostgreSQL has found right.
    pub(super) async fn plan_insert(
        &mut self,
        declarations: &str,
        text: &str,
        declared: &[Declaration],
    ) -> Result<(), ConnectionError> {
        let structure = self.shared.structure.load(Ordering::SeqCst);
        let Ok(statements) = batch::parse(text) else { return Ok(()) };
        let [Statement::Sql(statement)] = statements.as_slice() else { return Ok(()) };
        let SqlStatement::Insert(insert) = statement.as_ref() else { return Ok(()) };
        let (TableObject::TableName(name), Some(source)) = (&insert.table, &insert.source) else {
            return Ok(());
        };
        let (SetExpr::Values(values), Ok(name)) = (source.body.as_ref(), name_parts(name)) else {
            return Ok(());
        };
        let Ok((table, _)) = self.bind(|binder| binder.table(&name, Permission::Insert)).await? else {
            return Ok(());
        };
        if table.has_checks || table.is_temporary() || self.done_kind != DoneKind::InProcedure {
            return Ok(());
        }
        let columns: Vec<_> = if insert.columns.is_empty() {
            table.columns.iter().filter(|column| column.origin == ColumnOrigin::Table).collect()
        } else {
            let named = insert.columns.iter().map(|name| {
                let name = name_parts(name).ok()?.pop()?;
                table.column(&name)
            });
            match named.collect() {
                Some(columns) => columns,
                None => return Ok(()),
            }
        };
        let mut parameters: Vec<PlannedParameter> = declared
            .iter()
            .map(|declaration| PlannedParameter {
                name: declaration.name.clone(),
                declared: declaration.sql_type,
                columns: Vec::new(),
            })
            .collect();
        let places: std::collections::HashMap<String, usize> = declared
            .iter()
            .enumerate()
            .map(|(index, declared)| (declared.name.to_lowercase(), index))
            .collect();
        for row in &values.rows {
            for (value, column) in row.iter().zip(&columns) {
                let Expr::Identifier(name) = value else { return Ok(()) };
                let Some(index) = places.get(&name.value.to_lowercase()) else { return Ok(()) };
                parameters[*index].columns.push(PlannedColumn {
                    sql_type: column.sql_type,
                    nullable: column.nullable,
                    target: Target { table: String::new(), column: String::new(), ordinal: 1 },
                    decoders: Vec::new(),
                });
            }
        }
        let rows = values.rows.len() as u64;
        if self.insert_plans.len() >= MAX_PLANS {
            self.insert_plans.clear();
        }
        let statement = Statement::Sql(statement.clone());
        let plan = InsertPlan {
            declarations: declarations.to_owned(),
            text: text.to_owned(),
            structure,
            statement,
            parameters,
            rows,
        };
        self.insert_plans.insert(key(declarations, text), plan);
        Ok(())
    }
}
