//! Functions of one row.

use sqlparser::ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::super::batch::name_parts;
use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::convert::{Conversion, convert};
use super::expression::{as_text, common_type, compare};
use super::property::{
    NAME, constant_argument, constant_text, database_property, quote_name, server_property,
};
use super::{Binder, Bound, Scope, Typed};

/// The arguments of a call, plain expressions all of them.
pub(super) fn plain_arguments<'e>(function: &'e Function, name: &str) -> Bound<Vec<&'e Expr>> {
    let list = match &function.args {
        FunctionArguments::None => return Ok(Vec::new()),
        FunctionArguments::List(list) if list.clauses.is_empty() => list,
        _ => return Err(SqlError::syntax(name).into()),
    };
    list.args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
            // `a = b` as an argument is read as a named one
            other => Err(SqlError::unsupported(&format!("argument {other} of {name}")).into()),
        })
        .collect()
}

impl Binder<'_> {
    pub(super) fn function(&self, function: &Function, scope: &Scope<'_>) -> Bound<Typed> {
        let name = name_parts(&function.name)?.join(".").to_ascii_uppercase();
        if function.uses_odbc_syntax
            || function.filter.is_some()
            || function.null_treatment.is_some()
            || !matches!(function.parameters, FunctionArguments::None)
        {
            return Err(SqlError::syntax(&name).into());
        }
        if let Some(over) = &function.over {
            return self.window(&name, function, over, scope);
        }
        if super::aggregate::is_aggregate(&name) {
            return self.aggregate(&name, function, scope);
        }
        if !function.within_group.is_empty() {
            return Err(SqlError::syntax("WITHIN GROUP").into());
        }
        if matches!(&function.args, FunctionArguments::List(list) if list.duplicate_treatment.is_some()) {
            return Err(SqlError::syntax("DISTINCT").into());
        }
        if name == "IIF" {
            return self.choose(function, scope);
        }
        let arguments = plain_arguments(function, &name)?;
        if let Some(value) = self.date_function(&name, &arguments, scope)? {
            return Ok(value);
        }
        self.scalar_function(&name, &arguments, scope)
    }

    fn choose(&self, function: &Function, scope: &Scope<'_>) -> Bound<Typed> {
        let FunctionArguments::List(list) = &function.args else {
            return Err(SqlError::syntax("IIF").into());
        };
        let [condition, yes, no] = list.args.as_slice() else { return Err(SqlError::syntax("IIF").into()) };
        let condition = match condition {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => self.condition(expression, scope)?,
            FunctionArg::ExprNamed {
                name,
                arg: FunctionArgExpr::Expr(value),
                operator: sqlparser::ast::FunctionArgOperator::Equals,
            } => compare(&self.value(name, scope)?, "=", &self.value(value, scope)?)?,
            _ => return Err(SqlError::syntax("IIF").into()),
        };
        let plain = |argument: &FunctionArg| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => self.value(expression, scope),
            _ => Err(SqlError::syntax("IIF").into()),
        };
        let (yes, no) = (plain(yes)?, plain(no)?);
        let sql_type = common_type(&[&yes, &no])?;
        let (a, b) =
            (convert(&yes, sql_type, Conversion::Implicit)?, convert(&no, sql_type, Conversion::Implicit)?);
        Ok(Typed::new(
            format!("(CASE WHEN {condition} THEN {a} ELSE {b} END)"),
            sql_type,
            yes.nullable || no.nullable,
        ))
    }

    pub(super) fn int(&self, expression: &Expr, scope: &Scope<'_>) -> Bound<String> {
        let value = self.value(expression, scope)?;
        convert(&value, SqlType::Int, Conversion::Implicit).map_err(Into::into)
    }

    /// A function by its name in capitals.
    #[expect(clippy::too_many_lines, reason = "one arm a function")]
    pub(super) fn scalar_function(&self, name: &str, arguments: &[&Expr], scope: &Scope<'_>) -> Bound<Typed> {
        let wrong_count = || {
            SqlError::new(
                174,
                15,
                1,
                format!("The {} function requires another number of arguments.", name.to_ascii_lowercase()),
            )
        };
        let value = |index: usize| -> Bound<Typed> {
            self.value(arguments.get(index).ok_or_else(wrong_count)?, scope)
        };
        let text = |index: usize| -> Bound<Typed> {
            self.text(arguments.get(index).ok_or_else(wrong_count)?, scope)
        };
        let int = |index: usize| -> Bound<String> {
            self.int(arguments.get(index).ok_or_else(wrong_count)?, scope)
        };
        let count = |counts: std::ops::RangeInclusive<usize>| {
            if counts.contains(&arguments.len()) { Ok(()) } else { Err(wrong_count()) }
        };
        Ok(match name {
            "ISNULL" => {
                count(2..=2)?;
                let (a, b) = (value(0)?, value(1)?);
                let sql_type = a.sql_type.or(b.sql_type).unwrap_or(SqlType::Int);
                let sql = format!(
                    "coalesce({}, {})",
                    convert(&a, sql_type, Conversion::Implicit)?,
                    convert(&b, sql_type, Conversion::Explicit)?
                );
                Typed::new(sql, sql_type, a.nullable && b.nullable)
            }
            "COALESCE" => {
                let values = arguments
                    .iter()
                    .map(|argument| self.value(argument, scope))
                    .collect::<Bound<Vec<_>>>()?;
                if values.len() < 2 {
                    return Err(wrong_count().into());
                }
                let sql_type = common_type(&values.iter().collect::<Vec<_>>())?;
                let parts = values
                    .iter()
                    .map(|value| convert(value, sql_type, Conversion::Implicit))
                    .collect::<Result<Vec<_>, _>>()?;
                Typed::new(
                    format!("coalesce({})", parts.join(", ")),
                    sql_type,
                    values.iter().all(|value| value.nullable),
                )
            }
            "NULLIF" => {
                count(2..=2)?;
                let (a, b) = (value(0)?, value(1)?);
                let sql_type = a.type_or_int();
                Typed::new(
                    format!(
                        "(CASE WHEN {} THEN NULL ELSE {} END)",
                        compare(&a, "=", &b)?,
                        convert(&a, sql_type, Conversion::Implicit)?
                    ),
                    sql_type,
                    true,
                )
            }
            "LEN" => {
                count(1..=1)?;
                let v = text(0)?;
                let unbounded = v.sql_type.is_some_and(|sql_type| sql_type.length().is_none());
                let sql = format!("tsql.utf16_length(rtrim({}))", v.sql);
                if unbounded {
                    Typed::new(format!("{sql}::int8"), SqlType::BigInt, v.nullable)
                } else {
                    Typed::new(sql, SqlType::Int, v.nullable)
                }
            }
            "DATALENGTH" => {
                count(1..=1)?;
                let v = value(0)?;
                let sql_type = v.type_or_int();
                let sql = match sql_type {
                    _ if sql_type.is_text() => {
                        let unit = super::convert::length_unit(sql_type);
                        format!(
                            "(tsql.measure({}, '{unit}'){})",
                            v.sql,
                            if unit == "u" { " * 2" } else { "" }
                        )
                    }
                    _ if sql_type.is_binary() => format!("length({})", v.sql),
                    _ => format!(
                        "(CASE WHEN ({}) IS NULL THEN NULL ELSE {} END)",
                        v.sql,
                        sql_type.facets().max_length
                    ),
                };
                let unbounded = (sql_type.is_text() || sql_type.is_binary()) && sql_type.length().is_none();
                if unbounded {
                    Typed::new(format!("({sql})::int8"), SqlType::BigInt, v.nullable)
                } else {
                    Typed::new(format!("({sql})::int4"), SqlType::Int, v.nullable)
                }
            }
            "UPPER" | "LOWER" | "LTRIM" | "RTRIM" | "TRIM" | "REVERSE" => {
                count(1..=1)?;
                let v = text(0)?;
                let sql = match name {
                    "REVERSE" => format!("reverse(tsql.refuse_pairs({}))", v.sql),
                    "TRIM" => format!("btrim({})", v.sql),
                    _ => format!("{}({})", name.to_ascii_lowercase(), v.sql),
                };
                Typed::new(sql, varying(v.type_or_int()), v.nullable)
            }
            "LEFT" | "RIGHT" => {
                count(2..=2)?;
                let (v, n) = (text(0)?, int(1)?);
                let sql = if name == "LEFT" {
                    format!("tsql.substring({}, 1, {n})", v.sql)
                } else {
                    // PostgreSQL counts a negative length from the other end
                    format!("right(tsql.refuse_pairs({}), greatest({n}, 0))", v.sql)
                };
                Typed::new(sql, varying(v.type_or_int()), true)
            }
            "SUBSTRING" => {
                count(3..=3)?;
                let v = value(0)?;
                if v.type_or_int().is_binary() {
                    return Ok(Typed::new(
                        format!("substr({}, {}, {})", v.sql, int(1)?, int(2)?),
                        varying(v.type_or_int()),
                        true,
                    ));
                }
                let v = as_text(v)?;
                Typed::new(
                    format!("tsql.substring({}, {}, {})", v.sql, int(1)?, int(2)?),
                    varying(v.type_or_int()),
                    true,
                )
            }
            "CHARINDEX" => {
                count(2..=3)?;
                let (part, v) = (text(0)?, text(1)?);
                let first = if arguments.len() == 3 { int(2)? } else { "1".into() };
                let folds = part
                    .type_or_int()
                    .unify(v.type_or_int())?
                    .collation()
                    .is_some_and(Collation::ignores_case);
                let fold = |sql: &str| {
                    if folds {
                        format!("lower(tsql.refuse_pairs({sql}))")
                    } else {
                        format!("tsql.refuse_pairs({sql})")
                    }
                };
                Typed::new(
                    format!("tsql.charindex({}, {}, {first})", fold(&part.sql), fold(&v.sql)),
                    SqlType::Int,
                    true,
                )
            }
            "REPLACE" => {
                count(3..=3)?;
                let (v, from, to) = (text(0)?, text(1)?, text(2)?);
                let sql_type = v.type_or_int().unify(from.type_or_int())?.unify(to.type_or_int())?;
                let collation = sql_type.collation().unwrap_or(Collation::Latin1);
                if collation.ignores_case() {
                    // PostgreSQL's regular expressions compare without case; the text to find is taken as it is
                    let pattern = format!("regexp_replace({}, '([^[:alnum:]])', '\\\\\\1', 'g')", from.sql);
                    let with = format!("replace({}, '\\', '\\\\')", to.sql);
                    let sql = format!(
                        "(CASE WHEN {} = '' THEN {} ELSE regexp_replace({}, {pattern}, {with}, 'gi') END)",
                        from.sql, v.sql, v.sql
                    );
                    return Ok(Typed::new(sql, unbounded(sql_type), true));
                }
                Typed::new(format!("replace({}, {}, {})", v.sql, from.sql, to.sql), unbounded(sql_type), true)
            }
            "REPLICATE" => {
                count(2..=2)?;
                let v = text(0)?;
                let n = int(1)?;
                Typed::new(
                    format!(
                        "tsql.cut(repeat({}, CASE WHEN {n} < 0 THEN NULL ELSE {n} END), 8000, '{}', false)",
                        v.sql,
                        super::convert::length_unit(v.type_or_int())
                    ),
                    unbounded(v.type_or_int()),
                    true,
                )
            }
            "SPACE" => {
                count(1..=1)?;
                Typed::new(
                    format!("repeat(' ', {})", int(0)?),
                    SqlType::VarChar(Length::Limited(8000), Collation::Latin1),
                    true,
                )
            }
            "CONCAT" => {
                let mut national = false;
                let mut parts = Vec::new();
                for argument in arguments {
                    let part = self.text(argument, scope)?;
                    national |= part.type_or_int().is_national();
                    parts.push(format!("coalesce({}, '')", part.sql));
                }
                if parts.len() < 2 {
                    return Err(wrong_count().into());
                }
                let sql_type = if national {
                    SqlType::NVarChar(Length::Max, Collation::Latin1)
                } else {
                    SqlType::VarChar(Length::Max, Collation::Latin1)
                };
                Typed::new(format!("({})", parts.join(" || ")), sql_type, false)
            }
            "ABS" | "CEILING" | "FLOOR" | "SIGN" => {
                count(1..=1)?;
                let v = value(0)?;
                let (sql_type, v) = number(&v)?;
                match (name, sql_type) {
                    ("ABS" | "SIGN", _) => Typed::new(
                        format!("{}({})::{}", name.to_ascii_lowercase(), v.sql, sql_type.postgres()),
                        sql_type,
                        v.nullable,
                    ),
                    (_, SqlType::Decimal { precision, .. }) => {
                        let whole = SqlType::Decimal { precision, scale: 0 };
                        Typed::new(
                            format!(
                                "{}({})::{}",
                                if name == "FLOOR" { "floor" } else { "ceil" },
                                v.sql,
                                whole.postgres()
                            ),
                            whole,
                            v.nullable,
                        )
                    }
                    (_, _) if sql_type.is_integer() => v,
                    _ => Typed::new(
                        format!("{}({})", if name == "FLOOR" { "floor" } else { "ceil" }, v.sql),
                        sql_type,
                        v.nullable,
                    ),
                }
            }
            "ROUND" => {
                count(2..=2)?;
                let (sql_type, v) = number(&value(0)?)?;
                let digits = int(1)?;
                match sql_type {
                    SqlType::Real | SqlType::Float => Typed::new(
                        format!("round(({})::numeric, {digits})::{}", v.sql, sql_type.postgres()),
                        sql_type,
                        v.nullable,
                    ),
                    _ => Typed::new(
                        format!("round(({})::numeric, {digits})::{}", v.sql, sql_type.postgres()),
                        sql_type,
                        v.nullable,
                    ),
                }
            }
            "SQRT" | "EXP" | "LOG" | "LOG10" => {
                count(1..=1)?;
                let v = convert(&value(0)?, SqlType::Float, Conversion::Implicit)?;
                let function = match name {
                    "LOG" => "ln",
                    "LOG10" => "log",
                    "SQRT" => "sqrt",
                    _ => "exp",
                };
                Typed::new(format!("{function}({v})"), SqlType::Float, true)
            }
            "POWER" => {
                count(2..=2)?;
                let (sql_type, v) = number(&value(0)?)?;
                let exponent = convert(&value(1)?, SqlType::Float, Conversion::Implicit)?;
                let power =
                    Typed::new(format!("power(({})::float8, {exponent})", v.sql), SqlType::Float, true);
                Typed::new(convert(&power, sql_type, Conversion::Implicit)?, sql_type, true)
            }
            "NEWID" => Typed::new("gen_random_uuid()", SqlType::UniqueIdentifier, false),
            "OBJECT_ID" => {
                count(1..=2)?;
                let wanted = if arguments.len() == 2 { text(1)?.sql } else { "NULL".into() };
                Typed::new(format!("tsql.object_id({}, {wanted})", text(0)?.sql), SqlType::Int, true)
            }
            "OBJECT_NAME" => Typed::new(format!("tsql.object_name({})", int(0)?), NAME, true),
            "OBJECT_SCHEMA_NAME" => Typed::new(format!("tsql.object_schema_name({})", int(0)?), NAME, true),
            "SCHEMA_NAME" if arguments.is_empty() => constant_text("dbo", NAME),
            "SCHEMA_NAME" => Typed::new(format!("tsql.schema_name({})", int(0)?), NAME, true),
            "SCHEMA_ID" if arguments.is_empty() => Typed::new("1", SqlType::Int, true),
            "SCHEMA_ID" => Typed::new(format!("tsql.schema_id({})", text(0)?.sql), SqlType::Int, true),
            "QUOTENAME" => {
                count(1..=1)?;
                quote_name(&text(0)?)
            }
            "TYPE_NAME" => Typed::new(format!("tsql.type_name({})", int(0)?), NAME, true),
            "COL_LENGTH" => Typed::new(
                format!("tsql.col_length({}, {})", text(0)?.sql, text(1)?.sql),
                SqlType::SmallInt,
                true,
            ),
            "DB_NAME" | "ORIGINAL_DB_NAME" if arguments.is_empty() => {
                constant_text(&self.session.database, NAME)
            }
            "DB_ID" if arguments.is_empty() => Typed::new("5::int2", SqlType::SmallInt, true),
            _ if super::security::is_known(name) => self.security_function(name, arguments, scope)?,
            "HOST_NAME" | "APP_NAME" | "PROGRAM_NAME" if arguments.is_empty() => {
                Typed::new("NULL::text", NAME, true)
            }
            "XACT_STATE" => {
                Typed::new(format!("({})::int2", self.session.transaction_state), SqlType::SmallInt, false)
            }
            "ROWCOUNT_BIG" => {
                Typed::new(format!("({})::int8", self.session.row_count), SqlType::BigInt, false)
            }
            "ERROR_NUMBER" | "ERROR_SEVERITY" | "ERROR_STATE" | "ERROR_MESSAGE" | "ERROR_LINE"
            | "ERROR_PROCEDURE" => self.caught(name),
            "SERVERPROPERTY" => {
                count(1..=1)?;
                server_property(constant_argument(arguments[0])?)
            }
            "DATABASEPROPERTYEX" => {
                count(2..=2)?;
                database_property(constant_argument(arguments[1])?)
            }
            _ => return Err(SqlError::new(
                195,
                15,
                10,
                format!(
                    "'{name}' is not a recognized built-in function name, or not supported in this stand-in."
                ),
            )
            .into()),
        })
    }
}

