//! What is written, and that it is written once.

use crate::support::{Service, produce, reading, rows_reach};
use schema::topics;
use serde_json::json;
use testkit::kafka::Kafka;
use testkit::postgres::Database;

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_becomes_a_row_a_latest_value_and_part_of_its_hour() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let mut first = reading("s1", 1, "2026-01-02T03:04:05Z", 20.0);
    first.attributes = json!({"firmware": "1.2"}).as_object().unwrap().clone();
    produce(&kafka, &first).await;
    produce(&kafka, &reading("s1", 2, "2026-01-02T03:30:00Z", 24.0)).await;
    produce(&kafka, &reading("s1", 3, "2026-01-02T03:00:00Z", 10.0)).await;
    let service = Service::start(&kafka, database.url());
    rows_reach(&database, 3).await;

    let client = database.client().await;
    let row = client
        .query_one(
            "SELECT value, zone_id, attributes::text, event_id FROM readings_ingestion \
             WHERE sensor_id = 's1' AND metric = 'temperature' AND reading_at = '2026-01-02T03:04:05Z'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, f64>(0), row.get::<_, &str>(1)), (20.0, "kitchen"));
    assert_eq!(row.get::<_, &str>(2), r#"{"firmware": "1.2"}"#);
    assert_eq!(row.get::<_, uuid::Uuid>(3), first.event_id);
    let latest: f64 = client.query_one("SELECT value FROM sensor_latest", &[]).await.unwrap().get(0);
    assert_eq!(latest, 24.0, "the newest by the device's clock, not the last to arrive");
    let hour = client
        .query_one("SELECT avg, min, max, count, bucket::text FROM sensor_reading_hourly_aggregates", &[])
        .await
        .unwrap();
    assert_eq!((hour.get::<_, f64>(0), hour.get::<_, f64>(1), hour.get::<_, f64>(2)), (18.0, 10.0, 24.0));
    assert_eq!(hour.get::<_, i64>(3), 3);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivered_reading_inserts_no_rows_and_counts_nowhere_twice() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let first = reading("s1", 1, "2026-01-02T03:04:05Z", 20.0);
    for _ in 0..3 {
        produce(&kafka, &first).await; // three in one batch
    }
    let service = Service::start(&kafka, database.url());
    rows_reach(&database, 1).await;
    produce(&kafka, &first).await; // and one in a later batch
    produce(&kafka, &reading("s1", 2, "2026-01-02T03:04:05Z", 21.0)).await; // another event of the same instant
    rows_reach(&database, 2).await;
    service.stop().await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 2);
    assert_eq!(database.count("SELECT count FROM sensor_reading_hourly_aggregates").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_become_a_row_lands_in_the_dead_letter_topic_and_the_rest_lands() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let mut poison = reading("bad", 1, "2026-01-02T03:04:05Z", 1.0);
    poison.attributes = json!({"text": "\u{0}"}).as_object().unwrap().clone(); // no jsonb takes NUL
    for number in 0..50 {
        produce(&kafka, &reading("good", number, "2026-01-02T03:04:05Z", 1.0)).await;
        if number == 20 {
            produce(&kafka, &poison).await;
            kafka.produce(topics::READINGS, "good", Some(b"no reading")).await;
        }
    }
    let service = Service::start(&kafka, database.url());
    rows_reach(&database, 50).await;
    let letters = kafka.read(topics::READING_DLQ);
    let (one, other) = (letters.next().await, letters.next().await);
    let (undecodable, refused) = if one.text() == "no reading" { (one, other) } else { (other, one) };
    assert_eq!(undecodable.key, b"good");
    assert_eq!(undecodable.header("reason"), Some("not-a-reading"));
    assert!(undecodable.header("detail").unwrap().starts_with("record is not a ReadingCreatedEvent"));
    assert_eq!(
        undecodable.header("source-topic"),
        Some(kafka.settings().topic(topics::READINGS.name).as_str())
    );
    assert_eq!(undecodable.header("source-offset"), Some("21"));
    assert_eq!(undecodable.header("event-id"), None);
    assert_eq!(refused.key, b"bad");
    assert_eq!(refused.header("event-id"), Some(poison.event_id.to_string().as_str()));
    assert_eq!(refused.header("reason"), Some("unstorable"));
    assert_eq!(refused.header("detail"), Some("attribute \"text\" holds the character U+0000"));
    service.stop().await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 50);
}
