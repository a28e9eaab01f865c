//! One run of a scenario: servers, events, workers, faults, and the figures that come of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use test_bench::say;

use crate::account::Account;
use crate::baseline::{self, Baselines};
use crate::events::{Events, Good};
use crate::figures;
use crate::machine;
use crate::measured::Measured;
use crate::progress::Bars;
use crate::publisher::Publisher;
use crate::report::{Mark, Run};
use crate::scenario::Scenario;
use crate::stand::external::External;
use crate::stand::sql_process::{Counts, Request};
use crate::stand::{ServersCpu, Stand};
use crate::timeline::{Happened, Timeline};
use crate::watch::{self, Progress, Watch};

/// How often the workers are asked how far they are: as exact as the times of a run are.
const LOOK: Duration = Duration::from_millis(100);
/// Between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// Without any progress for this long, and nothing going wrong on purpose, the run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a scenario once; `folder` takes configurations and logs.
pub(crate) async fn run(
    scenario: &Scenario,
    title: &str,
    workers: usize,
    external: &External,
    folder: &Path,
) -> anyhow::Result<Run> {
    let mut stand = Stand::start(scenario, workers, external, folder).await?;
    let events = Events::new(&scenario.events);
    let bytes = Events::new(&scenario.events).next_event().payload.len();
    let mut publisher = Publisher::new(stand.client.clone(), events, bytes).await?;
    let filling = Instant::now();
    if scenario.publish.waiting > 0 {
        say::note(&format!("{title}: publishing {} events, which will wait", scenario.publish.waiting));
        publisher.fill(scenario.publish.waiting).await?;
    }
    let filled_seconds = filling.elapsed().as_secs_f64();
    let baselines = match scenario.baselines {
        true => Some(baseline::beside(&stand, scenario).await?),
        false => None,
    };
    let observed = observe(scenario, title, &mut stand, publisher).await?;
    let measured = measure(scenario, &mut stand, observed, baselines, filled_seconds).await?;
    Ok(measured.into_run(title, scenario))
}

/// What was seen while it ran.
struct Observed {
    watch: Watch,
    marks: Vec<Mark>,
    faults: Vec<Happened>,
    good: Good,
    published: u64,
    /// From the first event received until the last one settled.
    seconds: f64,
    publish_seconds: f64,
    servers_before: ServersCpu,
    servers_after: ServersCpu,
    /// What the SQL server had counted before the first worker started.
    counts_before: Option<Counts>,
}

async fn observe(
    scenario: &Scenario,
    title: &str,
    stand: &mut Stand,
    mut publisher: Publisher,
) -> anyhow::Result<Observed> {
    let published = publisher.published();
    let events = scenario.events_in_all();
    let mut bars = Bars::new(title, events);
    let mut timeline = Timeline::new(&scenario.fault);
    let counts_before = stand.ask_sql(&Request::Count).await?;
    let servers_before = stand.servers_cpu()?;
    let mut watch = Watch::new(published.clone());
    let mut marks = Vec::new();
    for worker in &mut stand.workers {
        worker.start()?;
    }
    let publish = scenario.publish.clone();
    let mut publishing = tokio::spawn(async move {
        let started = Instant::now();
        publisher.run(&publish).await.map(|()| (publisher.good(), started.elapsed().as_secs_f64()))
    });
    watch.sample(stand)?;
    let (mut good, mut first_received) = (None, None);
    let mut last_sample = Instant::now();
    let mut last_change = (Progress::default(), Instant::now());
    let settled_at = loop {
        tokio::select! {
            ended = &mut publishing, if good.is_none() => {
                good = Some(ended.context("the publisher ended by a defect")??);
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let progress = watch.look(stand).await;
        let now = watch.seconds();
        for label in timeline.advance(now, share(progress.settled(), events), stand).await? {
            marks.push(figures::mark(now, label));
        }
        if progress.received > 0 && first_received.is_none() {
            first_received = Some(watch.seconds());
        }
        bars.show(published.count(), progress.settled(), &timeline.says());
        if last_sample.elapsed() >= SAMPLE {
            stand.check_running()?;
            watch.sample(stand)?;
            last_sample = Instant::now();
        }
        if good.is_some() && progress.settled() >= published.count() {
            break watch.seconds();
        }
        if progress.settled() != last_change.0.settled() || !timeline.is_quiet() {
            last_change = (progress, Instant::now());
        }
        if last_change.1.elapsed() > PATIENCE {
            bail!(
                "{} of {} events are settled, and nothing has moved for {} s; the workers say: {}",
                progress.settled(),
                published.count(),
                PATIENCE.as_secs(),
                stand.trouble().await
            );
        }
    };
    watch.sample(stand)?;
    bars.finish();
    let servers_after = stand.servers_cpu()?;
    let faults = timeline.end(watch.seconds(), stand).await?;
    let (good, publish_seconds) = good.unwrap_or_default();
    Ok(Observed {
        watch,
        marks,
        faults,
        good,
        published: published.count(),
        seconds: settled_at - first_received.unwrap_or_default(),
        publish_seconds,
        servers_before,
        servers_after,
        counts_before,
    })
}

async fn measure(
    scenario: &Scenario,
    stand: &mut Stand,
    observed: Observed,
    baselines: Option<Baselines>,
    filled_seconds: f64,
) -> anyhow::Result<Measured> {
    stand.stop_workers().await?;
    let counts_after = stand.ask_sql(&Request::Count).await?;
    let counts = counts_after.zip(observed.counts_before).map(|(after, before)| after.since(before));
    let account = Account::read(stand, scenario.storage, counts, observed.good).await?;
    if account.is_strange {
        bail!("the table has rows that nobody published");
    }
    Ok(Measured {
        account,
        counts,
        good: observed.good,
        published: observed.published,
        dead_letters: stand.dead_letters().await?,
        redelivered: watch::total(stand, "events_redelivered_total"),
        sql_errors: watch::total(stand, "sql_errors_total"),
        latency: watch::latency(stand),
        seconds: observed.seconds,
        publish_seconds: observed.publish_seconds + filled_seconds,
        nats_cpu_seconds: difference(
            observed.servers_before.nats_seconds,
            observed.servers_after.nats_seconds,
        ),
        sql_cpu_seconds: difference(observed.servers_before.sql_seconds, observed.servers_after.sql_seconds),
        peak_rss_bytes: observed.watch.peak_rss_bytes,
        samples: observed.watch.samples,
        marks: observed.marks,
        faults: observed.faults,
        baselines,
        cores: machine::cores(),
    })
}

fn share(part: u64, all: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // numbers of events are far below 2^53
    let (part, all) = (part as f64, all.max(1) as f64);
    part / all
}

fn difference(before: Option<f64>, after: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}
