//! Raw readings.

use crate::format::{Cell, Format, Writer};
use crate::query::{Reading, ReadingKey, Readings};
use crate::stream::Sheet;
use chassis::http::{Problem, cursor};
use chassis::postgres::Select;
use deadpool_postgres::Pool;
use jiff::tz::TimeZone;
use schema::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

const COLUMNS: [&str; 10] = [
    "sensorId",
    "metric",
    "readingAt",
    "value",
    "unit",
    "receivedAt",
    "deviceType",
    "zoneId",
    "eventId",
    "attributes",
];

/// The series that a sensor has ever sent are those that have a latest value. Each is a range of the key,
/// read in its order, so nothing is sorted and the first row comes at once; the lateral join keeps the order,
/// which the statement could not name without a sort of everything.
const SERIES: &str = "SELECT s.sensor_id, s.metric, r.reading_at, r.value, \
     r.attributes #>> ARRAY['units', s.metric], r.received_at, r.device_type, r.zone_id, r.event_id, \
     r.attributes::text \
     FROM (SELECT sensor_id, metric FROM sensor_latest WHERE sensor_id = ANY($?)";
const IN_ORDER: &str = " ORDER BY sensor_id, metric) s CROSS JOIN LATERAL \
     (SELECT reading_at, value, received_at, device_type, zone_id, event_id, attributes \
      FROM readings_ingestion WHERE sensor_id = s.sensor_id AND metric = s.metric \
      AND reading_at >= $? AND reading_at < $?";

/// The id that none is less than.
static LEAST_ID: Uuid = Uuid::nil();

/// Raw readings on their way to an answer.
pub(crate) struct ReadingSheet {
    query: Readings,
    from: OffsetDateTime,
    to: OffsetDateTime,
    after: Option<OffsetDateTime>,
    rows: i64,
    taken: Option<Row>,
    row: Option<Row>,
}

impl ReadingSheet {
    /// Begins the answer to a question.
    pub(crate) fn new(query: Readings) -> Self {
        let after = query.after.as_ref().map(|(_, _, at, _)| OffsetDateTime::from(*at));
        // One more than there is room for says whether there is a next page.
        let (from, to, rows) = (query.from.into(), query.to.into(), query.limit + 1);
        Self { query, from, to, after, rows, taken: None, row: None }
    }

    /// Begins its writer.
    pub(crate) fn writer(format: Format) -> Writer {
        Writer::new(format, COLUMNS.to_vec(), TimeZone::UTC)
    }

    fn key(&self) -> Option<ReadingKey> {
        let row = self.row.as_ref()?;
        let at: OffsetDateTime = row.try_get(2).ok()?;
        Some((row.try_get(0).ok()?, row.try_get(1).ok()?, at.into(), row.try_get(8).ok()?))
    }
}

