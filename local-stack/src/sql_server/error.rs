//! SQL Server's errors: the numbers, classes and states that clients look at, and which of PostgreSQL's
//! stand for which of them.

use std::fmt;

/// An ERROR token to be: what a statement, a login or a load ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SqlError {
    pub(crate) number: i32,
    pub(crate) class: u8,
    pub(crate) state: u8,
    pub(crate) message: String,
}

impl SqlError {
    pub(crate) fn new(number: i32, class: u8, state: u8, message: impl Into<String>) -> Self {
        Self { number, class, state, message: message.into() }
    }

    /// What SQL Server has and this server has not, named. The number is the one that Azure SQL gives
    /// for what it does not have.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self::new(
            40517,
            16,
            1,
            format!("Keyword or statement option '{what}' is not supported in this stand-in for SQL Server."),
        )
    }

    pub(crate) fn syntax(near: &str) -> Self {
        Self::new(102, 15, 1, format!("Incorrect syntax near '{near}'."))
    }

    pub(crate) fn too_deep() -> Self {
        const MESSAGE: &str = "Some part of your SQL statement is nested too deeply. \
            Rewrite the query or break it up into smaller queries.";
        Self::new(191, 15, 1, MESSAGE)
    }

    /// An error within TRY under XACT_ABORT left the transaction so that only a rollback is possible.
    pub(crate) fn doomed() -> Self {
        const MESSAGE: &str = "The current transaction cannot be committed and cannot support operations that write to the log file. \
            Roll back the transaction.";
        Self::new(3930, 16, 1, MESSAGE)
    }

    pub(crate) fn protocol(what: &str) -> Self {
        Self::new(
            8009,
            16,
            1,
            format!("The incoming tabular data stream (TDS) protocol stream is incorrect: {what}."),
        )
    }

    /// Where the PostgreSQL behind this server answers what nobody expected.
    pub(crate) fn internal(what: &str) -> Self {
        Self::new(8630, 17, 1, format!("Internal error of this stand-in for SQL Server: {what}."))
    }

    /// Whether the batch ends with it even where XACT_ABORT is off.
    pub(crate) fn ends_batch(&self) -> bool {
        const ENDS_BATCH: &[i32] = &[
            102, 103, 105, 156, 137, 195, 206, 207, 208, 213, 220, 241, 242, 245, 257, 293, 402, 529, 1205,
            1934, 2715, 4104, 4145, 8114, 8152, 8169, 8630, 9002, 9420, 40517, 8009,
        ];
        self.class >= 17 || (ENDS_BATCH.contains(&self.number) && self.number != 8152 && self.number != 220)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {}, class {}, state {})", self.message, self.number, self.class, self.state)
    }
}

impl std::error::Error for SqlError {}

/// The code with which functions in the catalogue raise an error of SQL Server: number in the detail,
/// state and class as that error has them.
const RAISED_BY_CATALOGUE: &str = "TS000";

/// What a statement was about, for messages that name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatementContext<'a> {
    pub(super) verb: &'a str,
    pub(super) database: &'a str,
}

