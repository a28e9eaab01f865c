use std::path::Path;

use super::*;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::identity::files::Content;
use crate::identity::{IdentityError, Lifetime};

/// A plane whose file and server are what a test says.
struct Said {
    held: Seen,
    /// `None` where the file cannot be used.
    file: Option<Seen>,
    is_refused: bool,
    is_away: bool,
    trials: usize,
}

fn seen(content: u8, expires_at: Option<SystemTime>) -> Seen {
    let lifetime = Lifetime { issued_at: None, expires_at };
    Seen { fingerprint: [content; 32], lifetime, read_at: SystemTime::now() }
}

impl Plane for Said {
    const NAME: &'static str = "nats";

    async fn look(&self) -> std::result::Result<Seen, IdentityError> {
        match &self.file {
            Some(seen) => Ok(seen.clone()),
            None => crate::identity::files::look([(
                Content::Secret,
                "nats.token_file",
                Path::new("/does/not/exist"),
            )]),
        }
    }

    fn held(&self) -> Seen {
        self.held.clone()
    }

    fn told(&self) -> Option<Seen> {
        Some(self.held())
    }

    async fn adopt(&mut self, seen: &Seen) -> Result<bool> {
        self.trials += 1;
        if self.is_refused {
            return Err(Error::new(Phase::Nats, ErrorKind::NatsRefused, "no"));
        }
        if self.is_away {
            return Err(Error::new(Phase::Nats, ErrorKind::NatsUnavailable, "away"));
        }
        self.held = seen.clone();
        Ok(true)
    }

    async fn trouble(&mut self) -> Option<String> {
        None
    }
}

fn rotation() -> Rotation<Said> {
    let text = "[sql]\nserver = \"localhost\"\ndatabase = \"d\"\nauth = { method = \"sql_login\" }\n";
    let of = Rotations {
        config: Arc::new(toml::from_str(text).expect("a configuration")),
        hangups: watch::channel(0).1,
        credentials: Credentials::default(),
        shutdown: Shutdown::new(),
    };
    let plane =
        Said { held: seen(1, None), file: Some(seen(1, None)), is_refused: false, is_away: false, trials: 0 };
    Rotation { plane, of }
}

#[tokio::test]
async fn what_is_new_counts_at_the_second_look_or_when_it_is_asked_for() {
    let (mut rotation, mut findings) = (rotation(), Findings::default());
    rotation.look(&mut findings, false).await;
    rotation.plane.file = Some(seen(2, None));
    rotation.look(&mut findings, false).await;
    assert_eq!(rotation.plane.trials, 0, "it may be half of it");
    rotation.plane.file = Some(seen(3, None));
    rotation.look(&mut findings, false).await;
    assert_eq!(rotation.plane.trials, 0, "it was half of it");
    rotation.look(&mut findings, false).await;
    assert_eq!((rotation.plane.trials, rotation.plane.held.fingerprint), (1, [3; 32]));
    rotation.look(&mut findings, false).await;
    assert_eq!(rotation.plane.trials, 1, "it is in use");
    rotation.plane.file = Some(seen(4, None));
    rotation.look(&mut findings, true).await;
    assert_eq!((rotation.plane.trials, rotation.plane.held.fingerprint), (2, [4; 32]));
}

#[tokio::test]
async fn what_is_refused_is_said_and_not_tried_at_every_look() {
    let (mut rotation, mut findings) = (rotation(), Findings::default());
    (rotation.plane.file, rotation.plane.is_refused) = (Some(seen(2, None)), true);
    for _ in 0..4 {
        rotation.look(&mut findings, false).await;
    }
    assert_eq!((rotation.plane.trials, rotation.plane.held.fingerprint), (1, [1; 32]));
    rotation.tell(&mut findings);
    let [(plane, status)] = &rotation.of.credentials.snapshot()[..] else { panic!("one plane") };
    assert_eq!((*plane, status.problem.as_deref()), ("nats", Some("a new secret cannot be used: nats: no")));
    // WHEN the time is over THEN it is tried again
    let waited = |findings: &mut Findings, wait| {
        let refused = findings.refused.as_mut().expect("it was refused");
        assert_eq!(refused.wait, wait);
        refused.at = Instant::now().checked_sub(wait).expect("the machine is up for longer");
    };
    waited(&mut findings, TRY_AGAIN);
    rotation.look(&mut findings, false).await;
    assert_eq!(rotation.plane.trials, 2);
    // and again after twice as long
    waited(&mut findings, 2 * TRY_AGAIN);
    rotation.plane.is_refused = false;
    rotation.look(&mut findings, false).await;
    assert_eq!((rotation.plane.held.fingerprint, findings.problem), ([2; 32], None));
}

#[tokio::test]
async fn who_is_away_is_asked_sooner_than_who_refuses() {
    for (is_away, most) in [(true, TRY_AGAIN_MOST_AWAY), (false, TRY_AGAIN_MOST)] {
        let (mut rotation, mut findings) = (rotation(), Findings::default());
        rotation.plane.file = Some(seen(2, None));
        (rotation.plane.is_away, rotation.plane.is_refused) = (is_away, !is_away);
        for _ in 0..10 {
            // as somebody does who asks by a SIGHUP
            rotation.look(&mut findings, true).await;
        }
        assert_eq!(findings.refused.map(|refused| refused.wait), Some(most));
    }
}

#[tokio::test]
async fn what_has_ended_or_cannot_be_read_is_not_tried() {
    let (mut rotation, mut findings) = (rotation(), Findings::default());
    rotation.plane.file = Some(seen(2, Some(SystemTime::now() - Duration::from_secs(1))));
    rotation.look(&mut findings, true).await;
    assert_eq!(findings.problem.as_deref(), Some("a new secret cannot be used: it has ended already"));
    rotation.plane.file = None;
    rotation.look(&mut findings, true).await;
    let problem = findings.problem.clone().unwrap_or_default();
    assert!(
        problem.starts_with("a new secret cannot be used: nats.token_file: file /does/not/exist"),
        "{problem}"
    );
    assert_eq!(rotation.plane.trials, 0);
    // WHEN the former one is put back THEN nothing is wrong
    rotation.plane.file = Some(rotation.plane.held.clone());
    rotation.look(&mut findings, false).await;
    assert_eq!(findings.problem, None);
}
