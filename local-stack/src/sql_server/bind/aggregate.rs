//! Aggregates and window functions.

use sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, OrderByExpr,
    OrderBySort, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowType,
};

use super::super::error::SqlError;
use super::super::types::{Length, SqlType};
use super::convert::{Conversion, convert};
use super::{Binder, Bound, Scope, Typed};

pub(super) fn is_aggregate(name: &str) -> bool {
    matches!(
        name,
        "COUNT"
            | "COUNT_BIG"
            | "SUM"
            | "AVG"
            | "MIN"
            | "MAX"
            | "STDEV"
            | "STDEVP"
            | "VAR"
            | "VARP"
            | "STRING_AGG"
    )
}

/// The part of an aggregate's name in the catalogue that tells the key by which it compares.
fn extreme(name: &str, sql_type: SqlType) -> String {
    let name = name.to_ascii_lowercase();
    match sql_type {
        SqlType::DateTimeOffset(_) => format!("tsql.{name}_instant"),
        SqlType::UniqueIdentifier => format!("tsql.{name}_guid"),
        _ if sql_type.is_binary() => format!("tsql.{name}_binary"),
        _ => match sql_type.collation() {
            Some(collation) if collation.ignores_case() => format!("tsql.{name}_fold"),
            Some(_) => format!("tsql.{name}_trim"),
            None => name,
        },
    }
}

