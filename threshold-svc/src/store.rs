//! Table `sensor_thresholds`. Each change is one transaction with its row in the history; a refusal is the
//! problem that the caller gets.

use crate::threshold::{Draft, Filter, Threshold};
use crate::versions::{self, Event};
use crate::warnings::{self, Warning};
use chassis::http::{Change, KeysetListing, KeysetPage, Problem, check_version};
use chassis::postgres::Select;
use deadpool_postgres::{GenericClient, Pool, Transaction};
use schema::{Mode, Severity, ThresholdRow};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// What a list is ordered by: sensor (thresholds of zones and types come first), metric and id.
pub(crate) type Key = (String, String, Uuid);

/// The columns that a caller writes, in the order of [`Columns::params`].
macro_rules! written {
    () => {
        "sensor_id, device_type, zone_id, metric, min_value, max_value, no_data_seconds, hysteresis, for_seconds, \
         keep_firing_seconds, repeat, alert_age_seconds_max, severity, mode, description, updated_by"
    };
}

/// Their parameters; `$1` is the id.
macro_rules! placeholders {
    () => {
        "$2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17"
    };
}

macro_rules! columns {
    () => {
        concat!("threshold_id, ", written!(), ", version, created_at, updated_at")
    };
}

const INSERT: &str = concat!(
    "INSERT INTO sensor_thresholds (threshold_id, ",
    written!(),
    ") VALUES ($1, ",
    placeholders!(),
    ") ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);
const SELECT: &str = concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE threshold_id = $1");
const COUNT: &str = "SELECT count(*) FROM sensor_thresholds WHERE true";
const LIST: &str = concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE true");
const TWIN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sensor_thresholds WHERE threshold_id <> $1 \
   AND sensor_id IS NOT DISTINCT FROM $2 AND device_type IS NOT DISTINCT FROM $3 AND zone_id IS NOT DISTINCT FROM $4 \
   AND metric = $5 AND min_value IS NOT DISTINCT FROM $6 AND max_value IS NOT DISTINCT FROM $7 \
   AND no_data_seconds IS NOT DISTINCT FROM $8 AND severity = $9"
);
// Another change of the row waits until this one is made.
const LOCK: &str =
    concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE threshold_id = $1 FOR UPDATE");
const LOCK_ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sensor_thresholds WHERE threshold_id = ANY($1) ORDER BY threshold_id FOR UPDATE"
);
const UPDATE: &str = concat!(
    "UPDATE sensor_thresholds SET (",
    written!(),
    ") = (",
    placeholders!(),
    "), version = nextval('sensor_thresholds_version'), updated_at = now() WHERE threshold_id = $1 RETURNING ",
    columns!()
);
const DELETE: &str = "DELETE FROM sensor_thresholds WHERE threshold_id = $1";

/// A threshold as a change answers it: with what the caller may not have meant.
#[derive(Debug, Serialize)]
pub(crate) struct Changed {
    #[serde(flatten)]
    pub(crate) threshold: Threshold,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
}

pub(crate) fn read(row: &Row) -> Result<Threshold, Problem> {
    Ok(Threshold {
        threshold_id: row.try_get("threshold_id")?,
        draft: Draft {
            sensor_id: row.try_get("sensor_id")?,
            device_type: row.try_get("device_type")?,
            zone_id: row.try_get("zone_id")?,
            metric: row.try_get("metric")?,
            min: row.try_get("min_value")?,
            max: row.try_get("max_value")?,
            no_data_seconds: row.try_get::<_, Option<i32>>("no_data_seconds")?.map(i32::unsigned_abs),
            hysteresis: row.try_get("hysteresis")?,
            for_seconds: row.try_get::<_, i32>("for_seconds")?.unsigned_abs(),
            keep_firing_seconds: row.try_get::<_, i32>("keep_firing_seconds")?.unsigned_abs(),
            repeat: row.try_get::<_, &str>("repeat")?.parse().map_err(|error| Problem::internal(&error))?,
            alert_age_seconds_max: row
                .try_get::<_, Option<i32>>("alert_age_seconds_max")?
                .map(i32::unsigned_abs),
            severity: read_severity(row.try_get("severity")?)?,
            mode: Mode::from_name(row.try_get("mode")?)
                .ok_or_else(|| Problem::internal(&"a threshold has an unknown mode"))?,
            description: row.try_get("description")?,
        },
        version: row.try_get("version")?,
        created_at: row.try_get::<_, OffsetDateTime>("created_at")?.into(),
        updated_at: row.try_get::<_, OffsetDateTime>("updated_at")?.into(),
        updated_by: row.try_get("updated_by")?,
    })
}

