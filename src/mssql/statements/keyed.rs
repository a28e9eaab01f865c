//! The statements of writing by key: the temporary table of a batch, and how its rows get into the table.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{BEGIN, ROLLBACK, literal};
use crate::disposition::{TABLE_BUSY, TRANSACTION_GONE};
use crate::keyed::{Keyed, Wins};
use crate::schema::{Length, Schema, SqlType};
use crate::sql_name::{Identifier, TableName};

/// The temporary table of a batch. It is made and dropped in the batch's own transaction, so that no session ever has one
/// of an earlier batch or of another pipeline: a rollback takes it back. Its name is one that no trigger uses.
pub(in crate::mssql) const STAGE: &str = "[#nats_sql_sink_stage]";

/// The longest key of a clustered index, in bytes.
const MAX_CLUSTERED_KEY_BYTES: usize = 900;

/// A column of the temporary table.
#[derive(Debug, Clone)]
pub(in crate::mssql) struct StageColumn {
    pub(in crate::mssql) name: Identifier,
    /// As T-SQL writes it.
    pub(in crate::mssql) sql_type: String,
    /// Of text. A name.
    pub(in crate::mssql) collation: Option<String>,
    pub(in crate::mssql) nullable: bool,
}

/// Makes the temporary table.
pub(in crate::mssql) fn create_stage(columns: &[StageColumn]) -> String {
    let columns = columns.iter().map(|column| {
        let collate = column.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        format!("{} {}{collate} {null}", column.name.quoted(), column.sql_type)
    });
    format!("CREATE TABLE {STAGE} ({})", list(columns))
}

/// Makes the index that writing by key needs: for whoever is told that it is missing.
pub(in crate::mssql) fn create_key_index(table: &TableName, keyed: &Keyed) -> String {
    let key = list(keyed.key.iter().map(Identifier::quoted));
    format!("CREATE UNIQUE INDEX [nats_sql_sink_key] ON {} ({key})", table.quoted())
}

/// The primary key of a table that this program creates. Without a name: one of our own could be taken already.
///
/// Clustered, so that a row is found by its key in one step and stored once. Not where the key begins with a GUID, by which
/// each row would go to another page of the whole table, nor where it may be longer than a clustered key.
pub(super) fn primary_key(schema: &Schema, keyed: &Keyed) -> String {
    let types: Vec<SqlType> =
        keyed.key.iter().filter_map(|name| schema.column(name)).map(|column| column.sql_type).collect();
    let is_scattered = types.first() == Some(&SqlType::UniqueIdentifier);
    let is_long = types.iter().map(|sql_type| key_bytes(*sql_type)).sum::<usize>() > MAX_CLUSTERED_KEY_BYTES;
    let kind = if is_scattered || is_long { "NONCLUSTERED" } else { "CLUSTERED" };
    format!("PRIMARY KEY {kind} ({})", list(keyed.key.iter().map(Identifier::quoted)))
}

/// The most bytes that a value takes in a key.
fn key_bytes(sql_type: SqlType) -> usize {
    let unit = if matches!(sql_type, SqlType::NChar(_) | SqlType::NVarChar(_)) { 2 } else { 1 };
    match sql_type.length() {
        Some(Length::Limit(limit)) => usize::from(limit) * unit,
        Some(Length::Max) => usize::MAX / usize::from(u16::MAX),
        // A decimal takes 17 bytes at most, and everything else less.
        None => 17,
    }
}

/// The statements that merge the rows of the temporary table into the table.
#[derive(Debug, Clone)]
pub struct Merge {
    body: String,
}

