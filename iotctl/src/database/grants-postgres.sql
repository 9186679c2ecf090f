-- Plain PostgreSQL keeps the hourly read model as a table, written with the rows, and makes and drops partitions by functions.
GRANT SELECT, INSERT, UPDATE ON sensor_reading_hourly_aggregates TO command_svc;
GRANT EXECUTE ON FUNCTION ensure_reading_partition(date), drop_readings_before(date), remove_empty_partition()
  TO command_svc;
