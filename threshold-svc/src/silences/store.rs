//! Table `silences`. Each change is one transaction; a refusal is the problem that the caller gets.

use super::silence::{Filter, Matchers, NewSilence, Silence, State, changed};
use crate::store::read_severity;
use chassis::http::{Change, KeysetListing, KeysetPage, Problem, check_version};
use chassis::postgres::Select;
use deadpool_postgres::{Pool, Transaction};
use schema::{Severity, Timestamp};
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// What a list is ordered by, backwards: the end in microseconds, and the id.
pub(super) type Key = (i64, Uuid);

/// Most silences that are not over: every instance of alerting-svc holds all of them against each alert.
const STANDING_MAX: i64 = 1_000;
/// Silences that one creation forgets, so that it stays short.
const FORGOTTEN_MAX: i64 = 100;

macro_rules! columns {
    () => {
        "silence_id, sensor_id, device_type, zone_id, metric, severity, starts_at, ends_at, comment, created_by, \
         version, created_at, updated_at"
    };
}

const INSERT: &str = concat!(
    "INSERT INTO silences (silence_id, sensor_id, device_type, zone_id, metric, severity, starts_at, ends_at, \
       comment, created_by) VALUES ($1, $2, $3, $4, $5, $6, coalesce($7, now()), $8, $9, $10) \
     ON CONFLICT DO NOTHING RETURNING ",
    columns!()
);
const STANDING: &str = "SELECT count(*) FROM silences WHERE ends_at > now()";
const FORGET: &str = "DELETE FROM silences WHERE silence_id IN (\
     SELECT silence_id FROM silences WHERE ends_at < now() - INTERVAL '1 year' ORDER BY ends_at LIMIT $1)";
const SELECT: &str = concat!("SELECT ", columns!(), " FROM silences WHERE silence_id = $1");
const LOCK: &str = concat!("SELECT ", columns!(), " FROM silences WHERE silence_id = $1 FOR UPDATE");
const COUNT: &str = "SELECT count(*) FROM silences WHERE true";
const LIST: &str = concat!("SELECT ", columns!(), " FROM silences WHERE true");
const UPDATE: &str = concat!(
    "UPDATE silences SET ends_at = $2, comment = $3, version = nextval('silences_version'), updated_at = now() \
     WHERE silence_id = $1 RETURNING ",
    columns!()
);
// Of a silence that has begun the time that it was there for stays.
const EXPIRE: &str = "UPDATE silences SET ends_at = greatest(now(), starts_at + INTERVAL '1 microsecond'), \
       version = nextval('silences_version'), updated_at = now() \
     WHERE silence_id = $1 AND starts_at <= now() AND ends_at > now()";
const FORGO: &str = "DELETE FROM silences WHERE silence_id = $1 AND starts_at > now()";

fn read(row: &Row) -> Result<Silence, Problem> {
    let instant = |name: &str| row.try_get::<_, OffsetDateTime>(name).map(Timestamp::from);
    Ok(Silence {
        silence_id: row.try_get("silence_id")?,
        matchers: Matchers {
            sensor_id: row.try_get("sensor_id")?,
            device_type: row.try_get("device_type")?,
            zone_id: row.try_get("zone_id")?,
            metric: row.try_get("metric")?,
            severity: row.try_get::<_, Option<&str>>("severity")?.map(read_severity).transpose()?,
        },
        starts_at: instant("starts_at")?,
        ends_at: instant("ends_at")?,
        comment: row.try_get("comment")?,
        created_by: row.try_get("created_by")?,
        version: row.try_get("version")?,
        created_at: instant("created_at")?,
        updated_at: instant("updated_at")?,
    })
}

/// Adds a row, or finds the one that the same request has added before; says whether it is new.
pub(super) async fn insert(pool: &Pool, new: &NewSilence, by: &str) -> Result<(bool, Silence), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let id = new.id.unwrap_or_else(Uuid::new_v4);
    let Matchers { sensor_id, device_type, zone_id, metric, severity } = &new.matchers;
    let severity = severity.map(Severity::as_str);
    let (starts_at, ends_at) = (new.starts_at.map(OffsetDateTime::from), OffsetDateTime::from(new.ends_at));
    let params: [&(dyn ToSql + Sync); 10] =
        [&id, sensor_id, device_type, zone_id, metric, &severity, &starts_at, &ends_at, &new.comment, &by];
    let statement = transaction.prepare_cached(INSERT).await?;
    let Some(row) = transaction.query_opt(&statement, &params).await? else {
        transaction.rollback().await?;
        drop(client);
        let silence = find(pool, id).await?;
        if new.has_made(&silence) {
            return Ok((false, silence));
        }
        return Err(Problem::conflict("/problems/exists", "another silence has this silenceId"));
    };
    let (standing, forget) =
        tokio::try_join!(transaction.prepare_cached(STANDING), transaction.prepare_cached(FORGET))?;
    if transaction.query_one(&standing, &[]).await?.try_get::<_, i64>(0)? > STANDING_MAX {
        let detail = format!("{STANDING_MAX} silences are not over yet: expire some, or match more with one");
        return Err(Problem::conflict("/problems/too-many", detail));
    }
    transaction.execute(&forget, &[&FORGOTTEN_MAX]).await?;
    let silence = read(&row)?;
    transaction.commit().await?;
    Ok((true, silence))
}

