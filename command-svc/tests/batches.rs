//! How large batches are, and what bounds them.

use crate::support::{LIMITS, Service, batch, committed, config, produce, reading, rows_reach};
use command_svc::batch::Limits;
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::postgres::Database;
use testkit::wait::until;

const AT: &str = "2026-01-02T03:04:05Z";

/// Returns the number of batches written and the rows in them.
fn written(service: &Service) -> (u64, f64) {
    let families = service.chassis.registry.gather();
    let family = families.iter().find(|family| family.name() == "command_batch_rows").unwrap();
    let histogram = family.get_metric()[0].get_histogram();
    (histogram.get_sample_count(), histogram.get_sample_sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_small_when_idle_and_large_when_lagging() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let service = Service::start(&kafka, database.url());
    for number in 0..10 {
        produce(&kafka, &reading("s", number, AT, 1.0)).await;
        rows_reach(&database, i64::from(number) + 1).await;
    }
    until("ten batches", async || (written(&service) == (10, 10.0)).then_some(())).await;

    // Inserts wait while a backlog builds up; every lane has begun a batch by then.
    let holder = database.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE readings_ingestion IN EXCLUSIVE MODE").await.unwrap();
    let backlog = (10..3_010).map(async |number| {
        produce(&kafka, &reading(&format!("s{}", number % 13), number, AT, 1.0)).await;
    });
    futures::future::join_all(backlog).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("a write that waits", async || (database.count(waiting).await >= 1).then_some(())).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    rows_reach(&database, 3_010).await;
    until("offsets", async || (committed(&kafka) == 3_010).then_some(())).await;
    let (batches, rows) = written(&service);
    assert!(rows >= 3_010.0);
    let ready = 3_000 / LIMITS.rows_ready as u64;
    assert!(batches - 10 < ready, "{batches} batches, and {ready} if none had grown beyond what is ready");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_given_up_and_tried_again() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let mut config = config(&kafka, database.url());
    config.postgres = config.postgres.with_statement_max(Duration::from_millis(500));
    let service = Service::start_with(config);
    produce(&kafka, &reading("s", 0, AT, 1.0)).await;
    rows_reach(&database, 1).await;
    until("offsets", async || (committed(&kafka) == 1).then_some(())).await;

    let holder = database.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE readings_ingestion IN EXCLUSIVE MODE").await.unwrap();
    for number in 1..100 {
        produce(&kafka, &reading("s", number, AT, 1.0)).await;
    }
    until("tries in vain", async || (service.metric("command_retries_total")? >= 3.0).then_some(())).await;
    service.not_ready().await;
    assert_eq!(committed(&kafka), 1);
    assert_eq!(service.metric("command_dead_letters_total"), Some(0.0), "an outage refuses nothing");
    holder.batch_execute("ROLLBACK").await.unwrap();
    rows_reach(&database, 100).await;
    service.ready().await;
    until("offsets", async || (committed(&kafka) == 100).then_some(())).await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 100);
    service.stop().await;
}

#[test]
fn rows_or_bytes_end_a_batch() {
    let readings: Vec<_> = (0..10).map(|number| reading("s", number, AT, 1.0)).collect();
    let ten = batch(&readings);
    let bytes: usize = readings.iter().map(|one| serde_json::to_vec(one).unwrap().len()).sum();
    let limits = |rows_ready, rows_max, bytes_max| Limits { rows_ready, rows_max, bytes_max, ..LIMITS };
    assert!(ten.is_ready(&limits(10, 100, 1 << 20)) && !ten.is_ready(&limits(11, 100, 1 << 20)));
    assert!(ten.is_full(&limits(1, 10, 1 << 20)) && !ten.is_full(&limits(1, 11, 1 << 20)));
    assert!(ten.is_full(&limits(1, 100, bytes)) && !ten.is_full(&limits(1, 100, bytes + 1)));
    assert!(ten.is_ready(&limits(100, 100, bytes)), "what is full is ready");
}
