-- Dialect `timescale`: the hourly read model as a continuous aggregate, with a real-time tail for the open hours.
-- WITH NO DATA, because a migration runs in a transaction; the policy fills it.
CREATE MATERIALIZED VIEW sensor_reading_hourly_aggregates
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket(INTERVAL '1 hour', reading_at) AS bucket,
       sensor_id, metric, device_type, zone_id,
       avg(value) AS avg, min(value) AS min, max(value) AS max, count(*) AS count, sum(value) AS sum
FROM readings_ingestion
GROUP BY 1, 2, 3, 4, 5
WITH NO DATA;

-- A week of late data is refreshed; older corrections are refreshed by hand.
SELECT add_continuous_aggregate_policy('sensor_reading_hourly_aggregates',
  start_offset => INTERVAL '7 days', end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '10 minutes');
