-- $1 users with $2 memories each, after the user ids from $3 on: no two rows alike, figures from arithmetic.
WITH numbered AS (
    SELECT
        $3::bigint + (n - 1) % $1::bigint AS user_id,
        n,
        ('x' || substr(md5(n::text), 1, 7))::bit(28)::integer AS drawn
    FROM generate_series(1, $1::bigint * $2::bigint) AS n
)

INSERT INTO ltm_memories (
    user_id, content, tags, memory_type, category, importance_score, confidence_score, context_data,
    source_type, source_id, source_position, created_at, last_accessed, access_count,
    memory_metadata
)
SELECT
    n.user_id,
    'memory ' || n.n || ' about ' || md5(n.n::text) || repeat(' and more words', 1 + n.drawn % 20),
    jsonb_build_array('tag' || n.drawn % 50, 'rare' || n.drawn % 5000),
    (ARRAY['preference', 'fact', 'goal', 'habit', 'insight'])[1 + n.drawn % 5],
    'category' || n.drawn % 12,
    1 + n.drawn % 10,
    0.5 + (n.drawn % 50) / 100.0,
    jsonb_build_object(
        'temporal', jsonb_build_object('month', 1 + n.drawn % 12, 'time_of_day', 'morning'),
        'spatial', jsonb_build_object('city', 'city' || n.drawn % 3000)
    ),
    'conversation',
    'conversation' || n.n / 20,
    (n.n % 20)::integer,
    timestamp '2025-01-01' + n.drawn % 600 * interval '1 day',
    CASE WHEN n.drawn % 3 > 0 THEN timestamp '2026-01-01' + n.drawn % 300 * interval '1 day' END,
    CASE WHEN n.drawn % 3 > 0 THEN n.drawn % 17 ELSE 0 END,
    jsonb_build_object('n', n.n)
FROM numbered AS n
