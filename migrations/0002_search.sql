-- How words are found: in which language, and under keys that begin with the user.
-- depends: 0001_importance

-- The one setting for language: a configuration named ltm that is there already is kept.
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pg_ts_config WHERE cfgname = 'ltm' AND pg_ts_config_is_visible(oid)
    ) THEN
        CREATE TEXT SEARCH CONFIGURATION ltm (COPY = pg_catalog.english);
        COMMENT ON TEXT SEARCH CONFIGURATION ltm IS 'How ltm_store finds words: made by it, as english.';
    END IF;
END
$$;

CREATE FUNCTION ltm_lower(value text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
DECLARE
    lowered text := lower(value COLLATE "C");
BEGIN
    IF octet_length(lowered) = char_length(lowered) THEN
        RETURN lowered;
    END IF;
    lowered := replace(normalize(lowered, NFC), 'İ', U&'i\0307');
    IF lower('Ä') = 'ä' THEN
        RETURN normalize(lower(lowered), NFC);
    END IF;
    -- A database of LC_CTYPE C knows no letters beyond ASCII: the marks off, then letter by letter.
    RETURN normalize(translate(
        lower(normalize(lowered, NFD) COLLATE "C"),
        'ÆØÞÐŁĐĦŊŒΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩАБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯЂЄЅІЈЉЊЋЏҐӘҒҚҢӨҰҮҺԱԲԳԴԵԶԷԸԹԺԻԼԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՍՎՏՐՑՒՓՔՕՖ',
        'æøþðłđħŋœαβγδεζηθικλμνξοπρστυφχψωабвгдежзиклмнопрстуфхцчшщъыьэюяђєѕіјљњћџґәғқңөұүһաբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆ'
    ), NFC);
END
$function$;

COMMENT ON FUNCTION ltm_lower(text) IS
'A text in lower case and NFC, the same whatever the locale of the database: what texts are '
'compared as.';

CREATE FUNCTION ltm_text_forms(content text, lowered text, asked boolean)
RETURNS text[]
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
DECLARE
    -- A vector holds 1 MB, of which scripts of many bytes need more.
    most CONSTANT integer := CASE
        WHEN octet_length(left(content, 200000)) <= 1.25 * char_length(left(content, 200000))
            THEN 200000
        ELSE 60000
    END;
    invisible text;
    not_signs text;
    punctuation text;
    marks text;
    unspaced text;
    not_single text;
    long_word text;
    grouping text;
    written text := left(content, most);  -- the words, in ASCII's letter case
    words text := left(lowered, most);
    special text;             -- what is more than plain words, of which further forms are made
    beyond text;              -- the words beyond ASCII
    other text;
    forms text := '';
    names text := '';
    signs text := '';
    is_wide boolean := octet_length(content) <> char_length(content);
BEGIN
    IF content = '' THEN
        RETURN ARRAY['', '', '', ''];
    END IF;
    IF is_wide THEN
        -- Most such texts hold only a typographer's quotes, dashes and dots.
        written := translate(written, U&'\00A0\2018\2019\02BC\201C\201D\2010\2011\2013\2014\2022\2026', $$ '''""--  . $$);
        is_wide := octet_length(written) <> char_length(written);
        IF is_wide THEN
            invisible := U&'[\00AD\034F\061C\0640\115F\1160\17B4\17B5\180B-\180F\200B-\200F\202A-\202E\2060-\206F\FE00-\FE0F\FEFF\FFF9-\FFFB\+01F3FB-\+01F3FF\+0E0000-\+0E0FFF]+';
            not_signs := U&'[^\2190-\21FF\2300-\23FF\2460-\2BFF\3030\303D\+01F000-\+01FAFF]+';
            punctuation := U&'[\0080-\00A9\00AB-\00B1\00B4\00B6-\00B8\00BB\00BF\00D7\00F7\055A-\055F\0589\058A\05BE\05C0\05C3\05F3\05F4\060C\061B\061F\066A-\066C\06D4\0964\0965\0E2F\0E3F\0E5A\0E5B\2000-\206F\20A0-\20CF\2100-\2BFF\3000-\3004\3008-\3020\3030\303D\30A0\30FB\A000\FE10-\FE6F\FF00-\FF0F\FFFC\FFFD\+01F000-\+01FAFF]+';
            marks := U&'(?<!\0438)[\0300-\036F]+|[\0591-\05BD\05BF\05C1\05C2\05C7\064B-\065F\0670]+';
            unspaced := U&'[\0E00-\0EFF\1000-\109F\1780-\17FF\3005-\3007\3040-\30FF\3400-\4DBF\4E00-\9FFF\AC00-\D7A3\F900-\FAFF\+020000-\+03FFFF]';
            not_single := U&'[^\3400-\4DBF\4E00-\9FFF\AC00-\D7A3\+020000-\+03FFFF]+';
            written := regexp_replace(normalize(translate(written, U&'\2122\2120\00A8\00B4\00B8', '     '), NFKC), invisible, '', 'g');
            words := regexp_replace(normalize(translate(
                translate(words, U&'\00A0\2018\2019\02BC\201C\201D\2010\2011\2013\2014\2022\2026', $$ '''""--  . $$),
                U&'\2122\2120\00A8\00B4\00B8', '     '
            ), NFKC), invisible, '', 'g');
            signs := regexp_replace(written, not_signs, '', 'g');
        ELSE
            words := lower(written COLLATE "C");
        END IF;
    END IF;

    -- Capitalised words may be names even where they are stop words; in a query only inside a sentence.
    IF written ~ '[A-Z]' THEN
        IF asked THEN
            SELECT coalesce(string_agg(r.name[1], ' '), '') INTO names
            FROM regexp_matches(written, $$[^.!?\s] ([A-Z][A-Za-z]+)(?![A-Za-z'])$$, 'g') AS r (name);
        ELSE
            names := regexp_replace(written, $$[^A-Z]*(?:[A-Z][A-Za-z]*'[A-Za-z]+|([A-Z][A-Za-z]+)|[A-Z]|$)$$, ' \1', 'g');
        END IF;
    END IF;

    special := left(regexp_replace(written, '(^|\s)(?:[A-Za-z]?[a-z]*[,.;:!?)]?\s+)+', '\1', 'g'), 50000);
    -- The parts of what has capitals or digits inside.
    IF special ~ '[A-Za-z][A-Z]|[0-9][A-Za-z]|[A-Za-z][A-Za-z][0-9]' THEN
        forms := regexp_replace(
            regexp_replace(special, '([a-z])([A-Z])|([A-Z])([A-Z][a-z])', '\1\3 \2\4', 'g'),
            '([A-Za-z][A-Za-z])([0-9])|([0-9])([A-Za-z])', '\1\3 \2\4', 'g'
        );
    END IF;
    -- Amounts are one number, whatever groups their digits.
    IF words ~ $$[0-9][,']$$ THEN
        grouping := $$([0-9])[,'](?=[0-9]{3}(?![0-9]))$$;
        words := regexp_replace(words, grouping, '\1', 'g');
        special := regexp_replace(special, grouping, '\1', 'g');
    END IF;
    -- Compounds joined, the signs of programming languages spoken.
    special := lower(special COLLATE "C");
    IF special ~ $$[0-9][)]|[a-z0-9][-.&_'][a-z0-9]|[a-z][+#]|\.net$$ THEN
        other := regexp_replace(special, $$([a-z0-9])[-.&_](?=[a-z0-9])|([0-9])\) ?(?=[0-9])$$, '\1\2', 'g');
        other := regexp_replace(other, $$\m([a-z])'([a-z]{3})$$, '\1\2', 'g');
        other := regexp_replace(replace(other, '++', 'plusplus'), '\m([a-z])#', '\1sharp', 'g');
        other := regexp_replace(other, '(?:^|([^a-z0-9]))\.net\M', '\1dotnet', 'g');
        IF other <> special THEN
            forms := forms || ' ' || other;
        END IF;
    END IF;
    IF is_wide THEN
        words := regexp_replace(words, punctuation, ' ', 'g');
        -- Without their marks, and as typists without those letters write them.
        beyond := left(regexp_replace(words, '(^| )[\x01-\x7f]+(?= |$)', '\1', 'g'), 50000);
        other := translate(normalize(regexp_replace(normalize(beyond, NFD), marks, '', 'g'), NFC), 'øłđðħıŧςىة', 'olddhitσيه');
        other := replace(replace(replace(replace(other, 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th');
        IF other ~ '[ال]ل' THEN
            other := regexp_replace(other, '(?<![ء-ي])(?:[وف]?[بك]?ال|لل)(?=[ء-ي]{2})', '', 'g');
        END IF;
        IF other <> beyond THEN
            forms := forms || ' ' || other;
        END IF;
        IF beyond ~ '[äöüøå]' THEN
            forms := forms || ' ' || replace(replace(replace(replace(replace(replace(
                beyond, 'ä', 'ae'), 'ö', 'oe'), 'ü', 'ue'), 'ø', 'oe'), 'å', 'aa'), 'ß', 'ss');
        END IF;
        -- Of scripts without spaces every two neighbours are a word; in a memory each Han or Hangul sign too.
        IF words ~ unspaced THEN
            words := regexp_replace(words, '(' || unspaced || '+)', ' \1 ', 'g');
            IF NOT asked THEN
                signs := signs || regexp_replace(words, not_single, '', 'g');
            END IF;
            words := regexp_replace(words, '(?<=' || unspaced || ')(' || unspaced || ')(?=' || unspaced || ')', '\1 \1', 'g');
            forms := regexp_replace(forms, unspaced || '+', ' ', 'g');
        END IF;
        forms := regexp_replace(forms, punctuation, ' ', 'g');
    END IF;
    IF words ~ $$[^ ][-./:_][^ ]|[-+.][0-9]|[<&\\@/~]$$ THEN
        words := replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            words, '.', ' '), '/', ' '), '-', ' '), '_', ' '), ':', ' '), '@', ' '), '&', ' '), '<', ' '), '+', ' '), '~', ' '), '\', ' ');
    END IF;
    IF forms <> '' THEN
        forms := replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(replace(
            lower(forms COLLATE "C"), '.', ' '), '/', ' '), '-', ' '), '_', ' '), ':', ' '), '@', ' '), '&', ' '), '<', ' '), '+', ' '), '~', ' '), '\', ' ');
    END IF;
    -- The index holds no key of more than 2 kB.
    IF octet_length(words) > 200 THEN
        long_word := '[^\x01-/:-@[-^`{-\x7f]{200}';
        IF words ~ long_word THEN
            words := regexp_replace(
                words, '(' || long_word || ')[^\x01-/:-@[-^`{-\x7f]+', '\1', 'g'
            );
        END IF;
    END IF;
    RETURN ARRAY[words, forms, lower(names COLLATE "C"), signs];
