//! From the text of a file to its variants, each validated as a whole.

use anyhow::{Context as _, bail};
use toml::{Table, Value};

use super::{Delivery, Scenario, Shape, sink};

/// The field that lists variants.
const VARIANT: &str = "variant";
/// What a report calls a variant.
const TITLE: &str = "title";

/// The variants of a file; one without a title where it lists none.
pub(super) fn variants(text: &str) -> anyhow::Result<Vec<(Option<String>, Scenario)>> {
    let mut base: Table = text.parse().context("it is no TOML")?;
    let Some(listed) = base.remove(VARIANT) else {
        return Ok(vec![(None, scenario(base)?)]);
    };
    let Value::Array(listed) = listed else {
        bail!("{VARIANT}: it must be a list of tables, as [[{VARIANT}]]")
    };
    let mut found = Vec::new();
    for (index, entry) in listed.into_iter().enumerate() {
        let Value::Table(mut changes) = entry else { bail!("{VARIANT}[{index}]: it must be a table") };
        let Some(Value::String(title)) = changes.remove(TITLE) else {
            bail!("{VARIANT}[{index}].{TITLE}: it must be there, and a text");
        };
        let mut table = base.clone();
        merge(&mut table, changes);
        let scenario = scenario(table).with_context(|| format!("{VARIANT} {title:?}"))?;
        found.push((Some(title), scenario));
    }
    if found.is_empty() {
        bail!("{VARIANT}: it must not be empty");
    }
    Ok(found)
}

/// Puts `changes` into `table`: tables field by field, and everything else as a whole.
fn merge(table: &mut Table, changes: Table) {
    for (name, change) in changes {
        match (table.get_mut(&name), change) {
            (Some(Value::Table(own)), Value::Table(changes)) => merge(own, changes),
            (_, change) => {
                table.insert(name, change);
            }
        }
    }
}

fn scenario(table: Table) -> anyhow::Result<Scenario> {
    let scenario: Scenario = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        anyhow::anyhow!("{path}: {}", error.into_inner().to_string().trim())
    })?;
    validate(&scenario)?;
    Ok(scenario)
}

