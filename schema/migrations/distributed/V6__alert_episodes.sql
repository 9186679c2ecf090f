-- What the alerts of each episode say together. One writer: command-svc, from iot-alerts.
CREATE TABLE alert_episodes (
  episode_id    uuid PRIMARY KEY,
  threshold_id  uuid NOT NULL,
  threshold_version bigint NOT NULL,
  sensor_id     text NOT NULL,
  display_name  text,
  metric        text NOT NULL,
  unit          text,
  severity      text NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  zone_id       text NOT NULL,
  device_type   text NOT NULL,
  status        text NOT NULL CHECK (status IN ('open', 'closed')),
  -- Why it was opened, and why it was closed.
  reason        text NOT NULL CHECK (reason IN ('above', 'below', 'noData')),
  closing_reason text,
  -- The limit that was met, and where it stood.
  bound_limit   text NOT NULL CHECK (bound_limit IN ('min', 'max', 'noData')),
  bound_value   double precision NOT NULL,
  -- Values of its alerts: of the one that opened it, of the newest, and the extremes of those that violated.
  value_first   double precision,
  value_last    double precision,
  value_min     double precision,
  value_max     double precision,
  opened_at     timestamptz NOT NULL,
  -- Event time of the newest alert, and when the alerting service spoke.
  last_at       timestamptz NOT NULL,
  last_detected_at timestamptz NOT NULL,
  closed_at     timestamptz,
  occurrences   bigint NOT NULL,
  summary       text,
  description   text,
  -- The silence that covered the newest alert.
  silenced_by   uuid,
  last_alert_id uuid NOT NULL,
  CHECK ((status = 'closed') = (closed_at IS NOT NULL))
);
-- Pages, newest first: of all, of what is open, and by what operators look for.
CREATE INDEX alert_episodes_listed ON alert_episodes (opened_at, episode_id);
CREATE INDEX alert_episodes_open ON alert_episodes (opened_at, episode_id) WHERE status = 'open';
CREATE INDEX alert_episodes_by_sensor ON alert_episodes (sensor_id, opened_at, episode_id);
CREATE INDEX alert_episodes_by_zone ON alert_episodes (zone_id, opened_at, episode_id);
CREATE INDEX alert_episodes_by_threshold ON alert_episodes (threshold_id, opened_at, episode_id);
-- For retention.
CREATE INDEX alert_episodes_closed ON alert_episodes (closed_at) WHERE status = 'closed';
