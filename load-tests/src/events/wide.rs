//! Events of 60 columns: numbers, texts, times and yes or no, a twelfth of each kind null now and then.

use std::fmt::Write as _;

use super::NUMBER;

/// Fields beside the number and the place in the stream.
const FIELDS: usize = 58;

/// What the fields are, over and over.
const KINDS: [(&str, &str); 8] = [
    ("count", "int"),
    ("measure", "float"),
    ("name", "nvarchar(40)"),
    ("code", "varchar(16)"),
    ("is", "bit"),
    ("amount", "decimal(18,4)"),
    ("at", "datetime2(3)"),
    ("total", "bigint"),
];

fn fields() -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    KINDS.iter().cycle().take(FIELDS).enumerate().map(|(index, (kind, sql_type))| (index, *kind, *sql_type))
}

pub(super) fn schema() -> String {
    let mut text = format!("format = \"json\"\n{}", super::column(NUMBER, "bigint", ""));
    for (index, kind, sql_type) in fields() {
        let _ = write!(text, "\n[[column]]\nname = \"{kind}_{index:02}\"\ntype = \"{sql_type}\"\n");
    }
    text + &super::column("stream_sequence", "bigint", "from = \"stream_sequence\"\n")
}

pub(super) fn payload(number: u64, random: &mut fastrand::Rng) -> String {
    let mut text = String::with_capacity(2_048);
    let _ = write!(text, r#"{{"{NUMBER}":{number}"#);
    for (index, kind, _) in fields() {
        let _ = write!(text, r#","{kind}_{index:02}":"#);
        if random.u8(..12) == 0 {
            text.push_str("null");
            continue;
        }
        let value = random.u32(..1_000_000);
        let _ = match kind {
            "measure" | "amount" => write!(text, "{}.{:02}", value / 100, value % 100),
            "name" => write!(text, "\"machine {value} in hall {index}\""),
            "code" => write!(text, "\"C{value:07}\""),
            "is" => write!(text, "{}", value.is_multiple_of(2)),
            "at" => write!(
                text,
                "\"2026-03-{:02}T{:02}:{:02}:{:02}.{:03}Z\"",
                1 + value % 28,
                value % 24,
                value / 24 % 60,
                value / 1_440 % 60,
                value % 1_000
            ),
            _ => write!(text, "{value}"),
        };
    }
    text.push('}');
    text
}
