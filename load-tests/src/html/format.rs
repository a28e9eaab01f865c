//! Numbers as a reader wants them.

use crate::report::{Figure, Range};

const KIBIBYTE: f64 = 1024.0;
pub(super) const MEBIBYTE: f64 = 1024.0 * KIBIBYTE;
/// So many digits of a number, where it has them.
const DIGITS: i32 = 4;
/// What an `f64` holds.
const MOST_DIGITS: i32 = 17;
const MOST_DECIMALS: i32 = 12;

/// A whole number with commas between its thousands.
pub(super) fn grouped(value: f64) -> String {
    with_commas(&format!("{value:.0}"))
}

/// A decimal with commas between its thousands, and without zeros at its end that say nothing.
fn with_commas(decimal: &str) -> String {
    let (sign, size) = decimal.strip_prefix('-').map_or(("", decimal), |size| ("-", size));
    let (whole, part) = size.split_once('.').unwrap_or((size, ""));
    let part = part.trim_end_matches('0');
    let zero = part.is_empty() && whole == "0";
    let mut text = if zero { String::new() } else { sign.to_owned() };
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if part.is_empty() { text } else { format!("{text}.{part}") }
}

/// A number with the digits that matter.
pub(super) fn number(value: f64) -> String {
    rounded(value, DIGITS)
}

/// A number with so many digits, or all of its whole part.
fn rounded(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let enough = |decimals: &i32| value.abs() * 10_f64.powi(*decimals) >= 10_f64.powi(digits - 1);
    let decimals = (0..MOST_DECIMALS).find(enough).unwrap_or(MOST_DECIMALS);
    with_commas(&format!("{value:.*}", decimals.unsigned_abs() as usize))
}

/// A duration with the unit that suits it.
pub(super) fn seconds(value: f64) -> String {
    in_unit(value, "s", DIGITS)
}

/// A size with the unit that suits it, up to MiB, so that sizes of one kind can be compared.
pub(super) fn bytes(value: f64) -> String {
    in_unit(value, "bytes", DIGITS)
}

/// A value with its unit.
pub(super) fn value(value: f64, unit: &str) -> String {
    in_unit(value, unit, DIGITS)
}

