//! What fault tests and load tests share: workers as processes of their own, their counters, and a SQL client that is
//! not the sink's.

pub mod counters;
pub mod say;
pub mod sql_client;
pub mod wait;
pub mod worker;
