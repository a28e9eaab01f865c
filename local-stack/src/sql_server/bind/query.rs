//! SELECT.

use std::sync::Arc;

use sqlparser::ast::{
    Distinct, Expr, Fetch, GroupByExpr, LimitClause, OrderByExpr, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Top, TopQuantity, Value, With,
};

use super::super::batch::name_parts;
use super::super::catalogue::same_name;
use super::super::error::SqlError;
use super::super::token::ResultColumn;
use super::super::types::SqlType;
use super::aggregate::order_item;
use super::convert::{Conversion, convert};
use super::from::rename;
use super::grouping::has_aggregate;
use super::{Binder, Bound, BoundQuery, CommonTable, Relation, Scope, Typed, column_alias};

/// ORDER BY, and how many rows.
pub(super) struct Tail<'q> {
    pub(super) order: &'q [OrderByExpr],
    pub(super) offset: Option<String>,
    pub(super) limit: Option<String>,
}

impl Binder<'_> {
    /// Binds a query. `outer` is what a subquery may refer to.
    pub(in super::super) fn query(&self, query: &Query, outer: Option<&Scope<'_>>) -> Bound<BoundQuery> {
        if !query.locks.is_empty()
            || query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return Err(SqlError::unsupported("FOR clause of a query").into());
        }
        let in_sight = self.common_tables.borrow().len();
        let with = query.with.as_ref().map(|with| self.common_table_expressions(with, outer)).transpose()?;
        let bound = self.query_body(query, outer);
        self.common_tables.borrow_mut().truncate(in_sight);
        let mut bound = bound?;
        if let Some(with) = with {
            bound.sql = format!("{with} {}", bound.sql);
        }
        Ok(bound)
    }

    fn query_body(&self, query: &Query, outer: Option<&Scope<'_>>) -> Bound<BoundQuery> {
        let order: &[OrderByExpr] = match &query.order_by {
            None => &[],
            Some(order) if order.interpolate.is_none() => match &order.kind {
                OrderByKind::Expressions(items) => items,
                OrderByKind::All(_) => return Err(SqlError::syntax("ALL").into()),
            },
            Some(_) => return Err(SqlError::syntax("INTERPOLATE").into()),
        };
        let (offset, limit) = self.limits(query.limit_clause.as_ref(), query.fetch.as_ref(), order)?;
        let tail = Tail { order, offset, limit };
        match query.body.as_ref() {
            SetExpr::Select(select) => self.select(select, &tail, outer),
            body => self.set_operation(body, &tail, outer),
        }
    }

    fn limits(
        &self,
        clause: Option<&LimitClause>,
        fetch: Option<&Fetch>,
        order: &[OrderByExpr],
    ) -> Bound<(Option<String>, Option<String>)> {
        let offset = match clause {
            None => None,
            Some(LimitClause::LimitOffset { limit: None, offset: Some(offset), limit_by })
                if limit_by.is_empty() =>
            {
                Some(self.row_count(&offset.value)?)
            }
            Some(_) => return Err(SqlError::syntax("LIMIT").into()),
        };
        let limit = match fetch {
            None => None,
            Some(Fetch { with_ties: false, percent: false, quantity: Some(quantity) }) => {
                Some(self.row_count(quantity)?)
            }
            Some(_) => return Err(SqlError::syntax("FETCH").into()),
        };
        if offset.is_some() && order.is_empty() {
            return Err(SqlError::syntax("OFFSET").into());
        }
        if limit.is_some() && offset.is_none() {
            return Err(SqlError::new(
                153,
                15,
                2,
                "Invalid usage of the option NEXT in the FETCH statement.",
            )
            .into());
        }
        Ok((offset, limit))
    }

    pub(super) fn row_count(&self, expression: &Expr) -> Bound<String> {
        let value = self.value(expression, &Scope::default())?;
        convert(&value, SqlType::BigInt, Conversion::Implicit).map_err(Into::into)
    }

    pub(super) fn common_table_expressions(&self, with: &With, outer: Option<&Scope<'_>>) -> Bound<String> {
        let mut parts = Vec::new();
        for table in &with.cte_tables {
            let name = table.alias.name.value.clone();
            let alias = self.alias();
            self.common_tables.borrow_mut().push(CommonTable {
                name,
                columns: None,
                alias: alias.clone(),
                query: Arc::new(table.query.as_ref().clone()),
            });
            let mut bound = self.query(&table.query, outer)?;
            rename(&mut bound.columns, &table.alias)?;
            parts.push(format!("{alias} AS ({})", bound.sql));
            if let Some(own) = self.common_tables.borrow_mut().last_mut() {
                own.columns = Some(bound.columns);
            }
        }
        Ok(format!("WITH {}", parts.join(", ")))
    }

    pub(super) fn select(
        &self,
        select: &Select,
        tail: &Tail<'_>,
        outer: Option<&Scope<'_>>,
    ) -> Bound<BoundQuery> {
        // for this SELECT, and for none within it
        let wanted = self.row_source.take();
        if select.into.is_some() {
            return Err(SqlError::unsupported("SELECT INTO").into());
        }
        if select.qualify.is_some()
            || !select.named_window.is_empty()
            || select.prewhere.is_some()
            || !select.lateral_views.is_empty()
            || !select.connect_by.is_empty()
        {
            return Err(SqlError::unsupported("a clause of this SELECT").into());
        }
        let mut scope = Scope::inside(outer);
        let from = self.from(&select.from, &mut scope)?;
        let condition =
            select.selection.as_ref().map(|condition| self.condition(condition, &scope)).transpose()?;

        let GroupByExpr::Expressions(groups, modifiers) = &select.group_by else {
            return Err(SqlError::syntax("ALL").into());
        };
        if !modifiers.is_empty() {
            return Err(SqlError::unsupported("WITH ROLLUP or WITH CUBE").into());
        }
        let groups = groups.iter().map(|group| self.value(group, &scope)).collect::<Bound<Vec<_>>>()?;
        let is_grouped = !groups.is_empty() || select.having.is_some() || has_aggregate(select, tail.order);
        if is_grouped {
            scope.keys = Some(groups.iter().map(|group| group.sql.clone()).collect());
        }

        let mut assigns = Vec::new();
        let mut outputs: Vec<(String, Typed)> = Vec::new();
        for item in &select.projection {
            self.select_item(item, &scope, &mut outputs, &mut assigns)?;
        }
        if !assigns.is_empty() && assigns.len() != outputs.len() {
            return Err(SqlError::new(141, 15, 1, "A SELECT statement that assigns a value to a variable must not be combined with data-retrieval operations.").into());
        }
        let having = select.having.as_ref().map(|having| self.condition(having, &scope)).transpose()?;
        let distinct = match &select.distinct {
            None | Some(Distinct::All) => false,
            Some(Distinct::Distinct) => true,
            Some(Distinct::On(_)) => return Err(SqlError::syntax("ON").into()),
        };

        let mut sql = String::from("SELECT ");
        if distinct {
            let keys: Vec<String> =
                outputs.iter().map(|(_, value)| value.type_or_int().equality_key(&value.sql)).collect();
            sql.push_str(&format!("DISTINCT ON ({}) ", keys.join(", ")));
        }
        let mut items: Vec<String> = outputs
            .iter()
            .enumerate()
            .map(|(index, (_, value))| format!("{} AS {}", typed_sql(value), column_alias(index)))
            .collect();
        if let Some(wanted) = wanted {
            items.push(self.row_of(wanted, &scope, &outputs, is_grouped || distinct)?);
        }
        sql.push_str(&items.join(", "));
        if let Some(from) = from {
            sql.push_str(&format!(" FROM {from}"));
        }
        if let Some(condition) = condition {
            sql.push_str(&format!(" WHERE {condition}"));
        }
        if is_grouped {
            let keys: Vec<String> =
                groups.iter().map(|group| group.type_or_int().equality_key(&group.sql)).collect();
            // with no keys, the empty grouping set: one group even of no rows
            sql.push_str(&format!(
                " GROUP BY {}",
                if keys.is_empty() { "()".to_owned() } else { keys.join(", ") }
            ));
        }
        if let Some(having) = having {
            sql.push_str(&format!(" HAVING {having}"));
        }
        let mut order = tail
            .order
            .iter()
            .map(|item| self.order_by(item, &outputs, &scope, distinct))
            .collect::<Bound<Vec<_>>>()?;
        if distinct && !order.is_empty() {
            let alias = self.alias();
            for item in &mut order {
                *item = item.replace(DISTINCT_OUTPUT, &alias);
            }
            sql = format!("SELECT * FROM ({sql}) AS {alias}");
        }
        if !order.is_empty() {
            sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
        }
        self.append_limits(&mut sql, tail, select.top.as_ref(), !order.is_empty() && !distinct)?;
        let columns = outputs
            .into_iter()
            .map(|(name, value)| ResultColumn {
                name,
                sql_type: value.type_or_int(),
                nullable: value.nullable,
                origin: value.origin,
            })
            .collect();
        Ok(BoundQuery { sql, columns, assigns })
    }

    pub(super) fn append_limits(
        &self,
        sql: &mut String,
        tail: &Tail<'_>,
        top: Option<&Top>,
        may_tie: bool,
    ) -> Bound<()> {
        if let Some(offset) = &tail.offset {
            sql.push_str(&format!(" OFFSET {offset}"));
        }
        if let Some(limit) = &tail.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        let Some(top) = top else { return Ok(()) };
        if top.percent {
            return Err(SqlError::unsupported("TOP PERCENT").into());
        }
        if tail.offset.is_some() {
            return Err(SqlError::new(
                10741,
                15,
                2,
                "A TOP can not be used in the same query or sub-query as an OFFSET.",
            )
            .into());
        }
        let count = match &top.quantity {
            Some(TopQuantity::Constant(count)) => count.to_string(),
            Some(TopQuantity::Expr(expression)) => self.row_count(expression)?,
            None => return Err(SqlError::syntax("TOP").into()),
        };
        match (top.with_ties, may_tie) {
            (false, _) => sql.push_str(&format!(" LIMIT {count}")),
            (true, true) => sql.push_str(&format!(" FETCH FIRST ({count}) ROWS WITH TIES")),
            (true, false) => {
                return Err(SqlError::new(
                    1062,
                    15,
                    1,
                    "The TOP N WITH TIES clause is not allowed without a corresponding ORDER BY clause.",
                )
                .into());
            }
        }
        Ok(())
    }

    fn select_item(
        &self,
        item: &SelectItem,
        scope: &Scope<'_>,
        outputs: &mut Vec<(String, Typed)>,
        assigns: &mut Vec<String>,
    ) -> Bound<()> {
        match item {
            SelectItem::UnnamedExpr(Expr::BinaryOp {
                left,
                op: sqlparser::ast::BinaryOperator::Eq,
                right,
            }) if is_variable(left) => {
                assigns.push(left.to_string().to_lowercase());
                outputs.push((String::new(), self.value(right, scope)?));
            }
            SelectItem::UnnamedExpr(expression) => {
                let value = self.value(expression, scope)?;
                outputs.push((value.name.clone().unwrap_or_default(), value));
            }
            SelectItem::ExprWithAlias { expr, alias }
                if alias.value.starts_with('@') && alias.quote_style.is_none() =>
            {
                assigns.push(alias.value.to_lowercase());
                outputs.push((String::new(), self.value(expr, scope)?));
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                outputs.push((alias.value.clone(), self.value(expr, scope)?));
            }
            SelectItem::Wildcard(_) => {
                if scope.relations.is_empty() {
                    return Err(SqlError::new(263, 16, 1, "Must specify table to select from.").into());
                }
                for relation in &scope.relations {
                    self.all_columns(relation, scope, outputs)?;
                }
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                let parts = name_parts(name)?;
                let relation = scope.relation(&parts).ok_or_else(|| {
                    SqlError::new(107, 15, 1, format!("The column prefix '{name}' does not match with a table name or alias name used in the query."))
                })?;
                self.all_columns(relation, scope, outputs)?;
            }
            other => return Err(SqlError::syntax(&other.to_string()).into()),
        }
        Ok(())
    }

    fn all_columns(
        &self,
        relation: &Relation,
        scope: &Scope<'_>,
        outputs: &mut Vec<(String, Typed)>,
    ) -> Bound<()> {
        for column in &relation.columns {
            let value = if scope.keys.is_some() {
                self.value(
                    &Expr::CompoundIdentifier(vec![
                        relation.name.as_str().into(),
                        column.name.as_str().into(),
                    ]),
                    scope,
                )?
            } else {
                column.typed()
            };
            outputs.push((column.name.clone(), value));
        }
        Ok(())
    }

    pub(super) fn order_by(
        &self,
        item: &OrderByExpr,
        outputs: &[(String, Typed)],
        scope: &Scope<'_>,
        distinct: bool,
    ) -> Bound<String> {
        let output = match &item.expr {
            Expr::Value(value) => {
                let Value::Number(number, _) = &value.value else {
                    return Err(SqlError::new(
                        408,
                        16,
                        1,
                        "A constant expression was encountered in the ORDER BY list.",
                    )
                    .into());
                };
                let position = number
                    .parse::<usize>()
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                    .filter(|n| *n < outputs.len());
                Some(position.ok_or_else(|| {
                    SqlError::new(108, 16, 1, format!("The ORDER BY position number {number} is out of range of the number of items in the select list."))
                })?)
            }
            Expr::Identifier(name) => outputs.iter().position(|(alias, _)| same_name(alias, &name.value)),
            _ => None,
        };
        let output = match output {
            Some(index) => Some(index),
            None if distinct => {
                let value = self.value(&item.expr, scope)?;
                let index = outputs.iter().position(|(_, output)| output.sql == value.sql);
                Some(index.ok_or_else(|| {
                    SqlError::new(
                        145,
                        15,
                        1,
                        "ORDER BY items must appear in the select list if SELECT DISTINCT is specified.",
                    )
                })?)
            }
            None => None,
        };
        let value = match output {
            Some(index) if distinct => Typed {
                sql: format!("{DISTINCT_OUTPUT}.{}", column_alias(index)),
                ..outputs[index].1.clone()
            },
            Some(index) => outputs[index].1.clone(),
            None => self.value(&item.expr, scope)?,
        };
        order_item(&Typed { sql: typed_sql(&value), ..value }, item).map_err(Into::into)
    }
}

/// Stands for the alias of a SELECT DISTINCT that is wrapped to be sorted.
const DISTINCT_OUTPUT: &str = "\u{1}distinct";

/// A value under its own PostgreSQL type, so that its binary form is known.
pub(super) fn typed_sql(value: &Typed) -> String {
    match value.sql_type {
        None => "NULL::int4".into(),
        Some(SqlType::Int) if value.digits.is_some() => format!("({})::int4", value.sql),
        Some(_) => value.sql.clone(),
    }
}

fn is_variable(expression: &Expr) -> bool {
    matches!(expression, Expr::Identifier(name) if name.quote_style.is_none() && name.value.starts_with('@') && !name.value.starts_with("@@"))
}
