//! The threshold, and the requests that make or change one. Pure.

use chassis::http::{Change, Fields, Problem, Rules, check_prose};
use schema::{Mode, Repeat, Severity, Timestamp, check_label, check_metric, check_sensor_id};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Longest description, in characters: a paragraph for the people who receive the alert.
const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// Longest of the times that a threshold names, in seconds: a year.
const SECONDS_MAX: u32 = Repeat::SECONDS_MAX;

/// Fields that only the service writes; a creation that names them expects something that will not happen.
const READ_ONLY: [&str; 4] = ["version", "createdAt", "updatedAt", "updatedBy"];
const RULES: Rules<'_> = Rules {
    // The scope is one thing: a PUT that names a part of it names all of it.
    required: &["sensorId", "deviceType", "zoneId", "metric", "severity"],
    read_only: &["thresholdId", "version", "createdAt", "updatedAt", "updatedBy"],
};
/// What answers to a change carry beside the threshold, so that such an answer may be sent back, too.
const WARNINGS: &str = "warnings";

pub(crate) const SEVERITIES: [(&str, Severity); 3] = [
    (Severity::Info.as_str(), Severity::Info),
    (Severity::Warning.as_str(), Severity::Warning),
    (Severity::Critical.as_str(), Severity::Critical),
];
const MODES: [(&str, Mode); 3] = [
    (Mode::Off.as_str(), Mode::Off),
    (Mode::Shadow.as_str(), Mode::Shadow),
    (Mode::Live.as_str(), Mode::Live),
];

/// The resource as it is answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Threshold {
    pub(crate) threshold_id: Uuid,
    #[serde(flatten)]
    pub(crate) draft: Draft,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) updated_by: String,
}

/// The part that a caller writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Draft {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sensor_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone_id: Option<String>,
    pub(crate) metric: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) no_data_seconds: Option<u32>,
    pub(crate) hysteresis: f64,
    pub(crate) for_seconds: u32,
    pub(crate) keep_firing_seconds: u32,
    #[serde(serialize_with = "write_repeat")]
    pub(crate) repeat: Repeat,
    pub(crate) alert_age_seconds_max: Option<u32>,
    pub(crate) severity: Severity,
    pub(crate) mode: Mode,
    pub(crate) description: String,
}

impl Draft {
    /// Reads and checks a new threshold; returns the id that the caller has chosen beside it.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub(crate) fn creation(mut fields: Fields) -> Result<(Option<Uuid>, Self), Problem> {
        let mut id = None;
        fields.text_optional("thresholdId", |text| {
            id = Some(parse_id(text)?);
            Ok::<_, &str>(())
        });
        fields.or("mode", Mode::Live.as_str());
        for name in READ_ONLY {
            fields.refuse(name, "is set by the service; leave it out");
        }
        Ok((id, Self::read(fields)?))
    }

    /// Reads and checks a threshold as it is answered somewhere: what only a service writes is passed over.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub(crate) fn of_answer(mut members: Map<String, Value>) -> Result<Self, Problem> {
        for name in RULES.read_only.iter().chain([&WARNINGS]) {
            members.remove(*name);
        }
        Self::creation(Fields::of_members(members)).map(|(_, draft)| draft)
    }

    /// Applies a change to a threshold: fields that it does not name stay, so that a new description does not
    /// switch a threshold on.
    ///
    /// # Errors
    /// 400 that names every bad field; 412 for another version.
    pub(crate) fn changed(threshold: &Threshold, change: Change) -> Result<Self, Problem> {
        Self::read(change.without(WARNINGS).apply(threshold, RULES)?)
    }

    fn read(mut fields: Fields) -> Result<Self, Problem> {
        let describe = |text: &str| check_prose(text, DESCRIPTION_CHARS_MAX);
        let draft = Self {
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
            metric: fields.text("metric", check_metric),
            min: fields.number_optional("min"),
            max: fields.number_optional("max"),
            no_data_seconds: fields.whole_optional("noDataSeconds", 1..=SECONDS_MAX),
            hysteresis: fields.number_optional("hysteresis").unwrap_or_default(),
            for_seconds: fields.whole_optional("forSeconds", 0..=SECONDS_MAX).unwrap_or_default(),
            keep_firing_seconds: fields
                .whole_optional("keepFiringSeconds", 0..=SECONDS_MAX)
                .unwrap_or_default(),
            repeat: take_repeat(&mut fields),
            alert_age_seconds_max: fields.whole_optional("alertAgeSecondsMax", 1..=SECONDS_MAX),
            severity: fields.one_of("severity", &SEVERITIES),
            mode: fields.one_of("mode", &MODES),
            description: fields.text_optional("description", describe).unwrap_or_default(),
        };
        draft.check_scope(&mut fields);
        draft.check_violation(&mut fields);
        fields.finish()?;
        Ok(draft)
    }

    fn check_scope(&self, fields: &mut Fields) {
        if ["sensorId", "deviceType", "zoneId"].iter().any(|name| fields.is_bad(name)) {
            return;
        }
        match (&self.sensor_id, &self.device_type, &self.zone_id) {
            (None, None, None) => {
                fields.problem("sensorId", "is required, or instead of it deviceType, zoneId or both");
            }
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                fields.problem(
                    "sensorId",
                    "names one sensor; leave deviceType and zoneId out, or leave it out",
                );
            }
            _ => {}
        }
    }

    /// Checks that it is about limits or about silence, and that what it says of them can happen.
    fn check_violation(&self, fields: &mut Fields) {
        if ["min", "max", "noDataSeconds"].iter().any(|name| fields.is_bad(name)) {
            return;
        }
        match (self.min, self.max) {
            (None, None) if self.no_data_seconds.is_none() => {
                fields.problem("min", "at least one of min and max is required, or noDataSeconds instead");
            }
            (Some(min), Some(max)) if min > max => fields.problem("min", "must not be above max"),
            _ => {}
        }
        if self.no_data_seconds.is_some() {
            if self.min.is_some() || self.max.is_some() {
                fields.problem("noDataSeconds", "stands instead of min and max; take them away, or it");
            }
            if self.hysteresis != 0.0 {
                fields.problem("hysteresis", "belongs to min and max; leave it out");
            }
            if self.for_seconds != 0 {
                fields.problem("forSeconds", "is said by noDataSeconds; leave it out");
            }
        } else if self.hysteresis < 0.0 {
            fields.problem("hysteresis", "must not be negative");
        } else if self.never_closes() {
            fields.problem("hysteresis", "leaves no value between min and max that is inside again");
        }
    }

    fn never_closes(&self) -> bool {
        let room = self.min.zip(self.max).map(|(min, max)| max - min);
        self.hysteresis > 0.0 && room.is_some_and(|room| room >= 0.0 && self.hysteresis >= room / 2.0)
    }
}

