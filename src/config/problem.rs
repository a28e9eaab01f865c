//! What is wrong with a configuration, in words that name the field.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::may_hold_secret;
use super::units;

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The dotted path of the field, such as `pipeline[0].batch.max_rows`. Empty for the file as a whole.
    pub field: String,
    /// The value as it is written. Never that of a secret, nor what may hold one.
    pub value: Option<String>,
    /// The constraint that the value breaks.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// Line and column in the file, from 1, where they are known.
    pub position: Option<(usize, usize)>,
}

impl Problem {
    /// A problem of a field, without a value. A field that there is not may be a secret in a wrong place.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let field = field.into();
        let field = if may_hold_secret(&field) { NOT_SHOWN.to_owned() } else { field };
        Self { field, value: None, message: message.into(), hint: None, position: None }
    }

    /// Adds the value as it is written, unless it looks as if it held a secret.
    pub fn with_value(mut self, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        self.value = Some(if may_hold_secret(&value) { NOT_SHOWN.to_owned() } else { value });
        self
    }

    /// Adds what to write instead.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `pipeline[0].batch.max_rows = 0: must be … (line 12, column 3)`, and the hint on a line of its own.
impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            formatter.write_str(&self.field)?;
            if let Some(value) = &self.value {
                write!(formatter, " = {value}")?;
            }
            formatter.write_str(": ")?;
        }
        formatter.write_str(&self.message)?;
        if let Some((line, column)) = self.position {
            write!(formatter, " (line {line}, column {column})")?;
        }
        if let Some(hint) = &self.hint {
            write!(formatter, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigErrorKind {
    /// The file cannot be read.
    Read(std::io::Error),
    /// The file is not TOML, or not this program's: see the problems.
    Invalid,
}

/// A configuration that cannot be used. Exit code 2.
#[derive(Debug)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// In which way it cannot be used.
    pub kind: ConfigErrorKind,
    /// All that is wrong with it, as far as it could be read.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn read(path: &Path, error: std::io::Error) -> Self {
        Self { path: path.to_owned(), kind: ConfigErrorKind::Read(error), problems: Vec::new() }
    }

    pub(super) fn invalid(path: &Path, problems: Vec<Problem>) -> Self {
        Self { path: path.to_owned(), kind: ConfigErrorKind::Invalid, problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        if let ConfigErrorKind::Read(error) = &self.kind {
            return write!(formatter, "cannot read the configuration {path}: {error}");
        }
        match self.problems.len() {
            1 => write!(formatter, "the configuration {path} has a problem")?,
            count => write!(formatter, "the configuration {path} has {count} problems")?,
        }
        for problem in &self.problems {
            write!(formatter, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ConfigErrorKind::Read(error) => Some(error),
            ConfigErrorKind::Invalid => None,
        }
    }
}

/// Collects the problems of a section; each is named under the section's path.
#[derive(Debug)]
pub(super) struct Checks<'a> {
    prefix: String,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Checks<'a> {
    /// Checks of the fields under `prefix`, which is empty for the top of the file.
    pub(super) fn new(prefix: impl Into<String>, problems: &'a mut Vec<Problem>) -> Self {
        Self { prefix: prefix.into(), problems }
    }

    fn path(&self, field: &str) -> String {
        match (self.prefix.as_str(), field) {
            ("", field) => field.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, field) => format!("{prefix}.{field}"),
        }
    }

    /// The checks of a table inside of this one.
    pub(super) fn table(&mut self, field: &str) -> Checks<'_> {
        Checks { prefix: self.path(field), problems: self.problems }
    }

    /// Notes a problem whose field is named relative to the section.
    pub(super) fn refuse(&mut self, mut problem: Problem) {
        problem.field = self.path(&problem.field);
        self.problems.push(problem);
    }

    /// Refuses a number outside of `range`.
    pub(super) fn range<T>(&mut self, field: &str, value: T, range: &RangeInclusive<T>)
    where
        T: PartialOrd + fmt::Display,
    {
        if !range.contains(&value) {
            let message = format!("must be from {} to {}", range.start(), range.end());
            self.refuse(Problem::new(field, message).with_value(value));
        }
    }

    /// Refuses a number of bytes outside of `range`.
    pub(super) fn bytes(&mut self, field: &str, value: usize, range: &RangeInclusive<usize>) {
        if !range.contains(&value) {
            let (least, most) = (units::show_bytes(*range.start()), units::show_bytes(*range.end()));
            let message = format!("must be from {least} to {most}");
            self.refuse(Problem::new(field, message).with_value(quote(&units::show_bytes(value))));
        }
    }

    /// Refuses a duration outside of `range`.
    pub(super) fn duration(&mut self, field: &str, value: Duration, range: &RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let show = humantime::format_duration;
            let message = format!("must be from {} to {}", show(*range.start()), show(*range.end()));
            self.refuse(Problem::new(field, message).with_value(quote(&show(value).to_string())));
        }
    }
}

/// Stands for what is not shown because somebody may have put a secret into it.
pub(super) const NOT_SHOWN: &str = "[not shown: it may hold a secret]";

/// A string as TOML writes it, for showing a value.
pub(super) fn quote(value: &str) -> String {
    if may_hold_secret(value) { NOT_SHOWN.to_owned() } else { format!("{value:?}") }
}
