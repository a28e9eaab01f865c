//! Dates and times: from the forms of RFC 3339 and from epoch numbers, to what T-SQL's types hold.

use super::number::{Number, Rest};
use super::refuse_excess;
use crate::schema::column::{ExcessDigits, Unit};
use crate::schema::reject::{Problem, RejectKind};

const TICKS_PER_SECOND: i64 = 10_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const TICKS_PER_DAY: i64 = SECONDS_PER_DAY * TICKS_PER_SECOND;

/// Days from 0001-01-01 to 1970-01-01.
const DAYS_TO_UNIX: i64 = 719_162;

/// Ticks from 0001-01-01T00:00:00 to the last of 9999-12-31.
const MAX_TICKS: i64 = 3_652_059 * TICKS_PER_DAY - 1;

/// SQL Server's farthest offsets from UTC are 14 hours.
const MAX_OFFSET_MINUTES: i16 = 14 * 60;

const NOT_A_DATE: Problem = Problem::new(RejectKind::BadTimestamp, "not a date of the form YYYY-MM-DD");
const NOT_A_TIME: Problem =
    Problem::new(RejectKind::BadTimestamp, "not a time of the form HH:MM:SS[.fraction]");
const NOT_A_TIMESTAMP: Problem = Problem::new(RejectKind::BadTimestamp, "not a timestamp by RFC 3339");
const WITHOUT_OFFSET: Problem =
    Problem::new(RejectKind::BadTimestamp, "a timestamp without its offset from UTC");
const BEYOND: Problem = Problem::new(RejectKind::OutOfRange, "outside of the years 0001 to 9999");
const BEYOND_DAY: Problem = Problem::new(RejectKind::OutOfRange, "rounds to 24:00:00");

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub(super) fn date(text: &str) -> Result<i32, Problem> {
    let bytes: &[u8; 10] = text.as_bytes().try_into().map_err(|_| NOT_A_DATE)?;
    let days = days(bytes).ok_or(NOT_A_DATE)?;
    match days >= 0 {
        true => i32::try_from(days - DAYS_TO_UNIX).map_err(|_| BEYOND),
        false => Err(BEYOND),
    }
}

/// Nanoseconds since midnight of `HH:MM:SS[.fraction]`, in whole units of `10^-scale` seconds.
pub(super) fn time(text: &str, scale: u8, excess: ExcessDigits) -> Result<i64, Problem> {
    let (ticks, rest) = clock(text.as_bytes(), scale, excess)?.ok_or(NOT_A_TIME)?;
    match (rest, ticks) {
        ([], ..TICKS_PER_DAY) => Ok(ticks * 100),
        ([], _) => Err(BEYOND_DAY),
        _ => Err(NOT_A_TIME),
    }
}

/// Ticks since 0001-01-01T00:00:00 of a timestamp: UTC where it has an offset, as it stands where it has none.
pub(super) fn date_time(text: &str, scale: u8, excess: ExcessDigits) -> Result<i64, Problem> {
    let (local, offset) = timestamp(text, scale, excess)?;
    in_range(local - ticks_of_minutes(offset.unwrap_or(0)))
}

/// Ticks since 0001-01-01T00:00:00 UTC, and minutes of the offset, of a timestamp with an offset.
pub(super) fn date_time_offset(text: &str, scale: u8, excess: ExcessDigits) -> Result<(i64, i16), Problem> {
    let (local, offset) = timestamp(text, scale, excess)?;
    let offset = offset.ok_or(WITHOUT_OFFSET)?;
    // The server shows the local time, so that too has to be within its years.
    in_range(local)?;
    Ok((in_range(local - ticks_of_minutes(offset))?, offset))
}

/// Ticks since 0001-01-01T00:00:00 of a number of `unit` since 1970-01-01.
pub(super) fn epoch(
    number: &Number<'_>,
    unit: Unit,
    scale: u8,
    excess: ExcessDigits,
) -> Result<i64, Problem> {
    let power = match unit {
        Unit::Seconds => 0,
        Unit::Milliseconds => 3,
        Unit::Microseconds => 6,
        Unit::Nanoseconds => 9,
    };
    let scaled = number.scaled(i64::from(scale) - power).map_err(|_| BEYOND)?;
    refuse_excess(excess, scaled.rest != Rest::Zero)?;
    // A half goes up the calendar, as it does with a fraction of a second; before 1970 that is towards zero.
    let carry = match scaled.negative {
        false => scaled.rest >= Rest::Half,
        true => scaled.rest > Rest::Half,
    };
    let magnitude = i64::try_from(scaled.magnitude).map_err(|_| BEYOND)?.checked_add(i64::from(carry));
    let units = magnitude.map(|units| if scaled.negative { -units } else { units });
    let ticks = units.and_then(|units| units.checked_mul(ticks_per_unit(scale)));
    in_range(ticks.and_then(|ticks| ticks.checked_add(DAYS_TO_UNIX * TICKS_PER_DAY)).ok_or(BEYOND)?)
}

