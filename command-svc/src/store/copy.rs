//! A large batch as COPY and one upsert for each read model, in one transaction.
//!
//! Every row of a COPY is new or the whole COPY fails, so the upserts can be computed here, once for each key
//! that the batch touches instead of once for each row.

use super::encode::{COPY, put_header, put_row, put_trailer};
use super::statement::instants;
use crate::columns::Columns;
use crate::rollup::{Hour, hours, latest};
use bytes::{Bytes, BytesMut};
use deadpool_postgres::{Client, Transaction};
use futures::SinkExt as _;
use schema::migrations::Dialect;
use std::pin::pin;
use time::OffsetDateTime;
use tokio_postgres::types::ToSql;

/// One message of a COPY: large enough to cost nothing, small enough for the server to work while the next
/// one is made.
const MESSAGE_BYTES: usize = 64 << 10;
/// Room for the row that passes the end of a message; a longer one makes the buffer grow.
const ROW_BYTES: usize = 1 << 10;

/// Ordered by key, as in the statement, so that two writers lock rows in the same order.
const UPSERT_HOURS: &str = "
    INSERT INTO sensor_reading_hourly_aggregates AS h
      (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum)
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],
                         $6::float8[], $7::float8[], $8::int8[], $9::float8[])
    ON CONFLICT (sensor_id, metric, bucket, device_type, zone_id) DO UPDATE SET
      min = least(h.min, excluded.min), max = greatest(h.max, excluded.max),
      count = h.count + excluded.count, sum = h.sum + excluded.sum";

/// Of two values the later wins, but no reading counts as later than it came: what is dated in the future
/// must not hide the true readings that follow it.
const UPSERT_LATEST: &str = "
    INSERT INTO sensor_latest AS l
      (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::uuid[], $6::timestamptz[],
                         $7::text[], $8::text[])
    ON CONFLICT (sensor_id, metric) DO UPDATE SET
      reading_at = excluded.reading_at, value = excluded.value, event_id = excluded.event_id,
      received_at = excluded.received_at, device_type = excluded.device_type, zone_id = excluded.zone_id
    WHERE (least(excluded.reading_at, excluded.received_at), excluded.reading_at, excluded.event_id)
        > (least(l.reading_at, l.received_at), l.reading_at, l.event_id)";

/// Writes the batch and returns its row count; a duplicate is a unique violation and nothing is written.
pub(super) async fn insert(
    client: &mut Client,
    dialect: Dialect,
    columns: &Columns<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let transaction = client.build_transaction().start().await?;
    let inserted = copy(&transaction, columns).await?;
    if dialect.writes_hours() {
        upsert_hours(&transaction, UPSERT_HOURS, &hours(columns)).await?;
    }
    upsert_latest(&transaction, columns, &latest(columns)).await?;
    transaction.commit().await?;
    Ok(inserted)
}

async fn copy(transaction: &Transaction<'_>, columns: &Columns<'_>) -> Result<u64, tokio_postgres::Error> {
    let statement = transaction.prepare_cached(COPY).await?;
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(&statement).await?);
    let mut message = BytesMut::with_capacity(MESSAGE_BYTES + ROW_BYTES);
    put_header(&mut message);
    for row in 0..columns.row_count() {
        put_row(&mut message, columns, row);
        if message.len() >= MESSAGE_BYTES {
            let next = BytesMut::with_capacity(MESSAGE_BYTES + ROW_BYTES);
            sink.send(std::mem::replace(&mut message, next).freeze()).await?;
        }
    }
    put_trailer(&mut message);
    sink.send(message.freeze()).await?;
    sink.finish().await
}

/// Adds the hours by a statement that takes their columns as arrays.
pub(super) async fn upsert_hours(
    transaction: &Transaction<'_>,
    sql: &str,
    hours: &[Hour<'_>],
) -> Result<(), tokio_postgres::Error> {
    let statement = transaction.prepare_cached(sql).await?;
    let bucket: Vec<OffsetDateTime> = hours.iter().map(|hour| hour.bucket.into()).collect();
    let min: Vec<f64> = hours.iter().map(|hour| hour.min).collect();
    let max: Vec<f64> = hours.iter().map(|hour| hour.max).collect();
    let count: Vec<i64> = hours.iter().map(|hour| hour.count).collect();
    let sum: Vec<f64> = hours.iter().map(|hour| hour.sum).collect();
    let (sensor_id, metric) = (texts(hours, |hour| hour.sensor_id), texts(hours, |hour| hour.metric));
    let (device_type, zone_id) = (texts(hours, |hour| hour.device_type), texts(hours, |hour| hour.zone_id));
    let values: [&(dyn ToSql + Sync); 9] =
        [&bucket, &sensor_id, &metric, &device_type, &zone_id, &min, &max, &count, &sum];
    transaction.execute(&statement, &values).await.map(|_| ())
}

fn texts<'a>(hours: &[Hour<'a>], text: impl Fn(&Hour<'a>) -> &'a str) -> Vec<&'a str> {
    hours.iter().map(text).collect()
}

/// Keeps those of the rows that are newer than what is known.
pub(super) async fn upsert_latest(
    transaction: &Transaction<'_>,
    columns: &Columns<'_>,
    rows: &[usize],
) -> Result<(), tokio_postgres::Error> {
    let statement = transaction.prepare_cached(UPSERT_LATEST).await?;
    let (value, event_id) = (pick(&columns.value, rows), pick(&columns.event_id, rows));
    let (sensor_id, metric) = (pick(&columns.sensor_id, rows), pick(&columns.metric, rows));
    let (device_type, zone_id) = (pick(&columns.device_type, rows), pick(&columns.zone_id, rows));
    let reading_at = instants(&pick(&columns.reading_at, rows));
    let received_at = instants(&pick(&columns.received_at, rows));
    let values: [&(dyn ToSql + Sync); 8] =
        [&sensor_id, &metric, &reading_at, &value, &event_id, &received_at, &device_type, &zone_id];
    transaction.execute(&statement, &values).await.map(|_| ())
}

fn pick<T: Copy>(column: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().map(|row| column[*row]).collect()
}
