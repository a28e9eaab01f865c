//! What kind of table it is, and what that decides about a bulk load.

use tiberius::{SqlBulkCopyOption, SqlBulkCopyOptions};

use super::catalogue::ServerIndex;

/// How a table keeps its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In no order, and without an index.
    Heap,
    /// In no order, with indexes beside it.
    HeapWithIndexes,
    /// In the order of a clustered index.
    Clustered,
    /// In columns: a clustered columnstore index.
    Columnstore,
}

/// `sys.indexes.type` of a table that has no clustered index.
pub(super) const HEAP: i32 = 0;
/// Of a clustered columnstore index.
const CLUSTERED_COLUMNSTORE: i32 = 5;
/// Of a clustered index of rows.
const CLUSTERED: i32 = 1;

impl Shape {
    pub(super) fn of(indexes: &[ServerIndex]) -> Self {
        let has = |kind| indexes.iter().any(|index| index.kind == kind);
        if has(CLUSTERED_COLUMNSTORE) {
            Shape::Columnstore
        } else if has(CLUSTERED) {
            Shape::Clustered
        } else if indexes.iter().all(|index| index.kind == HEAP) {
            Shape::Heap
        } else {
            Shape::HeapWithIndexes
        }
    }

    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Shape::Heap => "a heap without indexes",
            Shape::HeapWithIndexes => "a heap with indexes",
            Shape::Clustered => "a table with a clustered index",
            Shape::Columnstore => "a table with a clustered columnstore index",
        }
    }

    /// What is asked of the server for each load into the table itself, and why.
    ///
    /// `TABLOCK` takes a BU lock on a heap without indexes, which lets other such loads in, and a lock on any other table
    /// which does not (Microsoft's "Prerequisites for minimal logging in bulk import" and "Columnstore indexes: data loading
    /// guidance").
    pub(super) fn options(self) -> (SqlBulkCopyOptions, Vec<String>) {
        let mut options = SqlBulkCopyOption::KeepNulls
            | SqlBulkCopyOption::CheckConstraints
            | SqlBulkCopyOption::FireTriggers;
        let lock = match self {
            Shape::Heap => {
                options |= SqlBulkCopyOption::TableLock;
                "TABLOCK: a heap without indexes takes several loads at once under it"
            }
            Shape::HeapWithIndexes | Shape::Clustered => {
                "no TABLOCK: on a table with indexes it would let in one load at a time; where loads wait for each other \
                 all the same, ALTER TABLE … SET (LOCK_ESCALATION = DISABLE) keeps a large one from locking the whole table"
            }
            Shape::Columnstore => {
                "no TABLOCK: a columnstore takes several loads at once without it, each into rowgroups of its own"
            }
        };
        let decisions = vec![
            format!("it is {}", self.as_str()),
            "KEEP_NULLS: a null stays a null, where a default would take its place".to_owned(),
            "CHECK_CONSTRAINTS and FIRE_TRIGGERS: a row is checked and noticed as one of an INSERT would be"
                .to_owned(),
            lock.to_owned(),
            "no ORDER: rows come in the order of the stream, which is no index's".to_owned(),
        ];
        (options, decisions)
    }

    /// How rows that are written by key are loaded into the temporary table of their batch, and why.
    pub(super) fn stage_options(self) -> (SqlBulkCopyOptions, Vec<String>) {
        let decisions = vec![
            format!("it is {}", self.as_str()),
            "by key: a batch is loaded into a temporary table, and merged from there in the same transaction"
                .to_owned(),
            "TABLOCK: nobody else sees the temporary table".to_owned(),
            "one merge into the table at a time, by sp_getapplock: two would wait for each other's keys in turn"
                .to_owned(),
        ];
        (SqlBulkCopyOption::KeepNulls | SqlBulkCopyOption::TableLock, decisions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(kind: i32) -> ServerIndex {
        ServerIndex {
            name: None,
            kind,
            unique: false,
            disabled: false,
            identity_key: false,
            filtered: false,
            ignores_duplicates: false,
            key: Vec::new(),
        }
    }

    #[test]
    fn the_clustered_index_decides_and_a_table_lock_is_for_heaps_without_any() {
        const NONCLUSTERED: i32 = 2;
        const NONCLUSTERED_COLUMNSTORE: i32 = 6;
        for (kinds, shape) in [
            (vec![HEAP], Shape::Heap),
            (vec![HEAP, NONCLUSTERED], Shape::HeapWithIndexes),
            (vec![HEAP, NONCLUSTERED_COLUMNSTORE], Shape::HeapWithIndexes),
            (vec![CLUSTERED], Shape::Clustered),
            (vec![CLUSTERED, NONCLUSTERED_COLUMNSTORE], Shape::Clustered),
            (vec![CLUSTERED_COLUMNSTORE], Shape::Columnstore),
            (vec![CLUSTERED_COLUMNSTORE, NONCLUSTERED], Shape::Columnstore),
        ] {
            let indexes: Vec<ServerIndex> = kinds.iter().map(|kind| index(*kind)).collect();
            assert_eq!(Shape::of(&indexes), shape, "{kinds:?}");
            let (_, decisions) = shape.options();
            let is_locked = decisions.iter().any(|decision| decision.starts_with("TABLOCK"));
            assert_eq!(is_locked, shape == Shape::Heap, "{kinds:?}");
        }
    }
}
