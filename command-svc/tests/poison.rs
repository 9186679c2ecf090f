//! Records that no database takes, and dead letters that no topic takes: neither holds up what comes behind.

use crate::once::{all_are_stored_once, produce_numbers, stage};
use crate::support::{Service, committed, config, produce, reading, rows_reach};
use chassis::kafka::owned_headers;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use schema::dead_letter::{DeadLetter, Origin};
use schema::topics;
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::wait::until;

const AT: &str = "2026-01-02T03:04:05Z";

async fn dead_letters_reach(service: &Service, count: f64) {
    until("dead letters", async || (service.metric("command_dead_letters_total")? >= count).then_some(()))
        .await;
    assert_eq!(service.metric("command_dead_letters_total"), Some(count));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_values_that_no_database_takes_cost_their_neighbours_nothing() {
    let (kafka, database) = stage().await;
    produce_numbers(&kafka, 0..200).await;
    let poison = (10_000..15_000).map(async |number| {
        produce(&kafka, &reading(&format!("s{}", number % 13), number, AT, 1e300)).await;
    });
    futures::future::join_all(poison).await;
    produce_numbers(&kafka, 200..400).await;
    let mut config = config(&kafka, database.url());
    // A single wait of this kind would be longer than the test's patience.
    config.data_retry_first = Duration::from_secs(60);
    let service = Service::start_with(config);
    rows_reach(&database, 400).await;
    dead_letters_reach(&service, 5_000.0).await;
    until("offsets", async || (committed(&kafka) == 5_400).then_some(())).await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 400);
    let letter = kafka.read(topics::READING_DLQ).next().await;
    assert!(letter.header("detail").unwrap().starts_with("metric \"temperature\" is 1e300"), "{letter:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_only_the_database_refuses_wait_beside_the_others() {
    let (kafka, database) = stage().await;
    let refuse = "ALTER TABLE readings_ingestion ADD CONSTRAINT thirteen CHECK (value <> 13)";
    database.client().await.batch_execute(refuse).await.unwrap();
    produce_numbers(&kafka, 0..200).await;
    for number in 1_000..1_100 {
        produce(&kafka, &reading("s1", number, AT, 13.0)).await;
    }
    produce_numbers(&kafka, 200..400).await;
    let mut config = config(&kafka, database.url());
    config.data_retry_first = Duration::from_secs(2);
    let service = Service::start_with(config);
    rows_reach(&database, 400).await;
    // Few of them have tries left, and these are not letters yet.
    until("the others as dead letters", async || {
        (service.metric("command_dead_letters_total")? >= 84.0).then_some(())
    })
    .await;
    assert!(committed(&kafka) < 500, "no offset passes what is undecided");
    dead_letters_reach(&service, 100.0).await;
    let letter = kafka.read(topics::READING_DLQ).next().await;
    assert_eq!(letter.header("reason"), Some("database-refused"));
    assert_eq!(letter.header("detail"), Some("database refuses the rows: SQLSTATE 23514"));
    until("offsets", async || (committed(&kafka) == 500).then_some(())).await;
    assert_eq!(database.count("SELECT count(*) FROM readings_ingestion").await, 400);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_passes_leaves_no_dead_letter() {
    let (kafka, database) = stage().await;
    let admin = database.client().await;
    let refuse = "ALTER TABLE readings_ingestion ADD CONSTRAINT thirteen CHECK (value <> 13)";
    admin.batch_execute(refuse).await.unwrap();
    let mut config = config(&kafka, database.url());
    config.data_retry_first = Duration::from_secs(2);
    let service = Service::start_with(config);
    produce(&kafka, &reading("s1", 1_000, AT, 13.0)).await;
    produce_numbers(&kafka, 0..100).await;
    rows_reach(&database, 100).await;
    admin.batch_execute("ALTER TABLE readings_ingestion DROP CONSTRAINT thirteen").await.unwrap();
    all_are_stored_once(&kafka, &database, 101).await;
    assert_eq!(service.metric("command_dead_letters_total"), Some(0.0));
    service.stop().await;
}

/// Makes the topic refuse larger records.
async fn bound_dead_letters(kafka: &Kafka, bytes: usize) {
    let admin: AdminClient<_> = kafka.settings().client().create().unwrap();
    let (name, bytes) = (kafka.settings().topic(topics::READING_DLQ.name), bytes.to_string());
    let change = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", &bytes);
    for outcome in admin.alter_configs(&[change], &AdminOptions::new()).await.unwrap() {
        outcome.unwrap();
    }
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    std::iter::repeat_with(|| *uuid::Uuid::new_v4().as_bytes()).flatten().take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_its_topic_refuses_is_truncated_and_at_last_counted() {
    let (kafka, database) = stage().await;
    bound_dead_letters(&kafka, 150_000).await;
    let service = Service::start(&kafka, database.url());
    kafka.produce(topics::READINGS, "s1", Some(&noise(300_000))).await;
    produce_numbers(&kafka, 0..100).await;
    rows_reach(&database, 100).await;
    let letters = kafka.read(topics::READING_DLQ);
    let letter = letters.next().await;
    assert_eq!(letter.header("truncated-from-bytes"), Some("300000"));
    assert_eq!(letter.value.as_ref().map(Vec::len), Some(64 << 10));
    assert!(letter.header("detail").unwrap().starts_with("record is not a ReadingCreatedEvent"));
    assert_eq!((letter.key.as_slice(), letter.header("source-offset").is_some()), (&b"s1"[..], true));
    dead_letters_reach(&service, 1.0).await;

    // Not even the beginning fits.
    bound_dead_letters(&kafka, 1_000).await;
    kafka.produce(topics::READINGS, "s1", Some(&noise(300_000))).await;
    produce_numbers(&kafka, 100..200).await;
    until("a letter that is lost", async || {
        (service.metric("command_dead_letters_lost_total")? >= 1.0).then_some(())
    })
    .await;
    rows_reach(&database, 200).await;
    until("offsets", async || (committed(&kafka) == 202).then_some(())).await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_with_the_headers_of_a_letter_comes_back_whole_from_its_own() {
    let (kafka, database) = stage().await;
    let own = [("reason", "mine"), ("source-offset", "7"), ("source-headers", "9"), ("schema", "other/1")]
        .map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec())));
    let headers = owned_headers(own.clone());
    kafka.produce_with_headers(topics::READINGS, "s1", Some(b"no reading"), headers).await;
    let source = kafka.read(topics::READINGS).next().await;
    let service = Service::start(&kafka, database.url());
    let record = kafka.read(topics::READING_DLQ).next().await;
    let headers = record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
    let letter = DeadLetter::read(headers).unwrap();
    assert_eq!((letter.reason.as_str(), record.text()), ("not-a-reading", "no reading"));
    let topic = kafka.settings().topic(topics::READINGS.name);
    assert_eq!(letter.origin, Some(Origin { topic, place: Some((source.partition, source.offset)) }));
    assert_eq!(letter.source_headers, own);
    service.stop().await;
}
