-- Portable SQL keeps the hourly read model as a table and has no partitions: retention deletes rows.
GRANT SELECT, INSERT, UPDATE ON sensor_reading_hourly_aggregates TO command_svc;
GRANT DELETE ON readings_ingestion TO command_svc;
GRANT UPDATE (readings_kept_from) ON storage_contract TO command_svc;
