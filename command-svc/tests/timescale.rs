//! Refreshing and dropping where TimescaleDB keeps the hours. Without such a server these tests have nothing
//! to ask.

use crate::support::Service;
use schema::migrations::Dialect;
use testkit::kafka::Kafka;
use testkit::postgres::{Database, dialects};
use testkit::wait::until;
use tokio_postgres::error::SqlState;

const KEPT_DAYS: &str = "SELECT drop_readings_before((now() AT TIME ZONE 'UTC')::date - 10)::bigint";
const RAW: &str = "SELECT count(*) FROM readings_ingestion";
const COUNTED: &str = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";

/// A database with a reading on each of the given days before today; none where the server has no
/// TimescaleDB.
async fn with_days(days: std::ops::RangeInclusive<i32>) -> Option<Database> {
    if !dialects().await.contains(&Dialect::Timescale) {
        return None;
    }
    let database = Database::create_with(Dialect::Timescale).await;
    insert(&database, days).await;
    Some(database)
}

async fn insert(database: &Database, days: std::ops::RangeInclusive<i32>) {
    let rows = "INSERT INTO readings_ingestion
                SELECT 's', 'm', now() - day * INTERVAL '1 day', 1, gen_random_uuid(), now(), 'T', 'z'
                FROM generate_series($1::int, $2::int) AS day";
    database.client().await.execute(rows, &[days.start(), days.end()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_go_a_few_at_a_time_and_one_in_use_stops_no_other() {
    let Some(database) = with_days(5..=25).await else { return };
    database.refresh_hours().await;
    let mut reader = database.client().await;
    let reading = reader.transaction().await.unwrap();
    // A fixed bound, so that the plan holds the one chunk alone.
    let bound = "SELECT ((now() AT TIME ZONE 'UTC')::date - 24)::text || ' 00:00Z'";
    let bound: String = reading.query_one(bound, &[]).await.unwrap().get(0);
    let oldest = format!("SELECT value FROM readings_ingestion WHERE reading_at < '{bound}'");
    assert_eq!(reading.query(&oldest, &[]).await.unwrap().len(), 1);
    let mut dropped = 0;
    let refused = loop {
        match database.client().await.query_one(KEPT_DAYS, &[]).await {
            Ok(row) => dropped += row.get::<_, i64>(0),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "{refused}");
    // The tenth day before today is kept, and so is what is read.
    assert_eq!((dropped, database.count(RAW).await), (14, 7));
    reading.commit().await.unwrap();
    assert_eq!((database.count(KEPT_DAYS).await, database.count(KEPT_DAYS).await), (1, 0));
    database.refresh_hours().await;
    assert_eq!((database.count(RAW).await, database.count(COUNTED).await), (6, 21));
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_no_hour_counts_yet_are_not_dropped() {
    let Some(database) = with_days(11..=13).await else { return };
    database.refresh_hours().await;
    insert(&database, 12..=12).await;
    assert_eq!(database.count(KEPT_DAYS).await, 1, "the oldest day is complete");
    let refused = database.client().await.query_one(KEPT_DAYS, &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{refused}");
    database.refresh_hours().await;
    assert_eq!((database.count(KEPT_DAYS).await, database.count(KEPT_DAYS).await), (2, 0));
    assert_eq!((database.count(RAW).await, database.count(COUNTED).await), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_are_dropped_before_or_after_a_refresh_and_not_within_it() {
    let Some(database) = with_days(11..=13).await else { return };
    database.refresh_hours().await;
    // A correction, whose refresh is held up after it has begun: it must write to what is locked here.
    insert(&database, 11..=13).await;
    let of_hours =
        "SELECT format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', materialization_hypertable_schema,
                                  materialization_hypertable_name)
                    FROM timescaledb_information.continuous_aggregates";
    let mut holder = database.client().await;
    let lock: String = holder.query_one(of_hours, &[]).await.unwrap().get(0);
    let held = holder.transaction().await.unwrap();
    held.batch_execute(&lock).await.unwrap();
    let waiting = async |count: i64| {
        let waiting = "SELECT count(*) FROM pg_stat_activity \
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until("sessions that wait", async || (database.count(waiting).await == count).then_some(())).await;
    };
    let (refresher, dropper) = (database.client().await, database.client().await);
    let refresh = async { refresher.batch_execute("CALL refresh_late_readings(0, NULL)").await.unwrap() };
    let drop = async {
        waiting(1).await;
        dropper.query_one(KEPT_DAYS, &[]).await.unwrap().get::<_, i64>(0)
    };
    let release = async {
        waiting(2).await;
        held.commit().await.unwrap();
    };
    let ((), dropped, ()) = tokio::join!(refresh, drop, release);
    assert_eq!(dropped, 3);
    database.refresh_hours().await;
    assert_eq!((database.count(RAW).await, database.count(COUNTED).await), (0, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshes_of_late_and_of_recent_readings_never_fail_each_other() {
    let Some(database) = with_days(0..=13).await else { return };
    let refresh = async |part: &str| {
        let client = database.client().await;
        for _ in 0..20 {
            insert(&database, 6..=8).await;
            client.batch_execute(&format!("CALL refresh_{part}_readings(0, NULL)")).await.unwrap();
        }
    };
    tokio::join!(refresh("late"), refresh("recent"), refresh("late"), refresh("recent"));
    database.refresh_hours().await;
    assert_eq!(database.count(COUNTED).await, 14 + 80 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_is_shown() {
    let Some(database) = with_days(0..=0).await else { return };
    let kafka = Kafka::create().await;
    let service = Service::start(&kafka, database.url());
    until("a turn", async || {
        (service.metric("command_maintenance_success_timestamp_seconds") > Some(0.0)).then_some(())
    })
    .await;
    let failed = || service.metric("command_timescale_failed_jobs");
    assert_eq!((failed(), service.metric("command_maintenance_failures_total")), (Some(0.0), Some(0.0)));
    let jobs = "CREATE PROCEDURE fail(job_id integer, config jsonb) LANGUAGE plpgsql AS
                  $$ BEGIN RAISE EXCEPTION 'it fails'; END $$;
                SELECT add_job('fail', INTERVAL '1 hour');
                SELECT _timescaledb_functions.start_background_workers()";
    database.client().await.batch_execute(jobs).await.unwrap();
    until("the failed job", async || (failed() == Some(1.0)).then_some(())).await;
    until("the refresh", async || {
        (service.metric("command_timescale_refresh_timestamp_seconds") > Some(0.0)).then_some(())
    })
    .await;
    service.stop().await;
}
