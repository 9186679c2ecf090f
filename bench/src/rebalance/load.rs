//! Readings at a rate, with the present time, and the sensors among them that are watched.

use super::{METRIC, Stage};
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Interval between two bursts of the offered load.
const TICK: Duration = Duration::from_millis(2);
/// Sensors of each partition that are watched and have a threshold.
const WATCHED: usize = 2;
/// Timeout after which the broker counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What was offered.
#[derive(Debug, Default)]
pub(super) struct Offered {
    pub(super) readings: i64,
    /// The events of the watched sensors, each of which causes an alert.
    pub(super) watched: HashSet<Uuid>,
}

fn sensor_id(number: u32) -> String {
    format!("thermostat-{number:05}")
}

/// Finds sensors of every partition, and the partition of each.
pub(super) async fn watched(stage: &Stage) -> Result<BTreeMap<String, i32>> {
    let producer: FutureProducer = stage.kafka.producer().create().context("create a producer")?;
    // A topic of its own tells where a key goes: the count of partitions decides that.
    let topic = stage.kafka.topic("places");
    let produced = (0..stage.options.sensors).map(async |number| {
        let sensor_id = sensor_id(number);
        let record = FutureRecord::<str, [u8]>::to(&topic).key(&sensor_id).payload(b"");
        let sent = producer.send(record, Timeout::After(ANSWER_MAX)).await.map_err(|(error, _)| error)?;
        Ok::<_, KafkaError>((sent.partition, sensor_id))
    });
    let mut partitions: BTreeMap<i32, Vec<String>> = BTreeMap::new();
    for place in join_all(produced).await {
        let (partition, sensor_id) = place.context("ask where a sensor's readings go")?;
        partitions.entry(partition).or_default().push(sensor_id);
    }
    ensure!(
        partitions.len() == usize::try_from(stage.options.partitions)?,
        "{} sensors do not reach every partition: raise --sensors",
        stage.options.sensors
    );
    let few = |(partition, sensors): (i32, Vec<String>)| {
        sensors.into_iter().take(WATCHED).map(move |sensor_id| (sensor_id, partition))
    };
    Ok(partitions.into_iter().flat_map(few).collect())
}

/// Puts a threshold for each watched sensor that every reading violates.
pub(super) async fn put_thresholds(stage: &Stage) -> Result<()> {
    let producer: FutureProducer = stage.kafka.producer().create().context("create a producer")?;
    let (topic, now) = (stage.kafka.topic(topics::THRESHOLD_UPDATES.name), Timestamp::now());
    for sensor_id in stage.watched.keys() {
        let id = event_id_from_publisher(sensor_id, "threshold");
        // Each build takes the columns that it knows.
        let row = json!({
            "threshold_id": id, "sensor_id": sensor_id, "metric": METRIC, "min_value": null, "max_value": 0.0,
            "severity": "critical", "enabled": true, "mode": "live", "description": "", "version": 1,
            "created_at": now, "updated_at": now,
        });
        let key = json!({ "threshold_id": id }).to_string();
        let change = json!({ "op": "c", "before": null, "after": row, "source": {}, "ts_ms": 0 }).to_string();
        let record = FutureRecord::to(&topic).key(&key).payload(&change);
        producer.send(record, Timeout::After(ANSWER_MAX)).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// Offers readings until it is told to stop, and returns what it has offered.
pub(super) async fn offer(stage: &Stage, stop: &CancellationToken) -> Result<Offered> {
    let producer: FutureProducer = stage.kafka.producer().create().context("create a producer")?;
    let topic = stage.kafka.topic(topics::READINGS.name);
    let (mut ticks, started) = (interval(TICK), Instant::now());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut offered = Offered::default();
    while !stop.is_cancelled() {
        ticks.tick().await;
        let due = i64::try_from(started.elapsed().as_micros() * u128::from(stage.options.rate) / 1_000_000)?;
        while offered.readings < due {
            let reading = reading(
                u32::try_from(offered.readings % i64::from(stage.options.sensors))?,
                offered.readings,
            );
            produce(&producer, &topic, &reading).await?;
            if stage.watched.contains_key(&reading.sensor_id) {
                offered.watched.insert(reading.event_id);
            }
            offered.readings += 1;
        }
    }
    rdkafka::producer::Producer::flush(&producer, ANSWER_MAX).context("wait for the broker")?;
    Ok(offered)
}

async fn produce(producer: &FutureProducer, topic: &str, reading: &ReadingCreatedEvent) -> Result<()> {
    let value = serde_json::to_vec(reading).context("encode a reading")?;
    let mut record =
        FutureRecord::to(topic).key(&reading.sensor_id).payload(&value).headers(crate::topic::headers());
    loop {
        // Not awaited: a record that is lost shows in the count of rows.
        match producer.send_result(record) {
            Ok(_) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => record = refused,
            Err((error, _)) => return Err(error).context("produce a reading"),
        }
        sleep(TICK).await;
    }
}

fn reading(sensor: u32, number: i64) -> ReadingCreatedEvent {
    let (sensor_id, now) = (sensor_id(sensor), Timestamp::now());
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
        sensor_id,
        device_type: "THERMOSTAT".to_owned(),
        zone_id: "hall".to_owned(),
        values: [(METRIC.to_owned(), 21.0)].into(),
        attributes: serde_json::Map::new(),
        reading_at: now,
        received_at: now,
    }
}
