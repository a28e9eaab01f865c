//! What a table has to be for rows to be written by key: the index that finds a key, and no other that could refuse a row.

use super::catalogue::{ServerColumn, ServerIndex, describe};
use super::fit::same_name;
use crate::error::{Error, ErrorKind, Phase, Result};
use crate::keyed::Keyed;
use crate::mssql::statements::{self, StageColumn};
use crate::schema::Schema;
use crate::sql_name::TableName;

/// Why rows cannot be written by key into a table with these columns and indexes, if so.
///
/// The index makes each key one row, whoever else writes, and finds it. Without it two workers could both insert a key.
/// Any other unique index could refuse a row for ever that is good by its key.
pub(super) fn refusal(
    table: &TableName,
    keyed: &Keyed,
    columns: &[ServerColumn],
    indexes: &[ServerIndex],
) -> Option<String> {
    let mut problems = Vec::new();
    for name in &keyed.key {
        let is_it = |column: &&ServerColumn| lower(&column.name) == lower(name.as_str());
        if columns.iter().find(is_it).is_some_and(|column| column.nullable) {
            problems.push(format!(
                "column {:?} of the key takes nulls in the table: make it NOT NULL with ALTER TABLE … ALTER COLUMN",
                name.as_str()
            ));
        }
    }
    let enforced = || indexes.iter().filter(|index| index.unique && !index.disabled);
    let has = |index: &ServerIndex, name: &str| index.key.iter().any(|column| lower(column) == lower(name));
    // A row that such an index holds already has a key that the table holds already.
    let covers = |index: &ServerIndex| keyed.key.iter().all(|name| has(index, name.as_str()));
    let is_of_key = |index: &ServerIndex| covers(index) && index.key.len() == keyed.key.len();
    if !enforced().any(|index| is_of_key(index) && !index.filtered) {
        problems.push(format!(
            "there is no unique index on exactly the key, without a filter and not disabled: {}",
            statements::create_key_index(table, keyed)
        ));
    }
    for index in enforced() {
        let name = index.name.as_deref().unwrap_or_default();
        if covers(index) && index.ignores_duplicates {
            problems.push(format!(
                "the unique index {name:?} drops rows without an error: make it WITH (IGNORE_DUP_KEY = OFF)"
            ));
        } else if !covers(index) && !index.identity_key {
            problems.push(format!(
                "the unique index {name:?} is not on the key: a row that it refuses would be tried for ever; drop the \
                 index, or the primary key or unique constraint that it belongs to"
            ));
        }
    }
    (!problems.is_empty())
        .then(|| format!("the table {table} cannot be written by key: {}", problems.join("; ")))
}

/// The columns of the temporary table of a batch: of the types and collations of the table's own columns, so that rows
/// compare there as they do in the table. `scales` are the digits of the second that each value is sent with.
pub(super) fn stage_columns(
    schema: &Schema,
    keyed: &Keyed,
    columns: &[ServerColumn],
    scales: &[u8],
) -> Result<Vec<StageColumn>> {
    let mut stage = Vec::new();
    for (column, scale) in schema.table_columns().zip(scales) {
        let Some(server) = columns.iter().find(|server| same_name(&server.name, column)) else { continue };
        let as_sent = match column.sql_type.time_scale() {
            Some(_) => ServerColumn { scale: i32::from(*scale), ..server.clone() },
            None => server.clone(),
        };
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let collation = server.collation.clone();
        if let Some(name) = collation.as_deref().filter(|name| !is_name(name)) {
            let message = format!("column {:?} has the collation {name:?}, which is no name", server.name);
            return Err(Error::new(Phase::Target, ErrorKind::TableShape, message));
        }
        stage.push(StageColumn {
            name: column.name.clone(),
            sql_type: describe(&as_sent),
            collation,
            nullable: !keyed.has(column),
        });
    }
    for column in schema.columns().iter().filter(|column| column.only_staged) {
        stage.push(StageColumn {
            name: column.name.clone(),
            sql_type: column.sql_type.to_string(),
            collation: None,
            nullable: column.nullable,
        });
    }
    Ok(stage)
}