impl Binder<'_> {
    pub(super) fn aggregate(&self, name: &str, function: &Function, scope: &Scope<'_>) -> Bound<Typed> {
        self.aggregate_over(name, function, scope, "")
    }

    /// `over` is the OVER clause of a window, or nothing.
    fn aggregate_over(&self, name: &str, function: &Function, scope: &Scope<'_>, over: &str) -> Bound<Typed> {
        let scope = if over.is_empty() { scope.ungrouped() } else { scope.clone() };
        let FunctionArguments::List(list) = &function.args else { return Err(SqlError::syntax(name).into()) };
        if !list.clauses.is_empty() {
            return Err(SqlError::syntax(name).into());
        }
        let distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
        let spelled = if distinct { "DISTINCT " } else { "" };
        if name.starts_with("COUNT") {
            let (postgres, sql_type) =
                if name == "COUNT" { ("int4", SqlType::Int) } else { ("int8", SqlType::BigInt) };
            let argument = match list.args.as_slice() {
                [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if !distinct => "*".to_owned(),
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(expression))] => {
                    let value = self.value(expression, &scope)?;
                    if distinct {
                        value.type_or_int().equality_key(&value.sql)
                    } else {
                        not_null_probe(&value)
                    }
                }
                _ => return Err(SqlError::syntax(name).into()),
            };
            return Ok(Typed::new(
                format!("(count({spelled}{argument}){over})::{postgres}"),
                sql_type,
                false,
            ));
        }
        let mut arguments = list.args.iter().map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
            _ => Err(SqlError::syntax(name)),
        });
        let first: &Expr = arguments.next().ok_or_else(|| SqlError::syntax(name))??;
        let second = arguments.next().transpose()?;
        if arguments.next().is_some() || second.is_some() != (name == "STRING_AGG") {
            return Err(SqlError::new(
                174,
                15,
                1,
                format!("The {name} function requires another number of arguments."),
            )
            .into());
        }
        let value = self.value(first, &scope)?;
        let sql_type = value.type_or_int();
        let invalid = || {
            if sql_type.is_money() {
                return SqlError::unsupported(&format!("{name} of {}", sql_type.name()));
            }
            SqlError::new(
                8117,
                16,
                1,
                format!(
                    "Operand data type {} is invalid for {} operator.",
                    sql_type.name(),
                    name.to_ascii_lowercase()
                ),
            )
        };
        let sql = &value.sql;
        Ok(match name {
            "MIN" | "MAX" => {
                if sql_type == SqlType::Bit {
                    return Err(invalid().into());
                }
                Typed::new(format!("{}({sql}){over}", extreme(name, sql_type)), sql_type, true)
            }
            "SUM" | "AVG" => {
                if !sql_type.is_number() || sql_type == SqlType::Bit {
                    return Err(invalid().into());
                }
                let sum = format!("sum({spelled}{sql}){over}");
                let count = format!("count({spelled}{sql}){over}");
                match (name, sql_type) {
                    (_, SqlType::Real | SqlType::Float) => Typed::new(
                        format!("{}({spelled}({sql})::float8){over}", name.to_ascii_lowercase()),
                        SqlType::Float,
                        true,
                    ),
                    ("SUM", SqlType::Decimal { scale, .. }) => decimal_result(&sum, scale),
                    ("SUM", SqlType::BigInt) => Typed::new(format!("({sum})::int8"), SqlType::BigInt, true),
                    ("SUM", _) => Typed::new(format!("({sum})::int4"), SqlType::Int, true),
                    (_, SqlType::Decimal { scale, .. }) => {
                        let scale = scale.max(6);
                        decimal_result(
                            &format!(
                                "div(({sum})::numeric * 1e{scale}::numeric, nullif({count}, 0)::numeric) * 1e-{scale}::numeric"
                            ),
                            scale,
                        )
                    }
                    (_, SqlType::BigInt) => Typed::new(
                        format!("div(({sum})::numeric, nullif({count}, 0)::numeric)::int8"),
                        SqlType::BigInt,
                        true,
                    ),
                    _ => Typed::new(
                        format!("div(({sum})::numeric, nullif({count}, 0)::numeric)::int4"),
                        SqlType::Int,
                        true,
                    ),
                }
            }
            "STDEV" | "STDEVP" | "VAR" | "VARP" => {
                if !sql_type.is_number() || sql_type == SqlType::Bit {
                    return Err(invalid().into());
                }
                let function = match name {
                    "STDEV" => "stddev_samp",
                    "STDEVP" => "stddev_pop",
                    "VAR" => "var_samp",
                    _ => "var_pop",
                };
                Typed::new(format!("({function}({spelled}({sql})::float8){over})"), SqlType::Float, true)
            }
            _ => {
                let Some(separator) = second else { return Err(SqlError::syntax(name).into()) };
                if !over.is_empty() || distinct {
                    return Err(SqlError::unsupported("STRING_AGG with OVER or DISTINCT").into());
                }
                let value = super::expression::as_text(value)?;
                let separator = self.text(separator, &scope)?;
                let order = if function.within_group.is_empty() {
                    String::new()
                } else {
                    format!(" ORDER BY {}", self.order_items(&function.within_group, &scope)?)
                };
                let collation =
                    value.type_or_int().collation().unwrap_or(super::super::types::Collation::Latin1);
                let result = match value.type_or_int() {
                    text if text.length().is_none() => text,
                    text if text.is_national() => SqlType::NVarChar(Length::Limited(4000), collation),
                    _ => SqlType::VarChar(Length::Limited(8000), collation),
                };
                let sql = format!("string_agg({}, {}{order})", value.sql, separator.sql);
                // SQL Server refuses a longer result; cutting it would be a wrong answer
                let sql = match result.length() {
                    Some(n) => format!(
                        "tsql.fit({sql}, {n}, '{}', false, 'STRING_AGG aggregation result')",
                        super::convert::length_unit(result)
                    ),
                    None => sql,
                };
                Typed::new(sql, result, true)
            }
        })
    }

    /// A function with OVER.
    pub(super) fn window(
        &self,
        name: &str,
        function: &Function,
        over: &WindowType,
        scope: &Scope<'_>,
    ) -> Bound<Typed> {
        let WindowType::WindowSpec(spec) = over else {
            return Err(SqlError::unsupported("a named window").into());
        };
        if spec.window_name.is_some() {
            return Err(SqlError::unsupported("a named window").into());
        }
        let mut clause = Vec::new();
        if !spec.partition_by.is_empty() {
            let keys = spec
                .partition_by
                .iter()
                .map(|expression| {
                    let value = self.value(expression, scope)?;
                    Ok(value.type_or_int().equality_key(&value.sql))
                })
                .collect::<Bound<Vec<_>>>()?;
            clause.push(format!("PARTITION BY {}", keys.join(", ")));
        }
        if !spec.order_by.is_empty() {
            clause.push(format!("ORDER BY {}", self.order_items(&spec.order_by, scope)?));
        }
        if let Some(frame) = &spec.window_frame {
            clause.push(window_frame(frame)?);
        }
        let over = format!(" OVER ({})", clause.join(" "));
        if is_aggregate(name) {
            return self.aggregate_over(name, function, scope, &over);
        }
        let arguments = super::function::plain_arguments(function, name)?;
        match (name, arguments.as_slice()) {
            ("ROW_NUMBER" | "RANK" | "DENSE_RANK", []) => {
                if spec.order_by.is_empty() {
                    return Err(SqlError::new(
                        4112,
                        15,
                        1,
                        format!("The function '{name}' must have an OVER clause with ORDER BY."),
                    )
                    .into());
                }
                Ok(Typed::new(format!("{}(){over}", name.to_ascii_lowercase()), SqlType::BigInt, true))
            }
            ("LAG" | "LEAD" | "FIRST_VALUE" | "LAST_VALUE", [value]) => {
                let value = self.value(value, scope)?;
                Ok(Typed::new(
                    format!("{}({}){over}", name.to_ascii_lowercase(), value.sql),
                    value.type_or_int(),
                    true,
                ))
            }
            ("NTILE", [count]) => {
                let count = convert(&self.value(count, scope)?, SqlType::Int, Conversion::Implicit)?;
                Ok(Typed::new(format!("ntile({count}){over}::int8"), SqlType::BigInt, true))
            }
            _ => Err(SqlError::unsupported(&format!("window function {name}")).into()),
        }
    }

    /// Sorting keys, NULLs lowest as in SQL Server.
    pub(super) fn order_items(&self, items: &[OrderByExpr], scope: &Scope<'_>) -> Bound<String> {
        let items = items
            .iter()
            .map(|item| {
                // `(SELECT NULL)` is how one writes that the order is of no matter
                let value = self.value(&item.expr, scope)?;
                Ok(order_item(&value, item)?)
            })
            .collect::<Bound<Vec<_>>>()?;
        Ok(items.join(", "))
    }
}

