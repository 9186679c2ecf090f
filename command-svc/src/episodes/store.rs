//! Rows of episodes → table `alert_episodes`, joined with what is there.

use crate::episodes::row::{Row, name_of_limit, name_of_reason, reason_of_limit};
use crate::store::Error;
use deadpool_postgres::{Object, Pool};
use futures::future::try_join_all;
use std::sync::LazyLock;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// Columns that the newest alert decides, in the order of the parameters that follow the others.
const NEWEST: [&str; 22] = [
    "status",
    "occurrences",
    "last_at",
    "last_detected_at",
    "last_alert_id",
    "threshold_version",
    "sensor_id",
    "display_name",
    "metric",
    "unit",
    "severity",
    "zone_id",
    "device_type",
    "reason",
    "closing_reason",
    "bound_limit",
    "bound_value",
    "value_last",
    "closed_at",
    "summary",
    "description",
    "silenced_by",
];
/// Says in SQL which of two rows has the newer alert, as [`Row::join`] does.
const IS_NEWER: &str = "(excluded.status = 'closed', excluded.occurrences, excluded.last_at, \
     excluded.last_detected_at, excluded.last_alert_id) \
     > (e.status = 'closed', e.occurrences, e.last_at, e.last_detected_at, e.last_alert_id)";

/// Joins a row with the one that is there, as [`Row::join`] does; a row that changes nothing is not written.
static UPSERT: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=6 + NEWEST.len()).map(|place| format!("${place}")).collect();
    let kept =
        |column: &str| format!("{column} = CASE WHEN {IS_NEWER} THEN excluded.{column} ELSE e.{column} END");
    format!(
        "INSERT INTO alert_episodes AS e \
           (episode_id, threshold_id, value_first, value_min, value_max, opened_at, {columns}) \
         VALUES ({places}) \
         ON CONFLICT (episode_id) DO UPDATE SET \
           value_first = coalesce(e.value_first, excluded.value_first), \
           value_min = least(e.value_min, excluded.value_min), \
           value_max = greatest(e.value_max, excluded.value_max), \
           opened_at = least(e.opened_at, excluded.opened_at), {updates} \
         WHERE {IS_NEWER} OR e.opened_at > excluded.opened_at \
           OR e.value_first IS NULL AND excluded.value_first IS NOT NULL \
           OR least(e.value_min, excluded.value_min) IS DISTINCT FROM e.value_min \
           OR greatest(e.value_max, excluded.value_max) IS DISTINCT FROM e.value_max",
        columns = NEWEST.join(", "),
        places = places.join(", "),
        updates = NEWEST.map(kept).join(", "),
    )
});

/// Writes rows of episodes.
#[derive(Debug)]
pub struct EpisodeStore {
    pool: Pool,
    answer_max: Duration,
}

impl EpisodeStore {
    /// Writes through the pool; a whole write may wait for its answer for `answer_max`.
    pub fn new(pool: Pool, answer_max: Duration) -> Self {
        Self { pool, answer_max }
    }

    /// Writes the rows, each of another episode, in a single transaction; returns the number of rows that are
    /// new or have changed.
    ///
    /// Guarantee: all or nothing. Any order and any repetition of writes leaves the same rows.
    ///
    /// # Errors
    /// [`Error`]; nothing was written, except that an answer lost on the way may hide a commit.
    pub async fn write<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Result<u64, Error> {
        let mut client = self.pool.get().await?;
        let outcome = match timeout(self.answer_max, upsert(&mut client, rows)).await {
            Ok(outcome) => outcome.map_err(Error::from),
            Err(_) => Err(Error::Overrun(anyhow::anyhow!("no answer for {:?}", self.answer_max))),
        };
        if outcome.as_ref().is_err_and(Error::spoils_connection) {
            drop(Object::take(client));
            self.pool.retain(|_, _| false);
        }
        outcome
    }
}

async fn upsert<'a>(
    client: &mut deadpool_postgres::Client,
    rows: impl IntoIterator<Item = &'a Row>,
) -> Result<u64, tokio_postgres::Error> {
    let statement = client.prepare_cached(&UPSERT).await?;
    let transaction = client.transaction().await?;
    // Sent one behind the other, without a wait for the answer in between.
    let written = try_join_all(rows.into_iter().map(|row| execute(transaction.client(), &statement, row)));
    let changed = written.await?.into_iter().sum();
    transaction.commit().await?;
    Ok(changed)
}

async fn execute(client: &Client, statement: &Statement, row: &Row) -> Result<u64, tokio_postgres::Error> {
    let (n, bound) = (&row.newest, row.newest.bound);
    let instant = |at: schema::Timestamp| OffsetDateTime::from(at);
    let status = if n.is_closed { "closed" } else { "open" };
    let (last_at, last_detected_at) = (instant(n.last_at), instant(n.last_detected_at));
    let (opened_at, closed_at) = (instant(row.opened_at), n.closed_at.map(instant));
    let (severity, reason) = (n.severity.as_str(), reason_of_limit(bound.limit));
    let (closing_reason, limit) = (n.closing_reason.map(name_of_reason), name_of_limit(bound.limit));
    let params: [&(dyn ToSql + Sync); 28] = [
        &row.episode_id,
        &row.threshold_id,
        &row.value_first,
        &row.value_min,
        &row.value_max,
        &opened_at,
        &status,
        &n.occurrences,
        &last_at,
        &last_detected_at,
        &n.last_alert_id,
        &n.threshold_version,
        &n.sensor_id,
        &n.display_name,
        &n.metric,
        &n.unit,
        &severity,
        &n.zone_id,
        &n.device_type,
        &reason,
        &closing_reason,
        &limit,
        &bound.value,
        &n.value,
        &closed_at,
        &n.summary,
        &n.description,
        &n.silenced_by,
    ];
    client.execute(statement, &params).await
}
