//! A batch as one statement, which is one transaction; duplicates are passed over.

use crate::columns::Columns;
use deadpool_postgres::Client;
use schema::Timestamp;
use schema::migrations::Dialect;
use time::OffsetDateTime;

/// Inserts new rows, keeps the newest value of each metric, and returns how many rows were new.
/// A row whose key is stored already, in the table or in the same batch, is passed over.
/// Ordered by key, so that two writers lock rows in the same order.
macro_rules! insert_sql {
    ($hourly:literal) => {
        concat!(
            "WITH inserted AS (
               INSERT INTO readings_ingestion
                 (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
               SELECT i.sensor_id, i.metric, i.reading_at, i.value, i.event_id, i.received_at, i.device_type,
                      i.zone_id, i.attributes::jsonb
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::uuid[], $6::timestamptz[],
                           $7::text[], $8::text[], $9::text[])
                 AS i(sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
               ON CONFLICT DO NOTHING
               RETURNING sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id
             ),",
            $hourly,
            " latest AS (
               INSERT INTO sensor_latest AS l
                 (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id)
               SELECT DISTINCT ON (sensor_id, metric)
                      sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id
               FROM inserted
               ORDER BY sensor_id, metric, least(reading_at, received_at) DESC, reading_at DESC, event_id DESC
               ON CONFLICT (sensor_id, metric) DO UPDATE SET
                 reading_at = excluded.reading_at, value = excluded.value, event_id = excluded.event_id,
                 received_at = excluded.received_at, device_type = excluded.device_type, zone_id = excluded.zone_id
               WHERE (least(excluded.reading_at, excluded.received_at), excluded.reading_at, excluded.event_id)
                   > (least(l.reading_at, l.received_at), l.reading_at, l.event_id)
             )
             SELECT count(*) FROM inserted"
        )
    };
}

/// The hourly read model is kept in the same transaction as the rows, so it is exact at every commit.
const INSERT_POSTGRES: &str = insert_sql!(
    " hourly AS (
       INSERT INTO sensor_reading_hourly_aggregates AS h
         (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum)
       SELECT date_trunc('hour', reading_at, 'UTC'), sensor_id, metric, device_type, zone_id,
              min(value), max(value), count(*), sum(value)
       FROM inserted
       GROUP BY 1, 2, 3, 4, 5
       ORDER BY 2, 3, 1, 4, 5
       ON CONFLICT (sensor_id, metric, bucket, device_type, zone_id) DO UPDATE SET
         min = least(h.min, excluded.min), max = greatest(h.max, excluded.max),
         count = h.count + excluded.count, sum = h.sum + excluded.sum
     ),"
);

/// The continuous aggregate follows the hypertable by itself.
const INSERT_TIMESCALE: &str = insert_sql!("");

/// Inserts by one statement, which is one transaction.
pub(super) async fn insert(
    client: &Client,
    dialect: Dialect,
    columns: &Columns<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let sql = if dialect.writes_hours() { INSERT_POSTGRES } else { INSERT_TIMESCALE };
    let (reading_at, received_at) = (instants(&columns.reading_at), instants(&columns.received_at));
    let statement = client.prepare_cached(sql).await?;
    let row = client
        .query_one(
            &statement,
            &[
                &columns.sensor_id,
                &columns.metric,
                &reading_at,
                &columns.value,
                &columns.event_id,
                &received_at,
                &columns.device_type,
                &columns.zone_id,
                &columns.attributes,
            ],
        )
        .await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Returns instants as the client library takes them.
pub(super) fn instants(column: &[Timestamp]) -> Vec<OffsetDateTime> {
    column.iter().map(|at| OffsetDateTime::from(*at)).collect()
}
