//! Conversions from one type of T-SQL to another, as PostgreSQL computes them.

use super::super::encode::quote_literal;
use super::super::error::SqlError;
use super::super::types::{Collation, Length, SqlType};
use super::Typed;

/// On whose wish a value is converted.
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Conversion<'a> {
    /// Beside a value of another type.
    Implicit,
    /// CAST and CONVERT: what is too long is cut.
    Explicit,
    /// Into a column, named for errors: what is too long is refused.
    Assign(&'a str),
}

/// The unit in which `tsql.measure` counts a text type's length.
pub(super) fn length_unit(sql_type: SqlType) -> &'static str {
    match sql_type {
        SqlType::NChar(..) | SqlType::NVarChar(..) => "u",
        SqlType::Char(_, collation) | SqlType::VarChar(_, collation) if collation.is_utf8() => "8",
        _ => "b",
    }
}

/// The value as an expression that has the PostgreSQL type of `to`.
pub(in super::super) fn convert(
    value: &Typed,
    to: SqlType,
    conversion: Conversion<'_>,
) -> Result<String, SqlError> {
    let sql = &value.sql;
    let postgres = to.postgres();
    let Some(from) = value.sql_type else { return Ok(format!("NULL::{postgres}")) };
    if from == to {
        return Ok(sql.clone());
    }
    if !matches!(conversion, Conversion::Explicit) && !is_implicit(from, to) {
        return Err(SqlError::new(
            257,
            16,
            3,
            format!(
                "Implicit conversion from data type {} to {} is not allowed. Use the CONVERT function to run this query.",
                from.name(),
                to.name()
            ),
        ));
    }
    let refuse = || {
        Err(SqlError::new(
            529,
            16,
            2,
            format!(
                "Explicit conversion from data type {} to {} is not allowed, or not supported in this stand-in.",
                from.name(),
                to.name()
            ),
        ))
    };
    if to == SqlType::Xml {
        return if from.is_text() { text_to_xml(sql) } else { refuse() };
    }
    if from == SqlType::Xml {
        return match to {
            SqlType::NVarChar(..) | SqlType::VarChar(..) => {
                Ok(sized_text(sql, to, Conversion::Assign("xml as text")))
            }
            _ => refuse(),
        };
    }
    if from.is_money() {
        return money(sql, to).map_or_else(refuse, Ok);
    }
    if to.is_money() && from.is_number() {
        return Ok(format!("tsql.to_money(({sql})::numeric, '{}')", to.name()));
    }
    if from.is_number() {
        // towards zero, as SQL Server cuts
        let whole = if from.is_integer() { sql.clone() } else { format!("trunc({sql})") };
        return Ok(match to {
            SqlType::Bit => format!("(({sql}) <> 0)::int4::int2"),
            SqlType::TinyInt => format!("tsql.to_tinyint(({whole})::int8)"),
            SqlType::SmallInt => format!("tsql.to_smallint(({whole})::int8)"),
            SqlType::Int | SqlType::BigInt => format!("({whole})::{postgres}"),
            SqlType::Real if from == SqlType::Float => format!("tsql.to_real({sql})"),
            SqlType::Real | SqlType::Float | SqlType::Decimal { .. } => format!("({sql})::{postgres}"),
            _ if to.is_text() => {
                let text = if from.is_approximate() {
                    format!("tsql.float_text({sql})")
                } else {
                    format!("({sql})::text")
                };
                sized_text(&text, to, Conversion::Assign("a number as text"))
            }
            _ => return refuse(),
        });
    }
    if from.is_text() {
        return Ok(match to {
            SqlType::Bit => format!("tsql.text_to_bit({sql})"),
            SqlType::TinyInt => format!("tsql.to_tinyint(tsql.text_to_int8({sql}, 'tinyint'))"),
            SqlType::SmallInt => format!("tsql.to_smallint(tsql.text_to_int8({sql}, 'smallint'))"),
            SqlType::Int => format!("tsql.text_to_int8({sql}, 'int')::int4"),
            SqlType::BigInt => format!("tsql.text_to_int8({sql}, 'bigint')"),
            SqlType::Decimal { .. } => format!("tsql.text_to_numeric({sql})::{postgres}"),
            SqlType::Real => format!("tsql.to_real(tsql.text_to_float8({sql}))"),
            SqlType::Float => format!("tsql.text_to_float8({sql})"),
            SqlType::Money | SqlType::SmallMoney => format!("tsql.text_to_money({sql}, '{}')", to.name()),
            SqlType::DateTime => format!("tsql.to_datetime(tsql.text_to_old_ticks({sql}))"),
            SqlType::SmallDateTime => format!("tsql.to_smalldatetime(tsql.text_to_old_ticks({sql}))"),
            SqlType::Date => format!("tsql.ticks_date(tsql.text_to_ticks({sql}, 'date'))"),
            SqlType::Time(scale) => {
                format!("(tsql.round_ticks(tsql.text_to_ticks({sql}, 'time'), {scale}) % 864000000000)")
            }
            SqlType::DateTime2(scale) => {
                format!("tsql.check_ticks(tsql.round_ticks(tsql.text_to_ticks({sql}, 'datetime2'), {scale}))")
            }
            SqlType::DateTimeOffset(scale) => format!("tsql.text_to_offset({sql}, {scale})"),
            SqlType::UniqueIdentifier => format!("tsql.text_to_uuid({sql})"),
            _ if to.is_text() => sized_text(sql, to, conversion),
            // the bytes of UTF-16 PostgreSQL has not
            _ if to.is_binary() && !from.is_national() => {
                let encoding =
                    if from.collation().is_some_and(Collation::is_utf8) { "UTF8" } else { "WIN1252" };
                sized_binary(&format!("convert_to({sql}, '{encoding}')"), to, conversion)
            }
            _ => return refuse(),
        });
    }
    if from.is_binary() && to.is_binary() {
        return Ok(sized_binary(sql, to, conversion));
    }
    if from == SqlType::UniqueIdentifier {
        return match to {
            _ if to.is_text() => Ok(sized_text(
                &format!("upper(({sql})::text)"),
                to,
                Conversion::Assign("a uniqueidentifier as text"),
            )),
            _ if to.is_binary() => refuse(),
            _ => refuse(),
        };
    }
    if from.is_temporal() {
        return temporal(sql, from, to).map_or_else(refuse, Ok);
    }
    refuse()
}

