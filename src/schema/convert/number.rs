//! Numbers by their digits: read once, then turned into what the column holds without a detour over a float.

use super::{BEYOND_TYPE, refuse_excess};
use crate::schema::column::ExcessDigits;
use crate::schema::reject::Problem;

/// Digits that a `u64` holds whatever they are.
const U64_DIGITS: usize = 19;

/// A JSON number: `± digits × 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<'a> {
    text: &'a str,
    negative: bool,
    /// All digits without the point, where there are at most 19 after the leading zeros.
    digits: Option<u64>,
    exponent: i64,
}

/// What is left of a number below one unit of the scale that it was taken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rest {
    /// Nothing.
    Zero,
    /// Less than half a unit.
    BelowHalf,
    /// Half a unit.
    Half,
    /// More than half a unit.
    AboveHalf,
}

/// A number in units of `10^-scale`: its magnitude, cut, and what was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scaled {
    pub(crate) negative: bool,
    pub(crate) magnitude: u128,
    pub(crate) rest: Rest,
}

const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut exponent = 1;
    while exponent < 39 {
        powers[exponent] = powers[exponent - 1] * 10;
        exponent += 1;
    }
    powers
};

/// The powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

impl<'a> Number<'a> {
    /// Reads the number that is all of `text`.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        match Self::scan(text, 0) {
            Ok((number, end)) if end == text.len() => Some(number),
            _ => None,
        }
    }

    /// Reads the number that begins at `start`, and says where it ends; or where it is wrong.
    #[inline]
    pub(crate) fn scan(text: &'a str, start: usize) -> Result<(Self, usize), usize> {
        let bytes = text.as_bytes();
        let mut at = start;
        let negative = bytes.get(at) == Some(&b'-');
        at += usize::from(negative);
        let mut value = 0_u64;

        let whole = at;
        while let Some(digit) = digit(bytes, at) {
            value = value.wrapping_mul(10).wrapping_add(digit);
            at += 1;
        }
        // No digit at all, or a zero in front of others.
        if at == whole || bytes[whole] == b'0' && at > whole + 1 {
            return Err(whole);
        }
        let mut count = at - whole;

        let mut exponent = 0_i64;
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            let fraction = at;
            while let Some(digit) = digit(bytes, at) {
                value = value.wrapping_mul(10).wrapping_add(digit);
                at += 1;
            }
            if at == fraction {
                return Err(at);
            }
            count += at - fraction;
            exponent = -i64::try_from(at - fraction).unwrap_or(i64::MAX);
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let (power, end) = scan_exponent(bytes, at + 1)?;
            exponent += power;
            at = end;
        }
        let text = text.get(start..at).ok_or(start)?;
        let digits = match count {
            ..=U64_DIGITS => Some(value),
            _ => digits_after_zeros(text),
        };
        Ok((Self { text, negative, digits, exponent }, at))
    }

    /// The number as an integer: `None` where it has a fraction, `Some(None)` where it is beyond `i64`.
    #[inline]
    pub(crate) fn to_integer(self) -> Option<Option<i64>> {
        if self.exponent == 0
            && let Some(digits) = self.digits
            && let Ok(magnitude) = i64::try_from(digits)
        {
            return Some(Some(if self.negative { -magnitude } else { magnitude }));
        }
        let Ok(scaled) = self.scaled(0) else { return Some(None) };
        match scaled.rest {
            Rest::Zero => {
                Some(signed(scaled.negative, scaled.magnitude).and_then(|value| i64::try_from(value).ok()))
            }
            _ => None,
        }
    }

    /// The nearest double. `None` for what SQL Server's `float` does not hold: beyond 1.79E+308, and between
    /// zero and 2.23E-308. Negative zero is zero.
    #[inline]
    pub(crate) fn to_f64(self) -> Option<f64> {
        if let Some(digits @ ..=0x1F_FFFF_FFFF_FFFF) = self.digits
            && let Ok(power) = usize::try_from(self.exponent.unsigned_abs())
            && let Some(power) = EXACT_POWERS.get(power)
        {
            // Both are exact, so one operation rounds once: correctly.
            #[expect(clippy::cast_precision_loss, reason = "at most 53 bits")]
            let magnitude = match self.exponent {
                0.. => digits as f64 * power,
                _ => digits as f64 / power,
            };
            return Some(if self.negative && digits != 0 { -magnitude } else { magnitude });
        }
        let value: f64 = self.text.parse().ok()?;
        match value {
            0.0 => self.is_zero().then_some(0.0),
            _ => value.is_normal().then_some(value),
        }
    }

    /// The nearest single. `None` for what SQL Server's `real` does not hold: beyond 3.40E+38, and between zero
    /// and 1.18E-38.
    pub(crate) fn to_f32(self) -> Option<f32> {
        let value: f32 = self.text.parse().ok()?;
        match value {
            0.0 => self.is_zero().then_some(0.0),
            _ => value.is_normal().then_some(value),
        }
    }

    /// The number without its point, as `decimal(precision, scale)` holds it.
    #[inline]
    pub(crate) fn to_decimal(self, precision: u8, scale: u8, excess: ExcessDigits) -> Result<i128, Problem> {
        let scaled = self.scaled(i64::from(scale)).map_err(|_| BEYOND_TYPE)?;
        refuse_excess(excess, scaled.rest != Rest::Zero)?;
        // Half away from zero, as SQL Server rounds.
        let magnitude = scaled.magnitude + u128::from(scaled.rest >= Rest::Half);
        match POWERS.get(usize::from(precision)) {
            Some(limit) if magnitude < *limit => signed(self.negative, magnitude).ok_or(BEYOND_TYPE),
            _ => Err(BEYOND_TYPE),
        }
    }

    /// The number in units of `10^-scale`. An error when that has more than 38 digits.
    #[inline]
    pub(crate) fn scaled(self, scale: i64) -> Result<Scaled, TooManyDigits> {
        let shift = self.exponent.saturating_add(scale);
        let Some(digits) = self.digits else { return self.scaled_digit_by_digit(shift) };
        let digits = u128::from(digits);
        let (magnitude, rest) =
            match usize::try_from(shift.unsigned_abs()).ok().and_then(|shift| POWERS.get(shift)) {
                _ if digits == 0 => (0, Rest::Zero),
                Some(power) if shift >= 0 => {
                    let magnitude = digits.checked_mul(*power).filter(|magnitude| *magnitude < POWERS[38]);
                    (magnitude.ok_or(TooManyDigits)?, Rest::Zero)
                }
                Some(power) => (digits / power, rest(digits % power, *power)),
                None if shift >= 0 => return Err(TooManyDigits),
                None => (0, Rest::BelowHalf),
            };
        Ok(Scaled { negative: self.negative, magnitude, rest })
    }

    /// For numbers of more digits than a `u64` holds.
    #[cold]
    fn scaled_digit_by_digit(self, shift: i64) -> Result<Scaled, TooManyDigits> {
        let count = i64::try_from(significant_digits(self.text).count()).unwrap_or(i64::MAX);
        // How many of them stand before the point once it is moved.
        let kept = count.saturating_add(shift);
        if kept > 38 {
            return Err(TooManyDigits);
        }
        let (mut magnitude, mut first_cut, mut later_cut) = (0_u128, 0, false);
        for (index, digit) in (0_i64..).zip(significant_digits(self.text)) {
            if index < kept {
                magnitude = magnitude * 10 + u128::from(digit);
            } else if index == kept {
                first_cut = digit;
            } else {
                later_cut |= digit != 0;
            }
        }
        // `kept` digits that are not there are zeros behind the point's new place.
        for _ in count..kept {
            magnitude *= 10;
        }
        let rest = match (first_cut, later_cut) {
            (0, false) => Rest::Zero,
            (..=4, _) => Rest::BelowHalf,
            (5, false) => Rest::Half,
            _ => Rest::AboveHalf,
        };
        Ok(Scaled { negative: self.negative, magnitude, rest })
    }

    fn is_zero(self) -> bool {
        significant_digits(self.text).next().is_none()
    }
}

