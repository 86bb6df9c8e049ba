-- The one table takes the place of the log by month; see partition_accesses.sql.

LOCK TABLE ltm_memories, ltm_memory_access IN ACCESS EXCLUSIVE MODE;

SELECT setval('ltm_memory_access_next_id_seq', s.last_value, s.is_called)
FROM ltm_memory_access_id_seq AS s;

DROP TABLE ltm_memory_access;
DROP FUNCTION ltm_mirror_access;

ALTER TABLE ltm_memory_access_next RENAME TO ltm_memory_access;
ALTER SEQUENCE ltm_memory_access_next_id_seq RENAME TO ltm_memory_access_id_seq;
ALTER INDEX ltm_memory_access_next_memory_id_idx RENAME TO ltm_memory_access_memory_id_idx;
ALTER INDEX ltm_memory_access_next_pkey RENAME TO ltm_memory_access_pkey;
COMMENT ON INDEX ltm_memory_access_pkey IS 'One row of one user.';