/// Writes what [`take_repeat`] reads: seconds are a number.
fn write_repeat<S: Serializer>(repeat: &Repeat, serializer: S) -> Result<S::Ok, S::Error> {
    match repeat {
        Repeat::Seconds(seconds) => serializer.serialize_u32(*seconds),
        Repeat::Every | Repeat::Never => serializer.collect_str(repeat),
    }
}

fn take_repeat(fields: &mut Fields) -> Repeat {
    let repeat = match fields.take("repeat") {
        None => Some(Repeat::Every),
        Some(Value::String(word)) => {
            [Repeat::Every, Repeat::Never].into_iter().find(|repeat| repeat.to_string() == word)
        }
        Some(number) => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0);
            whole.and_then(|seconds| format!("{seconds}").parse().ok())
        }
    };
    if repeat.is_none() {
        fields.problem(
            "repeat",
            format!("must be every, never or a whole number of seconds from 1 to {SECONDS_MAX}"),
        );
    }
    repeat.unwrap_or_default()
}

/// Reads an id.
///
/// # Errors
/// A clause that says what it must be.
pub(crate) fn parse_id(text: &str) -> Result<Uuid, &'static str> {
    text.parse().map_err(|_| "must be a UUID")
}

/// Returns the first and the last id that begin with some hex digits.
pub(crate) fn id_range(digits: &str) -> Option<(Uuid, Uuid)> {
    let is_hex = (1..=32).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let end = |fill: char| {
        let whole: String = digits.chars().chain(std::iter::repeat(fill)).take(32).collect();
        u128::from_str_radix(&whole, 16).ok().map(Uuid::from_u128)
    };
    if is_hex { end('0').zip(end('f')) } else { None }
}

/// Which thresholds a list is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) sensor_id: Option<String>,
    pub(crate) metric: Option<String>,
    pub(crate) device_type: Option<String>,
    pub(crate) zone_id: Option<String>,
    pub(crate) severity: Option<Severity>,
    pub(crate) mode: Option<Mode>,
    /// The first and the last id of those that begin alike: a tool may keep the ids of its own together.
    pub(crate) ids: Option<(Uuid, Uuid)>,
}

impl Filter {
    /// Takes the filters of a query string.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        let mut ids = None;
        fields.text_optional("thresholdIdPrefix", |text| {
            ids = Some(id_range(text).ok_or("must be 1 to 32 hex digits of a UUID, without hyphens")?);
            Ok::<_, &str>(())
        });
        Self {
            ids,
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            metric: fields.text_optional("metric", check_metric),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
            severity: fields.one_of_optional("severity", &SEVERITIES),
            mode: fields.one_of_optional("mode", &MODES),
        }
    }
}

#[cfg(test)]
mod tests;
