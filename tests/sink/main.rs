//! The built binary against a real nats-server and a SQL server. One binary, so that it is linked once.

// A module of a test binary has no outside that it could be reached from.
#![allow(unreachable_pub)]
// A test says what it expects by panicking, in its helpers too, and what it measured on stdout.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bad_input;
mod bad_rows;
mod canaries;
mod check;
mod columnstore;
mod consumer;
mod crash;
mod dead_letter;
mod dlq;
mod exactly_once;
mod flights;
mod grants;
mod keyed;
mod least_privilege;
mod nats_identity;
mod nats_rotation;
mod nats_tls;
mod numbers;
mod outage;
mod partitions;
mod poison;
mod receipts;
mod rotation_sql;
mod scale_out;
mod sharing;
mod sql;
mod sql_identity;
mod sql_tls;
mod stop;
mod support;
mod types;
mod writers;
