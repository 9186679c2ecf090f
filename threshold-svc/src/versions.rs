//! Table `sensor_threshold_versions`: who made which version of a threshold, and when.

use crate::threshold::Threshold;
use chassis::http::Problem;
use deadpool_postgres::{Pool, Transaction};
use schema::Timestamp;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

/// Versions of one threshold that are kept: its newest, about 600 bytes each.
const VERSIONS_MAX: i64 = 100;
/// Histories of deleted thresholds that one deletion forgets, so that it stays short.
const FORGOTTEN_MAX: i64 = 100;

const INSERT: &str = "INSERT INTO sensor_threshold_versions (threshold_id, version, change, changed_by, threshold) \
     VALUES ($1, $2, $3, $4, $5)";
const PRUNE: &str = "DELETE FROM sensor_threshold_versions WHERE threshold_id = $1 AND version <= (\
     SELECT version FROM sensor_threshold_versions WHERE threshold_id = $1 ORDER BY version DESC LIMIT 1 OFFSET $2)";
const DELETED: &str = "INSERT INTO sensor_threshold_versions (threshold_id, version, change, changed_by) \
     VALUES ($1, nextval('sensor_thresholds_version'), 'deleted', $2)";
// A threshold that was made again under its id has a newer version than its deletion.
const FORGET: &str = "DELETE FROM sensor_threshold_versions WHERE threshold_id IN (\
     SELECT threshold_id FROM sensor_threshold_versions AS last \
     WHERE change = 'deleted' AND changed_at < now() - INTERVAL '1 year' AND NOT EXISTS (\
       SELECT FROM sensor_threshold_versions AS newer \
       WHERE newer.threshold_id = last.threshold_id AND newer.version > last.version) \
     ORDER BY changed_at LIMIT $1)";
const LIST: &str = "SELECT version, change, changed_by, changed_at, threshold FROM sensor_threshold_versions \
     WHERE threshold_id = $1 ORDER BY version DESC LIMIT $2";

/// What a caller did.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Created,
    Changed,
}

/// One version as it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Version {
    version: i64,
    change: String,
    changed_by: String,
    changed_at: Timestamp,
    /// What it was from then on; null when it was deleted.
    threshold: Option<Value>,
}

/// The history of a threshold, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    resources: Vec<Version>,
    count: usize,
}

/// Adds the version that a change has made, in the transaction of the change, and drops the oldest ones.
pub(crate) async fn record(
    transaction: &Transaction<'_>,
    event: Event,
    threshold: &Threshold,
) -> Result<(), Problem> {
    let (insert, prune) =
        tokio::try_join!(transaction.prepare_cached(INSERT), transaction.prepare_cached(PRUNE))?;
    let change = match event {
        Event::Created => "created",
        Event::Changed => "changed",
    };
    let id = threshold.threshold_id;
    let json = serde_json::to_value(threshold).map_err(|error| Problem::internal(&error))?;
    transaction.execute(&insert, &[&id, &threshold.version, &change, &threshold.updated_by, &json]).await?;
    transaction.execute(&prune, &[&id, &VERSIONS_MAX]).await?;
    Ok(())
}

/// Adds the end of a threshold, in the transaction that deletes it. Histories that ended over a year ago are
/// forgotten on the way.
pub(crate) async fn record_deletion(
    transaction: &Transaction<'_>,
    id: Uuid,
    by: &str,
) -> Result<(), Problem> {
    let statements = [DELETED, PRUNE, FORGET].map(|text| transaction.prepare_cached(text));
    let [deleted, prune, forget] = statements;
    let (deleted, prune, forget) = tokio::try_join!(deleted, prune, forget)?;
    transaction.execute(&deleted, &[&id, &by]).await?;
    transaction.execute(&prune, &[&id, &VERSIONS_MAX]).await?;
    transaction.execute(&forget, &[&FORGOTTEN_MAX]).await?;
    Ok(())
}

/// Reads the history of a threshold, also of one that was deleted.
pub(crate) async fn list(pool: &Pool, id: Uuid) -> Result<History, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(LIST).await?;
    let rows = client.query(&statement, &[&id, &VERSIONS_MAX]).await?;
    let resources = rows.iter().map(read).collect::<Result<Vec<_>, Problem>>()?;
    if resources.is_empty() {
        return Err(Problem::not_found("no such threshold"));
    }
    Ok(History { count: resources.len(), resources })
}

fn read(row: &Row) -> Result<Version, Problem> {
    Ok(Version {
        version: row.try_get("version")?,
        change: row.try_get("change")?,
        changed_by: row.try_get("changed_by")?,
        changed_at: row.try_get::<_, OffsetDateTime>("changed_at")?.into(),
        threshold: row.try_get("threshold")?,
    })
}