pub(crate) fn read_severity(name: &str) -> Result<Severity, Problem> {
    Severity::from_name(name).ok_or_else(|| Problem::internal(&"a row has an unknown severity"))
}

/// A draft as the columns that [`INSERT`] and [`UPDATE`] write.
struct Columns<'a> {
    draft: &'a Draft,
    no_data_seconds: Option<i32>,
    for_seconds: i32,
    keep_firing_seconds: i32,
    repeat: String,
    alert_age_seconds_max: Option<i32>,
    severity: &'static str,
    mode: &'static str,
    by: &'a str,
}

impl<'a> Columns<'a> {
    fn of(draft: &'a Draft, by: &'a str) -> Self {
        // No time is over a year.
        let seconds = |seconds: u32| i32::try_from(seconds).unwrap_or(i32::MAX);
        Self {
            draft,
            no_data_seconds: draft.no_data_seconds.map(seconds),
            for_seconds: seconds(draft.for_seconds),
            keep_firing_seconds: seconds(draft.keep_firing_seconds),
            repeat: draft.repeat.to_string(),
            alert_age_seconds_max: draft.alert_age_seconds_max.map(seconds),
            severity: draft.severity.as_str(),
            mode: draft.mode.as_str(),
            by,
        }
    }

    /// Returns the id, then what a caller writes.
    fn params<'b>(&'b self, id: &'b Uuid) -> [&'b (dyn ToSql + Sync); 17] {
        let Draft { sensor_id, device_type, zone_id, metric, min, max, hysteresis, description, .. } =
            self.draft;
        [
            id,
            sensor_id,
            device_type,
            zone_id,
            metric,
            min,
            max,
            &self.no_data_seconds,
            hysteresis,
            &self.for_seconds,
            &self.keep_firing_seconds,
            &self.repeat,
            &self.alert_age_seconds_max,
            &self.severity,
            &self.mode,
            description,
            &self.by,
        ]
    }
}

/// Adds a row, or finds the one that the same request has added before; says whether it is new.
pub(crate) async fn insert(
    pool: &Pool,
    id: Uuid,
    draft: &Draft,
    by: &str,
) -> Result<(bool, Changed), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    if let Some(threshold) = add(&transaction, id, draft, by).await? {
        let warnings = warnings::find(&transaction, id, draft).await?;
        transaction.commit().await?;
        return Ok((true, Changed { threshold, warnings }));
    }
    transaction.rollback().await?;
    drop(client);
    match find(pool, id).await {
        Ok(threshold) if threshold.draft == *draft => {
            Ok((false, Changed { threshold, warnings: Vec::new() }))
        }
        Ok(_) => Err(Problem::conflict("/problems/exists", "another threshold has this thresholdId")),
        Err(_) => {
            let client = pool.get().await?;
            Err(twin(&client, id, draft).await?)
        }
    }
}

/// Adds a row and the first one of its history; none when the id or the limits are there already.
pub(crate) async fn add(
    transaction: &Transaction<'_>,
    id: Uuid,
    draft: &Draft,
    by: &str,
) -> Result<Option<Threshold>, Problem> {
    let statement = transaction.prepare_cached(INSERT).await?;
    let row = transaction.query_opt(&statement, &Columns::of(draft, by).params(&id)).await;
    let Some(row) = row.map_err(known_device)? else { return Ok(None) };
    let threshold = read(&row)?;
    versions::record(transaction, Event::Created, &threshold).await?;
    Ok(Some(threshold))
}

/// Explains a row that the database has refused because its device is not registered.
fn known_device(error: Error) -> Problem {
    if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) {
        return Problem::field("sensorId", "is no registered device");
    }
    error.into()
}

/// Names the threshold that has the same limits. If it has gone meanwhile, the caller may try again all the
/// same.
pub(crate) async fn twin(client: &impl GenericClient, id: Uuid, draft: &Draft) -> Result<Problem, Problem> {
    let twin = find_twin(client, id, draft).await?;
    let name = twin.map_or_else(String::new, |twin| format!(" {}", twin.threshold_id));
    let detail = format!("the threshold{name} has this scope, metric, severity and limits");
    Ok(Problem::conflict("/problems/same-limits", detail))
}

