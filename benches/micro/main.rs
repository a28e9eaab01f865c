//! What each stage of the sink costs alone, in processor time of one thread. `make micro` prints it, beside what it was in the
//! run before.

#![allow(clippy::unwrap_used, reason = "a benchmark stops at what it did not expect")]

mod decode;
mod events;
mod held;
mod processor_time;
mod rows;

use criterion::Criterion;

use processor_time::ProcessorTime;

fn main() {
    let mut criterion =
        Criterion::default().with_measurement(ProcessorTime).sample_size(30).configure_from_args();
    decode::benches(&mut criterion);
    rows::benches(&mut criterion);
    held::benches(&mut criterion);
    criterion.final_summary();
}