impl Sheet for ReadingSheet {
    fn select(&self) -> Select<'_> {
        let mut select = Select::new("").then(SERIES, [(&self.query.sensor_ids, Type::TEXT_ARRAY)]);
        if !self.query.metrics.is_empty() {
            select = select.then(" AND metric = ANY($?)", [(&self.query.metrics, Type::TEXT_ARRAY)]);
        }
        if let Some((sensor_id, metric, _, _)) = &self.query.after {
            let series = [(sensor_id as _, Type::TEXT), (metric as _, Type::TEXT)];
            select = select.then(" AND (sensor_id, metric) >= ($?, $?)", series);
        }
        let range = [(&self.from as _, Type::TIMESTAMPTZ), (&self.to as _, Type::TIMESTAMPTZ)];
        select = select.then(IN_ORDER, range);
        if let (Some((sensor_id, metric, _, event_id)), Some(at)) = (&self.query.after, &self.after) {
            // Of the series in which the page before ended, what comes behind its last row; of those that
            // follow, everything.
            let key = [
                (sensor_id as _, Type::TEXT),
                (metric as _, Type::TEXT),
                (at as _, Type::TIMESTAMPTZ),
                (&self.from as _, Type::TIMESTAMPTZ),
            ];
            select = select.then(
                " AND (reading_at, event_id) >= \
                 (CASE WHEN (s.sensor_id, s.metric) = ($?, $?) THEN $? ELSE $? END, ",
                key,
            );
            let key = [
                (sensor_id as _, Type::TEXT),
                (metric as _, Type::TEXT),
                (event_id as _, Type::UUID),
                (&LEAST_ID as _, Type::UUID),
            ];
            select = select.then("CASE WHEN (s.sensor_id, s.metric) = ($?, $?) THEN $? ELSE $? END)", key);
            let key = [
                (sensor_id as _, Type::TEXT),
                (metric as _, Type::TEXT),
                (at as _, Type::TIMESTAMPTZ),
                (event_id as _, Type::UUID),
            ];
            select =
                select.then(" AND (s.sensor_id, s.metric, reading_at, event_id) <> ($?, $?, $?, $?)", key);
        }
        let rows = [(&self.rows as _, Type::INT8), (&self.rows as _, Type::INT8)];
        select.then(" ORDER BY reading_at, event_id LIMIT $?) r LIMIT $?", rows)
    }

    fn push(&mut self, row: Row) -> Result<(), Problem> {
        self.taken = Some(row);
        Ok(())
    }

    fn close(&mut self) -> bool {
        false
    }

    fn advance(&mut self) -> bool {
        let Some(row) = self.taken.take() else { return false };
        self.row = Some(row);
        true
    }

    fn write(&self, writer: &mut Writer) -> Result<(), Problem> {
        let Some(row) = &self.row else { return Ok(()) };
        let instant =
            |index: usize| row.try_get::<_, OffsetDateTime>(index).map(|at| Cell::Instant(at.into()));
        let text = |index: usize| row.try_get(index).map(Cell::Text);
        writer.row([
            text(0)?,
            text(1)?,
            instant(2)?,
            Cell::Number(row.try_get(3)?),
            row.try_get::<_, Option<_>>(4)?.map_or(Cell::Null, Cell::Text),
            instant(5)?,
            text(6)?,
            text(7)?,
            Cell::Id(row.try_get(8)?),
            row.try_get::<_, Option<_>>(9)?.map_or(Cell::Null, Cell::Json),
        ]);
        Ok(())
    }

    fn cursor(&self) -> String {
        self.key().as_ref().map(cursor).unwrap_or_default()
    }
}

/// A reading, with all its values.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WholeReading {
    event_id: Uuid,
    sensor_id: String,
    reading_at: Timestamp,
    received_at: Timestamp,
    device_type: String,
    zone_id: String,
    values: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Value>,
}

/// A row for each value. The metrics of the sensor make each a look-up by the whole key.
const FIND: &str = "SELECT r.metric, r.value, r.received_at, r.device_type, r.zone_id, r.attributes \
     FROM sensor_latest l JOIN readings_ingestion r ON r.sensor_id = l.sensor_id AND r.metric = l.metric \
     WHERE l.sensor_id = $1 AND r.reading_at = $2 AND r.event_id = $3 ORDER BY r.metric";

/// Reads one reading.
pub(crate) async fn reading(pool: &Pool, query: &Reading) -> Result<WholeReading, Problem> {
    let client = pool.get().await?;
    let at = OffsetDateTime::from(query.reading_at);
    let rows = client
        .query_typed(
            FIND,
            &[(&query.sensor_id, Type::TEXT), (&at, Type::TIMESTAMPTZ), (&query.event_id, Type::UUID)],
        )
        .await?;
    let missing = || Problem::not_found("no such reading of this sensor at this instant");
    let first = rows.first().ok_or_else(missing)?;
    let value =
        |row: &Row| Ok::<_, tokio_postgres::Error>((row.try_get(0)?, row.try_get::<_, f64>(1)?.into()));
    Ok(WholeReading {
        event_id: query.event_id,
        sensor_id: query.sensor_id.clone(),
        reading_at: query.reading_at,
        received_at: first.try_get::<_, OffsetDateTime>(2)?.into(),
        device_type: first.try_get(3)?,
        zone_id: first.try_get(4)?,
        values: rows.iter().map(value).collect::<Result<_, _>>()?,
        attributes: first.try_get(5)?,
    })
}
