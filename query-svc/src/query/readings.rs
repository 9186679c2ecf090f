//! What a caller may ask about single readings. Pure.

use super::aggregates::{SENSORS_MAX, check_range};
use super::{instant_in, texts};
use chassis::http::{Fields, Problem};
use jiff::tz::TimeZone;
use schema::{Timestamp, check_metric, check_sensor_id};
use uuid::Uuid;

/// Rows of a page when the caller names no number, and most of them.
const ROWS_DEFAULT: i64 = 1_000;
const PAGE_ROWS_MAX: i64 = 10_000;
/// Longest range, and its name.
const RANGE_MAX: (i64, &str) = (31 * 24 * 3_600_000_000, "31 days");
/// Most metrics that one question names.
const METRICS_MAX: usize = 100;

/// Sensor, metric, instant and event of a row.
pub(crate) type ReadingKey = (String, String, Timestamp, Uuid);

/// Asks for raw readings, ordered by sensor, metric and instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Readings {
    pub(crate) sensor_ids: Vec<String>,
    pub(crate) metrics: Vec<String>,
    /// The first instant.
    pub(crate) from: Timestamp,
    /// The instant after the last.
    pub(crate) to: Timestamp,
    pub(crate) limit: i64,
    pub(crate) after: Option<ReadingKey>,
}

impl Readings {
    /// Reads and checks a request for a page, or for a stream of up to `stream_rows_max` rows.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(
        mut fields: Fields,
        now: Timestamp,
        stream_rows_max: Option<i64>,
    ) -> Result<Self, Problem> {
        let sensor_ids = texts(&mut fields, "sensorId", SENSORS_MAX, true, check_sensor_id);
        if sensor_ids.is_empty() && !fields.is_bad("sensorId") {
            fields.problem("sensorId", "is required");
        }
        let metrics = texts(&mut fields, "metric", METRICS_MAX, true, check_metric);
        let zone = super::zone(&mut fields);
        let from = instant_in(&mut fields, "from", now, &zone);
        fields.or("to", "now");
        let to = instant_in(&mut fields, "to", now, &zone);
        if let Some((from, to)) = from.zip(to) {
            check_range(&mut fields, from, to, RANGE_MAX);
        }
        fields.refuse("total", "is not counted here");
        let (default, most) = stream_rows_max.map_or((ROWS_DEFAULT, PAGE_ROWS_MAX), |most| (most, most));
        let page = fields.keyset(default, most);
        fields.finish()?;
        let (from, to) =
            from.zip(to).ok_or_else(|| Problem::internal(&"an instant was neither read nor refused"))?;
        Ok(Self { sensor_ids, metrics, from, to, limit: page.limit, after: page.after })
    }
}

/// Asks for one reading. Its sensor and instant lead to it, and its id says which of those it is: an index by
/// id alone would cost every reading that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) event_id: Uuid,
    pub(crate) sensor_id: String,
    pub(crate) reading_at: Timestamp,
}

impl Reading {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(event_id: &str, mut fields: Fields, now: Timestamp) -> Result<Self, Problem> {
        let event_id = event_id.parse().ok();
        if event_id.is_none() {
            fields.problem("eventId", "must be a UUID");
        }
        let sensor_id = fields.text("sensorId", check_sensor_id);
        let reading_at = instant_in(&mut fields, "readingAt", now, &TimeZone::UTC);
        fields.finish()?;
        let (event_id, reading_at) = event_id
            .zip(reading_at)
            .ok_or_else(|| Problem::internal(&"an id or an instant was neither read nor refused"))?;
        Ok(Self { event_id, sensor_id, reading_at })
    }
}
