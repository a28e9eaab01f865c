//! Logging: to stderr, as text or JSON, and never with a row's values.

use std::fmt::Write as _;
use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::disposition;
use crate::error::Error;

/// The environment variable whose filter goes before the configuration's.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// The environment variable that, set to anything, turns colours off. See <https://no-color.org>.
pub const NO_COLOR_VARIABLE: &str = "NO_COLOR";

/// What is logged where nothing else is said.
pub const DEFAULT_FILTER: &str = "info";

/// Crates that say more than an operator wants, and what they may say unless a filter names them.
const QUIETED: [(&str, &str); 3] = [("async_nats", "warn"), ("hyper", "info"), ("hyper_util", "info")];

/// Who may say nothing, whatever a filter says. tiberius logs each error of the server with the server's text, which can
/// quote a row's values, and at `trace` it writes out what it sends, which is rows and the login; its errors are logged by
/// us, masked. The connection of async-nats writes out at `trace` what it reads and sends, events and credentials among it.
const SILENCED: [&str; 2] = ["tiberius", "async_nats::connection"];

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people. Coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or directives such as `info,async_nats=debug`. [`FILTER_VARIABLE`] goes before it. Default
    /// `info`.
    pub filter: String,
    /// How a line looks. Default `text`.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { filter: DEFAULT_FILTER.to_owned(), format: LogFormat::default() }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` or `log.filter` cannot be read.
    #[error("{origin} = {filter:?}: {message}")]
    Filter {
        /// The variable or the field.
        origin: &'static str,
        /// What it says.
        filter: String,
        /// Why it cannot be read.
        message: String,
    },
    /// Something else in this process logs already.
    #[error("logging was started twice")]
    AlreadyStarted,
}

/// Starts logging for the whole process.
///
/// # Errors
///
/// The filter cannot be read, or logging has started already.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let variable = std::env::var(FILTER_VARIABLE).ok().filter(|value| !value.is_empty());
    let (origin, filter) = match &variable {
        Some(value) => (FILTER_VARIABLE, value.as_str()),
        None => ("log.filter", config.filter.as_str()),
    };
    let env_filter = env_filter(filter).map_err(|message| TelemetryError::Filter {
        origin,
        filter: filter.to_owned(),
        message,
    })?;
    let no_color = std::env::var_os(NO_COLOR_VARIABLE).is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(config.format == LogFormat::Text && !no_color && std::io::stderr().is_terminal());
    let started = match config.format {
        LogFormat::Text => tracing::subscriber::set_global_default(lines.finish().with(silence())),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            tracing::subscriber::set_global_default(lines.finish().with(silence()))
        }
    };
    started.map_err(|_already| TelemetryError::AlreadyStarted)
}

/// Beside the filter and not in it: a directive for a span would let through what happens within it, of all crates.
fn silence() -> FilterFn {
    fn is_silenced(target: &str) -> bool {
        let is_of = |rest: &str| rest.is_empty() || rest.starts_with("::");
        SILENCED.iter().any(|module| target.strip_prefix(module).is_some_and(is_of))
    }
    filter_fn(|event| !is_silenced(event.target()))
}

/// Whether [`init`] would understand `filter`; if not, why.
pub(crate) fn check_filter(filter: &str) -> Result<(), String> {
    env_filter(filter).map(drop)
}

fn env_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(with_quieted(filter)).map_err(|error| {
        format!("must be a level (error, warn, info, debug, trace, off) or directives such as info,async_nats=debug: {error}")
    })
}

/// Puts the quieted crates in front of a filter that does not name them.
fn with_quieted(filter: &str) -> String {
    let mut directives = String::new();
    let is_named = |name: &str| {
        filter.split(',').any(|directive| directive.trim().split(['=', '[', ':']).next() == Some(name))
    };
    for (name, level) in QUIETED {
        if !is_named(name) {
            let _infallible = write!(directives, "{name}={level},");
        }
    }
    directives + filter
}

/// Error numbers from this one on belong to the authors of triggers and procedures, who may put a row's value
/// anywhere into the text.
const FIRST_USER_NUMBER: u32 = 50_000;

/// An error as a log, a status page or a command's output may show it: what happened, what that means, and what
/// the database server said, masked.
pub fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let Some(number) = error.number() else { return text };
    if let Some(meaning) = disposition::meaning(number) {
        let _infallible = write!(text, ", {meaning}");
    }
    if let Some(said) = error.server_text().filter(|_| number < FIRST_USER_NUMBER) {
        let _infallible = write!(text, ": {}", redact(said, disposition::names_objects_only(number)));
    }
    text
}

