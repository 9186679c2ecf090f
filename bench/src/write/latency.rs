//! From a record that the broker has appended to a row that another session sees.

use super::contender::Contender;
use super::{Stage, report, service};
use crate::readings::{self, METRIC};
use crate::server::Database;
use crate::stats::percentile;
use crate::topic::{Topic, headers};
use anyhow::{Context as _, Result, ensure};
use rdkafka::producer::{FutureProducer, FutureRecord};
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

/// Sensors whose rows are watched; more than there are writers, so that each writer has some.
const PROBES: usize = 16;
/// Between two watched records.
const PROBE_EVERY: Duration = Duration::from_millis(5);
/// Between two looks at the table: it adds half of itself to what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Between two shares of the offered load.
const TICK: Duration = Duration::from_millis(1);
/// Watched records of the first seconds do not count: the load is a step, and batches find their size.
const WARM_UP: Duration = Duration::from_secs(2);
/// Time after the last record at which rows that were not seen count as lost.
const UNSEEN_MAX: Duration = Duration::from_secs(60);

/// Every watched row after the last one seen, for each watched sensor.
const LOOK: &str = "
    SELECT row.sensor_id, row.reading_at
    FROM unnest($1::text[], $2::timestamptz[]) AS probe(sensor_id, seen)
    CROSS JOIN LATERAL (
      SELECT r.sensor_id, r.reading_at FROM readings_ingestion r
      WHERE r.sensor_id = probe.sensor_id AND r.metric = $3 AND r.reading_at > probe.seen
      ORDER BY r.reading_at) row";

/// Offers rows at a rate per second and prints what the watched ones took.
pub(super) async fn measure(stage: &Stage, rate: u32) -> Result<()> {
    let kafka = chassis::kafka::Settings::local(
        &stage.options.kafka_bootstrap,
        stage.kafka.topic(&format!("latency-{rate}-")),
    );
    let topic = Topic::create(&kafka, topics::READINGS.name, stage.options.partitions).await?;
    let offered = i64::from(rate) * i64::from(stage.options.latency_seconds);
    let database = stage.server.create("latency", &stage.workload, 0..offered).await?;
    let (mut service, group) = service::start(stage, Contender::Service, &database, &topic)?;
    begin(&topic, &database).await?;
    let watching = tokio::spawn(watch(database.connect().await?, probe_count(stage)));
    let appended = offer(stage, &topic, rate).await?;
    let seen = tokio::time::timeout(UNSEEN_MAX, watching).await.context("rows are lost")???;
    service.process.ensure_running()?;
    wait_for_rows(&database, 1 + offered + i64::try_from(appended.len())?).await?;
    service::stop(service, group).await?;

    let skipped = WARM_UP.as_millis() / PROBE_EVERY.as_millis();
    let counted = appended.iter().filter(|(number, _)| **number as u128 >= skipped);
    let took: Vec<f64> =
        counted.filter_map(|(number, at)| Some((seen.get(number)? - at) as f64 / 1e3)).collect();
    let at = |fraction| percentile(&took, fraction).unwrap_or(f64::NAN);
    report::latency(stage, rate, took.len(), at(0.5), at(0.99));
    stage.server.forget(database).await?;
    topic.delete().await
}

fn probe_count(stage: &Stage) -> usize {
    let millis = u128::from(stage.options.latency_seconds) * 1_000 / PROBE_EVERY.as_millis();
    usize::try_from(millis).unwrap_or(usize::MAX)
}

