//! `delivery = "exactly_once"`: how a stream is divided, and what is checked of it.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::pipeline::{DeliveryGuarantee, PartitionsConfig, PipelineConfig};
use super::problem::{Checks, Problem, quote};
use super::subject::{subject_problem, subjects_overlap};

/// Most partitions of a pipeline: each that a worker owns has a consumer of its own, and a row that every commit
/// updates.
pub const MAX_PARTITIONS: usize = 1_024;

/// What stands for the number of a partition in a pattern.
const PLACEHOLDER: &str = "{partition}";

/// How long a worker owns a partition without renewing, where nothing else is said.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// How a stream is divided: the filters of each partition, by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The filters of each partition. Disjoint.
    pub partitions: Vec<Vec<String>>,
    /// Tells this layout from every other: SHA-256 over stream and filters, in hexadecimal digits.
    pub hash: String,
}

impl PipelineConfig {
    /// How the stream is divided. Without `partitions` it is one partition.
    pub fn layout(&self) -> Layout {
        let partitions = match &self.partitions {
            None => vec![self.subjects.clone()],
            Some(partitions) => partitions.filters(),
        };
        let hash = hash(&self.stream, &partitions);
        Layout { partitions, hash }
    }

    /// `lease`: how long a worker owns a partition without renewing.
    pub fn lease(&self) -> Duration {
        self.lease.unwrap_or(DEFAULT_LEASE)
    }

    /// What consumers of this pipeline are called, or begin with.
    pub fn consumer_name(&self) -> &str {
        if self.durable.is_empty() { &self.name } else { &self.durable }
    }

    pub(super) fn validate_delivery(&self, checks: &mut Checks<'_>) {
        if self.delivery == DeliveryGuarantee::AtLeastOnce {
            for (field, is_given) in [
                ("partitions", self.partitions.is_some()),
                ("lease", self.lease.is_some()),
                ("on_gap", self.on_gap.is_some()),
            ] {
                if is_given {
                    let message = "has a meaning only with `delivery = \"exactly_once\"`";
                    checks.refuse(Problem::new(field, message));
                }
            }
            return;
        }
        if let Some(lease) = self.lease {
            checks.duration("lease", lease, &(Duration::from_secs(1)..=Duration::from_secs(3600)));
        }
        if let Some(partitions) = &self.partitions {
            partitions.validate(&mut checks.table("partitions"), &self.subjects);
        }
    }
}

