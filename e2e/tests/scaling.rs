//! The consuming services grow from one instance to three and shrink again, in a loop, while they lag.

use e2e::Instance;
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use testkit::kafka::Kafka;
use testkit::postgres::Database;
use testkit::wait::until;

/// Readings that come at once, so that there is lag while partitions move.
const BURST: u32 = 3_000;
/// Times that the service grows and shrinks.
const TURNS: u32 = 2;
const AT: &str = "2026-01-02T03:04:05Z";

async fn produce(kafka: &Kafka, numbers: std::ops::Range<u32>) {
    let produced = numbers.map(async |number| {
        let sensor_id = format!("s{}", number % 50);
        let at = Timestamp::parse(AT).unwrap();
        let reading = ReadingCreatedEvent {
            event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
            sensor_id: sensor_id.clone(),
            device_type: "THERMOSTAT".into(),
            zone_id: "kitchen".into(),
            values: [("temperature".to_owned(), 1.0)].into(),
            attributes: serde_json::Map::new(),
            reading_at: at,
            received_at: at,
        };
        let value = serde_json::to_vec(&reading).unwrap();
        kafka.produce(topics::READINGS, &sensor_id, Some(&value)).await;
    });
    futures::future::join_all(produced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_svc_grows_and_shrinks_under_lag_and_stores_everything_once() {
    let (kafka, database) = tokio::join!(Kafka::create(), Database::create());
    let start = || {
        Instance::start(
            "command-svc",
            &[
                ("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap),
                ("KAFKA_TOPIC_PREFIX", &kafka.prefix),
                ("DATABASE_URL", database.url()),
            ],
        )
    };
    let first = start();
    first.ready().await;
    let mut produced = 0;
    let mut burst = async || {
        produce(&kafka, produced..produced + BURST).await;
        produced += BURST;
        i64::from(produced)
    };
    let holder = database.client().await;
    for _ in 0..TURNS {
        // Writes wait while others join, so the partitions that move have lag.
        holder.batch_execute("BEGIN; LOCK TABLE readings_ingestion IN EXCLUSIVE MODE").await.unwrap();
        burst().await;
        let (second, third) = (start(), start());
        until("partitions of the second and the third", async || {
            let assigned = async |instance: &Instance| instance.metric("command_partitions_assigned").await;
            (assigned(&second).await? > 0.0 && assigned(&third).await? > 0.0).then_some(())
        })
        .await;
        burst().await;
        holder.batch_execute("COMMIT").await.unwrap();
        until("rows of the second and the third", async || {
            let rows = async |instance: &Instance| instance.metric("command_rows_inserted_total").await;
            (rows(&second).await? > 0.0 && rows(&third).await? > 0.0).then_some(())
        })
        .await;
        burst().await;
        second.stop().await;
        third.stop().await;
        let expected = burst().await;
        until("every reading as a row", async || {
            (database.count("SELECT count(*) FROM readings_ingestion").await >= expected).then_some(())
        })
        .await;
    }
    until("no lag and nothing paused", async || {
        let is_done = first.metric("command_lag_records").await? == 0.0;
        (is_done && first.metric("command_partitions_paused").await? == 0.0).then_some(())
    })
    .await;
    assert_eq!(first.metric("command_stalls_total").await, Some(0.0));
    first.stop().await;
    let expected = i64::from(BURST) * 4 * i64::from(TURNS);
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, expected);
    assert_eq!(database.count("SELECT count(DISTINCT event_id) FROM readings_ingestion").await, expected);
    database.refresh_hours().await;
    let counted = "SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates";
    assert_eq!(database.count(counted).await, expected);
}
