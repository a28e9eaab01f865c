//! What a command says to the person or program that called it: results on stdout, its last word on stderr.

use std::io::Write as _;
use std::process::ExitCode;

/// The exit code of a command that failed at work.
const FAILED: u8 = 1;
/// The arguments or the configuration are wrong. Also what clap exits with.
const USAGE: u8 = 2;

/// A line of a result. A reader that has gone away is no error of ours.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// How a command gets on: beside its result, not in it.
#[cfg(feature = "local-stack")]
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Why a command ends without a result.
pub(crate) fn error(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "error: {message}");
}

/// Says what is wrong with arguments or configuration, and gives the exit code for it.
pub(crate) fn usage(message: &str) -> ExitCode {
    error(message);
    ExitCode::from(USAGE)
}

/// Says what failed at work, and gives the exit code for it.
pub(crate) fn fail(message: &str) -> ExitCode {
    error(message);
    ExitCode::from(FAILED)
}
