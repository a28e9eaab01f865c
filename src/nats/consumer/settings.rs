//! What a consumer's settings must be, so that the promises can be kept.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, FromConsumer, PriorityPolicy, ReplayPolicy, pull};

use crate::config::{DEFAULT_BATCH_ROWS, PipelineConfig};

/// No limit: JetStream redelivers until an event is settled, and what is held is bounded by the byte budget of each
/// worker. A limit here would lose events quietly (`max_deliver`), or stall workers that are added (`max_ack_pending`).
const UNLIMITED: i64 = -1;

/// A pull is open for this long at least, in which several heartbeats fit.
const LEAST_EXPIRES: Duration = Duration::from_secs(5);

/// The consumer that a pipeline makes where there is none.
pub(super) fn wanted(pipeline: &PipelineConfig) -> pull::Config {
    let new = pull::Config {
        durable_name: Some(pipeline.durable.clone()),
        description: Some(format!("nats-sql-sink, pipeline {}", pipeline.name)),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    with_ours(new, pipeline)
}

/// What a consumer that exists is to become: what is not ours to say stays as it is. `None` where nothing has to change.
pub(super) fn brought_in_line(existing: &Config, pipeline: &PipelineConfig) -> Option<pull::Config> {
    let is_in_line = filters(&existing.filter_subject, &existing.filter_subjects) == wanted_filters(pipeline)
        && existing.ack_wait == pipeline.ack_wait
        && existing.max_deliver == UNLIMITED
        && existing.max_ack_pending == UNLIMITED
        && existing.backoff.is_empty()
        && existing.inactive_threshold.is_zero()
        && existing.max_batch == 0
        && existing.max_bytes == 0
        && existing.max_expires.is_zero()
        && existing.rate_limit == 0;
    if is_in_line {
        return None;
    }
    let existing = pull::Config::try_from_consumer_config(existing.clone()).ok()?;
    Some(with_ours(existing, pipeline))
}

fn with_ours(mut config: pull::Config, pipeline: &PipelineConfig) -> pull::Config {
    config.ack_wait = pipeline.ack_wait;
    config.max_deliver = UNLIMITED;
    config.max_ack_pending = UNLIMITED;
    config.backoff = Vec::new();
    // It would delete the consumer, and what it knows, while no worker is there.
    config.inactive_threshold = Duration::ZERO;
    (config.max_batch, config.max_bytes, config.max_expires) = (0, 0, Duration::ZERO);
    config.rate_limit = 0;
    (config.filter_subject, config.filter_subjects) = match pipeline.subjects.as_slice() {
        [subject] => (subject.clone(), Vec::new()),
        subjects => (String::new(), subjects.to_vec()),
    };
    config
}

/// What cannot be changed on an existing consumer, and would break a promise.
pub(super) fn conflict(existing: &Config) -> Option<&'static str> {
    if existing.deliver_subject.is_some() {
        return Some("is a push consumer");
    }
    if existing.ack_policy != AckPolicy::Explicit {
        return Some("does not ask for explicit acknowledgements, so a crash would lose events");
    }
    if existing.headers_only {
        return Some("delivers headers without payloads");
    }
    if existing.replay_policy == ReplayPolicy::Original {
        return Some("replays events at the speed at which they were published");
    }
    if existing.priority_policy != PriorityPolicy::None {
        return Some("has a priority policy, by which workers would get nothing");
    }
    if matches!(existing.max_waiting, 1) {
        return Some("lets one pull wait (max_waiting), and each worker has two");
    }
    None
}

/// Settings of a consumer that somebody else looks after, by which a promise could not be kept, with what they must be.
pub(super) fn refusals(existing: &Config, pipeline: &PipelineConfig) -> Vec<String> {
    let mut refusals = Vec::new();
    let mut refuse = |is_refused: bool, text: String| {
        if is_refused {
            refusals.push(text);
        }
    };
    refuse(
        existing.max_deliver > 0,
        format!(
            "max_deliver is {}, and must be unlimited (-1): JetStream would drop events",
            existing.max_deliver
        ),
    );
    let least =
        existing.backoff.iter().min().map_or(existing.ack_wait, |least| *least.min(&existing.ack_wait));
    refuse(
        least < pipeline.ack_wait,
        format!(
            "ack_wait (or the shortest backoff) is {}, and must be at least the {} of the configuration: what is held \
             would be delivered again",
            humantime::format_duration(least),
            humantime::format_duration(pipeline.ack_wait)
        ),
    );
    let rows = pipeline.batch.max_rows.unwrap_or(DEFAULT_BATCH_ROWS);
    refuse(
        (1..).contains(&existing.max_ack_pending)
            && usize::try_from(existing.max_ack_pending).is_ok_and(|most| most < rows),
        format!(
            "max_ack_pending is {}, and must be unlimited (-1), or at least what all workers hold: not even one batch of {} \
             rows could fill",
            existing.max_ack_pending, rows
        ),
    );
    refuse(
        !existing.inactive_threshold.is_zero(),
        format!(
            "inactive_threshold is {}, and must be 0: JetStream would delete the consumer while no worker is there",
            humantime::format_duration(existing.inactive_threshold)
        ),
    );
    let (has, wanted) =
        (filters(&existing.filter_subject, &existing.filter_subjects), wanted_filters(pipeline));
    refuse(has != wanted, format!("its filters are {has:?}, and must be {wanted:?}"));
    refuse(
        !existing.max_expires.is_zero() && existing.max_expires < LEAST_EXPIRES,
        format!(
            "max_expires is {}, and must be at least {}",
            humantime::format_duration(existing.max_expires),
            humantime::format_duration(LEAST_EXPIRES)
        ),
    );
    refusals
}

