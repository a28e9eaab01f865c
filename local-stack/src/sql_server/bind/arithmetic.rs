//! Operators on numbers, text and bytes, with the types that SQL Server gives their results.

use sqlparser::ast::{BinaryOperator, Expr};

use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType, bounded_decimal};
use super::convert::{Conversion, convert};
use super::expression::{numeric_type, unify};
use super::{Binder, Bound, Scope, Typed};

impl Binder<'_> {
    /// Binds a chain of operators from left to right. A chain may be long, and this does not go deeper for it.
    pub(super) fn binary(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        let mut steps = Vec::new();
        let mut first = expression;
        let mut result = None;
        while let Expr::BinaryOp { left, op, right } = first {
            steps.push((op, right));
            first = left;
            // the beginning of the chain may be what the query is grouped by
            result = self.grouping_key(first, scope);
            if result.is_some() {
                break;
            }
        }
        let mut result = match result {
            Some(key) => key,
            None => self.value(first, scope)?,
        };
        for (op, right) in steps.into_iter().rev() {
            result = Self::operation(&result, op, &self.value(right, scope)?)?;
        }
        Ok(result)
    }

    fn operation(a: &Typed, op: &BinaryOperator, b: &Typed) -> Bound<Typed> {
        let nullable = a.nullable || b.nullable;
        let both_text = a.sql_type.is_none_or(SqlType::is_text)
            && b.sql_type.is_none_or(SqlType::is_text)
            && (a.sql_type.is_some() || b.sql_type.is_some());
        if *op == BinaryOperator::Plus && both_text {
            return Ok(concatenate(a, b)?);
        }
        if *op == BinaryOperator::Plus && a.type_or_int().is_binary() && b.type_or_int().is_binary() {
            let length = match (a.type_or_int().length(), b.type_or_int().length()) {
                (Some(x), Some(y)) => Length::Limited(x.saturating_add(y).min(8000)),
                _ => Length::Max,
            };
            return Ok(Typed::new(format!("({} || {})", a.sql, b.sql), SqlType::VarBinary(length), nullable));
        }
        let sql_type = unify(a, b)?;
        if sql_type.is_money() || sql_type.is_old_date_time() {
            return Err(SqlError::unsupported(&format!("operator {op} of {}", sql_type.name())).into());
        }
        if !sql_type.is_number() {
            return Err(SqlError::new(
                8117,
                16,
                1,
                format!("Operand data type {} is invalid for operator {op}.", sql_type.name()),
            )
            .into());
        }
        let symbol = match op {
            BinaryOperator::Plus => "+",
            BinaryOperator::Minus => "-",
            BinaryOperator::Multiply => "*",
            BinaryOperator::Divide => "/",
            BinaryOperator::Modulo => "%",
            BinaryOperator::BitwiseAnd => "&",
            BinaryOperator::BitwiseOr => "|",
            BinaryOperator::BitwiseXor => "#",
            other => return Err(SqlError::unsupported(&format!("operator {other}")).into()),
        };
        if matches!(symbol, "&" | "|" | "#") && !sql_type.is_integer() {
            return Err(SqlError::new(
                402,
                16,
                1,
                format!(
                    "The data types {} and {} are incompatible in the operator.",
                    a.type_or_int(),
                    b.type_or_int()
                ),
            )
            .into());
        }
        if let SqlType::Decimal { .. } = sql_type {
            return Ok(decimal_arithmetic(a, b, symbol, nullable)?);
        }
        if sql_type == SqlType::Bit && !matches!(symbol, "&" | "|" | "#") {
            return Err(SqlError::new(
                402,
                16,
                1,
                "The data types bit and bit are incompatible in the operator.",
            )
            .into());
        }
        let x = convert(a, sql_type, Conversion::Implicit)?;
        let y = convert(b, sql_type, Conversion::Implicit)?;
        if sql_type.is_approximate() && symbol == "%" {
            return Err(SqlError::new(
                402,
                16,
                1,
                "The data types float and float are incompatible in the modulo operator.",
            )
            .into());
        }
        let sql = format!("({x} {symbol} {y})");
        Ok(match sql_type {
            SqlType::TinyInt => Typed::new(format!("tsql.to_tinyint({sql}::int8)"), sql_type, nullable),
            _ => Typed::new(sql, sql_type, nullable),
        })
    }
}

fn concatenate(a: &Typed, b: &Typed) -> Result<Typed, SqlError> {
    let sql_type = unify(a, b)?;
    let collation = sql_type.collation().unwrap_or(Collation::Latin1);
    let sum = match (a.sql_type.map_or(Some(1), SqlType::length), b.sql_type.map_or(Some(1), SqlType::length))
    {
        (Some(x), Some(y)) => {
            Length::Limited(x.saturating_add(y).min(if sql_type.is_national() { 4000 } else { 8000 }))
        }
        _ => Length::Max,
    };
    let to = if sql_type.is_national() {
        SqlType::NVarChar(sum, collation)
    } else {
        SqlType::VarChar(sum, collation)
    };
    let sql = format!(
        "({} || {})",
        if a.sql_type.is_some() { &a.sql } else { "NULL::text" },
        if b.sql_type.is_some() { &b.sql } else { "NULL::text" }
    );
    // beyond 8,000 bytes SQL Server cuts a concatenation of bounded texts
    let sql = match sum {
        Length::Limited(n @ (4000 | 8000)) => {
            format!("tsql.cut({sql}, {n}, '{}', false)", super::convert::length_unit(to))
        }
        _ => sql,
    };
    Ok(Typed::new(sql, to, a.nullable || b.nullable))
}

/// Microsoft Learn, "Precision, scale, and length".
fn decimal_arithmetic(a: &Typed, b: &Typed, symbol: &str, nullable: bool) -> Result<Typed, SqlError> {
    let facets = |value: &Typed, other: &Typed| {
        numeric_type(value, other).and_then(SqlType::as_decimal).unwrap_or((1, 0))
    };
    let ((p1, s1), (p2, s2)) = (facets(a, b), facets(b, a));
    let (p1, s1, p2, s2) = (i32::from(p1), i32::from(s1), i32::from(p2), i32::from(s2));
    let sql_type = match symbol {
        "+" | "-" => bounded_decimal(s1.max(s2) + (p1 - s1).max(p2 - s2) + 1, s1.max(s2)),
        "*" => bounded_decimal(p1 + p2 + 1, s1 + s2),
        "/" => {
            let scale = 6.max(s1 + p2 + 1);
            bounded_decimal(p1 - s1 + s2 + scale, scale)
        }
        _ => bounded_decimal((p1 - s1).min(p2 - s2) + s1.max(s2), s1.max(s2)),
    };
    let numeric = |value: &Typed| {
        if value.sql_type.is_some() { format!("({})::numeric", value.sql) } else { "NULL::numeric".into() }
    };
    let (x, y) = (numeric(a), numeric(b));
    let postgres = sql_type.postgres();
    let sql = match (symbol, sql_type) {
        // cut, not rounded
        ("/", SqlType::Decimal { scale, .. }) => {
            format!("(div({x} * 1e{scale}::numeric, {y}) * 1e-{scale}::numeric)::{postgres}")
        }
        _ => format!("({x} {symbol} {y})::{postgres}"),
    };
    Ok(Typed::new(sql, sql_type, nullable))
}