/// Finds another threshold that has the same limits.
pub(crate) async fn find_twin(
    client: &impl GenericClient,
    id: Uuid,
    draft: &Draft,
) -> Result<Option<Threshold>, Problem> {
    let statement = client.prepare_cached(TWIN).await?;
    let columns = Columns::of(draft, "");
    let mut params = columns.params(&id)[..8].to_vec();
    params.push(&columns.severity);
    client.query_opt(&statement, &params).await?.as_ref().map(read).transpose()
}

/// Reads a row.
pub(crate) async fn find(pool: &Pool, id: Uuid) -> Result<Threshold, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(SELECT).await?;
    match client.query_opt(&statement, &[&id]).await? {
        Some(row) => read(&row),
        None => Err(Problem::not_found("no such threshold")),
    }
}

/// Reads a page in the order of [`Key`]. Page and total are two statements: a write between them may show.
pub(crate) async fn list(
    pool: &Pool,
    filter: &Filter,
    page: &KeysetPage<Key>,
) -> Result<KeysetListing<Threshold>, Problem> {
    let client = pool.get().await?;
    let rows = page.rows();
    let select = listed(filter, page.after.as_ref()).then(" LIMIT $?", [(&rows, Type::INT8)]);
    let rows = client.query_typed(select.text(), select.params()).await?;
    let total = filtered(COUNT, filter).total(&client, page.is_total_wanted).await?;
    let thresholds = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(KeysetListing::new(thresholds, page, key, total))
}

pub(crate) fn key(threshold: &Threshold) -> Key {
    let Draft { sensor_id, metric, .. } = &threshold.draft;
    (sensor_id.clone().unwrap_or_default(), metric.clone(), threshold.threshold_id)
}

/// Writes the statement of a list. It is planned for these filters, and says each of them so that an index of
/// V2 begins with it.
fn listed<'a>(filter: &'a Filter, after: Option<&'a Key>) -> Select<'a> {
    let mut select = filtered(LIST, filter);
    if let Some((sensor_id, metric, id)) = after {
        select = if filter.metric.is_some() {
            let place: [(&(dyn ToSql + Sync), Type); 2] = [(sensor_id, Type::TEXT), (id, Type::UUID)];
            select.then(" AND (coalesce(sensor_id, ''), threshold_id) > ($?, $?)", place)
        } else {
            let place: [(&(dyn ToSql + Sync), Type); 3] =
                [(sensor_id, Type::TEXT), (metric, Type::TEXT), (id, Type::UUID)];
            select.then(" AND (coalesce(sensor_id, ''), metric, threshold_id) > ($?, $?, $?)", place)
        };
    }
    select.then(" ORDER BY coalesce(sensor_id, ''), metric, threshold_id", [])
}

fn filtered<'a>(text: &str, filter: &'a Filter) -> Select<'a> {
    let Filter { sensor_id, metric, device_type, zone_id, severity, mode, ids } = filter;
    let mut select = Select::new(text);
    if let Some((first, last)) = ids {
        let ends: [(&(dyn ToSql + Sync), Type); 2] = [(first, Type::UUID), (last, Type::UUID)];
        select = select.then(" AND threshold_id BETWEEN $? AND $?", ends);
    }
    // A threshold of zones and types has no sensor, which is where the list begins.
    for (value, condition) in [
        (sensor_id, " AND coalesce(sensor_id, '') = $?"),
        (metric, " AND metric = $?"),
        (device_type, " AND coalesce(sensor_id, '') = '' AND device_type = $?"),
        (zone_id, " AND coalesce(sensor_id, '') = '' AND zone_id = $?"),
    ] {
        if let Some(value) = value {
            select = select.then(condition, [(value as _, Type::TEXT)]);
        }
    }
    // Words of ours: an index may be of one mode alone.
    if let Some(severity) = severity {
        select = select.then(&format!(" AND severity = '{}'", severity.as_str()), []);
    }
    if let Some(mode) = mode {
        select = select.then(&format!(" AND mode = '{}'", mode.as_str()), []);
    }
    select
}

