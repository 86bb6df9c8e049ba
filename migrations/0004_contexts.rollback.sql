DROP TABLE ltm_contexts;