END
$function$;

COMMENT ON FUNCTION ltm_text_forms(text, text, boolean) IS
'The words of a text, beside it in lower case by ltm_lower: as they are written, parted at every '
'sign; other forms (joined, parted at capitals, without marks); capitalised ones; single signs.';

CREATE FUNCTION ltm_words_vector(config regconfig, forms text[], asked boolean)
RETURNS tsvector
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
DECLARE
    words tsvector := setweight(to_tsvector(config, forms[1]), 'A');
    others tsvector := '';
    stops text[] := '{}';
BEGIN
    IF forms[2] <> '' THEN
        -- No phrase goes on from the words to their other forms: ltm_text_forms leaves no word like the gap.
        others := setweight(ts_delete(
            to_tsvector(config, 'ａ ａ ａ ａ ａ ａ ' || forms[2]),
            array_append(tsvector_to_array(words), 'ａ')
        ), 'B');
    END IF;
    IF forms[3] <> ''
        AND length(to_tsvector('pg_catalog.simple', forms[3]))
        > length(to_tsvector(config, forms[3])) THEN
        stops := ARRAY(
            SELECT s.lexeme
            FROM unnest(to_tsvector('pg_catalog.simple', forms[3])) AS s
            WHERE to_tsvector(config, s.lexeme) = ''
        );
    END IF;
    IF asked AND words = '' AND others = '' AND forms[4] = '' THEN
        stops := tsvector_to_array(to_tsvector('pg_catalog.simple', forms[1]));
    END IF;
    IF forms[4] <> '' THEN
        stops := stops || string_to_array(forms[4], NULL);
    END IF;
    RETURN words || others || array_to_tsvector(stops);
