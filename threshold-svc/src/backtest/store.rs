//! Stored readings, streamed through a backtest a day at a time.

use super::asked::{Place, Range, Tested, row};
use super::report::Report;
use super::run::{Backtest, Sample};
use crate::store;
use chassis::http::Problem;
use chassis::postgres::Select;
use deadpool_postgres::{Object, Pool, Transaction};
use futures::TryStreamExt as _;
use schema::{ThresholdRow, Timestamp};
use std::pin::pin;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

/// Most values that one backtest reads.
const READINGS_MAX: u64 = 10_000_000;
/// Most episodes that it holds: beyond that a threshold says nothing by speaking. About 300 bytes each.
const EPISODES_MAX: usize = 200_000;
/// Time after which it asks for no more rows.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Most thresholds in force beside the tested one. About 2 KB each.
const IN_FORCE_MAX: i64 = 10_000;
/// Rows that are asked for at a time: other requests of the thread wait for their evaluation.
const ROWS_AT_A_TIME: i32 = 5_000;
/// One day, in microseconds. Tables are partitioned by UTC days, and a fleet's rows are sorted: those of one
/// day at a time.
const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// Settings of the connection, which is used for one backtest and closed with it. The server looks whether we
/// are still there while it sorts; one that cannot do so ends the statement after its time.
const SETTINGS: [&str; 2] = ["SET statement_timeout = '60s'", "SET client_connection_check_interval = '1s'"];

const READINGS: &str = "SELECT sensor_id, device_type, zone_id, event_id, value, reading_at \
     FROM readings_ingestion WHERE true";

/// Runs a backtest over what is stored.
///
/// Guarantee: whoever drops this future closes the connection, and with it ends the query.
///
/// # Errors
/// 400 when too many thresholds are in force, 503 when the database is away.
pub(super) async fn run(pool: &Pool, tested: &Tested) -> Result<Report, Problem> {
    // A connection beyond those of the pool, at most one for each backtest.
    let mut client = Object::take(pool.get().await?);
    for setting in SETTINGS {
        // A server that has no such setting keeps its own ideas.
        let _ = client.batch_execute(setting).await;
    }
    let transaction = client.build_transaction().read_only(true).start().await?;
    let in_force = read_in_force(&transaction, tested).await?;
    let mut backtest = Backtest::new(&tested.row, &in_force, tested.range.from);
    let ends_at = Instant::now() + RUN_MAX;
    for day in days(tested.range) {
        match read_day(&transaction, tested, day, &mut backtest, ends_at).await {
            Ok(true) => backtest.reach(day.1),
            Ok(false) => return Ok(backtest.finish(true)),
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                return Ok(backtest.finish(true));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(backtest.finish(false))
}

/// Reads the live thresholds with the purpose of the tested one (ADR 0022), those that may meet it.
async fn read_in_force(transaction: &Transaction<'_>, tested: &Tested) -> Result<Vec<ThresholdRow>, Problem> {
    let (row_of_tested, sensor_id) = (&tested.row, tested.place.sensor_id.as_deref());
    let found = store::in_force(transaction, row_of_tested, sensor_id, IN_FORCE_MAX + 1).await?;
    if i64::try_from(found.len()).unwrap_or(i64::MAX) > IN_FORCE_MAX {
        let detail = format!(
            "over {IN_FORCE_MAX} thresholds of this metric and severity are in force: name one sensor"
        );
        return Err(Problem::field("sensorId", detail));
    }
    found.iter().map(|found| row(found.threshold_id, &found.draft, tested.range.from)).collect()
}

/// Cuts a range into UTC days.
fn days(range: Range) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    let mut from = range.from;
    std::iter::from_fn(move || {
        if from >= range.until {
            return None;
        }
        let midnight = from.as_micros() - from.as_micros().rem_euclid(DAY_MICROS) + DAY_MICROS;
        let to = Timestamp::from_micros(midnight).map_or(range.until, |midnight| midnight.min(range.until));
        Some((std::mem::replace(&mut from, to), to))
    })
}

/// Evaluates what is stored of a day; false when a bound is met before its end.
async fn read_day(
    transaction: &Transaction<'_>,
    tested: &Tested,
    (from, to): (Timestamp, Timestamp),
    backtest: &mut Backtest,
    ends_at: Instant,
) -> Result<bool, tokio_postgres::Error> {
    let (from, to) = (OffsetDateTime::from(from), OffsetDateTime::from(to));
    let select = selected(&tested.row.metric, &tested.place, &from, &to);
    let (values, types): (Vec<_>, Vec<Type>) = select.params().iter().cloned().unzip();
    let statement = transaction.prepare_typed(select.text(), &types).await?;
    let portal = transaction.bind(&statement, &values).await?;
    loop {
        let before = backtest.readings();
        let mut rows = pin!(transaction.query_portal_raw(&portal, ROWS_AT_A_TIME).await?);
        while let Some(row) = rows.try_next().await? {
            backtest.read(&read(&row)?);
        }
        if backtest.readings() == before {
            return Ok(true);
        }
        let is_full = backtest.readings() >= READINGS_MAX || backtest.episodes() >= EPISODES_MAX;
        if is_full || Instant::now() >= ends_at {
            return Ok(false);
        }
    }
}

fn selected<'a>(
    metric: &'a String,
    place: &'a Place,
    from: &'a OffsetDateTime,
    to: &'a OffsetDateTime,
) -> Select<'a> {
    let range: [(&(dyn ToSql + Sync), Type); 3] =
        [(metric, Type::TEXT), (from, Type::TIMESTAMPTZ), (to, Type::TIMESTAMPTZ)];
    let mut select =
        Select::new(READINGS).then(" AND metric = $? AND reading_at >= $? AND reading_at < $?", range);
    for (value, condition) in [
        (&place.sensor_id, " AND sensor_id = $?"),
        (&place.device_type, " AND device_type = $?"),
        (&place.zone_id, " AND zone_id = $?"),
    ] {
        if let Some(value) = value {
            select = select.then(condition, [(value as _, Type::TEXT)]);
        }
    }
    select.then(" ORDER BY reading_at, sensor_id, event_id", [])
}

fn read(row: &Row) -> Result<Sample<'_>, tokio_postgres::Error> {
    Ok(Sample {
        sensor_id: row.try_get(0)?,
        device_type: row.try_get(1)?,
        zone_id: row.try_get(2)?,
        event_id: row.try_get(3)?,
        value: row.try_get(4)?,
        reading_at: row.try_get::<_, OffsetDateTime>(5)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_at_midnights() {
        let instant = |text: &str| Timestamp::parse(text).unwrap();
        let days = |from: &str, until: &str| {
            let (from, until) = (instant(from), instant(until));
            days(Range { from, to: until, until })
                .map(|(from, to)| format!("{from} {to}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            days("2026-01-01T22:00:00Z", "2026-01-03T01:00:00Z"),
            [
                "2026-01-01T22:00:00.000000Z 2026-01-02T00:00:00.000000Z",
                "2026-01-02T00:00:00.000000Z 2026-01-03T00:00:00.000000Z",
                "2026-01-03T00:00:00.000000Z 2026-01-03T01:00:00.000000Z",
            ]
        );
        let day = "1969-12-31T00:00:00.000000Z 1970-01-01T00:00:00.000000Z";
        assert_eq!(days("1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"), [day]);
    }
}