/// Produces at the given rate, and the watched records beside it; returns when each of those was appended, in
/// microseconds.
async fn offer(stage: &Stage, topic: &Topic, rate: u32) -> Result<HashMap<usize, i64>> {
    let producer: FutureProducer = topic.settings.producer().create().context("create a producer")?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let total = i64::from(rate) * i64::from(stage.options.latency_seconds);
    let (started, mut sent, mut probes) = (Instant::now(), 0_i64, Vec::new());
    while sent < total || probes.len() < probe_count(stage) {
        ticks.tick().await;
        let due = i64::try_from(started.elapsed().as_micros() * u128::from(rate) / 1_000_000)?;
        while sent < due.min(total) {
            let event = stage.workload.row(sent).event();
            // Not awaited: a record of the offered load that is lost shows in the row count.
            drop(send(&producer, topic, &event)?);
            sent += 1;
        }
        let probes_due = started.elapsed().as_millis() / PROBE_EVERY.as_millis();
        while (probes.len() as u128) < probes_due && probes.len() < probe_count(stage) {
            probes.push(send(&producer, topic, &probe(probes.len()))?);
        }
    }
    let mut appended = HashMap::new();
    for (number, probe) in probes.into_iter().enumerate() {
        appended.insert(number, probe.await.context("produce a watched record")??);
    }
    Ok(appended)
}

/// Sends a record; the task returns when the broker appended it, in microseconds since 1970.
fn send(
    producer: &FutureProducer,
    topic: &Topic,
    event: &ReadingCreatedEvent,
) -> Result<JoinHandle<Result<i64>>> {
    let value = serde_json::to_vec(event).context("encode a reading")?;
    let record = FutureRecord::to(&topic.name).key(&event.sensor_id).payload(&value).headers(headers());
    let sent = producer.send_result(record).map_err(|(error, _)| error).context("produce a reading")?;
    Ok(tokio::spawn(async move {
        let delivery = sent.await.context("the producer is gone")?.map_err(|(error, _)| error)?;
        let millis = delivery.timestamp.to_millis().context("the broker dates its records")?;
        Ok(millis * 1_000)
    }))
}

/// Makes a watched record: its number is its time, counted in milliseconds from the workload's start.
fn probe(number: usize) -> ReadingCreatedEvent {
    let sensor_id = probe_sensor(number);
    let at = readings::instant(readings::start().as_micros() + number as i64 * 1_000);
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(&sensor_id, &number.to_string()),
        sensor_id,
        device_type: readings::DEVICE_TYPE.to_owned(),
        zone_id: "zone-00".to_owned(),
        values: [(METRIC.to_owned(), 20.0)].into(),
        attributes: serde_json::Map::new(),
        reading_at: at,
        received_at: Timestamp::now(),
    }
}

fn probe_sensor(number: usize) -> String {
    format!("probe-{:02}", number % PROBES)
}

/// Looks at the table until every watched row was seen; returns when, in microseconds since 1970.
async fn watch(client: Client, count: usize) -> Result<HashMap<usize, i64>> {
    let before = OffsetDateTime::from(readings::start()) - time::Duration::milliseconds(1);
    let (sensors, mut last) = ((0..PROBES).map(probe_sensor).collect::<Vec<_>>(), vec![before; PROBES]);
    let look = client.prepare(LOOK).await?;
    let mut seen = HashMap::new();
    while seen.len() < count {
        let rows = client.query(&look, &[&sensors, &last, &METRIC]).await?;
        let now = Timestamp::now().as_micros();
        for row in rows {
            let at: OffsetDateTime = row.get(1);
            let millis = (Timestamp::from(at).as_micros() - readings::start().as_micros()) / 1_000;
            let number = usize::try_from(millis).context("a watched row has its time")?;
            ensure!(seen.insert(number, now).is_none(), "a watched row was seen twice");
            last[number % PROBES] = at.max(last[number % PROBES]);
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(seen)
}

/// Waits until the service stores, so that what gathers during its start does not count.
async fn begin(topic: &Topic, database: &Database) -> Result<()> {
    let producer: FutureProducer = topic.settings.producer().create().context("create a producer")?;
    let first = ReadingCreatedEvent { sensor_id: "first".to_owned(), ..probe(0) };
    send(&producer, topic, &first)?.await.context("produce the first record")??;
    wait_for_rows(database, 1).await
}

/// Waits until that number of rows is stored.
async fn wait_for_rows(database: &Database, rows: i64) -> Result<()> {
    let started = Instant::now();
    while let Err(error) = database.ensure_rows(rows, false).await {
        if started.elapsed() > UNSEEN_MAX {
            return Err(error);
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