/// Translates what PostgreSQL said. `key_is_constraint` tells a primary key or unique constraint from a
/// unique index, by the name that PostgreSQL gives.
pub(super) fn from_postgres(error: &tokio_postgres::Error, context: StatementContext<'_>) -> SqlError {
    let Some(db) = error.as_db_error() else {
        return SqlError::new(
            596,
            21,
            1,
            format!("Cannot continue the execution because the session is in the kill state: {error}."),
        );
    };
    let StatementContext { verb, database } = context;
    let own_name = db.table().unwrap_or("?");
    // a temporary table's name in PostgreSQL has its number behind the mark
    let (schema, own_name, database) = match (db.schema(), own_name.split_once(INDEX_MARK)) {
        (_, Some((name, _))) => ("dbo", name, "tempdb"),
        (schema, None) => (schema.unwrap_or("dbo"), own_name, database),
    };
    let table = format!("{schema}.{own_name}");
    match db.code().code() {
        RAISED_BY_CATALOGUE => {
            let number = db.detail().and_then(|detail| detail.parse().ok()).unwrap_or(50000);
            SqlError::new(number, 16, 1, db.message())
        }
        "23505" => {
            let name = db.constraint().unwrap_or("?");
            let value = db
                .detail()
                .and_then(|detail| detail.split_once(")=("))
                .and_then(|(_, rest)| rest.rsplit_once(") already"))
                .map_or("", |(value, _)| value);
            if matches!(db.schema(), Some("tsql" | "pg_catalog")) {
                // two sessions made one object at the same time
                return SqlError::new(
                    2714,
                    16,
                    6,
                    "There is already an object with that name in the database.",
                );
            }
            let (name, mark) = name.split_once(INDEX_MARK).unwrap_or((name, "u"));
            if mark.starts_with('i') {
                return SqlError::new(
                    2601,
                    14,
                    1,
                    format!(
                        "Cannot insert duplicate key row in object '{table}' with unique index '{name}'. The duplicate key value is ({value})."
                    ),
                );
            }
            let kind = if mark.starts_with('p') { "PRIMARY" } else { "UNIQUE" };
            SqlError::new(
                2627,
                14,
                1,
                format!(
                    "Violation of {kind} KEY constraint '{name}'. Cannot insert duplicate key in object '{table}'. The duplicate key value is ({value})."
                ),
            )
        }
        "23502" => SqlError::new(
            515,
            16,
            2,
            format!(
                "Cannot insert the value NULL into column '{}', table '{database}.{table}'; column does not allow nulls. {verb} fails.",
                db.column().unwrap_or("?")
            ),
        ),
        "23514" => SqlError::new(
            547,
            16,
            0,
            format!(
                "The {verb} statement conflicted with the CHECK constraint \"{}\". The conflict occurred in database \"{database}\", table \"{table}\".",
                db.constraint().unwrap_or("?")
            ),
        ),
        "23503" => SqlError::new(
            547,
            16,
            0,
            format!(
                "The {verb} statement conflicted with the FOREIGN KEY constraint \"{}\".",
                db.constraint().unwrap_or("?")
            ),
        ),
        "22003" => {
            SqlError::new(8115, 16, 2, "Arithmetic overflow error converting expression to data type.")
        }
        "22012" => SqlError::new(8134, 16, 1, "Divide by zero error encountered."),
        "22P02" => {
            SqlError::new(245, 16, 1, "Conversion failed when converting a value to another data type.")
        }
        "22007" | "22008" => SqlError::new(
            241,
            16,
            1,
            "Conversion failed when converting date and/or time from character string.",
        ),
        "2201E" | "2201F" => SqlError::new(3623, 16, 1, "An invalid floating point operation occurred."),
        "21000" => SqlError::new(512, 16, 1, "Subquery returned more than 1 value."),
        "40P01" => SqlError::new(
            1205,
            13,
            51,
            "Transaction was deadlocked on lock resources with another process and has been chosen as the deadlock victim. Rerun the transaction.",
        ),
        "40001" => {
            SqlError::new(3960, 16, 2, "Snapshot isolation transaction aborted due to update conflict.")
        }
        "55P03" => SqlError::new(1222, 16, 51, "Lock request time out period exceeded."),
        "53100" => SqlError::new(
            1105,
            17,
            2,
            format!("Could not allocate space in database '{database}' because the disk is full."),
        ),
        "53200" => SqlError::new(701, 17, 123, "There is insufficient system memory to run this query."),
        "42P07" => SqlError::new(2714, 16, 6, "There is already an object with that name in the database."),
        "57014" => SqlError::new(3617, 16, 1, "The query was cancelled."),
        // of an index, a CHECK or a computed column: what differs from moment to moment
        "42P17" => SqlError::unsupported("an expression here that is not deterministic"),
        code => SqlError::internal(&format!("{} (SQLSTATE {code})", db.message())),
    }
}

/// In the name of a unique index in PostgreSQL, between the name that SQL Server knows and what it belongs
/// to: `p` a primary key, `u` a unique constraint, `i` neither.
pub(super) const INDEX_MARK: char = '\u{1}';
