//! Audits find what was really broken, and nothing else.

use chassis::kafka::owned_headers;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use schema::dead_letter::{DeadLetter, Origin};
use schema::migrations::Dialect;
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;
use testkit::kafka::{Kafka, Record};
use testkit::postgres::{Database, dialects};
use tokio_postgres::Client;

async fn verify(database: &Database, kafka: Option<&Kafka>, arguments: &[&str]) -> (Output, Vec<Value>) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_iotctl"));
    command.arg("verify").args(arguments).env("DATABASE_URL", database.url());
    if let Some(kafka) = kafka {
        command.env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap).env("KAFKA_TOPIC_PREFIX", &kafka.prefix);
    }
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (output, lines)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Raw rows of three days, and their hours as SQL sums them up.
async fn fill(client: &Client, dialect: Dialect) {
    if dialect == Dialect::Postgres {
        let days = "SELECT ensure_reading_partition(day) FROM unnest('{2026-03-28,2026-03-29,2026-03-30}'::date[]) day";
        client.batch_execute(days).await.unwrap();
    }
    let avg = if dialect == Dialect::Distributed { ", avg" } else { "" };
    let avg_of = if avg.is_empty() { "" } else { ", avg(value)" };
    client
        .batch_execute(&format!(
            "INSERT INTO readings_ingestion
             SELECT 's' || n % 3, 'm', '2026-03-28 00:00Z'::timestamptz + n * INTERVAL '10 minutes', n * 0.1,
                    gen_random_uuid(), now(), 'T', 'z'
             FROM generate_series(0, 431) AS n;
             INSERT INTO sensor_reading_hourly_aggregates
               (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum{avg})
             SELECT date_trunc('hour', reading_at), sensor_id, metric, device_type, zone_id,
                    min(value), max(value), count(*), sum(value){avg_of}
             FROM readings_ingestion GROUP BY 1, 2, 3, 4, 5"
        ))
        .await
        .unwrap();
}

const WINDOW: [&str; 4] = ["--from", "2026-03-28", "--to", "2026-03-31"];

