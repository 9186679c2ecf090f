//! One batch → rows, in one transaction.

use crate::batch::{Columns, Entry};
use deadpool_postgres::{Client, Pool, PoolError};
use schema::migrations::Dialect;
use std::collections::BTreeSet;
use time::Date;
use tokio_postgres::error::SqlState;

/// Days whose partition is known to be there; forgotten when there are more, which only a replay of decades reaches.
const KNOWN_DAYS_MAX: usize = 4_096;

/// Inserts new rows, keeps the newest value of each metric, and returns how many rows were new.
/// A row whose key is stored already, in the table or in the same batch, is passed over.
/// Ordered by key, so that two writers lock rows in the same order.
macro_rules! insert_sql {
    ($hourly:literal) => {
        concat!(
            "WITH inserted AS (
               INSERT INTO readings_ingestion
                 (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
               SELECT i.sensor_id, i.metric, i.reading_at, i.value, i.event_id, i.received_at, i.device_type,
                      i.zone_id, i.attributes::jsonb
               FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::float8[], $5::uuid[], $6::timestamptz[],
                           $7::text[], $8::text[], $9::text[])
                 AS i(sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id, attributes)
               ON CONFLICT DO NOTHING
               RETURNING sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id
             ),",
            $hourly,
            " latest AS (
               INSERT INTO sensor_latest AS l
                 (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id)
               SELECT DISTINCT ON (sensor_id, metric)
                      sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id
               FROM inserted
               ORDER BY sensor_id, metric, reading_at DESC, event_id DESC
               ON CONFLICT (sensor_id, metric) DO UPDATE SET
                 reading_at = excluded.reading_at, value = excluded.value, event_id = excluded.event_id,
                 received_at = excluded.received_at, device_type = excluded.device_type, zone_id = excluded.zone_id
               WHERE (excluded.reading_at, excluded.event_id) > (l.reading_at, l.event_id)
             )
             SELECT count(*) FROM inserted"
        )
    };
}

/// The hourly read model is kept in the same transaction as the rows, so it is exact at every commit.
const INSERT_POSTGRES: &str = insert_sql!(
    " hourly AS (
       INSERT INTO sensor_reading_hourly_aggregates AS h
         (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum)
       SELECT date_trunc('hour', reading_at, 'UTC'), sensor_id, metric, device_type, zone_id,
              min(value), max(value), count(*), sum(value)
       FROM inserted
       GROUP BY 1, 2, 3, 4, 5
       ORDER BY 2, 3, 1, 4, 5
       ON CONFLICT (sensor_id, metric, bucket, device_type, zone_id) DO UPDATE SET
         min = least(h.min, excluded.min), max = greatest(h.max, excluded.max),
         count = h.count + excluded.count, sum = h.sum + excluded.sum
     ),"
);

/// The continuous aggregate follows the hypertable by itself.
const INSERT_TIMESCALE: &str = insert_sql!("");

/// Says what a failed write means.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away, busy or changing over: the same batch may work later (retry).
    #[error("database is away")]
    Unavailable(#[source] anyhow::Error),
    /// The database refuses a value of the batch: only a smaller batch can work (bisect, then dead letter).
    #[error("database refuses the rows")]
    Refused(#[source] tokio_postgres::Error),
    /// The schema or our rights are not what this build needs (stop).
    #[error("database does not fit this build")]
    Unfit(#[source] tokio_postgres::Error),
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error.into(),
            other => Self::Unavailable(other.into()),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    /// Tells the three apart by SQLSTATE class. Source: PostgreSQL manual, appendix A.
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code() else {
            return Self::Unavailable(error.into());
        };
        match &code.code()[..2] {
            // Data exception, integrity violation, program limit (a row too large).
            "22" | "23" | "54" => Self::Refused(error),
            // Feature not supported, syntax or rights.
            "0A" | "42" => Self::Unfit(error),
            _ => Self::Unavailable(error.into()),
        }
    }
}

impl Error {
    /// Returns what the database says, for a dead letter.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(error) => match error.as_db_error() {
                Some(refusal) => format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code()),
                None => self.to_string(),
            },
            other => other.to_string(),
        }
    }
}

/// Writes batches.
#[derive(Debug)]
pub struct Store {
    pool: Pool,
    dialect: Dialect,
    known_days: BTreeSet<Date>,
}

impl Store {
    /// Asks the database which dialect it keeps.
    ///
    /// # Errors
    /// [`Error`]; a database without the contract is [`Error::Unfit`].
    pub async fn open(pool: Pool) -> Result<Self, Error> {
        let client = pool.get().await?;
        let name: String = client.query_one("SELECT dialect FROM storage_contract", &[]).await?.get(0);
        let dialect = Dialect::from_name(&name).ok_or_else(|| {
            Error::Unavailable(anyhow::anyhow!("unknown dialect {name} in storage_contract"))
        })?;
        tracing::info!(dialect = dialect.as_str(), "storage contract found");
        Ok(Self { pool, dialect, known_days: BTreeSet::new() })
    }

    /// Writes the readings in a single transaction and returns the number of rows that were new.
    ///
    /// Guarantee: all or nothing; idempotent on (sensor id, metric, reading at, event id), so a redelivery adds no row
    /// and counts nowhere twice. When it returns, the rows are committed.
    ///
    /// # Errors
    /// [`Error`]; nothing was written, except that an answer lost on the way may hide a commit.
    pub async fn write(&mut self, entries: &[Entry]) -> Result<u64, Error> {
        if entries.is_empty() {
            return Ok(0);
        }
        let columns = Columns::of(entries);
        let client = self.pool.get().await?;
        if self.dialect == Dialect::Postgres {
            ensure_partitions(&client, &mut self.known_days, columns.days()).await?;
        }
        match insert(&client, self.dialect, &columns).await {
            Ok(inserted) => Ok(inserted),
            Err(error) => {
                if error.code() == Some(&SqlState::CHECK_VIOLATION) {
                    // Perhaps retention dropped a partition that was there; the next try looks again.
                    self.known_days.clear();
                }
                Err(error.into())
            }
        }
    }
}

/// Makes missing day partitions, each in a transaction of its own, before the batch's transaction locks anything.
async fn ensure_partitions(
    client: &Client,
    known: &mut BTreeSet<Date>,
    days: BTreeSet<Date>,
) -> Result<(), Error> {
    for day in days {
        if known.contains(&day) {
            continue;
        }
        client.execute("SELECT ensure_reading_partition($1)", &[&day]).await?;
        if known.len() >= KNOWN_DAYS_MAX {
            known.clear();
        }
        known.insert(day);
    }
    Ok(())
}

/// One statement is one transaction.
async fn insert(
    client: &Client,
    dialect: Dialect,
    columns: &Columns<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let sql = match dialect {
        Dialect::Postgres => INSERT_POSTGRES,
        Dialect::Timescale => INSERT_TIMESCALE,
    };
    let statement = client.prepare_cached(sql).await?;
    let row = client
        .query_one(
            &statement,
            &[
                &columns.sensor_id,
                &columns.metric,
                &columns.reading_at,
                &columns.value,
                &columns.event_id,
                &columns.received_at,
                &columns.device_type,
                &columns.zone_id,
                &columns.attributes,
            ],
        )
        .await?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}
