//! What the machine can do, each stage alone: reading the stream, decoding, loading. A sink that does all of it at once
//! is measured beside that.

use anyhow::Context as _;
use arrow::array::RecordBatch;
use test_bench::say;

mod decode;
mod drain;
mod load;

use crate::events::Events;
use crate::model::{self, StageCosts};
use crate::publisher::Publisher;
use crate::report::Run;
use crate::scenario::{Delivery, Scenario};
use crate::stand::Stand;
use drain::Way;

/// Events that are decoded, and rows that are loaded: some batches of the sink's default.
const SOME: usize = 102_400;
/// How often they are.
const ROUNDS: usize = 5;

/// How often rows are loaded each way where two ways are compared: a load takes less than 100 ms.
const TURNS: usize = 15;

/// How fast one stage is alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Alone {
    pub(crate) per_second: f64,
    /// Of all processes that took part; `None` where one of them is not ours to look at.
    pub(crate) cpu_seconds_per_million: Option<f64>,
}

/// Figures of stages, each with the name of its rate, and that of its processor time.
#[derive(Debug, Default)]
pub(crate) struct Baselines {
    stages: Vec<(&'static str, Option<&'static str>, Alone)>,
}

impl Baselines {
    fn add(&mut self, rate: &'static str, costs: Option<&'static str>, alone: Alone) {
        say::note(&format!("  {rate}: {:.0} a second", alone.per_second));
        self.stages.push((rate, costs, alone));
    }

    fn alone(&self, rate: &str) -> Option<Alone> {
        self.stages.iter().find(|(name, ..)| *name == rate).map(|(_, _, alone)| *alone)
    }

    /// The figures.
    pub(crate) fn values(&self) -> Vec<(&'static str, f64)> {
        let of_stage = |(rate, costs, alone): &(&'static str, Option<&'static str>, Alone)| {
            let cpu = costs.zip(alone.cpu_seconds_per_million);
            std::iter::once((*rate, alone.per_second)).chain(cpu).collect::<Vec<_>>()
        };
        self.stages.iter().flat_map(of_stage).collect()
    }

    /// How near a sink that commits so many rows a second comes to the raw drain, and how near it could come.
    pub(crate) fn beside_the_sink(&self, rows_per_second: f64, cores: usize) -> Vec<(&'static str, f64)> {
        let mut values = Vec::new();
        for (rate, ratio_name, ceiling_name) in [
            ("raw_drain_explicit", "ratio_to_raw_drain_explicit", "ceiling_explicit"),
            ("raw_drain_none_filtered", "ratio_to_raw_drain_none", "ceiling_none"),
        ] {
            let Some(drain) = self.alone(rate) else { continue };
            values.push((ratio_name, rows_per_second / drain.per_second));
            if let Some(ceiling) = self.costs(drain).and_then(|costs| model::ceiling(cores, costs)) {
                values.push((ceiling_name, ceiling / drain.per_second));
                values.push(("ceiling_events_per_second", ceiling));
            }
        }
        values
    }

    fn costs(&self, drain: Alone) -> Option<StageCosts> {
        Some(StageCosts {
            drain: drain.cpu_seconds_per_million?,
            decode: self.alone("decode_one_core")?.cpu_seconds_per_million?,
            load: self.alone("load_one_connection")?.cpu_seconds_per_million?,
        })
    }
}

/// Before a sink drains what waits: what it is held against, on the same servers, with the same events.
pub(crate) async fn beside(stand: &Stand, scenario: &Scenario) -> anyhow::Result<Baselines> {
    say::note("what the machine can do, each alone:");
    let mut baselines = Baselines::default();
    let ways: &[Way] = match scenario.sink.delivery {
        Delivery::AtLeastOnce => &[drain::EXPLICIT],
        Delivery::ExactlyOnce => &[drain::NONE_FILTERED],
    };
    for way in ways {
        let alone = drain::measure(stand, way, scenario.publish.waiting).await?;
        baselines.add(way.rate, Some(way.costs), alone);
    }
    let rows = decode(&mut baselines, scenario).await?;
    let loads = load::Loads::prepare(stand, &scenario.events, &rows).await?;
    let loaded = loads.ours(ROUNDS).await.context("loading ready record batches")?;
    baselines.add("load_one_connection", Some("load_cpu_seconds_per_million"), loaded);
    Ok(baselines)
}

/// The command: everything, with so many events.
pub(crate) async fn run(stand: &Stand, scenario: &Scenario, title: &str) -> anyhow::Result<Run> {
    let events = Events::new(&scenario.events);
    let bytes = Events::new(&scenario.events).next_event().payload.len();
    let mut publisher = Publisher::new(stand.client.clone(), events, bytes).await?;
    let count = scenario.publish.waiting;
    say::note(&format!("{title}: publishing {count} events"));
    publisher.fill(count).await?;
    let mut baselines = Baselines::default();
    for way in drain::WAYS {
        let alone = drain::measure(stand, way, count).await?;
        baselines.add(way.rate, Some(way.costs), alone);
    }
    let json = decode::arrow_json(SOME, ROUNDS).await?;
    baselines.add("decode_arrow_json_one_core", None, json);
    let rows = decode(&mut baselines, scenario).await?;
    let loads = load::Loads::prepare(stand, &scenario.events, &rows).await?;
    let (ours, plain) = loads.by_turns(TURNS).await.context("loading ready record batches")?;
    baselines.add("load_one_connection", Some("load_cpu_seconds_per_million"), ours);
    baselines.add("load_tiberius_one_connection", Some("load_tiberius_cpu_seconds_per_million"), plain);
    let figures = crate::measured::with_expected(&baselines.values(), scenario);
    Ok(Run { title: title.to_owned(), figures, samples: Vec::new(), marks: Vec::new() })
}

async fn decode(baselines: &mut Baselines, scenario: &Scenario) -> anyhow::Result<RecordBatch> {
    let (decoded, rows) = decode::ours(&scenario.events, SOME, ROUNDS).await?;
    baselines.add("decode_one_core", Some("decode_cpu_seconds_per_million"), decoded);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(per_second: f64, cpu: f64) -> Alone {
        Alone { per_second, cpu_seconds_per_million: Some(cpu) }
    }

    #[test]
    fn the_sink_is_held_against_the_drain_and_the_ceiling_of_all_stages() {
        let stages = vec![
            ("raw_drain_explicit", Some("raw_drain_explicit_cpu_seconds_per_million"), alone(250_000.0, 6.0)),
            ("decode_one_core", None, alone(800_000.0, 1.0)),
            ("load_one_connection", None, alone(500_000.0, 3.0)),
        ];
        let values = Baselines { stages }.beside_the_sink(100_000.0, 2);
        let value = |name| values.iter().find(|(known, _)| *known == name).unwrap().1;
        assert!((value("ratio_to_raw_drain_explicit") - 0.4).abs() < 1e-9);
        // 2 cores, 10 s a million: 200,000 a second
        assert!((value("ceiling_explicit") - 0.8).abs() < 1e-9);
        assert!((value("ceiling_events_per_second") - 200_000.0).abs() < 1e-6);
        assert!(values.iter().all(|(name, _)| *name != "ratio_to_raw_drain_none"));
    }

    #[test]
    fn without_the_cost_of_a_stage_there_is_no_ceiling() {
        let drain = Alone { per_second: 1.0, cpu_seconds_per_million: None };
        let baselines = Baselines { stages: vec![("raw_drain_explicit", None, drain)] };
        let values = baselines.beside_the_sink(1.0, 2);
        assert_eq!(values, [("ratio_to_raw_drain_explicit", 1.0)]);
    }
}
