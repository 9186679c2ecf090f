-- The hourly read model, kept exact by an upsert in the transaction that inserts the rows.
-- Buckets are UTC hours of fixed width. One writer: command-svc, which computes `avg`, because not every server of this
-- dialect has generated columns.
CREATE TABLE sensor_reading_hourly_aggregates (
  bucket       timestamptz NOT NULL,
  sensor_id    text NOT NULL,
  metric       text NOT NULL,
  device_type  text NOT NULL,
  zone_id      text NOT NULL,
  avg          double precision NOT NULL,
  min          double precision NOT NULL,
  max          double precision NOT NULL,
  count        bigint NOT NULL,
  sum          double precision NOT NULL,
  -- A device that changes its type or zone within an hour has a row for each.
  PRIMARY KEY (sensor_id, metric, bucket, device_type, zone_id)
);
