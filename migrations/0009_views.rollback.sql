DROP VIEW ltm_health;

DROP VIEW ltm_suspected_duplicates;

DROP VIEW ltm_never_recalled;

DROP VIEW ltm_stale_memories;

DROP VIEW ltm_user_analytics;

DROP VIEW ltm_access_daily;

DROP VIEW ltm_tag_usage;

DROP VIEW ltm_context_overview;

DROP VIEW ltm_memory_graph;

DROP VIEW ltm_importance_breakdown;

DROP VIEW ltm_memory_overview;

DROP FUNCTION ltm_context_fields(jsonb);

DROP FUNCTION ltm_tag_names(jsonb);

DROP FUNCTION ltm_summary(text);
