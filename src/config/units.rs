//! Byte sizes as people write them: `"32MiB"`, or a plain number of bytes.

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de};

/// For `#[serde(deserialize_with = …)]`.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let size = ByteSize::deserialize(deserializer)?;
    usize::try_from(size.as_u64())
        .map_err(|_too_large| de::Error::custom("more bytes than this machine can count"))
}

/// As [`bytes`], of a field that need not be there.
pub(super) fn optional_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    bytes(deserializer).map(Some)
}

/// `32 MiB`, and exact bytes where that would round.
pub(super) fn show_bytes(bytes: usize) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        #[serde(deserialize_with = "bytes")]
        size: usize,
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, expected, shown) in [
            ("'32MiB'", 32 << 20, "32MiB"),
            ("'1 KiB'", 1024, "1KiB"),
            ("'1.5KiB'", 1536, "1536B"),
            ("'64MB'", 64_000_000, "62500KiB"),
            ("1000", 1000, "1000B"),
        ] {
            let holder: Holder = toml::from_str(&format!("size = {text}")).expect(text);
            assert_eq!((holder.size, show_bytes(holder.size).as_str()), (expected, shown), "{text}");
        }
        for text in ["'32 apples'", "''", "-1", "true"] {
            assert!(toml::from_str::<Holder>(&format!("size = {text}")).is_err(), "{text}");
        }
    }
}
