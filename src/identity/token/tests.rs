//! The cache, with a provider that does as it is told.

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;

type Answer = Result<(&'static str, Option<Duration>), TokenError>;

/// Gives these answers one after the other, then the last one again.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<usize>,
    is_local: bool,
    /// How long an answer takes.
    takes: Duration,
}

impl Scripted {
    fn of(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
    }
}

impl Provider for Arc<Scripted> {
    fn is_local(&self) -> bool {
        self.is_local
    }

    async fn fetch(&self) -> Result<Fetched, TokenError> {
        *self.asked.lock().unwrap() += 1;
        tokio::time::sleep(self.takes).await;
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.expect("an answer").map(|(text, life)| Fetched {
            secret: Secret::new(text),
            ends: life.map(|life| SystemTime::now() + life),
        })
    }
}

fn cache(provider: Scripted) -> (TokenCache<Arc<Scripted>>, Arc<Scripted>) {
    let provider = Arc::new(provider);
    (TokenCache::new(Arc::clone(&provider)), provider)
}

fn asked(provider: &Scripted) -> usize {
    *provider.asked.lock().unwrap()
}

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

fn away() -> Answer {
    Err(TokenError::unavailable("away"))
}

#[test]
fn a_token_is_renewed_in_the_middle_of_its_life() {
    let after = |left, draw| refresh_after(left, draw);
    assert_eq!(after(HOUR, 0.0), Duration::from_secs(1800));
    assert_eq!(after(HOUR, 1.0), Duration::from_secs(2160));
    assert_eq!(after(Some(Duration::from_secs(8)), 0.0), Duration::from_secs(4));
    assert_eq!(after(Some(Duration::ZERO), 0.0), SOONEST);
    assert_eq!(after(None, 0.5), LOOK);
}

#[tokio::test]
async fn many_that_want_a_token_make_one_request() {
    let (cache, provider) =
        cache(Scripted { takes: Duration::from_millis(50), ..Scripted::of([Ok(("one", HOUR))]) });
    let all = futures_util::future::join_all((0..20).map(|_| cache.token())).await;
    assert!(all.iter().all(|token| token.as_ref().is_ok_and(|token| token.secret.expose() == "one")));
    assert_eq!(asked(&provider), 1);
}

#[tokio::test]
async fn many_that_want_a_token_in_vain_make_one_request_too() {
    let (cache, provider) = cache(Scripted { takes: Duration::from_millis(50), ..Scripted::of([away()]) });
    let all = futures_util::future::join_all((0..20).map(|_| cache.token())).await;
    assert!(all.iter().all(|token| token.as_ref().is_err_and(|error| error.reason == "away")));
    // the first wait is drawn from nothing on, so that some may ask again
    assert!(asked(&provider) < 5, "{}", asked(&provider));
}

#[tokio::test]
async fn an_old_token_is_kept_while_it_is_good_and_the_next_one_makes_sessions_end() {
    // GIVEN a token that is due, and nobody who gives another
    let (cache, provider) = cache(Scripted::of([Ok(("one", HOUR)), away(), Ok(("two", HOUR))]));
    let one = cache.token().await.expect("a token");
    assert!(cache.is_current(&one.stamp));
    cache.expire();
    assert!(cache.renew(Some(one.stamp.generation)).await.is_err());
    // THEN it is the one that is used
    assert_eq!(cache.token().await.expect("a token").stamp, one.stamp);
    assert!(cache.is_current(&one.stamp));
    // WHEN there is another
    cache.expire();
    let two = cache.renew(Some(one.stamp.generation)).await.expect("a token");
    // THEN sessions of the first are not used on
    assert_eq!(two.secret.expose(), "two");
    assert!(cache.is_current(&two.stamp) && !cache.is_current(&one.stamp));
    assert_eq!(asked(&provider), 3);
}

#[tokio::test]
async fn the_same_token_once_more_is_no_other() {
    // a managed identity has it from a cache of the machine
    let (cache, _) = cache(Scripted::of([Ok(("one", HOUR))]));
    let one = cache.token().await.expect("a token");
    let again = cache.renew(Some(one.stamp.generation)).await.expect("a token");
    assert_eq!(again.stamp.generation, one.stamp.generation);
    assert!(cache.is_current(&one.stamp));
}

