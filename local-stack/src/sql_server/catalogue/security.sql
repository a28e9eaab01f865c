-- Principals, roles and permissions of the database, and SQL Server's rules about them. A session's principal is in the
-- setting `tsql.principal`; without it one is nobody but public.

CREATE TABLE IF NOT EXISTS tsql.principals (
    principal_id int PRIMARY KEY,
    name text NOT NULL,
    -- S: user, E: user of an external provider, R: role
    type text NOT NULL,
    -- the login of the server that the user belongs to
    login text,
    password_salt text,
    password_hash text,
    -- the id of the external provider's object, where the name is not what identifies it
    external_id text,
    owner_id int,
    is_fixed boolean NOT NULL DEFAULT false,
    sid bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()),
    created int8 NOT NULL DEFAULT 638396640000000000
);
CREATE UNIQUE INDEX IF NOT EXISTS principals_name ON tsql.principals (lower(name));
CREATE SEQUENCE IF NOT EXISTS tsql.principal_ids AS int START 5 MAXVALUE 16383;
INSERT INTO tsql.principals (principal_id, name, type, owner_id, is_fixed) VALUES
    (0, 'public', 'R', 1, false), (1, 'dbo', 'S', NULL, false), (2, 'guest', 'S', NULL, false),
    (3, 'INFORMATION_SCHEMA', 'S', NULL, false), (4, 'sys', 'S', NULL, false),
    (16384, 'db_owner', 'R', 1, true), (16385, 'db_accessadmin', 'R', 1, true), (16386, 'db_securityadmin', 'R', 1, true),
    (16387, 'db_ddladmin', 'R', 1, true), (16389, 'db_backupoperator', 'R', 1, true), (16390, 'db_datareader', 'R', 1, true),
    (16391, 'db_datawriter', 'R', 1, true), (16392, 'db_denydatareader', 'R', 1, true), (16393, 'db_denydatawriter', 'R', 1, true)
    ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS tsql.role_members (
    role_id int NOT NULL REFERENCES tsql.principals,
    member_id int NOT NULL REFERENCES tsql.principals ON DELETE CASCADE,
    PRIMARY KEY (role_id, member_id)
);
INSERT INTO tsql.role_members VALUES (16384, 1) ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS tsql.permissions (
    -- 0: the database, 1: an object, 3: a schema
    class int2 NOT NULL,
    major_id int NOT NULL,
    grantee_id int NOT NULL REFERENCES tsql.principals ON DELETE CASCADE,
    permission text NOT NULL,
    -- D: denied, G: granted, W: granted with the right to grant it
    state text NOT NULL,
    grantor_id int NOT NULL DEFAULT 1,
    PRIMARY KEY (class, major_id, grantee_id, permission)
);
-- what a fixed role may do is nowhere in SQL Server's views
INSERT INTO tsql.permissions (class, major_id, grantee_id, permission, state) VALUES
    (0, 0, 16384, 'CONTROL', 'G'), (0, 0, 16385, 'ALTER ANY USER', 'G'), (0, 0, 16386, 'ALTER ANY ROLE', 'G'),
    (0, 0, 16386, 'CREATE SCHEMA', 'G'), (0, 0, 16386, 'VIEW DEFINITION', 'G'), (0, 0, 16387, 'ALTER ANY SCHEMA', 'G'),
    (0, 0, 16387, 'CREATE TABLE', 'G'), (0, 0, 16387, 'CREATE SCHEMA', 'G'), (0, 0, 16387, 'REFERENCES', 'G'),
    (0, 0, 16390, 'SELECT', 'G'), (0, 0, 16391, 'INSERT', 'G'), (0, 0, 16391, 'UPDATE', 'G'), (0, 0, 16391, 'DELETE', 'G'),
    (0, 0, 16392, 'SELECT', 'D'), (0, 0, 16393, 'INSERT', 'D'), (0, 0, 16393, 'UPDATE', 'D'), (0, 0, 16393, 'DELETE', 'D')
    ON CONFLICT DO NOTHING;

ALTER TABLE tsql.schemas ADD COLUMN IF NOT EXISTS owner_id int NOT NULL DEFAULT 1;

-- a new object must not find the permissions of one that had its number
CREATE OR REPLACE FUNCTION tsql.forget_object() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tsql.permissions WHERE class = 1 AND major_id = OLD.object_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER forget AFTER DELETE ON tsql.objects FOR EACH ROW EXECUTE FUNCTION tsql.forget_object();
CREATE OR REPLACE FUNCTION tsql.forget_schema() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM tsql.permissions WHERE class = 3 AND major_id = OLD.schema_id;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER forget AFTER DELETE ON tsql.schemas FOR EACH ROW EXECUTE FUNCTION tsql.forget_schema();

