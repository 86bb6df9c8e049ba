-- Where the log of the primary and of a standby stand: which reads a standby may answer.

-- name: primary_position() :one PrimaryPosition
-- The end of the log, what of it is on disk, its timeline and its server; no row on a standby.
-- scope: all users
SELECT
    pg_wal_lsn_diff(w.written, '0/0')::bigint AS written,
    pg_wal_lsn_diff(w.flushed, '0/0')::bigint AS flushed,
    ('x' || left(pg_walfile_name(w.written), 8))::bit(32)::integer AS timeline,
    s.system_identifier AS server
FROM (
    SELECT
        pg_current_wal_insert_lsn() AS written,
        pg_current_wal_flush_lsn() AS flushed
    WHERE NOT pg_is_in_recovery()
) AS w
CROSS JOIN pg_control_system() AS s;

-- name: standby_position() :one StandbyPosition
-- How far a standby has replayed the log, its timeline and its server; no row where it is none.
-- scope: all users
SELECT
    pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS replayed,
    c.timeline_id AS timeline,
    s.system_identifier AS server
FROM pg_control_checkpoint() AS c
CROSS JOIN pg_control_system() AS s
WHERE pg_is_in_recovery();