#[tokio::test(flavor = "multi_thread")]
async fn every_hour_that_differs_from_its_raw_rows_is_printed() {
    // TimescaleDB keeps the hours itself, so nobody can write a wrong one there.
    for dialect in dialects().await.into_iter().filter(|dialect| dialect.writes_hours()) {
        let database = Database::create_with(dialect).await;
        let client = database.client().await;
        fill(&client, dialect).await;
        let arguments: Vec<_> = ["aggregates"].into_iter().chain(WINDOW).collect();
        let (output, lines) = verify(&database, None, &arguments).await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(lines, [serde_json::json!({"summary": {"compared": 216, "differing": 0, "lost": 0}})]);

        client
            .batch_execute(
                "UPDATE sensor_reading_hourly_aggregates SET sum = sum * (1 + 1e-13)
                 WHERE sensor_id = 's0' AND bucket = '2026-03-28 05:00Z';
                 UPDATE sensor_reading_hourly_aggregates SET sum = sum + 0.001
                 WHERE sensor_id = 's0' AND bucket = '2026-03-28 06:00Z';
                 UPDATE sensor_reading_hourly_aggregates SET count = 3
                 WHERE sensor_id = 's1' AND bucket = '2026-03-29 01:00Z';
                 DELETE FROM sensor_reading_hourly_aggregates
                 WHERE sensor_id = 's2' AND bucket = '2026-03-29 23:00Z';
                 DELETE FROM readings_ingestion
                 WHERE sensor_id = 's2' AND reading_at >= '2026-03-30 00:00Z' AND reading_at < '2026-03-30 01:00Z';
                 UPDATE sensor_reading_hourly_aggregates SET max = 1000
                 WHERE sensor_id = 's0' AND bucket = '2026-03-30 23:00Z'",
            )
            .await
            .unwrap();
        let (output, mut lines) = verify(&database, None, &arguments).await;
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let summary = lines.pop().unwrap();
        assert_eq!(summary["summary"]["differing"], 5, "{dialect:?}: {lines:?}");
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line["bucket"].as_str().unwrap(), line["sensorId"].as_str().unwrap()))
            .collect();
        assert_eq!(
            found,
            [
                ("2026-03-28T06:00:00.000000Z", "s0"),
                ("2026-03-29T01:00:00.000000Z", "s1"),
                ("2026-03-29T23:00:00.000000Z", "s2"),
                ("2026-03-30T00:00:00.000000Z", "s2"),
                ("2026-03-30T23:00:00.000000Z", "s0"),
            ]
        );
        assert_eq!((&lines[1]["raw"]["count"], &lines[1]["stored"]["count"]), (&2.into(), &3.into()));
        assert!(lines[2]["stored"].is_null() && lines[3]["raw"].is_null());

        // Days that retention has dropped cannot be compared, and that is no fault.
        let kept = "UPDATE storage_contract SET readings_kept_from = '2026-03-30 01:00Z'";
        client.batch_execute(kept).await.unwrap();
        let (output, lines) = verify(&database, None, &arguments).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(lines.last().unwrap()["summary"]["differing"], 1);
        assert!(said(&output).contains("raw rows are kept from 2026-03-30T01:00:00"), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_that_a_refresh_over_dropped_readings_deleted_are_found() {
    if !dialects().await.contains(&Dialect::Timescale) {
        return; // only TimescaleDB refreshes hours from raw readings
    }
    let database = Database::create_with(Dialect::Timescale).await;
    let client = database.client().await;
    let days = "INSERT INTO readings_ingestion
                SELECT 's', 'm', '2026-03-28 12:00Z'::timestamptz + day * INTERVAL '1 day', 1,
                       gen_random_uuid(), now(), 'T', 'z' FROM generate_series(0, 2) AS day";
    client.batch_execute(days).await.unwrap();
    database.refresh_hours().await;
    assert_eq!(database.count("SELECT drop_readings_before('2026-03-30')::bigint").await, 2);
    let arguments: Vec<_> = ["aggregates"].into_iter().chain(WINDOW).collect();
    let (output, lines) = verify(&database, None, &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{lines:?} {}", said(&output));

    // As the job does it, over and over: nothing is lost. As every manual shows it: the hours of two days
    // are.
    database.refresh_hours().await;
    let (output, _) = verify(&database, None, &arguments).await;
    assert_eq!(output.status.code(), Some(0));
    let by_hand = "CALL refresh_continuous_aggregate('sensor_reading_hourly_aggregates', NULL, NULL)";
    client.batch_execute(by_hand).await.unwrap();
    let (output, lines) = verify(&database, None, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&lines[0]["dropped"], &lines[0]["counted"]), (&1.into(), &0.into()));
    assert_eq!(lines[0]["from"], "2026-03-28T00:00:00.000000Z");
    assert_eq!(lines[2], serde_json::json!({"summary": {"compared": 1, "differing": 0, "lost": 2}}));
}

fn reading(number: u32) -> ReadingCreatedEvent {
    let sensor_id = format!("s{}", number % 5);
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
        sensor_id,
        device_type: "T".into(),
        zone_id: "z".into(),
        values: [("humidity".to_owned(), 40.0), ("temperature".to_owned(), 20.0)].into(),
        attributes: serde_json::Map::new(),
        reading_at: Timestamp::now(),
        received_at: Timestamp::now(),
    }
}

async fn produce(kafka: &Kafka, reading: &ReadingCreatedEvent) {
    let value = serde_json::to_vec(reading).unwrap();
    kafka.produce(topics::READINGS, &reading.sensor_id, Some(&value)).await;
}

async fn store(client: &Client, reading: &ReadingCreatedEvent) {
    for (metric, value) in &reading.values {
        let row = "INSERT INTO readings_ingestion VALUES ($1, $2, $3, $4, $5, $6, 'T', 'z')";
        let (at, received) =
            (time::OffsetDateTime::from(reading.reading_at), time::OffsetDateTime::from(reading.received_at));
        client
            .execute(row, &[&reading.sensor_id, metric, &at, value, &reading.event_id, &received])
            .await
            .unwrap();
    }
}

