//! Values as text and as tiberius has them. Days and ticks are reckoned here, and shared with nothing that is tested.

use tiberius::numeric::Numeric;
use tiberius::time::{Date, DateTime, DateTime2, DateTimeOffset, SmallDateTime, Time};
use tiberius::xml::XmlData;
use tiberius::{ColumnData, Uuid};

use super::Answer;

const DAYS_TO_1900: i64 = 693_595;
const MINUTES_OF_DAY: i64 = 24 * 60;

/// `{9000}x` stands for nine thousand of what follows.
pub(super) fn expand(text: &str) -> Answer<String> {
    let Some((count, unit)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return Ok(text.to_owned());
    };
    Ok(unit.repeat(count.parse()?))
}

fn kind(sql_type: &str) -> &str {
    sql_type.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()
}

/// Fractional digits: the last number between the parentheses.
fn scale(sql_type: &str) -> Answer<u8> {
    let inner = sql_type.split(['(', ')']).nth(1).ok_or("a type without its scale")?;
    Ok(inner.rsplit(',').next().unwrap_or(inner).parse()?)
}

pub(super) fn parse(sql_type: &str, text: &str) -> Answer<ColumnData<'static>> {
    Ok(match kind(sql_type) {
        "bit" => ColumnData::Bit(Some(text == "1")),
        "tinyint" => ColumnData::U8(Some(text.parse()?)),
        "smallint" => ColumnData::I16(Some(text.parse()?)),
        "int" => ColumnData::I32(Some(text.parse()?)),
        "bigint" => ColumnData::I64(Some(text.parse()?)),
        "real" => ColumnData::F32(Some(text.parse()?)),
        "float" => ColumnData::F64(Some(text.parse()?)),
        // as exact as the client lets it be
        "decimal" => ColumnData::Numeric(Some(Numeric::new_with_scale(digits(text)?, scale(sql_type)?))),
        "money" | "smallmoney" => ColumnData::Numeric(Some(Numeric::new_with_scale(digits(text)?, 4))),
        "date" => ColumnData::Date(Some(Date::new(u32::try_from(days(text)?)?))),
        "time" => ColumnData::Time(Some(clock(text, scale(sql_type)?)?)),
        "datetime2" => ColumnData::DateTime2(Some(moment(text, scale(sql_type)?)?)),
        "datetimeoffset" => {
            let (local, offset) = text.rsplit_once(' ').ok_or("no offset")?;
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = offset[1..].split_once(':').ok_or("no offset")?;
            let minutes = sign * (hours.parse::<i64>()? * 60 + minutes.parse::<i64>()?);
            let utc = shift(moment(local, scale(sql_type)?)?, -minutes)?;
            ColumnData::DateTimeOffset(Some(DateTimeOffset::new(utc, i16::try_from(minutes)?)))
        }
        "datetime" => {
            let (date, time) = text.split_once(' ').ok_or("no time of day")?;
            let milliseconds = clock(time, 3)?.increments();
            let fragments = u32::try_from((milliseconds * 3 + 5) / 10)?;
            ColumnData::DateTime(Some(DateTime::new(i32::try_from(days(date)? - DAYS_TO_1900)?, fragments)))
        }
        "smalldatetime" => {
            let (date, time) = text.split_once(' ').ok_or("no time of day")?;
            let minutes = u16::try_from(clock(&format!("{time}:00"), 0)?.increments() / 60)?;
            let days = u16::try_from(days(date)? - DAYS_TO_1900)?;
            ColumnData::SmallDateTime(Some(SmallDateTime::new(days, minutes)))
        }
        "binary" | "varbinary" => {
            let bytes = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
            ColumnData::Binary(Some(bytes.collect::<Result<Vec<u8>, _>>()?.into()))
        }
        "uniqueidentifier" => ColumnData::Guid(Some(Uuid::parse_str(text)?)),
        "xml" => ColumnData::Xml(Some(std::borrow::Cow::Owned(XmlData::new(text)))),
        _ => ColumnData::String(Some(text.to_owned().into())),
    })
}

pub(super) fn null(sql_type: &str) -> Answer<ColumnData<'static>> {
    Ok(match kind(sql_type) {
        "bit" => ColumnData::Bit(None),
        "tinyint" => ColumnData::U8(None),
        "smallint" => ColumnData::I16(None),
        "int" => ColumnData::I32(None),
        "bigint" => ColumnData::I64(None),
        "real" => ColumnData::F32(None),
        "float" => ColumnData::F64(None),
        "decimal" | "money" | "smallmoney" => ColumnData::Numeric(None),
        "date" => ColumnData::Date(None),
        "time" => ColumnData::Time(None),
        "datetime2" => ColumnData::DateTime2(None),
        "datetimeoffset" => ColumnData::DateTimeOffset(None),
        "datetime" => ColumnData::DateTime(None),
        "smalldatetime" => ColumnData::SmallDateTime(None),
        "binary" | "varbinary" => ColumnData::Binary(None),
        "uniqueidentifier" => ColumnData::Guid(None),
        "xml" => ColumnData::Xml(None),
        "char" | "varchar" | "nchar" | "nvarchar" => ColumnData::String(None),
        other => return Err(format!("no NULL of {other}").into()),
    })
}