fn temporal(sql: &str, from: SqlType, to: SqlType) -> Option<String> {
    if to.is_text() {
        let text = match from {
            SqlType::Date => format!("to_char({sql}, 'YYYY-MM-DD')"),
            SqlType::Time(scale) => format!("tsql.time_text({sql}, {scale})"),
            SqlType::DateTime2(scale) => format!("tsql.datetime2_text({sql}, {scale})"),
            SqlType::DateTimeOffset(scale) => format!("tsql.offset_text({sql}, {scale})"),
            SqlType::DateTime | SqlType::SmallDateTime => format!("tsql.datetime_text({sql})"),
            _ => return None,
        };
        return Some(sized_text(&text, to, Conversion::Explicit));
    }
    // as ticks, in local time
    let (ticks, from_scale) = match from {
        SqlType::Date => (format!("tsql.date_ticks({sql})"), 0),
        SqlType::DateTime2(scale) => (format!("({sql})"), scale),
        SqlType::DateTime => (format!("({sql})"), 7),
        SqlType::SmallDateTime => (format!("({sql})"), 0),
        SqlType::Time(scale) => (format!("(({sql}) + {TICKS_TO_1900})"), scale),
        SqlType::DateTimeOffset(scale) => {
            (format!("(({sql}).utc + ({sql}).minutes::int8 * 600000000)"), scale)
        }
        _ => return None,
    };
    let rounded = |ticks: &str, scale: u8| {
        if scale < from_scale { format!("tsql.round_ticks({ticks}, {scale})") } else { ticks.to_owned() }
    };
    Some(match (from, to) {
        (SqlType::Time(_), SqlType::Date) | (SqlType::Date, SqlType::Time(_)) => return None,
        (_, SqlType::Date) => format!("tsql.ticks_date({ticks})"),
        (_, SqlType::Time(scale)) => {
            format!("({} % 864000000000)", rounded(&format!("({ticks} % 864000000000)"), scale))
        }
        (_, SqlType::DateTime) => format!("tsql.to_datetime({ticks})"),
        (_, SqlType::SmallDateTime) => format!("tsql.to_smalldatetime({ticks})"),
        (_, SqlType::DateTime2(scale)) => format!("tsql.check_ticks({})", rounded(&ticks, scale)),
        (SqlType::DateTimeOffset(_), SqlType::DateTimeOffset(scale)) => {
            let utc = rounded(&format!("({sql}).utc"), scale);
            format!(
                "(CASE WHEN ({sql}) IS NULL THEN NULL ELSE ROW({utc}, ({sql}).minutes)::tsql.datetimeoffset END)"
            )
        }
        (_, SqlType::DateTimeOffset(scale)) => {
            format!(
                "(CASE WHEN ({sql}) IS NULL THEN NULL ELSE ROW({}, 0::int2)::tsql.datetimeoffset END)",
                rounded(&ticks, scale)
            )
        }
        _ => return None,
    })
}

