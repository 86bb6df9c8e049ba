-- Where the log of the primary and of a standby stand: which reads a standby may answer.

-- name: primary_position() :one PrimaryPosition
-- The end of the log, what of it is on disk, its timeline and its server; no row on a standby.
-- Where the next record begins a page, the log ends before the head of that page, as a standby has it.
-- scope: all users
SELECT
    w.written - CASE
        WHEN w.written % pg_size_bytes(current_setting('wal_segment_size')) = 40 THEN 40
        WHEN w.written % current_setting('wal_block_size')::bigint = 24 THEN 24
        ELSE 0
    END AS written,
    w.flushed,
    ('x' || left(pg_walfile_name(w.place), 8))::bit(32)::integer AS timeline,
    s.system_identifier AS server
FROM (
    SELECT
        i.place,
        pg_wal_lsn_diff(i.place, '0/0')::bigint AS written,
        pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint AS flushed
    FROM (
        SELECT pg_current_wal_insert_lsn() AS place
        WHERE NOT pg_is_in_recovery()
    ) AS i
) AS w
CROSS JOIN pg_control_system() AS s;

-- name: standby_position() :one StandbyPosition
-- How far a standby has replayed the log, its timeline and its server; no row where it is none.
-- asks_others: whether its answers are those of standbys of other nodes, whose logs are not this one.
-- scope: all users
SELECT
    pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS replayed,
    c.timeline_id AS timeline,
    s.system_identifier AS server,
    coalesce(current_setting('citus.use_secondary_nodes', TRUE) = 'always', FALSE) AS asks_others
FROM pg_control_checkpoint() AS c
CROSS JOIN pg_control_system() AS s
WHERE pg_is_in_recovery();