/// The most characters of a server's text that are shown.
const MAX_SHOWN_CHARACTERS: usize = 400;

/// What a server's error text may show in a log, a status page or a metric.
///
/// SQL Server puts values between quotes ("converting the varchar value '…'"), between parentheses ("the duplicate key
/// value is (…)"), or behind nothing but an equals sign ("for data type tinyint, value = 300."), and does not escape
/// what a value contains. So everything is masked from the word with the first quote, parenthesis, equals sign or
/// digit to the last of them, not only what stands between pairs; and of what follows only an ending that is known,
/// such as "to data type int.", stays.
///
/// With `keep_names`, which is for numbers whose text names objects and never values (208, 229), only parentheses
/// are masked.
pub fn redact(server_text: &str, keep_names: bool) -> String {
    let is_mark = |c: char| is_parenthesis(c) || (!keep_names && (is_quote(c) || c == '=' || c.is_numeric()));
    let masked = match (server_text.find(is_mark), server_text.rfind(is_mark)) {
        (Some(first), Some(last)) => {
            // What stands before a mark in the same word belongs to the value: a sign, a currency, a letter.
            let before = server_text[..first].trim_end_matches(|c: char| !c.is_whitespace());
            let after: String = server_text[last..].chars().skip(1).collect();
            let ending = if is_plain_ending(&after) { after.as_str() } else { "" };
            format!("{before}[masked]{ending}")
        }
        _ => server_text.to_owned(),
    };
    // A line break in it could fake a line of the log.
    masked.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN_CHARACTERS).collect()
}

/// Quotes of the languages that SQL Server's messages come in, too.
fn is_quote(c: char) -> bool {
    matches!(
        c,
        '\'' | '"'
            | '`'
            | '‘'
            | '’'
            | '‚'
            | '“'
            | '”'
            | '„'
            | '«'
            | '»'
            | '‹'
            | '›'
            | '「'
            | '」'
            | '『'
            | '』'
    )
}

fn is_parenthesis(c: char) -> bool {
    matches!(c, '(' | ')' | '（' | '）')
}

