//! What a caller may ask. Pure.

mod aggregates;
mod buckets;
mod episodes;
mod instant;
mod readings;

pub(crate) use aggregates::{Aggregates, By, Cursor, Fill, Operation};
pub(crate) use buckets::{Buckets, Width};
pub(crate) use episodes::Episodes;
pub(crate) use readings::{Reading, ReadingKey, Readings};

use chassis::http::{Fields, Page, Problem, check_prose};
use instant::parse_instant;
use jiff::tz::TimeZone;
use schema::{Timestamp, check_metric, check_sensor_id};
use serde_json::Value;
use std::fmt::Display;

/// Hours of a page when the caller names no number, and most of them: a year of one metric at once, 2 MB.
const HOURS_DEFAULT: i64 = 1_000;
const HOURS_MAX: i64 = 10_000;
/// Longest range: ten years are 87,672 hours a metric, which one index scan still counts within a statement's
/// time.
const RANGE_MICROS_MAX: i64 = 3_653 * 24 * HOUR_MICROS;
const HOUR_MICROS: i64 = 3_600_000_000;
/// Latest values of a page when the caller names no number, and most of them: about 250 bytes each.
const LATEST_DEFAULT: i64 = 100;
const LATEST_MAX: i64 = 1_000;
/// Most sensors whose latest values one question names.
const LIST_MAX: usize = 100;
/// Longest zone id or device type that is looked for, in characters; the registry has no longer ones.
const LABEL_CHARS_MAX: usize = 64;

/// Asks for hours of one sensor, ordered by bucket and metric. Equal questions share an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hours {
    pub(crate) sensor_id: String,
    pub(crate) metric: Option<String>,
    /// First bucket.
    pub(crate) from: Timestamp,
    /// The bucket after the last.
    pub(crate) to: Timestamp,
    pub(crate) page: Page,
}

impl Hours {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(sensor_id: &str, mut fields: Fields, now: Timestamp) -> Result<Self, Problem> {
        if let Err(error) = check_sensor_id(sensor_id) {
            fields.problem("sensorId", error);
        }
        let metric = fields.text_optional("metric", check_metric);
        let from = instant_in(&mut fields, "from", now, &TimeZone::UTC);
        fields.or("to", "now");
        let to = instant_in(&mut fields, "to", now, &TimeZone::UTC);
        if let Some((from, to)) = from.zip(to) {
            if from >= to {
                fields.problem("from", "must be before to");
            } else if to.as_micros() - from.as_micros() > RANGE_MICROS_MAX {
                fields.problem("from", "must be at most ten years before to");
            }
        }
        let page = fields.page(HOURS_DEFAULT, HOURS_MAX);
        fields.finish()?;
        let (from, to) =
            from.zip(to).ok_or_else(|| Problem::internal(&"an instant was neither read nor refused"))?;
        Ok(Self {
            sensor_id: sensor_id.to_owned(),
            metric,
            from: next_bucket(from),
            to: next_bucket(to),
            page,
        })
    }

    /// Says whether every hour of the range is over, so that only late readings can change it.
    pub(crate) fn is_closed(&self, now: Timestamp) -> bool {
        self.to <= now.hour()
    }
}

/// Takes a required instant; a day is one of the zone.
fn instant_in(fields: &mut Fields, name: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    fields.parsed(name, |text| parse_instant(text, now, zone))
}

/// Takes `timezone`, UTC unless it is given.
fn zone(fields: &mut Fields) -> TimeZone {
    let mut zone = TimeZone::UTC;
    fields.text_optional("timezone", |name| {
        zone = TimeZone::get(name)
            .map_err(|_| "must be a time zone of IANA's database, such as Europe/Berlin")?;
        Ok::<_, &str>(())
    });
    zone
}

/// Takes texts that each pass the check, sorted and each once: an array, or a text, which is split at commas
/// unless they may have some themselves. Without the field there are none.
fn texts<E: Display>(
    fields: &mut Fields,
    name: &str,
    most: usize,
    is_split: bool,
    check: impl Fn(&str) -> Result<(), E>,
) -> Vec<String> {
    let mut texts: Vec<String> = match fields.take(name) {
        None => return Vec::new(),
        Some(Value::String(text)) if is_split => text.split(',').map(str::to_owned).collect(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(values)) if values.iter().all(Value::is_string) => {
            values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(_) => {
            fields.problem(name, "must be a text, or an array of texts");
            return Vec::new();
        }
    };
    texts.sort_unstable();
    texts.dedup();
    if texts.is_empty() || texts.len() > most {
        fields.problem(name, format!("must be from 1 to {most}"));
    } else if let Some(error) = texts.iter().find_map(|text| check(text).err()) {
        fields.problem(name, error);
    }
    texts
}

/// Returns the first bucket that does not begin before the instant. The rows are the same, and a client that
/// asks up to "now" asks the same question all hour long.
fn next_bucket(instant: Timestamp) -> Timestamp {
    let hour = instant.hour();
    if hour == instant {
        return instant;
    }
    // Only the last hour of the year 9999 has no successor.
    Timestamp::from_micros(hour.as_micros() + HOUR_MICROS).unwrap_or(instant)
}

/// Names what latest values are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    SensorId,
    Metric,
    Value,
    ReadingAt,
    ReceivedAt,
    ZoneId,
    DeviceType,
}