/// Reads the live thresholds with the purpose of one (ADR 0022): those of zones and types, and those of that
/// sensor, or of all; no more than `limit`.
pub(crate) async fn in_force(
    transaction: &Transaction<'_>,
    row: &ThresholdRow,
    sensor_id: Option<&str>,
    limit: i64,
) -> Result<Vec<Threshold>, Problem> {
    let (metric, severity) = (Some(row.metric.clone()), Some(row.severity));
    let filter = Filter { metric, severity, mode: Some(Mode::Live), ..Filter::default() };
    let is_silence = row.no_data_seconds.is_some();
    let mut select =
        filtered(LIST, &filter).then(" AND (no_data_seconds IS NOT NULL) = $?", [(&is_silence, Type::BOOL)]);
    if let Some(sensor_id) = &sensor_id {
        select = select.then(" AND coalesce(sensor_id, '') IN ('', $?)", [(sensor_id, Type::TEXT)]);
    }
    let select = select.then(" LIMIT $?", [(&limit, Type::INT8)]);
    transaction.query_typed(select.text(), select.params()).await?.iter().map(read).collect()
}

/// Applies a change to a row, if it has one of the expected versions.
pub(crate) async fn change(
    pool: &Pool,
    id: Uuid,
    change: Change,
    expected: Option<&[i64]>,
    by: &str,
) -> Result<Changed, Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let threshold = lock(&transaction, id, expected).await?;
    let draft = Draft::changed(&threshold, change)?;
    match update(&transaction, id, &draft, by).await {
        Ok(threshold) => {
            let warnings = warnings::find(&transaction, id, &draft).await?;
            transaction.commit().await?;
            Ok(Changed { threshold, warnings })
        }
        Err(Refusal::Taken) => {
            transaction.rollback().await?;
            Err(twin(&client, id, &draft).await?)
        }
        Err(Refusal::Other(problem)) => Err(problem),
    }
}

/// The reason for which a row was not changed. The transaction can only be rolled back.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another threshold has these limits.
    Taken,
    Other(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.code() {
            Some(&SqlState::UNIQUE_VIOLATION) => Self::Taken,
            _ => Self::Other(known_device(error)),
        }
    }
}

/// Writes a row that is there, and the next one of its history.
pub(crate) async fn update(
    transaction: &Transaction<'_>,
    id: Uuid,
    draft: &Draft,
    by: &str,
) -> Result<Threshold, Refusal> {
    let statement = transaction.prepare_cached(UPDATE).await?;
    let row = transaction.query_one(&statement, &Columns::of(draft, by).params(&id)).await?;
    let threshold = read(&row)?;
    versions::record(transaction, Event::Changed, &threshold).await?;
    Ok(threshold)
}

/// Removes a row, if it has one of the expected versions.
pub(crate) async fn delete(pool: &Pool, id: Uuid, expected: Option<&[i64]>, by: &str) -> Result<(), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    lock(&transaction, id, expected).await?;
    remove(&transaction, id, by).await?;
    Ok(transaction.commit().await?)
}

/// Removes a row that is locked, and writes the last one of its history.
pub(crate) async fn remove(transaction: &Transaction<'_>, id: Uuid, by: &str) -> Result<(), Problem> {
    let statement = transaction.prepare_cached(DELETE).await?;
    transaction.execute(&statement, &[&id]).await?;
    versions::record_deletion(transaction, id, by).await
}

/// Reads a row and keeps it as it is until the transaction ends.
async fn lock(
    transaction: &Transaction<'_>,
    id: Uuid,
    expected: Option<&[i64]>,
) -> Result<Threshold, Problem> {
    let statement = transaction.prepare_cached(LOCK).await?;
    let row = transaction.query_opt(&statement, &[&id]).await?;
    let threshold = read(&row.ok_or_else(|| Problem::not_found("no such threshold"))?)?;
    check_version(expected, threshold.version)?;
    Ok(threshold)
}

/// Reads those of some rows that are there, and keeps them as they are until the transaction ends.
pub(crate) async fn lock_all(transaction: &Transaction<'_>, ids: &[Uuid]) -> Result<Vec<Threshold>, Problem> {
    let statement = transaction.prepare_cached(LOCK_ALL).await?;
    transaction.query(&statement, &[&ids]).await?.iter().map(read).collect()
}
