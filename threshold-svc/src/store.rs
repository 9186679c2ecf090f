//! Table `sensor_thresholds`. Each change is one transaction; a refusal is the problem that the caller gets.

use crate::threshold::{Draft, Filter, Threshold};
use chassis::http::{Change, Listing, Page, Problem, check_version};
use deadpool_postgres::{Pool, Transaction};
use schema::Severity;
use time::OffsetDateTime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

macro_rules! columns {
    () => {
        "threshold_id, sensor_id, metric, min_value, max_value, severity, enabled, description, version, created_at, \
         updated_at"
    };
}

macro_rules! filtered {
    () => {
        " FROM sensor_thresholds WHERE ($1::text IS NULL OR sensor_id = $1) AND ($2::text IS NULL OR metric = $2)"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO sensor_thresholds \
       (threshold_id, sensor_id, metric, min_value, max_value, severity, enabled, description) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);
const SELECT: &str = concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE threshold_id = $1");
const COUNT: &str = concat!("SELECT count(*)", filtered!());
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    filtered!(),
    " ORDER BY sensor_id, metric, threshold_id LIMIT $3 OFFSET $4"
);
const TWIN: &str = "SELECT threshold_id FROM sensor_thresholds WHERE sensor_id = $1 AND metric = $2 \
   AND severity = $3 AND min_value IS NOT DISTINCT FROM $4 AND max_value IS NOT DISTINCT FROM $5 AND threshold_id <> $6";
// Whoever else changes the row waits until this change is made.
const LOCK: &str =
    concat!("SELECT ", columns!(), " FROM sensor_thresholds WHERE threshold_id = $1 FOR UPDATE");
const UPDATE: &str = concat!(
    "UPDATE sensor_thresholds SET sensor_id = $2, metric = $3, min_value = $4, max_value = $5, severity = $6, \
       enabled = $7, description = $8, version = nextval('sensor_thresholds_version'), updated_at = now() \
     WHERE threshold_id = $1 RETURNING ",
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
    Ok(Threshold {
        threshold_id: row.try_get("threshold_id")?,
        draft: Draft {
            sensor_id: row.try_get("sensor_id")?,
            metric: row.try_get("metric")?,
            min: row.try_get("min_value")?,
            max: row.try_get("max_value")?,
            severity,
            enabled: row.try_get("enabled")?,
            description: row.try_get("description")?,
        },
        version: row.try_get("version")?,
        created_at: row.try_get::<_, OffsetDateTime>("created_at")?.into(),
        updated_at: row.try_get::<_, OffsetDateTime>("updated_at")?.into(),
    })
}

/// The parameters of [`INSERT`] and [`UPDATE`].
fn params<'a>(id: &'a Uuid, draft: &'a Draft, severity: &'a &str) -> [&'a (dyn ToSql + Sync); 8] {
    let Draft { sensor_id, metric, min, max, severity: _, enabled, description } = draft;
    [id, sensor_id, metric, min, max, severity, enabled, description]
}

/// Adds a row, or finds the one that the same request has added before; says whether it is new.
pub(crate) async fn insert(pool: &Pool, id: Uuid, draft: &Draft) -> Result<(bool, Threshold), Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(INSERT).await?;
    let inserted = client.query_opt(&statement, &params(&id, draft, &draft.severity.as_str())).await;
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

/// Names the threshold that has the same limits. If it has gone meanwhile, the caller may try again all the same.
async fn twin(pool: &Pool, id: Uuid, draft: &Draft) -> Problem {
    let found = async {
        let client = pool.get().await?;
        let severity = draft.severity.as_str();
        let params: [&(dyn ToSql + Sync); 6] =
            [&draft.sensor_id, &draft.metric, &severity, &draft.min, &draft.max, &id];
        client.query_opt(TWIN, &params).await.map_err(Problem::from)
    };
    let twin = match found.await {
        Ok(row) => row.and_then(|row| row.try_get::<_, Uuid>(0).ok()),
        Err(problem) => return problem,
    };
    let name = twin.map_or_else(String::new, |twin| format!(" {twin}"));
    let detail = format!("the threshold{name} has this sensorId, metric, severity, min and max");
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

/// Reads a page, ordered by sensor, metric and id. Page and total are two statements: a write between them may show.
pub(crate) async fn list(pool: &Pool, filter: &Filter, page: Page) -> Result<Listing<Threshold>, Problem> {
    let client = pool.get().await?;
    let (count, list) = tokio::try_join!(client.prepare_cached(COUNT), client.prepare_cached(LIST))?;
    let params: [&(dyn ToSql + Sync); 4] = [&filter.sensor_id, &filter.metric, &page.limit, &page.offset];
    let (total, rows) =
        tokio::try_join!(client.query_one(&count, &params[..2]), client.query(&list, &params))?;
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
    match transaction.query_one(&statement, &params(&id, &draft, &draft.severity.as_str())).await {
        Ok(row) => {
            transaction.commit().await?;
            read(&row)
        }
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            // The connection goes back first: who waits for the last one may be this very call.
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