/// A sorting key with its direction.
pub(super) fn order_item(value: &Typed, item: &OrderByExpr) -> Result<String, SqlError> {
    if item.options.nulls_first.is_some() || item.with_fill.is_some() {
        return Err(SqlError::syntax("NULLS"));
    }
    let direction =
        if item.options.sort == Some(OrderBySort::Desc) { "DESC NULLS LAST" } else { "ASC NULLS FIRST" };
    Ok(format!("{} {direction}", value.type_or_int().order_key(&value.sql)))
}

/// A row type with NULLs in it counts as not NULL for PostgreSQL, and so does the whole.
fn not_null_probe(value: &Typed) -> String {
    match value.sql_type {
        None => "NULL".into(),
        Some(_) => value.sql.clone(),
    }
}

fn decimal_result(sql: &str, scale: u8) -> Typed {
    let sql_type = SqlType::Decimal { precision: 38, scale };
    Typed::new(format!("({sql})::{}", sql_type.postgres()), sql_type, true)
}

fn window_frame(frame: &WindowFrame) -> Result<String, SqlError> {
    let units = match frame.units {
        WindowFrameUnits::Rows => "ROWS",
        WindowFrameUnits::Range => "RANGE",
        WindowFrameUnits::Groups => return Err(SqlError::syntax("GROUPS")),
    };
    let bound = |bound: &WindowFrameBound| -> Result<String, SqlError> {
        let offset = |expression: &Expr| match expression {
            Expr::Value(value) => Ok(value.to_string()),
            other => Err(SqlError::syntax(&other.to_string())),
        };
        Ok(match bound {
            WindowFrameBound::CurrentRow => "CURRENT ROW".into(),
            WindowFrameBound::Preceding(None) => "UNBOUNDED PRECEDING".into(),
            WindowFrameBound::Following(None) => "UNBOUNDED FOLLOWING".into(),
            WindowFrameBound::Preceding(Some(n)) => format!("{} PRECEDING", offset(n)?),
            WindowFrameBound::Following(Some(n)) => format!("{} FOLLOWING", offset(n)?),
        })
    };
    let start = bound(&frame.start_bound)?;
    Ok(match &frame.end_bound {
        Some(end) => format!("{units} BETWEEN {start} AND {}", bound(end)?),
        None => format!("{units} {start}"),
    })
}
