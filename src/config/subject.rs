//! The rules of NATS for names of streams and consumers, and for subjects.

/// The longest name that a server takes.
const MAX_NAME_BYTES: usize = 255;

/// Why `name` cannot be that of a stream or of a durable consumer, if so.
pub(super) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("must not be empty".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Some(format!("must not be longer than {MAX_NAME_BYTES} bytes"));
    }
    let is_refused =
        |c: &char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
    name.chars().any(|c| is_refused(&c)).then(|| {
        "must not have blanks, `.`, `*`, `>`, `/` or `\\`: JetStream makes subjects and files of it"
            .to_owned()
    })
}

/// Why nothing can be published on, or received by, `subject`, if so. Wildcards only where `filter`.
pub fn subject_problem(subject: &str, filter: bool) -> Option<&'static str> {
    if subject.is_empty() {
        return Some("must not be empty");
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("must not have blanks or control characters");
    }
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Some("must not have an empty token: a dot first, last, or twice in a row"),
            "*" | ">" if !filter => return Some("must not have wildcards"),
            ">" if tokens.peek().is_some() => return Some("may have `>` only as its last token"),
            "*" | ">" => {}
            token if token.contains(['*', '>']) => {
                return Some("may have `*` and `>` only as tokens of their own, between dots");
            }
            _ => {}
        }
    }
    None
}

/// Whether some subject is matched by both filters.
pub fn subjects_overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["EVENTS", "sink-telemetry_2", "größe", "a$b"] {
            assert_eq!(name_problem(name), None, "{name}");
        }
        for name in ["", "a b", "a.b", "a*", "a>", "a/b", "a\\b", "a\nb", &"a".repeat(256)] {
            assert!(name_problem(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn subjects() {
        for (subject, as_filter, as_subject) in [
            ("events", true, true),
            ("events.eu.1", true, true),
            ("events.*", true, false),
            ("events.>", true, false),
            (">", true, false),
            ("*.b.>", true, false),
            ("", false, false),
            ("events.", false, false),
            (".events", false, false),
            ("a..b", false, false),
            ("a b", false, false),
            ("events.>.b", false, false),
            ("events.a*", false, false),
            ("events>", false, false),
        ] {
            assert_eq!(subject_problem(subject, true).is_none(), as_filter, "{subject:?}");
            assert_eq!(subject_problem(subject, false).is_none(), as_subject, "{subject:?}");
        }
    }

    #[test]
    fn overlaps() {
        for (one, other, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.*", "a.b.c", false),
            ("a.*", "*.b", true),
            ("a.*.c", "a.b.>", true),
            (">", "a.b", true),
            ("a.b", "a.b.c", false),
            ("*.x", "a.y", false),
        ] {
            assert_eq!(subjects_overlap(one, other), expected, "{one} {other}");
            assert_eq!(subjects_overlap(other, one), expected, "{other} {one}");
        }
    }
}
