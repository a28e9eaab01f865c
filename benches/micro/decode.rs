//! From payloads to Arrow rows, beside arrow-json, which reads the same payloads by a schema that is as near to ours as its
//! types allow. What that decided is in `docs/adr/0002-json-parser.md`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use criterion::{Criterion, Throughput};
use nats_sql_sink::decode::{DecodePool, Decoder};
use nats_sql_sink::delivery::Event;
use nats_sql_sink::schema::{Schema, Source, SqlType};

use crate::events::{EVENTS, flights, telemetry};
use crate::processor_time::ProcessorTime;

pub(crate) fn benches(criterion: &mut Criterion<ProcessorTime>) {
    let pool = DecodePool::new(1).unwrap();
    for (name, (schema, events)) in [("telemetry", telemetry()), ("flights", flights())] {
        let decoder = Decoder::new(&schema, &pool);
        let nearest = nearest_arrow_schema(&schema);
        let mut group = criterion.benchmark_group(format!("decode {name}"));
        group.throughput(Throughput::Elements(EVENTS as u64));
        group.bench_function("arrow-json", |bencher| {
            bencher.iter(|| assert_eq!(arrow_json(&nearest, &events), EVENTS));
        });
        group.bench_function("ours", |bencher| {
            bencher.iter(|| {
                let decoded = decoder.decode_rows(&events).unwrap();
                assert_eq!((decoded.rejects.len(), decoded.rows.num_rows()), (0, EVENTS));
                decoded
            });
        });
        group.finish();
    }
}

fn arrow_json(schema: &SchemaRef, events: &[Event]) -> usize {
    let mut decoder =
        ReaderBuilder::new(Arc::clone(schema)).with_batch_size(events.len()).build_decoder().unwrap();
    for event in events {
        assert_eq!(decoder.decode(&event.payload).unwrap(), event.payload.len());
    }
    decoder.flush().unwrap().unwrap().num_rows()
}

/// The columns that read the payload, one level of nesting, with the types that arrow-json can read.
fn nearest_arrow_schema(schema: &Schema) -> SchemaRef {
    let (mut fields, mut nested) = (Vec::new(), Vec::<(String, Vec<Field>)>::new());
    for column in schema.columns() {
        let Source::Field { path, .. } = &column.source else { continue };
        let data_type = match column.sql_type {
            SqlType::DateTime2 { .. } | SqlType::DateTimeOffset { .. } => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            SqlType::UniqueIdentifier => DataType::Utf8,
            sql_type => sql_type.arrow(),
        };
        let field = Field::new(path.last().unwrap(), data_type, true);
        match path.as_slice() {
            [outer, _] => match nested.iter_mut().find(|(name, _)| name == outer) {
                Some((_, inner)) => inner.push(field),
                None => nested.push((outer.clone(), vec![field])),
            },
            _ => fields.push(field),
        }
    }
    fields.extend(
        nested.into_iter().map(|(name, inner)| Field::new(name, DataType::Struct(inner.into()), true)),
    );
    Arc::new(arrow::datatypes::Schema::new(fields))
}
