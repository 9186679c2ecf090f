//! What a caller may ask about many readings at once. Pure.

use super::buckets::{Buckets, WIDTHS, Width};
use super::{LABEL_CHARS_MAX, instant_in, texts, zone};
use chassis::http::{Fields, KeysetPage, Problem, check_prose};
use jiff::tz::TimeZone;
use schema::{Timestamp, check_metric, check_sensor_id};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Rows of a page when the caller names no number, and most of them: about 250 bytes each.
const ROWS_DEFAULT: i64 = 1_000;
const PAGE_ROWS_MAX: i64 = 10_000;
/// Most sensors, and most zones, types or metrics, that one question names.
pub(super) const SENSORS_MAX: usize = 1_000;
const LABELS_MAX: usize = 100;

/// Names what the rows of an answer are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum By {
    Sensor,
    Zone,
    DeviceType,
    ZoneAndType,
}

const BYS: [(&str, By); 4] =
    [("sensor", By::Sensor), ("zone", By::Zone), ("type", By::DeviceType), ("zoneAndType", By::ZoneAndType)];

/// Names a number that is made of the values of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    Avg,
    Min,
    Max,
    Count,
    Sum,
    First,
    Last,
    P5,
    P50,
    P90,
    P95,
    P99,
}

/// Words for operations, those of hours first.
pub(crate) const OPERATIONS: [(&str, Operation); 12] = [
    ("avg", Operation::Avg),
    ("min", Operation::Min),
    ("max", Operation::Max),
    ("count", Operation::Count),
    ("sum", Operation::Sum),
    ("first", Operation::First),
    ("last", Operation::Last),
    ("p5", Operation::P5),
    ("p50", Operation::P50),
    ("p90", Operation::P90),
    ("p95", Operation::P95),
    ("p99", Operation::P99),
];
const OF_HOURS: usize = 5;

impl Operation {
    /// Returns its word.
    pub(crate) fn name(self) -> &'static str {
        OPERATIONS.iter().find(|(_, operation)| *operation == self).map_or("", |(name, _)| name)
    }

    /// Says whether it needs the readings themselves.
    fn is_of_raw_readings(self) -> bool {
        self > Operation::Sum
    }
}

/// Says what stands in a bucket without a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fill {
    /// There is no row.
    None,
    /// A row of nulls, and a count of 0.
    Null,
    /// The values of the bucket before it, and a count of 0.
    Previous,
}

const FILLS: [(&str, Fill); 3] = [("none", Fill::None), ("null", Fill::Null), ("previous", Fill::Previous)];

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// What the series is about: one or two labels of the question's [`By`], and a metric.
    pub(crate) labels: Vec<String>,
    pub(crate) metric: String,
    /// Start of its last bucket that has readings; none when only a gap was told.
    pub(crate) read: Option<Timestamp>,
    /// Start of its last bucket in the answer.
    pub(crate) told: Timestamp,
}

/// Asks for aggregates, ordered by what they are about, metric and bucket. Equal questions share an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Aggregates {
    pub(crate) by: By,
    pub(crate) sensor_ids: Vec<String>,
    pub(crate) zone_ids: Vec<String>,
    pub(crate) device_types: Vec<String>,
    pub(crate) metrics: Vec<String>,
    pub(crate) width: Width,
    /// Name of the time zone.
    pub(crate) zone: String,
    pub(crate) operations: Vec<Operation>,
    pub(crate) fill: Fill,
    /// The first instant of the first bucket.
    pub(crate) from: Timestamp,
    /// The instant after the last bucket.
    pub(crate) to: Timestamp,
    pub(crate) limit: i64,
    pub(crate) after: Option<Cursor>,
}

