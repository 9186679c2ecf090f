-- Plain PostgreSQL keeps the hourly read model as a table, written with the rows, and makes partitions by a function.
GRANT SELECT, INSERT, UPDATE ON sensor_reading_hourly_aggregates TO command_svc;
GRANT EXECUTE ON FUNCTION ensure_reading_partition(date) TO command_svc;
