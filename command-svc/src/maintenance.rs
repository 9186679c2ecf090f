//! Days of raw readings: made ahead of time, and dropped when they are past retention; as are episodes.
//!
//! The hourly read model and the latest values stay when raw readings go. Where TimescaleDB keeps the hours
//! by jobs of its own, a turn also reports how they fare. One instance at a time does it, by an advisory
//! lock; without such locks (`distributed`) several do the same deletes, which are idempotent. A failed turn
//! is logged and comes again; ingestion does not depend on it, because a writer makes a partition that is
//! missing.

use crate::metrics::Metrics;
use crate::retention::Retention;
use anyhow::Context;
use chassis::postgres::Settings;
use chassis::retry::Backoff;
use schema::migrations::Dialect;
use std::time::Duration;
use time::{Date, OffsetDateTime};
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;

/// Key of the advisory lock that lets one instance do it at a time; the value only has to be ours.
pub const LOCK: i64 = 0x6669_656c_6d61_696e;
/// A turn that has not ended by then is given up; dropping the first day of a large table takes seconds.
const TURN_MAX: Duration = Duration::from_secs(30 * 60);
/// No statement of a turn needs longer, and an unanswered one must not hold the lock.
const STATEMENT_MAX: &str = "SET statement_timeout = '5min'";
/// Jobs of TimescaleDB whose last run failed, how many and which, and when the hours were last refreshed.
const JOBS: &str = "
    SELECT count(*) FILTER (WHERE last_run_status = 'Failed'),
           string_agg(proc_name, ', ') FILTER (WHERE last_run_status = 'Failed'),
           extract(epoch FROM max(nullif(last_successful_finish, '-infinity'))
                              FILTER (WHERE proc_name = 'refresh_recent_readings'))::bigint
    FROM timescaledb_information.jobs JOIN timescaledb_information.job_stats USING (job_id)";
/// Episodes that one statement deletes.
const EPISODES_MAX: i64 = 5_000;
/// Series whose old rows are deleted between two looks at the list of series.
const SERIES_MAX: i64 = 1_000;

/// Keeps the days of the readings table in order.
pub(crate) struct Maintenance {
    pub(crate) postgres: Settings,
    pub(crate) retention: Retention,
    pub(crate) episode_days: u32,
    pub(crate) days_ahead: u16,
    pub(crate) every: Duration,
    pub(crate) metrics: Metrics,
}

impl Maintenance {
    /// Takes a turn at once and after each interval, until shutdown. After a failure the next turn comes
    /// sooner.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1).min(self.every), self.every);
        // Deleting row by row reads every series, so an instance does it once for each day.
        let mut deleted_before = None;
        let turns = async {
            loop {
                let today = OffsetDateTime::now_utc().date();
                let turn = timeout(TURN_MAX, self.turn(today, &mut deleted_before)).await;
                let wait = match turn.context("finish in time").flatten() {
                    Ok(()) => {
                        backoff.reset();
                        self.metrics.maintenance_success.set(OffsetDateTime::now_utc().unix_timestamp());
                        self.every
                    }
                    Err(error) => {
                        self.metrics.maintenance_failures.inc();
                        tracing::warn!(error = format!("{error:#}"), "partitions are not maintained now");
                        backoff.next_wait()
                    }
                };
                tokio::time::sleep(wait).await;
            }
        };
        shutdown.run_until_cancelled(turns).await;
    }

    async fn turn(&self, today: Date, deleted_before: &mut Option<Date>) -> anyhow::Result<()> {
        // A session of its own: when it ends, however it ends, the lock is free.
        let client = self.postgres.connect().await?;
        client.batch_execute(STATEMENT_MAX).await?;
        let name: String = client.query_one("SELECT dialect FROM storage_contract", &[]).await?.get(0);
        let dialect = Dialect::from_name(&name).with_context(|| format!("use the dialect {name}"))?;
        if dialect == Dialect::Timescale {
            self.report_jobs(&client).await?;
        }
        self.delete_episodes(&client, today).await?;
        let drops_before = self.retention.drops_before(today);
        if dialect == Dialect::Distributed {
            if let Some(before) = drops_before.filter(|before| Some(*before) > *deleted_before) {
                let rows = delete_before(&client, before).await?;
                tracing::info!(%before, rows, "raw readings past retention deleted");
                *deleted_before = Some(before);
            }
            return Ok(());
        }
        let locked = client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?;
        if !locked.get::<_, bool>(0) {
            return Ok(()); // another instance is at it
        }
        if dialect == Dialect::Postgres {
            self.make_ahead(&client, today).await?;
        }
        if let Some(before) = drops_before {
            self.drop_before(&client, before).await?;
        }
        if dialect == Dialect::Postgres {
            remove_empty(&client).await?;
        }
        Ok(())
    }

    /// Deletes the episodes that were closed long ago, some in each transaction. Another instance may be at
    /// it as well, which does no harm.
    async fn delete_episodes(&self, client: &Client, today: Date) -> anyhow::Result<()> {
        let days = time::Duration::days(self.episode_days.into());
        let Some(before) = today.checked_sub(days) else { return Ok(()) };
        let before = before.midnight().assume_utc();
        let delete = "DELETE FROM alert_episodes WHERE episode_id IN \
                        (SELECT episode_id FROM alert_episodes WHERE status = 'closed' AND closed_at < $1 \
                         ORDER BY closed_at LIMIT $2)";
        loop {
            let deleted = client.execute(delete, &[&before, &EPISODES_MAX]).await?;
            self.metrics.episodes_deleted.inc_by(deleted);
            if deleted == 0 {
                return Ok(());
            }
        }
    }

    /// Shows how the server's own jobs fare, which refresh the hours and compress.
    async fn report_jobs(&self, client: &Client) -> anyhow::Result<()> {
        let row = client.query_one(JOBS, &[]).await.context("look at the jobs of TimescaleDB")?;
        let failed: i64 = row.get(0);
        self.metrics.jobs_failed.set(failed);
        self.metrics.hours_refreshed.set(row.get::<_, Option<i64>>(2).unwrap_or(0));
        if failed > 0 {
            let jobs: String = row.get(1);
            tracing::warn!(jobs, "jobs of TimescaleDB failed; timescaledb_information.job_errors says why");
        }
        Ok(())
    }

    /// Makes the partitions of today and of the days ahead, each in a transaction of its own.
    async fn make_ahead(&self, client: &Client, today: Date) -> anyhow::Result<()> {
        for ahead in 0..=i64::from(self.days_ahead) {
            let day = today.checked_add(time::Duration::days(ahead)).context("name a day ahead")?;
            let made = client.query_one("SELECT ensure_reading_partition($1)", &[&day]).await?;
            if made.get(0) {
                tracing::info!(%day, "partition made");
            }
        }
        Ok(())
    }

    /// Drops what lies before the day, a piece in each transaction, so that nobody waits long.
    async fn drop_before(&self, client: &Client, before: Date) -> anyhow::Result<()> {
        loop {
            let dropped: i32 = client.query_one("SELECT drop_readings_before($1)", &[&before]).await?.get(0);
            if dropped == 0 {
                return Ok(());
            }
            self.metrics.partitions_dropped.inc_by(u64::try_from(dropped).unwrap_or(0));
            tracing::info!(%before, dropped, "raw readings past retention dropped");
        }
    }
}