/// A number for a function that takes one; text is taken as a float.
fn number(value: &Typed) -> Result<(SqlType, Typed), SqlError> {
    let sql_type = match value.type_or_int() {
        SqlType::TinyInt | SqlType::SmallInt | SqlType::Bit => SqlType::Int,
        sql_type if sql_type.is_text() => SqlType::Float,
        SqlType::Real => SqlType::Float,
        sql_type => sql_type,
    };
    if sql_type.is_money() {
        return Err(SqlError::unsupported(&format!("a function of {}", sql_type.name())));
    }
    if !sql_type.is_number() {
        return Err(SqlError::new(
            8116,
            16,
            1,
            format!("Argument data type {} is invalid for argument 1 of the function.", sql_type.name()),
        ));
    }
    let sql = convert(value, sql_type, Conversion::Implicit)?;
    Ok((sql_type, Typed::new(sql, sql_type, value.nullable)))
}

/// `char` becomes `varchar` in what text functions give back.
fn varying(sql_type: SqlType) -> SqlType {
    match sql_type {
        SqlType::Char(n, collation) => SqlType::VarChar(Length::Limited(n), collation),
        SqlType::NChar(n, collation) => SqlType::NVarChar(Length::Limited(n), collation),
        SqlType::Binary(n) => SqlType::VarBinary(Length::Limited(n)),
        other => other,
    }
}

/// The longest bounded text of a kind.
fn unbounded(sql_type: SqlType) -> SqlType {
    let collation = sql_type.collation().unwrap_or(Collation::Latin1);
    match sql_type {
        _ if sql_type.length().is_none() => sql_type,
        _ if sql_type.is_national() => SqlType::NVarChar(Length::Limited(4000), collation),
        _ => SqlType::VarChar(Length::Limited(8000), collation),
    }
}
