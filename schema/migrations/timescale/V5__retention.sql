-- Raw readings of earlier UTC days are dropped; null when none ever was. The hourly read model keeps its hours.
ALTER TABLE storage_contract ADD COLUMN readings_kept_from timestamptz;

-- The sum of an hour must never overflow: no hour has so many readings of less than this that it could.
ALTER TABLE readings_ingestion ADD CONSTRAINT value_can_be_summed
  CHECK (value > '-1e290'::double precision AND value < '1e290'::double precision);

-- Compression waits until late data is over: an insert into a compressed chunk has to look for its key among compressed
-- rows. One day more than the refresh policy covers, so that a refresh never reads a chunk while it is compressed.
ALTER TABLE readings_ingestion SET (timescaledb.compress,
  timescaledb.compress_segmentby = 'sensor_id, metric', timescaledb.compress_orderby = 'reading_at, event_id');
SELECT add_compression_policy('readings_ingestion', compress_after => INTERVAL '8 days');

-- Data later than the policy's week is refreshed by this job, up to where raw readings were dropped: a refresh over
-- dropped readings would drop their hours. Only what changed is computed again.
CREATE PROCEDURE refresh_late_readings(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
  kept_from timestamptz;
BEGIN
  SELECT readings_kept_from INTO kept_from FROM storage_contract;
  CALL refresh_continuous_aggregate('sensor_reading_hourly_aggregates', kept_from, now() - INTERVAL '6 days');
END $$;
SELECT add_job('refresh_late_readings', INTERVAL '1 hour');

-- Drops the chunks of UTC days before the given one and returns how many went. Runs with its owner's rights, so the
-- writer needs no right to drop. There is no retention policy beside it: RETENTION_DAYS of command-svc is the one setting.
-- It must reach further back than the refresh policy, or the policy would drop the hours, too.
CREATE FUNCTION drop_readings_before(day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
DECLARE
  dropped integer;
BEGIN
  IF day > (now() AT TIME ZONE 'UTC')::date - 8 THEN
    RAISE EXCEPTION 'readings are kept for at least 8 days' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  UPDATE storage_contract SET readings_kept_from = day::timestamp AT TIME ZONE 'UTC'
  WHERE readings_kept_from IS NULL OR readings_kept_from < day::timestamp AT TIME ZONE 'UTC';
  SELECT count(*) INTO dropped
  FROM drop_chunks('readings_ingestion', older_than => day::timestamp AT TIME ZONE 'UTC');
  RETURN dropped;
END $$;
REVOKE EXECUTE ON FUNCTION drop_readings_before FROM PUBLIC;
