-- The extension stays: others may use it.

DROP FUNCTION IF EXISTS ltm_embedding_distance;
DROP FUNCTION IF EXISTS ltm_cosine;
DROP FUNCTION IF EXISTS ltm_embedding_numbers;
DROP FUNCTION IF EXISTS ltm_embedding;
DROP TABLE IF EXISTS ltm_embeddings;
