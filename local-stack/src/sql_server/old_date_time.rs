//! `datetime` and `smalldatetime`, which count from 1900: in three-hundredths of a second, and in minutes.
//!
//! They are kept in ticks like the newer types, each three-hundredth rounded to the nearest tick: that is how
//! SQL Server compares them with those types (since compatibility level 130), and it can be undone.

use super::types::TICKS_PER_DAY;

/// Ticks from 0001-01-01 to 1900-01-01.
pub(super) const TICKS_TO_1900: i64 = 693_595 * TICKS_PER_DAY;
/// Days from 0001-01-01 to 1753-01-01, before which no `datetime` is.
pub(super) const FIRST_DAY: i64 = 639_905;
const TICKS_PER_MINUTE: i64 = 600_000_000;
/// Three-hundredths of a second in a day.
const PARTS_PER_DAY: i64 = 300 * 86_400;
const LAST_DAY: i64 = 3_652_058;

/// Ticks of so many three-hundredths of a second.
pub(super) fn ticks_of_parts(parts: i64) -> i64 {
    (parts * 100_000 + 1) / 3
}

fn parts_of_ticks(ticks: i64) -> i64 {
    (ticks * 3 + 50_000) / 100_000
}

/// The nearest `datetime`, `None` where there is none.
pub(super) fn round(ticks: i64) -> Option<i64> {
    let (day, rest) = (ticks.div_euclid(TICKS_PER_DAY), ticks.rem_euclid(TICKS_PER_DAY));
    let parts = parts_of_ticks(rest);
    let (day, parts) = if parts == PARTS_PER_DAY { (day + 1, 0) } else { (day, parts) };
    (FIRST_DAY..=LAST_DAY).contains(&day).then(|| day * TICKS_PER_DAY + ticks_of_parts(parts))
}

/// The nearest `smalldatetime`, `None` where there is none: up from 29.999 seconds, as a `datetime` of it rounds.
pub(super) fn round_small(ticks: i64) -> Option<i64> {
    let minutes = (round(ticks)? + TICKS_PER_MINUTE / 2 - TICKS_TO_1900).div_euclid(TICKS_PER_MINUTE);
    (0..65_536 * 1440).contains(&minutes).then(|| TICKS_TO_1900 + minutes * TICKS_PER_MINUTE)
}

/// From its eight bytes in TDS: days from 1900-01-01, and three-hundredths of a second.
pub(super) fn read(bytes: [u8; 8]) -> Option<i64> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let day = i64::from(i32::from_le_bytes([a, b, c, d])) + TICKS_TO_1900 / TICKS_PER_DAY;
    let parts = i64::from(u32::from_le_bytes([e, f, g, h]));
    ((FIRST_DAY..=LAST_DAY).contains(&day) && parts < PARTS_PER_DAY)
        .then(|| day * TICKS_PER_DAY + ticks_of_parts(parts))
}

/// From its four bytes in TDS: days from 1900-01-01, and minutes.
pub(super) fn read_small(bytes: [u8; 4]) -> Option<i64> {
    let [a, b, c, d] = bytes;
    let (day, minutes) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    (minutes < 1440)
        .then(|| TICKS_TO_1900 + i64::from(day) * TICKS_PER_DAY + i64::from(minutes) * TICKS_PER_MINUTE)
}

pub(super) fn write(ticks: i64) -> [u8; 8] {
    let since = ticks - TICKS_TO_1900;
    let day = i32::try_from(since.div_euclid(TICKS_PER_DAY)).unwrap_or(0).to_le_bytes();
    let parts = u32::try_from(parts_of_ticks(since.rem_euclid(TICKS_PER_DAY))).unwrap_or(0).to_le_bytes();
    [day[0], day[1], day[2], day[3], parts[0], parts[1], parts[2], parts[3]]
}

pub(super) fn write_small(ticks: i64) -> [u8; 4] {
    let since = ticks - TICKS_TO_1900;
    let day = u16::try_from(since.div_euclid(TICKS_PER_DAY)).unwrap_or(0).to_le_bytes();
    let minutes =
        u16::try_from(since.rem_euclid(TICKS_PER_DAY) / TICKS_PER_MINUTE).unwrap_or(0).to_le_bytes();
    [day[0], day[1], minutes[0], minutes[1]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_three_hundredth_of_a_second_is_kept() {
        for parts in 0..900 {
            assert_eq!(parts_of_ticks(ticks_of_parts(parts)), parts);
        }
        assert_eq!(ticks_of_parts(1), 33_333);
        assert_eq!(ticks_of_parts(2), 66_667);
        assert_eq!(ticks_of_parts(3), 100_000);
    }

    #[test]
    fn a_moment_is_rounded_as_sql_server_documents_it() {
        let at = |milliseconds: i64| round(TICKS_TO_1900 + milliseconds * 10_000).unwrap() - TICKS_TO_1900;
        // Microsoft Learn, "datetime": .995, .996, .997 and .998 give .997, and .999 the next second
        for (milliseconds, ticks) in
            [(995, 9_966_667), (998, 9_966_667), (999, 10_000_000), (991, 9_900_000), (992, 9_933_333)]
        {
            assert_eq!(at(milliseconds), ticks, "{milliseconds}");
        }
        // Microsoft Learn, "smalldatetime": 29.998 seconds and less are rounded down
        let minute =
            |milliseconds: i64| round_small(TICKS_TO_1900 + milliseconds * 10_000).unwrap() - TICKS_TO_1900;
        assert_eq!((minute(29_998), minute(29_999)), (0, TICKS_PER_MINUTE));
        assert_eq!(round(FIRST_DAY * TICKS_PER_DAY - TICKS_PER_DAY), None);
        assert_eq!(round((LAST_DAY + 1) * TICKS_PER_DAY - 1), None);
        assert_eq!(round_small(TICKS_TO_1900 - TICKS_PER_DAY), None);
    }
}
