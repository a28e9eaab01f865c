//! The local stack.

pub mod authority;
pub mod downgrade;
pub mod error;
pub mod identity_provider;
pub mod nats_auth;
pub mod nats_cluster;
pub mod nats_server;
mod password;
mod port;
pub mod postgres;
mod process;
pub mod proxy;
pub mod sql_server;
pub mod stack;
pub mod tools;

pub use port::free_port;