-- Who may do what --------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.me() RETURNS int LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('tsql.principal', true), ''), '0')::int $$;
-- a principal with all roles that it is in, by way of other roles too
CREATE OR REPLACE FUNCTION tsql.identities(who int) RETURNS int[] LANGUAGE sql STABLE AS $$
    WITH RECURSIVE held AS (SELECT who AS id UNION SELECT m.role_id FROM tsql.role_members m JOIN held ON m.member_id = held.id)
    SELECT array_agg(id) || 0 FROM held $$;
-- the permissions on the database that hold a permission on something in it
CREATE OR REPLACE FUNCTION tsql.covering(wanted text, in_class int) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY[wanted, 'CONTROL'] || CASE WHEN in_class <> 0 AND wanted = 'ALTER' THEN ARRAY['ALTER ANY SCHEMA']
        WHEN in_class = 0 AND wanted ~ '^(CREATE|ALTER ANY) ' THEN ARRAY['ALTER'] ELSE ARRAY[]::text[] END $$;
-- 1: granted, -1: denied, 0: neither. A denial at any level takes precedence, but not over dbo and over owners
CREATE OR REPLACE FUNCTION tsql.judge(who int, wanted text, in_class int, id int) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE held int[]; of_schema int; owner int; covering text[] := tsql.covering(wanted, in_class); states text;
BEGIN
    IF who = 1 THEN RETURN 1; END IF;
    held := tsql.identities(who);
    IF in_class = 1 THEN of_schema := (SELECT schema_id FROM tsql.objects WHERE object_id = id);
    ELSIF in_class = 3 THEN of_schema := id;
    END IF;
    owner := (SELECT owner_id FROM tsql.schemas WHERE schema_id = of_schema);
    IF owner = ANY (held) THEN RETURN 1; END IF;
    states := (SELECT string_agg(p.state, '') FROM tsql.permissions p WHERE p.grantee_id = ANY (held) AND CASE p.class
        WHEN 0 THEN p.permission = ANY (covering)
        WHEN 3 THEN p.major_id = of_schema AND p.permission IN (wanted, 'CONTROL')
        ELSE in_class = 1 AND p.major_id = id AND p.permission IN (wanted, 'CONTROL') END);
    RETURN CASE WHEN states IS NULL THEN 0 WHEN strpos(states, 'D') > 0 THEN -1 ELSE 1 END;
END $$;
CREATE OR REPLACE FUNCTION tsql.allows(who int, wanted text, in_class int, id int) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT tsql.judge(who, wanted, in_class, id) = 1 $$;
-- names are shown of what one has any permission on
CREATE OR REPLACE FUNCTION tsql.sees_object(who int, id int) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT tsql.judge(who, 'VIEW DEFINITION', 1, id) >= 0 AND EXISTS (SELECT FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE',
        'REFERENCES', 'ALTER', 'CONTROL', 'TAKE OWNERSHIP', 'VIEW DEFINITION']) AS wanted WHERE tsql.judge(who, wanted, 1, id) = 1) $$;
CREATE OR REPLACE FUNCTION tsql.sees(id int) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT tsql.me() = 1 OR tsql.sees_object(tsql.me(), id) $$;
CREATE OR REPLACE FUNCTION tsql.sees_principal(id int) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT id < 5 OR id >= 16384 OR id = ANY (tsql.identities(tsql.me())) OR tsql.allows(tsql.me(), 'VIEW DEFINITION', 0, 0)
        OR EXISTS (SELECT FROM tsql.principals p WHERE p.principal_id = id AND p.owner_id = ANY (tsql.identities(tsql.me())))
        OR tsql.allows(tsql.me(), 'ALTER ANY USER', 0, 0) OR tsql.allows(tsql.me(), 'ALTER ANY ROLE', 0, 0) $$;

CREATE OR REPLACE VIEW tsql.visible_objects AS SELECT * FROM tsql.objects o
    WHERE tsql.sees(CASE o.parent_object_id WHEN 0 THEN o.object_id ELSE o.parent_object_id END);
CREATE OR REPLACE VIEW tsql.visible_columns AS SELECT * FROM tsql.columns c WHERE tsql.sees(c.object_id);
CREATE OR REPLACE VIEW tsql.visible_indexes AS SELECT * FROM tsql.indexes i WHERE tsql.sees(i.object_id);
CREATE OR REPLACE VIEW tsql.visible_index_columns AS SELECT * FROM tsql.index_columns i WHERE tsql.sees(i.object_id);

