-- The log of accesses by month takes the place of the one table: the last part of the step, short.
-- What comes before is in ltm_store/migrate/partitions.py.

LOCK TABLE ltm_memories, ltm_memory_access IN ACCESS EXCLUSIVE MODE;

SELECT setval('ltm_memory_access_next_id_seq', s.last_value, s.is_called)
FROM ltm_memory_access_id_seq AS s;

DROP TABLE ltm_memory_access;
DROP FUNCTION ltm_mirror_access;

ALTER TABLE ltm_memory_access_next RENAME TO ltm_memory_access;
ALTER SEQUENCE ltm_memory_access_next_id_seq RENAME TO ltm_memory_access_id_seq;
ALTER INDEX ltm_memory_access_next_memory_id_idx RENAME TO ltm_memory_access_memory_id_idx;
