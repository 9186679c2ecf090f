//! Table `sensor_thresholds`. Each change is one transaction; a refusal is the problem that the caller gets.

use crate::threshold::{Draft, Filter, Threshold};
use chassis::http::{Change, Listing, Page, Problem, check_version};
use deadpool_postgres::{Pool, Transaction};
use schema::{Mode, Severity};
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

/// The columns that a caller writes, in the order of [`params`].
macro_rules! written {
    () => {
        "sensor_id, device_type, zone_id, metric, min_value, max_value, severity, mode, description"
    };
}

/// Their parameters; `$1` is the id.
macro_rules! placeholders {
    () => {
        "$2, $3, $4, $5, $6, $7, $8, $9, $10"
    };
}

macro_rules! columns {
    () => {
        concat!("threshold_id, ", written!(), ", version, created_at, updated_at")
    };
}

macro_rules! filtered {
    () => {
        " FROM sensor_thresholds WHERE ($1::text IS NULL OR sensor_id = $1) AND ($2::text IS NULL OR metric = $2) \
         AND ($3::text IS NULL OR device_type = $3) AND ($4::text IS NULL OR zone_id = $4)"
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
const COUNT: &str = concat!("SELECT count(*)", filtered!());
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    filtered!(),
    " ORDER BY sensor_id, metric, threshold_id LIMIT $5 OFFSET $6"
);
const TWIN: &str = "SELECT threshold_id FROM sensor_thresholds WHERE threshold_id <> $1 \
   AND sensor_id IS NOT DISTINCT FROM $2 AND device_type IS NOT DISTINCT FROM $3 AND zone_id IS NOT DISTINCT FROM $4 \
   AND metric = $5 AND min_value IS NOT DISTINCT FROM $6 AND max_value IS NOT DISTINCT FROM $7 AND severity = $8";
// Another change of the row waits until this one is made.
const LOCK: &str =
    concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE threshold_id = $1 FOR UPDATE");
const UPDATE: &str = concat!(
    "UPDATE sensor_thresholds SET (",
    written!(),
    ") = (",
    placeholders!(),
    "), version = nextval('sensor_thresholds_version'), updated_at = now() WHERE threshold_id = $1 RETURNING ",
    columns!()
);
const DELETE: &str = "DELETE FROM sensor_thresholds WHERE threshold_id = $1";

fn read(row: &Row) -> Result<Threshold, Problem> {
    let severity = match row.try_get("severity")? {
        "info" => Severity::Info,
        "warning" => Severity::Warning,
        "critical" => Severity::Critical,
        _ => return Err(Problem::internal(&"a threshold has an unknown severity")),
    };
    let mode = Mode::from_name(row.try_get("mode")?);
    Ok(Threshold {
        threshold_id: row.try_get("threshold_id")?,
        draft: Draft {
            sensor_id: row.try_get("sensor_id")?,
            device_type: row.try_get("device_type")?,
            zone_id: row.try_get("zone_id")?,
            metric: row.try_get("metric")?,
            min: row.try_get("min_value")?,
            max: row.try_get("max_value")?,
            severity,
            mode: mode.ok_or_else(|| Problem::internal(&"a threshold has an unknown mode"))?,
            description: row.try_get("description")?,
        },
        version: row.try_get("version")?,
        created_at: row.try_get::<_, OffsetDateTime>("created_at")?.into(),
        updated_at: row.try_get::<_, OffsetDateTime>("updated_at")?.into(),
    })
}

/// Returns the parameters of [`INSERT`] and [`UPDATE`]: the id, then the columns that a caller writes.
fn params<'a>(id: &'a Uuid, draft: &'a Draft, words: &'a Words) -> [&'a (dyn ToSql + Sync); 10] {
    let Draft { sensor_id, device_type, zone_id, metric, min, max, severity: _, mode: _, description } =
        draft;
    let Words { severity, mode } = words;
    [id, sensor_id, device_type, zone_id, metric, min, max, severity, mode, description]
}

