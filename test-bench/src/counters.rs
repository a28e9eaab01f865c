//! The workers' counters as they tell them over HTTP, kept over the end of a process.

use std::collections::BTreeMap;

/// The samples of one worker: of the process that runs, and of those before it.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    before: BTreeMap<String, f64>,
    now: BTreeMap<String, f64>,
}

impl Counters {
    /// What the process tells now, as Prometheus' text.
    pub fn take(&mut self, text: &str) {
        self.now = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect();
    }

    /// Another process follows: what this one counted stays, what it measured at a moment does not.
    pub fn process_ended(&mut self) {
        for (name, value) in std::mem::take(&mut self.now) {
            let family = name.split('{').next().unwrap_or_default();
            if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| family.ends_with(end)) {
                *self.before.entry(name).or_default() += value;
            }
        }
    }

    /// All counters, of all processes, a line each.
    pub fn text(&self) -> String {
        let mut all = self.before.clone();
        for (name, value) in &self.now {
            *all.entry(name.clone()).or_default() += value;
        }
        all.iter().map(|(name, value)| format!("{name} {value}\n")).collect()
    }

    /// A histogram's buckets, ascending: their upper bounds, and how many observations are at or below each; of all
    /// samples that have all these labels, over all processes.
    pub fn buckets(&self, metric: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{metric}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (sample, count) in self.before.iter().chain(&self.now) {
            let bound = sample.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            // "+Inf" is read as infinity
            let Some(bound) = bound.and_then(|bound| bound.parse::<f64>().ok()) else { continue };
            if !matches(sample, &name, labels) {
                continue;
            }
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, *count)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }

    /// The sum of the samples of one metric that have all these labels; of counters over all processes.
    pub fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> f64 {
        let matching = |samples: &BTreeMap<String, f64>| -> f64 {
            // a sum of nothing would be -0
            let matching = samples.iter().filter(|(name, _)| matches(name, metric, labels));
            matching.fold(0.0, |sum, (_, value)| sum + value)
        };
        matching(&self.before) + matching(&self.now)
    }
}

fn matches(sample: &str, metric: &str, labels: &[(&str, &str)]) -> bool {
    let name = format!("nats_sql_sink_{metric}");
    let Some(rest) = sample.strip_prefix(&name) else { return false };
    (rest.is_empty() || rest.starts_with('{'))
        && labels.iter().all(|(label, value)| {
            let pair = format!("{label}=\"{value}\"");
            rest.match_indices(&pair)
                .any(|(index, _)| matches!(rest.as_bytes().get(index - 1), Some(b'{' | b',')))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\nnats_sql_sink_a_total{pipeline=\"x\",number=\"1205\"} 2\n\
                        nats_sql_sink_a_total{pipeline=\"y\",number=\"1205\"} 3\n\
                        nats_sql_sink_a_total_more{pipeline=\"x\"} 9\nnats_sql_sink_held{pipeline=\"x\"} 7\n";

    #[test]
    fn samples_are_summed_by_their_labels() {
        let mut counters = Counters::default();
        counters.take(TEXT);
        assert!((counters.sum("a_total", &[]) - 5.0).abs() < 1e-9);
        assert!((counters.sum("a_total", &[("pipeline", "x"), ("number", "1205")]) - 2.0).abs() < 1e-9);
        assert!(counters.sum("a_total", &[("line", "x")]).abs() < 1e-9);
    }

    #[test]
    fn buckets_are_summed_over_labels_and_processes_and_ascend() {
        let text = "nats_sql_sink_b_seconds_bucket{pipeline=\"x\",le=\"10\"} 4\n\
                    nats_sql_sink_b_seconds_bucket{pipeline=\"x\",le=\"2.5\"} 3\n\
                    nats_sql_sink_b_seconds_bucket{pipeline=\"y\",le=\"2.5\"} 1\n\
                    nats_sql_sink_b_seconds_bucket{pipeline=\"x\",le=\"+Inf\"} 5\n\
                    nats_sql_sink_b_seconds_count{pipeline=\"x\"} 5\n";
        let mut counters = Counters::default();
        counters.take(text);
        assert_eq!(counters.buckets("b_seconds", &[]), [(2.5, 4.0), (10.0, 4.0), (f64::INFINITY, 5.0)]);
        counters.process_ended();
        counters.take(text);
        let of_x = counters.buckets("b_seconds", &[("pipeline", "x")]);
        assert_eq!(of_x, [(2.5, 6.0), (10.0, 8.0), (f64::INFINITY, 10.0)]);
    }

    #[test]
    fn counters_outlive_their_process_and_gauges_do_not() {
        let mut counters = Counters::default();
        counters.take(TEXT);
        counters.process_ended();
        assert!(counters.sum("held", &[]).abs() < 1e-9);
        counters.take(TEXT);
        assert!((counters.sum("a_total", &[]) - 10.0).abs() < 1e-9);
        assert!((counters.sum("held", &[]) - 7.0).abs() < 1e-9);
    }
}
