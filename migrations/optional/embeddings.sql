-- Recall by meaning: the vectors of memories, beside their words.
-- May be run again. The names of the extension are looked up here alone: its schema need not stand in
-- the search_path of those who use the functions below.

DO $$
DECLARE
    home CONSTANT text := current_schema();
    needed CONSTANT integer[] := '{0,7}';
    available text;
    installed text;
    place text;
BEGIN
    IF to_regclass(format('%I.ltm_memories', home)) IS NULL THEN
        RAISE EXCEPTION 'the schema comes first: python -m ltm_store.migrate';
    END IF;
    SELECT e.extversion INTO installed FROM pg_extension AS e WHERE e.extname = 'vector';
    SELECT a.default_version INTO available FROM pg_available_extensions AS a WHERE a.name = 'vector';
    IF installed IS NULL AND available IS NULL THEN
        RAISE EXCEPTION 'the server lacks the extension vector: install pgvector 0.7 or later (Debian: postgresql-%-pgvector, Docker: the image pgvector/pgvector), then run this again',
            current_setting('server_version_num')::integer / 10000;
    END IF;
    IF string_to_array(substring(coalesce(installed, available) FROM '^\d+\.\d+'), '.')::integer[] < needed THEN
        IF string_to_array(substring(available FROM '^\d+\.\d+'), '.')::integer[] >= needed THEN
            RAISE EXCEPTION 'the extension vector is of version %, and 0.7 is needed: ALTER EXTENSION vector UPDATE', installed;
        END IF;
        RAISE EXCEPTION 'the extension vector is of version %, and 0.7 is needed: install a later pgvector', coalesce(installed, available);
    END IF;
    IF installed IS NULL THEN
        BEGIN
            CREATE EXTENSION vector;
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'the role % may not create the extension vector: let a superuser run CREATE EXTENSION vector in this database', current_user;
        END;
    END IF;
    SELECT n.nspname INTO STRICT place
    FROM pg_extension AS e INNER JOIN pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = 'vector';
    IF NOT has_schema_privilege(place, 'USAGE') THEN
        RAISE EXCEPTION 'the role % may not use the schema of the extension vector: GRANT USAGE ON SCHEMA % TO %', current_user, quote_ident(place), quote_ident(current_user);
    END IF;
    PERFORM set_config('search_path', format('%I, %I', home, place), TRUE);
END
$$;

CREATE TABLE IF NOT EXISTS ltm_embeddings (
    user_id bigint NOT NULL,
    memory_id bigint NOT NULL,
    model text COLLATE "C" NOT NULL,
    part integer NOT NULL DEFAULT 0,
    dimensions integer,
    embedding halfvec,
    content_hash bigint,
    embedded_at timestamptz,
    claimed_until timestamptz,
    note text,
    CONSTRAINT ltm_embeddings_pkey PRIMARY KEY (user_id, model, memory_id, part),
    CONSTRAINT ltm_embeddings_memory_id_fkey FOREIGN KEY (user_id, memory_id)
    REFERENCES ltm_memories (user_id, id) ON DELETE CASCADE,
    CONSTRAINT ltm_embeddings_model_within_limit CHECK (octet_length(model) BETWEEN 1 AND 64),
    CONSTRAINT ltm_embeddings_part_not_negative CHECK (part >= 0),
    CONSTRAINT ltm_embeddings_embedding_is_whole CHECK (
        (embedding IS NULL AND dimensions IS NULL)
        OR (
            dimensions BETWEEN 1 AND 4000
            AND vector_dims(embedding) = dimensions
            AND l2_norm(embedding) > 0
            AND content_hash IS NOT NULL
            AND embedded_at IS NOT NULL
            AND note IS NULL
        )
    ),
    CONSTRAINT ltm_embeddings_note_within_limit CHECK (char_length(note) BETWEEN 1 AND 200)
);

-- Compressed or moved out, a vector would be put together again at each search. Citus takes the command
-- only while the table is not distributed.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE
            a.attrelid = 'ltm_embeddings'::regclass
            AND a.attname = 'embedding'
            AND a.attstorage <> 'p'
    ) THEN
        ALTER TABLE ltm_embeddings ALTER COLUMN embedding SET STORAGE PLAIN;
    END IF;
END
$$;

COMMENT ON TABLE ltm_embeddings IS
'What memories mean, as vectors: a row for each model, memory and part of a long content.';
COMMENT ON COLUMN ltm_embeddings.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_embeddings.memory_id IS 'The memory.';
COMMENT ON COLUMN ltm_embeddings.model IS
'The model that made the vector, by its name; vectors of two models have nothing in common.';
COMMENT ON COLUMN ltm_embeddings.part IS 'Place of the part in a long content, from 0.';
COMMENT ON COLUMN ltm_embeddings.dimensions IS 'How many numbers the vector has.';
COMMENT ON COLUMN ltm_embeddings.embedding IS
'The vector; NULL while it is being made, and where a note says why there is none.';
COMMENT ON COLUMN ltm_embeddings.content_hash IS
'The memory''s content_hash when the vector was made: where it differs now, the vector is stale.';
COMMENT ON COLUMN ltm_embeddings.embedded_at IS 'When the vector was written.';
COMMENT ON COLUMN ltm_embeddings.claimed_until IS
'Until then one process is making the vector, and others leave it alone.';
COMMENT ON COLUMN ltm_embeddings.note IS 'Why the memory was set aside and has no vector.';
COMMENT ON INDEX ltm_embeddings_pkey IS 'The vectors of one user and model, by memory.';

CREATE INDEX IF NOT EXISTS ltm_embeddings_memory_id_idx ON ltm_embeddings (user_id, memory_id);
COMMENT ON INDEX ltm_embeddings_memory_id_idx IS 'All vectors of a memory, for its deletion.';

CREATE OR REPLACE FUNCTION ltm_embedding(numbers real[])
RETURNS halfvec
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN numbers::halfvec;

COMMENT ON FUNCTION ltm_embedding(real[]) IS 'Numbers as ltm_embeddings holds them.';

CREATE OR REPLACE FUNCTION ltm_embedding_numbers(embedding halfvec)
RETURNS real[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN embedding::real[];

COMMENT ON FUNCTION ltm_embedding_numbers(halfvec) IS 'The numbers of a vector.';

CREATE OR REPLACE FUNCTION ltm_cosine(embedding halfvec, other halfvec)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN 1 - (embedding <=> other);

COMMENT ON FUNCTION ltm_cosine(halfvec, halfvec) IS
'How near two vectors of equal dimensions are: the cosine of the angle between them, -1 to 1.';

-- Written as the index of a user's vectors has it (see index_user): with the dimensions as a constant,
-- as in a custom plan, the planner finds that index for the order by it.
CREATE OR REPLACE FUNCTION ltm_embedding_distance(
    embedding halfvec, other halfvec, dimensions integer
)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN halfvec(embedding, dimensions, TRUE) <=> other;

COMMENT ON FUNCTION ltm_embedding_distance(halfvec, halfvec, integer) IS
'How far a vector is from another one of so many dimensions: 1 minus their cosine.';