impl Merge {
    /// Of rows of `schema`, as `keyed` says.
    ///
    /// One batch, in the transaction that has loaded the rows, which answers with one row: how many rows were updated, how
    /// many were inserted, and for how many milliseconds it had waited for its turn.
    /// Of several rows of a key one is kept; the others are found by their position in the stream, which no other row of the
    /// batch has. Merges into one table are done one at a time: the lock goes with the
    /// transaction, and its name is the table's object id, however the configuration spells the table. `UPDLOCK` and
    /// `HOLDLOCK` keep out everybody else who writes those keys, also the ones that are not there yet.
    pub(in crate::mssql) fn new(table: &TableName, schema: &Schema, keyed: &Keyed) -> Self {
        let parts = Parts { table: table.quoted(), schema, keyed, stage: STAGE.to_owned() };
        let update = parts.update();
        let update = update.map(|update| format!("{update};\nSET @updated = @@ROWCOUNT;\n"));
        let body = format!(
            "DECLARE @lock int, @updated int = 0, @inserted int = 0, @waited int, @asked datetime2(7);\n\
             DECLARE @resource nvarchar(255) = {resource};\n\
             IF XACT_STATE() <> 1 THROW {TRANSACTION_GONE}, N'the transaction of this batch is gone', 1;\n\
             {keep_winners};\n\
             SET @asked = SYSUTCDATETIME();\n\
             EXEC @lock = sp_getapplock @Resource = @resource, @LockMode = N'Exclusive', \
             @LockOwner = N'Transaction', @LockTimeout = @patience;\n\
             {refuse};\n\
             SET @waited = DATEDIFF(millisecond, @asked, SYSUTCDATETIME());\n\
             {update}\
             {insert};\n\
             SET @inserted = @@ROWCOUNT;\n\
             DROP TABLE {STAGE};\n\
             SELECT @updated AS updated, @inserted AS inserted, @waited AS waited",
            resource = resource(table),
            refuse = refuse_without_lock(),
            keep_winners = parts.keep_winners(),
            update = update.unwrap_or_default(),
            insert = parts.insert(),
        );
        Self { body }
    }

    /// The text, which waits so long for its turn; then it fails with [`TABLE_BUSY`].
    pub(in crate::mssql) fn text(&self, patience: Duration) -> String {
        format!("DECLARE @patience int = {};\n{}", milliseconds(patience), self.body)
    }
}

/// The name of the lock that a merge into a table holds.
fn resource(table: &TableName) -> String {
    format!("CONCAT(N'nats_sql_sink.merge.', OBJECT_ID({}))", literal(&table.quoted()))
}

fn refuse_without_lock() -> String {
    format!("IF @lock < 0 THROW {TABLE_BUSY}, N'the table is being written by others', 1")
}

/// What a merge is made of.
struct Parts<'a> {
    /// The table, quoted.
    table: String,
    schema: &'a Schema,
    keyed: &'a Keyed,
    /// Where the rows are: a table, or a query in parentheses.
    stage: String,
}

impl Parts<'_> {
    /// Deletes all rows of a key but one.
    fn keep_winners(&self) -> String {
        let (stage, sequence) = (&self.stage, self.keyed.sequence.quoted());
        format!(
            "DELETE FROM {stage} WHERE {sequence} IN (SELECT ranked.{sequence} FROM (SELECT {sequence}, \
             {place} FROM {stage}) AS ranked WHERE ranked.place > 1)",
            place = place(self.keyed)
        )
    }

    fn same_key(&self) -> String {
        let same: Vec<String> = self
            .keyed
            .key
            .iter()
            .map(Identifier::quoted)
            .map(|name| format!("t.{name} = s.{name}"))
            .collect();
        same.join(" AND ")
    }

    /// Gives the rows of the table the values of those that win against them; `None` where none does.
    fn update(&self) -> Option<String> {
        let guard = self.keyed.guard.as_ref()?.quoted();
        let wins = match self.keyed.wins {
            Wins::Lowest => format!("s.{guard} < t.{guard}"),
            Wins::Highest => format!("(s.{guard} > t.{guard} OR t.{guard} IS NULL)"),
        };
        let others = self.schema.table_columns().filter(|column| !self.keyed.has(column));
        let assignments = others.map(|column| column.name.quoted()).map(|name| format!("{name} = s.{name}"));
        Some(format!(
            "UPDATE t SET {} FROM {} AS t WITH (UPDLOCK, HOLDLOCK) JOIN {} AS s ON {} WHERE {wins}",
            list(assignments),
            self.table,
            self.stage,
            self.same_key()
        ))
    }

    /// Inserts the rows whose key the table has not.
    fn insert(&self) -> String {
        let columns: Vec<String> = self.schema.table_columns().map(|column| column.name.quoted()).collect();
        let staged = list(columns.iter().map(|name| format!("s.{name}")));
        format!(
            "INSERT INTO {table} ({columns}) SELECT {staged} FROM {stage} AS s \
             WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WITH (UPDLOCK, HOLDLOCK) WHERE {same_key})",
            table = self.table,
            columns = list(columns.into_iter()),
            stage = self.stage,
            same_key = self.same_key(),
        )
    }
}

