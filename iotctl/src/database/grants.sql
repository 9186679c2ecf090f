-- What each service may do, and nothing else. Safe to run again.
REVOKE ALL ON DATABASE fieldline FROM PUBLIC;
GRANT CONNECT ON DATABASE fieldline TO command_svc, device_svc, threshold_svc, cdc_svc, query_svc;

-- Every service checks the schema's version at its start.
GRANT SELECT ON refinery_schema_history TO command_svc, device_svc, threshold_svc, cdc_svc, query_svc;
GRANT SELECT ON storage_contract TO command_svc, query_svc;

-- One writer per table.
GRANT SELECT, INSERT, UPDATE, DELETE ON devices TO device_svc;
GRANT SELECT, INSERT, UPDATE, DELETE ON sensor_thresholds, silences, alert_acknowledgements TO threshold_svc;
GRANT SELECT, INSERT, DELETE ON sensor_threshold_versions TO threshold_svc;
-- Which thresholds meet at one sensor depends on its zone and type.
GRANT SELECT ON devices TO threshold_svc;
-- A backtest evaluates what is stored.
GRANT SELECT ON readings_ingestion TO threshold_svc;
GRANT USAGE ON SEQUENCE devices_version TO device_svc;
GRANT USAGE ON SEQUENCE sensor_thresholds_version, silences_version TO threshold_svc;
-- An insert that skips a row which is there must be able to see it.
GRANT SELECT, INSERT ON readings_ingestion TO command_svc;
GRANT SELECT, INSERT, UPDATE ON sensor_latest TO command_svc;
GRANT SELECT, INSERT, UPDATE, DELETE ON alert_episodes TO command_svc;

GRANT SELECT ON sensor_reading_hourly_aggregates, sensor_latest, readings_ingestion TO query_svc;
GRANT SELECT ON alert_episodes, alert_acknowledgements, silences TO query_svc;

-- The tables whose snapshot begins a stream of changes; the role itself has REPLICATION.
GRANT SELECT ON devices, sensor_thresholds, silences TO cdc_svc;
