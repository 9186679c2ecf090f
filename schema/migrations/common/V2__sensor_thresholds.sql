-- What each metric of a sensor may be. One writer: threshold-svc. The alerting service follows it by change data capture.
CREATE SEQUENCE sensor_thresholds_version;
CREATE TABLE sensor_thresholds (
  threshold_id  uuid PRIMARY KEY,
  -- The thresholds of a device go with it, or they would watch the next device of that name.
  sensor_id     text NOT NULL REFERENCES devices ON DELETE CASCADE,
  metric        text NOT NULL CHECK (metric ~ '^[A-Za-z][A-Za-z0-9_.]{0,63}$'),
  min_value     double precision,
  max_value     double precision,
  severity      text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  enabled       boolean NOT NULL DEFAULT true,
  description   text NOT NULL DEFAULT '',
  version       bigint NOT NULL DEFAULT nextval('sensor_thresholds_version'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CHECK (min_value IS NOT NULL OR max_value IS NOT NULL),
  CHECK (min_value <= max_value)
);
-- The same limits twice would be two alerts for each reading. Limits are finite, so infinity is free to stand for none.
CREATE UNIQUE INDEX sensor_thresholds_once ON sensor_thresholds
  (sensor_id, metric, severity, coalesce(min_value, '-Infinity'), coalesce(max_value, 'Infinity'));
ALTER TABLE sensor_thresholds REPLICA IDENTITY FULL;

-- What change data capture may see: these two tables and nothing else.
CREATE PUBLICATION fieldline_changes FOR TABLE devices, sensor_thresholds;