/// From money to another type; `None` where there is no way.
fn money(sql: &str, to: SqlType) -> Option<String> {
    Some(match to {
        SqlType::Money | SqlType::SmallMoney => format!("tsql.to_money({sql}, '{}')", to.name()),
        SqlType::Bit => format!("(({sql}) <> 0)::int4::int2"),
        // rounded, where a decimal is cut
        SqlType::TinyInt => format!("tsql.to_tinyint(round({sql})::int8)"),
        SqlType::SmallInt => format!("tsql.to_smallint(round({sql})::int8)"),
        SqlType::Int | SqlType::BigInt => format!("round({sql})::{}", to.postgres()),
        SqlType::Real | SqlType::Float | SqlType::Decimal { .. } => format!("({sql})::{}", to.postgres()),
        _ if to.is_text() => {
            sized_text(&format!("round({sql}, 2)::text"), to, Conversion::Assign("money as text"))
        }
        _ => return None,
    })
}

/// The function for a style of CONVERT from `datetime` to text, as far as styles are known here.
pub(super) fn old_date_time_style(style: &str) -> Option<&'static str> {
    Some(match style {
        "120" | "20" => "datetime_text_120",
        "121" | "21" | "25" => "datetime_text_121",
        "126" => "datetime_text_126",
        "23" => "datetime_text_23",
        "112" => "datetime_text_112",
        "108" | "8" | "24" => "datetime_text_108",
        _ => return None,
    })
}

/// Text that is known when the statement is: a constant or a variable. PostgreSQL has no function that keeps
/// XML as SQL Server does.
fn text_to_xml(sql: &str) -> Result<String, SqlError> {
    if sql == "NULL::text" || sql.starts_with("tsql.cut(NULL::text, ") {
        return Ok("NULL::text".to_owned());
    }
    match known_text(sql) {
        Some(text) => Ok(format!("{}::text", quote_literal(&super::super::xml::normalize(&text)?))),
        None => Err(SqlError::unsupported("conversion to xml of what is neither a constant nor a variable")),
    }
}

/// The text of a literal as `quote_literal` writes it, or of one that `sized_text` fits into a length.
fn known_text(sql: &str) -> Option<String> {
    let cut = sql.strip_prefix("tsql.cut(").and_then(|rest| rest.strip_suffix(", 'u', false)"));
    let (literal, size) = match cut.and_then(|rest| rest.rsplit_once(", ")) {
        Some((literal, size)) => (literal, size.parse().ok()?),
        None => (sql, usize::MAX),
    };
    let quoted = literal.strip_prefix('\'')?.strip_suffix("'::text")?;
    // two quotes stand for one, and no U+0000 is in any text here
    let text = quoted.replace("''", "\u{0}");
    let text = (!text.contains('\'')).then(|| text.replace('\u{0}', "'"))?;
    (text.encode_utf16().count() <= size).then_some(text)
}

/// Ticks from 0001-01-01 to 1900-01-01, the day of a time of day without one.
const TICKS_TO_1900: i64 = 599_266_080_000_000_000;

fn sized_text(sql: &str, to: SqlType, conversion: Conversion<'_>) -> String {
    let unit = length_unit(to);
    let padded = matches!(to, SqlType::Char(..) | SqlType::NChar(..));
    match (to.length(), conversion) {
        (None, _) if unit == "b" => format!("tsql.code_page({sql}, 'b')"),
        (None, _) => sql.to_owned(),
        (Some(size), Conversion::Assign(place)) => {
            format!("tsql.fit({sql}, {size}, '{unit}', {padded}, {})", quote_literal(place))
        }
        // a type that an expression got beside another is never shorter than the value
        (Some(_), Conversion::Implicit) if !padded && unit != "b" => sql.to_owned(),
        (Some(size), _) => format!("tsql.cut({sql}, {size}, '{unit}', {padded})"),
    }
}

fn sized_binary(sql: &str, to: SqlType, conversion: Conversion<'_>) -> String {
    let padded = matches!(to, SqlType::Binary(_));
    match (to, conversion) {
        (SqlType::VarBinary(Length::Max), _) => sql.to_owned(),
        (_, Conversion::Assign(place)) => {
            format!(
                "tsql.fit_binary({sql}, {}, {padded}, {})",
                to.length().unwrap_or(8000),
                quote_literal(place)
            )
        }
        _ => format!("tsql.cut_binary({sql}, {}, {padded})", to.length().unwrap_or(8000)),
    }
}

/// Microsoft Learn, "Data type conversion", as far as the types go that are known here.
fn is_implicit(from: SqlType, to: SqlType) -> bool {
    if to.is_binary() {
        return from.is_binary();
    }
    if from.is_binary() {
        return false;
    }
    if to == SqlType::UniqueIdentifier || from == SqlType::UniqueIdentifier {
        return from.is_text() || to.is_text() || from == to;
    }
    if from == SqlType::Xml {
        return to == SqlType::Xml;
    }
    if from.is_money() {
        return !to.is_text() && !to.is_temporal();
    }
    if from.is_temporal() || to.is_temporal() {
        return from.is_text() || to.is_text() || (from.is_temporal() && to.is_temporal());
    }
    true
}