/// What is not as it should be, and may be meant so. Said once at start.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.inactive_threshold.is_zero() {
        warnings.push(format!(
            "the stream gives it an inactive_threshold: it is deleted when no worker was there for {}, and what is still in \
             the stream is written again then",
            humantime::format_duration(config.inactive_threshold)
        ));
    }
    if config.memory_storage {
        warnings.push(
            "it is kept in memory: when its server stops, what is still in the stream is written again"
                .to_owned(),
        );
    }
    if config.max_ack_pending > 0 {
        warnings.push(format!(
            "max_ack_pending = {}: all workers together hold no more events than that",
            config.max_ack_pending
        ));
    }
    for (limit, is_set) in [("max_batch", config.max_batch > 0), ("max_bytes", config.max_bytes > 0)] {
        if is_set {
            warnings.push(format!("it has a {limit}: pulls are made smaller"));
        }
    }
    warnings
}

fn wanted_filters(pipeline: &PipelineConfig) -> Vec<String> {
    filters("", &pipeline.subjects)
}

fn filters(one: &str, many: &[String]) -> Vec<String> {
    let mut all: Vec<String> = many.to_vec();
    if !one.is_empty() {
        all.push(one.to_owned());
    }
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn pipeline() -> PipelineConfig {
        let text = r#"
[sql]
server = "127.0.0.1"
database = "d"
auth = { method = "sql_login", user = "u", password_file = "p" }
[[pipeline]]
name = "p"
stream = "S"
durable = "d"
subjects = ["b.>", "a.*"]
schema = "s.toml"
table = "t"
batch = { max_rows = 1000 }
dead_letter = { stream = "D", subject = "dead" }
"#;
        let config = crate::config::Config::from_toml(text, Path::new("/sink.toml"), &|_| None);
        config.expect("a configuration").pipelines.remove(0)
    }

    /// As the server tells it back.
    fn good() -> Config {
        let wanted = wanted(&pipeline());
        Config {
            durable_name: wanted.durable_name,
            ack_policy: wanted.ack_policy,
            ack_wait: wanted.ack_wait,
            max_deliver: -1,
            max_ack_pending: -1,
            filter_subjects: vec!["a.*".to_owned(), "b.>".to_owned()],
            max_waiting: 512,
            ..Config::default()
        }
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let pipeline = pipeline();
        assert!(brought_in_line(&good(), &pipeline).is_none());
        assert_eq!(conflict(&good()), None);
        assert_eq!(refusals(&good(), &pipeline), Vec::<String>::new());
        assert_eq!(warnings(&good()), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_ours_stays() {
        let existing = Config {
            max_deliver: 5,
            inactive_threshold: Duration::from_secs(60),
            backoff: vec![Duration::from_secs(1)],
            description: Some("theirs".to_owned()),
            num_replicas: 3,
            ..good()
        };
        let changed = brought_in_line(&existing, &pipeline()).expect("it is changed");
        assert_eq!(
            (changed.max_deliver, changed.inactive_threshold, changed.backoff),
            (-1, Duration::ZERO, vec![])
        );
        assert_eq!((changed.description.as_deref(), changed.num_replicas), (Some("theirs"), 3));
    }

    #[test]
    fn what_breaks_a_promise_is_refused_where_it_is_not_ours_to_change() {
        let pipeline = pipeline();
        let second = Duration::from_secs(1);
        for (config, expected) in [
            (Config { max_deliver: 5, ..good() }, "max_deliver is 5"),
            (Config { ack_wait: second, ..good() }, "ack_wait (or the shortest backoff) is 1s"),
            (Config { backoff: vec![second], ..good() }, "ack_wait (or the shortest backoff) is 1s"),
            (Config { max_ack_pending: 999, ..good() }, "max_ack_pending is 999"),
            (Config { inactive_threshold: second, ..good() }, "inactive_threshold is 1s"),
            (Config { filter_subjects: vec!["a.>".to_owned()], ..good() }, "its filters are"),
            (Config { max_expires: second, ..good() }, "max_expires is 1s"),
        ] {
            let refusals = refusals(&config, &pipeline);
            assert!(refusals.len() == 1 && refusals[0].starts_with(expected), "{refusals:?}");
            assert!(brought_in_line(&config, &pipeline).is_some(), "{expected}");
        }
        let ample = Config { max_ack_pending: 100_000, ack_wait: 100 * second, ..good() };
        assert_eq!(refusals(&ample, &pipeline), Vec::<String>::new());
        assert_eq!(warnings(&ample).len(), 1);
    }

    #[test]
    fn what_cannot_be_changed_is_a_conflict() {
        for config in [
            Config { deliver_subject: Some("x".to_owned()), ..good() },
            Config { ack_policy: AckPolicy::None, ..good() },
            Config { headers_only: true, ..good() },
            Config { replay_policy: ReplayPolicy::Original, ..good() },
            Config { priority_policy: PriorityPolicy::Overflow, ..good() },
            Config { max_waiting: 1, ..good() },
        ] {
            assert!(conflict(&config).is_some(), "{config:?}");
        }
    }
}
