//! From a record batch to the rows that the driver takes: what it costs to read a cell, before anything is sent.

use criterion::{Criterion, Throughput};
use nats_sql_sink::decode::{DecodePool, Decoder};
use nats_sql_sink::mssql::bulk::Cells;
use nats_sql_sink::mssql::target::{Shape, Target, TargetColumn};
use nats_sql_sink::schema::Schema;
use tiberius::SqlBulkCopyOptions;

use crate::events::{EVENTS, flights, telemetry};
use crate::processor_time::ProcessorTime;

pub(crate) fn benches(criterion: &mut Criterion<ProcessorTime>) {
    let pool = DecodePool::new(1).unwrap();
    let mut group = criterion.benchmark_group("rows, cells");
    for (name, (schema, events)) in [("telemetry", telemetry()), ("flights", flights())] {
        let rows = Decoder::new(&schema, &pool).decode_rows(&events).unwrap().rows;
        let target = target(&schema);
        let count = EVENTS * schema.columns().len();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let cells = Cells::new(&target, &schema, &rows).unwrap();
                let read: usize = (0..EVENTS).map(|row| std::hint::black_box(cells.row(row)).len()).sum();
                assert_eq!(read, count);
            });
        });
    }
    group.finish();
}

/// A heap with the columns of the schema, as `create_table` makes it.
fn target(schema: &Schema) -> Target {
    let columns = schema.columns().iter().map(|column| TargetColumn {
        name: column.name.quoted(),
        scale: 3,
        encoding: None,
    });
    Target {
        table: "[dbo].[t]".to_owned(),
        columns: columns.collect(),
        options: SqlBulkCopyOptions::default(),
        shape: Shape::Heap,
        stage: None,
        decisions: Vec::new(),
    }
}