/// The end of a sentence that holds nothing of a value: a full stop, or a data type in front of it. Any other words
/// could be the rest of a value that the server cut off.
fn is_plain_ending(text: &str) -> bool {
    const TYPES: &str = "bigint binary bit char date datetime datetimeoffset decimal float int money nchar numeric \
         nvarchar real smalldatetime smallint smallmoney time tinyint uniqueidentifier varbinary varchar";
    let Some(sentence) = text.strip_suffix('.') else { return false };
    match sentence.strip_prefix(" to data type ") {
        Some(name) => TYPES.split(' ').any(|known| known == name),
        None => sentence.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_the_texts_of_sql_server_are_masked() {
        for (text, expected) in [
            (
                "Violation of PRIMARY KEY constraint 'PK_t'. Cannot insert duplicate key in object 'dbo.t'. \
                 The duplicate key value is (canary).",
                "Violation of PRIMARY KEY constraint [masked].",
            ),
            (
                "String or binary data would be truncated in table 'db.dbo.t', column 'c'. Truncated value: \
                 'canary'.",
                "String or binary data would be truncated in table [masked].",
            ),
            (
                "Conversion failed when converting the varchar value 'canary' to data type int.",
                "Conversion failed when converting the varchar value [masked] to data type int.",
            ),
            (
                "Arithmetic overflow error for data type tinyint, value = 300.",
                "Arithmetic overflow error for data type tinyint, value [masked].",
            ),
            (
                "Arithmetic overflow error for type int, value = -2147483649.500000.",
                "Arithmetic overflow error for type int, value [masked].",
            ),
            (
                "Arithmetic overflow error for type int, value = canary.",
                "Arithmetic overflow error for type int, value [masked]",
            ),
            ("The value -300.25 is out of range.", "The value [masked]"),
            ("The amount $300 is too large", "The amount [masked]"),
            ("Conversion of 0xCAFE to data type int.", "Conversion of [masked]"),
            (
                "Error converting data type nvarchar to datetime2.",
                "Error converting data type nvarchar to [masked].",
            ),
            (
                "Error converting data type nvarchar to numeric.",
                "Error converting data type nvarchar to numeric.",
            ),
            ("Login timeout expired.", "Login timeout expired."),
            ("", ""),
        ] {
            assert_eq!(redact(text, false), expected);
        }
    }

    #[test]
    fn no_value_gets_past_the_mask_whatever_is_in_it() {
        for value in [
            "canary",
            "it's a canary",
            "a) canary (b",
            "'canary",
            "canary'",
            "\"canary\" 'canary' (canary",
            "canary\n(2 rows affected) canary",
            "”canary“",
            "canary. canary.",
            "12 canary.",
            "canary = canary",
            "4711canary.",
            "' to data type canary.",
        ] {
            for text in [
                format!("The duplicate key value is ({value})."),
                format!("Truncated value: '{value}'."),
                format!("converting the varchar value '{value}' to data type int."),
                format!("converting the varchar value '{value}"),
                format!("in object 'dbo.t'. The duplicate key value is ({value}"),
                format!("Wert „{value}“ kann nicht konvertiert werden."),
            ] {
                let shown = redact(&text, false);
                assert!(!shown.contains("canary"), "{text:?} -> {shown:?}");
                assert!(shown.contains("[masked]"), "{text:?} -> {shown:?}");
            }
        }
    }

    #[test]
    fn no_number_gets_past_the_mask_however_it_is_written() {
        for value in
            ["300", "-300", "+300", "3.00", "-0.3", ".3", "3,00", "3e2", "3E-2", "$3", "(3)", "٣", "³"]
        {
            for text in [
                format!("Arithmetic overflow error for data type tinyint, value = {value}."),
                format!("Arithmetic overflow error for data type tinyint, value={value}"),
                format!("The value {value} is out of range."),
                value.to_owned(),
            ] {
                let shown = redact(&text, false);
                assert!(!shown.contains(['3', '٣', '³', '-', '+', '$', '0', '=']), "{text:?} -> {shown:?}");
                assert!(shown.contains("[masked]"), "{text:?} -> {shown:?}");
            }
        }
    }

    #[test]
    fn names_of_objects_can_be_kept() {
        assert_eq!(redact("Invalid object name 'dbo.t'.", true), "Invalid object name 'dbo.t'.");
        assert_eq!(
            redact("Invalid object name 'dbo.t' (canary).", true),
            "Invalid object name 'dbo.t' [masked]."
        );
        assert_eq!(redact("Invalid object name 'dbo.t2'.", true), "Invalid object name 'dbo.t2'.");
    }

    #[test]
    fn a_servers_text_stays_on_one_line_and_short() {
        assert_eq!(redact("one\r\ntwo", false), "one  two");
        assert_eq!(redact(&"x".repeat(5000), false).len(), MAX_SHOWN_CHARACTERS);
    }

    #[test]
    fn chatty_crates_are_lowered_unless_they_are_named() {
        assert_eq!(with_quieted("trace"), "async_nats=warn,hyper=info,hyper_util=info,trace");
        assert_eq!(
            with_quieted("info, hyper::client=trace,async_nats=debug"),
            "hyper_util=info,info, hyper::client=trace,async_nats=debug"
        );
    }

    #[test]
    fn no_filter_lets_those_speak_who_show_rows() {
        #[derive(Clone, Default)]
        struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Written {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("a lock").extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        for filter in
            ["trace,async_nats=trace", "async_nats=trace,tiberius=trace", "[within]=trace,async_nats=info"]
        {
            let written = Written::default();
            let writer = written.clone();
            let lines = tracing_subscriber::fmt()
                .with_env_filter(env_filter(filter).expect("a filter"))
                .with_writer(move || writer.clone())
                .finish()
                .with(silence());
            tracing::subscriber::with_default(lines, || {
                let _span = tracing::info_span!("within").entered();
                tracing::error!(target: "tiberius::client::connection", "canary");
                tracing::error!(target: "tiberius", "canary");
                tracing::error!(target: "async_nats::connection", "canary");
                tracing::error!(target: "async_nats::connector", "a neighbour");
            });
            let text = String::from_utf8(written.0.lock().expect("a lock").clone()).expect("text");
            assert!(!text.contains("canary"), "{filter}: {text}");
            assert!(text.contains("a neighbour"), "{filter}: {text}");
        }
    }

    #[test]
    fn filters_are_checked() {
        for filter in [DEFAULT_FILTER, "debug", "info,async_nats=debug", "off", "nats_sql_sink[batch]=trace"]
        {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        let error = check_filter("info,x=loud").expect_err("not a level");
        assert!(error.starts_with("must be a level"), "{error}");
    }
}
