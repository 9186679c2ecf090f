//! One batch → rows, in one transaction.
//!
//! A small batch is one statement: the fewest round trips. A large one is a COPY followed by one upsert for
//! each read model, because COPY is the fastest way in; it cannot pass over a row that is there already, so a
//! batch in which a duplicate shows is rolled back and written by the statement, which can, as are the
//! batches behind it until one has none. Servers that only speak like PostgreSQL get plain statements. All
//! leave the same rows (ADR 0004).

mod copy;
mod encode;
mod portable;
mod statement;

use crate::batch::{Readings, Reason};
use crate::columns::Columns;
use chassis::retry::{Backoff, Disposition, Supervisor};
use deadpool_postgres::{Client, Object, Pool, PoolError};
use schema::migrations::Dialect;
use std::collections::BTreeSet;
use std::time::Duration;
use time::Date;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

/// Days whose partition is known to be there; forgotten when there are more, which only a replay of decades
/// reaches.
const KNOWN_DAYS_MAX: usize = 4_096;
/// Fewest rows of a batch that is worth the round trips of a COPY and its upserts.
const COPY_ROWS_MIN: usize = 1_000;
/// Serialization conflicts with another writer that are retried at once; after that the batch waits as in an
/// outage.
const CONFLICTS_MAX: u32 = 10;
/// Waits between them: as short as a transaction.
const CONFLICT_WAITS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// What `ensure_reading_partition` says of a day that retention has dropped; a code of our own in class 22.
const PAST_RETENTION: &str = "22RET";
/// Timeout of a whole write, after which its server counts as lost; several statements fit in.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Says what a failed write means.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is away, busy or changing over: the same batch may work later (retry).
    #[error("database is away")]
    Unavailable(#[source] anyhow::Error),
    /// The database has not finished in time: it hangs, or the batch is too large for it (halve, then retry).
    #[error("database has not finished in time")]
    Overrun(#[source] anyhow::Error),
    /// Another writer was in the way: the same batch may work now (retry at once).
    #[error("another writer was in the way")]
    Conflict(#[source] tokio_postgres::Error),
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
    /// Tells them apart by SQLSTATE. Source: PostgreSQL manual, appendix A.
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code() else {
            return Self::Unavailable(error.into());
        };
        match (code.code(), &code.code()[..2]) {
            // Serialization failure, deadlock.
            ("40001" | "40P01", _) => Self::Conflict(error),
            // Statement timeout; too many compressed rows touched at once.
            ("57014" | "53400", _) => Self::Overrun(error.into()),
            // Data exception, integrity violation, program limit (a row too large).
            (_, "22" | "23" | "54") => Self::Refused(error),
            // Feature not supported, syntax or rights.
            (_, "0A" | "42") => Self::Unfit(error),
            _ => Self::Unavailable(error.into()),
        }
    }
}

impl Error {
    /// Says what follows.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Unavailable(_) | Self::Overrun(_) | Self::Conflict(_) => Disposition::Retry,
            Self::Refused(_) => Disposition::DeadLetter,
            Self::Unfit(_) => Disposition::Stop,
        }
    }

    fn without_conflict(self) -> Self {
        match self {
            Self::Conflict(error) => Self::Unavailable(error.into()),
            other => other,
        }
    }

    /// Says whether the connection is of no more use: silent, broken, ending, or to a server that takes no
    /// writes.
    pub(crate) fn spoils_connection(&self) -> bool {
        let (Self::Unavailable(error) | Self::Overrun(error)) = self else { return false };
        match error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code) {
            Some(code) => matches!(&code.code()[..2], "08" | "25") || code.code().starts_with("57P"),
            None => true,
        }
    }

    /// Returns reason and detail for a dead letter: the SQLSTATE alone, because the server's text may quote
    /// the row.
    pub fn rejection(&self) -> (Reason, String) {
        let refused = |detail| (Reason::DatabaseRefused, detail);
        match self {
            Self::Refused(error) => match error.code() {
                Some(code) if code.code() == PAST_RETENTION => {
                    (Reason::PastRetention, "reading is past retention".to_owned())
                }
                Some(code) => refused(format!("{self}: SQLSTATE {}", code.code())),
                None => refused(self.to_string()),
            },
            other => refused(other.to_string()),
        }
    }
}

/// Writes batches.
#[derive(Debug)]
pub struct Store {
    pool: Pool,
    dialect: Dialect,
    known_days: BTreeSet<Date>,
    /// Whether the batch before met a duplicate. Redelivered rows come in many batches, one behind the other,
    /// and a COPY of each would be sent and rolled back before the statement that passes over them.
    expects_duplicates: bool,
    answer_max: Duration,
}

