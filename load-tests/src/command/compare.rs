//! `compare`: the sink beside the peers, one after another, with the same events and the same servers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum as _};
use indicatif::HumanCount;
use serde::Deserialize;
use test_bench::{say, worker};

use super::{CommonArgs, Usage, finish, out_folder, report, write_report};
use crate::events::Events;
use crate::measured::with_expected;
use crate::output;
use crate::participant::{self, Measured, Participant, Peers, Task};
use crate::publisher::Publisher;
use crate::report::{Range, Run};
use crate::scenario::{
    EventsSettings, FaultEntry, Publish, Scenario, SinkSettings, StorageKind, TableKind, Workers,
};
use crate::stand::Stand;

/// Events, unless it is told how many.
const EVENTS: u64 = 500_000;

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// A participant that is not done by then is stopped, and its rate is that of this time
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    stop_after: f64,
    /// What becomes of the rows
    #[arg(long, value_enum, value_name = "STORAGE", default_value = "discard")]
    sql_storage: StorageKind,
    /// Put the SQL server so far away, as 5ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    round_trip: Option<Duration>,
    /// Who takes part
    #[arg(
        long, value_enum, value_name = "NAME", value_delimiter = ',',
        default_values = ["sink", "bulk_copy", "insert_many", "bulk_load"]
    )]
    only: Vec<Participant>,
    #[command(flatten)]
    common: CommonArgs,
}

/// The ranges of `compare.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    each: BTreeMap<String, Range>,
    discard: BTreeMap<String, Range>,
    postgres: BTreeMap<String, Range>,
}

/// What one round has measured, in the order of the participants.
type Round = Vec<(Participant, Measured)>;

/// Lets all of them do their work; `true` where every figure is as expected.
pub(crate) async fn compare(args: &CompareArgs) -> anyhow::Result<bool> {
    let (scenario, stop_after) = scenario(args).map_err(Usage)?;
    let external = args.common.external.servers().map_err(Usage)?;
    external.check(&scenario).map_err(Usage)?;
    let participants = participants(&args.only);
    let peers = match participants.iter().any(|participant| *participant != Participant::Sink) {
        true => Some(Peers::find()?),
        false => None,
    };
    worker::program()?;
    let expected: Expected = toml::from_str(include_str!("../../compare.toml")).context("compare.toml")?;
    let folder = out_folder(args.common.out.as_deref(), "compare")?;
    let mut settings = scenario.sink.table();
    settings.insert("workers".to_owned(), "1".to_owned());
    let mut report = report("compare", &scenario.description, settings)?;
    let mut stand = Stand::start(&scenario, 1, &external, &folder).await?;
    if let (Some(proxy), Some(round_trip)) = (&stand.proxy, args.round_trip) {
        proxy.add_latency(round_trip);
    }
    let task = Task { good: publish(&stand, &scenario).await?, stop_after, storage: scenario.storage };
    let mut rounds: Vec<Round> = Vec::new();
    for number in 1..=args.common.repeat {
        rounds.push(Round::new());
        for participant in &participants {
            let name = participant.name();
            say::note(&format!("{name}, run {number} of {}", args.common.repeat));
            let running = participant::run(*participant, &mut stand, peers.as_ref(), &task);
            let measured = running.await.with_context(|| name.to_owned())?;
            say::note(&format!("  {} rows a second", HumanCount(whole(measured.rows_per_second()))));
            if let Some(round) = rounds.last_mut() {
                round.push((*participant, measured));
            }
            // what was measured stays, also where a later one fails
            report.runs = runs(&rounds, &participants, &scenario, &expected);
            write_report(&report, &folder)?;
        }
    }
    finish(&report, &folder, args.common.report)
}