/// Commits what the topic holds by now, as the command service does once it is stored.
fn commit(kafka: &Kafka) {
    let (settings, name) = (kafka.settings(), kafka.settings().topic(topics::READINGS.name));
    let consumer: BaseConsumer = settings.consumer("command-svc").create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in 0..testkit::kafka::SCALED_PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(&name, partition, Duration::from_secs(30)).unwrap();
        offsets.add_partition_offset(&name, partition, Offset::Offset(end)).unwrap();
    }
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
}

async fn send_dead_letter(kafka: &Kafka, record: &Record) {
    let topic = kafka.settings().topic(topics::READINGS.name);
    let origin = Some(Origin { topic, place: Some((record.partition, record.offset)) });
    let letter = DeadLetter { origin, ..DeadLetter::new("database-refused", "") };
    let headers = owned_headers(letter.headers());
    kafka.produce_with_headers(topics::READING_DLQ, "s", record.value.as_deref(), headers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_holds_and_the_table_does_not_is_printed_and_so_is_what_it_holds_twice() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let client = database.client().await;
    if database.dialect == Dialect::Postgres {
        let day = "SELECT ensure_reading_partition((now() AT TIME ZONE 'UTC')::date + day) FROM generate_series(-1, 1) AS day";
        client.batch_execute(day).await.unwrap();
    }
    let readings: Vec<_> = (0..40).map(reading).collect();
    for reading in &readings {
        produce(&kafka, reading).await;
        store(&client, reading).await;
    }
    produce(&kafka, &readings[7]).await; // a retransmission is one event
    let refused = reading(100);
    produce(&kafka, &refused).await;
    kafka.produce(topics::READINGS, "s", Some(b"no reading")).await;
    let reader = kafka.read(topics::READINGS);
    for _ in 0..43 {
        let record = reader.next().await;
        if record.text() == "no reading" || record.text().contains(&refused.event_id.to_string()) {
            send_dead_letter(&kafka, &record).await;
        }
    }
    commit(&kafka);
    produce(&kafka, &reading(101)).await; // not consumed yet

    let now = Timestamp::now().as_micros();
    let hour = |hours: i64| Timestamp::from_micros(now + hours * 3_600_000_000).unwrap().to_string();
    let (from, to) = (hour(-1), hour(1));
    let arguments = ["ledger", "--from", &from, "--to", &to];
    let (output, lines) = verify(&database, Some(&kafka), &arguments).await;
    assert_eq!(output.status.code(), Some(0), "{lines:?} {}", said(&output));
    let summary = &lines[0]["summary"];
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!((lines.len(), count("records"), count("rows")), (1, 44, 86));
    assert_eq!((count("missing"), count("double")), (0, 0));
    assert_eq!((count("pending"), count("deadLettered"), count("pastRetention")), (2, 3, 0));

    let gone = &readings[11];
    let lose = "DELETE FROM readings_ingestion WHERE event_id = $1 AND metric = 'humidity'";
    assert_eq!(client.execute(lose, &[&gone.event_id]).await.unwrap(), 1);
    let mut twice = readings[12].clone();
    twice.values.remove("humidity");
    twice.reading_at = Timestamp::from_micros(twice.reading_at.as_micros() + 1).unwrap();
    store(&client, &twice).await;
    let (output, lines) = verify(&database, Some(&kafka), &arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0]["missing"]["eventId"], gone.event_id.to_string());
    assert_eq!(lines[0]["missing"]["metric"], "humidity");
    assert_eq!(lines[1]["double"]["eventId"], twice.event_id.to_string());
    assert_eq!(lines[1]["double"]["metric"], "temperature");
    assert_eq!((&lines[2]["summary"]["missing"], &lines[2]["summary"]["double"]), (&1.into(), &1.into()));

    // Nothing happened an hour ago.
    let earlier = ["ledger", "--from", &hour(-2), "--to", &from];
    let (output, lines) = verify(&database, Some(&kafka), &earlier).await;
    assert_eq!((output.status.code(), lines[0]["summary"]["records"].as_u64()), (Some(0), Some(0)));
}
