-- What each metric of a sensor may be. One writer: threshold-svc. The alerting service follows it by change data capture.
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
  -- Instead of limits: silence of the metric for as long is the violation.
  no_data_seconds integer CHECK (no_data_seconds BETWEEN 1 AND 31536000),
  severity      text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  -- off: not evaluated; shadow: evaluated and counted, alerts nobody; live: alerts.
  mode          text NOT NULL DEFAULT 'live' CHECK (mode IN ('off', 'shadow', 'live')),
  -- A value is inside again when it is inside by more than this.
  hysteresis    double precision NOT NULL DEFAULT 0 CHECK (hysteresis >= 0),
  -- Outside for as long opens an episode, inside for as long closes it.
  for_seconds   integer NOT NULL DEFAULT 0 CHECK (for_seconds BETWEEN 0 AND 31536000),
  keep_firing_seconds integer NOT NULL DEFAULT 0 CHECK (keep_firing_seconds BETWEEN 0 AND 31536000),
  -- How often an open episode speaks again: every, never, or a number of seconds.
  repeat        text NOT NULL DEFAULT 'every' CHECK (repeat ~ '^(every|never|[1-9][0-9]{0,7})$'),
  -- A reading that is older when it arrives moves no episode.
  alert_age_seconds_max integer CHECK (alert_age_seconds_max BETWEEN 1 AND 31536000),
  description   text NOT NULL DEFAULT '',
  -- Subject of the token that made the last change.
  updated_by    text NOT NULL DEFAULT '',
  version       bigint NOT NULL DEFAULT nextval('sensor_thresholds_version'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CHECK ((sensor_id IS NOT NULL) <> (device_type IS NOT NULL OR zone_id IS NOT NULL)),
  CHECK ((min_value IS NOT NULL OR max_value IS NOT NULL) <> (no_data_seconds IS NOT NULL)),
  CHECK (min_value <= max_value)
);
-- The same limits twice would be two alerts for each reading. Limits are finite, so infinity is free to stand for none,
-- and no name is empty.
CREATE UNIQUE INDEX sensor_thresholds_once ON sensor_thresholds
  (coalesce(sensor_id, ''), coalesce(device_type, ''), coalesce(zone_id, ''), metric, severity,
   coalesce(min_value, '-Infinity'), coalesce(max_value, 'Infinity'), coalesce(no_data_seconds, 0));
-- For listings, which begin with the thresholds of zones and types: all, those of a metric, and the few that are not live.
CREATE INDEX sensor_thresholds_listed ON sensor_thresholds (coalesce(sensor_id, ''), metric, threshold_id);
CREATE INDEX sensor_thresholds_by_metric ON sensor_thresholds (metric, coalesce(sensor_id, ''), threshold_id);
CREATE INDEX sensor_thresholds_not_live ON sensor_thresholds (coalesce(sensor_id, ''), metric, threshold_id)
  WHERE mode <> 'live';
-- For the deletion of a device.
CREATE INDEX sensor_thresholds_of_device ON sensor_thresholds (sensor_id);
ALTER TABLE sensor_thresholds REPLICA IDENTITY FULL;

-- Who made which version of a threshold, and when. One writer: threshold-svc, in the transaction of the change, which also
-- keeps the newest of each threshold alone. A threshold that the database deletes with its device leaves no row here.
CREATE TABLE sensor_threshold_versions (
  threshold_id  uuid NOT NULL,
  version       bigint NOT NULL,
  change        text NOT NULL CHECK (change IN ('created', 'changed', 'deleted')),
  -- Subject of the token.
  changed_by    text NOT NULL,
  changed_at    timestamptz NOT NULL DEFAULT now(),
  -- What it was from then on, as REST answers it; null when it was deleted.
  threshold     jsonb,
  PRIMARY KEY (threshold_id, version)
);
-- For the histories of thresholds that are gone, which are forgotten after a while.
CREATE INDEX sensor_threshold_versions_deleted ON sensor_threshold_versions (changed_at) WHERE change = 'deleted';

-- When alerts are expected and shall wake nobody. One writer: threshold-svc. Every matcher that is set must match.
CREATE SEQUENCE silences_version;
CREATE TABLE silences (
  silence_id    uuid PRIMARY KEY,
  sensor_id     text,
  device_type   text,
  zone_id       text,
  metric        text,
  severity      text CHECK (severity IN ('info', 'warning', 'critical')),
  starts_at     timestamptz NOT NULL,
  ends_at       timestamptz NOT NULL,
  comment       text NOT NULL,
  created_by    text NOT NULL,
  version       bigint NOT NULL DEFAULT nextval('silences_version'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  CHECK (starts_at < ends_at),
  CHECK (coalesce(sensor_id, device_type, zone_id, metric, severity) IS NOT NULL)
);
-- For listings, the one that ends last first.
CREATE INDEX silences_listed ON silences (ends_at, silence_id);
ALTER TABLE silences REPLICA IDENTITY FULL;

-- Who has taken note of an episode. One writer: threshold-svc. The episodes themselves are a read model.
CREATE TABLE alert_acknowledgements (
  episode_id      uuid PRIMARY KEY,
  note            text NOT NULL DEFAULT '',
  -- Subject of the token.
  acknowledged_by text NOT NULL,
  acknowledged_at timestamptz NOT NULL DEFAULT now()
);
-- For those that nobody asks for any more.
CREATE INDEX alert_acknowledgements_old ON alert_acknowledgements (acknowledged_at);

-- What change data capture may see: these tables and nothing else.
CREATE PUBLICATION fieldline_changes FOR TABLE devices, sensor_thresholds, silences;
