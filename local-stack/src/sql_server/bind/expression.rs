//! Values and conditions.

use sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, CeilFloorKind, Expr, InTarget, TrimWhereField, UnaryOperator,
};

use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::constant::constant;
use super::convert::{Conversion, convert};
use super::{Binder, Bound, Scope, Typed};

/// `Some` type of one value, given that of another beside it.
pub(super) fn unify(left: &Typed, right: &Typed) -> Result<SqlType, SqlError> {
    match (numeric_type(left, right), numeric_type(right, left)) {
        (Some(a), Some(b)) => a.unify(b),
        (Some(a), None) | (None, Some(a)) => Ok(a),
        (None, None) => Ok(SqlType::Int),
    }
}

/// The type of `value`; an integer constant beside a decimal has just its digits.
pub(super) fn numeric_type(value: &Typed, other: &Typed) -> Option<SqlType> {
    match (value.digits, other.sql_type) {
        (Some(digits), Some(SqlType::Decimal { .. })) => {
            Some(SqlType::Decimal { precision: digits, scale: 0 })
        }
        _ => value.sql_type,
    }
}

impl Binder<'_> {
    /// Binds a value.
    pub(in super::super) fn value(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        self.deeper(|| self.value_at(expression, scope))
    }

    fn value_at(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        if scope.keys.is_some()
            && let Some(key) = self.grouping_key(expression, scope)
        {
            return Ok(key);
        }
        match expression {
            Expr::Identifier(identifier) if identifier.quote_style.is_none() && identifier.value.starts_with('@') => self.variable(&identifier.value),
            Expr::Identifier(identifier) if super::security::is_niladic(identifier) => {
                self.security_function(&identifier.value.to_ascii_uppercase(), &[], scope)
            }
            Expr::Identifier(identifier) => self.column(std::slice::from_ref(&identifier.value), scope),
            Expr::CompoundIdentifier(parts) => self.column(&parts.iter().map(|part| part.value.clone()).collect::<Vec<_>>(), scope),
            Expr::Nested(inner) => {
                let mut value = self.value(inner, scope)?;
                value.sql = format!("({})", value.sql);
                Ok(value)
            }
            Expr::Value(value) => constant(&value.value),
            Expr::UnaryOp { op, expr } => self.unary(*op, expr, scope),
            Expr::BinaryOp { .. } => self.binary(expression, scope),
            Expr::Case { operand, conditions, else_result, .. } => self.case(operand.as_deref(), conditions, else_result.as_deref(), scope),
            Expr::Cast { kind, expr, data_type, format: None } => {
                let to = cast_type(&data_type.to_string())?;
                match kind {
                    CastKind::Cast => self.cast(expr, to, scope),
                    _ => Err(SqlError::unsupported("TRY_CAST").into()),
                }
            }
            Expr::Convert { is_try: false, expr, data_type: Some(data_type), charset: None, styles, .. } => {
                let to = cast_type(&data_type.to_string())?;
                match styles.as_slice() {
                    [] => self.cast(expr, to, scope),
                    [style] => self.cast_with_style(expr, to, style, scope),
                    _ => Err(SqlError::syntax("CONVERT").into()),
                }
            }
            Expr::Convert { is_try: true, .. } => Err(SqlError::unsupported("TRY_CONVERT").into()),
            Expr::Function(function) => self.function(function, scope),
            Expr::Subquery(query) => {
                let bound = self.query(query, Some(scope))?;
                let [column] = bound.columns.as_slice() else {
                    return Err(SqlError::new(116, 16, 1, "Only one expression can be specified in the select list when the subquery is not introduced with EXISTS.").into());
                };
                Ok(Typed::new(format!("({})", bound.sql), column.sql_type, true))
            }
            Expr::Collate { expr, collation } => {
                let value = self.value(expr, scope)?;
                let name = super::super::batch::name_parts(collation)?.join(".");
                let collation = Collation::of_clause(&name)?;
                let sql_type = value.type_or_int();
                if !sql_type.is_text() {
                    return Err(SqlError::new(447, 16, 0, "Expression type is invalid for COLLATE clause.").into());
                }
                Ok(Typed::new(value.sql, sql_type.with_collation(collation), value.nullable))
            }
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let arguments = [Some(expr), substring_from.as_ref(), substring_for.as_ref()];
                let arguments: Vec<&Expr> = arguments.into_iter().flatten().map(AsRef::as_ref).collect();
                self.scalar_function("SUBSTRING", &arguments, scope)
            }
            Expr::Trim { expr, trim_where: None | Some(TrimWhereField::Both), trim_what: None, trim_characters: None } => {
                self.scalar_function("TRIM", &[expr], scope)
            }
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                if !matches!(field, CeilFloorKind::DateTimeField(sqlparser::ast::DateTimeField::NoDateTime)) {
                    return Err(SqlError::syntax("CEILING").into());
                }
                let name = if matches!(expression, Expr::Ceil { .. }) { "CEILING" } else { "FLOOR" };
                self.scalar_function(name, &[expr], scope)
            }
            Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::Between { .. } | Expr::Like { .. } | Expr::In { .. } | Expr::Exists { .. } => {
                Err(SqlError::new(4145, 15, 1, "An expression of non-boolean type specified in a context where a condition is expected, or the reverse.").into())
            }
            Expr::AtTimeZone { .. } => Err(SqlError::unsupported("AT TIME ZONE").into()),
            other => Err(SqlError::unsupported(&format!("expression {other}")).into()),
        }
    }

    /// The representative of a group where `expression` is what the query is grouped by.
    pub(super) fn grouping_key(&self, expression: &Expr, scope: &Scope<'_>) -> Option<Typed> {
        let keys = scope.keys.as_ref()?;
        if matches!(expression, Expr::Value(_)) {
            return None;
        }
        let mut value = self.value(expression, &scope.ungrouped()).ok()?;
        if !keys.contains(&value.sql) {
            return None;
        }
        if value.type_or_int().has_key() {
            value.sql = format!("any_value({})", value.sql);
        }
        value.origin = super::ColumnOrigin::Expression;
        Some(value)
    }

    fn column(&self, parts: &[String], scope: &Scope<'_>) -> Bound<Typed> {
        let (column, inner) = scope.column(parts)?;
        if scope.keys.is_some() && inner {
            return Err(SqlError::new(
                8120,
                16,
                1,
                format!(
                    "Column '{}' is invalid in the select list because it is not contained in either an aggregate function or the GROUP BY clause.",
                    parts.join(".")
                ),
            )
            .into());
        }
        Ok(column)
    }

    fn variable(&self, name: &str) -> Bound<Typed> {
        if let Some(global) = name.strip_prefix("@@") {
            return self.global(global);
        }
        match self.variables.get(&name.to_lowercase()) {
            Some(variable) => Ok(Typed::new(variable.sql.clone(), variable.sql_type, true)),
            None => {
                Err(SqlError::new(137, 15, 2, format!("Must declare the scalar variable \"{name}\".")).into())
            }
        }
    }

    fn cast(&self, expression: &Expr, to: SqlType, scope: &Scope<'_>) -> Bound<Typed> {
        let value = self.value(expression, scope)?;
        let to = match (to.collation(), value.sql_type.and_then(SqlType::collation)) {
            (Some(_), Some(collation)) => to.with_collation(collation),
            _ => to,
        };
        Ok(Typed::new(convert(&value, to, Conversion::Explicit)?, to, value.nullable))
    }

    /// CONVERT with a style: those that say ISO 8601, and 0 where it is the default.
    fn cast_with_style(
        &self,
        expression: &Expr,
        to: SqlType,
        style: &Expr,
        scope: &Scope<'_>,
    ) -> Bound<Typed> {
        let value = self.value(expression, scope)?;
        let from = value.type_or_int();
        let style = match style {
            Expr::Value(style) => style.to_string(),
            _ => return Err(SqlError::unsupported("a style of CONVERT that is not a constant").into()),
        };
        let sized = |sql: String| -> Result<Typed, SqlError> {
            let text =
                Typed::new(sql, SqlType::VarChar(Length::Limited(60), Collation::Latin1), value.nullable);
            Ok(Typed::new(convert(&text, to, Conversion::Explicit)?, to, value.nullable))
        };
        if to.is_text() && from.is_temporal() {
            let own = convert(
                &value,
                SqlType::VarChar(Length::Limited(60), Collation::Latin1),
                Conversion::Explicit,
            )?;
            return match (style.as_str(), from) {
                ("0" | "100", SqlType::DateTime | SqlType::SmallDateTime) => Ok(sized(own)?),
                (_, SqlType::DateTime | SqlType::SmallDateTime) => {
                    match super::convert::old_date_time_style(&style) {
                        Some(function) => Ok(sized(format!("tsql.{function}({})", value.sql))?),
                        None => Err(SqlError::unsupported(&format!("style {style} of CONVERT")).into()),
                    }
                }
                ("121" | "21" | "25", _) => Ok(sized(own)?),
                ("23", SqlType::Date | SqlType::DateTime2(_) | SqlType::DateTimeOffset(_)) => {
                    Ok(sized(format!("left({own}, 10)"))?)
                }
                ("112", SqlType::Date | SqlType::DateTime2(_) | SqlType::DateTimeOffset(_)) => {
                    Ok(sized(format!("replace(left({own}, 10), '-', '')"))?)
                }
                ("126", SqlType::Date) => Ok(sized(own)?),
                ("126", SqlType::DateTime2(_)) => {
                    Ok(sized(format!("regexp_replace(replace({own}, ' ', 'T'), '\\.0+$', '')"))?)
                }
                ("108" | "8" | "24", SqlType::Time(_)) => Ok(sized(format!("left({own}, 8)"))?),
                ("108" | "8", SqlType::DateTime2(_)) => Ok(sized(format!("substr({own}, 12, 8)"))?),
                _ => Err(SqlError::unsupported(&format!("style {style} of CONVERT")).into()),
            };
        }
        match style.as_str() {
            "2" if to.is_text() && from.is_money() => Ok(sized(format!("({})::text", value.sql))?),
            "0" if to.is_text() && from.is_money() => {
                Ok(Typed::new(convert(&value, to, Conversion::Explicit)?, to, value.nullable))
            }
            "1" if to.is_text() && from.is_binary() => {
                Ok(sized_max(format!("'0x' || upper(encode({}, 'hex'))", value.sql), to, value.nullable)?)
            }
            "2" if to.is_text() && from.is_binary() => {
                Ok(sized_max(format!("upper(encode({}, 'hex'))", value.sql), to, value.nullable)?)
            }
            "0" if from.is_number() || from.is_text() && !to.is_temporal() => {
                Ok(Typed::new(convert(&value, to, Conversion::Explicit)?, to, value.nullable))
            }
            "23" | "120" | "121" | "126" | "127" if from.is_text() && to.is_temporal() => {
                Ok(Typed::new(convert(&value, to, Conversion::Explicit)?, to, value.nullable))
            }
            _ => Err(SqlError::unsupported(&format!("style {style} of CONVERT")).into()),
        }
    }

    fn unary(&self, op: UnaryOperator, expression: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        let value = self.value(expression, scope)?;
        let sql_type = value.type_or_int();
        if !sql_type.is_number() || sql_type == SqlType::Bit {
            return Err(SqlError::new(
                8117,
                16,
                1,
                format!("Operand data type {} is invalid for the unary operator.", sql_type.name()),
            )
            .into());
        }
        Ok(match op {
            UnaryOperator::Plus => value,
            UnaryOperator::Minus if sql_type == SqlType::TinyInt => {
                Typed::new(format!("(-({})::int4)::int2", value.sql), SqlType::SmallInt, value.nullable)
            }
            UnaryOperator::Minus => Typed {
                sql: format!("(-({}))", value.sql),
                origin: super::ColumnOrigin::Expression,
                name: None,
                ..value
            },
            UnaryOperator::BitwiseNot if sql_type == SqlType::TinyInt => {
                Typed::new(format!("(255 - ({}))::int2", value.sql), sql_type, value.nullable)
            }
            UnaryOperator::BitwiseNot if sql_type.is_integer() => {
                Typed::new(format!("(~({}))", value.sql), sql_type, value.nullable)
            }
            other => return Err(SqlError::unsupported(&format!("operator {other}")).into()),
        })
    }

    fn case(
        &self,
        operand: Option<&Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&Expr>,
        scope: &Scope<'_>,
    ) -> Bound<Typed> {
        let operand = operand.map(|operand| self.value(operand, scope)).transpose()?;
        let mut branches = Vec::new();
        for when in conditions {
            let condition = match &operand {
                Some(operand) => compare(operand, "=", &self.value(&when.condition, scope)?)?,
                None => self.condition(&when.condition, scope)?,
            };
            branches.push((condition, self.value(&when.result, scope)?));
        }
        let otherwise = otherwise.map(|otherwise| self.value(otherwise, scope)).transpose()?;
        let nullable = otherwise.as_ref().is_none_or(|value| value.nullable)
            || branches.iter().any(|(_, value)| value.nullable);
        let values: Vec<&Typed> = branches.iter().map(|(_, value)| value).chain(&otherwise).collect();
        let sql_type = common_type(&values)?;
        let mut sql = String::from("(CASE");
        for (condition, value) in &branches {
            sql.push_str(&format!(
                " WHEN {condition} THEN {}",
                convert(value, sql_type, Conversion::Implicit)?
            ));
        }
        if let Some(value) = &otherwise {
            sql.push_str(&format!(" ELSE {}", convert(value, sql_type, Conversion::Implicit)?));
        }
        sql.push_str(" END)");
        Ok(Typed::new(sql, sql_type, nullable))
    }

    /// A chain of AND and OR, bound without going deeper for its length.
    fn connected(&self, left: &Expr, op: &BinaryOperator, right: &Expr, scope: &Scope<'_>) -> Bound<String> {
        let mut steps = vec![(op, right)];
        let mut first = left;
        while let Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } = first
        {
            steps.push((op, right));
            first = left;
        }
        let mut sql = format!("({}", self.condition(first, scope)?);
        let mut last = None;
        for (op, right) in steps.into_iter().rev() {
            if last.is_some_and(|last| last != op) {
                sql = format!("({sql})");
            }
            last = Some(op);
            sql.push_str(&format!(" {op} {}", self.condition(right, scope)?));
        }
        sql.push(')');
        Ok(sql)
    }

    /// Binds a condition.
    pub(in super::super) fn condition(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<String> {
        self.deeper(|| self.condition_at(expression, scope))
    }

    fn condition_at(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<String> {
        let not = |negated: bool| if negated { "NOT " } else { "" };
        match expression {
            Expr::Nested(inner) => Ok(format!("({})", self.condition(inner, scope)?)),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                Ok(format!("(NOT {})", self.condition(expr, scope)?))
            }
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                self.connected(left, op, right, scope)
            }
            Expr::BinaryOp { left, op, right } => {
                let symbol = match op {
                    BinaryOperator::Eq => "=",
                    BinaryOperator::NotEq => "<>",
                    BinaryOperator::Lt => "<",
                    BinaryOperator::LtEq => "<=",
                    BinaryOperator::Gt => ">",
                    BinaryOperator::GtEq => ">=",
                    other => return Err(not_a_condition(&other.to_string()).into()),
                };
                Ok(compare(&self.value(left, scope)?, symbol, &self.value(right, scope)?)?)
            }
            Expr::IsNull(inner) => Ok(format!("({} IS NULL)", self.value(inner, scope)?.sql)),
            Expr::IsNotNull(inner) => Ok(format!("(NOT {} IS NULL)", self.value(inner, scope)?.sql)),
            Expr::Between { expr, negated, low, high } => {
                let value = self.value(expr, scope)?;
                let low = compare(&value, ">=", &self.value(low, scope)?)?;
                let high = compare(&value, "<=", &self.value(high, scope)?)?;
                Ok(format!("({}({low} AND {high}))", not(*negated)))
            }
            Expr::In { expr, target: InTarget::List(list), negated, global: false } => {
                let value = self.value(expr, scope)?;
                let alternatives = list
                    .iter()
                    .map(|item| Ok(compare(&value, "=", &self.value(item, scope)?)?))
                    .collect::<Bound<Vec<_>>>()?;
                Ok(format!("({}({}))", not(*negated), alternatives.join(" OR ")))
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                let value = self.value(expr, scope)?;
                let bound = self.query(query, Some(scope))?;
                let [column] = bound.columns.as_slice() else {
                    return Err(SqlError::new(116, 16, 1, "Only one expression can be specified in the select list when the subquery is not introduced with EXISTS.").into());
                };
                let alias = self.alias();
                let member = Typed::new(format!("{alias}.{}", super::column_alias(0)), column.sql_type, true);
                let sql_type = unify(&value, &member)?;
                let left = sql_type.equality_key(&convert(&value, sql_type, Conversion::Implicit)?);
                let right = sql_type.equality_key(&convert(&member, sql_type, Conversion::Implicit)?);
                Ok(format!("({left} {}IN (SELECT {right} FROM ({}) AS {alias}))", not(*negated), bound.sql))
            }
            Expr::Exists { subquery, negated } => {
                Ok(format!("({}EXISTS ({}))", not(*negated), self.query(subquery, Some(scope))?.sql))
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                let value = self.text(expr, scope)?;
                let pattern = self.text(pattern, scope)?;
                let escape = match escape_char {
                    Some(escape) => self.text(escape, scope)?.sql,
                    None => "NULL".into(),
                };
                let sql_type = unify(&value, &pattern)?;
                let folds = sql_type.collation().is_some_and(Collation::ignores_case);
                Ok(format!(
                    "({}tsql.like({}, {}, {escape}, {folds}, {}))",
                    not(*negated),
                    value.sql,
                    pattern.sql,
                    !sql_type.is_national()
                ))
            }
            other => Err(not_a_condition(&other.to_string()).into()),
        }
    }

    /// A value as text.
    pub(super) fn text(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        let value = self.value(expression, scope)?;
        as_text(value).map_err(Into::into)
    }
}