const SORTS: [(&str, Sort); 7] = [
    ("sensorId", Sort::SensorId),
    ("metric", Sort::Metric),
    ("value", Sort::Value),
    ("readingAt", Sort::ReadingAt),
    ("receivedAt", Sort::ReceivedAt),
    ("zoneId", Sort::ZoneId),
    ("deviceType", Sort::DeviceType),
];

/// Names the direction of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Asc,
    Desc,
}

const DIRECTIONS: [(&str, Direction); 2] = [("asc", Direction::Asc), ("desc", Direction::Desc)];

/// Asks for the newest value of each metric of the sensors that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) sensor_ids: Option<Vec<String>>,
    pub(crate) zone_id: Option<String>,
    pub(crate) device_type: Option<String>,
    pub(crate) metric: Option<String>,
    pub(crate) sort: Sort,
    pub(crate) direction: Direction,
    pub(crate) page: Page,
}

impl Latest {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(mut fields: Fields) -> Result<Self, Problem> {
        let label = |text: &str| check_prose(text, LABEL_CHARS_MAX);
        let latest = Self {
            sensor_ids: Some(texts(&mut fields, "sensorId", LIST_MAX, true, check_sensor_id))
                .filter(|ids| !ids.is_empty()),
            zone_id: fields.text_optional("zoneId", label),
            device_type: fields.text_optional("deviceType", label),
            metric: fields.text_optional("metric", check_metric),
            sort: fields.one_of_optional("sortBy", &SORTS).unwrap_or(Sort::SensorId),
            direction: fields.one_of_optional("orderBy", &DIRECTIONS).unwrap_or(Direction::Asc),
            page: fields.page(LATEST_DEFAULT, LATEST_MAX),
        };
        fields.finish()?;
        Ok(latest)
    }

    /// Reads and checks a request for one sensor, by metric.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn of_sensor(sensor_id: &str, mut fields: Fields) -> Result<Self, Problem> {
        if let Err(error) = check_sensor_id(sensor_id) {
            fields.problem("sensorId", error);
        }
        let page = fields.page(LATEST_DEFAULT, LATEST_MAX);
        fields.finish()?;
        Ok(Self {
            sensor_ids: Some(vec![sensor_id.to_owned()]),
            zone_id: None,
            device_type: None,
            metric: None,
            sort: Sort::SensorId,
            direction: Direction::Asc,
            page,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn read(json: &str) -> Result<Hours, Vec<String>> {
        let now = instant("2026-01-02T04:30:00Z");
        let outcome = Hours::read("s", Fields::of_json(json.as_bytes()).unwrap(), now);
        outcome.map_err(|problem| problem.errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn instants_within_an_hour_ask_the_same_question() {
        let early = read(r#"{"from":"2026-01-02T02:00:00.000001Z","to":"2026-01-02T05:10:00Z"}"#).unwrap();
        let late = read(r#"{"from":"2026-01-02T04:00:00+01:00","to":"2026-01-02T06:00:00Z"}"#).unwrap();
        assert_eq!(early, late);
        assert_eq!(early.from, instant("2026-01-02T03:00:00Z"));
        assert_eq!(early.to, instant("2026-01-02T06:00:00Z"));
    }

    #[test]
    fn a_range_ends_now_unless_it_says_when() {
        let day = read(r#"{"from":"2026-01-02"}"#).unwrap();
        assert_eq!((day.from, day.to), (instant("2026-01-02T00:00:00Z"), instant("2026-01-02T05:00:00Z")));
        assert_eq!(read(r#"{"from":"now-24h","to":"now"}"#).unwrap().from, instant("2026-01-01T05:00:00Z"));
    }

    #[test]
    fn a_range_is_closed_once_its_last_hour_is_over() {
        let range = read(r#"{"from":"2026-01-02T02:00:00Z","to":"2026-01-02T04:30:00Z"}"#).unwrap();
        assert!(!range.is_closed(instant("2026-01-02T04:59:59.999999Z")));
        assert!(range.is_closed(instant("2026-01-02T05:00:00Z")));
    }

    #[test]
    fn ranges_keep_to_their_bounds() {
        assert_eq!(read("{}").unwrap_err(), ["from"]);
        assert_eq!(read(r#"{"from":"yesterday","to":"today"}"#).unwrap_err(), ["from", "to"]);
        for (from, to) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2016-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
        ] {
            let json = format!(r#"{{"from":"{from}","to":"{to}"}}"#);
            assert_eq!(read(&json).unwrap_err(), ["from"], "{json}");
        }
        assert!(read(r#"{"from":"9999-12-31T23:00:00Z","to":"9999-12-31T23:59:59Z"}"#).is_ok());
        assert!(read(r#"{"from":"2016-01-01T00:00:00Z","to":"2026-01-01T00:00:00Z"}"#).is_ok());
    }
}
