-- The device registry. One writer: device-svc. The gateway follows it by change data capture.
-- Versions come from a sequence: one that was deleted and made again never has a version twice.
CREATE SEQUENCE devices_version;
CREATE TABLE devices (
  sensor_id     text PRIMARY KEY CHECK (sensor_id ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$'),
  display_name  text NOT NULL DEFAULT '',
  device_type   text NOT NULL,
  zone_id       text NOT NULL,
  codec         text NOT NULL,
  -- For the codec `binary`: where each metric lies in the payload.
  codec_layout  jsonb,
  status        text NOT NULL CHECK (status IN ('active', 'suspended', 'retired')),
  -- Lower-case hex SHA-256 of a certificate's DER; several while one is being rotated.
  fingerprints  text[] NOT NULL DEFAULT '{}',
  version       bigint NOT NULL DEFAULT nextval('devices_version'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now()
);
-- The whole old row travels with an update or delete, as consumers of the envelope expect.
ALTER TABLE devices REPLICA IDENTITY FULL;
