-- What adoption works with, in the schema ltm_adoption: gone with finish_adoption or the way back.

CREATE TABLE steps (
    step text PRIMARY KEY,
    home text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE steps IS 'The steps that are done, and the schema that the tables stand in.';

CREATE TABLE changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    row_id bigint NOT NULL,
    is_settled boolean NOT NULL DEFAULT coalesce(current_setting('ltm.settling', TRUE), '') = 'on'
);
COMMENT ON TABLE changes IS
'What was written and not carried over yet: a memory with its rows but accesses, or an access.';
COMMENT ON COLUMN changes.is_settled IS
'Written by settle itself, which does not look at it again; the way back does.';

CREATE TABLE progress (
    kind text PRIMARY KEY,
    last_id bigint NOT NULL
);
COMMENT ON TABLE progress IS 'Up to which id the first copy has come.';

CREATE TABLE deferred (
    name text PRIMARY KEY,
    table_name text NOT NULL,
    is_index boolean NOT NULL,
    command text NOT NULL,
    comment text
);
COMMENT ON TABLE deferred IS
'Indexes and foreign keys of the new tables, made when they are filled.';

CREATE TABLE originals (
    table_name text PRIMARY KEY,
    view_name text NOT NULL,
    memory_key text NOT NULL,
    column_names text[] NOT NULL,
    column_kinds text[] NOT NULL
);
COMMENT ON TABLE originals IS
'The tables of the original application: the end of the name of their view original_*, the column '
'that says to which memory a row belongs, and the columns that we know.';

CREATE TABLE missing_values (
    table_name text NOT NULL,
    column_name text NOT NULL,
    expression text NOT NULL,
    PRIMARY KEY (table_name, column_name)
);
COMMENT ON TABLE missing_values IS 'What a row has in a column that its table lacks.';

INSERT INTO missing_values (table_name, column_name, expression) VALUES
('ltm_memories', 'confidence_score', '1.0'),
('ltm_memories', 'dynamic_importance', '1.0'),
('ltm_memories', 'created_by', '''system'''),
('ltm_memories', 'access_count', '0'),
('ltm_memories', 'is_archived', 'FALSE'),
('ltm_memories', 'last_modified', 'a_day(o.created_at::timestamp)'),
(
    'ltm_memories', 'related_memory_ids',
    'SELECT jsonb_agg(DISTINCT r.target_memory_id) FROM original_relationships AS r '
    'WHERE r.source_memory_id = o.id'
),
(
    'ltm_memories', 'context_data',
    'SELECT complete_context(NULL, jsonb_agg('
    'jsonb_build_array(c.context_type, c.context_key, c.context_value) ORDER BY c.id)) '
    'FROM original_contexts AS c WHERE c.memory_id = o.id HAVING count(*) > 0'
);

