//! Functions of dates and times.

use sqlparser::ast::Expr;

use super::super::error::SqlError;
use super::super::types::SqlType;
use super::convert::{Conversion, convert};
use super::{Binder, Bound, Scope, Typed};

/// The part of a date that a name or its abbreviation means.
fn part(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "year" | "yy" | "yyyy" => "year",
        "quarter" | "qq" | "q" => "quarter",
        "month" | "mm" | "m" => "month",
        "dayofyear" | "dy" | "y" => "dayofyear",
        "day" | "dd" | "d" => "day",
        "week" | "wk" | "ww" => "week",
        "weekday" | "dw" | "w" => "weekday",
        "hour" | "hh" => "hour",
        "minute" | "mi" | "n" => "minute",
        "second" | "ss" | "s" => "second",
        "millisecond" | "ms" => "millisecond",
        "microsecond" | "mcs" => "microsecond",
        "nanosecond" | "ns" => "nanosecond",
        "iso_week" | "isowk" | "isoww" => "iso_week",
        _ => return None,
    })
}

const IS_PART_OF_TIME: &[&str] = &["hour", "minute", "second", "millisecond", "microsecond", "nanosecond"];

fn part_argument(function: &str, argument: &Expr) -> Result<&'static str, SqlError> {
    let name = match argument {
        Expr::Identifier(identifier) => identifier.value.clone(),
        other => other.to_string(),
    };
    part(&name).ok_or_else(|| {
        SqlError::new(
            155,
            15,
            1,
            format!("'{name}' is not a recognized {} option.", function.to_ascii_lowercase()),
        )
    })
}

/// A date or time as ticks of its own local time.
fn ticks(value: &Typed) -> Result<String, SqlError> {
    convert(value, SqlType::DateTime2(7), Conversion::Implicit)
}

impl Binder<'_> {
    /// `None` where the name is not one of these functions.
    pub(super) fn date_function(
        &self,
        name: &str,
        arguments: &[&Expr],
        scope: &Scope<'_>,
    ) -> Bound<Option<Typed>> {
        Ok(Some(match (name, arguments) {
            ("SYSUTCDATETIME" | "SYSDATETIME", []) => {
                Typed::new("tsql.now_ticks()", SqlType::DateTime2(7), false)
            }
            ("SYSDATETIMEOFFSET", []) => Typed::new(
                "ROW(tsql.now_ticks(), 0::int2)::tsql.datetimeoffset",
                SqlType::DateTimeOffset(7),
                false,
            ),
            // the time zone is UTC, as in Azure SQL
            ("GETDATE" | "GETUTCDATE" | "CURRENT_TIMESTAMP", []) => {
                Typed::new("tsql.to_datetime(tsql.now_ticks())", SqlType::DateTime, false)
            }
            ("DATEDIFF" | "DATEDIFF_BIG", [unit, from, to]) => {
                let unit = part_argument(name, unit)?;
                let unit = match unit {
                    "dayofyear" | "weekday" => "day",
                    "iso_week" => {
                        return Err(SqlError::new(
                            155,
                            15,
                            1,
                            "'iso_week' is not a recognized datediff option.",
                        )
                        .into());
                    }
                    unit => unit,
                };
                let (from, to) = (self.value(from, scope)?, self.value(to, scope)?);
                // instants are compared in UTC
                let side = |value: &Typed| match value.sql_type {
                    Some(SqlType::DateTimeOffset(_)) => Ok(format!("({}).utc", value.sql)),
                    _ => ticks(value),
                };
                let (function, sql_type) = if name == "DATEDIFF" {
                    ("datediff_int", SqlType::Int)
                } else {
                    ("datediff", SqlType::BigInt)
                };
                Typed::new(
                    format!("tsql.{function}('{unit}', {}, {})", side(&from)?, side(&to)?),
                    sql_type,
                    from.nullable || to.nullable,
                )
            }
            ("DATEADD", [unit, count, date]) => {
                self.date_add(part_argument(name, unit)?, count, date, scope)?
            }
            ("DATEPART", [unit, date]) => self.date_part(part_argument(name, unit)?, date, scope)?,
            ("YEAR" | "MONTH" | "DAY", [date]) => {
                self.date_part(part_argument(name, &Expr::Identifier(name.into()))?, date, scope)?
            }
            (
                "SWITCHOFFSET" | "TODATETIMEOFFSET" | "EOMONTH" | "DATENAME" | "DATEFROMPARTS" | "FORMAT"
                | "DATETRUNC" | "DATE_BUCKET",
                _,
            ) => {
                return Err(SqlError::unsupported(name).into());
            }
            _ => return Ok(None),
        }))
    }

    fn date_part(&self, unit: &str, date: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        let value = self.value(date, scope)?;
        if unit == "week" {
            return Err(SqlError::unsupported("DATEPART(week)").into());
        }
        refuse_missing_part(&value, unit, "datepart")?;
        Ok(Typed::new(format!("tsql.part('{unit}', {})", ticks(&value)?), SqlType::Int, value.nullable))
    }

    fn date_add(&self, unit: &str, count: &Expr, date: &Expr, scope: &Scope<'_>) -> Bound<Typed> {
        let count = convert(&self.value(count, scope)?, SqlType::BigInt, Conversion::Implicit)?;
        let value = self.value(date, scope)?;
        refuse_missing_part(&value, unit, "dateadd")?;
        let sql_type = value.type_or_int();
        if unit == "iso_week" {
            return Err(SqlError::new(155, 15, 1, "'iso_week' is not a recognized dateadd option.").into());
        }
        let sql = &value.sql;
        let moved = |ticks: &str| format!("tsql.dateadd('{unit}', {count}, {ticks})");
        let sql = match sql_type {
            SqlType::Date => format!("tsql.ticks_date({})", moved(&ticks(&value)?)),
            SqlType::DateTime2(scale) => {
                format!("tsql.check_ticks(tsql.round_ticks({}, {scale}))", moved(sql))
            }
            SqlType::DateTime => format!("tsql.to_datetime({})", moved(sql)),
            SqlType::SmallDateTime => format!("tsql.to_smalldatetime({})", moved(sql)),
            SqlType::Time(scale) => {
                format!("(tsql.round_ticks({}, {scale}) % 864000000000)", moved(&ticks(&value)?))
            }
            SqlType::DateTimeOffset(_) => format!(
                "(CASE WHEN ({sql}) IS NULL THEN NULL ELSE ROW({} - ({sql}).minutes::int8 * 600000000, ({sql}).minutes)::tsql.datetimeoffset END)",
                moved(&ticks(&value)?)
            ),
            _ => {
                return Err(
                    SqlError::unsupported("DATEADD of a text or a number (convert it to datetime2)").into()
                );
            }
        };
        Ok(Typed::new(sql, sql_type, true))
    }
}

fn refuse_missing_part(value: &Typed, unit: &str, function: &str) -> Result<(), SqlError> {
    let sql_type = value.type_or_int();
    let missing = match sql_type {
        SqlType::Date => IS_PART_OF_TIME.contains(&unit),
        SqlType::Time(_) => !IS_PART_OF_TIME.contains(&unit),
        _ => false,
    };
    if missing {
        return Err(SqlError::new(
            9810,
            16,
            1,
            format!(
                "The datepart {unit} is not supported by date function {function} for data type {}.",
                sql_type.name()
            ),
        ));
    }
    if !sql_type.is_temporal() && !sql_type.is_text() {
        return Err(SqlError::new(
            8116,
            16,
            1,
            format!(
                "Argument data type {} is invalid for argument 1 of {function} function.",
                sql_type.name()
            ),
        ));
    }
    Ok(())
}
