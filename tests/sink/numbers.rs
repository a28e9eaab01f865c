//! Small events that carry a number, so that a table can be held against the numbers that were published.

use async_nats::HeaderMap;

use crate::support::{Sink, Sql, World};

pub const STREAM: &str = "NUMBERS";
pub const DURABLE: &str = "sink-numbers";

pub const SCHEMA: &str = r#"
format = "json"
[[column]]
name = "id"
type = "bigint"
nullable = false
[[column]]
name = "name"
type = "nvarchar(40)"
[[column]]
name = "stream_sequence"
type = "bigint"
from = "stream_sequence"
nullable = false
"#;

/// What the text of each row begins with: a row's value, which nothing that the sink says may contain.
pub const ROW_CANARY: &str = "canary-of-a-row";

pub fn event(id: u64) -> (String, Option<HeaderMap>, Vec<u8>) {
    let payload = format!(r#"{{"id":{id},"name":"{ROW_CANARY} {id}","padding":"{}"}}"#, "x".repeat(120));
    ("numbers.all".to_owned(), None, payload.into_bytes())
}

/// A sink of the stream into `table`; `pipeline` has further fields.
pub fn sink(world: &World, table: &str, top: &str, pipeline: &str) -> Sink {
    world.write("numbers.toml", SCHEMA);
    let pipeline = format!(
        "stream = \"{STREAM}\"\ndurable = \"{DURABLE}\"\nsubjects = [\"numbers.>\"]\nschema = \"numbers.toml\"\n\
         table = \"{table}\"\ncreate_table = true\n{pipeline}"
    );
    world.config("numbers", top, &pipeline)
}

/// How the table compares with the numbers from 1 to `count`.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    pub missing: i64,
    pub duplicates: i64,
}

pub async fn account(sql: &mut Sql, table: &str, count: u64) -> Account {
    let rows = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
    let distinct = sql.number(&format!("SELECT COUNT_BIG(DISTINCT id) FROM {table}")).await;
    let count = i64::try_from(count).expect("a count");
    let strangers =
        sql.number(&format!("SELECT COUNT_BIG(*) FROM {table} WHERE id < 1 OR id > {count}")).await;
    assert_eq!(strangers, 0, "rows that nobody published");
    Account { missing: count - distinct, duplicates: rows - distinct }
}
