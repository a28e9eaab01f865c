//! Writing by key: which columns are the key, which row of a key wins, and whether the schema goes with that.

use crate::config::{PipelineConfig, Problem, WriteMode};
use crate::schema::{Column, Length, MAX_COLUMNS, Schema, SchemaError, Source, SqlType};
use crate::sql_name::Identifier;

/// How the rows of a pipeline are written by key. The names are spelled as in the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The columns of the key.
    pub key: Vec<Identifier>,
    /// The column of the table that keeps the position in the stream of the event that a row comes from.
    pub guard: Option<Identifier>,
    /// The column of the loaded rows that has it: the guard, or one that the table has not.
    pub sequence: Identifier,
    /// Which row of a key wins.
    pub wins: Wins,
}

/// Which of several rows of one key wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wins {
    /// The one of the lowest position in the stream: `insert_if_absent`.
    Lowest,
    /// The one of the highest: `upsert`.
    Highest,
}

impl Keyed {
    /// How rows of `schema`, which [`plan`] has returned, are written by key; `None` where they are appended.
    pub fn of(config: &PipelineConfig, schema: &Schema) -> Option<Self> {
        let wins = match config.write {
            WriteMode::Append => return None,
            WriteMode::InsertIfAbsent => Wins::Lowest,
            WriteMode::Upsert => Wins::Highest,
        };
        let spelled = |name: &Identifier| schema.column(name).map_or(name, |column| &column.name).clone();
        let guard = config.sequence_column.as_ref().map(spelled);
        let staged = || schema.columns().iter().find(|column| column.only_staged);
        let sequence = guard.clone().or_else(|| Some(staged()?.name.clone()))?;
        Some(Self { key: config.key.iter().map(spelled).collect(), guard, sequence, wins })
    }

    /// Whether a column is of the key.
    pub fn has(&self, column: &Column) -> bool {
        self.key.contains(&column.name)
    }
}

