//! `sp_describe_undeclared_parameters`: by which the ODBC driver finds the type of a NULL.
//!
//! Answered for the parameters of `INSERT … VALUES`, each of which has its column's type. Elsewhere the type
//! that SQL Server would find depends on more than this server knows, and it refuses.

use sqlparser::ast::{Expr, SetExpr, Statement as SqlStatement, TableObject};

use super::super::batch::{self, Statement, name_parts};
use super::super::bind::Permission;
use super::super::catalogue::Table;
use super::super::error::SqlError;
use super::super::packet::ConnectionError;
use super::super::token::ColumnOrigin;
use super::super::types::SqlType;
use super::transaction::Outcome;
use super::{Session, Writer};

impl Session {
    pub(super) async fn describe_parameters(
        &mut self,
        writer: &mut Writer,
        text: &str,
    ) -> Result<Result<(), SqlError>, ConnectionError> {
        match self.undeclared_parameters(text).await? {
            Ok(parameters) => self.batch(writer, &answer(&parameters)).await.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn undeclared_parameters(&mut self, text: &str) -> Outcome<Vec<(String, SqlType)>> {
        let refuse = || {
            Ok(Err(SqlError::unsupported("sp_describe_undeclared_parameters of more than INSERT … VALUES")))
        };
        let statements = match batch::parse(text) {
            Ok(statements) => statements,
            Err(error) => return Ok(Err(error)),
        };
        let [Statement::Sql(statement)] = statements.as_slice() else { return refuse() };
        let SqlStatement::Insert(insert) = statement.as_ref() else { return refuse() };
        let (TableObject::TableName(name), Some(source)) = (&insert.table, &insert.source) else {
            return refuse();
        };
        let SetExpr::Values(values) = source.body.as_ref() else { return refuse() };
        let name = match name_parts(name) {
            Ok(name) => name,
            Err(error) => return Ok(Err(error)),
        };
        let table = match self.bind(|binder| binder.table(&name, Permission::Insert)).await? {
            Ok((table, _)) => table,
            Err(error) => return Ok(Err(error)),
        };
        let columns: Vec<String> = if insert.columns.is_empty() {
            let written = table.columns.iter().filter(|column| column.origin == ColumnOrigin::Table);
            written.map(|column| column.name.clone()).collect()
        } else {
            insert.columns.iter().map(ToString::to_string).collect()
        };
        let mut parameters = Vec::new();
        for row in &values.rows {
            for (index, value) in row.iter().enumerate() {
                match value {
                    Expr::Identifier(name) if name.value.starts_with('@') => {
                        let Some(sql_type) = column_type(&table, columns.get(index)) else { return refuse() };
                        parameters.push((name.value.clone(), sql_type));
                    }
                    other if other.to_string().contains('@') => return refuse(),
                    _ => {}
                }
            }
        }
        Ok(Ok(parameters))
    }
}

fn column_type(table: &Table, name: Option<&String>) -> Option<SqlType> {
    table.column(name?.trim_matches(['[', ']'])).map(|column| column.sql_type)
}

/// The result as a query: Microsoft Learn, "sp_describe_undeclared_parameters", has its columns.
fn answer(parameters: &[(String, SqlType)]) -> String {
    let rows: Vec<String> = parameters
        .iter()
        .enumerate()
        .map(|(index, (name, sql_type))| {
            let facets = sql_type.facets();
            format!(
                "SELECT {} AS parameter_ordinal, CAST(N'{name}' AS sysname) AS name, CAST(t.system_type_id AS int) AS suggested_system_type_id, \
                 CAST(N'{sql_type}' AS nvarchar(256)) AS suggested_system_type_name, CAST({} AS smallint) AS suggested_max_length, \
                 CAST({} AS tinyint) AS suggested_precision, CAST({} AS tinyint) AS suggested_scale, CAST(NULL AS int) AS suggested_user_type_id, \
                 CAST(NULL AS sysname) AS suggested_user_type_database, CAST(NULL AS sysname) AS suggested_user_type_schema, \
                 CAST(NULL AS sysname) AS suggested_user_type_name, CAST(NULL AS nvarchar(4000)) AS suggested_assembly_qualified_type_name, \
                 CAST(NULL AS int) AS suggested_xml_collection_id, CAST(NULL AS sysname) AS suggested_xml_collection_database, \
                 CAST(NULL AS sysname) AS suggested_xml_collection_schema, CAST(NULL AS sysname) AS suggested_xml_collection_name, \
                 CAST(0 AS bit) AS suggested_is_xml_document, CAST(0 AS bit) AS suggested_is_case_sensitive, \
                 CAST(0 AS bit) AS suggested_is_fixed_length_clr_type, CAST(1 AS bit) AS suggested_is_input, CAST(0 AS bit) AS suggested_is_output, \
                 CAST(NULL AS sysname) AS formal_parameter_name, CAST({} AS int) AS suggested_tds_type_id, CAST({} AS int) AS suggested_tds_length \
                 FROM sys.types AS t WHERE t.name = N'{}'",
                index + 1,
                facets.max_length,
                facets.precision,
                facets.scale,
                super::super::type_info::nullable_token(*sql_type),
                // a type without a bound has the length that stands for that
                if facets.max_length < 0 { 65_535 } else { i32::from(facets.max_length) },
                sql_type.name(),
            )
        })
        .collect();
    rows.join(" UNION ALL ") + " ORDER BY parameter_ordinal"
}
