//! What `check` finds, printed as it is found.

use crate::error::Result;
use crate::output;
use crate::telemetry;

/// What was found. Each finding is printed when it is made.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) failed: usize,
    /// What is too much counts as failed.
    is_strict: bool,
}

impl Findings {
    pub(super) fn new(is_strict: bool) -> Self {
        Self { failed: 0, is_strict }
    }

    fn print(level: &str, about: &str, text: &str) {
        output::line(&format!("{level:<7}  {about}: {text}"));
    }

    pub(super) fn good(about: &str, text: &str) {
        Self::print("ok", about, text);
    }

    /// What was decided, and why.
    pub(super) fn note(about: &str, text: &str) {
        Self::print("note", about, text);
    }

    pub(super) fn warning(about: &str, text: &str) {
        Self::print("warning", about, text);
    }

    /// Something keeps the worker from working.
    pub(super) fn failed(&mut self, about: &str, text: &str) {
        self.failed += 1;
        Self::print("FAILED", about, text);
    }

    /// Somebody may do more than is needed.
    pub(super) fn too_much(&mut self, about: &str, text: &str) {
        match self.is_strict {
            true => self.failed(about, text),
            false => Self::warning(about, text),
        }
    }

    /// Prints the error, or hands on what was found.
    pub(super) fn of<T>(&mut self, about: &str, found: Result<T>) -> Option<T> {
        match found {
            Ok(found) => Some(found),
            Err(error) => {
                self.failed += 1;
                Self::print("FAILED", about, &telemetry::describe(&error));
                None
            }
        }
    }
}
