-- Each term is the rank of a memory that has this input alone; importance 1 at confidence 0.5 is none.
CREATE OR REPLACE VIEW ltm_importance_breakdown WITH (security_invoker = TRUE) AS
SELECT
    m.user_id,
    m.id,
    ltm_summary(m.content) AS summary,
    p.importance_points,
    p.confidence_points,
    p.access_points,
    p.time_points,
    p.importance_points + p.confidence_points + p.access_points + p.time_points AS points,
    ltm_dynamic_importance(m.importance_rank, now()) AS dynamic_importance
FROM ltm_memories AS m
CROSS JOIN
    LATERAL (
        SELECT
            ltm_importance_rank(m.importance_score, 1, 0, '2000-01-01', NULL)
            / 1440.0::double precision AS importance_points,
            (ltm_importance_rank(1, m.confidence_score, 0, '2000-01-01', NULL) - 1440)
            / 1440.0::double precision AS confidence_points,
            ltm_importance_rank(1, 0.5, m.access_count, '2000-01-01', NULL)
            / 1440.0::double precision AS access_points,
            (
                ltm_importance_rank(1, 0.5, 0, m.last_accessed, m.created_at)
                - ltm_importance_rank(1, 0.5, 0, timezone('utc', now()), NULL)
            )
            / 1440.0::double precision AS time_points
    ) AS p
WHERE ltm_is_current(m.expires_at, now());

COMMENT ON VIEW ltm_importance_breakdown IS
'Why memories are as important as they are: four terms in points, see ltm_importance_rank.';
COMMENT ON COLUMN ltm_importance_breakdown.user_id IS 'Whose memory it is.';
COMMENT ON COLUMN ltm_importance_breakdown.id IS 'Number of the memory.';
COMMENT ON COLUMN ltm_importance_breakdown.summary IS 'The first 80 characters of its content.';
COMMENT ON COLUMN ltm_importance_breakdown.importance_points IS
'The importance_score as given, 1 to 10.';
COMMENT ON COLUMN ltm_importance_breakdown.confidence_points IS
'Up to 2 points less for lack of confidence.';
COMMENT ON COLUMN ltm_importance_breakdown.access_points IS
'Half a point more at the 1st, 3rd, 7th and 15th access.';
COMMENT ON COLUMN ltm_importance_breakdown.time_points IS
'A point less for every 180 days since the last access, else since it was created.';
COMMENT ON COLUMN ltm_importance_breakdown.points IS 'The sum of the four.';
COMMENT ON COLUMN ltm_importance_breakdown.dynamic_importance IS
'Importance now: the points, but not below 0 nor above 10.';
