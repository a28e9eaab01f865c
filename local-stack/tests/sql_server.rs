//! The stand-in for SQL Server, as a client sees it that others wrote: tiberius, in front of a real PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what tests share says what it expects by panicking, as tests do"
)]

#[path = "sql_server/alter_table.rs"]
mod alter_table;
#[path = "sql_server/bulk.rs"]
mod bulk;
#[path = "sql_server/concurrency.rs"]
mod concurrency;
#[path = "sql_server/discard.rs"]
mod discard;
#[path = "sql_server/durability.rs"]
mod durability;
#[path = "sql_server/faults.rs"]
mod faults;
#[path = "sql_server/federated.rs"]
mod federated;
#[path = "sql_server/fixture.rs"]
mod fixture;
#[path = "support/issuer.rs"]
mod issuer;
#[path = "sql_server/login.rs"]
mod login;
#[path = "sql_server/older_types.rs"]
mod older_types;
#[path = "sql_server/packet_size.rs"]
mod packet_size;
#[path = "sql_server/permissions.rs"]
mod permissions;
#[path = "sql_server/procedures.rs"]
mod procedures;
#[path = "sql_server/routing.rs"]
mod routing;
#[path = "sql_server/security.rs"]
mod security;
#[path = "sql_server/speed.rs"]
mod speed;
#[path = "sql_server/statements.rs"]
mod statements;
#[path = "sql_server/temporary.rs"]
mod temporary;
#[path = "sql_server/transactions.rs"]
mod transactions;
#[path = "sql_server/types.rs"]
mod types;
#[path = "sql_server/wire.rs"]
mod wire;
