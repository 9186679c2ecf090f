-- Dialect `timescale`: the hourly read model as a continuous aggregate, with a real-time tail for the open hours.
-- WITH NO DATA, because a migration runs in a transaction; the jobs of V5 fill it.
CREATE MATERIALIZED VIEW sensor_reading_hourly_aggregates
WITH (timescaledb.continuous, timescaledb.materialized_only = false,
  timescaledb.create_group_indexes = false) AS
SELECT time_bucket(INTERVAL '1 hour', reading_at) AS bucket,
       sensor_id, metric, device_type, zone_id,
       avg(value) AS avg, min(value) AS min, max(value) AS max, count(*) AS count, sum(value) AS sum
FROM readings_ingestion
GROUP BY 1, 2, 3, 4, 5
WITH NO DATA;

-- One index as the queries ask, instead of one for each column beside the bucket.
CREATE INDEX sensor_reading_hours_by_metric ON sensor_reading_hourly_aggregates (sensor_id, metric, bucket);
