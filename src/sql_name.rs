//! Names in T-SQL: [`Identifier`] and [`TableName`], which alone know how to quote themselves.
//!
//! A name cannot be a parameter of a statement, so it becomes part of its text. That is safe because no text
//! is made from a name other than by [`Identifier::quoted`].

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// The longest identifier, in UTF-16 code units: `sysname` is `nvarchar(128)`.
pub const MAX_IDENTIFIER_UNITS: usize = 128;

/// The schema of a table that is named without one.
pub const DEFAULT_SCHEMA: &str = "dbo";

/// The name of one thing: a column, a table, a schema. Never empty, never too long, without control characters.
///
/// Control characters are refused because tiberius refuses to bulk-load into a name that has one, quoted or
/// not. Every other name passes its check once quoted; a test below says so.
///
/// Two identifiers are equal when they are spelled equally. Whether the database agrees is its collation's
/// matter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Identifier(String);

impl Identifier {
    /// Takes `name` literally: brackets in it are part of the name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(position) = name.chars().position(char::is_control) {
            return Err(NameError::ControlCharacter { position: position + 1 });
        }
        let units = name.encode_utf16().count();
        if units > MAX_IDENTIFIER_UNITS {
            return Err(NameError::TooLong { units });
        }
        Ok(Self(name))
    }

    /// The name itself: for comparing and for showing, never for the text of a statement.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a statement writes it: `[a]]b]`.
    pub fn quoted(&self) -> String {
        quote(&self.0)
    }
}

/// A name as a statement writes it, whatever is in it.
pub fn quote(name: &str) -> String {
    format!("[{}]", name.replace(']', "]]"))
}

impl TryFrom<String> for Identifier {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl FromStr for Identifier {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

/// Quoted.
impl fmt::Display for Identifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.quoted())
    }
}

/// A table of the database that the sink is connected to.
///
/// Parsed from `telemetry`, `dbo.telemetry` or `[my schema].[t.able]`; displayed quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TableName {
    /// The schema, `dbo` where none is written.
    pub schema: Identifier,
    /// The table.
    pub table: Identifier,
}

impl TableName {
    /// `[schema].[table]`.
    pub fn quoted(&self) -> String {
        format!("{}.{}", self.schema.quoted(), self.table.quoted())
    }
}

impl FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = split_parts(text)?;
        if parts.len() > 2 {
            return Err(NameError::TooManyParts { parts: parts.len() });
        }
        let table = Identifier::new(parts.pop().unwrap_or_default())?;
        if table.as_str().starts_with('#') {
            return Err(NameError::Temporary);
        }
        let schema = Identifier::new(parts.pop().unwrap_or_else(|| DEFAULT_SCHEMA.to_owned()))?;
        Ok(Self { schema, table })
    }
}

impl TryFrom<String> for TableName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.quoted())
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or nothing between two dots.
    #[error("a name, or a part of it, is empty")]
    Empty,
    /// Longer than [`MAX_IDENTIFIER_UNITS`].
    #[error("a name of {units} UTF-16 units is longer than SQL Server's {MAX_IDENTIFIER_UNITS}")]
    TooLong {
        /// Its length.
        units: usize,
    },
    /// A tab, a line break, a NUL and their like.
    #[error("character {position} is a control character, and such a name cannot be bulk-loaded")]
    ControlCharacter {
        /// Counted in characters, from 1.
        position: usize,
    },
    /// A database or a server in front of schema and table.
    #[error(
        "a name of {parts} parts: the table is in the database that `sql.database` names, so write \
         `schema.table`, and `[a.b]` where a dot belongs to a name"
    )]
    TooManyParts {
        /// How many there are.
        parts: usize,
    },
    /// `#table` or `##table`.
    #[error("a name that begins with `#` is a temporary table, which ends with the connection")]
    Temporary,
    /// `[` that nothing closes.
    #[error("`[` is never closed by `]`; a `]` inside of a name is written `]]`")]
    Unterminated,
    /// Something between a closing bracket and the next dot.
    #[error("`]` is followed by more than a dot; a `]` inside of a name is written `]]`")]
    AfterBracket,
    /// A character that has to be inside of brackets.
    #[error("`{character}` has to be in brackets, as in `[schema].[table]`")]
    NeedsBrackets {
        /// The character.
        character: char,
    },
}

/// Splits at the dots outside of brackets, and takes the brackets off.
fn split_parts(text: &str) -> Result<Vec<String>, NameError> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('[') {
            Some(bracketed) => take_bracketed(bracketed)?,
            None => take_bare(rest)?,
        };
        parts.push(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(parts),
            None => return Err(NameError::AfterBracket),
        }
    }
}

/// The name up to the bracket that closes it, and what follows that.
fn take_bracketed(text: &str) -> Result<(String, &str), NameError> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(']').ok_or(NameError::Unterminated)?;
        name.push_str(before);
        match after.strip_prefix(']') {
            Some(next) => {
                name.push(']');
                rest = next;
            }
            None => return Ok((name, after)),
        }
    }
}