/// A value as text, converted where it is not.
pub(super) fn as_text(value: Typed) -> Result<Typed, SqlError> {
    if value.sql_type.is_some_and(SqlType::is_text) {
        return Ok(value);
    }
    let to =
        SqlType::VarChar(Length::Limited(if value.sql_type.is_some() { 60 } else { 1 }), Collation::Latin1);
    Ok(Typed::new(convert(&value, to, Conversion::Implicit)?, to, value.nullable))
}

fn sized_max(sql: String, to: SqlType, nullable: bool) -> Result<Typed, SqlError> {
    let text = Typed::new(sql, SqlType::VarChar(Length::Max, Collation::Latin1), nullable);
    Ok(Typed::new(convert(&text, to, Conversion::Explicit)?, to, nullable))
}

fn not_a_condition(near: &str) -> SqlError {
    SqlError::new(
        4145,
        15,
        1,
        format!(
            "An expression of non-boolean type specified in a context where a condition is expected, near '{near}'."
        ),
    )
}

/// A comparison of two values by the keys of their common type.
pub(super) fn compare(left: &Typed, symbol: &str, right: &Typed) -> Result<String, SqlError> {
    let sql_type = unify(left, right)?;
    let key = |value: &Typed| -> Result<String, SqlError> {
        let sql = convert(value, sql_type, Conversion::Implicit)?;
        Ok(if matches!(symbol, "=" | "<>") { sql_type.equality_key(&sql) } else { sql_type.order_key(&sql) })
    };
    Ok(format!("({} {symbol} {})", key(left)?, key(right)?))
}

