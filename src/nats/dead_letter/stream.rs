//! Whether a stream keeps dead letters: what it takes, and what it removes.

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType, SubjectTransform,
};

use crate::config::subjects_overlap;

/// What makes it impossible to keep letters in this stream, and how to mend it.
///
/// `subjects` is the filter for the letters of one pipeline, `prefix` what the configuration says of them. Only what is
/// certain to lose letters is a refusal: the stream is somebody else's.
pub(super) fn refusal(info: &Info, prefix: &str, subjects: &str) -> Option<String> {
    let config = &info.config;
    if !config.subjects.iter().any(|pattern| covers(pattern, subjects)) {
        return Some(format!(
            "does not take all subjects below {prefix:?}: add \"{prefix}.>\" to the stream's subjects"
        ));
    }
    if config.no_ack {
        return Some("does not confirm what is published (no_ack): switch that off".to_owned());
    }
    if config.sealed {
        return Some("is sealed, and takes nothing any more: choose another one".to_owned());
    }
    if config.retention == RetentionPolicy::Interest && info.state.consumer_count == 0 {
        return Some(
            "keeps a message only for as long as a consumer wants it, and has no consumer: letters would be \
             lost. Make a consumer, or a stream with limits retention"
                .to_owned(),
        );
    }
    // One subject a letter tells whether it is there already: letters that share one would be taken for repeats.
    let keeps_apart = |transform: &SubjectTransform| {
        let source = if transform.source.is_empty() { ">" } else { &transform.source };
        !subjects_overlap(source, subjects) || (source.ends_with('>') && transform.destination.ends_with('>'))
    };
    if config.subject_transform.as_ref().is_some_and(|transform| !keeps_apart(transform)) {
        return Some(
            "transforms subjects so that letters may share one: let source and destination of the transform \
             end in \">\""
                .to_owned(),
        );
    }
    None
}

/// What may remove letters without anybody having read them. Said once at start: it may be meant so.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.discard == DiscardPolicy::Old {
        for (limit, is_set) in [("max_msgs", config.max_messages > 0), ("max_bytes", config.max_bytes > 0)] {
            if is_set {
                warnings.push(format!("it removes the oldest letters when {limit} is reached"));
            }
        }
    }
    if !config.max_age.is_zero() {
        let age = humantime::format_duration(config.max_age);
        warnings.push(format!("it removes letters when they are {age} old"));
    }
    if config.storage == StorageType::Memory {
        warnings.push("it is kept in memory, and lost when its server stops".to_owned());
    }
    if config.persist_mode == Some(PersistenceMode::Async) {
        warnings.push("it confirms letters before they are stored".to_owned());
    }
    if config.retention != RetentionPolicy::Limits {
        warnings.push("its consumers remove letters: a repeat of a removed one is stored again".to_owned());
    }
    warnings
}

/// Whether every subject that `filter` matches is matched by `pattern` too.
fn covers(pattern: &str, filter: &str) -> bool {
    let mut filter = filter.split('.');
    for expected in pattern.split('.') {
        match (expected, filter.next()) {
            (">", Some(_)) => return true,
            ("*", Some(token)) if token != ">" => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    filter.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_nats_says_they_cover() {
        for (pattern, filter, expected) in [
            (">", "dead.p.S.*.*", true),
            ("dead.>", "dead.p.S.*.*", true),
            ("dead.p.>", "dead.p.S.*.*", true),
            ("dead.*.*.*.*", "dead.p.S.*.*", true),
            ("dead.*.*.*", "dead.p.S.*.*", false),
            ("dead.p.S.1.*", "dead.p.S.*.*", false),
            ("dead", "dead.p.S.*.*", false),
            ("dead.*", "dead.>", false),
            ("dead.>", "dead", false),
        ] {
            assert_eq!(covers(pattern, filter), expected, "{pattern} {filter}");
        }
    }

    #[test]
    fn what_removes_letters_is_told() {
        let quiet = Config { max_messages: -1, max_bytes: -1, ..Config::default() };
        assert_eq!(warnings(&quiet), Vec::<String>::new());
        let new = Config { max_messages: 10, discard: DiscardPolicy::New, ..quiet.clone() };
        assert_eq!(
            warnings(&new),
            Vec::<String>::new(),
            "a full stream refuses letters, which stops the pipeline"
        );
        let limited = Config {
            max_messages: 10,
            max_age: std::time::Duration::from_secs(3600),
            storage: StorageType::Memory,
            ..quiet
        };
        let text = warnings(&limited).join("; ");
        for expected in ["max_msgs", "1h old", "in memory"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
