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
