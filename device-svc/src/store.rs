//! Table `devices`. Each change is one statement; a refusal is the problem that the caller gets.

use crate::device::{CODEC_DEFAULT, Device, Draft, Filter};
use actix_web::http::StatusCode;
use chassis::http::{Listing, Page, Problem};
use deadpool_postgres::Pool;
use schema::DeviceStatus;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

macro_rules! columns {
    () => {
        "sensor_id, display_name, device_type, zone_id, codec, codec_layout, status, fingerprints, version, \
         created_at, updated_at"
    };
}

macro_rules! filtered {
    () => {
        " FROM devices WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR device_type = $2) \
         AND ($3::text IS NULL OR zone_id = $3)"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO devices (sensor_id, display_name, device_type, zone_id, codec, status, fingerprints, codec_layout) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb) ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);
const SELECT: &str = concat!("SELECT ", columns!(), " FROM devices WHERE sensor_id = $1");
const COUNT: &str = concat!("SELECT count(*)", filtered!());
const LIST: &str = concat!("SELECT ", columns!(), filtered!(), " ORDER BY sensor_id LIMIT $4 OFFSET $5");
// A retired device stays retired: with its last clause the statement itself refuses, whoever else writes meanwhile.
const UPDATE: &str = concat!(
    "UPDATE devices SET display_name = $2, device_type = $3, zone_id = $4, codec = coalesce($5, codec), \
       status = coalesce($6, status), fingerprints = coalesce($7, fingerprints), \
       codec_layout = CASE WHEN $5::text IS NULL THEN codec_layout ELSE $9::text::jsonb END, version = version + 1, \
       updated_at = now() \
     WHERE sensor_id = $1 AND ($8::int8[] IS NULL OR version = ANY ($8)) \
       AND (status <> 'retired' OR coalesce($6, status) = 'retired') RETURNING ",
    columns!()
);
const DELETE: &str =
    "DELETE FROM devices WHERE sensor_id = $1 AND ($2::int8[] IS NULL OR version = ANY ($2))";

fn read(row: &Row) -> Result<Device, Problem> {
    Ok(Device {
        sensor_id: row.try_get("sensor_id")?,
        display_name: row.try_get("display_name")?,
        device_type: row.try_get("device_type")?,
        zone_id: row.try_get("zone_id")?,
        codec: row.try_get("codec")?,
        codec_layout: row.try_get("codec_layout")?,
        status: row.try_get("status")?,
        fingerprints: row.try_get("fingerprints")?,
        version: row.try_get("version")?,
        created_at: row.try_get::<_, OffsetDateTime>("created_at")?.into(),
        updated_at: row.try_get::<_, OffsetDateTime>("updated_at")?.into(),
    })
}

/// Adds a row.
pub(crate) async fn insert(pool: &Pool, sensor_id: &str, draft: &Draft) -> Result<Device, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(INSERT).await?;
    let (codec, layout) = match &draft.codec {
        Some((codec, layout)) => (codec.as_str(), layout.as_deref()),
        None => (CODEC_DEFAULT.as_str(), None),
    };
    let status = draft.status.unwrap_or(DeviceStatus::Active).as_str();
    let fingerprints = draft.fingerprints.as_deref().unwrap_or_default();
    let params: [&(dyn ToSql + Sync); 8] = [
        &sensor_id,
        &draft.display_name,
        &draft.device_type,
        &draft.zone_id,
        &codec,
        &status,
        &fingerprints,
        &layout,
    ];
    match client.query_opt(&statement, &params).await? {
        Some(row) => read(&row),
        None => Err(Problem::new(StatusCode::CONFLICT, "a device with this sensorId exists")),
    }
}

/// Reads a row.
pub(crate) async fn find(pool: &Pool, sensor_id: &str) -> Result<Device, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(SELECT).await?;
    match client.query_opt(&statement, &[&sensor_id]).await? {
        Some(row) => read(&row),
        None => Err(Problem::not_found("no such device")),
    }
}

/// Reads a page, ordered by sensor id. Page and total are two statements: a write between them may show.
pub(crate) async fn list(pool: &Pool, filter: &Filter, page: Page) -> Result<Listing<Device>, Problem> {
    let client = pool.get().await?;
    let (count, list) = tokio::try_join!(client.prepare_cached(COUNT), client.prepare_cached(LIST))?;
    let status = filter.status.map(DeviceStatus::as_str);
    let params: [&(dyn ToSql + Sync); 5] =
        [&status, &filter.device_type, &filter.zone_id, &page.limit, &page.offset];
    let (total, rows) =
        tokio::try_join!(client.query_one(&count, &params[..3]), client.query(&list, &params))?;
    let resources = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Listing::new(resources, total.try_get(0)?, page))
}

/// Replaces what a caller writes, if the row has one of the expected versions and is not retired for good.
pub(crate) async fn replace(
    pool: &Pool,
    sensor_id: &str,
    draft: &Draft,
    expected: Option<&[i64]>,
) -> Result<Device, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(UPDATE).await?;
    let status = draft.status.map(DeviceStatus::as_str);
    let codec = draft.codec.as_ref().map(|(codec, _)| codec.as_str());
    let layout = draft.codec.as_ref().and_then(|(_, layout)| layout.as_deref());
    let params: [&(dyn ToSql + Sync); 9] = [
        &sensor_id,
        &draft.display_name,
        &draft.device_type,
        &draft.zone_id,
        &codec,
        &status,
        &draft.fingerprints,
        &expected,
        &layout,
    ];
    let row = client.query_opt(&statement, &params).await?;
    drop(client);
    match row {
        Some(row) => read(&row),
        None => Err(refusal(pool, sensor_id, expected).await),
    }
}

/// Removes a row, if it has one of the expected versions.
pub(crate) async fn delete(pool: &Pool, sensor_id: &str, expected: Option<&[i64]>) -> Result<(), Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(DELETE).await?;
    let deleted = client.execute(&statement, &[&sensor_id, &expected]).await?;
    drop(client);
    if deleted == 1 { Ok(()) } else { Err(refusal(pool, sensor_id, expected).await) }
}

/// Finds out why no row was changed. A row that comes or goes meanwhile may turn one reason into another; all refuse.
async fn refusal(pool: &Pool, sensor_id: &str, expected: Option<&[i64]>) -> Problem {
    match find(pool, sensor_id).await {
        Ok(device) if expected.is_none_or(|versions| versions.contains(&device.version)) => {
            Problem::new(StatusCode::CONFLICT, "a retired device stays retired")
        }
        Ok(_) => {
            Problem::new(StatusCode::PRECONDITION_FAILED, "the device has another version: read it again")
        }
        Err(problem) => problem,
    }
}