/// Holds what stands as a word in its column.
struct Words {
    severity: &'static str,
    mode: &'static str,
}

impl Words {
    fn of(draft: &Draft) -> Self {
        Self { severity: draft.severity.as_str(), mode: draft.mode.as_str() }
    }
}

/// Adds a row, or finds the one that the same request has added before; says whether it is new.
pub(crate) async fn insert(pool: &Pool, id: Uuid, draft: &Draft) -> Result<(bool, Threshold), Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(INSERT).await?;
    let inserted = client.query_opt(&statement, &params(&id, draft, &Words::of(draft))).await;
    drop(client);
    if let Some(row) = inserted.map_err(known_device)? {
        return Ok((true, read(&row)?));
    }
    match find(pool, id).await {
        Ok(threshold) if threshold.draft == *draft => Ok((false, threshold)),
        Ok(_) => Err(Problem::conflict("/problems/exists", "another threshold has this thresholdId")),
        Err(_) => Err(twin(pool, id, draft).await),
    }
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
async fn twin(pool: &Pool, id: Uuid, draft: &Draft) -> Problem {
    let found = async {
        let client = pool.get().await?;
        let severity = draft.severity.as_str();
        let Draft { sensor_id, device_type, zone_id, metric, min, max, .. } = draft;
        let params: [&(dyn ToSql + Sync); 8] =
            [&id, sensor_id, device_type, zone_id, metric, min, max, &severity];
        client.query_opt(TWIN, &params).await.map_err(Problem::from)
    };
    let twin = match found.await {
        Ok(row) => row.and_then(|row| row.try_get::<_, Uuid>(0).ok()),
        Err(problem) => return problem,
    };
    let name = twin.map_or_else(String::new, |twin| format!(" {twin}"));
    let detail = format!("the threshold{name} has this scope, metric, severity, min and max");
    Problem::conflict("/problems/same-limits", detail)
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

/// Reads a page, ordered by sensor (thresholds of zones and types come last), metric and id. Page and total
/// are two statements: a write between them may show.
pub(crate) async fn list(pool: &Pool, filter: &Filter, page: Page) -> Result<Listing<Threshold>, Problem> {
    let client = pool.get().await?;
    let (count, list) = tokio::try_join!(client.prepare_cached(COUNT), client.prepare_cached(LIST))?;
    let Filter { sensor_id, metric, device_type, zone_id } = filter;
    let params: [&(dyn ToSql + Sync); 6] =
        [sensor_id, metric, device_type, zone_id, &page.limit, &page.offset];
    let (total, rows) =
        tokio::try_join!(client.query_one(&count, &params[..4]), client.query(&list, &params))?;
    let resources = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Listing::new(resources, total.try_get(0)?, page))
}

/// Applies a change to a row, if it has one of the expected versions.
pub(crate) async fn change(
    pool: &Pool,
    id: Uuid,
    change: Change,
    expected: Option<&[i64]>,
) -> Result<Threshold, Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let threshold = lock(&transaction, id, expected).await?;
    let draft = Draft::changed(&threshold, change)?;
    let statement = transaction.prepare_cached(UPDATE).await?;
    match transaction.query_one(&statement, &params(&id, &draft, &Words::of(&draft))).await {
        Ok(row) => {
            transaction.commit().await?;
            read(&row)
        }
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            // The connection goes back first: this very call may need the last one again.
            transaction.rollback().await?;
            drop(client);
            Err(twin(pool, id, &draft).await)
        }
        Err(error) => Err(known_device(error)),
    }
}

/// Removes a row, if it has one of the expected versions.
pub(crate) async fn delete(pool: &Pool, id: Uuid, expected: Option<&[i64]>) -> Result<(), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    lock(&transaction, id, expected).await?;
    let statement = transaction.prepare_cached(DELETE).await?;
    transaction.execute(&statement, &[&id]).await?;
    Ok(transaction.commit().await?)
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