/// Ticks since 0001-01-01T00:00:00 of a clock's time, rounded to `10^-scale` seconds.
pub(crate) fn ticks_from_unix_nanoseconds(nanoseconds: i64, scale: u8) -> i64 {
    let unit = ticks_per_unit(scale) * 100;
    // Half up without overflow: the year 2262 is far from the end of the range.
    let units = nanoseconds.div_euclid(unit) + i64::from(nanoseconds.rem_euclid(unit) * 2 >= unit);
    units * ticks_per_unit(scale) + DAYS_TO_UNIX * TICKS_PER_DAY
}

/// Local ticks, which rounding may have moved by one unit, and the offset in minutes.
fn timestamp(text: &str, scale: u8, excess: ExcessDigits) -> Result<(i64, Option<i16>), Problem> {
    let (date, rest) = text.as_bytes().split_first_chunk::<10>().ok_or(NOT_A_TIMESTAMP)?;
    let [b'T' | b't' | b' ', rest @ ..] = rest else { return Err(NOT_A_TIMESTAMP) };
    let days = days(date).ok_or(NOT_A_TIMESTAMP)?;
    let (ticks, rest) = clock(rest, scale, excess)?.ok_or(NOT_A_TIMESTAMP)?;
    let offset = match rest {
        [] => None,
        [b'Z' | b'z'] => Some(0),
        _ => Some(offset(rest).ok_or(NOT_A_TIMESTAMP)?),
    };
    match days >= 0 {
        true => Ok((days * TICKS_PER_DAY + ticks, offset)),
        false => Err(BEYOND),
    }
}

/// Days since 0001-01-01; below zero in the year 0000.
#[inline]
fn days(text: &[u8; 10]) -> Option<i64> {
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *text else { return None };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    /// Days of a common year before each month, from March on the year's own.
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let before = BEFORE.get(usize::try_from(month - 1).ok()?)? + i64::from(is_leap && month > 2);
    let years = year - 1;
    let of_years = years * 365 + years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    Some(of_years + before + day - 1)
}

/// Ticks since midnight, in whole units of the scale, and what follows. `None` where there is no time.
#[inline]
fn clock(text: &[u8], scale: u8, excess: ExcessDigits) -> Result<Option<(i64, &[u8])>, Problem> {
    let Some(([h0, h1, b':', m0, m1, b':', s0, s1], rest)) = text.split_first_chunk::<8>() else {
        return Ok(None);
    };
    let (Some(hour @ ..24), Some(minute @ ..60), Some(second @ ..60)) =
        (two(*h0, *h1), two(*m0, *m1), two(*s0, *s1))
    else {
        return Ok(None);
    };
    let ticks = ((hour * 60 + minute) * 60 + second) * TICKS_PER_SECOND;
    let [b'.', fraction @ ..] = rest else { return Ok(Some((ticks, rest))) };
    let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return Ok(None);
    }
    let (digits, rest) = fraction.split_at(length);
    let (kept, cut) = digits.split_at(length.min(usize::from(scale)));
    let mut units = kept.iter().fold(0_i64, |units, digit| units * 10 + i64::from(digit - b'0'));
    for _ in kept.len()..usize::from(scale) {
        units *= 10;
    }
    refuse_excess(excess, cut.iter().any(|digit| *digit != b'0'))?;
    units += i64::from(cut.first().is_some_and(|digit| *digit >= b'5'));
    Ok(Some((ticks + units * ticks_per_unit(scale), rest)))
}

/// Minutes of `±HH:MM`.
fn offset(text: &[u8]) -> Option<i16> {
    let [sign, h0, h1, b':', m0, m1] = *text else { return None };
    let (hours, minutes @ ..60) = (two(h0, h1)?, two(m0, m1)?) else { return None };
    let minutes =
        i16::try_from(hours * 60 + minutes).ok().filter(|minutes| *minutes <= MAX_OFFSET_MINUTES)?;
    match sign {
        b'+' => Some(minutes),
        b'-' => Some(-minutes),
        _ => None,
    }
}

