-- Raw readings of earlier UTC days are dropped; null when none ever was. The hourly read model keeps its hours.
ALTER TABLE storage_contract ADD COLUMN readings_kept_from timestamptz;

-- The sum of an hour must never overflow: no hour has so many readings of less than this that it could.
ALTER TABLE readings_ingestion ADD CONSTRAINT value_can_be_summed
  CHECK (value > '-1e290'::double precision AND value < '1e290'::double precision);

-- Makes the partition of one UTC day unless it is there, and says whether it did. Runs with its owner's rights, so the
-- writer needs no right to create tables. It attaches a finished table, which holds up neither readers nor writers;
-- CREATE TABLE … PARTITION OF would stop both. Call it in a transaction of its own: it holds a lock until commit.
DROP FUNCTION ensure_reading_partition(date);
CREATE FUNCTION ensure_reading_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  partition_name text := 'readings_ingestion_' || to_char(day, 'YYYYMMDD');
BEGIN
  IF to_regclass(quote_ident(partition_name)) IS NOT NULL THEN
    RETURN false;
  END IF;
  -- Two writers may meet here, and retention; the second finds what the first has done.
  PERFORM pg_advisory_xact_lock(hashtextextended('reading partitions', 0));
  -- What was dropped stays dropped: a redelivered reading could not be told from a new one, and its hour would count it
  -- twice.
  IF EXISTS (SELECT FROM storage_contract WHERE (day + 1)::timestamp AT TIME ZONE 'UTC' <= readings_kept_from) THEN
    RAISE EXCEPTION 'readings of % are past retention', day USING ERRCODE = '22RET';
  END IF;
  IF to_regclass(quote_ident(partition_name)) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE readings_ingestion INCLUDING ALL)', partition_name);
  EXECUTE format('ALTER TABLE readings_ingestion ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
    partition_name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
  RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION ensure_reading_partition FROM PUBLIC;

-- Drops one partition of a UTC day before the given one, the oldest, and returns how many went: 0 when none is left.
-- Dropping needs the whole table for a moment, so it waits a second at most; held-up writers wait no longer than that.
CREATE FUNCTION drop_readings_before(day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
DECLARE
  partition_name text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('reading partitions', 0));
  UPDATE storage_contract SET readings_kept_from = day::timestamp AT TIME ZONE 'UTC'
  WHERE readings_kept_from IS NULL OR readings_kept_from < day::timestamp AT TIME ZONE 'UTC';
  SELECT partition.relname INTO partition_name
  FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
  WHERE inhparent = 'readings_ingestion'::regclass AND partition.relname ~ '^readings_ingestion_[0-9]{8}$'
    AND partition.relname < 'readings_ingestion_' || to_char(day, 'YYYYMMDD')
  ORDER BY partition.relname LIMIT 1;
  IF partition_name IS NULL THEN
    RETURN 0;
  END IF;
  EXECUTE format('DROP TABLE %I', partition_name);
  RETURN 1;
END $$;
REVOKE EXECUTE ON FUNCTION drop_readings_before FROM PUBLIC;
