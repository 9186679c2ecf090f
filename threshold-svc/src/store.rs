//! Table `sensor_thresholds`. Each change is one statement; a refusal is the problem that the caller gets.

use crate::threshold::{Draft, Filter, Threshold};
use actix_web::http::StatusCode;
use chassis::http::{Listing, Page, Problem};
use deadpool_postgres::Pool;
use schema::Severity;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
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
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING ",
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
const UPDATE: &str = concat!(
    "UPDATE sensor_thresholds SET sensor_id = $2, metric = $3, min_value = $4, max_value = $5, severity = $6, \
       enabled = $7, description = $8, version = version + 1, updated_at = now() \
     WHERE threshold_id = $1 AND ($9::int8[] IS NULL OR version = ANY ($9)) RETURNING ",
    columns!()
);
const DELETE: &str =
    "DELETE FROM sensor_thresholds WHERE threshold_id = $1 AND ($2::int8[] IS NULL OR version = ANY ($2))";

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

/// Adds a row.
pub(crate) async fn insert(pool: &Pool, id: Uuid, draft: &Draft) -> Result<Threshold, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(INSERT).await?;
    let row = client
        .query_one(
            &statement,
            &[
                &id,
                &draft.sensor_id,
                &draft.metric,
                &draft.min,
                &draft.max,
                &draft.severity.as_str(),
                &draft.enabled,
                &draft.description,
            ],
        )
        .await?;
    read(&row)
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

/// Replaces what a caller writes, if the row has one of the expected versions.
pub(crate) async fn replace(
    pool: &Pool,
    id: Uuid,
    draft: &Draft,
    expected: Option<&[i64]>,
) -> Result<Threshold, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(UPDATE).await?;
    let row = client
        .query_opt(
            &statement,
            &[
                &id,
                &draft.sensor_id,
                &draft.metric,
                &draft.min,
                &draft.max,
                &draft.severity.as_str(),
                &draft.enabled,
                &draft.description,
                &expected,
            ],
        )
        .await?;
    drop(client);
    match row {
        Some(row) => read(&row),
        None => Err(refusal(pool, id).await),
    }
}

/// Removes a row, if it has one of the expected versions.
pub(crate) async fn delete(pool: &Pool, id: Uuid, expected: Option<&[i64]>) -> Result<(), Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(DELETE).await?;
    let deleted = client.execute(&statement, &[&id, &expected]).await?;
    drop(client);
    if deleted == 1 { Ok(()) } else { Err(refusal(pool, id).await) }
}

/// Finds out why no row was changed. A row that comes or goes meanwhile may turn one reason into the other; both refuse.
async fn refusal(pool: &Pool, id: Uuid) -> Problem {
    match find(pool, id).await {
        Ok(_) => {
            Problem::new(StatusCode::PRECONDITION_FAILED, "the threshold has another version: read it again")
        }
        Err(problem) => problem,
    }
}