pub(super) fn show(sql_type: &str, value: &ColumnData<'_>) -> Answer<Option<String>> {
    let is_money = matches!(kind(sql_type), "money" | "smallmoney");
    let shown = match value {
        ColumnData::Bit(value) => value.map(|bit| u8::from(bit).to_string()),
        ColumnData::U8(value) => value.map(|number| number.to_string()),
        ColumnData::I16(value) => value.map(|number| number.to_string()),
        ColumnData::I32(value) => value.map(|number| number.to_string()),
        ColumnData::I64(value) => value.map(|number| number.to_string()),
        ColumnData::F32(value) => value.map(|number| format!("{:?}", f64::from(number))),
        ColumnData::F64(value) if is_money => value.map(|number| format!("{number:.4}")),
        ColumnData::F64(value) => value.map(|number| format!("{number:?}")),
        ColumnData::Numeric(value) => value.map(|number| decimal(number.value(), number.scale())),
        ColumnData::Date(value) => value.map(|date| day(i64::from(date.days()))).transpose()?,
        ColumnData::Time(value) => value.map(time_of_day),
        ColumnData::DateTime2(value) => value.map(instant).transpose()?,
        ColumnData::DateTimeOffset(value) => value
            .map(|value| {
                let minutes = i64::from(value.offset());
                let local = instant(shift(value.datetime2(), minutes)?)?;
                let sign = if minutes < 0 { '-' } else { '+' };
                let minutes = minutes.abs();
                Answer::Ok(format!("{local} {sign}{:02}:{:02}", minutes / 60, minutes % 60))
            })
            .transpose()?,
        ColumnData::DateTime(value) => value
            .map(|value| {
                let milliseconds = (u64::from(value.seconds_fragments()) * 10 + 1) / 3;
                let time = time_of_day(Time::new(milliseconds, 3));
                Answer::Ok(format!("{} {time}", day(i64::from(value.days()) + DAYS_TO_1900)?))
            })
            .transpose()?,
        ColumnData::SmallDateTime(value) => value
            .map(|value| {
                let time = time_of_day(Time::new(u64::from(value.seconds_fragments()) * 60, 0));
                Answer::Ok(format!("{} {}", day(i64::from(value.days()) + DAYS_TO_1900)?, &time[..5]))
            })
            .transpose()?,
        ColumnData::Binary(value) => {
            value.as_ref().map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        ColumnData::Guid(value) => value.map(|guid| guid.hyphenated().to_string().to_uppercase()),
        ColumnData::Xml(value) => value.as_ref().map(ToString::to_string),
        ColumnData::String(value) => value.as_ref().map(ToString::to_string),
    };
    Ok(shown)
}

/// All digits of a number, without its point.
fn digits(text: &str) -> Answer<i128> {
    Ok(text.replace('.', "").parse()?)
}

fn decimal(value: i128, scale: u8) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let scale = usize::from(scale);
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Days since 0001-01-01.
fn days(date: &str) -> Answer<i64> {
    let mut parts = date.splitn(3, '-').map(str::parse::<i64>);
    let (Some(year), Some(month), Some(day)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("no date".into());
    };
    let (year, month) = (year?, time::Month::try_from(u8::try_from(month?)?)?);
    let date = time::Date::from_calendar_date(i32::try_from(year)?, month, u8::try_from(day?)?)?;
    Ok(i64::from(date.to_julian_day() - first_day()?))
}

fn day(days: i64) -> Answer<String> {
    let date = time::Date::from_julian_day(i32::try_from(days)? + first_day()?)?;
    Ok(format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()))
}

fn first_day() -> Answer<i32> {
    Ok(time::Date::from_calendar_date(1, time::Month::January, 1)?.to_julian_day())
}

fn clock(text: &str, scale: u8) -> Answer<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds = 0;
    for part in whole.split(':') {
        seconds = seconds * 60 + part.parse::<u64>()?;
    }
    let fraction = format!("{fraction:0<width$}", width = usize::from(scale));
    let fraction: u64 = if scale == 0 { 0 } else { fraction.parse()? };
    Ok(Time::new(seconds * 10u64.pow(u32::from(scale)) + fraction, scale))
}

fn time_of_day(time: Time) -> String {
    let unit = 10u64.pow(u32::from(time.scale()));
    let (seconds, fraction) = (time.increments() / unit, time.increments() % unit);
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let width = usize::from(time.scale());
    if width == 0 { whole } else { format!("{whole}.{fraction:0>width$}") }
}

fn moment(text: &str, scale: u8) -> Answer<DateTime2> {
    let (date, time) = text.split_once(' ').ok_or("no time of day")?;
    Ok(DateTime2::new(Date::new(u32::try_from(days(date)?)?), clock(time, scale)?))
}

fn instant(moment: DateTime2) -> Answer<String> {
    Ok(format!("{} {}", day(i64::from(moment.date().days()))?, time_of_day(moment.time())))
}

/// A moment, so many minutes later.
fn shift(moment: DateTime2, minutes: i64) -> Answer<DateTime2> {
    let per_minute = 60 * 10i64.pow(u32::from(moment.time().scale()));
    let of_day = i64::try_from(moment.time().increments())? + minutes * per_minute;
    let per_day = MINUTES_OF_DAY * per_minute;
    let days = i64::from(moment.date().days()) + of_day.div_euclid(per_day);
    let time = Time::new(u64::try_from(of_day.rem_euclid(per_day))?, moment.time().scale());
    Ok(DateTime2::new(Date::new(u32::try_from(days)?), time))
}
