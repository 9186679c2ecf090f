//! What a change may not mean: of two thresholds of one metric, severity and kind that meet at a sensor, the
//! more specific one speaks alone (ADR 0022).

use crate::threshold::Draft;
use chassis::http::Problem;
use deadpool_postgres::Transaction;
use schema::Mode;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

/// Thresholds that one warning names; the rest is counted.
const NAMED_MAX: usize = 10;
/// Most thresholds that are looked at, of zones and types and of sensors each: a warning is no reason to
/// wait.
const LOOKED_AT_MAX: i64 = 1_000;

/// The condition of being alike: metric, severity and kind, and another threshold that is evaluated.
macro_rules! alike {
    () => {
        "t.metric = $1 AND t.severity = $2 AND (t.no_data_seconds IS NOT NULL) = $3 AND t.threshold_id <> $4 \
         AND t.mode <> 'off'"
    };
}

macro_rules! columns {
    () => {
        "t.threshold_id, t.sensor_id, t.device_type, t.zone_id, t.mode"
    };
}

/// Those of zones and types that cover a sensor.
const OVER_SENSOR: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM devices AS d JOIN sensor_thresholds AS t ON coalesce(t.sensor_id, '') = '' \
       AND coalesce(t.zone_id, d.zone_id) = d.zone_id AND coalesce(t.device_type, d.device_type) = d.device_type \
     WHERE d.sensor_id = $5 AND ",
    alike!(),
    " LIMIT $6"
);
/// Those of zones and types that may have a sensor in common with zone `$5` and type `$6`, null being any.
const BESIDE_FLEET: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sensor_thresholds AS t WHERE coalesce(t.sensor_id, '') = '' \
       AND ($5::text IS NULL OR coalesce(t.zone_id, $5) = $5) \
       AND ($6::text IS NULL OR coalesce(t.device_type, $6) = $6) AND ",
    alike!(),
    " LIMIT $7"
);
/// Those of single sensors in zone `$5` and of type `$6`, as far as the first ones go.
const BELOW_FLEET: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM (SELECT t.* FROM sensor_thresholds AS t WHERE coalesce(t.sensor_id, '') > '' AND ",
    alike!(),
    " ORDER BY coalesce(t.sensor_id, ''), t.threshold_id LIMIT $7) AS t \
     JOIN devices AS d ON d.sensor_id = t.sensor_id \
     WHERE coalesce($5, d.zone_id) = d.zone_id AND coalesce($6, d.device_type) = d.device_type"
);

/// Tells the caller of a change what it may not have meant.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Warning {
    #[serde(rename = "type")]
    kind: &'static str,
    detail: &'static str,
    /// The thresholds that it is about, as far as it names them.
    threshold_ids: Vec<Uuid>,
    /// How many it is about, as far as they were looked at.
    count: usize,
}

/// Another threshold that may have a sensor in common with the changed one.
#[derive(Clone, Debug)]
struct Other {
    id: Uuid,
    rank: u8,
    mode: Mode,
}

/// Ranks a scope; the greater rank speaks.
fn rank(sensor_id: Option<&str>, device_type: Option<&str>, zone_id: Option<&str>) -> u8 {
    match (sensor_id, zone_id, device_type) {
        (Some(_), _, _) => 3,
        (None, Some(_), Some(_)) => 2,
        (None, Some(_), None) => 1,
        (None, None, _) => 0,
    }
}

/// Finds the warnings of a threshold as it is in this transaction.
pub(crate) async fn find(
    transaction: &Transaction<'_>,
    id: Uuid,
    draft: &Draft,
) -> Result<Vec<Warning>, Problem> {
    if draft.mode == Mode::Off {
        return Ok(Vec::new());
    }
    let Draft { sensor_id, device_type, zone_id, metric, .. } = draft;
    let (severity, is_silence) = (draft.severity.as_str(), draft.no_data_seconds.is_some());
    let mut others = Vec::new();
    if sensor_id.is_some() {
        let statement = transaction.prepare_cached(OVER_SENSOR).await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [metric, &severity, &is_silence, &id, sensor_id, &LOOKED_AT_MAX];
        others.extend(transaction.query(&statement, &params).await?);
    } else {
        for text in [BESIDE_FLEET, BELOW_FLEET] {
            let statement = transaction.prepare_cached(text).await?;
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                [metric, &severity, &is_silence, &id, zone_id, device_type, &LOOKED_AT_MAX];
            others.extend(transaction.query(&statement, &params).await?);
        }
    }
    let others = others.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok(warnings(draft, &others))
}

fn read(row: &Row) -> Result<Other, Problem> {
    let mode = Mode::from_name(row.try_get("mode")?);
    Ok(Other {
        id: row.try_get("threshold_id")?,
        rank: rank(row.try_get("sensor_id")?, row.try_get("device_type")?, row.try_get("zone_id")?),
        mode: mode.ok_or_else(|| Problem::internal(&"a threshold has an unknown mode"))?,
    })
}

/// Says which of the others hide the draft and which it hides. One in shadow is hidden by whatever is more
/// specific, and hides nothing that is live.
fn warnings(draft: &Draft, others: &[Other]) -> Vec<Warning> {
    let own = rank(draft.sensor_id.as_deref(), draft.device_type.as_deref(), draft.zone_id.as_deref());
    let hides = |above: Mode, below: Mode| above == Mode::Live || below == Mode::Shadow;
    let hidden_by = others.iter().filter(|other| other.rank > own && hides(other.mode, draft.mode));
    let hidden = others.iter().filter(|other| other.rank < own && hides(draft.mode, other.mode));
    let hidden_by = Warning::about(
        "hidden",
        "where a sensor has one of these more specific thresholds, too, this one does not speak",
        hidden_by,
    );
    let hidden = Warning::about(
        "hides",
        "at the sensors of this threshold these less specific ones do not speak any more",
        hidden,
    );
    hidden_by.into_iter().chain(hidden).collect()
}

impl Warning {
    fn about<'a>(
        kind: &'static str,
        detail: &'static str,
        others: impl Iterator<Item = &'a Other>,
    ) -> Option<Self> {
        let mut threshold_ids: Vec<_> = others.map(|other| other.id).collect();
        threshold_ids.sort_unstable();
        let count = threshold_ids.len();
        threshold_ids.truncate(NAMED_MAX);
        (count > 0).then_some(Self { kind, detail, threshold_ids, count })
    }
}
