use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::support::{World, repository};

const MINUTE: Duration = Duration::from_secs(60);

/// GIVEN the 27,004 flights out of New York in January 2013
/// WHEN all of them have gone through the sink
/// THEN count, sums, minimums, nulls and groups are those that other code computed from the source.
#[tokio::test(flavor = "multi_thread")]
async fn the_flights_of_january_2013_arrive_as_they_are() {
    let world = World::start().await;
    let table = world.table("flights");
    world.stream("FLIGHTS", "flights.>").await;
    let schema = repository("schemas/flights.toml");
    let mut sink = world.config(
        "flights",
        "",
        &format!(
            "stream = \"FLIGHTS\"\ndurable = \"sink-flights\"\nsubjects = [\"flights.>\"]\nschema = {schema:?}\n\
             table = \"{table}\"\ncreate_table = true"
        ),
    );
    sink.start();
    let file = std::fs::File::open(repository("tests/data/flights-2013-01.jsonl.gz")).expect("the flights");
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let published = world
        .publish(lines.map(|line| ("flights.nyc".to_owned(), None, line.expect("a line").into_bytes())))
        .await;
    world.settled("FLIGHTS", "sink-flights", 3 * MINUTE).await;
    assert_eq!(world.dead_letters().await.len(), 0);

    let expected =
        std::fs::read_to_string(repository("tests/data/flights-expected.json")).expect("the figures");
    let expected: Value = serde_json::from_str(&expected).expect("they are JSON");
    let mut sql = world.sql().await;
    let count = sql.number(&format!("SELECT COUNT_BIG(*) FROM {table}")).await;
    assert_eq!((expected["count"].as_i64(), i64::try_from(published).ok()), (Some(count), Some(count)));

    let mut compared = 0;
    let figures = |name: &str| expected[name].as_object().unwrap_or_else(|| panic!("no {name}")).clone();
    for (name, function) in [("sums", "SUM"), ("minimums", "MIN"), ("maximums", "MAX")] {
        for (column, figure) in figures(name) {
            let Some(figure) = figure.as_i64() else { continue };
            let sql_text = format!("SELECT {function}(CAST([{column}] AS bigint)) FROM {table}");
            assert_eq!(sql.number(&sql_text).await, figure, "{sql_text}");
            compared += 1;
        }
    }
    for (column, figure) in figures("nulls") {
        let sql_text = format!("SELECT COUNT_BIG(*) FROM {table} WHERE [{column}] IS NULL");
        assert_eq!(Some(sql.number(&sql_text).await), figure.as_i64(), "{sql_text}");
        compared += 1;
    }
    for (column, figure) in figures("distinct") {
        let sql_text = format!("SELECT COUNT_BIG(DISTINCT [{column}]) FROM {table}");
        assert_eq!(Some(sql.number(&sql_text).await), figure.as_i64(), "{sql_text}");
        compared += 1;
    }
    let groups = sql
        .rows(&format!(
            "SELECT carrier, COUNT_BIG(*), SUM(CAST(distance AS bigint)) FROM {table} GROUP BY carrier ORDER BY carrier"
        ))
        .await;
    let carriers = figures("carriers");
    assert_eq!(groups.len(), carriers.len());
    for group in groups {
        let carrier: &str = group.get(0).expect("a carrier");
        let figure = &carriers[carrier];
        let figures = (group.get::<i64, _>(1), group.get::<i64, _>(2));
        assert_eq!(figures, (figure["flights"].as_i64(), figure["distance"].as_i64()), "{carrier}");
        compared += 2;
    }
    println!("{count} flights, {compared} figures equal");
    sql.execute(&format!("DROP TABLE {table}")).await;
}
