use super::*;
use crate::events::{self, Bad, BadRule};

fn published(count: u64, rules: &[BadRule]) -> Vec<Event> {
    let mut events = Vec::new();
    for sequence in 1..=count {
        let mut event = events::next(&events, rules, true);
        event.sequence = Some(sequence);
        events.push(event);
    }
    events
}

fn row(event: &Event) -> Row {
    Row {
        row_id: i64::try_from(event.serial).unwrap(),
        event_id: event.key,
        serial: event.serial,
        sequence: event.sequence.unwrap(),
    }
}

fn account(rows: Rows, events: &[Event], table: &[Row], letters: &[u64], lost: &[u64]) -> Account {
    let lost = lost.iter().copied().collect();
    compare(Rules { rows, ordered: true, lost: &lost }, events, table, letters)
}

#[test]
fn a_table_of_each_event_once_is_right() {
    let events = published(30, &[BadRule::every(7, Bad::Malformed)]);
    let table: Vec<Row> = events.iter().filter(|event| event.bad.is_none()).map(row).collect();
    let found = account(Rows::EachEvent, &events, &table, &[7, 14, 21, 28], &[]);
    assert_eq!(
        found,
        Account { published: 30, in_table: 26, bad: 4, dead_lettered: 4, ..Account::default() }
    );
    assert!(found.is_complete());
}

#[test]
fn a_lost_and_a_doubled_row_do_not_make_up_for_each_other() {
    let events = published(10, &[]);
    let mut table: Vec<Row> = events.iter().map(row).collect();
    table[3] = table[4];
    let found = account(Rows::EachEvent, &events, &table, &[], &[]);
    assert_eq!((found.missing, found.duplicated), (1, 1));
    assert!(!found.is_complete());
}

#[test]
fn rows_of_events_that_were_published_again_are_told_apart() {
    let mut events = published(10, &[]);
    events[2].again = 1;
    let mut table: Vec<Row> = events.iter().map(row).collect();
    table.extend([table[2], table[4], table[4]]);
    let found = account(Rows::EachEvent, &events, &table, &[], &[]);
    assert_eq!((found.duplicated, found.duplicated_again), (3, 1));
}

#[test]
fn rows_that_nobody_published_are_strange() {
    let events = published(10, &[BadRule::every(4, Bad::Constraint)]);
    let good = row(&events[0]);
    for strange in [
        Row { serial: 99, ..good },
        Row { serial: 0, ..good },
        Row { event_id: 2, ..good },
        Row { sequence: 5, ..good },
        row(&events[3]),
    ] {
        assert_eq!(account(Rows::EachEvent, &events, &[strange], &[], &[]).strange, 1, "{strange:?}");
    }
}

#[test]
fn of_each_key_the_first_or_the_last_version_wins() {
    // 10 is another version of 5
    let events = published(10, &[]);
    let with = |winner: usize| -> Vec<Row> {
        events.iter().filter(|event| event.key != 5 || event.serial == winner as u64).map(row).collect()
    };
    let wrong = |rows, table: &[Row]| account(rows, &events, table, &[], &[]).wrong_version;
    assert_eq!((wrong(Rows::LastOfKey, &with(10)), wrong(Rows::LastOfKey, &with(5))), (0, 1));
    assert_eq!((wrong(Rows::FirstOfKey, &with(10)), wrong(Rows::FirstOfKey, &with(5))), (1, 0));
    let none: Vec<Row> = with(11);
    assert_eq!(account(Rows::LastOfKey, &events, &none, &[], &[]).missing, 1);
    let both: Vec<Row> = events.iter().map(row).collect();
    assert_eq!(account(Rows::LastOfKey, &events, &both, &[], &[]).duplicated, 1);
}

#[test]
fn what_the_stream_lost_is_counted_apart_and_may_be_there() {
    let events = published(10, &[BadRule::every(9, Bad::Malformed)]);
    let table: Vec<Row> = events.iter().filter(|event| ![3, 4, 9].contains(&event.serial)).map(row).collect();
    let found = account(Rows::EachEvent, &events, &table, &[], &[3, 4, 5, 9]);
    assert_eq!((found.missing, found.lost, found.letters_missing), (0, 3, 0));
    assert_eq!(account(Rows::EachEvent, &events, &table, &[9], &[3]).missing, 1);
}

#[test]
fn order_is_asked_within_a_partition_alone() {
    let events = published(9, &[]);
    let mut table: Vec<Row> = events.iter().map(row).collect();
    // 4 and 8 share a partition, 4 and 5 do not
    (table[3].row_id, table[4].row_id) = (table[4].row_id, table[3].row_id);
    assert_eq!(account(Rows::EachEvent, &events, &table, &[], &[]).out_of_order, 0);
    let mut table: Vec<Row> = events.iter().map(row).collect();
    (table[3].row_id, table[7].row_id) = (table[7].row_id, table[3].row_id);
    assert_eq!(account(Rows::EachEvent, &events, &table, &[], &[]).out_of_order, 1);
}

#[test]
fn letters_are_exactly_the_bad_events() {
    let events = published(20, &[BadRule::every(7, Bad::Malformed)]);
    let found = account(Rows::EachEvent, &events, &[], &[7, 7, 3], &[]);
    assert_eq!((found.letters_missing, found.letters_repeated, found.letters_unexpected), (1, 1, 1));
    assert!(!found.is_complete());
}
