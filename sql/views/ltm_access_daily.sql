CREATE OR REPLACE VIEW ltm_access_daily WITH (security_invoker = TRUE) AS
SELECT
    a.user_id,
    a.access_timestamp::date AS day,
    count(*) AS accesses,
    count(DISTINCT a.memory_id) AS memories,
    count(*) FILTER (WHERE a.access_method = 'direct') AS direct,
    count(*) FILTER (WHERE a.access_method = 'search') AS search,
    count(*) FILTER (WHERE a.access_method = 'related') AS related,
    count(*) FILTER (WHERE a.was_relevant) AS relevant,
    count(*) FILTER (WHERE NOT a.was_relevant) AS irrelevant
FROM ltm_memory_access AS a
INNER JOIN ltm_memories AS m ON a.user_id = m.user_id AND a.memory_id = m.id
WHERE ltm_is_current(m.expires_at, now())
GROUP BY a.user_id, a.access_timestamp::date;

COMMENT ON VIEW ltm_access_daily IS
'The recorded accesses day by day; prune_accesses takes old ones out of the log.';
COMMENT ON COLUMN ltm_access_daily.user_id IS 'Whose memories were accessed.';
COMMENT ON COLUMN ltm_access_daily.day IS 'The day in UTC; NULL: nobody wrote when.';
COMMENT ON COLUMN ltm_access_daily.accesses IS 'How many accesses there were.';
COMMENT ON COLUMN ltm_access_daily.memories IS 'How many different memories were accessed.';
COMMENT ON COLUMN ltm_access_daily.direct IS 'How many accesses were by id.';
COMMENT ON COLUMN ltm_access_daily.search IS 'How many were hits of a search.';
COMMENT ON COLUMN ltm_access_daily.related IS 'How many came through a relationship.';
COMMENT ON COLUMN ltm_access_daily.relevant IS 'How many helped, as somebody said.';
COMMENT ON COLUMN ltm_access_daily.irrelevant IS 'How many did not, as somebody said.';