#[tokio::test]
async fn a_token_at_its_end_is_not_used() {
    let short = Some(LAST_LOGIN / 2);
    let (cache, provider) = cache(Scripted::of([Ok(("one", short)), Ok(("two", HOUR))]));
    let one = cache.token().await.expect("a token");
    assert!(!cache.is_current(&one.stamp));
    assert_eq!(cache.token().await.expect("a token").secret.expose(), "two");
    assert_eq!(asked(&provider), 2);
    // one that has ended already is none
    let (cache, _) = super::tests::cache(Scripted::of([Ok(("late", Some(Duration::ZERO)))]));
    let error = cache.token().await.expect_err("it has ended");
    assert_eq!(error.kind, TokenErrorKind::Refused);
}

#[tokio::test]
async fn a_refused_token_is_exchanged_once() {
    let (cache, provider) = cache(Scripted::of([Ok(("one", HOUR)), Ok(("two", HOUR)), Ok(("three", HOUR))]));
    let one = cache.token().await.expect("a token");
    cache.refused(&one.stamp);
    let two = cache.token().await.expect("a token");
    assert_eq!(two.secret.expose(), "two");
    // somebody else was refused with the first, later
    cache.refused(&one.stamp);
    assert_eq!(cache.token().await.expect("a token").stamp, two.stamp);
    // and the second is refused as well: it is not for its age
    cache.refused(&two.stamp);
    assert_eq!(cache.token().await.expect("a token").stamp, two.stamp);
    assert_eq!(asked(&provider), 2);
}

#[tokio::test]
async fn a_file_is_read_for_each_login_and_what_cannot_be_read_changes_nothing() {
    let answers = [Ok(("one", None)), Ok(("two", None)), Err(TokenError::refused("half written"))];
    let (cache, provider) = cache(Scripted { is_local: true, ..Scripted::of(answers) });
    for expected in ["one", "two", "two"] {
        assert_eq!(cache.token().await.expect("a token").secret.expose(), expected);
    }
    assert_eq!(asked(&provider), 3);
}

#[tokio::test]
async fn it_is_kept_fresh_without_anybody_asking() {
    // tokens of two seconds are renewed after one
    let life = Some(Duration::from_secs(2));
    let (cache, provider) = cache(Scripted::of([Ok(("one", life)), Ok(("two", life)), Ok(("three", HOUR))]));
    let fresh = async {
        while asked(&provider) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = cache.keep_fresh() => {}
        () = fresh => {}
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("asked {} times", asked(&provider)),
    }
    let token = cache.token().await.expect("a token");
    assert_eq!(token.secret.expose(), "three");
    let (age, left) = cache.age().expect("there is one");
    assert!(age < Duration::from_secs(5) && left.is_some_and(|left| left > Duration::from_secs(3500)));
}

#[test]
fn a_token_is_tried_for_several_times_before_it_ends() {
    let (cache, _) = cache(Scripted::of([away()]));
    let mut state = cache.state();
    state.accept(Fetched {
        secret: Secret::new("one"),
        ends: Some(SystemTime::now() + Duration::from_secs(8)),
    });
    for _ in 0..20 {
        assert!(state.fail(TokenError::refused("no")) <= Duration::from_secs(2));
    }
    assert!(state.withheld().is_some());
}

#[tokio::test]
async fn a_provider_that_panics_is_one_that_is_away() {
    // without an answer the script panics
    let (cache, provider) = cache(Scripted::default());
    let error = cache.token().await.expect_err("there is no token");
    assert_eq!((error.kind, asked(&provider)), (TokenErrorKind::Unavailable, 1));
}

#[tokio::test]
async fn only_the_token_that_was_refused_is_distrusted() {
    let (cache, provider) = cache(Scripted::of([Ok(("one", HOUR)), Ok(("two", HOUR))]));
    cache.token().await.expect("a token");
    cache.distrust(&Secret::new("another"));
    assert_eq!(cache.token().await.expect("a token").secret.expose(), "one");
    cache.distrust(&Secret::new("one"));
    assert_eq!(cache.token().await.expect("a token").secret.expose(), "two");
    assert_eq!(asked(&provider), 2);
}
