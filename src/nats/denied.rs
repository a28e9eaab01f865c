//! What the server does not allow. It says so beside the request, and leaves that without an answer: what would look like a
//! server that is away is named here instead, for as long as it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::rights::nats::{NatsRights, Verb};
use crate::status::{Complaint, PipelineStatus};

/// A refusal that was not repeated for so long is over: longer than whatever is refused waits before it is tried again, with the
/// time-out of the try.
const OVER: Duration = Duration::from_secs(50);

/// What is refused now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Denials {
    state: Arc<Mutex<State>>,
    /// How many rights were found missing so far.
    found: Arc<watch::Sender<usize>>,
}

#[derive(Debug, Default)]
struct State {
    /// Who may be concerned, with what each needs.
    concerned: Vec<(PipelineStatus, NatsRights)>,
    /// What else is needed: it concerns all.
    common: NatsRights,
    refused: BTreeMap<(Verb, String), Refused>,
}

#[derive(Debug)]
struct Refused {
    text: String,
    last: Instant,
    /// Held for as long as it goes on.
    _complaints: Vec<Complaint>,
}

impl Denials {
    /// Of a connection that these pipelines share. A refusal is told to those that need what is refused, or to all where it is
    /// among what is `common`, or none is known to need it.
    pub fn of(concerned: Vec<(PipelineStatus, NatsRights)>, common: NatsRights) -> Self {
        let state = State { concerned, common, refused: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), found: Arc::default() }
    }

    /// Takes note of an error that the server has sent: `false` where it is no refusal.
    pub(super) fn met(&self, error: &str) -> bool {
        let Some((verb, subject)) = violation(error) else { return false };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { concerned, common, refused } = &mut *state;
        let needed: Vec<_> = concerned
            .iter()
            .filter_map(|(status, rights)| Some((status, rights.right_for(verb, subject)?)))
            .collect();
        let right = needed.first().map(|(_, right)| *right).or_else(|| common.right_for(verb, subject));
        let purpose = right.map(|right| format!(", for {}", right.purpose)).unwrap_or_default();
        // One for all subjects that a right is on: each acknowledgement has a subject of its own.
        let right = right.map_or(subject, |right| right.subject.as_str()).to_owned();
        if let Some(known) = refused.get_mut(&(verb, right.clone())) {
            known.last = Instant::now();
            return true;
        }
        let text = format!(
            "nats does not let this user {} on {right:?}{purpose}: `nats-sql-sink grants` prints what it needs",
            verb.as_str()
        );
        tracing::error!(right = %right, "{text}");
        let told: Vec<&PipelineStatus> = match needed.as_slice() {
            [] => concerned.iter().map(|(status, _)| status).collect(),
            needed => needed.iter().map(|(status, _)| *status).collect(),
        };
        let complaints =
            told.into_iter().map(|status| status.complain_after(Duration::ZERO, text.clone())).collect();
        refused.insert((verb, right), Refused { text, last: Instant::now(), _complaints: complaints });
        self.found.send_modify(|found| *found += 1);
        true
    }

    /// Forgets what is over. To be called about every second.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused.retain(|_, refused| refused.last.elapsed() < OVER);
    }

    /// Resolves when another right is found missing: whoever waits for an answer then waits in vain.
    pub async fn another(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.found.subscribe().changed().await;
    }

    /// What was refused, in words.
    pub fn texts(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.refused.values().map(|refused| refused.text.clone()).collect()
    }
}

/// Reads `Permissions Violation for Publish to "subject"`, and `for Subscription to "subject" using queue "queue"`. Source:
/// nats-server, `pubPermissionViolation` and `subPermissionViolation`.
fn violation(error: &str) -> Option<(Verb, &str)> {
    let (_, rest) = error.split_once("Permissions Violation for ")?;
    let (verb, rest) = match rest.split_once(" to \"")? {
        ("Publish", rest) => (Verb::Publish, rest),
        ("Subscription", rest) => (Verb::Subscribe, rest),
        _ => return None,
    };
    // a subject has no quote that ends it, other than one which a blank or the end follows
    let end = rest.find("\" ").or_else(|| rest.rfind('"'))?;
    Some((verb, &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rights::nats::SubjectRight;
    use crate::status::StatusBoard;

    const ACK: &str = "nats: Permissions Violation for Publish to \"$JS.ACK.S.d.1.2.3.4.5\"";

    #[test]
    fn a_refusal_is_read() {
        for (text, expected) in [
            (ACK, Some((Verb::Publish, "$JS.ACK.S.d.1.2.3.4.5"))),
            ("Permissions Violation for Subscription to \"a.*\"", Some((Verb::Subscribe, "a.*"))),
            (
                "Permissions Violation for Subscription to \"a\" using queue \"q\"",
                Some((Verb::Subscribe, "a")),
            ),
            ("Permissions Violation for Publish", None),
            ("maximum connections exceeded", None),
        ] {
            assert_eq!(violation(text), expected, "{text}");
        }
    }

    fn needing(subject: &str) -> NatsRights {
        let right = SubjectRight { subject: subject.to_owned(), purpose: "acknowledging" };
        NatsRights { publish: vec![right], ..NatsRights::default() }
    }

    #[tokio::test]
    async fn who_waits_hears_of_what_is_found_from_then_on() {
        let denials = Denials::default();
        assert!(denials.met(ACK));
        let waiting = tokio::spawn({
            let denials = denials.clone();
            async move { denials.another().await }
        });
        tokio::task::yield_now().await;
        denials.met(ACK);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "that is no other one");
        denials.met("Permissions Violation for Subscription to \"a\"");
        waiting.await.expect("it is heard");
    }

    #[test]
    fn it_is_told_to_who_needs_it_by_the_right_that_is_missing() {
        let board = StatusBoard::new();
        let (one, other) = (board.pipeline("one"), board.pipeline("other"));
        one.started();
        other.started();
        let concerned =
            vec![(one.clone(), needing("$JS.ACK.S.d.>")), (other.clone(), needing("$JS.ACK.S.e.>"))];
        let denials = Denials::of(concerned, NatsRights::default());
        assert!(denials.met(ACK));
        assert!(denials.met("Permissions Violation for Publish to \"$JS.ACK.S.d.1.9.9.9.5\""));
        assert_eq!(denials.texts().len(), 1, "one right is missing");
        let reason = one.snapshot().reason.expect("it is told");
        assert!(reason.contains("publish on \"$JS.ACK.S.d.>\", for acknowledging"), "{reason}");
        assert!(other.snapshot().is_ready());
        // what nobody is known to need concerns all
        assert!(denials.met("Permissions Violation for Subscription to \"a\""));
        assert!(other.snapshot().reason.is_some_and(|reason| reason.contains("subscribe on \"a\"")));
        assert!(!denials.met("maximum connections exceeded"));
        denials.refresh();
        assert_eq!(denials.texts().len(), 2, "it is not over yet");
    }
}
