-- Raw readings of earlier UTC days are dropped; null when none ever was. The hourly read model keeps its hours.
ALTER TABLE storage_contract ADD COLUMN readings_kept_from timestamptz;

-- One row for each chunk that was dropped: as many readings its hours count. `iotctl verify aggregates`
-- compares, because a refresh over dropped readings deletes their hours and tells nobody. One writer:
-- drop_readings_before.
CREATE TABLE dropped_readings (
  range_start  timestamptz PRIMARY KEY,
  range_end    timestamptz NOT NULL,
  readings     bigint NOT NULL
);

-- The sum of an hour must never overflow: no hour has so many readings of less than this that it could.
ALTER TABLE readings_ingestion ADD CONSTRAINT value_can_be_summed
  CHECK (value > '-1e290'::double precision AND value < '1e290'::double precision);

-- Compression waits until late data is over: an insert into a compressed chunk has to look for its key among compressed
-- rows. One day more than the frequent refresh covers, so that it never reads a chunk while it is compressed.
ALTER TABLE readings_ingestion SET (timescaledb.compress,
  timescaledb.compress_segmentby = 'sensor_id, metric', timescaledb.compress_orderby = 'reading_at, event_id');
SELECT add_compression_policy('readings_ingestion', compress_after => INTERVAL '8 days');

-- The last week is refreshed often, what came later once an hour; only what changed is computed again. The
-- two windows meet, and both jobs and drop_readings_before take turns by one lock: of two refreshes that
-- overlap one fails, or in some releases (2.21 to 2.26.2) doubles rows, and a refresh that runs across a drop
-- deletes the hours of what was dropped. No policy of TimescaleDB knows that lock, so there is none. The lock
-- belongs to the session, because a refresh commits.
CREATE PROCEDURE refresh_recent_readings(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_lock(hashtextextended('hours of readings', 0));
  CALL refresh_continuous_aggregate('sensor_reading_hourly_aggregates',
    now() - INTERVAL '7 days', now() - INTERVAL '1 hour');
  PERFORM pg_advisory_unlock(hashtextextended('hours of readings', 0));
END $$;
REVOKE EXECUTE ON PROCEDURE refresh_recent_readings FROM PUBLIC;
SELECT add_job('refresh_recent_readings', INTERVAL '10 minutes');

-- Never reaches back to where raw readings were dropped. The safe way to refresh by hand: CALL
-- refresh_late_readings(0, NULL).
CREATE PROCEDURE refresh_late_readings(job_id integer, config jsonb) LANGUAGE plpgsql AS $$
DECLARE
  kept_from timestamptz;
BEGIN
  PERFORM pg_advisory_lock(hashtextextended('hours of readings', 0));
  COMMIT; -- so that what the lock's last holder did is seen, whatever the isolation
  SELECT readings_kept_from INTO kept_from FROM storage_contract;
  -- One hour more than a week ago, so that the hour in which it lies belongs to one of the two windows.
  CALL refresh_continuous_aggregate('sensor_reading_hourly_aggregates',
    kept_from, now() - INTERVAL '7 days' + INTERVAL '1 hour');
  PERFORM pg_advisory_unlock(hashtextextended('hours of readings', 0));
END $$;
REVOKE EXECUTE ON PROCEDURE refresh_late_readings FROM PUBLIC;
SELECT add_job('refresh_late_readings', INTERVAL '1 hour');

-- The function below keeps this path; temporary tables come last, so that nobody's stands in for one of ours.
SELECT set_config('search_path',
  concat_ws(', ', nullif(quote_ident(current_schema()), 'public'), 'public', 'pg_temp'), true);

-- Drops up to four chunks of UTC days before the given one, the oldest first, and returns how many went: a
-- transaction that dropped years would need more locks than the server has. A chunk that somebody reads is
-- passed over. Runs with its owner's rights, so the writer needs no right to drop. There is no retention
-- policy beside it: RETENTION_DAYS of command-svc is the one setting. It must reach further back than the
-- frequent refresh, or that would drop the hours, too.
CREATE FUNCTION drop_readings_before(day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
DECLARE
  kept_from timestamptz;
  hours text;
  chunk record;
  raw bigint;
  counted bigint;
  dropped integer := 0;
  locked integer := 0;
BEGIN
  IF day > (now() AT TIME ZONE 'UTC')::date - 8 THEN
    RAISE EXCEPTION 'readings are kept for at least 8 days' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- A refresh takes its time, and nobody waits behind this lock but the other refresh.
  PERFORM set_config('lock_timeout', '0', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('hours of readings', 0));
  PERFORM set_config('lock_timeout', '1s', true);
  SELECT coalesce(readings_kept_from, '-infinity') INTO kept_from FROM storage_contract;
  -- The view itself would add up raw readings that no refresh has seen yet.
  SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) INTO hours
  FROM timescaledb_information.continuous_aggregates WHERE view_name = 'sensor_reading_hourly_aggregates';
  FOR chunk IN
    SELECT format('%I.%I', chunk_schema, chunk_name) AS name, range_start, range_end
    FROM timescaledb_information.chunks
    WHERE hypertable_name = 'readings_ingestion' AND range_end <= day::timestamp AT TIME ZONE 'UTC'
    ORDER BY range_start
  LOOP
    EXIT WHEN dropped = 4;
    EXECUTE format('SELECT count(*) FROM %s', chunk.name) INTO raw;
    EXECUTE format('SELECT coalesce(sum(count), 0)::bigint FROM %s WHERE bucket >= $1 AND bucket < $2', hours)
    INTO counted USING chunk.range_start, chunk.range_end;
    -- What lies before `kept_from` was compared once and came too late since then: it is in no hour and never
    -- will be.
    IF raw <> counted AND chunk.range_start >= kept_from THEN
      EXIT WHEN dropped > 0;
      RAISE EXCEPTION 'hours from % on count % of % readings, which are kept until they are refreshed',
        chunk.range_start, counted, raw USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    kept_from := greatest(kept_from, chunk.range_end);
    BEGIN
      EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', chunk.name);
      PERFORM drop_chunks('readings_ingestion',
        older_than => chunk.range_end, newer_than => chunk.range_start);
      INSERT INTO dropped_readings VALUES (chunk.range_start, chunk.range_end, raw) ON CONFLICT DO NOTHING;
      dropped := dropped + 1;
    EXCEPTION WHEN lock_not_available THEN
      locked := locked + 1;
    END;
  END LOOP;
  IF dropped = 0 AND locked > 0 THEN
    RAISE EXCEPTION '% chunks past retention are in use', locked USING ERRCODE = 'lock_not_available';
  END IF;
  IF dropped = 0 THEN
    kept_from := greatest(kept_from, day::timestamp AT TIME ZONE 'UTC');
  END IF;
  UPDATE storage_contract SET readings_kept_from = kept_from
  WHERE readings_kept_from IS DISTINCT FROM kept_from;
  RETURN dropped;
END $$;
REVOKE EXECUTE ON FUNCTION drop_readings_before FROM PUBLIC;
