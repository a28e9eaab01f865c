-- T-SQL's functions and conversions where PostgreSQL has no equal, and the keys by which values compare.

CREATE OR REPLACE FUNCTION tsql.raise(number int, message text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TS000', MESSAGE = message, DETAIL = number::text;
END $$;

-- Keys -------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.fold(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT lower(rtrim($1)) $$;
CREATE OR REPLACE FUNCTION tsql.binary_key(bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT rtrim($1, '\x00'::bytea) $$;
CREATE OR REPLACE FUNCTION tsql.xml_key(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM tsql.raise(305, 'The XML data type cannot be compared or sorted, except when using the IS NULL operator.');
    RETURN $1;
END $$;
-- SQL Server compares the last group of a uniqueidentifier first, and the first three byte by byte from their end
CREATE OR REPLACE FUNCTION tsql.guid_key(uuid) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT substr(b, 11, 6) || substr(b, 9, 2) || substr(b, 8, 1) || substr(b, 7, 1) || substr(b, 6, 1) || substr(b, 5, 1)
        || substr(b, 4, 1) || substr(b, 3, 1) || substr(b, 2, 1) || substr(b, 1, 1) FROM (SELECT uuid_send($1) AS b) AS bytes $$;

CREATE OR REPLACE FUNCTION tsql.lesser_fold(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.fold($2) < tsql.fold($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.greater_fold(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.fold($2) > tsql.fold($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.lesser_trim(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN rtrim($2) < rtrim($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.greater_trim(text, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN rtrim($2) > rtrim($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.lesser_instant(tsql.datetimeoffset, tsql.datetimeoffset) RETURNS tsql.datetimeoffset LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN ($2).utc < ($1).utc THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.greater_instant(tsql.datetimeoffset, tsql.datetimeoffset) RETURNS tsql.datetimeoffset LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN ($2).utc > ($1).utc THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.lesser_guid(uuid, uuid) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.guid_key($2) < tsql.guid_key($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.greater_guid(uuid, uuid) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.guid_key($2) > tsql.guid_key($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.lesser_binary(bytea, bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.binary_key($2) < tsql.binary_key($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE FUNCTION tsql.greater_binary(bytea, bytea) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT CASE WHEN tsql.binary_key($2) > tsql.binary_key($1) THEN $2 ELSE $1 END $$;
CREATE OR REPLACE AGGREGATE tsql.min_fold(text) (SFUNC = tsql.lesser_fold, STYPE = text);
CREATE OR REPLACE AGGREGATE tsql.max_fold(text) (SFUNC = tsql.greater_fold, STYPE = text);
CREATE OR REPLACE AGGREGATE tsql.min_trim(text) (SFUNC = tsql.lesser_trim, STYPE = text);
CREATE OR REPLACE AGGREGATE tsql.max_trim(text) (SFUNC = tsql.greater_trim, STYPE = text);
CREATE OR REPLACE AGGREGATE tsql.min_instant(tsql.datetimeoffset) (SFUNC = tsql.lesser_instant, STYPE = tsql.datetimeoffset);
CREATE OR REPLACE AGGREGATE tsql.max_instant(tsql.datetimeoffset) (SFUNC = tsql.greater_instant, STYPE = tsql.datetimeoffset);
CREATE OR REPLACE AGGREGATE tsql.min_guid(uuid) (SFUNC = tsql.lesser_guid, STYPE = uuid);
CREATE OR REPLACE AGGREGATE tsql.max_guid(uuid) (SFUNC = tsql.greater_guid, STYPE = uuid);
CREATE OR REPLACE AGGREGATE tsql.min_binary(bytea) (SFUNC = tsql.lesser_binary, STYPE = bytea);
CREATE OR REPLACE AGGREGATE tsql.max_binary(bytea) (SFUNC = tsql.greater_binary, STYPE = bytea);

-- Numbers ----------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.to_tinyint(v int8) RETURNS int2 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF v NOT BETWEEN 0 AND 255 THEN PERFORM tsql.raise(220, format('Arithmetic overflow error for data type tinyint, value = %s.', v)); END IF;
    RETURN v;
END $$;
CREATE OR REPLACE FUNCTION tsql.to_smallint(v int8) RETURNS int2 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF v NOT BETWEEN -32768 AND 32767 THEN PERFORM tsql.raise(220, format('Arithmetic overflow error for data type smallint, value = %s.', v)); END IF;
    RETURN v;
END $$;
CREATE OR REPLACE FUNCTION tsql.to_money(v numeric, type_name text) RETURNS numeric LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE m numeric := round(v, 4); largest numeric := CASE type_name WHEN 'money' THEN 922337203685477.5807 ELSE 214748.3647 END;
BEGIN
    IF m NOT BETWEEN -largest - 0.0001 AND largest THEN PERFORM tsql.raise(8115, 'Arithmetic overflow error converting expression to data type ' || type_name || '.'); END IF;
    RETURN m;
END $$;
CREATE OR REPLACE FUNCTION tsql.text_to_money(v text, type_name text) RETURNS numeric LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := regexp_replace(replace(btrim(v), ',', ''), '^([+-]?)\$', '\1');
BEGIN
    IF t = '' THEN RETURN 0; END IF;
    IF t !~ '^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$' THEN
        PERFORM tsql.raise(CASE type_name WHEN 'money' THEN 235 ELSE 293 END, 'Cannot convert a char value to ' || type_name || '. The char value has incorrect syntax.');
    END IF;
    RETURN tsql.to_money(t::numeric, type_name);
END $$;
-- SQL Server's real keeps no infinity and no NaN
CREATE OR REPLACE FUNCTION tsql.text_to_int8(v text, type_name text) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := btrim(v);
BEGIN
    IF t = '' THEN RETURN 0; END IF;
    IF t !~ '^[+-]?[0-9]+$' THEN
        PERFORM tsql.raise(245, format('Conversion failed when converting the varchar value ''%s'' to data type %s.', v, type_name));
    END IF;
    IF t::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807 THEN
        PERFORM tsql.raise(8115, 'Arithmetic overflow error converting expression to data type ' || type_name || '.');
    END IF;
    RETURN t::int8;
END $$;
CREATE OR REPLACE FUNCTION tsql.text_to_bit(v text) RETURNS int2 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE lower(btrim(v)) WHEN 'true' THEN 1 WHEN 'false' THEN 0 ELSE (tsql.text_to_int8(v, 'bit') <> 0)::int END;
END $$;
CREATE OR REPLACE FUNCTION tsql.text_to_numeric(v text) RETURNS numeric LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := btrim(v);
BEGIN
    IF t !~ '^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$' THEN PERFORM tsql.raise(8114, 'Error converting data type varchar to numeric.'); END IF;
    RETURN t::numeric;
END $$;
-- what is too small for a normal real is 0
CREATE OR REPLACE FUNCTION tsql.to_real(v float8) RETURNS float4 LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN v <> 0 AND abs(v) < 1.1754943508222875e-38 THEN 0::float4 ELSE v::float4 END
$$;

CREATE OR REPLACE FUNCTION tsql.text_to_float8(v text) RETURNS float8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := btrim(v);
BEGIN
    IF t = '' THEN RETURN 0; END IF;
    IF t !~ '^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$' THEN PERFORM tsql.raise(8114, 'Error converting data type varchar to float.'); END IF;
    RETURN t::float8;
END $$;
CREATE OR REPLACE FUNCTION tsql.text_to_uuid(v text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := regexp_replace(v, '^\{(.*)\}$', '\1');
BEGIN
    t := left(t, 36);
    IF t !~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN
        PERFORM tsql.raise(8169, 'Conversion failed when converting from a character string to uniqueidentifier.');
    END IF;
    RETURN t::uuid;
END $$;
-- six digits, as SQL Server's style 0
CREATE OR REPLACE FUNCTION tsql.float_text(v float8) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE n numeric := v::numeric; e int; m text;
BEGIN
    IF n = 0 THEN RETURN '0'; END IF;
    e := floor(log(abs(n)));
    n := round(n, 5 - e);
    e := floor(log(abs(n)));
    IF e BETWEEN -5 AND 5 THEN RETURN trim_scale(n)::text; END IF;
    m := trim_scale(round(n / power(10::numeric, e), 5))::text;
    RETURN m || 'e' || CASE WHEN e < 0 THEN '-' ELSE '+' END || lpad(abs(e)::text, 3, '0');
END $$;

-- Text -------------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.utf16_length(v text) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN octet_length(v) = length(v) THEN length(v)
        ELSE length(v) + length(regexp_replace(v, '[^\U00010000-\U0010FFFF]', '', 'g')) END $$;
-- units: u = UTF-16, 8 = bytes of UTF-8, b = a byte for each character
CREATE OR REPLACE FUNCTION tsql.measure(v text, unit text) RETURNS int LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE unit WHEN 'u' THEN tsql.utf16_length(v) WHEN '8' THEN octet_length(v) ELSE length(v) END $$;
CREATE OR REPLACE FUNCTION tsql.code_page(v text, unit text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN unit <> 'b' OR octet_length(v) = length(v) THEN v
        ELSE regexp_replace(v, '[^\u0001-\u007f\u00a0-\u00ff\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178\u0081\u008d\u008f\u0090\u009d]', '?', 'g') END $$;
CREATE OR REPLACE FUNCTION tsql.cut(v text, size int, unit text, padded boolean) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := tsql.code_page(v, unit);
BEGIN
    IF tsql.measure(t, unit) > size THEN
        t := left(t, size);
        WHILE tsql.measure(t, unit) > size LOOP t := left(t, -1); END LOOP;
    END IF;
    IF padded THEN t := t || repeat(' ', size - tsql.measure(t, unit)); END IF;
    RETURN t;
END $$;
CREATE OR REPLACE FUNCTION tsql.fit(v text, size int, unit text, padded boolean, place text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE t text := tsql.code_page(v, unit); fitting text;
BEGIN
    IF tsql.measure(t, unit) > size THEN
        fitting := tsql.cut(t, size, unit, false);
        IF rtrim(substr(t, length(fitting) + 1)) <> '' THEN
            PERFORM tsql.raise(2628, format('String or binary data would be truncated in %s. Truncated value: ''%s''.', place, fitting));
        END IF;
        t := fitting;
    END IF;
    IF padded THEN t := t || repeat(' ', size - tsql.measure(t, unit)); END IF;
    RETURN t;
END $$;
CREATE OR REPLACE FUNCTION tsql.fit_binary(v bytea, size int, padded boolean, place text) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF length(v) > size THEN PERFORM tsql.raise(2628, format('String or binary data would be truncated in %s. Truncated value: ''''.', place)); END IF;
    IF padded THEN RETURN v || decode(repeat('00', size - length(v)), 'hex'); END IF;
    RETURN v;
END $$;
CREATE OR REPLACE FUNCTION tsql.cut_binary(v bytea, size int, padded boolean) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN padded THEN substr(v, 1, size) || decode(repeat('00', greatest(size - length(v), 0)), 'hex') ELSE substr(v, 1, size) END $$;
CREATE OR REPLACE FUNCTION tsql.refuse_pairs(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF octet_length(v) <> length(v) AND tsql.utf16_length(v) <> length(v) THEN
        PERFORM tsql.raise(40517, 'Keyword or statement option ''a position within text with surrogate pairs'' is not supported in this stand-in for SQL Server.');
    END IF;
    RETURN v;
END $$;
CREATE OR REPLACE FUNCTION tsql.substring(v text, first int, count int) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF count < 0 THEN PERFORM tsql.raise(537, 'Invalid length parameter passed to the LEFT or SUBSTRING function.'); END IF;
    RETURN substr(tsql.refuse_pairs(v), first, count);
END $$;
CREATE OR REPLACE FUNCTION tsql.charindex(part text, v text, first int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE WHEN part = '' OR strpos(substr(v, greatest(first, 1)), part) = 0 THEN 0 ELSE strpos(substr(v, greatest(first, 1)), part) + greatest(first, 1) - 1 END $$;
CREATE OR REPLACE FUNCTION tsql.like_pattern(pattern text, escape text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE r text := '^'; i int := 1; c text; closing int; members text;
BEGIN
    WHILE i <= length(pattern) LOOP
        c := substr(pattern, i, 1);
        IF escape IS NOT NULL AND c = escape THEN
            i := i + 1;
            r := r || regexp_replace(substr(pattern, i, 1), '([^[:alnum:] ])', '\\\1');
        ELSIF c = '%' THEN r := r || '.*';
        ELSIF c = '_' THEN r := r || '.';
        ELSIF c = '[' AND strpos(substr(pattern, i + 2), ']') > 0 THEN
            closing := i + 1 + strpos(substr(pattern, i + 2), ']');
            members := substr(pattern, i + 1, closing - i - 1);
            r := r || '[' || CASE WHEN left(members, 1) = '^' AND length(members) > 1 THEN '^' || regexp_replace(substr(members, 2), '([\\\[\]^])', '\\\1', 'g')
                ELSE regexp_replace(members, '([\\\[\]^])', '\\\1', 'g') END || ']';
            i := closing;
        ELSE r := r || regexp_replace(c, '([^[:alnum:] ])', '\\\1');
        END IF;
        i := i + 1;
    END LOOP;
    RETURN r || '$';
END $$;
CREATE OR REPLACE FUNCTION tsql.like(v text, pattern text, escape text, folds boolean, trims boolean) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF v IS NULL OR pattern IS NULL THEN RETURN NULL; END IF;
    IF trims AND right(pattern, 1) <> ' ' THEN v := rtrim(v); END IF;
    IF folds THEN v := lower(v); pattern := lower(pattern); escape := lower(escape); END IF;
    RETURN v ~ tsql.like_pattern(pattern, escape);
END $$;

-- Dates and times --------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.now_ticks() RETURNS int8 LANGUAGE sql STABLE AS $$ SELECT (extract(epoch FROM statement_timestamp()) * 10000000)::int8 + 621355968000000000 $$;
CREATE OR REPLACE FUNCTION tsql.round_ticks(t int8, scale int) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (t + (10 ^ (7 - scale))::int8 / 2) / (10 ^ (7 - scale))::int8 * (10 ^ (7 - scale))::int8 $$;
CREATE OR REPLACE FUNCTION tsql.date_ticks(d date) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT (d - '0001-01-01'::date)::int8 * 864000000000 $$;
CREATE OR REPLACE FUNCTION tsql.ticks_date(t int8) RETURNS date LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT '0001-01-01'::date + (t / 864000000000)::int4 $$;
CREATE OR REPLACE FUNCTION tsql.check_ticks(t int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF t NOT BETWEEN 0 AND 3155378975999999999 THEN PERFORM tsql.raise(517, 'Adding a value to a ''datetime2'' column caused an overflow.'); END IF;
    RETURN t;
END $$;
CREATE OR REPLACE FUNCTION tsql.time_text(t int8, scale int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT lpad((t / 36000000000)::text, 2, '0') || ':' || lpad((t / 600000000 % 60)::text, 2, '0') || ':' || lpad((t / 10000000 % 60)::text, 2, '0')
        || CASE WHEN scale = 0 THEN '' ELSE '.' || left(lpad((t % 10000000)::text, 7, '0'), scale) END $$;
CREATE OR REPLACE FUNCTION tsql.datetime2_text(t int8, scale int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT to_char(tsql.ticks_date(t), 'YYYY-MM-DD') || ' ' || tsql.time_text(t % 864000000000, scale) $$;
CREATE OR REPLACE FUNCTION tsql.offset_text(v tsql.datetimeoffset, scale int) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT tsql.datetime2_text((v).utc + (v).minutes::int8 * 600000000, scale) || ' ' || CASE WHEN (v).minutes < 0 THEN '-' ELSE '+' END
        || lpad((abs((v).minutes) / 60)::text, 2, '0') || ':' || lpad((abs((v).minutes) % 60)::text, 2, '0') $$;
CREATE OR REPLACE FUNCTION tsql.parse_instant(v text, wanted text, OUT ticks int8, OUT minutes int4) LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE m text[];
BEGIN
    m := regexp_match(btrim(v), '^(?:(\d{4})-(\d{1,2})-(\d{1,2})|(\d{4})(\d{2})(\d{2}))?(?:(?:^|[T ]\s*)(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,7}))?)?\s*(Z|[+-]\d{2}:\d{2})?)?$');
    IF m IS NULL OR btrim(v) = '' THEN
        PERFORM tsql.raise(241, 'Conversion failed when converting date and/or time from character string.');
    END IF;
    IF coalesce(m[7], '0')::int > 23 OR coalesce(m[8], '0')::int > 59 OR coalesce(m[9], '0')::int > 59 THEN
        PERFORM tsql.raise(241, 'Conversion failed when converting date and/or time from character string.');
    END IF;
    ticks := tsql.date_ticks(CASE WHEN coalesce(m[1], m[4]) IS NULL THEN '1900-01-01'::date
        ELSE make_date(coalesce(m[1], m[4])::int, coalesce(m[2], m[5])::int, coalesce(m[3], m[6])::int) END);
    ticks := ticks + coalesce(m[7], '0')::int8 * 36000000000 + coalesce(m[8], '0')::int8 * 600000000 + coalesce(m[9], '0')::int8 * 10000000
        + rpad(coalesce(m[10], '0'), 7, '0')::int8;
    minutes := CASE WHEN m[11] IS NULL OR m[11] = 'Z' THEN 0
        ELSE (left(m[11], 1) || '1')::int * (substr(m[11], 2, 2)::int * 60 + substr(m[11], 5, 2)::int) END;
    IF minutes NOT BETWEEN -840 AND 840 THEN PERFORM tsql.raise(241, 'Conversion failed when converting date and/or time from character string.'); END IF;
    IF wanted <> 'datetimeoffset' AND m[11] IS NOT NULL AND minutes <> 0 THEN
        PERFORM tsql.raise(40517, 'Keyword or statement option ''an offset in text for ' || wanted || ''' is not supported in this stand-in for SQL Server.');
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.text_to_ticks(v text, wanted text) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT (tsql.parse_instant(v, wanted)).ticks $$;
CREATE OR REPLACE FUNCTION tsql.text_to_offset(v text, scale int) RETURNS tsql.datetimeoffset LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT ROW(tsql.check_ticks(tsql.round_ticks(ticks - minutes::int8 * 600000000, scale)), minutes::int2)::tsql.datetimeoffset FROM tsql.parse_instant(v, 'datetimeoffset') $$;
-- datetime and smalldatetime: three-hundredths of a second, each in its nearest tick, and minutes
CREATE OR REPLACE FUNCTION tsql.to_datetime(t int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE parts int8 := (t % 864000000000 * 3 + 50000) / 100000; v int8 := t / 864000000000 * 864000000000 + (parts * 100000 + 1) / 3;
BEGIN
    IF v NOT BETWEEN 552877920000000000 AND 3155378975999966667 THEN
        PERFORM tsql.raise(242, 'The conversion of a varchar data type to a datetime data type resulted in an out-of-range value.');
    END IF;
    RETURN v;
END $$;
CREATE OR REPLACE FUNCTION tsql.to_smalldatetime(t int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE v int8;
BEGIN
    IF t >= 552877920000000000 THEN v := (tsql.to_datetime(t) + 300000000) / 600000000 * 600000000; END IF;
    IF v IS NULL OR v NOT BETWEEN 599266080000000000 AND 655889183400000000 THEN
        PERFORM tsql.raise(242, 'The conversion of a varchar data type to a smalldatetime data type resulted in an out-of-range value.');
    END IF;
    RETURN v;
END $$;
-- no more than three digits of a second
CREATE OR REPLACE FUNCTION tsql.text_to_old_ticks(v text) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF v ~ '\.\d{4}' THEN PERFORM tsql.raise(241, 'Conversion failed when converting date and/or time from character string.'); END IF;
    RETURN tsql.text_to_ticks(CASE WHEN btrim(v) = '' THEN '1900-01-01' ELSE v END, 'datetime');
END $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT to_char(tsql.ticks_date(t), 'Mon ') || lpad(extract(day FROM tsql.ticks_date(t))::text, 2) || to_char(tsql.ticks_date(t), ' YYYY ')
        || lpad(((t / 36000000000 + 11) % 12 + 1)::text, 2) || ':' || lpad((t / 600000000 % 60)::text, 2, '0') || CASE WHEN t / 36000000000 % 24 < 12 THEN 'AM' ELSE 'PM' END $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_121(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT tsql.datetime2_text(tsql.round_ticks(t, 3), 3) $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_126(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT regexp_replace(replace(tsql.datetime_text_121(t), ' ', 'T'), '\.000$', '') $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_120(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT left(tsql.datetime_text_121(t), 19) $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_23(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT left(tsql.datetime_text_121(t), 10) $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_112(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT replace(tsql.datetime_text_23(t), '-', '') $$;
CREATE OR REPLACE FUNCTION tsql.datetime_text_108(t int8) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT substr(tsql.datetime_text_121(t), 12, 8) $$;
CREATE OR REPLACE FUNCTION tsql.part(part text, t int8) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE d date := tsql.ticks_date(t);
BEGIN
    RETURN CASE part
        WHEN 'year' THEN extract(year FROM d) WHEN 'quarter' THEN extract(quarter FROM d) WHEN 'month' THEN extract(month FROM d)
        WHEN 'dayofyear' THEN extract(doy FROM d) WHEN 'day' THEN extract(day FROM d) WHEN 'weekday' THEN extract(dow FROM d) + 1
        WHEN 'iso_week' THEN extract(week FROM d)
        WHEN 'hour' THEN t / 36000000000 % 24 WHEN 'minute' THEN t / 600000000 % 60 WHEN 'second' THEN t / 10000000 % 60
        WHEN 'millisecond' THEN t / 10000 % 1000 WHEN 'microsecond' THEN t / 10 % 1000000 WHEN 'nanosecond' THEN t % 10000000 * 100 END;
END $$;
CREATE OR REPLACE FUNCTION tsql.part_ticks(part text) RETURNS int8 LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE part WHEN 'week' THEN 6048000000000 WHEN 'day' THEN 864000000000 WHEN 'dayofyear' THEN 864000000000 WHEN 'weekday' THEN 864000000000
        WHEN 'hour' THEN 36000000000 WHEN 'minute' THEN 600000000 WHEN 'second' THEN 10000000 WHEN 'millisecond' THEN 10000 WHEN 'microsecond' THEN 10 END $$;
CREATE OR REPLACE FUNCTION tsql.datediff(part text, a int8, b int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE part
        WHEN 'year' THEN tsql.part('year', b) - tsql.part('year', a)
        WHEN 'quarter' THEN (tsql.part('year', b) - tsql.part('year', a)) * 4 + tsql.part('quarter', b) - tsql.part('quarter', a)
        WHEN 'month' THEN (tsql.part('year', b) - tsql.part('year', a)) * 12 + tsql.part('month', b) - tsql.part('month', a)
        -- weeks begin on Sunday, and 0001-01-01 is a Monday
        WHEN 'week' THEN (b / 864000000000 + 1) / 7 - (a / 864000000000 + 1) / 7
        WHEN 'nanosecond' THEN (b - a) * 100
        ELSE b / tsql.part_ticks(part) - a / tsql.part_ticks(part) END;
END $$;
CREATE OR REPLACE FUNCTION tsql.datediff_int(part text, a int8, b int8) RETURNS int4 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE d int8 := tsql.datediff(part, a, b);
BEGIN
    IF d NOT BETWEEN -2147483648 AND 2147483647 THEN PERFORM tsql.raise(535, 'The datediff function resulted in an overflow. The number of dateparts separating two date/time instances is too large. Try to use datediff with a less precise datepart.'); END IF;
    RETURN d;
END $$;
CREATE OR REPLACE FUNCTION tsql.dateadd(part text, n int8, t int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF part = 'nanosecond' THEN RETURN tsql.check_ticks(t + round(n / 100.0)::int8); END IF;
    IF part IN ('year', 'quarter', 'month') THEN
        RETURN tsql.check_ticks(tsql.date_ticks((tsql.ticks_date(t) + make_interval(months => (n * CASE part WHEN 'year' THEN 12 WHEN 'quarter' THEN 3 ELSE 1 END)::int))::date) + t % 864000000000);
    END IF;
    RETURN tsql.check_ticks(t + n * tsql.part_ticks(part));
END $$;

-- The catalogue's functions ----------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION tsql.name_parts(name text) RETURNS text[] LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT array_agg(coalesce(replace(m[1], ']]', ']'), m[2], m[3])) FROM regexp_matches(name, '\[((?:[^\]]|\]\])*)\]|"([^"]*)"|([^.\[\]"]+)', 'g') AS m $$;
CREATE OR REPLACE FUNCTION tsql.object_id(name text, wanted text) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE parts text[] := tsql.name_parts(name); n int := cardinality(tsql.name_parts(name)); found int;
BEGIN
    IF left(parts[n], 1) = '#' THEN
        IF n = 1 OR lower(parts[1]) <> 'tempdb' OR to_regclass('pg_temp.objects') IS NULL THEN RETURN NULL; END IF;
        EXECUTE 'SELECT object_id FROM pg_temp.objects WHERE lower(name) = lower($1) AND type = ''U'' ORDER BY scope DESC LIMIT 1'
            INTO found USING parts[n];
        RETURN CASE WHEN wanted IS NULL OR lower(rtrim(wanted)) = 'u' THEN found END;
    END IF;
    IF n = 3 AND lower(parts[1]) <> lower(current_database()) THEN RETURN NULL; END IF;
    RETURN (SELECT o.object_id FROM tsql.visible_objects o JOIN tsql.schemas s USING (schema_id)
        WHERE lower(o.name) = lower(parts[n]) AND lower(s.name) = lower(CASE WHEN n > 1 THEN parts[n - 1] ELSE 'dbo' END)
            AND (wanted IS NULL OR lower(rtrim(wanted)) = lower(o.type)));
END $$;
-- what the session has of temporary tables, none before the first of them
CREATE OR REPLACE FUNCTION tsql.temporary_objects() RETURNS SETOF tsql.objects LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF to_regclass('pg_temp.objects') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT object_id, schema_id, name, type, parent_object_id, created, definition, column_id, is_not_trusted, is_system_named FROM pg_temp.objects';
    END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.temporary_columns() RETURNS SETOF tsql.columns LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF to_regclass('pg_temp.columns') IS NOT NULL THEN RETURN QUERY EXECUTE 'SELECT * FROM pg_temp.columns'; END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.temporary_indexes() RETURNS SETOF tsql.indexes LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF to_regclass('pg_temp.indexes') IS NOT NULL THEN RETURN QUERY EXECUTE 'SELECT * FROM pg_temp.indexes'; END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.temporary_index_columns() RETURNS SETOF tsql.index_columns LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF to_regclass('pg_temp.index_columns') IS NOT NULL THEN RETURN QUERY EXECUTE 'SELECT * FROM pg_temp.index_columns'; END IF;
END $$;
CREATE OR REPLACE FUNCTION tsql.object_name(id int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT name FROM tsql.visible_objects WHERE object_id = id $$;
CREATE OR REPLACE FUNCTION tsql.object_schema_name(id int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT s.name FROM tsql.visible_objects o JOIN tsql.schemas s USING (schema_id) WHERE o.object_id = id $$;
CREATE OR REPLACE FUNCTION tsql.schema_name(id int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT name FROM tsql.schemas WHERE schema_id = id $$;
CREATE OR REPLACE FUNCTION tsql.schema_id(n text) RETURNS int LANGUAGE sql STABLE AS $$ SELECT schema_id FROM tsql.schemas WHERE lower(name) = lower(n) $$;
CREATE OR REPLACE FUNCTION tsql.type_name(id int) RETURNS text LANGUAGE sql STABLE AS $$ SELECT name FROM tsql.types WHERE user_type_id = id $$;
CREATE OR REPLACE FUNCTION tsql.col_length(t text, c text) RETURNS int2 LANGUAGE sql STABLE AS $$
    SELECT max_length FROM tsql.columns WHERE object_id = tsql.object_id(t, NULL) AND lower(name) = lower(c) $$;
CREATE OR REPLACE FUNCTION tsql.skips_checks() RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT coalesce(current_setting('tsql.skip_checks', true), '') = 'on' $$;
