//! The threshold, and the requests that make or change one. Pure.

use chassis::http::{Change, Fields, Problem, Rules, check_prose};
use schema::{Mode, Severity, Timestamp, check_label, check_metric, check_sensor_id};
use serde::Serialize;
use uuid::Uuid;

/// Longest description, in characters: a paragraph for the people who receive the alert.
const DESCRIPTION_CHARS_MAX: usize = 1_000;

/// Fields that only the service writes; a creation that names them expects something that will not happen.
const READ_ONLY: [&str; 3] = ["version", "createdAt", "updatedAt"];
const RULES: Rules<'_> = Rules {
    // The scope is one thing: a PUT that names a part of it names all of it.
    required: &["sensorId", "deviceType", "zoneId", "metric", "severity"],
    read_only: &["thresholdId", "version", "createdAt", "updatedAt"],
};

const SEVERITIES: [(&str, Severity); 3] = [
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

    /// Applies a change to a threshold: fields that it does not name stay, so that a new description does not
    /// switch a threshold on.
    ///
    /// # Errors
    /// 400 that names every bad field; 412 for another version.
    pub(crate) fn changed(threshold: &Threshold, change: Change) -> Result<Self, Problem> {
        Self::read(change.apply(threshold, RULES)?)
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
            severity: fields.one_of("severity", &SEVERITIES),
            mode: fields.one_of("mode", &MODES),
            description: fields.text_optional("description", describe).unwrap_or_default(),
        };
        draft.check_scope(&mut fields);
        match (draft.min, draft.max) {
            (None, None) if !fields.is_bad("min") && !fields.is_bad("max") => {
                fields.problem("min", "at least one of min and max is required");
            }
            (Some(min), Some(max)) if min > max => fields.problem("min", "must not be above max"),
            _ => {}
        }
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
}

/// Reads an id.
///
/// # Errors
/// A clause that says what it must be.
pub(crate) fn parse_id(text: &str) -> Result<Uuid, &'static str> {
    text.parse().map_err(|_| "must be a UUID")
}

/// Which thresholds a list is about.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) sensor_id: Option<String>,
    pub(crate) metric: Option<String>,
    pub(crate) device_type: Option<String>,
    pub(crate) zone_id: Option<String>,
}

impl Filter {
    /// Takes the filters of a query string.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            metric: fields.text_optional("metric", check_metric),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Draft, Vec<(String, String)>> {
        let outcome = Fields::of_json(json.as_bytes()).and_then(Draft::creation).map(|(_, draft)| draft);
        outcome.map_err(|problem| problem.errors.into_iter().map(|e| (e.field, e.detail)).collect())
    }

    fn bad(json: &str) -> Vec<String> {
        read(json).unwrap_err().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn absent_fields_take_their_defaults() {
        let draft = read(r#"{"sensorId":"s","metric":"t","max":30,"severity":"warning"}"#).unwrap();
        assert_eq!((draft.min, draft.max, draft.mode), (None, Some(30.0), Mode::Live));
        assert_eq!(draft.description, "");
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let json = r#"{"sensorId":"a/b","metric":"2","min":"x","max":true,"severity":"loud","mode":1,
            "description":"\u0000","version":3,"colour":"red"}"#;
        let all =
            ["version", "sensorId", "metric", "min", "max", "severity", "mode", "description", "colour"];
        assert_eq!(bad(json), all);
        assert_eq!(bad("{}"), ["metric", "severity", "sensorId", "min"]);
    }

    #[test]
    fn scope_is_a_sensor_or_a_type_or_a_zone_or_both_of_these() {
        let scope =
            |scope: &str| read(&format!(r#"{{"metric":"t","max":1,"severity":"info"{scope}}}"#)).map(|_| ());
        let (sensor, device_type, zone) = (r#","sensorId":"s""#, r#","deviceType":"T""#, r#","zoneId":"z""#);
        for good in [&[sensor][..], &[device_type], &[zone], &[device_type, zone]] {
            assert_eq!(scope(&good.concat()), Ok(()), "{good:?}");
        }
        for bad in [&[][..], &[sensor, device_type], &[sensor, zone], &[sensor, device_type, zone]] {
            let problems = scope(&bad.concat()).unwrap_err();
            assert_eq!(problems.iter().map(|(field, _)| field).collect::<Vec<_>>(), ["sensorId"], "{bad:?}");
        }
        assert_eq!(scope(r#","deviceType":"a b","sensorId":"s""#).unwrap_err()[0].0, "deviceType");
    }

    #[test]
    fn limits_are_one_or_two_and_in_order() {
        let limits = |limits: &str| {
            read(&format!(r#"{{"sensorId":"s","metric":"t","severity":"info"{limits}}}"#)).map(|_| ())
        };
        for good in [r#","min":1"#, r#","max":-1"#, r#","min":1,"max":1"#, r#","min":-1e300,"max":1e300"#] {
            assert_eq!(limits(good), Ok(()), "{good}");
        }
        for bad in ["", r#","min":null"#, r#","min":2,"max":1"#] {
            assert_eq!(limits(bad).unwrap_err()[0].0, "min", "{bad}");
        }
        assert_eq!(limits(r#","max":1e999"#).unwrap_err()[0].0, "body");
    }
}
