//! The read model. A statement is made of texts of ours: what a caller writes travels as a parameter or
//! chooses one.

mod aggregates;
mod episodes;
mod readings;

pub(crate) use aggregates::{AggregateSheet, page as aggregates};
pub(crate) use episodes::{find as episode, list as episodes};
pub(crate) use readings::{ReadingSheet, reading};

use crate::query::{Direction, Hours, Latest, Sort};
use bytes::Bytes;
use chassis::http::{Listing, Problem};
use deadpool_postgres::Pool;
use schema::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// One metric of one sensor in one hour, as one device type in one zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Hour {
    bucket: Timestamp,
    metric: String,
    device_type: String,
    zone_id: String,
    avg: f64,
    min: f64,
    max: f64,
    count: i64,
    sum: f64,
}

/// The newest value of one metric of one sensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LatestValue {
    sensor_id: String,
    metric: String,
    value: f64,
    reading_at: Timestamp,
    received_at: Timestamp,
    device_type: String,
    zone_id: String,
    event_id: Uuid,
}

macro_rules! hours {
    ($columns:literal, $and:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM sensor_reading_hourly_aggregates WHERE sensor_id = $1 AND bucket >= $2 AND bucket < $3",
            $and
        )
    };
}

// With and without a metric are two texts, so that the one with it uses the whole key (sensor_id, metric,
// bucket).
const HOURS_COUNT: &str = hours!("count(*)", "");
const HOURS: &str = hours!(
    "bucket, metric, device_type, zone_id, avg, min, max, count, sum",
    " ORDER BY bucket, metric, device_type, zone_id LIMIT $4 OFFSET $5"
);
const METRIC_HOURS_COUNT: &str = hours!("count(*)", " AND metric = $4");
const METRIC_HOURS: &str = hours!(
    "bucket, metric, device_type, zone_id, avg, min, max, count, sum",
    " AND metric = $4 ORDER BY bucket, device_type, zone_id LIMIT $5 OFFSET $6"
);

fn read_hour(row: &Row) -> Result<Hour, Problem> {
    Ok(Hour {
        bucket: row.try_get::<_, OffsetDateTime>("bucket")?.into(),
        metric: row.try_get("metric")?,
        device_type: row.try_get("device_type")?,
        zone_id: row.try_get("zone_id")?,
        avg: row.try_get("avg")?,
        min: row.try_get("min")?,
        max: row.try_get("max")?,
        count: row.try_get("count")?,
        sum: row.try_get("sum")?,
    })
}

/// A sensor is known from its first reading on: its latest values stay when the hours are asked for long
/// after, and when its device is deleted.
const KNOWN: &str = "SELECT 1 FROM sensor_latest WHERE sensor_id = $1 LIMIT 1";

/// Makes the answer to everybody who names a sensor in a path and is mistaken.
pub(crate) fn unknown_sensor() -> Problem {
    Problem::not_found("no reading of this sensor")
}

/// Reads hours, ordered by bucket, metric, device type and zone, and writes them as JSON.
pub(crate) async fn hours(pool: &Pool, query: &Hours) -> Result<Bytes, Problem> {
    let client = pool.get().await?;
    let (from, to) = (OffsetDateTime::from(query.from), OffsetDateTime::from(query.to));
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&query.sensor_id, &from, &to];
    let (count, list) = match &query.metric {
        Some(metric) => {
            params.push(metric);
            (METRIC_HOURS_COUNT, METRIC_HOURS)
        }
        None => (HOURS_COUNT, HOURS),
    };
    let count_params = params.clone();
    params.extend([&query.page.limit as &(dyn ToSql + Sync), &query.page.offset]);
    let (count, list) = tokio::try_join!(client.prepare_cached(count), client.prepare_cached(list))?;
    let (total, rows) =
        tokio::try_join!(client.query_one(&count, &count_params), client.query(&list, &params))?;
    let resources: Vec<_> = rows.iter().map(read_hour).collect::<Result<_, _>>()?;
    let total = total.try_get(0)?;
    if total == 0 && client.query_typed(KNOWN, &[(&query.sensor_id, Type::TEXT)]).await?.is_empty() {
        return Err(unknown_sensor());
    }
    let listing = Listing::new(resources, total, query.page);
    let body = serde_json::to_vec(&listing).map_err(|error| Problem::internal(&error))?;
    Ok(body.into())
}

macro_rules! latest {
    ($columns:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM sensor_latest WHERE ($1 IS NULL OR sensor_id = ANY($1)) AND ($2 IS NULL OR zone_id = $2) \
             AND ($3 IS NULL OR device_type = $3) AND ($4 IS NULL OR metric = $4)"
        )
    };
}

const LATEST_COUNT: &str = latest!("count(*)");
const LATEST: &str =
    latest!("sensor_id, metric, value, reading_at, received_at, device_type, zone_id, event_id");

/// Writes the statement of a page. Every order ends in the key, so that pages neither repeat nor skip a row.
fn latest_text(sort: Sort, direction: Direction) -> String {
    let way = match direction {
        Direction::Asc => "",
        Direction::Desc => " DESC",
    };
    let column = match sort {
        // The key, read forwards or backwards.
        Sort::SensorId => return format!("{LATEST} ORDER BY sensor_id{way}, metric{way} LIMIT $5 OFFSET $6"),
        Sort::Metric => "metric",
        Sort::Value => "value",
        Sort::ReadingAt => "reading_at",
        Sort::ReceivedAt => "received_at",
        Sort::ZoneId => "zone_id",
        Sort::DeviceType => "device_type",
    };
    format!("{LATEST} ORDER BY {column}{way}, sensor_id, metric LIMIT $5 OFFSET $6")
}

fn read_latest(row: &Row) -> Result<LatestValue, Problem> {
    Ok(LatestValue {
        sensor_id: row.try_get("sensor_id")?,
        metric: row.try_get("metric")?,
        value: row.try_get("value")?,
        reading_at: row.try_get::<_, OffsetDateTime>("reading_at")?.into(),
        received_at: row.try_get::<_, OffsetDateTime>("received_at")?.into(),
        device_type: row.try_get("device_type")?,
        zone_id: row.try_get("zone_id")?,
        event_id: row.try_get("event_id")?,
    })
}

/// Reads the latest values that match. They are not prepared statements: planned for these filters, one that
/// is absent costs nothing, and one sensor is found by its key.
pub(crate) async fn latest(pool: &Pool, query: &Latest) -> Result<Listing<LatestValue>, Problem> {
    let client = pool.get().await?;
    let params: [(&(dyn ToSql + Sync), Type); 6] = [
        (&query.sensor_ids, Type::TEXT_ARRAY),
        (&query.zone_id, Type::TEXT),
        (&query.device_type, Type::TEXT),
        (&query.metric, Type::TEXT),
        (&query.page.limit, Type::INT8),
        (&query.page.offset, Type::INT8),
    ];
    let text = latest_text(query.sort, query.direction);
    let (totals, rows) =
        tokio::try_join!(client.query_typed(LATEST_COUNT, &params[..4]), client.query_typed(&text, &params))?;
    let total = totals.first().map_or(Ok(0), |row| row.try_get(0))?;
    let resources = rows.iter().map(read_latest).collect::<Result<_, _>>()?;
    Ok(Listing::new(resources, total, query.page))
}