END
$function$;

COMMENT ON FUNCTION ltm_words_vector(regconfig, text[], boolean) IS
'The words of a text, by its ltm_text_forms: those written (weight A), other forms of them (B), '
'and without a position names that are stop words and single signs. A query of stop words alone '
'has those.';

CREATE FUNCTION ltm_labels(tags jsonb, category text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $function$
DECLARE
    labels text := coalesce(tags::text, '');
BEGIN
    IF strpos(labels, '\') > 0 AND jsonb_typeof(tags) = 'array' THEN
        labels := array_to_string(ARRAY(SELECT jsonb_array_elements_text(tags)), E' \x02 ');
    ELSE
        labels := replace(btrim(labels, '[]"'), '", "', E' \x02 ');
    END IF;
    RETURN labels || coalesce(E' \x02 ' || category, '');
END
$function$;

COMMENT ON FUNCTION ltm_labels(jsonb, text) IS
'The tags and the category of a memory as one text, a sign between them that no phrase crosses.';

CREATE FUNCTION ltm_speaker(created_by text)
RETURNS text
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $function$
BEGIN
    RETURN CASE
        WHEN lower(created_by COLLATE "C") IN ('system', 'user', 'assistant') THEN ''
        ELSE coalesce(created_by, '')
    END;
END
$function$;

COMMENT ON FUNCTION ltm_speaker(text) IS
'Who wrote a memory, where that is a name that a query may mention.';

CREATE FUNCTION ltm_labels_vector(config regconfig, labels text[], speaker text[])
RETURNS tsvector
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
DECLARE
    vector tsvector := '';
BEGIN
    IF labels[1] <> '' THEN
        vector := ts_delete(
            to_tsvector(config, replace(E' \x02 ' || labels[1] || E' \x02 ' || labels[2], E'\x02', 'ａ ａ ａ ａ ａ ａ')),
            'ａ'
        ) || array_to_tsvector(tsvector_to_array(to_tsvector('pg_catalog.simple', labels[3])) || string_to_array(labels[4], NULL));
    END IF;
    IF speaker[1] <> '' THEN
        vector := vector || array_to_tsvector(ARRAY(
            SELECT '@' || u.lexeme
            FROM unnest(tsvector_to_array(to_tsvector(config, speaker[1] || ' ' || speaker[2]))) AS u (lexeme)
        ));
    END IF;
    RETURN vector;
END
$function$;

COMMENT ON FUNCTION ltm_labels_vector(regconfig, text[], text[]) IS
'The words of tags and category (weight D), and those of who wrote the memory, each with @ in '
'front.';

CREATE FUNCTION ltm_search_terms(user_id bigint, search_vector tsvector)
RETURNS tsvector
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
BEGIN
    RETURN CASE
        WHEN search_vector = '' THEN search_vector
        ELSE array_to_tsvector(string_to_array(
            user_id || ':' || array_to_string(
                tsvector_to_array(search_vector), E'\x01' || user_id || ':'
            ),
            E'\x01'
        ))
    END;
END
$function$;

COMMENT ON FUNCTION ltm_search_terms(bigint, tsvector) IS
'The words of a memory, each with its user in front, as the index of words holds them.';

CREATE FUNCTION ltm_any_term(user_id bigint, lexemes text[])
RETURNS tsquery
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN replace(
    ltm_search_terms(user_id, array_to_tsvector(lexemes))::text, ''' ''', ''' | '''
)::tsquery;

COMMENT ON FUNCTION ltm_any_term(bigint, text[]) IS
'Asks ltm_search_terms for any of some words; none finds nothing.';

CREATE FUNCTION ltm_is_near(asked text, word text)
RETURNS boolean
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $function$
DECLARE
    place integer := 4;
BEGIN
    IF starts_with(word, asked) THEN
        RETURN TRUE;
    ELSIF abs(length(asked) - length(word)) > 1 OR left(asked, 3) <> left(word, 3) THEN
        RETURN FALSE;
    END IF;
    WHILE substr(asked, place, 1) = substr(word, place, 1) AND place < length(asked) LOOP
        place := place + 1;
    END LOOP;
    RETURN substr(word, place + 1) IN (substr(asked, place), substr(asked, place + 1))
        OR substr(word, place) IN (
            substr(asked, place + 1),
            substr(asked, place + 1, 1) || substr(asked, place, 1) || substr(asked, place + 2)
        );
END
$function$;

COMMENT ON FUNCTION ltm_is_near(text, text) IS
'Whether a word begins with another one, or differs from it behind the third letter by one letter '
'too many, too few, wrong, or by two that changed places.';

CREATE FUNCTION ltm_phrase_queries(config regconfig, phrases text[])
RETURNS tsquery[]
LANGUAGE plpgsql
IMMUTABLE
STRICT
PARALLEL SAFE
AS $function$
DECLARE
    queries tsquery[] := '{}';
    phrase text;
    part text;
    parts text[];
    forms text[];
    word tsquery;
    words tsquery;
    other text;
BEGIN
    FOREACH phrase IN ARRAY phrases LOOP
        words := '';
        parts := regexp_split_to_array(btrim(phrase), '\s+');
        FOREACH part IN ARRAY parts LOOP
            forms := ltm_text_forms(part, ltm_lower(part), TRUE);
            word := phraseto_tsquery(config, forms[1]);
            -- Of a word that is parted at capitals or digits the parts alone are too few.
            IF part !~ '[a-z][A-Z]|[0-9][A-Za-z]|[A-Za-z][A-Za-z][0-9]' THEN
                FOR other IN
                    SELECT u.lexeme FROM unnest(ltm_words_vector(config, forms, FALSE)) AS u
                    WHERE u.weights IS NULL OR u.weights[1] = 'B'
                LOOP
                    word := word || array_to_tsvector(ARRAY[other])::text::tsquery;
                END LOOP;
            END IF;
            words := words && word;
        END LOOP;
        forms := ltm_text_forms(phrase, ltm_lower(phrase), TRUE);
        queries := queries || words || CASE
            WHEN cardinality(parts) = 1 THEN words ELSE phraseto_tsquery(config, forms[1])
        END;
    END LOOP;
    RETURN queries;
END
$function$;

COMMENT ON FUNCTION ltm_phrase_queries(regconfig, text[]) IS
'Two queries for each phrase: for all of its words, in any of their forms, and for the words one '
'behind the other. What is one word has the same twice.';

CREATE FUNCTION ltm_plain_words(value text)
RETURNS text
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN regexp_replace(
    regexp_replace(
        normalize(  -- noqa: CP02
            ' ' || (ltm_text_forms(value, ltm_lower(value), TRUE))[1] || ' ', NFD  -- noqa: CP02
        ),
        U&'[\0300-\036F]+', '', 'g'
    ),
    '[\x01-/:-@[-`{-\x7f]+', ' ', 'g'
);

COMMENT ON FUNCTION ltm_plain_words(text) IS
'The words of a text without their marks, a space around each.';

CREATE FUNCTION ltm_phrases_held(
    config regconfig, search_vector tsvector, content text, phrases text[], queries tsquery[]
)
RETURNS integer
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
AS $function$
DECLARE
    held integer := 0;
    all_words tsquery;
    in_order tsquery;
    words text[];
BEGIN
    FOR i IN 1 .. cardinality(phrases) LOOP
        all_words := queries[2 * i - 1];
        in_order := queries[2 * i];
        IF numnode(all_words) = 0 THEN
            -- Nothing that is kept as a word: words of every sentence, or signs as they are written.
            held := held + (CASE
                WHEN ltm_plain_words(phrases[i]) <> ' '
                    THEN strpos(ltm_plain_words(content), ltm_plain_words(phrases[i]))
                ELSE strpos(content, btrim(phrases[i]))
            END > 0)::integer;
        ELSIF search_vector @@ in_order THEN
            held := held + 1;
        ELSIF all_words <> in_order AND search_vector @@ all_words THEN
            IF strpos(ltm_plain_words(content), ltm_plain_words(phrases[i])) > 0 THEN
                held := held + 1;
            ELSIF char_length(content) > 500 THEN
                -- A vector knows 256 places of a word, none beyond the 16,383rd.
                words := regexp_split_to_array(
                    (ltm_text_forms(content, ltm_lower(content), FALSE))[1], '\s+'
                );
                FOR start IN 1 .. cardinality(words) BY 150 LOOP
                    IF to_tsvector(config, array_to_string(words[start:start + 249], ' '))
                        @@ in_order THEN
                        held := held + 1;
                        EXIT;
                    END IF;
                END LOOP;
            END IF;
        END IF;
    END LOOP;
    RETURN held;
END
$function$;

COMMENT ON FUNCTION ltm_phrases_held(regconfig, tsvector, text, text[], tsquery[]) IS
'How many of the phrases a memory holds; queries are theirs by ltm_phrase_queries.';

CREATE FUNCTION ltm_as_array(value jsonb)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE '[]' END;

COMMENT ON FUNCTION ltm_as_array(jsonb) IS
'The value itself where it is an array, else an empty one: older programs wrote other things too.';

CREATE FUNCTION ltm_idf(memories bigint, holders bigint)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN ln(1 + (greatest(memories, holders) - holders + 0.5) / (holders + 0.5))::double precision;

COMMENT ON FUNCTION ltm_idf(bigint, bigint) IS
'How rare something is that so many of the memories hold: the inverse document frequency of BM25 '
'(S. Robertson and H. Zaragoza, 2009).';

CREATE FUNCTION ltm_tag_terms(user_id bigint, tags jsonb)
RETURNS text[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
COST 400
RETURN (
    SELECT array_agg(user_id || ':' || ltm_lower(t.tag))
    FROM jsonb_array_elements_text(ltm_as_array(tags)) AS t (tag)
);

COMMENT ON FUNCTION ltm_tag_terms(bigint, jsonb) IS
'The tags of a memory in lower case, each with its user in front, as the index of tags holds them.';

CREATE FUNCTION ltm_user_context(user_id bigint, context_data jsonb)
RETURNS jsonb
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN jsonb_build_object(user_id::text, context_data);

COMMENT ON FUNCTION ltm_user_context(bigint, jsonb) IS
'The context of a memory under its user, as the index of contexts holds it; or its metadata.';

-- Makes the planner keep to custom plans, where only the values tell how many rows a filter passes. It
-- is never called: compared with a column it is never true. It is not inlined, because it is STRICT and
-- its body is not; so a generic plan counts its cost and is never the cheaper one, while a custom plan
-- knows the argument and folds the call away.
-- PARALLEL UNSAFE: a walk in the order of ranks that ends after ten rows is not for workers.
CREATE FUNCTION ltm_prefer_custom_plan(row_limit bigint)
RETURNS bigint
LANGUAGE sql
IMMUTABLE
STRICT
PARALLEL UNSAFE
COST 1000000
RETURN CASE WHEN row_limit IS NULL THEN row_limit END;

COMMENT ON FUNCTION ltm_prefer_custom_plan(bigint) IS
'NULL; compared with a column, it makes the planner look at the values of a statement each time.';

-- The opposite, for a walk in the order of ranks that ends after a few rows: planning it costs more than
-- the walk. No rank is outside of these bounds, which a custom plan sees; a generic plan takes them for a
-- narrow range, expects the few rows that will be read, and is the cheaper one for every user.
CREATE FUNCTION ltm_prefer_generic_plan(importance_rank integer, row_limit bigint)
RETURNS boolean
LANGUAGE sql
IMMUTABLE
PARALLEL UNSAFE
RETURN importance_rank BETWEEN -10000000000 - row_limit AND 10000000000 + row_limit;

COMMENT ON FUNCTION ltm_prefer_generic_plan(integer, bigint) IS
'TRUE; it makes the planner keep one plan for all values of a statement.';
