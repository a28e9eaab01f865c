//! From the text of a file to values: environment variables, positions, and errors that name the field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{NOT_SHOWN, Problem, quote};
use super::secret::{LITERAL_REFUSED, SECRET_FIELDS, is_variable_name, may_hold_secret};

/// Where the environment is looked up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Line and column of every field, by its dotted path.
pub(super) type Positions = BTreeMap<String, (usize, usize)>;

/// Reads `text` as a `T`. Strings are expanded first, other than those that name a secret's variable.
pub(super) fn parse<T: DeserializeOwned>(
    text: &str,
    environment: Environment<'_>,
) -> Result<(T, Positions), Vec<Problem>> {
    let mut document = DeTable::parse(text).map_err(|error| {
        let mut problem = Problem::new("", format!("not TOML: {}", shown(error.message())));
        problem.position = error.span().map(|span| position(text, span.start));
        vec![problem]
    })?;
    let mut expansion = Expansion { text, environment, positions: Positions::new(), problems: Vec::new() };
    expansion.table(document.get_mut(), "");
    if !expansion.problems.is_empty() {
        return Err(expansion.problems);
    }
    let positions = expansion.positions;
    let value = serde_path_to_error::deserialize(toml::Deserializer::from(document))
        .map_err(|error| vec![explain(&error, text)])?;
    Ok((value, positions))
}

/// Line and column from 1; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The position of a field, or of the innermost table around it that is written.
pub(super) fn position_of(field: &str, positions: &Positions) -> Option<(usize, usize)> {
    let mut path = field;
    loop {
        if let Some(position) = positions.get(path) {
            return Some(*position);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

struct Expansion<'a> {
    text: &'a str,
    environment: Environment<'a>,
    positions: Positions,
    problems: Vec<Problem>,
}

impl Expansion<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, path: &str) {
        for (key, value) in table.iter_mut() {
            let name = key.get_ref();
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            self.value(value, key.span(), &path);
        }
    }

    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, span: Range<usize>, path: &str) {
        let position = position(self.text, span.start);
        self.positions.insert(path.to_owned(), position);
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, path),
            DeValue::Array(array) => {
                for (index, item) in array.iter_mut().enumerate() {
                    let span = item.span();
                    self.value(item, span, &format!("{path}[{index}]"));
                }
            }
            DeValue::String(string) => match expand(string, self.environment) {
                Ok(expanded) => {
                    if !is_secret(path) {
                        *string = Cow::Owned(expanded);
                    }
                }
                Err(message) => {
                    let mut problem = Problem::new(path, message);
                    if !is_secret(path) {
                        problem = problem.with_value(quote(string));
                    }
                    problem.position = Some(position);
                    self.problems.push(problem);
                }
            },
            _ => {}
        }
    }
}

/// Replaces every `${NAME}` in `text`; `$${` stands for `${`.
fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.push_str(before);
        let Some((name, after)) = reference[2..].split_once('}') else {
            return Err("`${` is never closed by `}`; write `$${` for the characters themselves".to_owned());
        };
        if !is_variable_name(name) {
            return Err(
                "between `${` and `}` must be the name of an environment variable; write `$${` for the \
                        characters themselves"
                    .to_owned(),
            );
        }
        match environment(name) {
            Some(value) => expanded.push_str(&value),
            None => return Err(format!("the environment variable {name} is not set, or not UTF-8")),
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Whether the value at `path` is, or may by mistake be, a secret.
fn is_secret(path: &str) -> bool {
    path == "sql.auth"
        || path == "nats.token_from"
        || path == "nats"
        || path.split(['.', '[']).any(|segment| SECRET_FIELDS.contains(&segment))
}

/// What a library says about a text, which it may quote.
fn shown(message: &str) -> &str {
    if may_hold_secret(message) { NOT_SHOWN } else { message }
}

/// Says what serde said, with the field, the value as it is written and the place.
fn explain(error: &serde_path_to_error::Error<toml::de::Error>, text: &str) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner());
    let path = if path == "." { String::new() } else { path };
    let span = inner.span();
    let mut problem = explain_message(&path, inner.message());
    let is_about_field =
        ["unknown field ", "missing field "].iter().any(|kind| inner.message().starts_with(kind));
    let is_about_value = !is_about_field && !is_secret(&path);
    if let Some(written) = span.clone().and_then(|span| text.get(span)).filter(|_| is_about_value)
        && !written.is_empty()
        && written.len() <= 80
        && !written.contains('\n')
    {
        problem = problem.with_value(written);
    }
    problem.position = span.map(|span| position(text, span.start));
    problem
}

fn explain_message(path: &str, message: &str) -> Problem {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let (name, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let problem = Problem::new(child(path, name), "there is no such field");
        return match suggestion(name, expected) {
            Some(hint) => problem.with_hint(hint),
            None => problem,
        };
    }
    if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return Problem::new(child(path, name), "is missing");
    }
    if is_secret(path) {
        return Problem::new(path, LITERAL_REFUSED);
    }
    if let Some(rest) = message.strip_prefix("unknown variant `") {
        let (name, expected) = rest.split_once('`').unwrap_or((rest, ""));
        let problem = Problem::new(path, format!("must be one of {}", quoted_names(expected).join(", ")));
        return match closest(name, expected) {
            Some(closest) => problem.with_hint(format!("did you mean \"{closest}\"?")),
            None => problem,
        };
    }
    // serde puts the value, expanded, in front of what it expected. The value as written is shown instead.
    let is_type_or_value = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if is_type_or_value => Problem::new(path, format!("must be {}", plain(expected))),
        _ => Problem::new(path, shown(message)),
    }
}

/// Rust's words for types, in TOML's.
fn plain(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" => "a whole number, not negative",
        "a sequence" => "an array",
        "path string" => "a path, as a string",
        "a duration" => "a duration such as \"500ms\", \"25s\" or \"2m\"",
        expected if expected.starts_with("struct ") => "a table",
        expected => expected,
    }
}

/// `name` under `path`; serde's path may or may not end with it already.
fn child(path: &str, name: &str) -> String {
    if path.is_empty() || path == name {
        return name.to_owned();
    }
    match path.strip_suffix(name) {
        Some(parent) if parent.ends_with('.') => path.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

/// The names between backticks.
fn quoted_names(expected: &str) -> Vec<&str> {
    expected.split('`').skip(1).step_by(2).collect()
}

fn closest<'a>(name: &str, expected: &'a str) -> Option<&'a str> {
    quoted_names(expected)
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

fn suggestion(name: &str, expected: &str) -> Option<String> {
    if let Some(closest) = closest(name, expected) {
        return Some(format!("did you mean `{closest}`?"));
    }
    let known = quoted_names(expected);
    (!known.is_empty()).then(|| format!("the fields here are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_expanded() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${HOST}", "db"),
            ("a${HOST}b${HOST}", "adbbdb"),
            ("${EMPTY}", ""),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$HOST $ $$", "$HOST $ $$"),
        ] {
            assert_eq!(expand(text, &environment).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_refused() {
        for (text, part) in [
            ("${UNSET}", "UNSET is not set"),
            ("${HOST", "never closed"),
            ("${}", "name of an environment variable"),
            ("${1A}", "name of an environment variable"),
            ("${HOST:-x}", "name of an environment variable"),
        ] {
            let error = expand(text, &environment).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("a = 1\nä = 2", 0), (1, 1));
        assert_eq!(position("a = 1\nä = 2", 9), (2, 3));
    }
}
