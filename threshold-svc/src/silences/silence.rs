//! The silence, and the requests that make or change one. Pure.

use crate::threshold::SEVERITIES;
use chassis::http::{Change, Fields, Problem, Rules, check_prose};
use schema::{Severity, Timestamp, check_label, check_metric, check_sensor_id};
use serde::Serialize;
use uuid::Uuid;

/// Longest comment, in characters: a paragraph for those who wonder why nobody was told.
const COMMENT_CHARS_MAX: usize = 1_000;
/// Farthest end, in microseconds from now: a year. Longer is a threshold that should be off.
const AHEAD_MICROS_MAX: i64 = 365 * 86_400_000_000;

/// Parts of a silence that say what it matches.
const MATCHERS: [&str; 5] = ["sensorId", "deviceType", "zoneId", "metric", "severity"];
/// Fields that only the service writes.
const READ_ONLY: [&str; 4] = ["createdBy", "version", "createdAt", "updatedAt"];
/// Another match is another silence: what was silenced by it stays true.
const RULES: Rules<'_> = Rules {
    required: &[],
    read_only: &[
        "silenceId",
        "sensorId",
        "deviceType",
        "zoneId",
        "metric",
        "severity",
        "startsAt",
        "createdBy",
        "version",
        "createdAt",
        "updatedAt",
    ],
};

/// The resource as it is answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Silence {
    pub(super) silence_id: Uuid,
    #[serde(flatten)]
    pub(super) matchers: Matchers,
    pub(super) starts_at: Timestamp,
    pub(super) ends_at: Timestamp,
    pub(super) comment: String,
    pub(super) created_by: String,
    pub(super) version: i64,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
}

/// What an alert must be about; a part that is absent matches anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Matchers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sensor_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metric: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) severity: Option<Severity>,
}

impl Matchers {
    fn take(fields: &mut Fields) -> Self {
        Self {
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
            metric: fields.text_optional("metric", check_metric),
            severity: fields.one_of_optional("severity", &SEVERITIES),
        }
    }
}

/// A silence to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NewSilence {
    /// The caller's own choice, by which a creation can be repeated.
    pub(super) id: Option<Uuid>,
    pub(super) matchers: Matchers,
    /// None is now.
    pub(super) starts_at: Option<Timestamp>,
    pub(super) ends_at: Timestamp,
    pub(super) comment: String,
}

impl NewSilence {
    /// Reads and checks a new silence.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub(super) fn read(mut fields: Fields, now: Timestamp) -> Result<Self, Problem> {
        let mut id = None;
        fields.text_optional("silenceId", |text| {
            id = Some(text.parse().map_err(|_| "must be a UUID")?);
            Ok::<_, &str>(())
        });
        for name in READ_ONLY {
            fields.refuse(name, "is set by the service; leave it out");
        }
        let matchers = Matchers::take(&mut fields);
        if matchers == Matchers::default() && !MATCHERS.iter().any(|name| fields.is_bad(name)) {
            fields.problem(
                "sensorId",
                "is required, or instead of it deviceType, zoneId, metric or severity: a silence matches something",
            );
        }
        let mut starts_at = None;
        fields.text_optional("startsAt", |text| {
            starts_at = Some(Timestamp::parse(text)?);
            Ok::<_, schema::TimestampError>(())
        });
        let ends_at = take_end(&mut fields, starts_at.unwrap_or(now), now);
        let comment = take_comment(&mut fields);
        fields.finish()?;
        let ends_at = ends_at.ok_or_else(|| Problem::internal(&"an end was neither read nor refused"))?;
        Ok(Self { id, matchers, starts_at, ends_at, comment })
    }

    /// Says whether the silence is the one that this request has made before, as long as nobody changed it.
    pub(super) fn has_made(&self, silence: &Silence) -> bool {
        self.matchers == silence.matchers
            && self.starts_at.is_none_or(|starts_at| starts_at == silence.starts_at)
            && self.ends_at == silence.ends_at
            && self.comment == silence.comment
    }
}

