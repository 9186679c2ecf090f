//! Aggregates: of hours from the read model, of minutes from raw readings.

use crate::fill::{Bucket, Filler, Number, Series};
use crate::format::{Cell, Format, Writer};
use crate::query::{Aggregates, By, Operation, Width};
use crate::stream::{Ending, Lease, Sheet};
use bytes::Bytes;
use chassis::http::{Problem, cursor};
use chassis::postgres::{Select, Settings};
use deadpool_postgres::Pool;
use schema::Timestamp;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// The columns of what rows are about, and their names in an answer.
const fn labels(by: By) -> (&'static str, &'static [&'static str]) {
    match by {
        By::Sensor => ("sensor_id", &["sensorId"]),
        By::Zone => ("zone_id", &["zoneId"]),
        By::DeviceType => ("device_type", &["deviceType"]),
        By::ZoneAndType => ("zone_id, device_type", &["zoneId", "deviceType"]),
    }
}

/// The text of an operation over hours, or over raw readings.
const fn text(operation: Operation, is_of_raw_readings: bool) -> &'static str {
    match (operation, is_of_raw_readings) {
        (Operation::Avg, false) => ", sum(sum) / sum(count)::float8",
        (Operation::Min, false) => ", min(min)",
        (Operation::Max, false) => ", max(max)",
        (Operation::Count, false) => ", sum(count)::int8",
        (Operation::Sum, false) => ", sum(sum)",
        (Operation::Avg, true) => ", avg(value)",
        (Operation::Min, true) => ", min(value)",
        (Operation::Max, true) => ", max(value)",
        (Operation::Count, true) => ", count(*)",
        (Operation::Sum, true) => ", sum(value)",
        (Operation::First, _) => ", (array_agg(value ORDER BY reading_at, event_id))[1]",
        (Operation::Last, _) => ", (array_agg(value ORDER BY reading_at DESC, event_id DESC))[1]",
        (Operation::P5, _) => ", percentile_cont(0.05) WITHIN GROUP (ORDER BY value)",
        (Operation::P50, _) => ", percentile_cont(0.5) WITHIN GROUP (ORDER BY value)",
        (Operation::P90, _) => ", percentile_cont(0.9) WITHIN GROUP (ORDER BY value)",
        (Operation::P95, _) => ", percentile_cont(0.95) WITHIN GROUP (ORDER BY value)",
        (Operation::P99, _) => ", percentile_cont(0.99) WITHIN GROUP (ORDER BY value)",
    }
}

/// Aggregates on their way to an answer.
pub(crate) struct AggregateSheet {
    query: Aggregates,
    /// Where the buckets begin, unless each is an hour.
    starts: Vec<OffsetDateTime>,
    from: OffsetDateTime,
    to: OffsetDateTime,
    after: OffsetDateTime,
    rows: i64,
    series: Option<Arc<Series>>,
    filler: Filler,
    row: Option<Bucket>,
}

impl AggregateSheet {
    /// Begins the answer to a question, for which it is now.
    pub(crate) fn new(query: Aggregates, now: Timestamp) -> Self {
        let buckets = query.buckets();
        let starts = match query.width {
            Width::Hour => Vec::new(),
            _ => (0..buckets.len()).map(|index| buckets.start(index).into()).collect(),
        };
        let read = query.after.as_ref().and_then(|cursor| cursor.read);
        Self {
            starts,
            from: query.from.into(),
            to: query.to.into(),
            after: read.unwrap_or(query.from).into(),
            // One more than there is room for says whether there is a next page; the last bucket of the page
            // before is read again, because what fills a gap is taken from it.
            rows: query.limit + 2,
            series: None,
            filler: Filler::new(query.fill, buckets, query.after.clone(), now),
            row: None,
            query,
        }
    }

    /// Begins its writer.
    pub(crate) fn writer(&self, format: Format) -> Writer {
        let mut columns = [labels(self.query.by).1, &["metric", "bucket"]].concat();
        columns.extend(self.query.operations.iter().map(|operation| operation.name()));
        Writer::new(format, columns, self.query.time_zone())
    }

    fn read(&mut self, row: &Row) -> Result<Bucket, Problem> {
        let width = labels(self.query.by).1.len();
        let mut is_same = true;
        for index in 0..=width {
            let text: &str = row.try_get(index)?;
            is_same = is_same && self.series.as_ref().is_some_and(|series| series.text(index) == text);
        }
        let series = match &self.series {
            Some(series) if is_same => series.clone(),
            _ => {
                let labels = (0..width).map(|index| row.try_get(index)).collect::<Result<_, _>>()?;
                let series = Arc::new(Series { labels, metric: row.try_get(width)? });
                self.series.insert(series).clone()
            }
        };
        let start = row.try_get::<_, OffsetDateTime>(width + 1)?.into();
        let number = |(index, operation): (usize, &Operation)| match operation {
            Operation::Count => row.try_get(width + 2 + index).map(Number::Count),
            _ => row.try_get(width + 2 + index).map(Number::Value),
        };
        let numbers = self.query.operations.iter().enumerate().map(number).collect::<Result<_, _>>()?;
        Ok(Bucket { series, start, numbers, read: None })
    }

