//! The end's account: what the table holds against what was published.

use anyhow::Context as _;

use crate::events::{Good, NUMBER};
use crate::scenario::StorageKind;
use crate::stand::Stand;
use crate::stand::sql_process::Counts;

/// What came of the good events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) rows: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    /// Whether the rows have other numbers than those that were published. Never of a storage that keeps none.
    pub(crate) is_strange: bool,
}

/// The table's own words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Found {
    rows: u64,
    distinct: u64,
    first: i64,
    last: i64,
    /// Of the numbers, each once.
    sum: u128,
}

impl Account {
    /// Asks the table, or where no row is kept the SQL server that has counted them.
    pub(crate) async fn read(
        stand: &Stand,
        storage: StorageKind,
        counts: Option<Counts>,
        good: Good,
    ) -> anyhow::Result<Self> {
        match storage {
            StorageKind::Postgres => Ok(Self::of_table(read_table(stand).await?, good)),
            StorageKind::Discard => Ok(Self::of_count(rows_taken(counts)?, good)),
        }
    }

    /// The same for whoever was stopped before it had taken all events, and knows of so many commits. A loss is a row that
    /// it knows of and that is not there. Without a table nobody can tell whether a row is there twice.
    pub(crate) async fn read_part(
        stand: &Stand,
        storage: StorageKind,
        counts: Option<Counts>,
        good: Good,
        known: u64,
    ) -> anyhow::Result<Self> {
        match storage {
            StorageKind::Postgres => Ok(Self::of_part(read_table(stand).await?, good, known)),
            StorageKind::Discard => {
                let rows = rows_taken(counts)?;
                Ok(Self {
                    rows,
                    missing: known.saturating_sub(rows),
                    duplicates: 0,
                    is_strange: rows > good.count,
                })
            }
        }
    }

    fn of_part(found: Found, good: Good, known: u64) -> Self {
        let part = Good { count: known, ..good };
        let account = Self::of_table(found, part);
        // which of the events they are nobody knows, and more of them may be in than are known of
        let published = 1..=i64::try_from(good.last).unwrap_or(i64::MAX);
        let is_strange = found.distinct > good.count
            || (found.rows > 0 && !(published.contains(&found.first) && published.contains(&found.last)));
        Self { is_strange, ..account }
    }

    fn of_table(found: Found, good: Good) -> Self {
        let missing = good.count.saturating_sub(found.distinct);
        let published = 1..=i64::try_from(good.last).unwrap_or(i64::MAX);
        let has_strangers =
            found.rows > 0 && !(published.contains(&found.first) && published.contains(&found.last));
        // with nothing missing the numbers are those of the good events, or some took the place of others
        let is_strange =
            has_strangers || found.distinct > good.count || (missing == 0 && found.sum != good.sum);
        Self { rows: found.rows, missing, duplicates: found.rows.saturating_sub(found.distinct), is_strange }
    }

    /// A count cannot tell one event's loss from another's repetition: what it says is the least that is wrong.
    fn of_count(rows: u64, good: Good) -> Self {
        let (missing, duplicates) = (good.count.saturating_sub(rows), rows.saturating_sub(good.count));
        Self { rows, missing, duplicates, is_strange: false }
    }
}

/// By bulk loads and by INSERTs.
fn rows_taken(counts: Option<Counts>) -> anyhow::Result<u64> {
    let counts = counts.context("rows that nobody keeps are counted by the local SQL server alone")?;
    Ok(counts.rows_committed + counts.rows_inserted_and_discarded)
}

async fn read_table(stand: &Stand) -> anyhow::Result<Found> {
    let mut client = stand.sql_client().await?;
    let table = stand.table();
    let sql = format!(
        "SELECT COUNT_BIG(*), COUNT_BIG(DISTINCT {NUMBER}), MIN({NUMBER}), MAX({NUMBER}) FROM {table}"
    );
    let rows = client.numbers(&sql).await.context("counting the rows")?;
    let [rows, distinct, first, last] = rows.first().map_or(&[][..], Vec::as_slice) else {
        anyhow::bail!("the count has no row of four numbers");
    };
    let sum = client.number(&format!("SELECT SUM(DISTINCT {NUMBER}) FROM {table}")).await;
    Ok(Found {
        rows: u64::try_from(*rows)?,
        distinct: u64::try_from(*distinct)?,
        first: *first,
        last: *last,
        sum: u128::try_from(sum.context("adding up the events' numbers")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers 1 to 10, of which 3 and 7 are bad.
    const GOOD: Good = Good { count: 8, sum: 45, last: 10 };
    const RIGHT: Found = Found { rows: 8, distinct: 8, first: 1, last: 10, sum: 45 };

    #[test]
    fn a_table_of_what_was_published_is_right() {
        assert_eq!(Account::of_table(RIGHT, GOOD), Account { rows: 8, ..Account::default() });
    }

    #[test]
    fn a_lost_and_a_doubled_row_do_not_make_up_for_each_other() {
        let account = Account::of_table(Found { distinct: 7, sum: 43, ..RIGHT }, GOOD);
        assert_eq!((account.rows, account.missing, account.duplicates), (8, 1, 1));
        assert_eq!(Account::of_table(Found::default(), GOOD).missing, 8);
    }

    #[test]
    fn rows_that_nobody_published_are_strange() {
        assert!(Account::of_table(Found { sum: 46, ..RIGHT }, GOOD).is_strange);
        assert!(Account::of_table(Found { last: 11, ..RIGHT }, GOOD).is_strange);
        assert!(Account::of_table(Found { first: 0, ..RIGHT }, GOOD).is_strange);
        assert!(Account::of_table(Found { rows: 9, distinct: 9, sum: 48, ..RIGHT }, GOOD).is_strange);
    }

    #[test]
    fn a_part_is_right_where_each_row_that_is_known_is_there_once() {
        // five are known, and one more came in after that
        let part = Found { rows: 6, distinct: 6, first: 1, last: 6, sum: 21 };
        assert_eq!(Account::of_part(part, GOOD, 5), Account { rows: 6, ..Account::default() });
        let doubled = Account::of_part(Found { distinct: 5, ..part }, GOOD, 6);
        assert_eq!((doubled.missing, doubled.duplicates), (1, 1));
        assert!(Account::of_part(Found { last: 11, ..part }, GOOD, 6).is_strange);
        assert!(Account::of_part(Found { distinct: 9, rows: 9, ..part }, GOOD, 6).is_strange);
    }

    #[test]
    fn a_count_tells_the_difference_alone() {
        assert_eq!(Account::of_count(8, GOOD), Account { rows: 8, ..Account::default() });
        assert_eq!(Account::of_count(6, GOOD).missing, 2);
        assert_eq!(Account::of_count(9, GOOD).duplicates, 1);
    }
}
