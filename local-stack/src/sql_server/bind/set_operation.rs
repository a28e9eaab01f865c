//! UNION, EXCEPT, INTERSECT and VALUES.

use sqlparser::ast::{SetExpr, SetOperator, SetQuantifier, Values};

use super::super::error::SqlError;
use super::super::token::{ColumnOrigin, ResultColumn};
use super::convert::{Conversion, convert};
use super::expression::common_type;
use super::query::Tail;
use super::{Binder, Bound, BoundQuery, Relation, Scope, Typed, column_alias};

impl Binder<'_> {
    pub(super) fn set_operation(
        &self,
        body: &SetExpr,
        tail: &Tail<'_>,
        outer: Option<&Scope<'_>>,
    ) -> Bound<BoundQuery> {
        let mut bound = self.set_expression(body, outer)?;
        if tail.order.is_empty() && tail.offset.is_none() {
            return Ok(bound);
        }
        let alias = self.alias();
        let relation = Relation::derived(String::new(), alias.clone(), &bound.columns);
        let outputs: Vec<(String, Typed)> =
            relation.columns.iter().map(|column| (column.name.clone(), column.typed())).collect();
        let mut scope = Scope::inside(None);
        scope.add(relation)?;
        let order = tail
            .order
            .iter()
            .map(|item| self.order_by(item, &outputs, &scope, false))
            .collect::<Bound<Vec<_>>>()?;
        bound.sql = format!("SELECT * FROM ({}) AS {alias} ORDER BY {}", bound.sql, order.join(", "));
        self.append_limits(&mut bound.sql, tail, None, false)?;
        Ok(bound)
    }

    fn set_expression(&self, body: &SetExpr, outer: Option<&Scope<'_>>) -> Bound<BoundQuery> {
        let (left, op, quantifier, right) = match body {
            SetExpr::Select(select) => {
                return self.select(select, &Tail { order: &[], offset: None, limit: None }, outer);
            }
            SetExpr::Query(query) => return self.query(query, outer),
            SetExpr::Values(values) => return self.values(values, outer),
            SetExpr::SetOperation { left, op, set_quantifier, right } => (left, op, set_quantifier, right),
            other => return Err(SqlError::syntax(&other.to_string()).into()),
        };
        let left = self.deeper(|| self.set_expression(left, outer))?;
        let right = self.deeper(|| self.set_expression(right, outer))?;
        if left.columns.len() != right.columns.len() {
            return Err(SqlError::new(205, 16, 1, "All queries combined using a UNION, INTERSECT or EXCEPT operator must have an equal number of expressions in their target lists.").into());
        }
        let columns = left
            .columns
            .iter()
            .zip(&right.columns)
            .map(|(a, b)| {
                Ok(ResultColumn {
                    name: a.name.clone(),
                    sql_type: a.sql_type.unify(b.sql_type)?,
                    nullable: a.nullable || b.nullable,
                    origin: ColumnOrigin::Expression,
                })
            })
            .collect::<Result<Vec<_>, SqlError>>()?;
        let side = |query: &BoundQuery| -> Result<String, SqlError> {
            let alias = self.alias();
            let items = query.columns.iter().zip(&columns).enumerate().map(|(index, (from, to))| {
                let value =
                    Typed::new(format!("{alias}.{}", column_alias(index)), from.sql_type, from.nullable);
                Ok(format!(
                    "{} AS {}",
                    convert(&value, to.sql_type, Conversion::Implicit)?,
                    column_alias(index)
                ))
            });
            Ok(format!(
                "SELECT {} FROM ({}) AS {alias}",
                items.collect::<Result<Vec<_>, SqlError>>()?.join(", "),
                query.sql
            ))
        };
        let (left, right) = (side(&left)?, side(&right)?);
        let sql = match (op, quantifier) {
            (SetOperator::Union, SetQuantifier::All) => format!("{left} UNION ALL {right}"),
            (SetOperator::Union, SetQuantifier::None) => {
                let alias = self.alias();
                let keys: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .map(|(index, column)| {
                        column.sql_type.equality_key(&format!("{alias}.{}", column_alias(index)))
                    })
                    .collect();
                format!(
                    "SELECT DISTINCT ON ({}) * FROM ({left} UNION ALL {right}) AS {alias}",
                    keys.join(", ")
                )
            }
            (SetOperator::Except | SetOperator::Intersect, SetQuantifier::None)
                if !columns.iter().any(|column| column.sql_type.has_key()) =>
            {
                format!("{left} {op} {right}")
            }
            _ => return Err(SqlError::unsupported(&format!("{op} of these types")).into()),
        };
        Ok(BoundQuery { sql: format!("({sql})"), columns, assigns: Vec::new() })
    }

    fn values(&self, values: &Values, outer: Option<&Scope<'_>>) -> Bound<BoundQuery> {
        let scope = Scope::inside(outer);
        let rows = values
            .rows
            .iter()
            .map(|row| row.iter().map(|value| self.value(value, &scope)).collect::<Bound<Vec<_>>>())
            .collect::<Bound<Vec<_>>>()?;
        let width = rows.first().map_or(0, Vec::len);
        if rows.iter().any(|row| row.len() != width) {
            return Err(SqlError::new(
                10709,
                16,
                1,
                "The number of columns for each row in a table value constructor must be the same.",
            )
            .into());
        }
        let mut columns = Vec::new();
        for index in 0..width {
            let column: Vec<&Typed> = rows.iter().filter_map(|row| row.get(index)).collect();
            columns.push(ResultColumn {
                name: String::new(),
                sql_type: common_type(&column)?,
                nullable: column.iter().any(|value| value.nullable),
                origin: ColumnOrigin::Expression,
            });
        }
        let rows = rows
            .iter()
            .map(|row| {
                let items = row.iter().zip(&columns).enumerate().map(|(index, (value, column))| {
                    Ok(format!(
                        "{} AS {}",
                        convert(value, column.sql_type, Conversion::Implicit)?,
                        column_alias(index)
                    ))
                });
                Ok(format!("SELECT {}", items.collect::<Result<Vec<_>, SqlError>>()?.join(", ")))
            })
            .collect::<Result<Vec<_>, SqlError>>()?;
        Ok(BoundQuery { sql: rows.join(" UNION ALL "), columns, assigns: Vec::new() })
    }
}
