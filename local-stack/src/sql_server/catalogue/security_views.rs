//! The catalogue views about principals and permissions.

use super::views::SystemView;

pub(super) const SECURITY_VIEWS: &[SystemView] = &[
    SystemView {
        schema: "sys",
        name: "database_principals",
        columns: "name sysname, principal_id int, type char(1), type_desc nvarchar(60), default_schema_name sysname, create_date datetime2(3), \
            modify_date datetime2(3), owning_principal_id int, sid varbinary(85), is_fixed_role bit, authentication_type int, \
            authentication_type_desc nvarchar(60)",
        query: "SELECT name, principal_id, type, CASE type WHEN 'R' THEN 'DATABASE_ROLE' WHEN 'E' THEN 'EXTERNAL_USER' ELSE 'SQL_USER' END, \
            CASE WHEN type <> 'R' AND principal_id NOT IN (3, 4) THEN CASE principal_id WHEN 2 THEN 'guest' ELSE 'dbo' END END, created, created, \
            owner_id, sid, is_fixed::int::int2, \
            CASE WHEN type = 'E' THEN 4 WHEN password_hash IS NOT NULL THEN 2 WHEN login IS NOT NULL OR principal_id = 1 THEN 1 ELSE 0 END, \
            CASE WHEN type = 'E' THEN 'EXTERNAL' WHEN password_hash IS NOT NULL THEN 'DATABASE' WHEN login IS NOT NULL OR principal_id = 1 THEN 'INSTANCE' \
            ELSE 'NONE' END FROM tsql.principals WHERE tsql.sees_principal(principal_id)",
    },
    SystemView {
        schema: "sys",
        name: "database_role_members",
        columns: "role_principal_id int, member_principal_id int",
        query: "SELECT role_id, member_id FROM tsql.role_members WHERE tsql.sees_principal(role_id) AND tsql.sees_principal(member_id)",
    },
    // permissions of columns, the only ones with a minor_id, are refused
    SystemView {
        schema: "sys",
        name: "database_permissions",
        columns: "class tinyint, class_desc nvarchar(60), major_id int, minor_id int, grantee_principal_id int, grantor_principal_id int, \
            type char(4), permission_name nvarchar(128), state char(1), state_desc nvarchar(60)",
        query: "SELECT p.class, CASE p.class WHEN 0 THEN 'DATABASE' WHEN 1 THEN 'OBJECT_OR_COLUMN' ELSE 'SCHEMA' END, p.major_id, 0, p.grantee_id, \
            p.grantor_id, CASE p.permission WHEN 'SELECT' THEN 'SL  ' WHEN 'INSERT' THEN 'IN  ' WHEN 'UPDATE' THEN 'UP  ' WHEN 'DELETE' THEN 'DL  ' \
            WHEN 'REFERENCES' THEN 'RF  ' WHEN 'ALTER' THEN 'AL  ' WHEN 'CONTROL' THEN 'CL  ' WHEN 'VIEW DEFINITION' THEN 'VW  ' \
            WHEN 'TAKE OWNERSHIP' THEN 'TO  ' \
            WHEN 'CONNECT' THEN 'CO  ' WHEN 'CREATE TABLE' THEN 'CRTB' WHEN 'CREATE SCHEMA' THEN 'CRSM' WHEN 'ALTER ANY USER' THEN 'ALUS' \
            WHEN 'ALTER ANY ROLE' THEN 'ALRL' WHEN 'ALTER ANY SCHEMA' THEN 'ALSM' END, p.permission, p.state, \
            CASE p.state WHEN 'D' THEN 'DENY' WHEN 'G' THEN 'GRANT' ELSE 'GRANT_WITH_GRANT_OPTION' END \
            FROM tsql.permissions p WHERE p.grantee_id < 16384 AND tsql.sees_principal(p.grantee_id) AND (p.class <> 1 OR tsql.sees(p.major_id))",
    },
];
