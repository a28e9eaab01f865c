//! Whether rows of the schema fit the table.

use super::TargetColumn;
use super::catalogue::{ServerColumn, describe};
use crate::schema::{Column, Length, Schema, SqlType};

/// Columns of the table that take fewer digits of the second than the schema's have.
pub(super) fn too_few_digits(schema: &Schema, targets: &[TargetColumn]) -> Vec<String> {
    let pairs = schema.table_columns().zip(targets);
    pairs
        .filter(|(column, target)| column.sql_type.time_scale().is_some_and(|scale| scale > target.scale))
        .map(|(column, target)| {
            format!(
                "column {:?} is {} in the schema, but takes {} digits of the second in the table",
                column.name.as_str(),
                column.sql_type,
                target.scale
            )
        })
        .collect()
}

/// Names compare without case, as under the default collation of Azure SQL. In a database with a case-sensitive one
/// a name that differs in case is refused by the server itself.
pub(super) fn same_name(name: &str, column: &Column) -> bool {
    name.to_lowercase() == column.name.as_str().to_lowercase()
}

/// What keeps rows of the schema from fitting the table, in words for a person.
pub(super) fn misfits(schema: &Schema, server_columns: &[ServerColumn]) -> Vec<String> {
    let mut problems = Vec::new();
    for column in schema.table_columns() {
        let name = column.name.as_str();
        let Some(server) = server_columns.iter().find(|server| same_name(&server.name, column)) else {
            problems.push(format!("column {name:?} is missing in the table"));
            continue;
        };
        if server.generated {
            problems.push(format!(
                "column {name:?} is an identity, computed, rowversion or period column, which the server fills"
            ));
        }
        if column.nullable && !server.nullable {
            problems.push(format!("column {name:?} may be null in the schema, but not in the table"));
        }
        if !holds(server, &column.sql_type) {
            problems.push(format!(
                "column {name:?} is {} in the schema, but {} in the table",
                column.sql_type,
                describe(server)
            ));
        }
    }
    for server in server_columns {
        let given = schema.table_columns().any(|column| same_name(&server.name, column));
        if !given && !server.nullable && !server.has_default && !server.generated {
            problems.push(format!(
                "the table's column {:?} is not in the schema, takes no null and has no default",
                server.name
            ));
        }
    }
    problems
}

