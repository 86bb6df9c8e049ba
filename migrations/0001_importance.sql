-- Importance as two pure functions: an order that never changes by waiting, and the value at a moment.
-- depends:

CREATE FUNCTION ltm_importance_rank(
    importance_score integer,
    confidence_score double precision,
    access_count integer,
    last_accessed timestamp,
    created_at timestamp
)
RETURNS integer
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN
1440 * least(greatest(coalesce(importance_score, 1), 1), 10)
+ round(2880 * (least(greatest(coalesce(confidence_score, 1), 0), 1) - 1))::integer
+ 720 * CASE
    WHEN access_count >= 15 THEN 4
    WHEN access_count >= 7 THEN 3
    WHEN access_count >= 3 THEN 2
    WHEN access_count >= 1 THEN 1
    ELSE 0
END
+ 8 * (
    least(
        greatest(
            coalesce(last_accessed, created_at, timestamp '2000-01-01'), timestamp '2000-01-01'
        ),
        timestamp '2200-01-01'
    )::date
    - date '2000-01-01'
);

COMMENT ON FUNCTION ltm_importance_rank(
    integer, double precision, integer, timestamp, timestamp
) IS
'Order key of a memory, in 1/1440 point: a point per importance_score, up to 2 points off for '
'lack of confidence, half a point at the 1st, 3rd, 7th and 15th access, and a point per 180 '
'days of last_accessed (else created_at; UTC days since 2000-01-01, up to 2200). NULL, NaN and '
'infinite inputs are clamped.';

CREATE FUNCTION ltm_dynamic_importance(importance_rank integer, as_of timestamptz)
RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN least(
    greatest(
        (
            importance_rank
            - 8 * (
                least(
                    greatest(timezone('utc', as_of), timestamp '2000-01-01'), timestamp '2200-01-01'
                )::date
                - date '2000-01-01'
            )
        ) / 1440.0::double precision,
        0
    ),
    10
);

COMMENT ON FUNCTION ltm_dynamic_importance(integer, timestamptz) IS
'Importance of a memory at the moment as_of, 0 to 10: its importance_rank less a point per 180 '
'days since 2000-01-01. Every memory sinks at the same rate, so the order by importance_rank '
'holds at any moment.';
