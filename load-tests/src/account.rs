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
            StorageKind::Discard => {
                let counts =
                    counts.context("rows that nobody keeps are counted by the local SQL server alone")?;
                Ok(Self::of_count(counts.rows_committed, good))
            }
        }
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
    fn a_count_tells_the_difference_alone() {
        assert_eq!(Account::of_count(8, GOOD), Account { rows: 8, ..Account::default() });
        assert_eq!(Account::of_count(6, GOOD).missing, 2);
        assert_eq!(Account::of_count(9, GOOD).duplicates, 1);
    }
}
