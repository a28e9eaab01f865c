-- What SQL Server knows of a database and PostgreSQL does not: T-SQL's types, names compared without
-- case, identity, constraints by their own names. Written by this server in the transaction of the
-- statement that makes or drops an object, so that a rollback takes it back.

CREATE SCHEMA IF NOT EXISTS tsql;
CREATE SCHEMA IF NOT EXISTS sys;
CREATE SCHEMA IF NOT EXISTS dbo;

CREATE TABLE IF NOT EXISTS tsql.schemas (
    schema_id int PRIMARY KEY,
    name text NOT NULL,
    postgres_name text NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS schemas_name ON tsql.schemas (lower(name));
INSERT INTO tsql.schemas VALUES (1, 'dbo', 'dbo'), (3, 'INFORMATION_SCHEMA', 'sys'), (4, 'sys', 'sys')
    ON CONFLICT DO NOTHING;
CREATE SEQUENCE IF NOT EXISTS tsql.schema_ids START 5;
-- SQL Server's object numbers are large and have gaps: nobody should count on them
CREATE SEQUENCE IF NOT EXISTS tsql.object_ids AS int START 901578250 INCREMENT 16 CYCLE MINVALUE 65537;

CREATE TABLE IF NOT EXISTS tsql.objects (
    object_id int PRIMARY KEY DEFAULT nextval('tsql.object_ids'),
    schema_id int NOT NULL REFERENCES tsql.schemas,
    name text NOT NULL,
    type text NOT NULL,
    parent_object_id int NOT NULL DEFAULT 0,
    created int8 NOT NULL,
    definition text,
    column_id int,
    is_not_trusted boolean NOT NULL DEFAULT false,
    is_system_named boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX IF NOT EXISTS objects_name ON tsql.objects (schema_id, lower(name));
CREATE INDEX IF NOT EXISTS objects_parent ON tsql.objects (parent_object_id);

CREATE TABLE IF NOT EXISTS tsql.columns (
    object_id int NOT NULL REFERENCES tsql.objects ON DELETE CASCADE,
    column_id int NOT NULL,
    name text NOT NULL,
    postgres_name text NOT NULL,
    type_name text NOT NULL,
    max_length int2 NOT NULL,
    precision int2 NOT NULL,
    scale int2 NOT NULL,
    collation_name text,
    is_nullable boolean NOT NULL,
    identity_seed int8,
    identity_increment int8,
    computed text,
    -- the default's expression in PostgreSQL's SQL
    default_sql text,
    PRIMARY KEY (object_id, column_id)
);
ALTER TABLE tsql.columns ADD COLUMN IF NOT EXISTS is_persisted boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX IF NOT EXISTS columns_name ON tsql.columns (object_id, lower(name));

CREATE TABLE IF NOT EXISTS tsql.indexes (
    object_id int NOT NULL REFERENCES tsql.objects ON DELETE CASCADE,
    index_id int NOT NULL,
    name text,
    type int2 NOT NULL,
    is_unique boolean NOT NULL DEFAULT false,
    is_primary_key boolean NOT NULL DEFAULT false,
    is_unique_constraint boolean NOT NULL DEFAULT false,
    PRIMARY KEY (object_id, index_id)
);

CREATE TABLE IF NOT EXISTS tsql.index_columns (
    object_id int NOT NULL,
    index_id int NOT NULL,
    index_column_id int NOT NULL,
    column_id int NOT NULL,
    key_ordinal int2 NOT NULL,
    is_descending boolean NOT NULL DEFAULT false,
    is_included boolean NOT NULL DEFAULT false,
    PRIMARY KEY (object_id, index_id, index_column_id),
    FOREIGN KEY (object_id, index_id) REFERENCES tsql.indexes ON DELETE CASCADE
);

CREATE TABLE IF NOT EXISTS tsql.types (name text PRIMARY KEY, system_type_id int2 NOT NULL, user_type_id int NOT NULL,
    max_length int2 NOT NULL, precision int2 NOT NULL, scale int2 NOT NULL);
INSERT INTO tsql.types VALUES
    ('image', 34, 34, 16, 0, 0), ('text', 35, 35, 16, 0, 0), ('uniqueidentifier', 36, 36, 16, 0, 0), ('date', 40, 40, 3, 10, 0),
    ('time', 41, 41, 5, 16, 7), ('datetime2', 42, 42, 8, 27, 7), ('datetimeoffset', 43, 43, 10, 34, 7), ('tinyint', 48, 48, 1, 3, 0),
    ('smallint', 52, 52, 2, 5, 0), ('int', 56, 56, 4, 10, 0), ('smalldatetime', 58, 58, 4, 16, 0), ('real', 59, 59, 4, 24, 0),
    ('money', 60, 60, 8, 19, 4), ('datetime', 61, 61, 8, 23, 3), ('float', 62, 62, 8, 53, 0), ('ntext', 99, 99, 16, 0, 0),
    ('bit', 104, 104, 1, 1, 0), ('decimal', 106, 106, 17, 38, 38), ('numeric', 108, 108, 17, 38, 38), ('smallmoney', 122, 122, 4, 10, 4),
    ('bigint', 127, 127, 8, 19, 0), ('varbinary', 165, 165, 8000, 0, 0), ('varchar', 167, 167, 8000, 0, 0), ('binary', 173, 173, 8000, 0, 0),
    ('char', 175, 175, 8000, 0, 0), ('nvarchar', 231, 231, 8000, 0, 0), ('nchar', 239, 239, 8000, 0, 0), ('xml', 241, 241, -1, 0, 0),
    ('sysname', 231, 256, 256, 0, 0)
    ON CONFLICT DO NOTHING;

DO $$ BEGIN
    CREATE TYPE tsql.datetimeoffset AS (utc int8, minutes int2);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