impl Store {
    /// Asks the database which dialect it keeps.
    ///
    /// # Errors
    /// [`Error`]; a database without the contract is [`Error::Unfit`].
    pub async fn open(pool: Pool) -> Result<Self, Error> {
        let client = pool.get().await?;
        let asked = timeout(ANSWER_MAX, client.query_one("SELECT dialect FROM storage_contract", &[])).await;
        let Ok(answer) = asked else {
            drop(Object::take(client));
            return Err(Error::Unavailable(anyhow::anyhow!("no answer for {ANSWER_MAX:?}")));
        };
        let name: String = answer?.get(0);
        let dialect = Dialect::from_name(&name).ok_or_else(|| {
            Error::Unavailable(anyhow::anyhow!("unknown dialect {name} in storage_contract"))
        })?;
        tracing::info!(dialect = dialect.as_str(), "storage contract found");
        Ok(Self {
            pool,
            dialect,
            known_days: BTreeSet::new(),
            expects_duplicates: false,
            answer_max: ANSWER_MAX,
        })
    }

    /// Sets how long a whole write may wait for its answer; it should be clearly more than one statement may
    /// take.
    #[must_use]
    pub fn with_answer_max(mut self, answer_max: Duration) -> Self {
        self.answer_max = answer_max;
        self
    }

    /// Writes the readings in a single transaction and returns the number of rows that were new.
    ///
    /// Guarantee: all or nothing; idempotent on (sensor id, metric, reading at, event id), so a redelivery
    /// adds no row and counts nowhere twice. When it returns, the rows are committed.
    ///
    /// # Errors
    /// [`Error`], never [`Error::Conflict`]; nothing was written, except that an answer lost on the way may
    /// hide a commit.
    pub async fn write(&mut self, readings: Readings<'_>) -> Result<u64, Error> {
        if readings.count() == 0 {
            return Ok(0);
        }
        let columns = Columns::of(readings);
        let mut conflicts = Backoff::new(CONFLICT_WAITS.0, CONFLICT_WAITS.1);
        loop {
            match self.write_once(&columns).await {
                Err(Error::Conflict(error)) if conflicts.failures() >= CONFLICTS_MAX => {
                    return Err(Error::Unavailable(error.into()));
                }
                Err(Error::Conflict(_)) => sleep(conflicts.next_wait()).await,
                // Perhaps retention dropped a partition that was there: it is looked for again.
                Err(Error::Refused(error)) if may_lack_day(&error) && !self.known_days.is_empty() => {
                    self.known_days.clear();
                    return self.write_once(&columns).await.map_err(Error::without_conflict);
                }
                outcome => return outcome,
            }
        }
    }

    async fn write_once(&mut self, columns: &Columns<'_>) -> Result<u64, Error> {
        let mut client = self.pool.get().await?;
        let answer_max = self.answer_max;
        let outcome = match timeout(answer_max, self.insert(&mut client, columns)).await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(_) => Err(Error::Overrun(anyhow::anyhow!("no answer for {answer_max:?}"))),
        };
        if outcome.as_ref().is_err_and(Error::spoils_connection) {
            // The others lead to the same server, which may not be the one that takes writes any more.
            drop(Object::take(client));
            self.pool.retain(|_, _| false);
        }
        outcome
    }

    async fn insert(
        &mut self,
        client: &mut Client,
        columns: &Columns<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        if self.dialect == Dialect::Distributed {
            return portable::insert(client, columns).await;
        }
        if self.dialect == Dialect::Postgres {
            ensure_partitions(client, &mut self.known_days, columns.days()).await?;
        }
        if columns.row_count() >= COPY_ROWS_MIN && !self.expects_duplicates {
            match copy::insert(client, self.dialect, columns).await {
                Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
                outcome => return outcome,
            }
        }
        let inserted = statement::insert(client, self.dialect, columns).await?;
        self.expects_duplicates = inserted < columns.row_count() as u64;
        Ok(inserted)
    }
}

/// Says whether the day of a row may have gone since it was looked for; the rule of the value itself says
/// otherwise.
fn may_lack_day(error: &tokio_postgres::Error) -> bool {
    let error = error.as_db_error();
    error.is_some_and(|error| {
        *error.code() == SqlState::CHECK_VIOLATION && error.constraint() != Some("value_can_be_summed")
    })
}

/// Opens a store, waiting for the database if it must.
///
/// # Errors
/// The database does not fit this build (stop).
pub(crate) async fn open_when_available(pool: &Pool) -> anyhow::Result<Store> {
    let mut supervisor = Supervisor::new("storage contract cannot be read now; asking again");
    Ok(supervisor.run(Error::disposition, |_| Store::open(pool.clone())).await?)
}

/// Makes missing day partitions, each in a transaction of its own, before the batch's transaction locks
/// anything.
async fn ensure_partitions(
    client: &Client,
    known: &mut BTreeSet<Date>,
    days: BTreeSet<Date>,
) -> Result<(), tokio_postgres::Error> {
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
