//! One batch → rows, in one transaction.
//!
//! A small batch is one statement: the fewest round trips. A large one is a COPY followed by one upsert for each read
//! model, because COPY is the fastest way in; it cannot pass over a row that is there already, so a batch in which a
//! duplicate shows is rolled back and written by the statement, which can. Both leave the same rows (ADR 0004).

mod copy;
mod statement;

use crate::batch::{Columns, Entry};
use chassis::retry::Backoff;
use deadpool_postgres::{Client, Pool, PoolError};
use schema::migrations::Dialect;
use std::collections::BTreeSet;
use time::Date;
use tokio_postgres::error::SqlState;

/// Days whose partition is known to be there; forgotten when there are more, which only a replay of decades reaches.
const KNOWN_DAYS_MAX: usize = 4_096;
/// Batches of at least so many rows are worth the round trips of a COPY and its upserts.
const COPY_ROWS_MIN: usize = 1_000;

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
    /// Returns the reason for a dead letter: the SQLSTATE alone, because the server's text may quote the row.
    pub fn reason(&self) -> String {
        match self {
            Self::Refused(error) => match error.code() {
                Some(code) => format!("{self}: SQLSTATE {}", code.code()),
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
        let mut client = self.pool.get().await?;
        if self.dialect == Dialect::Postgres {
            ensure_partitions(&client, &mut self.known_days, columns.days()).await?;
        }
        let outcome = if columns.row_count() < COPY_ROWS_MIN {
            statement::insert(&client, self.dialect, &columns).await
        } else {
            match copy::insert(&mut client, self.dialect, &columns).await {
                Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                    statement::insert(&client, self.dialect, &columns).await
                }
                outcome => outcome,
            }
        };
        if let Err(error) = &outcome
            && error.code() == Some(&SqlState::CHECK_VIOLATION)
        {
            // Perhaps retention dropped a partition that was there; the next try looks again.
            self.known_days.clear();
        }
        Ok(outcome?)
    }
}

/// Opens a store, waiting for the database if it must.
///
/// # Errors
/// The database does not fit this build (stop).
pub(crate) async fn open_when_available(pool: &Pool) -> anyhow::Result<Store> {
    let mut backoff = Backoff::default();
    loop {
        match Store::open(pool.clone()).await {
            Ok(store) => return Ok(store),
            Err(Error::Unavailable(error)) => {
                tracing::warn!(error = format!("{error:#}"), "database is away");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            Err(error) => return Err(error.into()),
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