/// Numbers the rows of each key; the first wins.
fn place(keyed: &Keyed) -> String {
    let key = list(keyed.key.iter().map(Identifier::quoted));
    let order = match keyed.wins {
        Wins::Lowest => "ASC",
        Wins::Highest => "DESC",
    };
    format!("ROW_NUMBER() OVER (PARTITION BY {key} ORDER BY {} {order}) AS place", keyed.sequence.quoted())
}

/// The statements that try whether the table takes some rows of a batch, which are in the temporary table already.
#[derive(Debug, Clone)]
pub struct Trials {
    resource: String,
    sequence: String,
    /// With [`CONDITION`] in the place of what says which rows.
    body: String,
}

/// Stands for what says which rows are tried: no name has such a character.
const CONDITION: &str = "\u{0}";

impl Trials {
    pub(in crate::mssql) fn new(table: &TableName, schema: &Schema, keyed: &Keyed) -> Self {
        let columns = list(schema.columns().iter().map(|column| column.name.quoted()));
        let stage = format!(
            "(SELECT {columns} FROM (SELECT {columns}, {place} FROM {STAGE} WHERE {CONDITION}) AS ranked \
             WHERE ranked.place = 1)",
            place = place(keyed)
        );
        let parts = Parts { table: table.quoted(), schema, keyed, stage };
        let update = parts.update().map(|update| format!("{update};\n")).unwrap_or_default();
        let body = format!("{BEGIN};\n{update}{};\n{ROLLBACK}", parts.insert());
        Self { resource: resource(table), sequence: keyed.sequence.quoted(), body }
    }

    /// After the rows have been loaded: they are found by their position.
    pub(in crate::mssql) fn prepare(&self) -> String {
        format!("CREATE INDEX [nats_sql_sink_position] ON {STAGE} ({})", self.sequence)
    }

    /// Takes the lock of the merges for the session, so that no trial waits for one; fails with [`TABLE_BUSY`] after so long.
    pub(in crate::mssql) fn lock(&self, patience: Duration) -> String {
        format!(
            "DECLARE @lock int, @resource nvarchar(255) = {};\n\
             EXEC @lock = sp_getapplock @Resource = @resource, @LockMode = N'Exclusive', \
             @LockOwner = N'Session', @LockTimeout = {};\n\
             {}",
            self.resource,
            milliseconds(patience),
            refuse_without_lock()
        )
    }

    /// Lets others merge.
    pub(in crate::mssql) fn unlock(&self) -> String {
        format!(
            "DECLARE @resource nvarchar(255) = {};\n\
             EXEC sp_releaseapplock @Resource = @resource, @LockOwner = N'Session'",
            self.resource
        )
    }

    /// Merges the rows at these positions of the stream, and takes it back: all in one request, so that nothing is held
    /// from one to the next.
    pub(in crate::mssql) fn text(&self, positions: &[RangeInclusive<i64>]) -> String {
        let sequence = &self.sequence;
        let positions: Vec<String> = positions
            .iter()
            .map(|range| format!("{sequence} BETWEEN {} AND {}", range.start(), range.end()))
            .collect();
        self.body.replace(CONDITION, &positions.join(" OR "))
    }