/// More than 38 digits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyDigits;

#[inline]
fn digit(bytes: &[u8], at: usize) -> Option<u64> {
    let digit = bytes.get(at)?.wrapping_sub(b'0');
    (digit < 10).then_some(u64::from(digit))
}

/// The exponent behind an `e`, cut to what no number's other digits can make up for.
fn scan_exponent(bytes: &[u8], start: usize) -> Result<(i64, usize), usize> {
    const FAR_BEYOND: i64 = 1 << 40;
    let mut at = start;
    let negative = bytes.get(at) == Some(&b'-');
    at += usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
    let first = at;
    let mut exponent = 0_i64;
    while let Some(digit) = digit(bytes, at) {
        exponent = (exponent * 10 + i64::try_from(digit).unwrap_or_default()).min(FAR_BEYOND);
        at += 1;
    }
    match at == first {
        true => Err(at),
        false => Ok((if negative { -exponent } else { exponent }, at)),
    }
}

/// The digits from the first that is not zero on, the exponent's left out.
fn significant_digits(text: &str) -> impl Iterator<Item = u8> + '_ {
    text.bytes()
        .take_while(|byte| !matches!(byte, b'e' | b'E'))
        .filter(u8::is_ascii_digit)
        .map(|byte| byte - b'0')
        .skip_while(|digit| *digit == 0)
}