fn in_unit(value: f64, unit: &str, digits: i32) -> String {
    let size = value.abs();
    let (divisor, unit) = match unit {
        _ if !value.is_finite() => (1.0, ""),
        "s" if size >= 1.0 || size == 0.0 => (1.0, "s"),
        "s" if size >= 1e-3 => (1e-3, "ms"),
        "s" => (1e-6, "µs"),
        "bytes" if size >= MEBIBYTE => (MEBIBYTE, "MiB"),
        "bytes" if size >= KIBIBYTE => (KIBIBYTE, "KiB"),
        unit => (1.0, unit),
    };
    let number = rounded(value / divisor, digits);
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// A value for an axis, where there is little room.
pub(super) fn compact(value: f64) -> String {
    let (divisor, suffix) = match value.abs() {
        size if size >= 1e12 => return format!("{value:.1e}"),
        size if size >= 1e9 => (1e9, " G"),
        size if size >= 1e6 => (1e6, " M"),
        size if size >= 1e3 => (1e3, " k"),
        _ => (1.0, ""),
    };
    // a tick is a round number: what is beyond six decimals is the error of its computation
    format!("{}{suffix}", with_commas(&format!("{:.6}", value / divisor)))
}

/// A range in words.
pub(super) fn range(range: &Range, unit: &str) -> String {
    match (range.min, range.max) {
        (None, None) => "anything".to_owned(),
        (Some(min), None) => format!("at least {}", value(min, unit)),
        (None, Some(max)) => format!("at most {}", value(max, unit)),
        (Some(min), Some(max)) if min == max => format!("exactly {}", value(min, unit)),
        (Some(min), Some(max)) => format!("{} to {}", value(min, unit), value(max, unit)),
    }
}

/// A figure's value. One that is wrong by little has as many digits as it takes to tell it from what was expected.
pub(super) fn figure(figure: &Figure) -> String {
    let Figure { value, unit, .. } = figure;
    let bounds = || figure.expected.iter().flat_map(|range| [range.min, range.max]).flatten();
    let differs = |digits: &i32| {
        let told = in_unit(*value, unit, *digits);
        bounds().all(|bound| in_unit(bound, unit, *digits) != told)
    };
    let digits = if figure.is_right() { None } else { (DIGITS..MOST_DIGITS).find(differs) };
    in_unit(*value, unit, digits.unwrap_or(DIGITS))
}

/// A figure's name in words, without the unit that its values have beside them.
pub(super) fn name(name: &str, unit: &str) -> String {
    let name = match unit {
        "bytes" => name.strip_suffix("_bytes").unwrap_or(name),
        "s" => name.strip_suffix("_seconds").unwrap_or(name),
        _ => name,
    };
    name.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_separators() {
        let cases = [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1,000"),
            (123_456.4, "123,456"),
            (1e9, "1,000,000,000"),
            (-1234.0, "-1,234"),
            (-0.3, "0"),
        ];
        for (value, expected) in cases {
            assert_eq!(grouped(value), expected);
        }
    }

    #[test]
    fn a_value_has_the_unit_that_suits_it() {
        let cases = [
            (251_234.56, "rows/s", "251,235 rows/s"),
            (0.0, "rows/s", "0 rows/s"),
            (1234.5, "rows/s", "1,234 rows/s"),
            (-0.25, "", "-0.25"),
            (12.0, "events", "12 events"),
            (0.934_56, "", "0.9346"),
            (1.0, "", "1"),
            (0.0001, "", "0.0001"),
            (1e-15, "", "0"),
            (0.0, "s", "0 s"),
            (0.000_25, "s", "250 µs"),
            (0.0123, "s", "12.3 ms"),
            (1.5, "s", "1.5 s"),
            (61.25, "s", "61.25 s"),
            (3600.0, "s", "3,600 s"),
            (512.0, "bytes", "512 bytes"),
            (1536.0, "bytes", "1.5 KiB"),
            (256.0 * MEBIBYTE, "bytes", "256 MiB"),
            (123.456 * MEBIBYTE, "bytes", "123.5 MiB"),
            (4096.0 * MEBIBYTE, "bytes", "4,096 MiB"),
            (f64::NAN, "rows/s", "NaN"),
            (f64::INFINITY, "s", "inf"),
        ];
        for (number, unit, expected) in cases {
            assert_eq!(value(number, unit), expected);
        }
    }

    #[test]
    fn an_axis_has_short_numbers() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (0.0005, "0.0005"),
            (750.0, "750"),
            (2500.0, "2.5 k"),
            (1e5, "100 k"),
            (12_500_000.0, "12.5 M"),
            (1e9, "1 G"),
            (2e15, "2.0e15"),
        ];
        for (value, expected) in cases {
            assert_eq!(compact(value), expected);
        }
    }

    #[test]
    fn a_range_is_told_in_words() {
        let told = |min, max, unit| range(&Range { min, max }, unit);
        assert_eq!(told(Some(100_000.0), None, "rows/s"), "at least 100,000 rows/s");
        assert_eq!(told(None, Some(256.0 * MEBIBYTE), "bytes"), "at most 256 MiB");
        assert_eq!(told(Some(0.5), Some(2.0), "s"), "500 ms to 2 s");
        assert_eq!(told(Some(0.0), Some(0.0), "events"), "exactly 0 events");
        assert_eq!(told(None, None, ""), "anything");
    }

    #[test]
    fn what_is_wrong_by_little_is_given_in_full() {
        let expected = Some(Range { min: None, max: Some(256.0 * MEBIBYTE) });
        let by =
            |value| Figure { name: "peak_rss_bytes".to_owned(), value, unit: "bytes".to_owned(), expected };
        assert_eq!(figure(&by(256.0 * MEBIBYTE)), "256 MiB");
        assert_eq!(figure(&by(257.0 * MEBIBYTE)), "257 MiB");
        let nearly = by(256.0 * MEBIBYTE + 1.0);
        assert!(!nearly.is_right());
        assert_eq!(figure(&nearly), "256.000001 MiB");
    }

    #[test]
    fn a_name_is_words_without_the_unit() {
        assert_eq!(name("peak_rss_bytes", "bytes"), "peak rss");
        assert_eq!(name("latency_p99_seconds", "s"), "latency p99");
        assert_eq!(name("rows_per_second", "rows/s"), "rows per second");
    }
}
