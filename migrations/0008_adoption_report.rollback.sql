DROP TABLE ltm_adoption_report;