impl Aggregates {
    /// Reads and checks a request for a page, or for a stream of up to `stream_rows_max` rows.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(
        mut fields: Fields,
        now: Timestamp,
        stream_rows_max: Option<i64>,
    ) -> Result<Self, Problem> {
        let label = |text: &str| check_prose(text, LABEL_CHARS_MAX);
        let by = fields.one_of_optional("by", &BYS).unwrap_or(By::Sensor);
        let sensor_ids = texts(&mut fields, "sensorId", SENSORS_MAX, true, check_sensor_id);
        let zone_ids = texts(&mut fields, "zoneId", LABELS_MAX, false, label);
        let device_types = texts(&mut fields, "deviceType", LABELS_MAX, false, label);
        let metrics = texts(&mut fields, "metric", LABELS_MAX, true, check_metric);
        let width = fields.one_of("bucket", &WIDTHS);
        let zone = zone(&mut fields);
        let from = instant_in(&mut fields, "from", now, &zone);
        fields.or("to", "now");
        let to = instant_in(&mut fields, "to", now, &zone);
        let operations = operations(&mut fields, width);
        let fill = fields.one_of_optional("fill", &FILLS).unwrap_or(Fill::None);
        if width.is_of_raw_readings()
            && sensor_ids.is_empty()
            && !fields.is_bad("sensorId")
            && !fields.is_bad("bucket")
        {
            fields.problem(
                "sensorId",
                "is required: minutes are made of raw readings, which are found by sensor",
            );
        }
        let buckets = buckets(&mut fields, width, &zone, from.zip(to));
        fields.refuse("total", "is not counted here");
        let (default, most) = stream_rows_max.map_or((ROWS_DEFAULT, PAGE_ROWS_MAX), |most| (most, most));
        let KeysetPage { limit, after, .. } = fields.keyset::<Cursor>(default, most);
        let labels = if by == By::ZoneAndType { 2 } else { 1 };
        if after.as_ref().is_some_and(|cursor| cursor.labels.len() != labels) {
            fields.problem("cursor", "must be the next of another page of this list");
        }
        fields.finish()?;
        let buckets = buckets.ok_or_else(|| Problem::internal(&"a range was neither read nor refused"))?;
        let (from, to) = (buckets.start(0), buckets.end());
        let zone = zone.iana_name().unwrap_or("UTC").to_owned();
        Ok(Self {
            by,
            sensor_ids,
            zone_ids,
            device_types,
            metrics,
            width,
            zone,
            operations,
            fill,
            from,
            to,
            limit,
            after,
        })
    }

    /// Returns its time zone.
    pub(crate) fn time_zone(&self) -> TimeZone {
        TimeZone::get(&self.zone).unwrap_or(TimeZone::UTC)
    }

    /// Returns its buckets.
    pub(crate) fn buckets(&self) -> Buckets {
        Buckets::within(self.width, &self.time_zone(), self.from, self.to)
    }

    /// Says whether every hour of the range is over, so that only late readings can change it.
    pub(crate) fn is_closed(&self, now: Timestamp) -> bool {
        self.to <= now.hour()
    }

    /// Returns about how many bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        let lists = [&self.sensor_ids, &self.zone_ids, &self.device_types, &self.metrics];
        lists.iter().flat_map(|list| list.iter()).map(|text| size_of::<String>() + text.len()).sum()
    }
}

/// Takes the operations, each once and in one order, so that equal questions are equal.
fn operations(fields: &mut Fields, width: Width) -> Vec<Operation> {
    let known =
        |text: &str| OPERATIONS.iter().find(|(word, _)| *word == text).map(|(_, operation)| *operation);
    let words = || OPERATIONS.map(|(word, _)| word);
    let names = texts(fields, "operations", OPERATIONS.len(), true, |text| match known(text) {
        None => Err(format!("must be of {}", words().join(", "))),
        Some(operation) if operation.is_of_raw_readings() && !width.is_of_raw_readings() => {
            Err(format!("must be of {}: {text} needs a bucket of minutes", words()[..OF_HOURS].join(", ")))
        }
        Some(_) => Ok(()),
    });
    let mut operations: Vec<_> = names.iter().filter_map(|name| known(name)).collect();
    operations.sort_unstable();
    if operations.is_empty() {
        operations.extend(OPERATIONS[..OF_HOURS].iter().map(|(_, operation)| *operation));
    }
    operations
}

/// Checks the range and returns its buckets. Hours that the zone splits are refused, unless the caller takes
/// each whole hour for the bucket in which it begins.
fn buckets(
    fields: &mut Fields,
    width: Width,
    zone: &TimeZone,
    range: Option<(Timestamp, Timestamp)>,
) -> Option<Buckets> {
    let is_approximate = match fields.take("approximate") {
        None => false,
        Some(Value::Bool(flag)) => flag,
        Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
        Some(_) => {
            fields.problem("approximate", "must be true or false");
            false
        }
    };
    let (from, to) = range?;
    if !check_range(fields, from, to, width.range_max()) {
        return None;
    }
    let buckets = Buckets::within(width, zone, from, to);
    if !is_approximate && !buckets.are_of_whole_hours() {
        fields.problem(
            "timezone",
            "splits hours of UTC, which these buckets are made of: take another zone, minutes, or \
             approximate=true, which counts an hour to the bucket in which it begins",
        );
    }
    Some(buckets)
}

/// Checks that a range is one, and not too long.
pub(super) fn check_range(
    fields: &mut Fields,
    from: Timestamp,
    to: Timestamp,
    (micros_max, name): (i64, &str),
) -> bool {
    if from >= to {
        fields.problem("from", "must be before to");
    } else if to.as_micros() - from.as_micros() > micros_max {
        fields.problem("from", format!("must be at most {name} before to"));
    } else {
        return true;
    }
    false
}
