//! Holds what a table and a dead-letter stream have against what was published. Knows no server: what it is given was
//! read by clients that are not the sink's.

use std::collections::{HashMap, HashSet};

use crate::events::Event;
use crate::mode::Rows;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// In which order rows came.
    pub(crate) row_id: i64,
    pub(crate) event_id: u64,
    pub(crate) serial: u64,
    pub(crate) sequence: u64,
}

/// What is asked of a lane's rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) rows: Rows,
    /// Whether rows of a partition must be in the order of the stream.
    pub(crate) ordered: bool,
    /// Events that the stream itself may have lost before anybody read them, by serial number.
    pub(crate) lost: &'a HashSet<u64>,
}

/// How a lane compares with what was published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) published: u64,
    pub(crate) in_table: u64,
    /// Events, or keys, that must have a row and have none.
    pub(crate) missing: u64,
    /// Rows beyond the one that an event, or a key, may have.
    pub(crate) duplicated: u64,
    /// Those of them whose event was published again because its stream had not confirmed it. A stream that delivers
    /// what it then does not store, and takes again, has the event twice.
    pub(crate) duplicated_again: u64,
    /// Rows of a key that are not of the version which must win.
    pub(crate) wrong_version: u64,
    /// Rows that nobody published, that are at another place in the stream, or whose event is bad.
    pub(crate) strange: u64,
    /// Rows that came after one of their partition that is later in the stream.
    pub(crate) out_of_order: u64,
    /// Events that the stream lost and that have no row.
    pub(crate) lost: u64,
    /// Bad events.
    pub(crate) bad: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) letters_missing: u64,
    pub(crate) letters_repeated: u64,
    /// Letters of events that are not bad.
    pub(crate) letters_unexpected: u64,
}

impl Account {
    /// Whether everything that was published has come where it belongs.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing == 0 && self.wrong_version == 0 && self.letters_missing == 0
    }
}

/// All rows of events, or of keys, that have several, in order: for whoever looks for the reason.
pub(crate) fn several(rules: Rows, rows: &[Row]) -> Vec<Row> {
    let place = |row: &Row| if rules == Rows::EachEvent { row.serial } else { row.event_id };
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for row in rows {
        *counts.entry(place(row)).or_default() += 1;
    }
    let mut several: Vec<Row> = rows.iter().filter(|row| counts[&place(row)] > 1).copied().collect();
    several.sort_by_key(|row| (place(row), row.row_id));
    several
}

/// Compares. `letters` are the serial numbers of the events in the dead-letter stream.
pub(crate) fn compare(rules: Rules<'_>, events: &[Event], rows: &[Row], letters: &[u64]) -> Account {
    let mut account = Account {
        published: events.len() as u64,
        in_table: rows.len() as u64,
        bad: events.iter().filter(|event| event.bad.is_some()).count() as u64,
        dead_lettered: letters.len() as u64,
        ..Account::default()
    };
    let known =
        |serial: u64| serial.checked_sub(1).and_then(|index| events.get(usize::try_from(index).ok()?));
    let mut counts: HashMap<u64, u64> = HashMap::with_capacity(rows.len());
    for row in rows {
        match known(row.serial) {
            Some(event)
                if event.bad.is_none()
                    && event.key == row.event_id
                    && event.sequence == Some(row.sequence) =>
            {
                let place = if rules.rows == Rows::EachEvent { row.serial } else { row.event_id };
                *counts.entry(place).or_default() += 1;
            }
            _ => account.strange += 1,
        }
    }
    account.duplicated = counts.values().map(|count| count - 1).sum();
    let again = |place: u64| known(place).is_some_and(|event| event.again > 0);
    let several = counts.iter().filter(|(place, _)| again(**place));
    account.duplicated_again = several.map(|(_, count)| count - 1).sum();
    match rules.rows {
        Rows::EachEvent => each_event(rules, events, &counts, &mut account),
        Rows::FirstOfKey | Rows::LastOfKey => each_key(rules, events, rows, &mut account),
    }
    if rules.ordered {
        account.out_of_order = out_of_order(rows, &known);
    }
    compare_letters(rules, events, letters, &mut account);
    account
}

fn each_event(rules: Rules<'_>, events: &[Event], counts: &HashMap<u64, u64>, account: &mut Account) {
    for event in events.iter().filter(|event| event.bad.is_none() && !counts.contains_key(&event.serial)) {
        if rules.lost.contains(&event.serial) {
            account.lost += 1;
        } else {
            account.missing += 1;
        }
    }
}

fn each_key(rules: Rules<'_>, events: &[Event], rows: &[Row], account: &mut Account) {
    let mut versions: HashMap<u64, Vec<&Event>> = HashMap::new();
    for event in events.iter().filter(|event| event.bad.is_none()) {
        versions.entry(event.key).or_default().push(event);
    }
    let found: HashMap<u64, u64> = rows.iter().map(|row| (row.event_id, row.serial)).collect();
    for (key, versions) in versions {
        let may_be_lost = versions.iter().any(|event| rules.lost.contains(&event.serial));
        let winner = match rules.rows {
            Rows::LastOfKey => versions.iter().max_by_key(|event| event.sequence),
            _ => versions.iter().min_by_key(|event| event.sequence),
        };
        match (found.get(&key), winner) {
            (Some(serial), Some(winner)) => {
                account.wrong_version += u64::from(*serial != winner.serial && !may_be_lost);
            }
            (None, _) if may_be_lost => account.lost += 1,
            _ => account.missing += 1,
        }
    }
}

fn out_of_order<'a>(rows: &[Row], known: &dyn Fn(u64) -> Option<&'a Event>) -> u64 {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| row.row_id);
    let mut latest: HashMap<u64, (u32, u64)> = HashMap::new();
    let mut count = 0;
    for row in rows {
        let Some(event) = known(row.serial) else { continue };
        let latest = latest.entry(event.partition()).or_default();
        let place = (event.generation, row.sequence);
        count += u64::from(place < *latest);
        *latest = (*latest).max(place);
    }
    count
}

fn compare_letters(rules: Rules<'_>, events: &[Event], letters: &[u64], account: &mut Account) {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    for serial in letters {
        *counts.entry(*serial).or_default() += 1;
    }
    account.letters_repeated = counts.values().map(|count| count - 1).sum();
    for event in events.iter().filter(|event| event.bad.is_some()) {
        if counts.remove(&event.serial).is_some() {
            continue;
        }
        if rules.lost.contains(&event.serial) {
            account.lost += 1;
        } else {
            account.letters_missing += 1;
        }
    }
    account.letters_unexpected = counts.len() as u64;
}

#[cfg(test)]
mod tests;