/// Whether every value of `sql_type` can be stored in the column as it is, digits of the second aside.
fn holds(server: &ServerColumn, sql_type: &SqlType) -> bool {
    let name = server.type_name.as_str();
    let bytes = |length: Length, unit: i32| match length {
        Length::Max => server.max_length == -1,
        Length::Limit(limit) => server.max_length == -1 || server.max_length >= i32::from(limit) * unit,
    };
    match *sql_type {
        SqlType::Bit => name == "bit",
        SqlType::TinyInt => name == "tinyint",
        SqlType::SmallInt => name == "smallint",
        SqlType::Int => name == "int",
        SqlType::BigInt => name == "bigint",
        SqlType::Real => name == "real",
        SqlType::Float => name == "float",
        SqlType::Decimal { precision, scale } => {
            matches!(name, "decimal" | "numeric")
                && server.scale == i32::from(scale)
                && server.precision >= i32::from(precision)
        }
        SqlType::Date => name == "date",
        // How many digits of the second: see `too_few_digits`.
        SqlType::Time { .. } => name == "time",
        SqlType::DateTime2 { .. } => name == "datetime2",
        SqlType::DateTimeOffset { .. } => name == "datetimeoffset",
        SqlType::Char(length) => name == "char" && bytes(Length::Limit(length), 1),
        SqlType::VarChar(length) => name == "varchar" && bytes(length, 1),
        SqlType::NChar(length) => name == "nchar" && bytes(Length::Limit(length), 2),
        SqlType::NVarChar(length) => name == "nvarchar" && bytes(length, 2),
        SqlType::Binary(length) => name == "binary" && bytes(Length::Limit(length), 1),
        SqlType::VarBinary(length) => name == "varbinary" && bytes(length, 1),
        SqlType::UniqueIdentifier => name == "uniqueidentifier",
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::is_generated;
    use super::*;

    fn server(name: &str, type_name: &str) -> ServerColumn {
        ServerColumn {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            max_length: 0,
            precision: 0,
            scale: 0,
            nullable: true,
            generated: false,
            has_default: false,
            collation: None,
        }
    }

    fn schema(columns: &str) -> Schema {
        Schema::parse(&format!("format = \"json\"\n{columns}")).expect("a valid schema")
    }

    const DEVICE: &str = "[[column]]\nname = \"device\"\ntype = \"nvarchar(64)\"\n";

    #[test]
    fn a_wider_column_of_the_same_type_holds_the_narrower() {
        let schema = schema(DEVICE);
        let column = |max_length| ServerColumn { max_length, ..server("Device", "nvarchar") };
        assert!(misfits(&schema, &[column(128)]).is_empty());
        assert!(misfits(&schema, &[column(-1)]).is_empty());
        assert_eq!(misfits(&schema, &[column(126)]).len(), 1);
    }

    #[test]
    fn says_what_does_not_fit() {
        let schema = schema(DEVICE);
        let strict = ServerColumn { max_length: 128, nullable: false, ..server("device", "nvarchar") };
        assert!(misfits(&schema, &[strict])[0].contains("may be null in the schema"));
        assert!(misfits(&schema, &[])[0].contains("missing in the table"));
        assert!(misfits(&schema, &[server("device", "int")])[0].contains("but int in the table"));
    }

    #[test]
    fn a_column_with_fewer_digits_of_the_second_does_not_fit() {
        let schema = schema("[[column]]\nname = \"at\"\ntype = \"datetime2(3)\"\n");
        let target = |scale| TargetColumn { name: "[at]".to_owned(), scale, encoding: None };
        assert!(too_few_digits(&schema, &[target(3)]).is_empty());
        assert!(too_few_digits(&schema, &[target(7)]).is_empty());
        let problems = too_few_digits(&schema, &[target(2)]);
        assert!(problems[0].contains("datetime2(3) in the schema, but takes 2 digits"), "{problems:?}");
    }

    #[test]
    fn a_column_that_nobody_fills_must_have_a_value_of_its_own() {
        let schema = schema(DEVICE);
        let device = ServerColumn { max_length: 128, ..server("device", "nvarchar") };
        let other = ServerColumn { nullable: false, ..server("other", "int") };
        assert_eq!(misfits(&schema, &[device.clone(), other.clone()]).len(), 1);
        let with_default = ServerColumn { has_default: true, ..other.clone() };
        assert!(misfits(&schema, &[device.clone(), with_default]).is_empty());
        let identity = ServerColumn { generated: true, ..other };
        assert!(misfits(&schema, &[device, identity]).is_empty());
    }

    #[test]
    fn what_the_server_fills_need_not_be_in_the_schema_and_must_not_be() {
        let schema = schema(DEVICE);
        let device = ServerColumn { max_length: 128, ..server("device", "nvarchar") };
        // identity, computed, and the kind of period column, as the catalogue has them
        for (type_name, kinds) in [
            ("timestamp", [0, 0, 0]),
            ("bigint", [1, 0, 0]),
            ("bigint", [0, 1, 0]),
            ("datetime2", [0, 0, 1]),
            ("datetime2", [0, 0, 2]),
        ] {
            let generated = is_generated(type_name, &kinds);
            let filled = ServerColumn { nullable: false, generated, ..server("filled", type_name) };
            let problems = misfits(&schema, &[device.clone(), filled]);
            assert!(problems.is_empty(), "{type_name} {kinds:?}: {problems:?}");
        }
        assert!(!is_generated("datetime2", &[0, 0, 0]));
        let filled = ServerColumn { generated: true, ..device };
        assert!(misfits(&schema, &[filled])[0].contains("which the server fills"));
    }
}