    /// Leaves the session as it was.
    pub(in crate::mssql) fn clear() -> String {
        format!("DROP TABLE {STAGE}")
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::mssql::statements::create_table;

    const SCHEMA: &str = r#"
format = "json"
[[column]]
name = "id"
type = "uniqueidentifier"
nullable = false
[[column]]
name = "a]b"
type = "nvarchar(8)"
nullable = false
[[column]]
name = "value"
type = "int"
[[column]]
name = "at"
type = "bigint"
from = "stream_sequence"
nullable = false
"#;

    fn keyed(key: &[&str], guard: Option<&str>, wins: Wins) -> Keyed {
        let name = |name: &str| Identifier::new(name).expect("a name");
        let guard = guard.map(name);
        let sequence = guard.clone().unwrap_or_else(|| name("nats_sql_sink_sequence"));
        Keyed { key: key.iter().map(|column| name(column)).collect(), guard, sequence, wins }
    }

    fn merge(keyed: &Keyed) -> String {
        let schema = Schema::parse(SCHEMA).expect("a schema");
        let schema =
            if keyed.guard.is_some() { schema } else { schema.with_staged_sequence().expect("fits") };
        Merge::new(&"dbo.[t's]".parse().expect("a name"), &schema, keyed).text(Duration::from_secs(60))
    }

    #[test]
    fn an_upsert_lets_the_highest_position_win() {
        assert_snapshot!(merge(&keyed(&["id", "a]b"], Some("at"), Wins::Highest)), @r"
        DECLARE @patience int = 60000;
        DECLARE @lock int, @updated int = 0, @inserted int = 0, @waited int, @asked datetime2(7);
        DECLARE @resource nvarchar(255) = CONCAT(N'nats_sql_sink.merge.', OBJECT_ID(N'[dbo].[t''s]'));
        IF XACT_STATE() <> 1 THROW 51317, N'the transaction of this batch is gone', 1;
        DELETE FROM [#nats_sql_sink_stage] WHERE [at] IN (SELECT ranked.[at] FROM (SELECT [at], ROW_NUMBER() OVER (PARTITION BY [id], [a]]b] ORDER BY [at] DESC) AS place FROM [#nats_sql_sink_stage]) AS ranked WHERE ranked.place > 1);
        SET @asked = SYSUTCDATETIME();
        EXEC @lock = sp_getapplock @Resource = @resource, @LockMode = N'Exclusive', @LockOwner = N'Transaction', @LockTimeout = @patience;
        IF @lock < 0 THROW 51318, N'the table is being written by others', 1;
        SET @waited = DATEDIFF(millisecond, @asked, SYSUTCDATETIME());
        UPDATE t SET [value] = s.[value], [at] = s.[at] FROM [dbo].[t's] AS t WITH (UPDLOCK, HOLDLOCK) JOIN [#nats_sql_sink_stage] AS s ON t.[id] = s.[id] AND t.[a]]b] = s.[a]]b] WHERE (s.[at] > t.[at] OR t.[at] IS NULL);
        SET @updated = @@ROWCOUNT;
        INSERT INTO [dbo].[t's] ([id], [a]]b], [value], [at]) SELECT s.[id], s.[a]]b], s.[value], s.[at] FROM [#nats_sql_sink_stage] AS s WHERE NOT EXISTS (SELECT 1 FROM [dbo].[t's] AS t WITH (UPDLOCK, HOLDLOCK) WHERE t.[id] = s.[id] AND t.[a]]b] = s.[a]]b]);
        SET @inserted = @@ROWCOUNT;
        DROP TABLE [#nats_sql_sink_stage];
        SELECT @updated AS updated, @inserted AS inserted, @waited AS waited
        ");
    }

    #[test]
    fn insert_if_absent_updates_only_what_came_too_early() {
        let guarded = merge(&keyed(&["id"], Some("at"), Wins::Lowest));
        assert!(guarded.contains("ORDER BY [at] ASC"), "{guarded}");
        assert!(guarded.contains("WHERE s.[at] < t.[at];"), "{guarded}");
        let unguarded = merge(&keyed(&["id"], None, Wins::Lowest));
        assert!(unguarded.contains("ORDER BY [nats_sql_sink_sequence] ASC"), "{unguarded}");
        assert!(!unguarded.contains("UPDATE") || !unguarded.contains("SET ["), "{unguarded}");
        assert!(unguarded.contains("SELECT s.[id], s.[a]]b], s.[value], s.[at] FROM"), "{unguarded}");
    }

