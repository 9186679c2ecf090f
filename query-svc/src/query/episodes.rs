//! What a caller may ask about episodes of alerts. Pure.

use super::{LABEL_CHARS_MAX, parse_instant};
use chassis::http::{Fields, KeysetPage, Problem, check_prose};
use jiff::tz::TimeZone;
use schema::{Severity, Timestamp, check_metric, check_sensor_id};
use uuid::Uuid;

/// Episodes of a page when the caller names no number, and most of them: about 1 KB each.
const EPISODES_DEFAULT: i64 = 100;
const EPISODES_MAX: i64 = 1_000;

const STATES: [(&str, &str); 2] = [("open", "open"), ("closed", "closed")];
const FLAGS: [(&str, bool); 2] = [("true", true), ("false", false)];
const SEVERITIES: [(&str, &str); 3] = [
    (Severity::Info.as_str(), Severity::Info.as_str()),
    (Severity::Warning.as_str(), Severity::Warning.as_str()),
    (Severity::Critical.as_str(), Severity::Critical.as_str()),
];

/// Asks for episodes, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Episodes {
    pub(crate) state: Option<&'static str>,
    pub(crate) sensor_id: Option<String>,
    pub(crate) zone_id: Option<String>,
    pub(crate) device_type: Option<String>,
    pub(crate) metric: Option<String>,
    pub(crate) severity: Option<&'static str>,
    pub(crate) threshold_id: Option<Uuid>,
    /// The first instant at which they were opened.
    pub(crate) from: Option<Timestamp>,
    /// The instant after the last.
    pub(crate) to: Option<Timestamp>,
    pub(crate) is_acknowledged: Option<bool>,
    pub(crate) is_silenced: Option<bool>,
    pub(crate) page: KeysetPage<(Timestamp, Uuid)>,
}

impl Episodes {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// 400 that names every bad parameter.
    pub(crate) fn read(mut fields: Fields, now: Timestamp) -> Result<Self, Problem> {
        let label = |text: &str| check_prose(text, LABEL_CHARS_MAX);
        let instant = |text: &str| parse_instant(text, now, &TimeZone::UTC);
        let episodes = Self {
            state: fields.one_of_optional("state", &STATES),
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            zone_id: fields.text_optional("zoneId", label),
            device_type: fields.text_optional("deviceType", label),
            metric: fields.text_optional("metric", check_metric),
            severity: fields.one_of_optional("severity", &SEVERITIES),
            threshold_id: parsed_optional(&mut fields, "thresholdId", |text| {
                text.parse().map_err(|_| "must be a UUID".to_owned())
            }),
            from: parsed_optional(&mut fields, "from", instant),
            to: parsed_optional(&mut fields, "to", instant),
            is_acknowledged: fields.one_of_optional("acknowledged", &FLAGS),
            is_silenced: fields.one_of_optional("silenced", &FLAGS),
            page: fields.keyset(EPISODES_DEFAULT, EPISODES_MAX),
        };
        if episodes.from.zip(episodes.to).is_some_and(|(from, to)| from >= to) {
            fields.problem("from", "must be before to");
        }
        fields.finish()?;
        Ok(episodes)
    }
}

fn parsed_optional<T>(
    fields: &mut Fields,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let mut parsed = None;
    fields.text_optional(name, |text| parse(text).map(|value| parsed = Some(value)));
    parsed
}