/// Removes the partitions whose rows retention took. While writers hold the table without a break, the rest
/// waits for a later turn.
async fn remove_empty(client: &Client) -> anyhow::Result<()> {
    while client.query_one("SELECT remove_empty_partition()", &[]).await?.get::<_, i32>(0) > 0 {}
    Ok(())
}

/// Deletes row by row where there are no partitions: each series by its key, a day in each transaction.
async fn delete_before(client: &Client, before: Date) -> anyhow::Result<u64> {
    let before = before.midnight().assume_utc();
    // First of all: whoever compares hours with raw readings must not miss what is going.
    let announce = "UPDATE storage_contract SET readings_kept_from = $1 \
                    WHERE readings_kept_from IS NULL OR readings_kept_from < $1";
    client.execute(announce, &[&before]).await?;
    let page = "SELECT sensor_id, metric FROM sensor_latest WHERE (sensor_id, metric) > ($1, $2) \
                ORDER BY sensor_id, metric LIMIT $3";
    let oldest = "SELECT min(reading_at) FROM readings_ingestion \
                  WHERE sensor_id = $1 AND metric = $2 AND reading_at < $3";
    let delete = "DELETE FROM readings_ingestion \
                  WHERE sensor_id = $1 AND metric = $2 AND reading_at >= $3 AND reading_at < $4";
    let (oldest, delete) = (client.prepare(oldest).await?, client.prepare(delete).await?);
    let mut last = (String::new(), String::new());
    let mut rows = 0;
    loop {
        let series = client.query(page, &[&last.0, &last.1, &SERIES_MAX]).await?;
        let Some(end) = series.last() else { return Ok(rows) };
        last = (end.get(0), end.get(1));
        for one in &series {
            rows +=
                delete_series_before(client, (&oldest, &delete), (one.get(0), one.get(1)), before).await?;
        }
    }
}

/// Deletes a day at a time, from the oldest row on.
async fn delete_series_before(
    client: &Client,
    (oldest, delete): (&Statement, &Statement),
    (sensor_id, metric): (&str, &str),
    before: OffsetDateTime,
) -> anyhow::Result<u64> {
    let mut rows = 0;
    loop {
        let first: Option<OffsetDateTime> =
            client.query_one(oldest, &[&sensor_id, &metric, &before]).await?.get(0);
        let Some(first) = first else { return Ok(rows) };
        let end = first.checked_add(time::Duration::DAY).unwrap_or(before).min(before);
        rows += client.execute(delete, &[&sensor_id, &metric, &first, &end]).await?;
    }
}
