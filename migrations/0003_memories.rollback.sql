DROP TABLE ltm_memories;

DROP TABLE ltm_external_users;
