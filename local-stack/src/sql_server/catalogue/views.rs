//! The catalogue views, as columns of T-SQL types over a query of PostgreSQL's.

use super::Catalogue;
use super::security_views::SECURITY_VIEWS;

/// A view of `sys` or `INFORMATION_SCHEMA`.
#[derive(Clone, Copy)]
pub(super) struct SystemView {
    pub(super) schema: &'static str,
    pub(super) name: &'static str,
    /// Names and T-SQL types, in the order of the query's columns. All may be NULL.
    pub(super) columns: &'static str,
    /// What PostgreSQL is asked.
    pub(super) query: &'static str,
}

const OBJECTS: &str = "o.name, o.object_id, o.schema_id, o.parent_object_id, rpad(o.type, 2), \
    CASE o.type WHEN 'U' THEN 'USER_TABLE' WHEN 'PK' THEN 'PRIMARY_KEY_CONSTRAINT' WHEN 'UQ' THEN 'UNIQUE_CONSTRAINT' \
    WHEN 'C' THEN 'CHECK_CONSTRAINT' WHEN 'D' THEN 'DEFAULT_CONSTRAINT' ELSE o.type END, o.created, o.created, 0::int2";

const OBJECT_COLUMNS: &str = "name sysname, object_id int, schema_id int, parent_object_id int, type char(2), type_desc nvarchar(60), \
    create_date datetime2(3), modify_date datetime2(3), is_ms_shipped bit";

const COLUMNS: &str = "c.object_id, c.name, c.column_id, t.system_type_id, t.user_type_id, c.max_length, c.precision, c.scale, \
    c.collation_name, c.is_nullable::int::int2, 1::int2, (c.identity_seed IS NOT NULL)::int::int2, (c.computed IS NOT NULL)::int::int2, \
    coalesce((SELECT d.object_id FROM tsql.objects d WHERE d.parent_object_id = c.object_id AND d.type = 'D' AND d.column_id = c.column_id), 0), \
    0::int2, 0::int2, 0::int2";

const COLUMN_COLUMNS: &str = "object_id int, name sysname, column_id int, system_type_id tinyint, user_type_id int, max_length smallint, \
    precision tinyint, scale tinyint, collation_name sysname, is_nullable bit, is_ansi_padded bit, is_identity bit, is_computed bit, \
    default_object_id int, is_sparse bit, generated_always_type tinyint, is_hidden bit";

/// Fills in the lists that several views share, and has the views show what a session may see.
pub(super) fn expand(text: &str) -> String {
    text.replace("{objects}", OBJECTS)
        .replace("{object_columns}", OBJECT_COLUMNS)
        .replace("{columns}", COLUMNS)
        .replace("{column_columns}", COLUMN_COLUMNS)
        // what its user may not know of is in none of them
        .replace("tsql.objects", "tsql.visible_objects")
        .replace("tsql.columns", "tsql.visible_columns")
        .replace("tsql.indexes", "tsql.visible_indexes")
        .replace("tsql.index_columns", "tsql.visible_index_columns")
}

/// The views of the database, and those of `sys` once more for the session's temporary tables. The second value
/// tells which.
pub(super) fn all() -> impl Iterator<Item = (&'static SystemView, Catalogue)> {
    let of_database = VIEWS.iter().chain(SECURITY_VIEWS).map(|view| (view, Catalogue::Database));
    let of_tables = |view: &&SystemView| view.schema == "sys" && view.query.contains("FROM tsql.");
    let of_temporary = VIEWS.iter().filter(of_tables).map(|view| (view, Catalogue::Temporary));
    of_database.chain(of_temporary)
}

impl SystemView {
    /// What PostgreSQL is asked for the tables of a catalogue.
    pub(super) fn query(&self, catalogue: Catalogue) -> String {
        let query = expand(self.query);
        match catalogue {
            Catalogue::Database => query,
            Catalogue::Temporary => {
                ["objects", "columns", "indexes", "index_columns"].into_iter().fold(query, |query, table| {
                    query.replace(&format!("tsql.visible_{table} "), &format!("tsql.temporary_{table}() "))
                })
            }
        }
    }

