-- TimescaleDB keeps the hourly read model itself, and drops chunks by a function.
GRANT EXECUTE ON FUNCTION drop_readings_before(date) TO command_svc;
