-- What each metric of a sensor may be. One writer: threshold-svc.
CREATE SEQUENCE sensor_thresholds_version;
CREATE TABLE sensor_thresholds (
  threshold_id  uuid PRIMARY KEY,
  -- The scope: one sensor, or all of a device type, of a zone, or of both.
  -- The thresholds of a device go with it, or they would watch the next device of that name.
  sensor_id     text REFERENCES devices ON DELETE CASCADE,
  device_type   text,
  zone_id       text,
  metric        text NOT NULL CHECK (metric ~ '^[A-Za-z][A-Za-z0-9_.]{0,63}$'),
  min_value     double precision,
  max_value     double precision,
  severity      text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  -- off: not evaluated; shadow: evaluated and counted, alerts nobody; live: alerts.
  mode          text NOT NULL DEFAULT 'live' CHECK (mode IN ('off', 'shadow', 'live')),
  description   text NOT NULL DEFAULT '',
  version       bigint NOT NULL DEFAULT nextval('sensor_thresholds_version'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CHECK ((sensor_id IS NOT NULL) <> (device_type IS NOT NULL OR zone_id IS NOT NULL)),
  CHECK (min_value IS NOT NULL OR max_value IS NOT NULL),
  CHECK (min_value <= max_value)
);
-- The same limits twice would be two alerts for each reading. Limits are finite, so infinity is free to stand for none,
-- and no name is empty.
CREATE UNIQUE INDEX sensor_thresholds_once ON sensor_thresholds
  (coalesce(sensor_id, ''), coalesce(device_type, ''), coalesce(zone_id, ''), metric, severity,
   coalesce(min_value, '-Infinity'), coalesce(max_value, 'Infinity'));
-- For listings, and for the deletion of a device.
CREATE INDEX sensor_thresholds_listed ON sensor_thresholds (sensor_id, metric, threshold_id);