    pub(super) fn schema(&self, catalogue: Catalogue) -> &'static str {
        match catalogue {
            Catalogue::Database => self.schema,
            Catalogue::Temporary => "tempdb.sys",
        }
    }
}

const VIEWS: &[SystemView] = &[
    SystemView {
        schema: "sys",
        name: "schemas",
        columns: "name sysname, schema_id int, principal_id int",
        query: "SELECT name, schema_id, owner_id FROM tsql.schemas",
    },
    SystemView {
        schema: "sys",
        name: "objects",
        columns: "{object_columns}",
        query: "SELECT {objects} FROM tsql.objects o",
    },
    SystemView {
        schema: "sys",
        name: "tables",
        columns: "{object_columns}, temporal_type tinyint, is_memory_optimized bit, is_replicated bit",
        query: "SELECT {objects}, 0::int2, 0::int2, 0::int2 FROM tsql.objects o WHERE o.type = 'U'",
    },
    SystemView {
        schema: "sys",
        name: "views",
        columns: "{object_columns}",
        query: "SELECT {objects} FROM tsql.objects o WHERE o.type = 'V'",
    },
    SystemView {
        schema: "sys",
        name: "columns",
        columns: "{column_columns}",
        query: "SELECT {columns} FROM tsql.columns c JOIN tsql.types t ON t.name = c.type_name",
    },
    // columns of the system's own views would be among them, and are not
    SystemView {
        schema: "sys",
        name: "all_columns",
        columns: "{column_columns}",
        query: "SELECT {columns} FROM tsql.columns c JOIN tsql.types t ON t.name = c.type_name",
    },
    SystemView {
        schema: "sys",
        name: "computed_columns",
        columns: "{column_columns}, definition nvarchar(max), is_persisted bit",
        query: "SELECT {columns}, c.computed, c.is_persisted::int::int2 FROM tsql.columns c JOIN tsql.types t ON t.name = c.type_name WHERE c.computed IS NOT NULL",
    },
    SystemView {
        schema: "sys",
        name: "identity_columns",
        columns: "{column_columns}, seed_value bigint, increment_value bigint",
        query: "SELECT {columns}, c.identity_seed, c.identity_increment FROM tsql.columns c JOIN tsql.types t ON t.name = c.type_name \
            WHERE c.identity_seed IS NOT NULL",
    },
    SystemView {
        schema: "sys",
        name: "types",
        columns: "name sysname, system_type_id tinyint, user_type_id int, schema_id int, max_length smallint, precision tinyint, scale tinyint, \
            collation_name sysname, is_nullable bit, is_user_defined bit, is_table_type bit",
        query: "SELECT name, system_type_id, user_type_id, 4, max_length, precision, scale, \
            CASE WHEN name LIKE '%char' OR name IN ('text', 'ntext', 'sysname') THEN 'SQL_Latin1_General_CP1_CI_AS' END, \
            (name <> 'sysname')::int::int2, 0::int2, 0::int2 FROM tsql.types",
    },
    SystemView {
        schema: "sys",
        name: "indexes",
        columns: "object_id int, name sysname, index_id int, type tinyint, type_desc nvarchar(60), is_unique bit, data_space_id int, \
            ignore_dup_key bit, is_primary_key bit, is_unique_constraint bit, fill_factor tinyint, is_padded bit, is_disabled bit, \
            is_hypothetical bit, has_filter bit, filter_definition nvarchar(max)",
        query: "SELECT object_id, name, index_id, type, CASE type WHEN 0 THEN 'HEAP' WHEN 1 THEN 'CLUSTERED' WHEN 2 THEN 'NONCLUSTERED' \
            WHEN 5 THEN 'CLUSTERED COLUMNSTORE' WHEN 6 THEN 'NONCLUSTERED COLUMNSTORE' END, is_unique::int::int2, 1, 0::int2, \
            is_primary_key::int::int2, is_unique_constraint::int::int2, 0::int2, 0::int2, 0::int2, 0::int2, 0::int2, NULL::text \
            FROM tsql.indexes AS own",
    },
    SystemView {
        schema: "sys",
        name: "index_columns",
        columns: "object_id int, index_id int, index_column_id int, column_id int, key_ordinal tinyint, partition_ordinal tinyint, \
            is_descending_key bit, is_included_column bit",
        query: "SELECT object_id, index_id, index_column_id, column_id, key_ordinal, 0::int2, is_descending::int::int2, \
            is_included::int::int2 FROM tsql.index_columns AS keys",
    },
    SystemView {
        schema: "sys",
        name: "key_constraints",
        columns: "{object_columns}, unique_index_id int, is_system_named bit",
        query: "SELECT {objects}, (SELECT i.index_id FROM tsql.indexes i WHERE i.object_id = o.parent_object_id AND i.name = o.name), \
            o.is_system_named::int::int2 FROM tsql.objects o WHERE o.type IN ('PK', 'UQ')",
    },
    SystemView {
        schema: "sys",
        name: "check_constraints",
        columns: "{object_columns}, is_disabled bit, is_not_trusted bit, parent_column_id int, definition nvarchar(max), is_system_named bit",
        query: "SELECT {objects}, 0::int2, o.is_not_trusted::int::int2, coalesce(o.column_id, 0), o.definition, o.is_system_named::int::int2 \
            FROM tsql.objects o WHERE o.type = 'C'",
    },
    SystemView {
        schema: "sys",
        name: "default_constraints",
        columns: "{object_columns}, parent_column_id int, definition nvarchar(max), is_system_named bit",
        query: "SELECT {objects}, o.column_id, o.definition, o.is_system_named::int::int2 FROM tsql.objects o WHERE o.type = 'D'",
    },
    SystemView {
        schema: "sys",
        name: "foreign_keys",
        columns: "{object_columns}, referenced_object_id int, is_disabled bit, is_not_trusted bit",
        query: "SELECT {objects}, 0, 0::int2, 0::int2 FROM tsql.objects o WHERE o.type = 'F'",
    },
    SystemView {
        schema: "sys",
        name: "triggers",
        columns: "name sysname, object_id int, parent_class tinyint, parent_id int, type char(2), is_disabled bit, is_instead_of_trigger bit",
        query: "SELECT o.name, o.object_id, 1::int2, o.parent_object_id, rpad(o.type, 2), 0::int2, 0::int2 FROM tsql.objects o WHERE o.type = 'TR'",
    },
    SystemView {
        schema: "sys",
        name: "databases",
        columns: "name sysname, database_id int, compatibility_level tinyint, collation_name sysname, state tinyint, state_desc nvarchar(60), \
            is_read_only bit, is_read_committed_snapshot_on bit, snapshot_isolation_state tinyint, delayed_durability int, \
            delayed_durability_desc nvarchar(60)",
        query: "SELECT current_database()::text, 5, 160::int2, 'SQL_Latin1_General_CP1_CI_AS', 0::int2, 'ONLINE', 0::int2, 1::int2, 1::int2, \
            0, 'DISABLED'",
    },
    SystemView {
        schema: "sys",
        name: "partitions",
        columns: "partition_id bigint, object_id int, index_id int, partition_number int, rows bigint, data_compression tinyint",
        query: "SELECT i.object_id::int8, i.object_id, i.index_id, 1, (SELECT greatest(c.reltuples, 0)::int8 FROM pg_class c \
            WHERE c.oid = to_regclass(format('%I.%I', s.postgres_name, o.name))), 0::int2 \
            FROM tsql.indexes i JOIN tsql.objects o USING (object_id) JOIN tsql.schemas s USING (schema_id)",
    },
    SystemView {
        schema: "INFORMATION_SCHEMA",
        name: "TABLES",
        columns: "TABLE_CATALOG nvarchar(128), TABLE_SCHEMA sysname, TABLE_NAME sysname, TABLE_TYPE varchar(10)",
        query: "SELECT current_database()::text, s.name, o.name, 'BASE TABLE' FROM tsql.objects o JOIN tsql.schemas s USING (schema_id) \
            WHERE o.type = 'U'",
    },
    SystemView {
        schema: "INFORMATION_SCHEMA",
        name: "SCHEMATA",
        columns: "CATALOG_NAME nvarchar(128), SCHEMA_NAME sysname, SCHEMA_OWNER sysname",
        query: "SELECT current_database()::text, s.name, p.name FROM tsql.schemas s JOIN tsql.principals p ON p.principal_id = s.owner_id",
    },
    SystemView {
        schema: "INFORMATION_SCHEMA",
        name: "COLUMNS",
        columns: "TABLE_CATALOG nvarchar(128), TABLE_SCHEMA sysname, TABLE_NAME sysname, COLUMN_NAME sysname, ORDINAL_POSITION int, \
            COLUMN_DEFAULT nvarchar(4000), IS_NULLABLE varchar(3), DATA_TYPE nvarchar(128), CHARACTER_MAXIMUM_LENGTH int, \
            CHARACTER_OCTET_LENGTH int, NUMERIC_PRECISION tinyint, NUMERIC_PRECISION_RADIX smallint, NUMERIC_SCALE int, \
            DATETIME_PRECISION smallint, COLLATION_NAME sysname",
        query: "SELECT current_database()::text, s.name, o.name, c.name, c.column_id, \
            (SELECT d.definition FROM tsql.objects d WHERE d.parent_object_id = c.object_id AND d.type = 'D' AND d.column_id = c.column_id), \
            CASE WHEN c.is_nullable THEN 'YES' ELSE 'NO' END, c.type_name, \
            CASE WHEN c.max_length = -1 THEN -1 WHEN c.type_name IN ('nchar', 'nvarchar') THEN c.max_length / 2 \
                WHEN c.type_name IN ('char', 'varchar', 'binary', 'varbinary') THEN c.max_length END::int4, \
            CASE WHEN c.type_name IN ('nchar', 'nvarchar', 'char', 'varchar', 'binary', 'varbinary') THEN c.max_length END::int4, \
            CASE WHEN c.type_name IN ('tinyint', 'smallint', 'int', 'bigint', 'decimal', 'numeric', 'real', 'float') THEN c.precision END, \
            CASE WHEN c.type_name IN ('real', 'float') THEN 2 WHEN c.type_name IN ('tinyint', 'smallint', 'int', 'bigint', 'decimal', 'numeric') THEN 10 END::int2, \
            CASE WHEN c.type_name IN ('tinyint', 'smallint', 'int', 'bigint', 'decimal', 'numeric') THEN c.scale END::int4, \
            CASE WHEN c.type_name IN ('time', 'datetime2', 'datetimeoffset') THEN c.scale WHEN c.type_name = 'date' THEN 0 END::int2, \
            c.collation_name \
            FROM tsql.columns c JOIN tsql.objects o USING (object_id) JOIN tsql.schemas s USING (schema_id) WHERE o.type = 'U'",
    },
    SystemView {
        schema: "INFORMATION_SCHEMA",
        name: "TABLE_CONSTRAINTS",
        columns: "CONSTRAINT_CATALOG nvarchar(128), CONSTRAINT_SCHEMA nvarchar(128), CONSTRAINT_NAME sysname, TABLE_CATALOG nvarchar(128), \
            TABLE_SCHEMA nvarchar(128), TABLE_NAME sysname, CONSTRAINT_TYPE varchar(11)",
        query: "SELECT current_database()::text, s.name, o.name, current_database()::text, s.name, p.name, \
            CASE o.type WHEN 'PK' THEN 'PRIMARY KEY' WHEN 'UQ' THEN 'UNIQUE' WHEN 'C' THEN 'CHECK' END \
            FROM tsql.objects o JOIN tsql.schemas s USING (schema_id) JOIN tsql.objects p ON p.object_id = o.parent_object_id \
            WHERE o.type IN ('PK', 'UQ', 'C')",
    },
];
