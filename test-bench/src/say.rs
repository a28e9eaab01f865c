//! What is said to whoever called: results on stdout, how it gets on on stderr.

use std::io::Write as _;

/// A line of a result. A reader that has gone away is no error of ours.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// How it gets on.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
