CREATE TABLE storage_contract (dialect text PRIMARY KEY);
INSERT INTO storage_contract VALUES ('distributed');

-- Raw readings, one row per metric value. One writer: command-svc.
-- The key drops a redelivered event and keeps two different values of one instant. It begins with the sensor, which is
-- what a sharding server places rows by: a sensor's rows, its latest values and its hours live together.
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
);

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
);
