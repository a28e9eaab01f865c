//! What is held of events: entered in the ledger and charged to the budget, gathered in batches, and given back. To
//! acknowledge one takes the evidence of a commit, which nobody outside of the sink can issue: here they are dropped, and
//! the ledger lists each of them for its redelivery, which is as much work.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use criterion::{BatchSize, Criterion, Throughput};
use nats_sql_sink::batcher::{self, Limits};
use nats_sql_sink::budget::Budget;
use nats_sql_sink::config::PipelineConfig;
use nats_sql_sink::delivery::{Arrival, Batch, Claim, Delivery, Event, Ledger};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::events::{EVENTS, telemetry};
use crate::processor_time::ProcessorTime;

/// Events that come together, as many as the intake hands on at once.
const CHUNK: usize = 512;
const BATCH_ROWS: usize = 5_000;
const BATCH_BYTES: usize = 1 << 30;
/// Of the budget, for each event.
const CHARGE: usize = 1_000;

pub(crate) fn benches(criterion: &mut Criterion<ProcessorTime>) {
    let (_, events) = telemetry();
    // all of it is on the thread that is measured
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let mut group = criterion.benchmark_group("held");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("ledger", |bencher| {
        bencher.iter_batched(
            || (Arc::new(Ledger::default()), replies()),
            |(ledger, replies)| {
                let claims = claims(&ledger, replies);
                assert_eq!(ledger.held(), EVENTS);
                drop(claims);
                assert_eq!((ledger.held(), ledger.take_returned().len()), (0, EVENTS));
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("batcher", |bencher| {
        bencher.iter_batched(
            || deliveries(&runtime, &events),
            |(budget, chunks)| {
                assert_eq!(runtime.block_on(gather(budget.clone(), chunks)), EVENTS);
                assert_eq!(budget.total_reserved(), 0);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn replies() -> Vec<Subject> {
    let reply =
        |sequence| format!("$JS.ACK.EVENTS.sink.1.{sequence}.{sequence}.1700000000000000000.0").into();
    (1..=EVENTS).map(reply).collect()
}

fn claims(ledger: &Arc<Ledger>, replies: Vec<Subject>) -> Vec<Claim> {
    let arrival = |sequence| Arrival { sequence, deliveries: 1, stored_at: 0, connects: 1 };
    (1..).zip(replies).map(|(sequence, reply)| ledger.claim(arrival(sequence), reply).unwrap()).collect()
}

fn deliveries(runtime: &Runtime, events: &[Event]) -> (Budget, Vec<Vec<Delivery>>) {
    let budget = Budget::divide(2 * EVENTS * CHARGE, 1).remove(0);
    let mut permit = runtime.block_on(budget.reserve(EVENTS * CHARGE, EVENTS * CHARGE));
    let claims = claims(&Arc::new(Ledger::default()), replies());
    let mut all = events.iter().zip(claims).map(|(event, claim)| Delivery {
        event: event.clone(),
        claim,
        permit: permit.split(CHARGE).unwrap(),
    });
    let chunks = (0..EVENTS.div_ceil(CHUNK)).map(|_| all.by_ref().take(CHUNK).collect()).collect();
    (budget, chunks)
}

/// Sends all of it through the batcher, and counts what comes out.
async fn gather(budget: Budget, chunks: Vec<Vec<Delivery>>) -> usize {
    let (input, receiver) = mpsc::channel(8);
    let (sender, mut output) = mpsc::channel::<(Batch, _)>(1);
    let sending = async move {
        for chunk in chunks {
            input.send(chunk).await.unwrap();
        }
    };
    let counting = async move {
        let mut count = 0;
        while let Some((batch, _)) = output.recv().await {
            count += batch.len();
        }
        count
    };
    tokio::join!(batcher::run(limits(), budget, receiver, sender), sending, counting).2
}

fn limits() -> Limits {
    let config: PipelineConfig = toml::from_str(
        "name = \"p\"\nstream = \"S\"\ndurable = \"d\"\nsubjects = [\"s\"]\nschema = \"s.toml\"\ntable = \"dbo.t\"\n\
         dead_letter = { stream = \"D\", subject = \"dead\" }\n",
    )
    .unwrap();
    assert!(config.batch.max_age > Duration::from_millis(1));
    Limits::new(&config, BATCH_ROWS, BATCH_BYTES)
}
