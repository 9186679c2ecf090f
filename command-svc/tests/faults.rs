//! Crashes and outages.

use crate::support::{LIMITS, Service, produce, reading, rows_reach};
use command_svc::batch::Batch;
use command_svc::store::Store;
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::postgres::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_between_rows_and_offsets_stores_each_reading_once() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    for number in 0..200 {
        produce(&kafka, &reading(&format!("s{}", number % 7), number, "2026-01-02T03:04:05Z", 1.0)).await;
    }
    // A predecessor that wrote a part and died before it committed any offset.
    let mut store = Store::open(database.settings().pool().unwrap()).await.unwrap();
    let mut batch = Batch::default();
    let reader = kafka.read(schema::topics::READINGS);
    for _ in 0..80 {
        let record = reader.next().await;
        batch.push(rdkafka::message::OwnedMessage::new(
            record.value,
            Some(record.key),
            String::new(),
            rdkafka::Timestamp::NotAvailable,
            record.partition,
            record.offset,
            None,
        ));
    }
    assert_eq!(store.write(batch.entries()).await.unwrap(), 80);
    assert_eq!(store.write(batch.entries()).await.unwrap(), 0, "the same batch again inserts no rows");

    let first = Service::start(&kafka, database.url());
    rows_reach(&database, 100).await;
    first.kill().await;
    let second = Service::start(&kafka, database.url());
    rows_reach(&database, 200).await;
    second.stop().await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 200);
    assert_eq!(database.count("SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_wait_while_the_database_is_away_and_then_land() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let service = Service::start(&kafka, database.url());
    produce(&kafka, &reading("s", 0, "2026-01-02T03:04:05Z", 1.0)).await;
    rows_reach(&database, 1).await;
    testkit::wait::until("readiness", async || service.chassis.readiness.closed().is_empty().then_some(()))
        .await;

    // Away: nobody may connect, and those who are connected are cut off.
    let admin =
        chassis::postgres::Settings::local(testkit::setting("TEST_DATABASE_URL")).connect().await.unwrap();
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(cut, &[&name]).await.unwrap();
    for number in 1..=1_200 {
        produce(&kafka, &reading("s", number, "2026-01-02T03:04:05Z", 1.0)).await; // more than two batches
    }
    testkit::wait::until("not ready", async || {
        service.chassis.readiness.closed().contains(&"postgres").then_some(())
    })
    .await;
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
    rows_reach(&database, 1_201).await;
    testkit::wait::until("readiness", async || service.chassis.readiness.closed().is_empty().then_some(()))
        .await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_our_schema_stops_the_service() {
    let (kafka, database) = (Kafka::create().await, Database::create_empty().await);
    let config = command_svc::Config {
        kafka: kafka.settings(),
        postgres: database.settings(),
        limits: LIMITS,
        writers: 1,
        data_retry_first: Duration::from_millis(1),
    };
    let error = command_svc::run(config, chassis::Chassis::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("iotctl migrate"), "{error:#}");
}