/// As a scenario: what the sink is told, and what stands between it and the servers.
fn scenario(args: &CompareArgs) -> anyhow::Result<(Scenario, Duration)> {
    ensure!(args.stop_after > 0.0, "--stop-after must be above 0");
    let stop_after = Duration::try_from_secs_f64(args.stop_after).context("--stop-after")?;
    let events = args.common.events.unwrap_or(EVENTS);
    let storage = match args.sql_storage {
        StorageKind::Postgres => "stores rows",
        StorageKind::Discard => "keeps no row",
    };
    let away =
        args.round_trip.map_or(String::new(), |time| format!(", {} away", humantime::format_duration(time)));
    // it holds from the beginning, and as long as anything runs
    let fault = args.round_trip.map(|time| FaultEntry {
        from: Some(Duration::ZERO),
        after_settled: None,
        lasts: Duration::MAX,
        sql_away: false,
        sql_errors: None,
        round_trip: Some(time),
        sql_rows_per_second: None,
        sql_load_limit: None,
    });
    let scenario = Scenario {
        description: format!(
            "{} waiting events into a SQL server that {storage}{away}: one worker of the sink and other programs, one \
             after another, each for at most {} s",
            HumanCount(events),
            args.stop_after
        ),
        storage: args.sql_storage,
        workers: Workers::One(1),
        baselines: false,
        sql_rows_per_second_of_a_load: None,
        table: TableKind::Heap,
        events: EventsSettings::default(),
        publish: Publish { waiting: events, steady: None, burst: None, fastest: None },
        sink: SinkSettings::default(),
        fault: fault.into_iter().collect(),
        expect: BTreeMap::new(),
    };
    Ok((scenario, stop_after))
}

/// Each once, the sink first: it is what the others are held against.
fn participants(asked: &[Participant]) -> Vec<Participant> {
    let all = [Participant::Sink, Participant::BulkCopy, Participant::InsertMany, Participant::BulkLoad];
    all.into_iter().filter(|participant| asked.contains(participant)).collect()
}

async fn publish(stand: &Stand, scenario: &Scenario) -> anyhow::Result<crate::events::Good> {
    let bytes = Events::new(&scenario.events).next_event().payload.len();
    let events = Events::new(&scenario.events);
    let mut publisher = Publisher::new(stand.client.clone(), events, bytes).await?;
    say::note(&format!("publishing {} events, which will wait", HumanCount(scenario.publish.waiting)));
    publisher.fill(scenario.publish.waiting).await?;
    Ok(publisher.good())
}

/// The runs of a report, participant by participant.
fn runs(
    rounds: &[Round],
    participants: &[Participant],
    scenario: &Scenario,
    expected: &Expected,
) -> Vec<Run> {
    let is_complete = participants.len() == Participant::value_variants().len();
    let of_participant = |participant: &Participant| {
        let measured: Vec<Run> = (1..)
            .zip(rounds)
            .filter_map(|(number, round)| {
                let (_, measured) = round.iter().find(|(other, _)| other == participant)?;
                let mut values = measured.values();
                let mut expect = expected.each.clone();
                if *participant == Participant::Sink {
                    values.extend(ratios(round));
                    expect.extend(expected_of_sink(expected, scenario.storage, participants, is_complete));
                }
                let title = match rounds.len() {
                    1 => participant.name().to_owned(),
                    _ => format!("{}, repeat {number}", participant.name()),
                };
                let scenario = Scenario { expect, ..scenario.clone() };
                let figures = with_expected(&values, &scenario);
                Some(Run { title, figures, samples: Vec::new(), marks: Vec::new() })
            })
            .collect();
        output::of_one_kind(&measured, participant.name())
    };
    participants.iter().flat_map(of_participant).collect()
}

/// The rate of the sink by those of the others of its round.
fn ratios(round: &Round) -> Vec<(&'static str, f64)> {
    let rate = |wanted: Participant| {
        let found = round.iter().find(|(participant, _)| *participant == wanted);
        found.map(|(_, measured)| measured.rows_per_second())
    };
    let Some(sink) = rate(Participant::Sink) else { return Vec::new() };
    let peers = round.iter().filter(|(participant, _)| *participant != Participant::Sink);
    let best = peers.map(|(_, measured)| measured.rows_per_second()).reduce(f64::max);
    let ratio = |name, other: Option<f64>| other.map(|other| (name, sink / other));
    [ratio("ratio_to_python_bulk", rate(Participant::BulkCopy)), ratio("ratio_to_best_peer", best)]
        .into_iter()
        .flatten()
        .collect()
}

/// The ranges of ratios: the one beside the best only where all take part.
fn expected_of_sink(
    expected: &Expected,
    storage: StorageKind,
    participants: &[Participant],
    is_complete: bool,
) -> BTreeMap<String, Range> {
    let ranges = match storage {
        StorageKind::Discard => &expected.discard,
        StorageKind::Postgres => &expected.postgres,
    };
    let is_asked = |name: &str| match name {
        "ratio_to_best_peer" => is_complete,
        "ratio_to_python_bulk" => participants.contains(&Participant::BulkCopy),
        _ => true,
    };
    ranges.iter().filter(|(name, _)| is_asked(name)).map(|(name, range)| (name.clone(), *range)).collect()
}

// a rate for people
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}
