-- What was dropped cannot come back.

DO $$
BEGIN
    RAISE EXCEPTION 'it cannot be undone: the original tables are gone';
END
$$;
