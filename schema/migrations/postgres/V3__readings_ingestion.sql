-- Dialect `postgres`: plain PostgreSQL 15 or newer, range partitions by UTC day.
CREATE TABLE storage_contract (dialect text PRIMARY KEY);
INSERT INTO storage_contract VALUES ('postgres');

-- Raw readings, one row per metric value. One writer: command-svc.
-- The key drops a redelivered event and keeps two different values of one instant.
CREATE TABLE readings_ingestion (
  sensor_id    text NOT NULL,
  metric       text NOT NULL,
  reading_at   timestamptz NOT NULL,
  value        double precision NOT NULL,
  event_id     uuid NOT NULL,
  received_at  timestamptz NOT NULL,
  device_type  text NOT NULL,
  zone_id      text NOT NULL,
  attributes   jsonb,
  PRIMARY KEY (sensor_id, metric, reading_at, event_id)
) PARTITION BY RANGE (reading_at);

-- Makes the partition of one UTC day unless it is there. Runs with its owner's rights, so the writer needs no right to
-- create tables. Call it in a transaction of its own: it locks the parent until commit.
CREATE FUNCTION ensure_reading_partition(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  partition_name text := 'readings_ingestion_' || to_char(day, 'YYYYMMDD');
BEGIN
  IF to_regclass(quote_ident(partition_name)) IS NOT NULL THEN
    RETURN;
  END IF;
  -- Two writers may meet here; the second finds the table made.
  PERFORM pg_advisory_xact_lock(hashtextextended('ensure_reading_partition', 0));
  IF to_regclass(quote_ident(partition_name)) IS NULL THEN
    EXECUTE format('CREATE TABLE %I PARTITION OF readings_ingestion FOR VALUES FROM (%L) TO (%L)',
      partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
  END IF;
END $$;
REVOKE EXECUTE ON FUNCTION ensure_reading_partition FROM PUBLIC;

-- The newest value of each metric of each sensor. One writer: command-svc.
CREATE TABLE sensor_latest (
  sensor_id    text NOT NULL,
  metric       text NOT NULL,
  reading_at   timestamptz NOT NULL,
  value        double precision NOT NULL,
  event_id     uuid NOT NULL,
  received_at  timestamptz NOT NULL,
  device_type  text NOT NULL,
  zone_id      text NOT NULL,
  PRIMARY KEY (sensor_id, metric)
) WITH (fillfactor = 70); -- room for updates in place: every batch touches it