/// The type that several values have in common.
pub(super) fn common_type(values: &[&Typed]) -> Result<SqlType, SqlError> {
    let mut common: Option<SqlType> = None;
    let has_decimal = values.iter().any(|value| matches!(value.sql_type, Some(SqlType::Decimal { .. })));
    for value in values {
        let own = match value.digits {
            Some(digits) if has_decimal => Some(SqlType::Decimal { precision: digits, scale: 0 }),
            _ => value.sql_type,
        };
        common = match (common, own) {
            (Some(a), Some(b)) => Some(a.unify(b)?),
            (a, b) => a.or(b),
        };
    }
    Ok(common.unwrap_or(SqlType::Int))
}

/// A type in CAST, where a text's length is 30 unless it is given.
pub(super) fn cast_type(text: &str) -> Result<SqlType, SqlError> {
    let (name, arguments) = match text.split_once('(') {
        None => (text.trim(), Vec::new()),
        Some((name, rest)) => (
            name.trim(),
            rest.trim_end_matches(')').split(',').map(|argument| argument.trim().to_owned()).collect(),
        ),
    };
    let unsized_text = arguments.is_empty()
        && ["char", "varchar", "nchar", "nvarchar", "binary", "varbinary"]
            .iter()
            .any(|text| name.eq_ignore_ascii_case(text));
    let arguments = if unsized_text { vec!["30".to_owned()] } else { arguments };
    SqlType::parse(name.trim_matches(['[', ']']), &arguments)
}
