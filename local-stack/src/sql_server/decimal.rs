//! Decimals between TDS (a sign and an integer) and PostgreSQL (groups of four decimal digits).

const SIGN_POSITIVE: u16 = 0x0000;
const SIGN_NEGATIVE: u16 = 0x4000;
/// Digits before and after the point, each rounded up to groups of four.
const MAX_GROUPS: usize = 24;

/// 10 to the power of `exponent`, which is at most 38.
#[inline]
pub(super) fn power_of_ten(exponent: u32) -> u128 {
    10u128.pow(exponent)
}

/// Another number of digits after the point, rounded half away from zero.
pub(super) fn rescale(magnitude: u128, from: u8, to: u8) -> Option<u128> {
    if to >= from {
        magnitude.checked_mul(power_of_ten(u32::from(to - from)))
    } else {
        let divisor = power_of_ten(u32::from(from - to));
        let (quotient, rest) = (magnitude / divisor, magnitude % divisor);
        Some(quotient + u128::from(rest >= divisor / 2))
    }
}

/// Appends the field of a binary COPY, its length included: `magnitude` / 10^`scale`.
#[inline]
pub(super) fn write_numeric(out: &mut Vec<u8>, negative: bool, magnitude: u128, scale: u8) {
    let mut groups = [0u16; MAX_GROUPS];
    let mut start = MAX_GROUPS;
    let fraction_groups = usize::from(scale.div_ceil(4));
    let odd_digits = u32::from(scale % 4);
    match u64::try_from(magnitude) {
        // almost always, and several times faster than 128 bits
        Ok(mut rest) => {
            if odd_digits != 0 {
                let unit = 10u64.pow(odd_digits);
                start -= 1;
                groups[start] = group((rest % unit) * 10u64.pow(4 - odd_digits));
                rest /= unit;
            }
            while rest != 0 {
                start -= 1;
                groups[start] = group(rest % 10_000);
                rest /= 10_000;
            }
        }
        Err(_) => {
            let mut rest = magnitude;
            if odd_digits != 0 {
                let unit = 10u128.pow(odd_digits);
                start -= 1;
                groups[start] = group(u64::try_from(rest % unit).unwrap_or(0) * 10u64.pow(4 - odd_digits));
                rest /= unit;
            }
            while rest != 0 {
                start -= 1;
                groups[start] = group(u64::try_from(rest % 10_000).unwrap_or(0));
                rest /= 10_000;
            }
        }
    }
    let mut end = MAX_GROUPS;
    while start < end && groups[start] == 0 {
        start += 1;
    }
    // the power of 10,000 of the first group
    let weight = MAX_GROUPS - start;
    while start < end && groups[end - 1] == 0 {
        end -= 1;
    }
    let digits = &groups[start..end];
    let (weight, sign) = if digits.is_empty() {
        (0, SIGN_POSITIVE)
    } else {
        let weight = i16::try_from(weight).unwrap_or(0) - i16::try_from(fraction_groups).unwrap_or(0) - 1;
        (weight, if negative { SIGN_NEGATIVE } else { SIGN_POSITIVE })
    };
    let count = u16::try_from(digits.len()).unwrap_or(0);
    out.extend_from_slice(&(8 + 2 * u32::from(count)).to_be_bytes());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::from(scale).to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

#[inline]
fn group(value: u64) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

/// Reads PostgreSQL's binary form as sign and integer at `scale`. `None` where it does not fit, or is not
/// a number.
pub(super) fn read_numeric(bytes: &[u8], scale: u8) -> Option<(bool, u128)> {
    let (header, groups) = bytes.split_first_chunk::<8>()?;
    let weight = i32::from(i16::from_be_bytes([header[2], header[3]]));
    let negative = match u16::from_be_bytes([header[4], header[5]]) {
        SIGN_POSITIVE => false,
        SIGN_NEGATIVE => true,
        _ => return None,
    };
    let mut magnitude: u128 = 0;
    // the power of ten of the last digit taken so far
    let mut exponent = (weight + 1) * 4;
    let scale = i32::from(scale);
    for pair in groups.chunks_exact(2) {
        let digits = u16::from_be_bytes([pair[0], pair[1]]);
        exponent -= 4;
        let surplus = (-exponent - scale).clamp(0, 4);
        let kept = u32::try_from(4 - surplus).ok()?;
        magnitude = magnitude
            .checked_mul(10u128.pow(kept))?
            .checked_add(u128::from(digits) / 10u128.pow(u32::try_from(surplus).ok()?))?;
        exponent += surplus;
    }
    let missing = u32::try_from(exponent + scale).ok()?;
    if magnitude != 0 {
        magnitude = magnitude.checked_mul(10u128.checked_pow(missing)?)?;
    }
    Some((negative, magnitude))
}

/// As a person writes it.
pub(super) fn decimal_text(negative: bool, magnitude: u128, scale: u8) -> String {
    let scale = usize::from(scale);
    let digits = format!("{magnitude:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative && magnitude != 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let values = [
            0,
            1,
            5,
            9_999,
            10_000,
            10_001,
            123_456_789,
            u128::from(u64::MAX),
            u128::from(u64::MAX) + 1,
            10u128.pow(38) - 1,
        ];
        for magnitude in values {
            for scale in 0..=38u8 {
                for negative in [false, true] {
                    let mut out = Vec::new();
                    write_numeric(&mut out, negative, magnitude, scale);
                    let length = u32::from_be_bytes(out[..4].try_into().unwrap());
                    assert_eq!(usize::try_from(length).unwrap(), out.len() - 4);
                    let read = read_numeric(&out[4..], scale);
                    assert_eq!(
                        read,
                        Some((negative && magnitude != 0, magnitude)),
                        "{magnitude} at scale {scale}"
                    );
                }
            }
        }
    }

    #[test]
    fn rescaling_rounds_half_away_from_zero() {
        assert_eq!(rescale(15, 1, 0), Some(2));
        assert_eq!(rescale(14, 1, 0), Some(1));
        assert_eq!(rescale(1, 0, 3), Some(1000));
        assert_eq!(rescale(u128::MAX, 0, 1), None);
    }

    #[test]
    fn text_has_all_digits_of_the_scale() {
        assert_eq!(decimal_text(true, 5, 3), "-0.005");
        assert_eq!(decimal_text(false, 1200, 2), "12.00");
        assert_eq!(decimal_text(true, 0, 0), "0");
    }
}
