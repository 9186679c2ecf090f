//! The hourly read model, compared with the raw rows by the database itself.
//!
//! One statement for each UTC day, so each day is seen at one moment and memory is bounded by the server's
//! own limits; findings are streamed. `count`, `min` and `max` must be equal. A sum of floats depends on the
//! order of adding, so `sum` and `avg` may differ by [`TOLERANCE`] of the sum of the absolute values.

use super::{Findings, Window, kept_from};
use crate::progress::Progress;
use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use schema::Timestamp;
use serde_json::{Value, json};
use std::pin::pin;
use time::{Duration, OffsetDateTime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

/// Relative difference of two sums that is no fault: rounding moves a sum of n values by at most n × 1.1e-16
/// of the sum of their absolute values, so this covers ten million readings in an hour, and any real fault is
/// larger.
const TOLERANCE: f64 = 1e-9;

const DIFFERING: &str = "
    WITH raw AS (
      SELECT date_trunc('hour', reading_at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS bucket,
             sensor_id, metric, device_type, zone_id,
             count(*) AS count, min(value) AS min, max(value) AS max, sum(value) AS sum, sum(abs(value)) AS magnitude
      FROM readings_ingestion
      WHERE reading_at >= $1 AND reading_at < $2
      GROUP BY 1, 2, 3, 4, 5
    ), hours AS (
      SELECT bucket, sensor_id, metric, device_type, zone_id, count, min, max, sum, avg
      FROM sensor_reading_hourly_aggregates
      WHERE bucket >= $1 AND bucket < $2
    )
    SELECT bucket, sensor_id, metric, device_type, zone_id,
           raw.count, raw.min, raw.max, raw.sum, raw.sum / raw.count::float8,
           hours.count, hours.min, hours.max, hours.sum, hours.avg
    FROM raw FULL JOIN hours USING (bucket, sensor_id, metric, device_type, zone_id)
    WHERE raw.count IS DISTINCT FROM hours.count
       OR raw.min IS DISTINCT FROM hours.min
       OR raw.max IS DISTINCT FROM hours.max
       OR abs(raw.sum - hours.sum) > $3 * raw.magnitude
       OR abs(raw.sum / raw.count::float8 - hours.avg) > $3 * raw.magnitude / raw.count::float8
    ORDER BY bucket, sensor_id, metric, device_type, zone_id";

const COMPARED: &str =
    "SELECT count(*) FROM sensor_reading_hourly_aggregates WHERE bucket >= $1 AND bucket < $2";

/// Days that retention dropped and their hours, which must still count as many readings. Only TimescaleDB,
/// which keeps the hours itself, can lose them by a refresh over dropped readings, and only its dialect has
/// the table.
const DROPPED: &str = "
    SELECT range_start, range_end, readings, counted
    FROM dropped_readings, LATERAL (
      SELECT coalesce(sum(count), 0)::bigint AS counted FROM sensor_reading_hourly_aggregates
      WHERE bucket >= range_start AND bucket < range_end
    ) AS hours
    WHERE range_start < $2 AND range_end > $1 AND readings <> counted
    ORDER BY range_start";

/// Says what was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hours of the read model in the window.
    pub compared: u64,
    /// Hours that differ, are missing in the read model, or have no raw rows.
    pub differing: u64,
    /// Days without raw rows whose hours count another number of readings than when the rows were dropped.
    pub lost: u64,
}

/// Compares every hour that touches the window and reports each that differs.
///
/// Hours whose raw rows retention has dropped cannot be compared; of them, TimescaleDB recorded how many
/// readings they count.
///
/// # Errors
/// The database refuses or goes away.
pub async fn compare(
    client: &Client,
    window: Window,
    progress: &Progress,
    findings: &Findings,
) -> Result<Outcome> {
    let mut from = OffsetDateTime::from(window.from.hour());
    let to = whole_hours(window.to);
    if let Some(kept) = kept_from(client).await?
        && OffsetDateTime::from(kept) > from
    {
        progress.note(&format!("raw rows are kept from {kept} on; earlier hours cannot be compared"));
        from = kept.into();
    }
    let window = (window.from.hour().into(), to);
    let mut total = Outcome { lost: report_lost(client, window, findings).await?, ..Outcome::default() };
    while from < to {
        let midnight = from.date().midnight().assume_utc();
        let end = midnight.checked_add(Duration::DAY).unwrap_or(to).min(to);
        progress
            .step(&format!("compare hours of {}", from.date()), async {
                let part = compare_part(client, from, end, findings).await?;
                total.compared += part.compared;
                total.differing += part.differing;
                Ok(format!("{} hours, {} differ", part.compared, part.differing))
            })
            .await?;
        from = end;
    }
    Ok(total)
}

async fn compare_part(
    client: &Client,
    from: OffsetDateTime,
    to: OffsetDateTime,
    findings: &Findings,
) -> Result<Outcome> {
    let compared: i64 = client.query_one(COMPARED, &[&from, &to]).await.context("count hours")?.get(0);
    let parameters: [&(dyn ToSql + Sync); 3] = [&from, &to, &TOLERANCE];
    let mut rows =
        pin!(client.query_raw(DIFFERING, parameters).await.context("compare hours with raw rows")?);
    let mut differing = 0;
    while let Some(row) = rows.try_next().await.context("compare hours with raw rows")? {
        differing += 1;
        report(&row, findings);
    }
    Ok(Outcome { compared: u64::try_from(compared).unwrap_or(0), differing, lost: 0 })
}

async fn report_lost(
    client: &Client,
    (from, to): (OffsetDateTime, OffsetDateTime),
    findings: &Findings,
) -> Result<u64> {
    let recorded = client.query_one("SELECT to_regclass('dropped_readings') IS NOT NULL", &[]).await?;
    if !recorded.get::<_, bool>(0) {
        return Ok(0);
    }
    let rows = client.query(DROPPED, &[&from, &to]).await.context("count the readings of dropped days")?;
    for row in &rows {
        let [from, to] = [0, 1].map(|column| Timestamp::from(row.get::<_, OffsetDateTime>(column)));
        let (dropped, counted): (i64, i64) = (row.get(2), row.get(3));
        let line = format!("{from} to {to}: {dropped} readings were dropped, their hours count {counted}");
        findings.found(&line, &json!({"from": from, "to": to, "dropped": dropped, "counted": counted}));
    }
    Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
}

fn report(row: &Row, findings: &Findings) {
    let bucket = Timestamp::from(row.get::<_, OffsetDateTime>(0));
    let [sensor, metric, device_type, zone]: [&str; 4] = [row.get(1), row.get(2), row.get(3), row.get(4)];
    let (raw, stored) = (side(row, 5), side(row, 10));
    let line = format!("{bucket} {sensor} {metric} {device_type} {zone}: raw rows {raw}, stored {stored}");
    let json = json!({
        "bucket": bucket, "sensorId": sensor, "metric": metric, "deviceType": device_type, "zoneId": zone,
        "raw": raw, "stored": stored,
    });
    findings.found(&line, &json);
}

/// Reads one side of the join; null when it has no such hour.
fn side(row: &Row, first: usize) -> Value {
    let Some(count) = row.get::<_, Option<i64>>(first) else { return Value::Null };
    let number = |column: usize| row.get::<_, Option<f64>>(first + column);
    json!({"count": count, "min": number(1), "max": number(2), "sum": number(3), "avg": number(4)})
}

/// Returns the end of the hour that contains the last instant before this one.
fn whole_hours(to: Timestamp) -> OffsetDateTime {
    let hour = OffsetDateTime::from(to.hour());
    if to.hour() == to { hour } else { hour.checked_add(Duration::HOUR).unwrap_or(hour) }
}
