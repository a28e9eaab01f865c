//! The parts of `nats-sql-sink`, in the order in which an event meets them; a module uses only those above it.
//! README.md says what the program is for, and `docs/design.md` how it keeps its promises.

// What every part leans on.
pub mod error;
pub mod sql_name;
pub mod disposition;
pub mod retry;
pub mod concurrency;
pub mod metrics;
pub mod telemetry;
pub mod shutdown;
pub mod status;
pub mod config;
pub mod identity;
pub mod schema;
pub mod keyed;
pub mod rights;
pub mod fair;
pub mod budget;

// The way of an event.
pub mod delivery;
pub mod nats;
pub mod batcher;
pub mod decode;
pub mod mssql;
pub mod sizing;
pub mod bisect;
pub mod refusals;
pub mod trouble;
pub mod writers;
pub mod writer;
pub mod worker;
pub mod partition;
pub mod sharing;
pub mod receipts;
pub mod pipeline;

// The process and its commands.
pub mod http;
mod output;
pub mod run;
mod operate;
mod dlq;
mod grants;
mod check;
#[cfg(feature = "local-stack")]
pub mod demo;
pub mod cli;
