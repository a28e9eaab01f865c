//! That rows go through the server fast enough for a debug build on a busy machine: `make bench-stand-in` has the
//! figures.

use std::time::Instant;

use tiberius::time::{Date, DateTime2, Time};
use tiberius::{ColumnData, TokenRow, Uuid};

use crate::fixture::{Fixture, run};

const ROWS: u64 = 200_000;
/// Of processor time, for a million rows: a release build takes a small part of it, what copies or searches the whole
/// message for each row takes more. Processor time, because tests share the machine with others.
const MOST_SECONDS: f64 = 5.0;
/// Rows a second, the client included.
const LEAST_RATE: f64 = 20_000.0;

/// Ten columns of the kinds that telemetry has.
const TABLE: &str = "CREATE TABLE dbo.speed (id uniqueidentifier NOT NULL, device nvarchar(64) NOT NULL, seq bigint NOT NULL, at datetime2(6) NOT NULL, \
    temperature float NULL, pressure real NULL, amount decimal(18,4) NULL, kind int NOT NULL, ok bit NOT NULL, note varchar(40) NULL)";

fn row(n: u64) -> TokenRow<'static> {
    let mut row = TokenRow::with_capacity(10);
    row.push(ColumnData::Guid(Some(Uuid::from_u128(u128::from(n) << 64))));
    row.push(ColumnData::String(Some("device-0001234".into())));
    row.push(ColumnData::I64(Some(i64::try_from(n).unwrap())));
    row.push(ColumnData::DateTime2(Some(DateTime2::new(Date::new(738_000), Time::new(n, 6)))));
    row.push(ColumnData::F64(Some(21.5)));
    row.push(ColumnData::F32(Some(1.25)));
    row.push(ColumnData::Numeric(Some(tiberius::numeric::Numeric::new_with_scale(i128::from(n), 4))));
    row.push(ColumnData::I32(Some(7)));
    row.push(ColumnData::Bit(Some(true)));
    row.push(ColumnData::String(Some("a note of some length".into())));
    row
}

async fn measure(fixture: &Fixture, connections: u64) -> f64 {
    let mut client = fixture.connect().await;
    run(&mut client, &format!("DROP TABLE IF EXISTS dbo.speed; {TABLE}")).await;
    let started = Instant::now();
    let mut loads = Vec::new();
    for _ in 0..connections {
        let mut config = fixture.config();
        config.packet_size(32_767);
        let mut client = fixture.try_connect(config).await.unwrap();
        loads.push(tokio::spawn(async move {
            let each = ROWS / connections;
            let mut sent = 0;
            while sent < each {
                let mut request = client.bulk_insert("dbo.speed").await.unwrap();
                for n in sent..(sent + 100_000).min(each) {
                    request.send(row(n)).await.unwrap();
                }
                sent += request.finalize().await.unwrap().total();
            }
        }));
    }
    for load in loads {
        load.await.unwrap();
    }
    started.elapsed().as_secs_f64()
}

/// Seconds of processor time that threads of this name have used.
fn processor_seconds(name: &str) -> f64 {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let folder = task.unwrap().path();
        if std::fs::read_to_string(folder.join("comm")).unwrap().trim() == name {
            let used = std::fs::read_to_string(folder.join("schedstat")).unwrap();
            nanoseconds += used.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
    }
    std::time::Duration::from_nanos(nanoseconds).as_secs_f64()
}

/// Client and server have threads of their own, so that the processor time of each can be told on a machine
/// that has other things to do.
#[test]
fn heavy_rows_cost_little() {
    let runtime = |name: &str| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .unwrap()
    };
    let (server, client) = (runtime("server"), runtime("client"));
    let discard = server.block_on(server.spawn(Fixture::discarding())).unwrap();
    let postgres = server.block_on(server.spawn(Fixture::start())).unwrap();
    let (discard, postgres) = (std::sync::Arc::new(discard), std::sync::Arc::new(postgres));
    for connections in [1, 2] {
        for (name, fixture) in [("discard", &discard), ("postgresql", &postgres)] {
            let before = (processor_seconds("server"), processor_seconds("client"));
            let fixture = fixture.clone();
            let load = client.spawn(async move { measure(&fixture, connections).await });
            let seconds = client.block_on(load).unwrap();
            let server_seconds = processor_seconds("server") - before.0;
            let client_seconds = processor_seconds("client") - before.1;
            #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
            let rate = ROWS as f64 / seconds;
            let for_a_million = server_seconds * 1e6 / f64::from(u32::try_from(ROWS).unwrap());
            let figures = format!(
                "{name}, {connections} connections: {rate:.0} rows/s; processor seconds for {ROWS} rows: \
                 server {server_seconds:.2}, client {client_seconds:.2}"
            );
            eprintln!("{figures}");
            assert!(for_a_million < MOST_SECONDS && rate > LEAST_RATE, "{figures}");
        }
    }
    let _entered = server.enter();
    drop((discard, postgres));
}
