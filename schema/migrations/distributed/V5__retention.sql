-- Raw readings of earlier UTC days are dropped; null when none ever was. The hourly read model keeps its hours.
ALTER TABLE storage_contract ADD COLUMN readings_kept_from timestamptz;

-- The sum of an hour must never overflow: no hour has so many readings of less than this that it could.
ALTER TABLE readings_ingestion ADD CONSTRAINT value_can_be_summed
  CHECK (value > '-1e290'::double precision AND value < '1e290'::double precision);
