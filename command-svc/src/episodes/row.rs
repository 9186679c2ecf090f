//! Alerts of one episode → its row. No clock, no I/O.
//!
//! Of two alerts of an episode either may come first: partitions change hands, and a record is delivered
//! again. So rows are joined by an operation that does not mind order, grouping or repetition; the upsert of
//! [`super::store`] is the same operation in SQL.

use crate::batch::Reason;
use schema::{Alert, Bound, EpisodeStep, Limit, Severity, Status, Timestamp, check_metric, check_sensor_id};
use uuid::Uuid;

/// Holds what alerts of one episode say together: a row of `alert_episodes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub(crate) episode_id: Uuid,
    pub(crate) threshold_id: Uuid,
    /// Of the alert that opened it.
    pub(crate) value_first: Option<f64>,
    /// Extremes of the values that violated.
    pub(crate) value_min: Option<f64>,
    pub(crate) value_max: Option<f64>,
    pub(crate) opened_at: Timestamp,
    /// What only the newest alert says.
    pub(crate) newest: Newest,
}

/// Holds what one alert says and the next may say otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    pub(crate) is_closed: bool,
    pub(crate) occurrences: i64,
    pub(crate) last_at: Timestamp,
    pub(crate) last_detected_at: Timestamp,
    pub(crate) last_alert_id: Uuid,
    pub(crate) threshold_version: i64,
    pub(crate) bound: Bound,
    pub(crate) sensor_id: String,
    pub(crate) display_name: Option<String>,
    pub(crate) metric: String,
    pub(crate) unit: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) zone_id: String,
    pub(crate) device_type: String,
    pub(crate) closing_reason: Option<schema::Reason>,
    pub(crate) value: Option<f64>,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) summary: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) silenced_by: Option<Uuid>,
}

/// Says why a record makes no row.
#[derive(Debug, thiserror::Error)]
pub enum NoRow {
    /// An alert of before there were episodes (skipped).
    #[error("alert has no episode")]
    WithoutEpisode,
    /// Not the JSON of an alert (dead letter). It says where and not what, because logs must not quote it.
    #[error("record is not an Alert: {category:?} error at line {line}, column {column}")]
    NotAnAlert {
        /// What kind of error.
        category: serde_json::error::Category,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// A tombstone, or a record without a value (dead letter).
    #[error("record has no value")]
    Empty,
    /// A name outside its alphabet or length (dead letter).
    #[error(transparent)]
    Name(#[from] schema::IdentityError),
    /// A text in which no database takes this character (dead letter).
    #[error("a text holds the character U+0000")]
    Nul,
}

impl NoRow {
    /// Returns the reason of the dead letter; none of an alert that is skipped.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::WithoutEpisode => None,
            Self::Nul => Some(Reason::Unstorable),
            Self::NotAnAlert { .. } | Self::Empty | Self::Name(_) => Some(Reason::NotAnAlert),
        }
    }
}

impl From<serde_json::Error> for NoRow {
    fn from(error: serde_json::Error) -> Self {
        Self::NotAnAlert { category: error.classify(), line: error.line(), column: error.column() }
    }
}

/// Decodes one record of `iot-alerts`.
///
/// # Errors
/// [`NoRow`]: skip or dead letter.
pub fn decode(value: Option<&[u8]>) -> Result<Row, NoRow> {
    let alert: Alert = serde_json::from_slice(value.ok_or(NoRow::Empty)?)?;
    check_sensor_id(&alert.sensor_id)?;
    check_metric(&alert.metric)?;
    let prose = [&alert.display_name, &alert.unit, &alert.summary, &alert.description];
    let texts = prose.into_iter().flatten().chain([&alert.zone_id, &alert.device_type]);
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(NoRow::Nul);
    }
    Row::of(alert).ok_or(NoRow::WithoutEpisode)
}

impl Row {
    /// Makes the row of one alert; none of an alert without an episode.
    pub fn of(alert: Alert) -> Option<Self> {
        let episode_id = alert.episode_id?;
        let is_closed = alert.status == Status::Resolved || alert.episode == Some(EpisodeStep::Closed);
        let violating = alert.value.filter(|_| !is_closed);
        let closed_at = match alert.reason {
            // That reading ends it; else it ends when the alerting service says so.
            Some(schema::Reason::Recovered) => alert.reading_at,
            _ => alert.detected_at,
        };
        Some(Self {
            episode_id,
            threshold_id: alert.threshold_id,
            value_first: violating.filter(|_| alert.episode == Some(EpisodeStep::Opened)),
            value_min: violating,
            value_max: violating,
            opened_at: alert.opened_at.unwrap_or(alert.reading_at),
            newest: Newest {
                is_closed,
                occurrences: alert.occurrences.map_or(0, |count| i64::try_from(count).unwrap_or(i64::MAX)),
                last_at: alert.reading_at,
                last_detected_at: alert.detected_at,
                last_alert_id: alert.alert_id,
                threshold_version: alert.threshold_version,
                bound: alert.bound,
                sensor_id: alert.sensor_id,
                display_name: alert.display_name,
                metric: alert.metric,
                unit: alert.unit,
                severity: alert.severity,
                zone_id: alert.zone_id,
                device_type: alert.device_type,
                closing_reason: alert.reason.filter(|_| is_closed),
                value: alert.value,
                closed_at: is_closed.then_some(closed_at),
                summary: alert.summary,
                description: alert.description,
                silenced_by: alert.silenced_by,
            },
        })
    }

    /// Joins two rows of one episode.
    ///
    /// Guarantee: commutative, associative and idempotent; what is closed stays closed.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (newer, older) =
            if self.newest.rank() >= other.newest.rank() { (self, other) } else { (other, self) };
        Self {
            value_first: newer.value_first.or(older.value_first),
            value_min: either(newer.value_min, older.value_min, f64::min),
            value_max: either(newer.value_max, older.value_max, f64::max),
            opened_at: newer.opened_at.min(older.opened_at),
            ..newer
        }
    }
}

impl Newest {
    /// Orders alerts of one episode: what closes it is the last; occurrences grow; an episode of silence
    /// counts none, and then the clocks decide.
    fn rank(&self) -> (bool, i64, Timestamp, Timestamp, Uuid) {
        (self.is_closed, self.occurrences, self.last_at, self.last_detected_at, self.last_alert_id)
    }
}

fn either(one: Option<f64>, other: Option<f64>, both: fn(f64, f64) -> f64) -> Option<f64> {
    one.zip(other).map(|(one, other)| both(one, other)).or(one).or(other)
}

/// Spells a limit as its column does.
pub(crate) const fn name_of_limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Min => "min",
        Limit::Max => "max",
        Limit::NoData => "noData",
    }
}

/// Spells why an episode of this limit was opened, as its column does.
pub(crate) const fn reason_of_limit(limit: Limit) -> &'static str {
    match limit {
        Limit::Min => "below",
        Limit::Max => "above",
        Limit::NoData => "noData",
    }
}

/// Spells why an episode was closed, as its column does.
pub(crate) const fn name_of_reason(reason: schema::Reason) -> &'static str {
    use schema::Reason::{Above, Below, DeviceGone, NoData, Recovered, RuleChanged, RuleDeleted, RuleOff};
    match reason {
        Above => "above",
        Below => "below",
        NoData => "noData",
        Recovered => "recovered",
        RuleChanged => "ruleChanged",
        RuleOff => "ruleOff",
        RuleDeleted => "ruleDeleted",
        DeviceGone => "deviceGone",
    }
}

#[cfg(test)]
mod tests;