/// The number of two digits.
#[inline]
fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

fn ticks_per_unit(scale: u8) -> i64 {
    10_i64.pow(7_u32.saturating_sub(u32::from(scale)))
}

fn ticks_of_minutes(minutes: i16) -> i64 {
    i64::from(minutes) * 60 * TICKS_PER_SECOND
}

fn in_range(ticks: i64) -> Result<i64, Problem> {
    match (0..=MAX_TICKS).contains(&ticks) {
        true => Ok(ticks),
        false => Err(BEYOND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIX: i64 = DAYS_TO_UNIX * TICKS_PER_DAY;

    fn kind<T>(result: Result<T, Problem>) -> Result<T, RejectKind> {
        result.map_err(|problem| problem.kind)
    }

    #[test]
    fn every_day_of_the_calendar_and_no_other() {
        // Walks 0001-01-01 to 9999-12-31 by another rule: counting.
        let mut expected = -719_162;
        for year in 1..=9999 {
            for month in 1..=12 {
                let length = match month {
                    2 if year % 400 == 0 || year % 4 == 0 && year % 100 != 0 => 29,
                    2 => 28,
                    4 | 6 | 9 | 11 => 30,
                    _ => 31,
                };
                for day in 1..=length {
                    if day == 1 || day == length || year == 2024 {
                        assert_eq!(date(&format!("{year:04}-{month:02}-{day:02}")), Ok(expected));
                    }
                    expected += 1;
                }
                assert_eq!(date(&format!("{year:04}-{month:02}-{:02}", length + 1)), Err(NOT_A_DATE));
            }
        }
        assert_eq!(expected, 2_932_897);
    }

    #[test]
    fn dates_have_one_form() {
        for text in [
            "",
            "2024-1-1",
            "2024/01/01",
            "20240101",
            "2024-00-01",
            "2024-13-01",
            "2024-01-00",
            "+024-01-01",
            " 2024-01-01",
        ] {
            assert_eq!(kind(date(text)), Err(RejectKind::BadTimestamp), "{text}");
        }
        assert_eq!(kind(date("0000-01-01")), Err(RejectKind::OutOfRange));
    }

    #[test]
    fn times_are_rounded_to_the_scale() {
        use ExcessDigits::{Reject, Round};
        for (text, scale, excess, nanoseconds) in [
            ("00:00:00", 7, Reject, Ok(0)),
            ("23:59:59.9999999", 7, Reject, Ok(86_399_999_999_900)),
            ("12:34:56.7", 3, Reject, Ok(45_296_700_000_000)),
            ("12:34:56.7005", 3, Round, Ok(45_296_701_000_000)),
            ("12:34:56.70049999", 3, Round, Ok(45_296_700_000_000)),
            ("12:34:56.7005", 3, Reject, Err(RejectKind::ExcessDigits)),
            ("12:34:56.700000000000", 3, Reject, Ok(45_296_700_000_000)),
            ("12:34:56.5", 0, Round, Ok(45_297_000_000_000)),
            ("23:59:59.5", 0, Round, Err(RejectKind::OutOfRange)),
            ("24:00:00", 0, Round, Err(RejectKind::BadTimestamp)),
            ("23:59:60", 0, Round, Err(RejectKind::BadTimestamp)),
            ("23:60:00", 0, Round, Err(RejectKind::BadTimestamp)),
            ("12:34", 0, Round, Err(RejectKind::BadTimestamp)),
            ("12:34:56.", 0, Round, Err(RejectKind::BadTimestamp)),
            ("12:34:56Z", 0, Round, Err(RejectKind::BadTimestamp)),
        ] {
            assert_eq!(kind(time(text, scale, excess)), nanoseconds, "{text}");
        }
    }

    #[test]
    fn timestamps_become_utc_or_stay_as_they_are() {
        for (text, ticks) in [
            ("1970-01-01T00:00:00Z", Ok(UNIX)),
            ("1970-01-01 00:00:00", Ok(UNIX)),
            ("1970-01-01t02:00:00.1234567+02:00", Ok(UNIX + 1_234_567)),
            ("1969-12-31T19:30:00-04:30", Ok(UNIX)),
            ("1970-01-01T00:00:00.00000005z", Ok(UNIX + 1)),
            ("0001-01-01T00:00:00Z", Ok(0)),
            ("9999-12-31T23:59:59.9999999Z", Ok(MAX_TICKS)),
            ("9999-12-31T23:59:59.99999995Z", Err(RejectKind::OutOfRange)),
            ("0001-01-01T00:00:00+00:01", Err(RejectKind::OutOfRange)),
            ("9999-12-31T23:59:59-00:01", Err(RejectKind::OutOfRange)),
            ("0000-12-31T23:59:59-14:00", Err(RejectKind::OutOfRange)),
            ("1970-01-01", Err(RejectKind::BadTimestamp)),
            ("1970-01-01T00:00Z", Err(RejectKind::BadTimestamp)),
            ("1970-01-01T00:00:60Z", Err(RejectKind::BadTimestamp)),
            ("1970-01-01T00:00:00+14:01", Err(RejectKind::BadTimestamp)),
            ("1970-01-01T00:00:00+0200", Err(RejectKind::BadTimestamp)),
            ("1970-01-01T00:00:00 Z", Err(RejectKind::BadTimestamp)),
            ("1970-02-30T00:00:00Z", Err(RejectKind::BadTimestamp)),
            ("1970-01-01\u{e9}00:00:00Z", Err(RejectKind::BadTimestamp)),
        ] {
            assert_eq!(kind(date_time(text, 7, ExcessDigits::Round)), ticks, "{text}");
        }
    }

    #[test]
    fn an_offset_is_kept_where_it_is_asked_for() {
        for (text, outcome) in [
            ("1970-01-01T02:00:00+02:00", Ok((UNIX, 120))),
            ("1970-01-01T00:00:00Z", Ok((UNIX, 0))),
            ("1970-01-01T00:00:00-14:00", Ok((UNIX + 14 * 3_600 * TICKS_PER_SECOND, -840))),
            ("1970-01-01T00:00:00", Err(RejectKind::BadTimestamp)),
            ("0001-01-01T00:00:00-01:00", Ok((3_600 * TICKS_PER_SECOND, -60))),
            ("0001-01-01T00:00:00+01:00", Err(RejectKind::OutOfRange)),
        ] {
            assert_eq!(kind(date_time_offset(text, 7, ExcessDigits::Round)), outcome, "{text}");
        }
    }

    #[test]
    fn epoch_numbers_count_their_unit() {
        for (text, unit, scale, ticks) in [
            ("0", Unit::Seconds, 7, Ok(UNIX)),
            ("1.5", Unit::Seconds, 7, Ok(UNIX + 15_000_000)),
            ("1700000000123", Unit::Milliseconds, 3, Ok(UNIX + 17_000_000_001_230_000)),
            ("1700000000123456", Unit::Microseconds, 7, Ok(UNIX + 17_000_000_001_234_560)),
            ("1700000000123456789", Unit::Nanoseconds, 7, Ok(UNIX + 17_000_000_001_234_568)),
            ("1.7e9", Unit::Seconds, 0, Ok(UNIX + 17_000_000_000_000_000)),
            ("-0.5", Unit::Seconds, 0, Ok(UNIX)),
            ("-0.6", Unit::Seconds, 0, Ok(UNIX - TICKS_PER_SECOND)),
            ("0.5", Unit::Seconds, 0, Ok(UNIX + TICKS_PER_SECOND)),
            ("-62135596800", Unit::Seconds, 7, Ok(0)),
            ("-62135596801", Unit::Seconds, 7, Err(RejectKind::OutOfRange)),
            ("253402300799.9999999", Unit::Seconds, 7, Ok(MAX_TICKS)),
            ("253402300800", Unit::Seconds, 7, Err(RejectKind::OutOfRange)),
            ("1e300", Unit::Nanoseconds, 7, Err(RejectKind::OutOfRange)),
        ] {
            let number = Number::parse(text).expect(text);
            assert_eq!(kind(epoch(&number, unit, scale, ExcessDigits::Round)), ticks, "{text}");
        }
        let number = Number::parse("1700000000123456789").expect("a number");
        assert_eq!(
            kind(epoch(&number, Unit::Nanoseconds, 7, ExcessDigits::Reject)),
            Err(RejectKind::ExcessDigits)
        );
    }

    #[test]
    fn clocks_are_rounded_to_the_scale() {
        assert_eq!(ticks_from_unix_nanoseconds(150, 7), UNIX + 2);
        assert_eq!(ticks_from_unix_nanoseconds(-150, 7), UNIX - 1);
        assert_eq!(ticks_from_unix_nanoseconds(499_999_999, 0), UNIX);
        assert_eq!(ticks_from_unix_nanoseconds(i64::MAX, 0), UNIX + 9_223_372_037 * TICKS_PER_SECOND);
    }
}