fn validate(scenario: &Scenario) -> anyhow::Result<()> {
    let Scenario { workers, events, publish, sink, fault, expect, .. } = scenario;
    if workers.counts().is_empty() || workers.counts().contains(&0) {
        bail!("workers: there must be at least one");
    }
    if !(0.0..=1.0).contains(&events.bad_share) {
        bail!("events.bad_share: {}: it must be from 0 to 1", events.bad_share);
    }
    match (events.shape, events.bytes) {
        (Shape::Large, Some(bytes)) if (1_000..=130_000).contains(&bytes) => {}
        (Shape::Large, _) => bail!("events.bytes: it must be from 1000 to 130000 for the shape large"),
        (_, Some(_)) => bail!("events.bytes: only the shape large has a size of its own"),
        (_, None) => {}
    }
    let ways = [publish.steady.is_some(), publish.burst.is_some(), publish.fastest.is_some()];
    let ways = ways.into_iter().filter(|is_given| *is_given).count();
    if ways > 1 {
        bail!("publish: at most one of steady, burst and fastest may be given");
    }
    if scenario.events_in_all() == 0 {
        bail!("publish: no event is published: give waiting, steady, burst or fastest");
    }
    if scenario.baselines && publish.waiting == 0 {
        bail!("baselines: they read what waits, so publish.waiting must be given");
    }
    if sink.delivery == Delivery::ExactlyOnce && !(1..=sink::PARTITIONS).contains(&sink.partitions) {
        bail!("sink.partitions: {}: it must be from 1 to {}", sink.partitions, sink::PARTITIONS);
    }
    for (index, entry) in fault.iter().enumerate() {
        let effects = [
            entry.sql_away,
            entry.sql_errors.is_some(),
            entry.round_trip.is_some(),
            entry.sql_rows_per_second.is_some(),
            entry.sql_load_limit.is_some(),
        ];
        if effects.into_iter().filter(|is_given| *is_given).count() != 1 {
            bail!(
                "fault[{index}]: exactly one of sql_away, sql_errors, round_trip, sql_rows_per_second \
                 and sql_load_limit must be given"
            );
        }
        if entry.from.is_some() == entry.after_settled.is_some() {
            bail!("fault[{index}]: either from or after_settled must be given");
        }
        if entry.after_settled.is_some_and(|share| !(0.0..1.0).contains(&share)) {
            bail!("fault[{index}].after_settled: it must be from 0 to below 1");
        }
        if let Some(errors) = &entry.sql_errors
            && (errors.numbers.is_empty() || !(0.0..=1.0).contains(&errors.share))
        {
            bail!("fault[{index}].sql_errors: it needs numbers, and a share from 0 to 1");
        }
    }
    for (name, range) in expect {
        if let (Some(min), Some(max)) = (range.min, range.max)
            && min > max
        {
            bail!("expect.{name}: min is above max");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, Workers, names};
    use super::*;

    const SMALL: &str = "description = \"d\"\n[publish]\nwaiting = 10\n";

    fn error_of(text: &str) -> String {
        format!("{:#}", variants(text).unwrap_err())
    }

    #[test]
    fn every_shipped_scenario_is_valid_and_looks_for_loss_and_duplicates() {
        assert!(names().count() > 0);
        for name in names() {
            let plan = Plan::load(name).unwrap();
            for (title, scenario) in plan.variants {
                // A commit that is cut off may be in, and at_least_once writes its rows again.
                let may_be_cut_off = scenario.fault.iter().any(|fault| fault.sql_away);
                for (figure, is_bound_enough) in [("missing", false), ("duplicates", may_be_cut_off)] {
                    let most = scenario.expect.get(figure).and_then(|range| range.max);
                    let is_looked_for = most == Some(0.0) || (most.is_some() && is_bound_enough);
                    assert!(is_looked_for, "{name} {title:?}: {figure}");
                }
                for figure in scenario.expect.keys() {
                    assert!(
                        crate::figures::unit(figure).is_some(),
                        "{name} {title:?}: {figure} is no figure"
                    );
                }
            }
        }
    }

    #[test]
    fn the_documentation_shows_a_scenario_that_is_one() {
        let page = include_str!("../../../docs/load-tests.md");
        let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        // also with what stands behind a comment sign, where that is no second effect or way
        let with_threads = example.replace("# tokio_threads", "tokio_threads");
        for text in [example, &with_threads] {
            let variants = variants(text).unwrap();
            assert_eq!(variants[0].1.fault.len(), 1);
        }
    }

    #[test]
    fn every_scenario_file_is_shipped() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut shipped: Vec<&str> = names().collect();
        shipped.sort_unstable();
        assert_eq!(files, shipped);
    }

    #[test]
    fn an_unknown_field_is_refused_and_named() {
        let error = error_of(&format!("{SMALL}pace = 3\n"));
        assert!(error.contains("publish") && error.contains("`pace`"), "{error}");
        let error = error_of(&format!("colour = 1\n{SMALL}"));
        assert!(error.contains("`colour`"), "{error}");
        let error = error_of(&format!("{SMALL}[sink]\nmax_row = 3\n"));
        assert!(error.contains("sink") && error.contains("`max_row`"), "{error}");
        let error = error_of(&format!("{SMALL}[expect]\nmissing = {{ most = 0 }}\n"));
        assert!(error.contains("expect.missing") && error.contains("`most`"), "{error}");
        let error = error_of(&format!("{SMALL}[[variant]]\ntitle = \"a\"\nsink.nothing = 3\n"));
        assert!(error.contains("\"a\"") && error.contains("`nothing`"), "{error}");
    }

    #[test]
    fn a_variant_changes_what_it_names_and_nothing_else() {
        let text = "description = \"d\"\nworkers = [1, 2]\n[publish]\nwaiting = 10\n\
                    [sink]\nmax_age = \"1s\"\nmax_rows = 7\n[expect]\nmissing = { max = 0 }\n\
                    [[variant]]\ntitle = \"slow\"\n[[variant]]\ntitle = \"fast\"\nsink.max_age = \"100ms\"\n\
                    expect.seconds = { min = 1 }\n";
        let variants = variants(text).unwrap();
        let titles: Vec<_> = variants.iter().map(|(title, _)| title.as_deref()).collect();
        assert_eq!(titles, [Some("slow"), Some("fast")]);
        let (slow, fast) = (&variants[0].1, &variants[1].1);
        assert_eq!((slow.sink.max_age.as_str(), fast.sink.max_age.as_str()), ("1s", "100ms"));
        assert_eq!((slow.sink.max_rows, fast.sink.max_rows), (Some(7), Some(7)));
        assert_eq!((slow.expect.len(), fast.expect.len()), (1, 2));
        assert_eq!(fast.workers, Workers::Several(vec![1, 2]));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_field() {
        for (text, field) in [
            ("description = \"d\"\n[publish]\n", "publish"),
            ("description = \"d\"\nworkers = 0\n[publish]\nwaiting = 1\n", "workers"),
            ("description = \"d\"\nbaselines = true\n[publish]\nfastest = { events = 1 }\n", "baselines"),
            ("description = \"d\"\n[publish]\nwaiting = 1\n[events]\nbad_share = 1.5\n", "events.bad_share"),
            ("description = \"d\"\n[publish]\nwaiting = 1\n[events]\nshape = \"large\"\n", "events.bytes"),
            (
                "description = \"d\"\n[publish]\nwaiting = 1\n[[fault]]\nfrom = \"1s\"\nlasts = \"2s\"\n",
                "fault[0]",
            ),
            (
                "description = \"d\"\n[publish]\nwaiting = 1\n[[fault]]\nlasts = \"1s\"\nsql_away = true\n",
                "fault[0]: either",
            ),
            (
                "description = \"d\"\n[publish]\nwaiting = 1\n[[fault]]\nlasts = \"1s\"\nsql_away = true\n\
                 after_settled = 1.0\n",
                "fault[0].after_settled",
            ),
            (
                "description = \"d\"\n[publish]\nwaiting = 1\n[expect]\nseconds = { min = 2, max = 1 }\n",
                "expect.seconds",
            ),
            (
                "description = \"d\"\n[publish]\nfastest = { events = 1 }\n\
                 steady = { events_per_second = 1, seconds = 1 }\n",
                "publish",
            ),
        ] {
            let error = error_of(text);
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }

    #[test]
    fn the_number_of_events_and_the_time_can_be_changed() {
        let of = |publish: &str| {
            let text = format!("description = \"d\"\n[publish]\n{publish}\n");
            variants(&text).unwrap().remove(0).1
        };
        let mut steady = of("steady = { events_per_second = 100, seconds = 3 }");
        assert_eq!(steady.events_in_all(), 300);
        steady.set_events(50);
        assert_eq!(steady.events_in_all(), 50);
        steady.set_seconds(2.0).unwrap();
        assert_eq!(steady.events_in_all(), 200);
        let mut burst = of("burst = { events = 10, every = \"2s\", times = 3 }");
        assert_eq!(burst.events_in_all(), 30);
        burst.set_seconds(9.0).unwrap();
        assert_eq!(burst.events_in_all(), 50);
        let mut waiting = of("waiting = 10");
        waiting.set_events(7);
        assert_eq!(waiting.events_in_all(), 7);
        assert!(waiting.set_seconds(1.0).is_err());
    }
}
