//! Table `devices`. Each change is one transaction; a refusal is the problem that the caller gets.

use crate::device::{Device, Draft, Filter};
use chassis::http::{Change, Listing, Page, Problem, check_version};
use deadpool_postgres::{Pool, Transaction};
use schema::DeviceStatus;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Type of the 409 of a device that is retired for good.
const RETIRED: &str = "/problems/retired";

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
// Other writers of the row wait until this change is made.
const LOCK: &str = concat!("SELECT ", columns!(), " FROM devices WHERE sensor_id = $1 FOR UPDATE");
const UPDATE: &str = concat!(
    "UPDATE devices SET display_name = $2, device_type = $3, zone_id = $4, codec = $5, status = $6, \
       fingerprints = $7, codec_layout = $8::text::jsonb, version = nextval('devices_version'), updated_at = now() \
     WHERE sensor_id = $1 RETURNING ",
    columns!()
);
const DELETE: &str = "DELETE FROM devices WHERE sensor_id = $1";

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

/// A draft as the columns that [`INSERT`] and [`UPDATE`] write.
struct Written<'a> {
    draft: &'a Draft,
    codec: &'static str,
    status: &'static str,
}

impl<'a> Written<'a> {
    fn of(draft: &'a Draft) -> Self {
        Self { draft, codec: draft.codec.as_str(), status: draft.status.as_str() }
    }

    fn params<'b>(&'b self, sensor_id: &'b &str) -> [&'b (dyn ToSql + Sync); 8] {
        let Self { draft, codec, status } = self;
        [
            sensor_id,
            &draft.display_name,
            &draft.device_type,
            &draft.zone_id,
            codec,
            status,
            &draft.fingerprints,
            &draft.codec_layout,
        ]
    }
}

/// Adds a row.
pub(crate) async fn insert(pool: &Pool, sensor_id: &str, draft: &Draft) -> Result<Device, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(INSERT).await?;
    let written = Written::of(draft);
    match client.query_opt(&statement, &written.params(&sensor_id)).await? {
        Some(row) => read(&row),
        None => Err(Problem::conflict("/problems/exists", "a device with this sensorId exists")),
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

/// Applies a change to a row, if it has one of the expected versions and is not retired for good.
pub(crate) async fn change(
    pool: &Pool,
    sensor_id: &str,
    change: Change,
    expected: Option<&[i64]>,
) -> Result<Device, Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let device = lock(&transaction, sensor_id, expected).await?;
    let draft = Draft::changed(&device, change)?;
    if device.is_retired() && draft.status != DeviceStatus::Retired {
        return Err(Problem::conflict(RETIRED, "a retired device stays retired"));
    }
    let statement = transaction.prepare_cached(UPDATE).await?;
    let written = Written::of(&draft);
    let row = transaction.query_one(&statement, &written.params(&sensor_id)).await?;
    transaction.commit().await?;
    read(&row)
}

/// Removes a row, if it has one of the expected versions. A retired device stays, so that nobody gets its
/// name again.
pub(crate) async fn delete(pool: &Pool, sensor_id: &str, expected: Option<&[i64]>) -> Result<(), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    if lock(&transaction, sensor_id, expected).await?.is_retired() {
        let detail = "a retired device stays: its sensorId is not to be used again";
        return Err(Problem::conflict(RETIRED, detail));
    }
    let statement = transaction.prepare_cached(DELETE).await?;
    transaction.execute(&statement, &[&sensor_id]).await?;
    Ok(transaction.commit().await?)
}

/// Reads a row and keeps it as it is until the transaction ends.
async fn lock(
    transaction: &Transaction<'_>,
    sensor_id: &str,
    expected: Option<&[i64]>,
) -> Result<Device, Problem> {
    let statement = transaction.prepare_cached(LOCK).await?;
    let row = transaction.query_opt(&statement, &[&sensor_id]).await?;
    let device = read(&row.ok_or_else(|| Problem::not_found("no such device"))?)?;
    check_version(expected, device.version)?;
    Ok(device)
}