/// Reads a row.
pub(super) async fn find(pool: &Pool, id: Uuid) -> Result<Silence, Problem> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(SELECT).await?;
    match client.query_opt(&statement, &[&id]).await? {
        Some(row) => read(&row),
        None => Err(Problem::not_found("no such silence")),
    }
}

/// Reads a page, the one that ends last first. Page and total are two statements: a write between them may
/// show.
pub(super) async fn list(
    pool: &Pool,
    filter: &Filter,
    page: &KeysetPage<Key>,
) -> Result<KeysetListing<Silence>, Problem> {
    let client = pool.get().await?;
    let rows = page.rows();
    let after = page.after.map(|(micros, id)| (Timestamp::from_micros(micros), id));
    let after = match after {
        Some((Ok(ends_at), id)) => Some((OffsetDateTime::from(ends_at), id)),
        Some((Err(_), _)) => {
            return Err(Problem::field("cursor", "must be the next of another page of this list"));
        }
        None => None,
    };
    let mut select = filtered(LIST, filter);
    if let Some((ends_at, id)) = &after {
        let place: [(&(dyn ToSql + Sync), Type); 2] = [(ends_at, Type::TIMESTAMPTZ), (id, Type::UUID)];
        select = select.then(" AND (ends_at, silence_id) < ($?, $?)", place);
    }
    let order = " ORDER BY ends_at DESC, silence_id DESC LIMIT $?";
    let select = select.then(order, [(&rows, Type::INT8)]);
    let rows = client.query_typed(select.text(), select.params()).await?;
    let total = filtered(COUNT, filter).total(&client, page.is_total_wanted).await?;
    let silences = rows.iter().map(read).collect::<Result<_, _>>()?;
    let key = |silence: &Silence| (silence.ends_at.as_micros(), silence.silence_id);
    Ok(KeysetListing::new(silences, page, key, total))
}

fn filtered<'a>(text: &str, filter: &'a Filter) -> Select<'a> {
    let Matchers { sensor_id, device_type, zone_id, metric, severity } = &filter.matchers;
    let mut select = Select::new(text);
    for (value, condition) in [
        (sensor_id, " AND sensor_id = $?"),
        (device_type, " AND device_type = $?"),
        (zone_id, " AND zone_id = $?"),
        (metric, " AND metric = $?"),
    ] {
        if let Some(value) = value {
            select = select.then(condition, [(value as _, Type::TEXT)]);
        }
    }
    if let Some(severity) = severity {
        select = select.then(&format!(" AND severity = '{}'", severity.as_str()), []);
    }
    match filter.state {
        Some(State::Pending) => select.then(" AND starts_at > now()", []),
        Some(State::Active) => select.then(" AND starts_at <= now() AND ends_at > now()", []),
        Some(State::Expired) => select.then(" AND ends_at <= now()", []),
        None => select,
    }
}

/// Applies a change to a row, if it has one of the expected versions.
pub(super) async fn change(
    pool: &Pool,
    id: Uuid,
    change: Change,
    expected: Option<&[i64]>,
) -> Result<Silence, Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let silence = lock(&transaction, id, expected).await?;
    let (ends_at, comment) = changed(&silence, change, Timestamp::now())?;
    let statement = transaction.prepare_cached(UPDATE).await?;
    let row = transaction.query_one(&statement, &[&id, &OffsetDateTime::from(ends_at), &comment]).await?;
    transaction.commit().await?;
    read(&row)
}

/// Ends a silence now, if it has one of the expected versions; one that has not begun goes, and one that is
/// over stays.
pub(super) async fn expire(pool: &Pool, id: Uuid, expected: Option<&[i64]>) -> Result<(), Problem> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    lock(&transaction, id, expected).await?;
    for text in [FORGO, EXPIRE] {
        let statement = transaction.prepare_cached(text).await?;
        transaction.execute(&statement, &[&id]).await?;
    }
    Ok(transaction.commit().await?)
}

/// Reads a row and keeps it as it is until the transaction ends.
async fn lock(transaction: &Transaction<'_>, id: Uuid, expected: Option<&[i64]>) -> Result<Silence, Problem> {
    let statement = transaction.prepare_cached(LOCK).await?;
    let row = transaction.query_opt(&statement, &[&id]).await?;
    let silence = read(&row.ok_or_else(|| Problem::not_found("no such silence"))?)?;
    check_version(expected, silence.version)?;
    Ok(silence)
}
