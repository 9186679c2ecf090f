//! What a caller may ask. Pure.

mod episodes;

pub(crate) use episodes::Episodes;

use chassis::http::{Fields, Page, Problem, check_prose};
use schema::{Timestamp, check_metric, check_sensor_id};

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
    pub(crate) fn read(sensor_id: &str, mut fields: Fields) -> Result<Self, Problem> {
        if let Err(error) = check_sensor_id(sensor_id) {
            fields.problem("sensorId", error);
        }
        let metric = fields.text_optional("metric", check_metric);
        let from = fields.parsed("from", parse_instant);
        let to = fields.parsed("to", parse_instant);
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

fn parse_instant(text: &str) -> Result<Timestamp, String> {
    // In a query string + is a space, the commonest reason for an instant that cannot be read.
    Timestamp::parse(text).map_err(|error| format!("{error}, such as 2026-01-02T03:00:00Z; write + as %2B"))
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
    pub(crate) sensor_id: Option<String>,
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
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
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
            sensor_id: Some(sensor_id.to_owned()),
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
        let outcome = Hours::read("s", Fields::of_json(json.as_bytes()).unwrap());
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
    fn a_range_is_closed_once_its_last_hour_is_over() {
        let range = read(r#"{"from":"2026-01-02T02:00:00Z","to":"2026-01-02T04:30:00Z"}"#).unwrap();
        assert!(!range.is_closed(instant("2026-01-02T04:59:59.999999Z")));
        assert!(range.is_closed(instant("2026-01-02T05:00:00Z")));
    }

    #[test]
    fn ranges_keep_to_their_bounds() {
        assert_eq!(read("{}").unwrap_err(), ["from", "to"]);
        assert_eq!(read(r#"{"from":"yesterday","to":"2026-01-02"}"#).unwrap_err(), ["from", "to"]);
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
