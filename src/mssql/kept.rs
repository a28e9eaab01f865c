//! The secret that the database took last, for when the one in the file is not good: half written, or not known to the
//! database yet.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disposition::{self, Disposition, Duplicates};
use crate::error::{Error, ErrorKind};
use crate::identity::{SqlCredential, Stamp};
use crate::telemetry;

/// What a connector has logged in with.
#[derive(Debug, Default)]
pub(super) struct Kept {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    credential: Option<(SqlCredential, Stamp)>,
    /// Said of the one in the file.
    said: Option<String>,
}

impl Kept {
    /// The database took this one.
    pub(super) fn took(&self, credential: SqlCredential, stamp: Stamp) {
        *self.state() = State { credential: Some((credential, stamp)), said: None };
    }

    /// The one that it took, where that is another than `fresh`.
    pub(super) fn other_than(&self, fresh: Option<&SqlCredential>) -> Option<(SqlCredential, Stamp)> {
        let (kept, stamp) = self.state().credential.clone()?;
        match fresh {
            Some(fresh) if kept.is(fresh) => None,
            _ => Some((kept, stamp)),
        }
    }

    /// Says once why the one in the file is not used.
    pub(super) fn say(&self, refused: &Error) {
        let text = telemetry::describe(refused);
        let mut state = self.state();
        if state.said.as_ref() != Some(&text) {
            tracing::warn!(error = %text, "the new secret of the database cannot be used, logged in with the former one");
            state.said = Some(text);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another secret could help.
pub(super) fn may_be_the_secret(error: &Error) -> bool {
    error.kind == ErrorKind::Credential
        || disposition::disposition(error, Duplicates::default()) == Disposition::Reauthenticate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Phase;
    use crate::identity::Secret;

    const STAMP: Stamp = Stamp { generation: 1, ends: None };

    fn login(password: &str) -> SqlCredential {
        SqlCredential::SqlLogin { user: "sink".to_owned(), password: Secret::new(password) }
    }

    #[test]
    fn the_former_secret_is_tried_only_where_it_is_another() {
        let kept = Kept::default();
        assert!(kept.other_than(None).is_none(), "there is none yet");
        kept.took(login("first"), STAMP);
        assert!(kept.other_than(Some(&login("first"))).is_none());
        assert!(kept.other_than(Some(&login("second"))).is_some());
        assert!(kept.other_than(None).is_some(), "the file cannot be read");
    }

    #[test]
    fn only_errors_that_another_secret_could_mend_lead_to_it() {
        for (kind, expected) in [
            (ErrorKind::Credential, true),
            (ErrorKind::Server { number: 18456, class: 14 }, true),
            (ErrorKind::Server { number: 4060, class: 11 }, false),
            (ErrorKind::SqlIo(std::io::ErrorKind::TimedOut), false),
        ] {
            assert_eq!(
                may_be_the_secret(&Error::new(Phase::Connect, kind.clone(), "")),
                expected,
                "{kind:?}"
            );
        }
    }
}