    #[test]
    fn rows_on_trial_are_found_by_their_position() {
        let schema = Schema::parse(SCHEMA).expect("a schema");
        let keyed = keyed(&["id"], Some("at"), Wins::Highest);
        let trials = Trials::new(&"dbo.[t's]".parse().expect("a name"), &schema, &keyed);
        assert_snapshot!(trials.prepare(), @"CREATE INDEX [nats_sql_sink_position] ON [#nats_sql_sink_stage] ([at])");
        assert_snapshot!(trials.lock(Duration::from_secs(60)), @r"
        DECLARE @lock int, @resource nvarchar(255) = CONCAT(N'nats_sql_sink.merge.', OBJECT_ID(N'[dbo].[t''s]'));
        EXEC @lock = sp_getapplock @Resource = @resource, @LockMode = N'Exclusive', @LockOwner = N'Session', @LockTimeout = 60000;
        IF @lock < 0 THROW 51318, N'the table is being written by others', 1
        ");
        assert_snapshot!(trials.text(&[1..=5, 8..=8]), @r"
        BEGIN TRANSACTION;
        UPDATE t SET [a]]b] = s.[a]]b], [value] = s.[value], [at] = s.[at] FROM [dbo].[t's] AS t WITH (UPDLOCK, HOLDLOCK) JOIN (SELECT [id], [a]]b], [value], [at] FROM (SELECT [id], [a]]b], [value], [at], ROW_NUMBER() OVER (PARTITION BY [id] ORDER BY [at] DESC) AS place FROM [#nats_sql_sink_stage] WHERE [at] BETWEEN 1 AND 5 OR [at] BETWEEN 8 AND 8) AS ranked WHERE ranked.place = 1) AS s ON t.[id] = s.[id] WHERE (s.[at] > t.[at] OR t.[at] IS NULL);
        INSERT INTO [dbo].[t's] ([id], [a]]b], [value], [at]) SELECT s.[id], s.[a]]b], s.[value], s.[at] FROM (SELECT [id], [a]]b], [value], [at] FROM (SELECT [id], [a]]b], [value], [at], ROW_NUMBER() OVER (PARTITION BY [id] ORDER BY [at] DESC) AS place FROM [#nats_sql_sink_stage] WHERE [at] BETWEEN 1 AND 5 OR [at] BETWEEN 8 AND 8) AS ranked WHERE ranked.place = 1) AS s WHERE NOT EXISTS (SELECT 1 FROM [dbo].[t's] AS t WITH (UPDLOCK, HOLDLOCK) WHERE t.[id] = s.[id]);
        IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION
        ");
        assert_snapshot!(trials.unlock(), @r"
        DECLARE @resource nvarchar(255) = CONCAT(N'nats_sql_sink.merge.', OBJECT_ID(N'[dbo].[t''s]'));
        EXEC sp_releaseapplock @Resource = @resource, @LockOwner = N'Session'
        ");
        assert_snapshot!(Trials::clear(), @"DROP TABLE [#nats_sql_sink_stage]");
    }

    #[test]
    fn the_temporary_table_compares_as_the_table_does() {
        let column = |name: &str, sql_type: &str, collation: Option<&str>, nullable| StageColumn {
            name: Identifier::new(name).expect("a name"),
            sql_type: sql_type.to_owned(),
            collation: collation.map(str::to_owned),
            nullable,
        };
        let columns = [
            column("a", "nvarchar(8)", Some("Latin1_General_100_BIN2"), false),
            column("b", "int", None, true),
        ];
        assert_snapshot!(
            create_stage(&columns),
            @"CREATE TABLE [#nats_sql_sink_stage] ([a] nvarchar(8) COLLATE Latin1_General_100_BIN2 NOT NULL, [b] int NULL)"
        );
    }

    #[test]
    fn a_table_that_is_created_has_its_key() {
        let (schema, table) = (Schema::parse(SCHEMA).expect("a schema"), "dbo.t".parse().expect("a name"));
        assert_snapshot!(create_table(&table, &schema, Some(&keyed(&["a]b", "id"], Some("at"), Wins::Highest))), @r"
        IF OBJECT_ID(N'[dbo].[t]', N'U') IS NULL
        CREATE TABLE [dbo].[t] (
            [id] uniqueidentifier NOT NULL,
            [a]]b] nvarchar(8) NOT NULL,
            [value] int NULL,
            [at] bigint NOT NULL,
            PRIMARY KEY CLUSTERED ([a]]b], [id])
        )
        ");
        let text = |key: &[&str], schema: &str| {
            let schema = Schema::parse(schema).expect("a schema").with_staged_sequence().expect("fits");
            create_table(&table, &schema, Some(&keyed(key, None, Wins::Lowest)))
        };
        assert!(text(&["id", "a]b"], SCHEMA).contains("PRIMARY KEY NONCLUSTERED ([id], [a]]b])"));
        assert!(text(&["a]b"], &SCHEMA.replace("(8)", "(450)")).contains("PRIMARY KEY CLUSTERED"));
        assert!(text(&["a]b"], &SCHEMA.replace("(8)", "(451)")).contains("PRIMARY KEY NONCLUSTERED"));
        assert!(!text(&["id"], SCHEMA).contains("nats_sql_sink_sequence"));
        assert!(!create_table(&table, &schema, None).contains("KEY"));
    }
}
