-- Raw readings of earlier UTC days are dropped; null when none ever was. The hourly read model keeps its hours.
ALTER TABLE storage_contract ADD COLUMN readings_kept_from timestamptz;

-- The sum of an hour must never overflow: no hour has so many readings of less than this that it could.
ALTER TABLE readings_ingestion ADD CONSTRAINT value_can_be_summed
  CHECK (value > '-1e290'::double precision AND value < '1e290'::double precision);

-- The functions below keep this path; temporary tables come last, so that nobody's stands in for one of ours.
SELECT set_config('search_path', concat_ws(', ', quote_ident(current_schema()), 'pg_temp'), true);

-- Makes the partition of one UTC day unless it is there, and says whether it did. Runs with its owner's rights, so the
-- writer needs no right to create tables. It attaches a finished table, which holds up neither readers nor writers;
-- CREATE TABLE … PARTITION OF would stop both. Call it in a transaction of its own: it holds a lock until commit.
CREATE FUNCTION ensure_reading_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  partition_name text := 'readings_ingestion_' || to_char(day, 'YYYYMMDD');
BEGIN
  IF to_regclass(quote_ident(partition_name)) IS NULL THEN
    -- Two writers may meet here, and retention; the second finds what the first has done.
    PERFORM pg_advisory_xact_lock(hashtextextended('reading partitions', 0));
  END IF;
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

-- Empties one partition of a UTC day before the given one, the oldest that nobody uses, and returns how many
-- it emptied: 0 when none is left. It needs no lock on the table, which writers that catch up never let go;
-- the constraint refuses the row of a writer that still believes in the day.
CREATE FUNCTION drop_readings_before(day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
DECLARE
  partition_name text;
  used integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('reading partitions', 0));
  UPDATE storage_contract SET readings_kept_from = day::timestamp AT TIME ZONE 'UTC'
  WHERE readings_kept_from IS NULL OR readings_kept_from < day::timestamp AT TIME ZONE 'UTC';
  FOR partition_name IN
    SELECT partition.relname
    FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
    WHERE inhparent = 'readings_ingestion'::regclass AND partition.relname ~ '^readings_ingestion_[0-9]{8}$'
      AND partition.relname < 'readings_ingestion_' || to_char(day, 'YYYYMMDD')
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = partition.oid AND conname = 'past_retention')
    ORDER BY partition.relname
  LOOP
    BEGIN
      EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE NOWAIT', partition_name);
      EXECUTE format('TRUNCATE TABLE %I', partition_name);
      EXECUTE format('ALTER TABLE %I ADD CONSTRAINT past_retention CHECK (false)', partition_name);
      RETURN 1;
    EXCEPTION WHEN lock_not_available THEN
      used := used + 1;
    END;
  END LOOP;
  IF used > 0 THEN
    RAISE EXCEPTION '% partitions past retention are in use', used USING ERRCODE = 'lock_not_available';
  END IF;
  RETURN 0;
END $$;
REVOKE EXECUTE ON FUNCTION drop_readings_before FROM PUBLIC;

-- Removes one partition that was emptied and returns how many went: 0 when none is left, or when writers hold
-- the table. It needs the whole table for a moment; writers wait behind it for a twentieth of a second at
-- most.
CREATE FUNCTION remove_empty_partition() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '50ms' AS $$
DECLARE
  partition_name text;
BEGIN
  SELECT partition.relname INTO partition_name
  FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
    JOIN pg_constraint ON conrelid = partition.oid AND conname = 'past_retention'
  WHERE inhparent = 'readings_ingestion'::regclass
  ORDER BY partition.relname LIMIT 1;
  IF partition_name IS NULL THEN
    RETURN 0;
  END IF;
  EXECUTE format('DROP TABLE %I', partition_name);
  RETURN 1;
EXCEPTION WHEN lock_not_available THEN
  RETURN 0;
END $$;
REVOKE EXECUTE ON FUNCTION remove_empty_partition FROM PUBLIC;