    /// Goes on behind the last row of the page before.
    fn and_after<'a>(&'a self, mut select: Select<'a>, columns: &str, at: &str) -> Select<'a> {
        let Some(cursor) = &self.query.after else { return select };
        select = select.then(" AND (", []).then(columns, []).then(", metric, ", []).then(at, []);
        select = select.then(") >= (", []);
        for label in &cursor.labels {
            select = select.then("$?, ", [(label, Type::TEXT)]);
        }
        select.then("$?, $?)", [(&cursor.metric as _, Type::TEXT), (&self.after as _, Type::TIMESTAMPTZ)])
    }
}

impl Sheet for AggregateSheet {
    fn select(&self) -> Select<'_> {
        let query = &self.query;
        let is_raw = query.width.is_of_raw_readings();
        let (table, at) = match is_raw {
            true => (" FROM readings_ingestion", "reading_at"),
            false => (" FROM sensor_reading_hourly_aggregates", "bucket"),
        };
        let (columns, _) = labels(query.by);
        let mut select = Select::new("SELECT ").then(columns, []).then(", metric, ", []);
        select = match query.width {
            Width::Hour => select.then(at, []),
            // An array that is in order is searched, however many buckets there are.
            _ => select
                .then("($?)[width_bucket(", [(&self.starts, Type::TIMESTAMPTZ_ARRAY)])
                .then(at, [])
                .then(", $?)]", [(&self.starts, Type::TIMESTAMPTZ_ARRAY)]),
        };
        select = select.then(" AS bucket_start", []);
        for operation in &query.operations {
            select = select.then(text(*operation, is_raw), []);
        }
        select = select.then(table, []).then(" WHERE ", []).then(at, []);
        select = select.then(" >= $? AND ", [(&self.from, Type::TIMESTAMPTZ)]).then(at, []);
        select = select.then(" < $?", [(&self.to, Type::TIMESTAMPTZ)]);
        for (text, texts) in [
            (" AND sensor_id = ANY($?)", &query.sensor_ids),
            (" AND zone_id = ANY($?)", &query.zone_ids),
            (" AND device_type = ANY($?)", &query.device_types),
            (" AND metric = ANY($?)", &query.metrics),
        ] {
            if !texts.is_empty() {
                select = select.then(text, [(texts, Type::TEXT_ARRAY)]);
            }
        }
        select = self.and_after(select, columns, at);
        select = select.then(" GROUP BY ", []).then(columns, []).then(", metric, bucket_start", []);
        select = select.then(" ORDER BY ", []).then(columns, []).then(", metric, bucket_start", []);
        select.then(" LIMIT $?", [(&self.rows, Type::INT8)])
    }

    fn push(&mut self, row: Row) -> Result<(), Problem> {
        let bucket = self.read(&row)?;
        self.filler.push(bucket);
        Ok(())
    }

    fn close(&mut self) -> bool {
        self.filler.close()
    }

    fn advance(&mut self) -> bool {
        let Some(row) = self.filler.next() else { return false };
        self.row = Some(row);
        true
    }

    fn write(&self, writer: &mut Writer) -> Result<(), Problem> {
        let Some(row) = &self.row else { return Ok(()) };
        let labels = row.series.labels.iter().map(|label| Cell::Text(label));
        let key = [Cell::Text(&row.series.metric), Cell::Local(row.start)];
        let numbers = row.numbers.iter().map(|number| match *number {
            Number::Absent => Cell::Null,
            Number::Value(value) => Cell::Number(value),
            Number::Count(count) => Cell::Count(count),
        });
        writer.row(labels.chain(key).chain(numbers));
        Ok(())
    }

    fn cursor(&self) -> String {
        self.row.as_ref().map(|row| cursor(&row.cursor())).unwrap_or_default()
    }
}

/// Reads a page and writes it as JSON. Not prepared, as latest values are not: planned for its filters.
pub(crate) async fn page(
    pool: &Pool,
    database: &Settings,
    query: &Aggregates,
    now: Timestamp,
) -> Result<Bytes, Problem> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut sheet = AggregateSheet::new(query.clone(), now);
    let rows = {
        let mut lease = Lease::of(pool, database).await?;
        let select = sheet.select();
        let rows = lease.client().query_typed(select.text(), select.params()).await;
        lease.end();
        rows?
    };
    let (mut writer, mut ending) = (sheet.writer(Format::Json), Ending::default());
    for row in rows {
        sheet.push(row)?;
        if !ending.write(&mut sheet, &mut writer, limit, usize::MAX)? {
            break;
        }
    }
    if !ending.is_cut() && sheet.close() {
        ending.write(&mut sheet, &mut writer, limit, usize::MAX)?;
    }
    Ok(writer.end(ending.next()))
}
