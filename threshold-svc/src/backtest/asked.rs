//! The request for a backtest: which threshold, over which range, at which sensors. Pure.

use crate::threshold::{Draft, Threshold, parse_id};
use chassis::http::{FieldError, Fields, Problem};
use schema::{Mode, Scope, ThresholdRow, Timestamp, check_label, check_sensor_id};
use serde_json::Value;
use uuid::Uuid;

/// Longest range, in microseconds: 31 days.
const RANGE_MICROS_MAX: i64 = 31 * 86_400 * 1_000_000;

/// What a body says, before the stored threshold is looked up.
#[derive(Debug)]
pub(super) struct Asked {
    /// A stored threshold, to be tested as it is, or with the draft in its place.
    pub(super) id: Option<Uuid>,
    draft: Option<Draft>,
    place: Place,
    range: Range,
}

/// What is to be tested, and on what.
#[derive(Debug)]
pub(super) struct Tested {
    pub(super) row: ThresholdRow,
    pub(super) place: Place,
    pub(super) range: Range,
}

/// Where the sensors are: everything that it names must be so.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) sensor_id: Option<String>,
    pub(super) device_type: Option<String>,
    pub(super) zone_id: Option<String>,
}

/// An instant, and a later one that does not belong to it any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// The end of what has happened of it.
    pub(super) until: Timestamp,
}

impl Asked {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub(super) fn read(mut fields: Fields, now: Timestamp) -> Result<Self, Problem> {
        let mut id = None;
        fields.text_optional("thresholdId", |text| {
            id = Some(parse_id(text)?);
            Ok::<_, &str>(())
        });
        let threshold = fields.take("threshold");
        if threshold.is_none() && id.is_none() && !fields.is_bad("thresholdId") {
            fields.problem("threshold", "is required, or thresholdId");
        }
        let draft = threshold.and_then(|threshold| read_draft(threshold, &mut fields));
        let place = Place {
            sensor_id: fields.text_optional("sensorId", check_sensor_id),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
        };
        let range = read_range(&mut fields, now);
        fields.finish()?;
        let range = range.ok_or_else(|| Problem::internal(&"a range was neither read nor refused"))?;
        Ok(Self { id, draft, place, range })
    }

    /// Puts the stored threshold beside what is asked.
    ///
    /// # Errors
    /// 400 when the sensors that are asked for are not those of the threshold.
    pub(super) fn with(self, stored: Option<&Threshold>) -> Result<Tested, Problem> {
        let draft = self.draft.as_ref().or(stored.map(|stored| &stored.draft));
        let draft = draft.ok_or_else(|| Problem::internal(&"nothing was asked for"))?;
        let mut errors = Vec::new();
        let mut narrow = |field: &str, own: &Option<String>, asked: Option<String>| {
            if let (Some(own), Some(asked)) = (own, &asked)
                && own != asked
            {
                let detail = "is not that of the threshold".to_owned();
                errors.push(FieldError { field: field.to_owned(), detail });
            }
            own.clone().or(asked)
        };
        let place = Place {
            sensor_id: narrow("sensorId", &draft.sensor_id, self.place.sensor_id),
            device_type: narrow("deviceType", &draft.device_type, self.place.device_type),
            zone_id: narrow("zoneId", &draft.zone_id, self.place.zone_id),
        };
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        let row = row(self.id.unwrap_or_else(Uuid::new_v4), draft, self.range.from)?;
        Ok(Tested { row, place, range: self.range })
    }
}

fn read_draft(threshold: Value, fields: &mut Fields) -> Option<Draft> {
    let Value::Object(members) = threshold else {
        fields.problem("threshold", "must be a JSON object");
        return None;
    };
    match Draft::of_answer(members) {
        Ok(draft) => Some(draft),
        Err(problem) => {
            for FieldError { field, detail } in problem.errors {
                fields.problem(format!("threshold.{field}"), detail);
            }
            None
        }
    }
}

fn read_range(fields: &mut Fields, now: Timestamp) -> Option<Range> {
    let from = fields.parsed("from", Timestamp::parse);
    let to = fields.parsed("to", Timestamp::parse);
    let (from, to) = from.zip(to)?;
    if from >= to {
        fields.problem("from", "must be before to");
    } else if to.as_micros() - from.as_micros() > RANGE_MICROS_MAX {
        fields.problem("from", "must be at most 31 days before to");
    } else if from >= now {
        fields.problem("from", "must be in the past");
    }
    Some(Range { from, to, until: to.min(now) })
}

/// Makes a row that has been in force since an instant, as if it were live.
///
/// # Errors
/// 500 for a row that is no threshold.
pub(super) fn row(threshold_id: Uuid, draft: &Draft, since: Timestamp) -> Result<ThresholdRow, Problem> {
    let Draft { sensor_id, device_type, zone_id, .. } = draft.clone();
    let scope = Scope::of_columns(sensor_id, device_type, zone_id);
    Ok(ThresholdRow {
        threshold_id,
        scope: scope.map_err(|error| Problem::internal(&error))?,
        metric: draft.metric.clone(),
        min_value: draft.min,
        max_value: draft.max,
        no_data_seconds: draft.no_data_seconds,
        hysteresis: draft.hysteresis,
        for_seconds: draft.for_seconds,
        keep_firing_seconds: draft.keep_firing_seconds,
        repeat: draft.repeat,
        alert_age_seconds_max: draft.alert_age_seconds_max,
        severity: draft.severity,
        mode: Mode::Live,
        description: String::new(),
        version: 1,
        created_at: since,
        updated_at: since,
        updated_by: String::new(),
    })
}
