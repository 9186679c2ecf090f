//! A batch as three plain statements in one transaction, for servers that only speak like PostgreSQL.
//!
//! No COPY, whose atomicity differs between them, and no statement that modifies two tables, which a sharding
//! server cannot route. Duplicates are passed over by the insert, which returns what was new; the rest is
//! computed here.

use super::copy::{upsert_hours, upsert_latest};
use super::statement::instants;
use crate::columns::Columns;
use crate::rollup::{distinct, hours, latest};
use deadpool_postgres::Client;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

const INSERT: &str = "
    INSERT INTO readings_ingestion
      (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
    SELECT i.sensor_id, i.metric, i.reading_at, i.value, i.event_id, i.received_at, i.device_type, i.zone_id,
           i.attributes::jsonb
    FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::uuid[], $6::timestamptz[],
                $7::text[], $8::text[], $9::text[])
      AS i(sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
    ON CONFLICT (sensor_id, metric, reading_at, event_id) DO NOTHING
    RETURNING sensor_id, metric, reading_at, event_id";

/// The table has no generated column, and not every server divides a float by an integer.
const UPSERT_HOURS: &str = "
    INSERT INTO sensor_reading_hourly_aggregates AS h
      (bucket, sensor_id, metric, device_type, zone_id, avg, min, max, count, sum)
    SELECT i.bucket, i.sensor_id, i.metric, i.device_type, i.zone_id, i.sum / i.count::float8, i.min, i.max, i.count, i.sum
    FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],
                $6::float8[], $7::float8[], $8::int8[], $9::float8[])
      AS i(bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum)
    ON CONFLICT (sensor_id, metric, bucket, device_type, zone_id) DO UPDATE SET
      min = least(h.min, excluded.min), max = greatest(h.max, excluded.max),
      count = h.count + excluded.count, sum = h.sum + excluded.sum,
      avg = (h.sum + excluded.sum) / (h.count + excluded.count)::float8";

/// Writes the batch and returns how many rows were new.
pub(super) async fn insert(client: &mut Client, columns: &Columns<'_>) -> Result<u64, tokio_postgres::Error> {
    // A key twice in one statement is an error to some servers.
    let columns = columns.only(&distinct(columns));
    let transaction = client.build_transaction().start().await?;
    let statement = transaction.prepare_cached(INSERT).await?;
    let (reading_at, received_at) = (instants(&columns.reading_at), instants(&columns.received_at));
    let inserted = transaction
        .query(
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
    let new = columns.only(&rows_of(&columns, &inserted));
    if new.row_count() > 0 {
        upsert_hours(&transaction, UPSERT_HOURS, &hours(&new)).await?;
        upsert_latest(&transaction, &new, &latest(&new)).await?;
    }
    transaction.commit().await?;
    Ok(inserted.len() as u64)
}

/// Finds the inserted keys among the columns, in the order of the columns.
fn rows_of(columns: &Columns<'_>, inserted: &[tokio_postgres::Row]) -> Vec<usize> {
    let places: HashMap<_, usize> = (0..columns.row_count()).map(|row| (columns.key(row), row)).collect();
    let mut rows: Vec<usize> = inserted
        .iter()
        .filter_map(|row| {
            let (reading_at, event_id): (OffsetDateTime, Uuid) = (row.get(2), row.get(3));
            places.get(&(row.get(0), row.get(1), reading_at.into(), event_id)).copied()
        })
        .collect();
    rows.sort_unstable();
    rows
}