fn lower(name: &str) -> String {
    name.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::Wins;
    use crate::sql_name::Identifier;

    fn keyed(key: &[&str]) -> Keyed {
        let name = |name: &str| Identifier::new(name).expect("a name");
        Keyed {
            key: key.iter().map(|column| name(column)).collect(),
            guard: Some(name("at")),
            sequence: name("at"),
            wins: Wins::Highest,
        }
    }

    fn column(name: &str, type_name: &str) -> ServerColumn {
        ServerColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            max_length: 40,
            precision: 0,
            scale: 7,
            nullable: false,
            generated: false,
            has_default: false,
            collation: None,
        }
    }

    fn index(key: &[&str]) -> ServerIndex {
        ServerIndex {
            name: Some(format!("ux_{}", key.join("_"))),
            kind: 2,
            unique: true,
            disabled: false,
            identity_key: false,
            filtered: false,
            ignores_duplicates: false,
            key: key.iter().map(|column| (*column).to_owned()).collect(),
        }
    }

    fn refused(key: &[&str], indexes: &[ServerIndex]) -> Option<String> {
        let columns = [column("id", "int"), column("part", "int"), column("at", "bigint")];
        refusal(&"dbo.t".parse().expect("a name"), &keyed(key), &columns, indexes)
    }

    #[test]
    fn a_unique_index_on_exactly_the_key_is_wanted() {
        let create = "CREATE UNIQUE INDEX [nats_sql_sink_key] ON [dbo].[t] ([id], [part])";
        for indexes in [
            vec![],
            vec![ServerIndex { unique: false, ..index(&["id", "part"]) }],
            vec![ServerIndex { disabled: true, ..index(&["id", "part"]) }],
            vec![ServerIndex { filtered: true, ..index(&["id", "part"]) }],
            vec![index(&["id", "part", "at"])],
        ] {
            let problem = refused(&["id", "part"], &indexes).expect("refused");
            assert!(problem.contains(create), "{problem}");
        }
        assert_eq!(refused(&["id", "part"], &[index(&["PART", "ID"])]), None);
    }

    #[test]
    fn an_index_that_could_refuse_a_good_row_is_refused() {
        let own = || index(&["id"]);
        let problem = refused(&["id"], &[own(), index(&["part"])]).expect("refused");
        assert!(problem.contains("\"ux_part\" is not on the key"), "{problem}");
        let ignoring = ServerIndex { ignores_duplicates: true, ..own() };
        assert!(refused(&["id"], &[ignoring]).expect("refused").contains("IGNORE_DUP_KEY = OFF"));
        for harmless in [
            index(&["at", "id"]),
            ServerIndex { identity_key: true, ..index(&["row_id"]) },
            ServerIndex { disabled: true, ..index(&["part"]) },
            ServerIndex { unique: false, ..index(&["part"]) },
        ] {
            assert_eq!(refused(&["id"], &[own(), harmless]), None);
        }
    }

    #[test]
    fn a_key_has_no_null() {
        let columns = [ServerColumn { nullable: true, ..column("ID", "int") }];
        let table = "dbo.t".parse().expect("a name");
        let problem = refusal(&table, &keyed(&["id"]), &columns, &[index(&["id"])]).expect("refused");
        assert!(problem.contains("column \"id\" of the key takes nulls"), "{problem}");
    }

    #[test]
    fn staged_rows_have_the_types_and_collations_of_the_table() {
        let schema = Schema::parse(
            "format = 'json'\n[[column]]\nname = 'id'\ntype = 'nvarchar(8)'\nnullable = false\n\
             [[column]]\nname = 'seen'\ntype = 'datetime2(3)'\n",
        )
        .and_then(|schema| schema.with_staged_sequence())
        .expect("a schema");
        let collation = Some("Latin1_General_100_BIN2".to_owned());
        let columns = [ServerColumn { collation, ..column("ID", "nvarchar") }, column("seen", "datetime2")];
        let stage = stage_columns(&schema, &keyed(&["id"]), &columns, &[0, 6]).expect("columns");
        let shown: Vec<_> = stage
            .iter()
            .map(|c| (c.name.as_str(), c.sql_type.as_str(), c.collation.as_deref(), c.nullable))
            .collect();
        assert_eq!(
            shown,
            [
                ("id", "nvarchar(20)", Some("Latin1_General_100_BIN2"), false),
                ("seen", "datetime2(6)", None, true),
                ("nats_sql_sink_sequence", "bigint", None, false),
            ]
        );
        let odd = ServerColumn { collation: Some("x; DROP".to_owned()), ..column("id", "nvarchar") };
        assert!(stage_columns(&schema, &keyed(&["id"]), &[odd], &[0, 0]).is_err());
    }
}