/// A hash that does not depend on the order in which a partition's filters are written.
fn hash(stream: &str, partitions: &[Vec<String>]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("1\n{stream}\n{}\n", partitions.len()));
    for filters in partitions {
        let mut filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        filters.sort_unstable();
        // neither a blank nor a line break can be in a filter
        hasher.update(format!("{}\n", filters.join(" ")));
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl PartitionsConfig {
    fn filters(&self) -> Vec<Vec<String>> {
        match (&self.subjects, self.count, &self.subject) {
            (Some(subjects), _, _) => subjects.clone(),
            (None, Some(count), Some(pattern)) => {
                (0..count).map(|number| vec![pattern.replace(PLACEHOLDER, &number.to_string())]).collect()
            }
            // refused by `validate`
            (None, _, _) => Vec::new(),
        }
    }

    /// A filter that matches what the filters of all partitions match, where these follow a pattern.
    pub fn any_partition(&self) -> Option<String> {
        self.subject.as_ref().map(|pattern| pattern.replace(PLACEHOLDER, "*"))
    }

    fn validate(&self, checks: &mut Checks<'_>, subjects: &[String]) {
        match (&self.subjects, self.count, &self.subject) {
            (Some(_), None, None) => self.validate_lists(checks, subjects),
            (None, Some(count), Some(pattern)) => {
                checks.range("count", count, &(1..=MAX_PARTITIONS));
                if (1..=MAX_PARTITIONS).contains(&count) {
                    self.validate_pattern(checks, pattern, subjects);
                }
            }
            _ => {
                let message = "must have either `subjects`, a list of filters for each partition, or `count` and \
                               `subject`, a number of partitions and a filter with `{partition}` in it";
                checks.refuse(Problem::new("", message));
            }
        }
    }

    fn validate_pattern(&self, checks: &mut Checks<'_>, pattern: &str, subjects: &[String]) {
        if pattern.split('.').filter(|token| *token == PLACEHOLDER).count() != 1 {
            let message = "must have `{partition}` as one of its tokens, once";
            checks.refuse(Problem::new("subject", message).with_value(quote(pattern)));
            return;
        }
        if let Some(message) = subject_problem(&pattern.replace(PLACEHOLDER, "0"), true) {
            checks.refuse(Problem::new("subject", message).with_value(quote(pattern)));
        } else if !self.filters().iter().flatten().all(|filter| covers(subjects, filter)) {
            let message = "must be among what `subjects` of the pipeline match";
            checks.refuse(Problem::new("subject", message).with_value(quote(pattern)));
        }
    }

    fn validate_lists(&self, checks: &mut Checks<'_>, subjects: &[String]) {
        let partitions = self.filters();
        if partitions.is_empty() || partitions.len() > MAX_PARTITIONS {
            let message = format!("must be 1 to {MAX_PARTITIONS} lists");
            checks.refuse(Problem::new("subjects", message).with_value(partitions.len()));
            return;
        }
        let mut earlier: Vec<&String> = Vec::new();
        for (index, filters) in partitions.iter().enumerate() {
            if filters.is_empty() {
                let problem = Problem::new(format!("subjects[{index}]"), "must hold at least one filter");
                checks.refuse(problem.with_value("[]"));
            }
            for (place, filter) in filters.iter().enumerate() {
                let field = format!("subjects[{index}][{place}]");
                if let Some(message) = subject_problem(filter, true) {
                    checks.refuse(Problem::new(field, message).with_value(quote(filter)));
                    continue;
                }
                if let Some(other) = earlier.iter().find(|other| subjects_overlap(other, filter)) {
                    let message =
                        format!("must not overlap with {}: an event has one partition", quote(other));
                    checks.refuse(Problem::new(&field, message).with_value(quote(filter)));
                }
                if !covers(subjects, filter) {
                    let message = "must be among what `subjects` of the pipeline match";
                    checks.refuse(Problem::new(&field, message).with_value(quote(filter)));
                }
                earlier.push(filter);
            }
        }
        let all: Vec<String> = partitions.into_iter().flatten().collect();
        for subject in subjects.iter().filter(|subject| !covers(&all, subject)) {
            let message = format!(
                "must together match all that `subjects` of the pipeline match: what {} matches is in none",
                quote(subject)
            );
            checks.refuse(Problem::new("subjects", message));
        }
    }
}

/// Whether every subject that `filter` matches is matched by one of `filters`.
pub fn covers<S: AsRef<str>>(filters: &[S], filter: &str) -> bool {
    let filters: Vec<Vec<&str>> = filters.iter().map(|own| own.as_ref().split('.').collect()).collect();
    let candidates: Vec<&[&str]> = filters.iter().map(Vec::as_slice).collect();
    is_covered(&candidates, &filter.split('.').collect::<Vec<_>>())
}

/// By what is left of filters whose tokens before match.
fn is_covered(candidates: &[&[&str]], filter: &[&str]) -> bool {
    let Some((token, rest)) = filter.split_first() else {
        return candidates.iter().any(|candidate| candidate.is_empty());
    };
    if candidates.iter().any(|candidate| candidate.first() == Some(&">")) {
        return true;
    }
    let after = |wanted: &str| -> Vec<&[&str]> {
        let matching =
            |candidate: &&&[&str]| candidate.first().is_some_and(|own| *own == "*" || *own == wanted);
        candidates.iter().filter(matching).map(|candidate| &candidate[1..]).collect()
    };
    match *token {
        // one token, or more of them; what is left of the candidates gets shorter, and nothing covers no candidates
        ">" => {
            let next = after("*");
            !next.is_empty() && is_covered(&next, &[]) && is_covered(&next, &[">"])
        }
        // there are more names than filters can list
        token => {
            let next = after(token);
            !next.is_empty() && is_covered(&next, rest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_covered_by_filters_that_match_all_it_matches() {
        for (filters, filter, expected) in [
            (&["events.>"][..], "events.>", true),
            (&["events.>"], "events.eu.>", true),
            (&["events.>"], "events.*", true),
            (&["events.eu.>"], "events.>", false),
            (&["events.eu.>", "events.us.>"], "events.>", false),
            (&["events.*", "events.*.>"], "events.>", true),
            (&["events.*.>"], "events.>", false),
            (&["*.eu", "events.*"], "events.eu", true),
            (&["*.eu"], "events.*", false),
            (&[">"], "a", true),
            (&["a"], "a", true),
            (&["a"], "a.b", false),
            (&["a.b"], "a", false),
            (&[], ">", false),
        ] {
            assert_eq!(covers(filters, filter), expected, "{filters:?} {filter}");
        }
    }

    #[test]
    fn a_layout_is_told_by_stream_filters_and_their_partition() {
        let of = |stream: &str, partitions: &[&[&str]]| {
            let owned: Vec<Vec<String>> =
                partitions.iter().map(|filters| filters.iter().map(|f| (*f).to_owned()).collect()).collect();
            hash(stream, &owned)
        };
        let one = of("S", &[&["a", "b"], &["c"]]);
        assert_eq!(one.len(), 64);
        assert_eq!(one, of("S", &[&["b", "a"], &["c"]]));
        for other in [
            of("T", &[&["a", "b"], &["c"]]),
            of("S", &[&["c"], &["a", "b"]]),
            of("S", &[&["a"], &["b", "c"]]),
            of("S", &[&["a", "b", "c"]]),
        ] {
            assert_ne!(one, other);
        }
    }
}
