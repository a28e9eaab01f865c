//! `dlq replay`: the events of letters go back to the streams that they came from.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::error::Error as _;
use std::hash::BuildHasher as _;

use anyhow::{Context as _, bail};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, Context};
use serde_json::json;

use super::letter::Letter;
use super::{Letters, Search, Which};
use crate::config::Config;
use crate::error::Phase;
use crate::nats::consumer;
use crate::output;

/// What is to be done with the letters that are meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) delete: bool,
    pub(super) dry_run: bool,
}

/// How far it has come: to be told however it ends.
#[derive(Debug, Default)]
pub(super) struct Tally {
    replayed: u64,
    left_alone: u64,
}

impl Tally {
    pub(super) fn summary(&self) -> String {
        json!({ "replayed": self.replayed, "left": self.left_alone }).to_string()
    }
}

/// Replays the letters that are meant. A letter whose event cannot go back is left as it is, and keeps no other from it. `tally`
/// gets a value when it begins.
pub(super) async fn replay(
    jetstream: &Context,
    config: &Config,
    which: &Which,
    what: What,
    tally: &mut Option<Tally>,
) -> anyhow::Result<()> {
    let pipelines = which.pipelines(config)?;
    let tally = tally.insert(Tally::default());
    let (mut search, mut published) = (Search::of(which), Published::default());
    for pipeline in pipelines {
        let stream = consumer::stream(jetstream, &pipeline.dead_letter.stream, Phase::DeadLetter).await?;
        let mut letters = Letters::of(jetstream, &stream, pipeline);
        while let Some(letter) = search.next(&mut letters).await? {
            let said = match letter.message(pipeline) {
                Err(why) => Err(why.to_owned()),
                Ok(_) if what.dry_run => Ok("would be published again".to_owned()),
                Ok(message) => publish(jetstream, &letter, message, &mut published).await?,
            };
            match said {
                Ok(said) => {
                    tally.replayed += 1;
                    output::line(&format!("{} {said}", letter.line()));
                    if what.delete && !what.dry_run {
                        remove(&stream, letter.sequence()).await?;
                    }
                }
                Err(why) => {
                    tally.left_alone += 1;
                    output::line(&format!("{} left as it is: {why}", letter.line()));
                }
            }
        }
    }
    let left = (tally.left_alone > 0).then(|| format!("{} letters were left as they are", tally.left_alone));
    let wrong: Vec<String> = left.into_iter().chain(search.not_found()).collect();
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!(wrong.join("; ")),
    }
}

/// Publishes an event again: what was done, or why it was not. An error is what concerns the next letter as well.
async fn publish(
    jetstream: &Context,
    letter: &Letter,
    message: PublishMessage,
    published: &mut Published,
) -> anyhow::Result<Result<String, String>> {
    let subject = letter.subject().to_owned();
    let confirmed = match jetstream.send_publish(subject.clone(), message).await {
        Ok(confirmation) => confirmation.await,
        Err(error) => Err(error),
    };
    match confirmed {
        Ok(confirmed) => Ok(published.confirm(letter, &confirmed)),
        Err(error) => match refusal(&error) {
            Some(why) => Ok(Err(why)),
            None => Err(error).with_context(|| {
                format!(
                    "publishing the event of the letter {} on {subject:?} (it may be stored: run it again within the \
                     duplicate window)",
                    letter.sequence()
                )
            }),
        },
    }
}