/// The name up to the next dot. Only the characters of T-SQL's regular identifiers go without brackets.
fn take_bare(text: &str) -> Result<(String, &str), NameError> {
    let end = text.find('.').unwrap_or(text.len());
    let (name, after) = text.split_at(end);
    let is_regular = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '#' | '@');
    match name.chars().find(|&c| !is_regular(c) && !c.is_control()) {
        Some(character) => Err(NameError::NeedsBrackets { character }),
        None => Ok((name.to_owned(), after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String) {
        let name: TableName = text.parse().expect(text);
        (name.schema.as_str().to_owned(), name.table.as_str().to_owned())
    }

    #[test]
    fn parses_one_and_two_part_names() {
        for (text, schema, table) in [
            ("t", "dbo", "t"),
            ("dbo.telemetry", "dbo", "telemetry"),
            ("[my schema].[t.able]", "my schema", "t.able"),
            ("sales.[a]]b]", "sales", "a]b"),
            ("[s]].x].t", "s].x", "t"),
            ("größe.温度", "größe", "温度"),
            ("[a-b]", "dbo", "a-b"),
            ("order.select", "order", "select"),
            ("[[]", "dbo", "["),
        ] {
            assert_eq!(parts(text), (schema.to_owned(), table.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_loadable_table() {
        for (text, reason) in [
            ("", NameError::Empty),
            ("dbo.", NameError::Empty),
            (".t", NameError::Empty),
            ("db..t", NameError::TooManyParts { parts: 3 }),
            ("db.dbo.t", NameError::TooManyParts { parts: 3 }),
            ("srv.db.dbo.t", NameError::TooManyParts { parts: 4 }),
            ("[]", NameError::Empty),
            ("#t", NameError::Temporary),
            ("dbo.[##t]", NameError::Temporary),
            ("[t", NameError::Unterminated),
            ("[t]]", NameError::Unterminated),
            ("[a]b.t", NameError::AfterBracket),
            ("[a] .t", NameError::AfterBracket),
            ("my table", NameError::NeedsBrackets { character: ' ' }),
            ("a-b", NameError::NeedsBrackets { character: '-' }),
            ("t;DROP", NameError::NeedsBrackets { character: ';' }),
            ("t]", NameError::NeedsBrackets { character: ']' }),
            ("\"t\"", NameError::NeedsBrackets { character: '"' }),
            ("[a\tb]", NameError::ControlCharacter { position: 2 }),
            ("a\nb", NameError::ControlCharacter { position: 2 }),
        ] {
            assert_eq!(text.parse::<TableName>(), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn length_is_counted_as_the_server_counts_it() {
        assert!(Identifier::new("a".repeat(128)).is_ok());
        assert_eq!(Identifier::new("a".repeat(129)), Err(NameError::TooLong { units: 129 }));
        // GIVEN a character outside of the basic plane, THEN it counts two
        assert!(Identifier::new("😀".repeat(64)).is_ok());
        assert_eq!(Identifier::new("😀".repeat(65)), Err(NameError::TooLong { units: 130 }));
    }

    #[test]
    fn deserializes_through_the_parser() {
        #[derive(Debug, Deserialize)]
        struct Holder {
            table: TableName,
        }
        let holder: Holder = toml::from_str("table = 'sales.[a]]b]'").expect("it is a name");
        assert_eq!(holder.table.to_string(), "[sales].[a]]b]");
        let error = toml::from_str::<Holder>("table = 'a.b.c'").expect_err("three parts");
        assert!(error.to_string().contains("sql.database"), "{error}");
    }

    /// What tiberius 0.13 accepts as a table's or column's name before it bulk-loads (`validate_sql_identifier`,
    /// which is private), restricted to names that begin with a bracket: no ASCII control character; `]` closes
    /// a segment unless doubled, and then only a dot or the end may follow; what is opened is closed. Segments
    /// without brackets never occur here.
    fn tiberius_accepts(name: &str) -> bool {
        if name.chars().any(|c| c.is_ascii_control()) {
            return false;
        }
        let mut characters = name.chars().peekable();
        let mut in_bracket = false;
        while let Some(c) = characters.next() {
            match (in_bracket, c) {
                (true, ']') if characters.peek() == Some(&']') => {
                    characters.next();
                }
                (true, ']') => {
                    in_bracket = false;
                    if !matches!(characters.peek(), None | Some('.')) {
                        return false;
                    }
                }
                (true, _) | (false, '.') => {}
                (false, '[') => in_bracket = true,
                (false, _) => return false,
            }
        }
        !in_bracket
    }

    /// All strings of up to `length` characters of `alphabet`.
    fn strings(alphabet: &[char], length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut begin = 0;
        for _ in 0..length {
            let end = all.len();
            for index in begin..end {
                for c in alphabet {
                    let longer = format!("{}{c}", all[index]);
                    all.push(longer);
                }
            }
            begin = end;
        }
        all
    }

    #[test]
    fn every_quoted_name_can_be_bulk_loaded_and_parses_back() {
        let alphabet =
            ['a', '[', ']', '.', ' ', '\'', '"', ';', '-', '(', ')', ',', '*', '#', '\u{7f}', '\n', '語'];
        let (mut accepted, mut refused) = (0, 0);
        for text in strings(&alphabet, 4) {
            let Ok(identifier) = Identifier::new(text.clone()) else {
                // WHEN refused for a control character, THEN tiberius would refuse it too
                assert!(
                    text.is_empty() || !tiberius_accepts(&format!("[{}]", text.replace(']', "]]"))),
                    "{text:?}"
                );
                refused += 1;
                continue;
            };
            accepted += 1;
            assert!(tiberius_accepts(&identifier.quoted()), "{text:?}");
            let table = TableName { schema: identifier.clone(), table: identifier };
            assert!(tiberius_accepts(&table.quoted()), "{text:?}");
            if !text.starts_with('#') {
                assert_eq!(table.quoted().parse::<TableName>(), Ok(table), "{text:?}");
            }
        }
        assert!(accepted > 50_000 && refused > 10_000, "{accepted} {refused}");
    }
}