-- Functions of T-SQL -----------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.principal_id(n text) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT principal_id FROM tsql.principals WHERE lower(name) = lower(n) AND tsql.sees_principal(principal_id) $$;
CREATE OR REPLACE FUNCTION tsql.principal_name(id int) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT name FROM tsql.principals WHERE principal_id = id AND tsql.sees_principal(principal_id) $$;
CREATE OR REPLACE FUNCTION tsql.is_member(role text, member text) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT (r.principal_id = ANY (tsql.identities(m.principal_id)))::int FROM tsql.principals r, tsql.principals m
    WHERE r.type = 'R' AND lower(r.name) = lower(role) AND CASE WHEN member IS NULL THEN m.principal_id = tsql.me() ELSE lower(m.name) = lower(member) END $$;
-- as in Azure SQL Database, where nobody is in a role of the server but public
CREATE OR REPLACE FUNCTION tsql.is_server_role_member(role text) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN lower(role) = 'public' THEN 1 WHEN lower(role) IN ('sysadmin', 'securityadmin', 'serveradmin', 'setupadmin', 'processadmin',
        'diskadmin', 'dbcreator', 'bulkadmin') THEN 0 END $$;
-- nothing is granted on users and roles: what one may do to them follows from who owns them, and from the database's permissions
CREATE OR REPLACE FUNCTION tsql.has_permission_on_principal(named text, kind text, wanted text) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT (coalesce(p.owner_id = ANY (tsql.identities(tsql.me())), false) OR tsql.allows(tsql.me(), 'CONTROL', 0, 0)
            OR (wanted IN ('ALTER', 'ANY') AND NOT p.is_fixed AND tsql.allows(tsql.me(), 'ALTER ANY ' || kind, 0, 0))
            OR (wanted IN ('VIEW DEFINITION', 'ANY') AND tsql.allows(tsql.me(), 'VIEW DEFINITION', 0, 0)))::int
        FROM tsql.principals p
        WHERE lower(p.name) = lower(named) AND (p.type = 'R') = (kind = 'ROLE') AND tsql.sees_principal(p.principal_id)
            AND wanted IN ('ANY', 'ALTER', 'CONTROL', 'VIEW DEFINITION', CASE kind WHEN 'ROLE' THEN 'TAKE OWNERSHIP' ELSE 'IMPERSONATE' END) $$;
CREATE OR REPLACE FUNCTION tsql.has_permission(securable text, class_name text, permission text) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
    of_object CONSTANT text[] := ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'REFERENCES', 'ALTER', 'CONTROL', 'TAKE OWNERSHIP',
        'VIEW DEFINITION'];
    known text[] := of_object; in_class int := 1; id int := 0; parts text[] := tsql.name_parts(securable); n int := cardinality(parts);
    wanted text := upper(permission);