/// What was answered, where the answer is that this event is not taken. The server's words hold no value of an event.
fn refusal(error: &PublishError) -> Option<String> {
    match error.kind() {
        PublishErrorKind::StreamNotFound => {
            Some("no stream takes its subject, or the one that does has no leader now".to_owned())
        }
        PublishErrorKind::MaxPayloadExceeded
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence => Some(error.to_string()),
        PublishErrorKind::Other => {
            let source = error.source()?;
            if source.is::<serde_json::Error>() {
                return Some("what answers on its subject is no stream".to_owned());
            }
            let answer = source.downcast_ref::<jetstream::Error>()?;
            Some(format!("the stream refuses it: {answer}"))
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => None,
    }
}

async fn remove(stream: &Stream, sequence: u64) -> anyhow::Result<()> {
    let removed = stream.delete_message(sequence).await.with_context(|| {
        format!(
            "removing the letter {sequence}, whose event is published: run it again within the duplicate window, after \
             that it would be published twice"
        )
    })?;
    match removed {
        true => Ok(()),
        false => bail!("the stream did not remove the letter {sequence}, whose event is published"),
    }
}

/// Where this command has published which event. It tells apart events that share a message id: the stream takes the second
/// for the first one.
#[derive(Debug, Default)]
struct Published {
    events: HashMap<(String, u64), u64>,
    hasher: RandomState,
}

impl Published {
    /// What a confirmation says about a letter: that its event is published again, or why it is not.
    fn confirm(&mut self, letter: &Letter, confirmed: &PublishAck) -> Result<String, String> {
        let PublishAck { stream, sequence, duplicate, .. } = confirmed;
        let event = self.hasher.hash_one((letter.subject(), letter.payload()));
        if !duplicate {
            self.events.insert((stream.clone(), *sequence), event);
            return Ok(format!("published again, at {sequence} of {stream}"));
        }
        // 0 stands for a message that is not stored yet
        if *sequence == 0 || letter.event_sequence() == Some(*sequence) {
            return Err(format!(
                "its stream still has it in the duplicate window, at {sequence}: try again when that is over"
            ));
        }
        match self.events.get(&(stream.clone(), *sequence)) {
            Some(other) if *other != event => Err(format!(
                "another event with the same message id was just published, at {sequence}: try again when the duplicate \
                 window is over"
            )),
            Some(_) | None => Ok(format!("was published again before, at {sequence} of {stream}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::tests::letter;
    use crate::nats::dead_letter::{SEQUENCE, SUBJECT};

    fn confirmed(sequence: u64, duplicate: bool) -> PublishAck {
        PublishAck { stream: "S".to_owned(), sequence, duplicate, ..PublishAck::default() }
    }

    #[test]
    fn a_duplicate_that_is_elsewhere_than_the_event_was_published_again_before() {
        let (letter, mut published) = (letter(&[]), Published::default());
        let first = published.confirm(&letter, &confirmed(9, false));
        assert_eq!(first, Ok("published again, at 9 of S".to_owned()));
        // by this command for another letter of the same event, or by one before it
        for mut published in [published, Published::default()] {
            let again = published.confirm(&letter, &confirmed(9, true));
            assert_eq!(again, Ok("was published again before, at 9 of S".to_owned()));
        }
    }

    #[test]
    fn an_event_that_is_itself_in_the_duplicate_window_waits() {
        for sequence in [7, 0] {
            let why =
                Published::default().confirm(&letter(&[]), &confirmed(sequence, true)).expect_err("why");
            assert!(why.contains("try again when that is over"), "{why}");
        }
    }

    #[test]
    fn another_event_with_the_same_message_id_is_not_taken_for_replayed() {
        let mut published = Published::default();
        published.confirm(&letter(&[]), &confirmed(9, false)).expect("it is published");
        let other = letter(&[(SEQUENCE, "8"), (SUBJECT, "a.c")]);
        let why = published.confirm(&other, &confirmed(9, true)).expect_err("why");
        assert!(why.contains("another event with the same message id"), "{why}");
    }

    fn answer(code: u64) -> PublishError {
        let text = format!(r#"{{"code":400,"err_code":{code},"description":"said by the server"}}"#);
        let answer: jetstream::Error = serde_json::from_str(&text).expect("an answer");
        PublishError::with_source(PublishErrorKind::Other, answer)
    }

    #[test]
    fn what_the_server_answers_concerns_one_letter() {
        // too large, another stream, sealed, full, and what nobody knows
        for code in [10_054, 10_060, 10_109, 10_077, 99_999] {
            let why = refusal(&answer(code)).expect("it is definite");
            assert!(
                why.contains("refuses it: said by the server") && why.contains(&code.to_string()),
                "{why}"
            );
        }
        for kind in [
            PublishErrorKind::StreamNotFound,
            PublishErrorKind::MaxPayloadExceeded,
            PublishErrorKind::WrongLastMessageId,
            PublishErrorKind::WrongLastSequence,
        ] {
            assert!(refusal(&PublishError::new(kind)).is_some(), "{kind}");
        }
        let unreadable = serde_json::from_str::<u8>("canary").expect_err("no number");
        let unreadable = PublishError::with_source(PublishErrorKind::Other, unreadable);
        assert_eq!(refusal(&unreadable), Some("what answers on its subject is no stream".to_owned()));
    }

    #[test]
    fn what_is_not_answered_concerns_all() {
        for kind in
            [PublishErrorKind::TimedOut, PublishErrorKind::BrokenPipe, PublishErrorKind::MaxAckPending]
        {
            assert_eq!(refusal(&PublishError::new(kind)), None, "{kind}");
        }
        // the client has ended
        assert_eq!(refusal(&PublishError::new(PublishErrorKind::Other)), None);
        let ended = PublishError::with_source(PublishErrorKind::Other, "channel closed");
        assert_eq!(refusal(&ended), None);
    }

    #[test]
    fn the_summary_is_an_object() {
        let tally = Tally { replayed: 2, left_alone: 1 };
        assert_eq!(tally.summary(), r#"{"left":1,"replayed":2}"#);
    }
}