/// Applies a change to a silence, which may end at another time and have other words; returns both.
///
/// # Errors
/// 400 that names every bad field; 409 when it is over; 412 for another version.
pub(super) fn changed(
    silence: &Silence,
    change: Change,
    now: Timestamp,
) -> Result<(Timestamp, String), Problem> {
    let mut fields = change.apply(silence, RULES)?;
    if silence.ends_at <= now {
        return Err(Problem::conflict("/problems/expired", "the silence is over: make another one"));
    }
    let ends_at = take_end(&mut fields, silence.starts_at, now);
    let comment = take_comment(&mut fields);
    fields.finish()?;
    let ends_at = ends_at.ok_or_else(|| Problem::internal(&"an end was neither read nor refused"))?;
    Ok((ends_at, comment))
}

fn take_end(fields: &mut Fields, starts_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let ends_at = fields.parsed("endsAt", Timestamp::parse)?;
    if ends_at <= now {
        fields.problem("endsAt", "must be in the future");
    } else if ends_at.as_micros() - now.as_micros() > AHEAD_MICROS_MAX {
        fields.problem("endsAt", "must be at most 365 days ahead");
    } else if ends_at <= starts_at {
        fields.problem("startsAt", "must be before endsAt");
    }
    Some(ends_at)
}

fn take_comment(fields: &mut Fields) -> String {
    fields.text("comment", |text| {
        if text.trim().is_empty() {
            return Err("must say why nobody is to be told".to_owned());
        }
        check_prose(text, COMMENT_CHARS_MAX)
    })
}

/// Where a silence stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Pending,
    Active,
    Expired,
}

const STATES: [(&str, State); 3] =
    [("pending", State::Pending), ("active", State::Active), ("expired", State::Expired)];

/// Which silences a list is about: those that say the same in each part that is given.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) matchers: Matchers,
    pub(super) state: Option<State>,
}

impl Filter {
    /// Takes the filters of a query string.
    pub(super) fn take(fields: &mut Fields) -> Self {
        Self { matchers: Matchers::take(fields), state: fields.one_of_optional("state", &STATES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:00:00Z";

    fn bad(json: &str) -> Vec<String> {
        let now = Timestamp::parse(NOW).unwrap();
        let outcome = NewSilence::read(Fields::of_json(json.as_bytes()).unwrap(), now);
        let errors = outcome.map_or_else(|problem| problem.errors, |_| Vec::new());
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        assert_eq!(bad("{}"), ["sensorId", "endsAt", "comment"]);
        let worst = r#"{"silenceId":"1","createdBy":"me","sensorId":"a/b","severity":"loud","startsAt":"soon","endsAt":1,
            "comment":" ","colour":"red"}"#;
        let all =
            ["silenceId", "createdBy", "sensorId", "severity", "startsAt", "endsAt", "comment", "colour"];
        assert_eq!(bad(worst), all);
    }

    #[test]
    fn a_silence_ends_after_it_starts_and_within_a_year() {
        let times = |times: &str| bad(&format!(r#"{{"zoneId":"z","comment":"why",{times}}}"#));
        for good in [
            r#""endsAt":"2026-01-02T03:00:00.000001Z""#,
            r#""endsAt":"2027-01-02T03:00:00Z""#,
            r#""startsAt":"2025-01-01T00:00:00Z","endsAt":"2026-01-02T04:00:00Z""#,
            r#""startsAt":"2026-06-01T00:00:00Z","endsAt":"2026-06-02T00:00:00+05:00""#,
        ] {
            assert_eq!(times(good), Vec::<String>::new(), "{good}");
        }
        for (bad, field) in [
            (r#""endsAt":"2026-01-02T03:00:00Z""#, "endsAt"),
            (r#""endsAt":"2027-01-02T03:00:00.000001Z""#, "endsAt"),
            (r#""startsAt":"2026-06-01T00:00:00Z","endsAt":"2026-06-01T00:00:00Z""#, "startsAt"),
        ] {
            assert_eq!(times(bad), [field], "{bad}");
        }
    }
}