/// The schema of the rows that are loaded: where they are written by key, each has its position in the stream.
///
/// # Errors
///
/// The columns that the configuration names are not in the schema, or not fit for it. Fields are named from the
/// pipeline on, as in `key[0]`.
pub fn plan(config: &PipelineConfig, schema: Schema) -> Result<Schema, Vec<Problem>> {
    if !config.write.is_keyed() {
        return Ok(schema);
    }
    let mut problems = Vec::new();
    for (index, name) in config.key.iter().enumerate() {
        if let Some(message) = key_problem(&schema, name) {
            problems.push(problem(format!("key[{index}]"), name, message));
        }
    }
    if let Some(name) = &config.sequence_column
        && let Some(message) = sequence_problem(&schema, name)
    {
        problems.push(problem("sequence_column".to_owned(), name, message));
    }
    if config.sequence_column.is_none() && schema.columns().len() >= MAX_COLUMNS {
        let message = format!(
            "is required for a schema of {MAX_COLUMNS} columns: the temporary table of a batch has one more without it"
        );
        problems.push(Problem::new("sequence_column", message));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    match config.sequence_column {
        Some(_) => Ok(schema),
        None => schema
            .with_staged_sequence()
            .map_err(|error: SchemaError| vec![Problem::new("schema", error.to_string())]),
    }
}

fn problem(field: String, name: &Identifier, message: String) -> Problem {
    Problem::new(field, message).with_value(format!("{:?}", name.as_str()))
}

/// Why a column cannot be of the key.
fn key_problem(schema: &Schema, name: &Identifier) -> Option<String> {
    let Some(column) = schema.column(name) else { return Some("must be a column of the schema".to_owned()) };
    if column.nullable {
        return Some("must have `nullable = false` in the schema: a key has no null".to_owned());
    }
    if column.sql_type.length() == Some(Length::Max) {
        return Some(format!("must not be {}: no index takes it as its key", column.sql_type));
    }
    None
}

/// Why a column cannot keep the position in the stream.
fn sequence_problem(schema: &Schema, name: &Identifier) -> Option<String> {
    let Some(column) = schema.column(name) else { return Some("must be a column of the schema".to_owned()) };
    let is_fit =
        column.sql_type == SqlType::BigInt && column.source == Source::StreamSequence && !column.nullable;
    (!is_fit).then(|| {
        "must have `type = \"bigint\"`, `from = \"stream_sequence\"` and `nullable = false` in the schema"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"
format = "json"
[[column]]
name = "Id"
type = "nvarchar(20)"
nullable = false
[[column]]
name = "part"
type = "int"
[[column]]
name = "body"
type = "varbinary(max)"
nullable = false
[[column]]
name = "at"
type = "bigint"
from = "stream_sequence"
nullable = false
"#;

    fn config(lines: &str) -> PipelineConfig {
        let text = format!(
            "name = 'p'\nstream = 's'\ndurable = 'd'\nsubjects = ['a']\nschema = 's.toml'\ntable = 'dbo.t'\n\
             dead_letter = {{ stream = 'd', subject = 'd' }}\n{lines}"
        );
        toml::from_str(&text).expect("a pipeline")
    }

    fn schema() -> Schema {
        Schema::parse(SCHEMA).expect("a schema")
    }

    #[test]
    fn names_are_spelled_as_in_the_schema() {
        let config = config("write = 'upsert'\nkey = ['ID']\nsequence_column = 'AT'");
        let planned = plan(&config, schema()).expect("they go together");
        assert_eq!(planned.columns().len(), 4);
        let keyed = Keyed::of(&config, &planned).expect("it is by key");
        let name = |name: &str| Identifier::new(name).expect("a name");
        assert_eq!(keyed.key, [name("Id")]);
        assert_eq!((keyed.guard, keyed.sequence, keyed.wins), (Some(name("at")), name("at"), Wins::Highest));
    }

    #[test]
    fn without_a_sequence_column_rows_carry_one_that_the_table_has_not() {
        let config = config("write = 'insert_if_absent'\nkey = ['id']");
        let planned = plan(&config, schema()).expect("they go together");
        assert_eq!((planned.columns().len(), planned.table_columns().count()), (5, 4));
        let keyed = Keyed::of(&config, &planned).expect("it is by key");
        assert_eq!((keyed.guard, keyed.sequence.as_str()), (None, "nats_sql_sink_sequence"));
        assert!(planned.arrow_bytes_upper_bound(100) > schema().arrow_bytes_upper_bound(100));
        // one of that name is left alone
        let taken = SCHEMA.replace("name = \"part\"", "name = \"NATS_sql_sink_sequence\"");
        let planned = plan(&config, Schema::parse(&taken).expect("a schema")).expect("they go together");
        let keyed = Keyed::of(&config, &planned).expect("it is by key");
        assert_eq!(keyed.sequence.as_str(), "nats_sql_sink_sequence_");
    }

    #[test]
    fn what_is_appended_stays_as_it_is() {
        let config = config("");
        assert_eq!(plan(&config, schema()).expect("nothing to refuse").columns().len(), 4);
        assert_eq!(Keyed::of(&config, &schema()), None);
    }

    #[test]
    fn columns_that_are_not_fit_are_refused_with_the_field() {
        let upsert = "write = 'upsert'\nkey = ['id']\nsequence_column = ";
        for (lines, part) in [
            (
                "write = 'insert_if_absent'\nkey = ['id', 'x']",
                "key[1] = \"x\": must be a column of the schema",
            ),
            ("write = 'insert_if_absent'\nkey = ['part']", "key[0] = \"part\": must have `nullable = false`"),
            ("write = 'insert_if_absent'\nkey = ['body']", "key[0] = \"body\": must not be varbinary(max)"),
            (&format!("{upsert}'x'"), "sequence_column = \"x\": must be a column of the schema"),
            (&format!("{upsert}'part'"), "sequence_column = \"part\": must have `type = \"bigint\"`"),
        ] {
            let problems = plan(&config(lines), schema()).expect_err(lines);
            let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
            assert_eq!(shown.len(), 1, "{shown:?}");
            assert!(shown[0].starts_with(part), "{shown:?} lacks {part}");
        }
        let nullable =
            SCHEMA.replace("from = \"stream_sequence\"\nnullable = false", "from = \"stream_sequence\"");
        let schema = Schema::parse(&nullable).expect("a schema");
        assert!(plan(&config(&format!("{upsert}'at'")), schema).is_err());
    }
}
