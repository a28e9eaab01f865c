//! NATS: the connection, and what is done over it. `intake` pulls, `lease` keeps what is held, `reader` reads a
//! partition in order, `dead_letter` sets bad
//! events aside, `settle` acknowledges and gives back.

mod answers;
pub mod charge;
mod connection;
pub mod consumer;
pub mod coverage;
pub mod dead_letter;
pub mod denied;
pub mod gate;
pub mod intake;
pub mod lease;
mod payload;
pub mod reader;
pub mod reply;
pub mod settle;
pub mod stored;
pub mod unreadable;
pub mod user_info;
pub mod watch;

pub use self::connection::{connect, connect_as, identity, is_connected, reconnect, round_trip, trial};