/// Their value, where there are few enough of them.
fn digits_after_zeros(text: &str) -> Option<u64> {
    let mut value = 0_u64;
    for (index, digit) in significant_digits(text).enumerate() {
        if index >= U64_DIGITS {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some(value)
}

fn rest(remainder: u128, power: u128) -> Rest {
    match remainder {
        0 => Rest::Zero,
        // The power is 10 at least, so that its half is whole; and 10^38 doubled still fits.
        _ => match (remainder * 2).cmp(&power) {
            std::cmp::Ordering::Less => Rest::BelowHalf,
            std::cmp::Ordering::Equal => Rest::Half,
            std::cmp::Ordering::Greater => Rest::AboveHalf,
        },
    }
}

fn signed(negative: bool, magnitude: u128) -> Option<i128> {
    let magnitude = i128::try_from(magnitude).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::reject::RejectKind;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text).expect(text)
    }

    #[test]
    fn the_grammar_is_that_of_json() {
        for text in
            ["0", "-0", "0.0", "1e5", "1E+05", "1e-5", "12.340", "-1.5e3", "0e0", "123456789012345678901"]
        {
            assert!(Number::parse(text).is_some(), "{text}");
        }
        for text in
            ["", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1 ", "0x1", "NaN", "Infinity", "1_0", "00"]
        {
            assert!(Number::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn integers_are_taken_by_value() {
        for (text, value) in [
            ("0", Some(Some(0))),
            ("-0", Some(Some(0))),
            ("1.0", Some(Some(1))),
            ("1e3", Some(Some(1_000))),
            ("1200e-2", Some(Some(12))),
            ("1.5", None),
            ("1e-1", None),
            ("9223372036854775807", Some(Some(i64::MAX))),
            ("-9223372036854775808", Some(Some(i64::MIN))),
            ("9223372036854775808", Some(None)),
            ("18446744073709551616", Some(None)),
            ("1e400", Some(None)),
            ("0e400", Some(Some(0))),
            ("0.0000000000000000000000000000", Some(Some(0))),
            ("1000000000000000000000000000000e-30", Some(Some(1))),
            ("1e-99999999999999999999", None),
        ] {
            assert_eq!(number(text).to_integer(), value, "{text}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        for (text, precision, scale, value) in [
            ("1.10", 5, 2, Ok(110)),
            ("1.1000000000000000000000000000000", 5, 2, Ok(110)),
            ("1.101", 5, 2, Err(RejectKind::ExcessDigits)),
            ("999.99", 5, 2, Ok(99_999)),
            ("1000", 5, 2, Err(RejectKind::OutOfRange)),
            ("99999999999999999999999999999999999999", 38, 0, Ok(10_i128.pow(38) - 1)),
            ("-99999999999999999999999999999999999999", 38, 0, Ok(1 - 10_i128.pow(38))),
            ("100000000000000000000000000000000000000", 38, 0, Err(RejectKind::OutOfRange)),
            ("0.00000000000000000000000000000000000001", 38, 38, Ok(1)),
            ("1e-38", 38, 38, Ok(1)),
            ("1e-39", 38, 38, Err(RejectKind::ExcessDigits)),
            ("12345678901234567890.12345678", 38, 8, Ok(1_234_567_890_123_456_789_012_345_678)),
            ("0.1e1", 1, 0, Ok(1)),
            ("1e1000000000000", 38, 0, Err(RejectKind::OutOfRange)),
            ("0e1000000000000", 38, 0, Ok(0)),
            ("12345678901234567890e20", 38, 0, Err(RejectKind::OutOfRange)),
            ("12345678901234567890e18", 38, 0, Ok(12_345_678_901_234_567_890 * 10_i128.pow(18))),
        ] {
            let decimal = number(text).to_decimal(precision, scale, ExcessDigits::Reject);
            assert_eq!(decimal.map_err(|problem| problem.kind), value, "{text}");
        }
    }

    #[test]
    fn rounding_is_half_away_from_zero() {
        for (text, value) in [
            ("0.005", 1),
            ("-0.005", -1),
            ("0.00499999999999999999999999999", 0),
            ("0.00500000000000000000000000001", 1),
            ("1.005", 101),
            ("0.0005", 0),
            ("1e-50", 0),
            ("123456789012345678.015", 12_345_678_901_234_567_802),
            ("1234567890123456789.0149", 123_456_789_012_345_678_901),
        ] {
            assert_eq!(number(text).to_decimal(38, 2, ExcessDigits::Round), Ok(value), "{text}");
        }
        assert_eq!(number("9.995").to_decimal(3, 2, ExcessDigits::Round), Err(BEYOND_TYPE));
    }

    #[test]
    fn floats_are_rounded_correctly_and_bounded_as_sql_server_bounds_them() {
        for text in
            ["0.1", "1e22", "9007199254740993", "1e23", "2.2250738585072014e-308", "1.7976931348623157e308"]
        {
            assert_eq!(
                number(text).to_f64().map(f64::to_bits),
                Some(text.parse::<f64>().expect("a float").to_bits())
            );
        }
        for text in ["1e309", "-1e309", "1e-320", "1e-400"] {
            assert_eq!(number(text).to_f64(), None, "{text}");
        }
        assert_eq!(number("-0.0").to_f64().map(f64::to_bits), Some(0));
        assert_eq!(number("16777217").to_f32(), Some(16_777_216.0));
        for text in ["3.5e38", "1e-40", "1e-60"] {
            assert_eq!(number(text).to_f32(), None, "{text}");
        }
    }
}