BEGIN
    CASE upper(class_name)
        WHEN 'DATABASE' THEN
            in_class := 0;
            known := of_object || ARRAY['CONNECT', 'CREATE TABLE', 'CREATE SCHEMA', 'ALTER ANY USER', 'ALTER ANY ROLE', 'ALTER ANY SCHEMA'];
            IF securable IS NOT NULL AND lower(parts[n]) <> lower(current_database()) THEN RETURN NULL; END IF;
        WHEN 'SCHEMA' THEN
            in_class := 3;
            id := (SELECT schema_id FROM tsql.schemas WHERE lower(name) = lower(parts[n]));
        WHEN 'OBJECT' THEN
            IF n > 1 AND lower(parts[n - 1]) IN ('sys', 'information_schema') THEN
                RETURN CASE WHEN wanted <> 'ANY' AND wanted <> ALL (of_object) THEN NULL ELSE (wanted IN ('SELECT', 'ANY'))::int END;
            END IF;
            id := tsql.object_id(securable, NULL);
        WHEN 'USER', 'ROLE' THEN
            RETURN tsql.has_permission_on_principal(parts[n], upper(class_name), wanted);
        ELSE
            PERFORM tsql.raise(40517, 'Keyword or statement option ''HAS_PERMS_BY_NAME of class ' || coalesce(class_name, 'NULL') || ''' is not supported in this stand-in for SQL Server.');
    END CASE;
    IF id IS NULL OR (wanted <> 'ANY' AND wanted <> ALL (known)) THEN RETURN NULL; END IF;
    RETURN (SELECT count(*) > 0 FROM unnest(known) AS k WHERE (wanted = 'ANY' OR k = wanted) AND tsql.allows(tsql.me(), k, in_class, id))::int;
END $$;

-- Statements -------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.missing(what text, kind text, name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tsql.raise(15151, format('Cannot %s the %s ''%s'', because it does not exist or you do not have permission.', what, kind, name));
END $$;

CREATE OR REPLACE FUNCTION tsql.owner(name text) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE id int := tsql.principal_id(name);
BEGIN
    IF id IS NULL THEN PERFORM tsql.missing('find', 'principal', name); END IF;
    RETURN id;
END $$;
CREATE OR REPLACE FUNCTION tsql.new_principal(wanted text, allowed_by text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF NOT tsql.allows(tsql.me(), allowed_by, 0, 0) THEN
        PERFORM tsql.raise(15247, 'User does not have permission to perform this action.');
    END IF;
    IF EXISTS (SELECT FROM tsql.principals p WHERE lower(p.name) = lower(wanted)) THEN
        PERFORM tsql.raise(15023, format('User, group, or role ''%s'' already exists in the current database.', wanted));
    END IF;
    RETURN nextval('tsql.principal_ids');
END $$;
CREATE OR REPLACE FUNCTION tsql.create_user(wanted text, kind text, of_login text, salt text, hash text, external text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE id int := tsql.new_principal(wanted, 'ALTER ANY USER');
BEGIN
    IF EXISTS (SELECT FROM tsql.principals p WHERE lower(p.login) = lower(of_login)) THEN
        PERFORM tsql.raise(15063, 'The login already has an account under a different user name.');
    END IF;
    INSERT INTO tsql.principals (principal_id, name, type, login, password_salt, password_hash, external_id, created)
        VALUES (id, wanted, kind, of_login, salt, hash, external, tsql.now_ticks());
    INSERT INTO tsql.permissions (class, major_id, grantee_id, permission, state) VALUES (0, 0, id, 'CONNECT', 'G');
END $$;
CREATE OR REPLACE FUNCTION tsql.change_password(wanted text, salt text, hash text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tsql.principals SET password_salt = salt, password_hash = hash
        WHERE lower(name) = lower(wanted) AND password_hash IS NOT NULL AND tsql.allows(tsql.me(), 'ALTER ANY USER', 0, 0);
    IF NOT FOUND THEN
        PERFORM tsql.missing('alter', 'user', wanted);
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.create_role(wanted text, owner text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE id int := tsql.new_principal(wanted, 'ALTER ANY ROLE'); by_owner int := tsql.me();
BEGIN
    IF owner IS NOT NULL THEN
        by_owner := tsql.owner(owner);
    END IF;
    INSERT INTO tsql.principals (principal_id, name, type, owner_id, created) VALUES (id, wanted, 'R', by_owner, tsql.now_ticks());
END $$;
CREATE OR REPLACE FUNCTION tsql.drop_principal(kind text, wanted text, if_exists boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE p tsql.principals; allowed boolean := tsql.allows(tsql.me(), 'ALTER ANY ' || kind, 0, 0);
BEGIN
    SELECT * INTO p FROM tsql.principals WHERE lower(name) = lower(wanted) AND (type = 'R') = (kind = 'ROLE');
    IF p.principal_id IS NULL AND if_exists THEN RETURN; END IF;
    IF p.principal_id IS NULL OR NOT (allowed OR p.owner_id = ANY (tsql.identities(tsql.me()))) THEN
        PERFORM tsql.missing('drop', lower(kind), wanted);
    END IF;
    IF p.is_fixed OR p.principal_id < 5 THEN
        PERFORM tsql.raise(15150, format('Cannot drop the %s ''%s''.', lower(kind), p.name));
    END IF;
    IF EXISTS (SELECT FROM tsql.schemas WHERE owner_id = p.principal_id) THEN
        PERFORM tsql.raise(15138, 'The database principal owns a schema in the database, and cannot be dropped.');
    END IF;
    IF EXISTS (SELECT FROM tsql.role_members WHERE role_id = p.principal_id) THEN
        PERFORM tsql.raise(15144, 'The role has members. It must be empty before it can be dropped.');
    END IF;
    DELETE FROM tsql.principals WHERE principal_id = p.principal_id;
END $$;
CREATE OR REPLACE FUNCTION tsql.alter_role(wanted text, member text, is_added boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE r tsql.principals; m int;
BEGIN
    SELECT * INTO r FROM tsql.principals WHERE lower(name) = lower(wanted) AND type = 'R' AND principal_id <> 0;
    -- members of a fixed role are the affair of db_owner alone
    IF r.principal_id IS NULL OR NOT (CASE WHEN r.is_fixed THEN tsql.me() = 1 OR 16384 = ANY (tsql.identities(tsql.me()))
            ELSE tsql.allows(tsql.me(), 'ALTER ANY ROLE', 0, 0) OR r.owner_id = ANY (tsql.identities(tsql.me())) END) THEN
        PERFORM tsql.missing('alter', 'role', wanted);
    END IF;
    m := (SELECT principal_id FROM tsql.principals WHERE lower(name) = lower(member));
    IF m IS NULL THEN PERFORM tsql.missing(CASE WHEN is_added THEN 'add' ELSE 'drop' END, 'principal', member); END IF;
    IF m < 5 OR m >= 16384 THEN PERFORM tsql.raise(15405, format('Cannot use the special principal ''%s''.', member)); END IF;
    IF NOT is_added THEN
        DELETE FROM tsql.role_members WHERE role_id = r.principal_id AND member_id = m;
    ELSIF m = ANY (tsql.identities(r.principal_id)) THEN
        PERFORM tsql.raise(15413, 'Cannot make a role a member of itself.');
    ELSE
        INSERT INTO tsql.role_members VALUES (r.principal_id, m) ON CONFLICT DO NOTHING;
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.change_permission(verb text, wanted text, in_class int, in_schema text, securable text, grantee text, grantable boolean, cascades boolean)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE who int := tsql.me(); id int := 0; to_id int; before text; by_grantor int := 1;
BEGIN
    IF in_class = 1 THEN
        id := (SELECT object_id FROM tsql.objects o JOIN tsql.schemas s USING (schema_id)
            WHERE o.parent_object_id = 0 AND lower(s.name) = lower(in_schema) AND lower(o.name) = lower(securable));
    ELSIF in_class = 3 THEN
        id := (SELECT schema_id FROM tsql.schemas WHERE lower(name) = lower(securable));
    END IF;
    IF who <> 1 AND id IS NOT NULL AND NOT tsql.allows(who, 'CONTROL', in_class, id) AND NOT 16386 = ANY (tsql.identities(who)) THEN
        IF EXISTS (SELECT FROM tsql.permissions p WHERE p.class = in_class AND p.major_id = id AND p.permission = wanted AND p.state = 'W'
                AND p.grantee_id = ANY (tsql.identities(who))) THEN
            by_grantor := who;
        ELSE
            id := NULL;
        END IF;
    END IF;
    IF id IS NULL THEN PERFORM tsql.missing('find', CASE in_class WHEN 1 THEN 'object' WHEN 3 THEN 'schema' ELSE 'database' END, securable); END IF;
    to_id := (SELECT principal_id FROM tsql.principals WHERE lower(name) = lower(grantee));
    IF to_id IS NULL THEN PERFORM tsql.missing('find', 'user', grantee); END IF;
    IF to_id IN (1, 3, 4, who) THEN
        PERFORM tsql.raise(4624, 'Cannot grant, deny, or revoke permissions to sa, dbo, entity owner, information_schema, sys, or yourself.');
    ELSIF to_id >= 16384 THEN
        PERFORM tsql.raise(4617, 'Cannot grant, deny or revoke permissions to or from special roles.');
    END IF;
    before := (SELECT state FROM tsql.permissions p WHERE p.class = in_class AND p.major_id = id AND p.grantee_id = to_id AND p.permission = wanted);
    IF verb <> 'GRANT' AND before = 'W' THEN
        IF NOT cascades THEN PERFORM tsql.raise(4611, 'To revoke or deny grantable privileges, specify the CASCADE option.'); END IF;
        DELETE FROM tsql.permissions p WHERE p.class = in_class AND p.major_id = id AND p.permission = wanted AND p.grantor_id = to_id;
    END IF;
    IF verb = 'REVOKE' AND NOT grantable THEN
        DELETE FROM tsql.permissions p WHERE p.class = in_class AND p.major_id = id AND p.grantee_id = to_id AND p.permission = wanted;
    ELSIF verb = 'REVOKE' THEN
        UPDATE tsql.permissions p SET state = 'G' WHERE p.class = in_class AND p.major_id = id AND p.grantee_id = to_id AND p.permission = wanted AND p.state = 'W';
    ELSE
        INSERT INTO tsql.permissions VALUES (in_class, id, to_id, wanted, CASE WHEN verb = 'DENY' THEN 'D' WHEN grantable OR before = 'W' THEN 'W' ELSE 'G' END, by_grantor)
            ON CONFLICT (class, major_id, grantee_id, permission) DO UPDATE SET state = EXCLUDED.state, grantor_id = EXCLUDED.grantor_id;
    END IF;
END $$;
