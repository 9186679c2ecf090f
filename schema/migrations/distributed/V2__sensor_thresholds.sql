-- What each metric of a sensor may be. One writer: threshold-svc.
CREATE TABLE sensor_thresholds (
  threshold_id  uuid PRIMARY KEY,
  sensor_id     text NOT NULL CHECK (sensor_id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
  metric        text NOT NULL CHECK (metric ~ '^[A-Za-z][A-Za-z0-9_.]{0,63}$'),
  min_value     double precision,
  max_value     double precision,
  severity      text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  enabled       boolean NOT NULL DEFAULT true,
  description   text NOT NULL DEFAULT '',
  version       bigint NOT NULL DEFAULT 1,
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CHECK (min_value IS NOT NULL OR max_value IS NOT NULL),
  CHECK (min_value <= max_value)
);
CREATE INDEX sensor_thresholds_by_sensor ON sensor_thresholds (sensor_id, metric);