-- Make the view original_* of a table, with every column that we know, in one type each, and JSON also as
-- it was written; without rows where there is no such table.
CREATE FUNCTION show_original(home text, name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    original ltm_adoption.originals;
    shown text;
    source oid := to_regclass(format('%I.%I', home, name));
BEGIN
    SELECT o.* INTO STRICT original FROM ltm_adoption.originals AS o WHERE o.table_name = name;
    SELECT string_agg(
        format(
            CASE
                WHEN a.attname IS NULL THEN '(%3$s)::%2$s AS %1$I'
                WHEN a.atttypid = 'jsonb'::regtype OR c.kind = 'key' OR c.kind = 'bool'
                    THEN 'o.%1$I AS %1$I'
                WHEN c.kind = 'json' THEN 'ltm_adoption.as_jsonb(o.%1$I::text) AS %1$I'
                ELSE 'o.%1$I::%2$s AS %1$I'
            END,
            c.name,
            CASE c.kind
                WHEN 'key' THEN 'bigint' WHEN 'int' THEN 'bigint'
                WHEN 'number' THEN 'double precision'
                WHEN 'text' THEN 'text' WHEN 'json' THEN 'jsonb'
                WHEN 'moment' THEN 'timestamp' WHEN 'bool' THEN 'boolean'
            END,
            coalesce(m.expression, 'NULL')
        ) || CASE
            WHEN c.kind = 'json' AND a.atttypid <> 'jsonb'::regtype
                THEN format(', o.%I::text AS %I', c.name, c.name || '_written')
            WHEN c.kind = 'json' THEN format(', NULL::text AS %I', c.name || '_written')
            ELSE ''
        END, ', ' ORDER BY c.place
    )
    INTO shown
    FROM unnest(original.column_names, original.column_kinds) WITH ORDINALITY AS c (name, kind, place)
    LEFT JOIN pg_attribute AS a
        ON a.attrelid = source AND a.attname = c.name AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN ltm_adoption.missing_values AS m
        ON m.table_name = original.table_name AND m.column_name = c.name;
    EXECUTE format(
        CASE WHEN source IS NULL THEN 'CREATE VIEW %I AS SELECT %s WHERE FALSE'
            ELSE 'CREATE VIEW %I AS SELECT %s FROM %I.%I AS o' END,
        'original_' || original.view_name, shown, home, name
    );
END
$$;

-- The command that makes a foreign key, checked for new rows only so far.
CREATE FUNCTION add_foreign_key(table_name text, name text, definition text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN format(
    'ALTER TABLE %I ADD CONSTRAINT %I %s NOT VALID',
    table_name, name, regexp_replace(definition, ' NOT VALID$', '')
);

CREATE TABLE foreign_keys (
    name text NOT NULL,
    table_name text NOT NULL,
    definition text NOT NULL,
    is_outward boolean NOT NULL,
    PRIMARY KEY (table_name, name)
);
COMMENT ON TABLE foreign_keys IS
'Foreign keys of the original tables; outward ones lead to tables of the application.';

CREATE TABLE others (
    id oid PRIMARY KEY
);
COMMENT ON TABLE others IS
'Functions of others with names like ours, that were there before the swap.';

CREATE TABLE sequences (
    table_name text PRIMARY KEY,
    sequence regclass NOT NULL
);
COMMENT ON TABLE sequences IS
'Where ids of rows that nobody wrote come from: the original''s own sequences until the swap.';

CREATE FUNCTION sequence_of(home text, table_name text) RETURNS regclass LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        pg_get_serial_sequence(format('%I.%I', home, table_name), 'id')::regclass,
        (
            SELECT d.refobjid::regclass
            FROM pg_attrdef AS f
            INNER JOIN pg_attribute AS c ON f.adrelid = c.attrelid AND f.adnum = c.attnum
            INNER JOIN pg_depend AS d
                ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
            INNER JOIN pg_class AS s ON d.refobjid = s.oid AND s.relkind = 'S'
            WHERE
                f.adrelid = format('%I.%I', home, table_name)::regclass
                AND c.attname = 'id'
                AND d.refclassid = 'pg_class'::regclass
            LIMIT 1
        )
    )
$$;
COMMENT ON FUNCTION sequence_of(text, text) IS
'Where the ids of a table come from: its own sequence, or one that its default names.';

CREATE FUNCTION next_id(name text) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT nextval(s.sequence) FROM ltm_adoption.sequences AS s WHERE s.table_name = name
$$;

-- A row that has nothing but what ours always writes, in the table of the new ones.
CREATE FUNCTION try_row(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE (
        SELECT format(
            'INSERT INTO ltm_next.%I (%s) VALUES (%s)',
            name,
            string_agg(format('%I', a.attname), ', '),
            string_agg(
                CASE a.atttypid
                    WHEN 'bigint'::regtype THEN (-a.attnum)::text
                    ELSE quote_literal(rpad('Words ', 50, 'and words '))
                END,
                ', '
            )
        )
        FROM pg_attribute AS a
        WHERE a.attrelid = format('ltm_next.%I', name)::regclass AND a.attnum > 0
            AND a.attnotnull AND NOT a.atthasdef AND NOT a.attisdropped
    );
END
$$;

-- Extended statistics stay where they are when their table is moved.
CREATE FUNCTION move_statistics(source text, target text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('ALTER STATISTICS %I.%I SET SCHEMA %I', source, s.stxname, target)
        FROM pg_statistic_ext AS s
        INNER JOIN pg_class AS c ON s.stxrelid = c.oid
        WHERE s.stxnamespace = quote_ident(source)::regnamespace
            AND c.relnamespace = quote_ident(target)::regnamespace
    LOOP
        EXECUTE command;
    END LOOP;
END
$$;

CREATE TABLE marks (
    table_name text PRIMARY KEY,
    last_id bigint NOT NULL
);
COMMENT ON TABLE marks IS 'The last id of each table at the swap; what is above was written after.';

-- Triggers write down what changed. They run with the rights of the adopting role, so that the program that
-- writes needs none on this schema.
CREATE FUNCTION note_memory() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ltm_adoption.changes (kind, row_id)
    SELECT DISTINCT 'memory', x.id FROM unnest(ARRAY[OLD.id, NEW.id]::bigint[]) AS x (id)
    WHERE x.id IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_child() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ltm_adoption.changes (kind, row_id)
    SELECT DISTINCT 'memory', x.id
    FROM unnest(ARRAY[OLD.memory_id, NEW.memory_id]::bigint[]) AS x (id)
    WHERE x.id IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_relationship() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ltm_adoption.changes (kind, row_id)
    SELECT DISTINCT 'memory', x.id
    FROM unnest(ARRAY[OLD.source_memory_id, NEW.source_memory_id]::bigint[]) AS x (id)
    WHERE x.id IS NOT NULL;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_access() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ltm_adoption.changes (kind, row_id)
    SELECT DISTINCT 'access', x.id FROM unnest(ARRAY[OLD.id, NEW.id]::bigint[]) AS x (id)
    WHERE x.id IS NOT NULL;
    RETURN NULL;
END
$$;

-- Which rows were in a table that is emptied at once, nobody would note.
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % is refused while the adoption is not finished: DELETE its rows',
        TG_TABLE_NAME;
END
$$;

-- JSON as it was written by a type that checks less. Of what jsonb refuses, signs that are none become
-- the replacement character, and numbers that are none NULL; what is no JSON at all stays as a string.
CREATE FUNCTION as_jsonb(written text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    repaired text := '';
    piece text;
BEGIN
    BEGIN
        RETURN written::jsonb;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    IF written !~ $r$^\s*[\[{"]$r$ THEN
        RETURN to_jsonb(written);
    END IF;
    FOR piece IN
        SELECT p.match[1]
        FROM regexp_matches(
            written,
            $r$("(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|-?(?:NaN|Infinity)|[^-"0-9NI]+|.)$r$,
            'g'
        ) AS p (match)
    LOOP
        IF piece LIKE '"%' THEN
            SELECT string_agg(
                CASE
                    WHEN s.match[1] ~* $r$^\\u(0000|d[89a-f])$r$ AND length(s.match[1]) = 6
                        THEN chr(65533)
                    ELSE s.match[1]
                END,
                '' ORDER BY s.place
            )
            INTO piece
            FROM regexp_matches(
                piece, $r$(\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.|[^\\]+)$r$, 'g'
            ) WITH ORDINALITY AS s (match, place);
        ELSIF piece IN ('NaN', '-NaN', 'Infinity', '-Infinity') THEN
            piece := 'null';
        ELSIF piece ~ '^-?[0-9].*[eE]' OR piece ~ '^-?[0-9]' AND length(piece) > 1000 THEN
            BEGIN
                PERFORM piece::jsonb;
            EXCEPTION WHEN OTHERS THEN
                piece := 'null';
            END;
        END IF;
        repaired := repaired || piece;
    END LOOP;
    BEGIN
        RETURN repaired::jsonb;
    EXCEPTION WHEN OTHERS THEN
        RETURN to_jsonb(written);
    END;
END
$$;

-- Whether jsonb refuses this, and a part of it was replaced.
CREATE FUNCTION is_refused(written text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM written::jsonb;
    RETURN FALSE;
EXCEPTION WHEN OTHERS THEN
    RETURN ltm_adoption.as_jsonb(written) <> to_jsonb(written);
END
$$;

CREATE FUNCTION is_repaired(written text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN
        length(written) > 131072
        OR written ~ $r$\\u(0000|[dD][89a-fA-F])|[eE][-+]?[0-9]{3}|NaN|Infinity$r$
        THEN ltm_adoption.is_refused(written)
    ELSE FALSE
END;

CREATE FUNCTION fraction(value double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN value = 'NaN' THEN 1 WHEN value < 0 THEN 0 WHEN value > 1 THEN 1 ELSE value
END;

-- NaN is greater than everything.
CREATE FUNCTION finite(value double precision, most double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN abs(value) > most THEN 1 ELSE value END;

CREATE FUNCTION a_day(moment timestamp) RETURNS timestamp
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN moment BETWEEN '0001-01-01' AND '9999-12-31 23:59:59.999999' THEN moment
END;

-- Of a string that holds JSON that JSON, or what looks like it as one word.
CREATE FUNCTION unwrapped(tags jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN jsonb_typeof(tags) <> 'string' OR tags #>> '{}' !~ $r$^\s*[\[{]$r$ THEN tags
    WHEN jsonb_typeof(ltm_adoption.as_jsonb(tags #>> '{}')) = 'string' THEN jsonb_build_array(tags)
    ELSE ltm_adoption.as_jsonb(tags #>> '{}')
END;

-- Every word that is somewhere in the JSON, trimmed, cut, each once in any letter case; a string alone
-- holds words between commas. Then the names that are not among them.
CREATE FUNCTION tag_words(tags jsonb, names text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN (
    WITH words AS (
        SELECT s.word, l.place, s.part
        FROM jsonb_path_query(tags, 'strict $.**') WITH ORDINALITY AS l (leaf, place)
        CROSS JOIN
            LATERAL unnest(
                CASE
                    WHEN jsonb_typeof(tags) = 'string' THEN string_to_array(tags #>> '{}', ',')
                    WHEN jsonb_typeof(l.leaf) IN ('string', 'number', 'boolean')
                        THEN ARRAY[l.leaf #>> '{}']
                END
            ) WITH ORDINALITY AS s (word, part)
        UNION ALL
        SELECT n.name, 1000000000 + n.place, 1
        FROM unnest(names) WITH ORDINALITY AS n (name, place)
    ),

    trimmed AS (
        SELECT
            rtrim(left(regexp_replace(normalize(w.word), '^\s+|\s+$', '', 'g'), 100)) AS tag,
            w.place,
            w.part
        FROM words AS w
    ),

    once AS (
        SELECT DISTINCT ON (lower(t.tag)) t.tag, t.place, t.part
        FROM trimmed AS t
        WHERE t.tag <> ''
        ORDER BY lower(t.tag), t.place, t.part
    )

    SELECT coalesce(jsonb_agg(k.tag ORDER BY k.place, k.part), '[]')
    FROM (
        SELECT o.tag, o.place, o.part FROM once AS o
        ORDER BY o.place, o.part LIMIT 100
    ) AS k
);

CREATE FUNCTION clean_tags(tags jsonb, names text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE
RETURN ltm_adoption.tag_words(ltm_adoption.unwrapped(tags), names);

CREATE FUNCTION context_fits(context_data jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN jsonb_typeof(context_data) = 'null' OR (
    jsonb_typeof(context_data) = 'object'
    AND octet_length(context_data::text) <= 262144
    AND jsonb_array_length(jsonb_path_query_array(context_data, '$.*.*')) <= 1000
    AND NOT jsonb_path_exists(context_data, 'strict $.**{40}')
);

-- The context with those leaves that only rows have; `leaves` is an array of [type, key, value].
CREATE FUNCTION complete_context(context_data jsonb, leaves jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    whole jsonb := CASE jsonb_typeof(context_data)
        WHEN 'object' THEN context_data
        WHEN 'null' THEN '{}'
        ELSE CASE
            WHEN context_data IS NULL THEN '{}'
            ELSE jsonb_build_object('extra', jsonb_build_object('original', context_data))
        END
    END;
    leaf jsonb;
    section text;
    field text;
    value jsonb;
BEGIN
    FOR leaf IN SELECT l.leaf FROM jsonb_array_elements(leaves) AS l (leaf) LOOP
        section := leaf ->> 0;
        field := leaf ->> 1;
        CONTINUE WHEN section IS NULL OR field IS NULL;
        value := CASE
            WHEN leaf ->> 2 ~ '^\s*[\[{]' THEN ltm_adoption.as_jsonb(leaf ->> 2) ELSE leaf -> 2
        END;
        IF section = 'custom' THEN
            IF jsonb_typeof(coalesce(whole -> 'custom_contexts', '[]')) = 'array' AND NOT jsonb_path_exists(
                whole, '$.custom_contexts[*] ? (@.context_type == $field)',
                jsonb_build_object('field', field)
            ) THEN
                whole := whole || jsonb_build_object(
                    'custom_contexts',
                    coalesce(whole -> 'custom_contexts', '[]') || jsonb_build_object(
                        'context_type', field, 'context_data',
                        CASE jsonb_typeof(value)
                            WHEN 'object' THEN value ELSE jsonb_build_object('value', value)
                        END
                    )
                );
            END IF;
        ELSIF section = 'extra' AND whole ? field THEN  -- what nobody knows is read as extra
            CONTINUE;
        ELSIF jsonb_typeof(coalesce(whole -> section, '{}')) <> 'object' THEN
            CONTINUE;
        ELSIF NOT coalesce(whole -> section, '{}') ? field THEN
            whole := whole || jsonb_build_object(
                section, coalesce(whole -> section, '{}') || jsonb_build_object(field, value)
            );
        END IF;
    END LOOP;
    RETURN whole;
END
$$;
