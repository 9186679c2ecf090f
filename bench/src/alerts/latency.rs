//! How long an alert takes: at a rate, after a change of its rule, and after a start.

use super::rules::{self, LIMIT, Limits, Rules};
use super::stage::Stage;
use super::watch::Watch;
use crate::readings::{DEVICE_TYPE, METRIC};
use crate::stats::percentile;
use anyhow::{Context as _, Result, ensure};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::util::Timeout;
use schema::{ReadingCreatedEvent, Timestamp, event_id_from_publisher, topics};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

/// Interval between two bursts of the offered load.
const TICK: Duration = Duration::from_millis(2);
/// Readings of which one violates.
const VIOLATING_EVERY: u64 = 100;
/// Timeout after which the broker or the service counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Time at the beginning that is not counted: the first transactions of a process make its connections.
const WARM_UP: Duration = Duration::from_secs(2);
/// Interval between the readings of a sensor whose rule has changed.
const CHANGE_POLL: Duration = Duration::from_millis(2);
/// Longest wait for the first alert after a start.
const START_MAX: Duration = Duration::from_secs(600);

pub(super) fn reading(sensor_id: &str, number: u64, violates: bool) -> ReadingCreatedEvent {
    let now = Timestamp::now();
    ReadingCreatedEvent {
        event_id: event_id_from_publisher(sensor_id, &number.to_string()),
        sensor_id: sensor_id.to_owned(),
        device_type: DEVICE_TYPE.to_owned(),
        zone_id: "hall".to_owned(),
        values: [(METRIC.to_owned(), if violates { LIMIT + 1.0 } else { LIMIT - 1.0 })].into(),
        attributes: serde_json::Map::new(),
        reading_at: now,
        received_at: now,
    }
}

pub(super) struct Source {
    producer: FutureProducer,
    topic: String,
}

impl Source {
    pub(super) fn of(stage: &Stage) -> Result<Self> {
        let producer = stage.kafka.producer().create().context("create a producer")?;
        Ok(Self { producer, topic: stage.readings.name.clone() })
    }

    /// Hands a reading to the producer, which appends it within its linger time.
    pub(super) fn send(&self, reading: &ReadingCreatedEvent) -> Result<()> {
        let value = serde_json::to_vec(reading).context("encode a reading")?;
        let record = FutureRecord::to(&self.topic).key(&reading.sensor_id).payload(&value);
        let sent = self.producer.send_result(record.headers(crate::topic::headers()));
        sent.map(drop).map_err(|(error, _)| error).context("produce a reading")
    }

    /// Waits until the broker has every reading.
    pub(super) fn flush(&self) -> Result<()> {
        self.producer.flush(Timeout::After(ANSWER_MAX)).context("wait for the broker")
    }
}

/// Offers readings at the rate and prints how long alerts took, from the hand-over to the producer.
pub(super) async fn at_rate(stage: &Stage) -> Result<()> {
    Rules::PerSensor.write(stage)?;
    let (client, watch, source) = (stage.start_ready().await?, Watch::start(stage)?, Source::of(stage)?);
    let sensors = stage.workload.sensors();
    let (mut ticks, started, mut number) = (interval(TICK), Instant::now(), 0_u64);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut violating: Vec<(Uuid, Instant)> = Vec::new();
    while started.elapsed() < WARM_UP + Duration::from_secs(stage.options.seconds.into()) {
        ticks.tick().await;
        let due = started.elapsed().as_micros() * u128::from(stage.options.rate) / 1_000_000;
        while u128::from(number) < due {
            let sensor = &sensors[usize::try_from(number % sensors.len() as u64)?].sensor_id;
            let violates = number.is_multiple_of(VIOLATING_EVERY);
            let reading = reading(sensor, number, violates);
            source.send(&reading)?;
            if violates {
                violating.push((reading.event_id, Instant::now()));
            }
            number += 1;
        }
    }
    source.flush()?;
    let (last, _) = *violating.last().context("no reading violates")?;
    watch.until(ANSWER_MAX, |seen| seen.events.get(&last).copied()).await?;
    let all: Vec<(Instant, f64)> = violating
        .iter()
        .filter_map(|(event, sent)| {
            Some((*sent, millis(watch.event(event)?.saturating_duration_since(*sent))))
        })
        .collect();
    let missing = violating.len() - all.len();
    ensure!(missing == 0, "{missing} of {} alerts are missing", violating.len());
    let is_counted = |sent: &Instant| sent.saturating_duration_since(started) >= WARM_UP;
    let took: Vec<f64> = all.iter().filter(|(sent, _)| is_counted(sent)).map(|(_, took)| *took).collect();
    print(&format!("reading sent → alert visible, {}/s", stage.options.rate), &took)?;
    client.process.stop().await?;
    Ok(())
}

/// Changes rules one after the other, each of a sensor that violates all the time.
pub(super) async fn of_change(stage: &Stage) -> Result<()> {
    Rules::PerSensor.write(stage)?;
    let (client, watch, source) = (stage.start_ready().await?, Watch::start(stage)?, Source::of(stage)?);
    let topic = stage.kafka.topic(topics::THRESHOLD_UPDATES.name);
    let mut took = Vec::new();
    let mut number = 0;
    for change in 0..stage.options.changes {
        let sensor = format!("changed-{change}");
        let id = rules::id(&sensor);
        let (key, value) = rules::change(id, Some(&sensor), Limits { min: None, max: Some(LIMIT) });
        let value = value.to_string();
        let record = FutureRecord::to(&topic).key(&key).payload(&value);
        let sent = source.producer.send(record, Timeout::After(ANSWER_MAX)).await;
        sent.map_err(|(error, _)| error).context("change a rule")?;
        let written = Instant::now();
        let seen = loop {
            number += 1;
            source.send(&reading(&sensor, number, true))?;
            match watch.until(CHANGE_POLL, |seen| seen.rules.get(&id).copied()).await {
                Ok(seen) => break seen,
                Err(error) if written.elapsed() > ANSWER_MAX => return Err(error),
                Err(_) => {}
            }
        };
        took.push(millis(seen.saturating_duration_since(written)));
    }
    print("rule written → first alert visible", &took)?;
    client.process.stop().await?;
    Ok(())
}

/// Starts the service with very many rules; a reading that violates one waits for it.
pub(super) async fn of_start(stage: &Stage) -> Result<()> {
    let limits = Limits { min: None, max: Some(LIMIT) };
    let many = (0..stage.options.rules).map(|number| {
        let sensor = format!("many-{number:07}");
        rules::change(rules::id(&sensor), Some(&sensor), limits)
    });
    rules::write(stage, topics::THRESHOLD_UPDATES.name, many)?;
    let (watch, source) = (Watch::start(stage)?, Source::of(stage)?);
    let reading = reading("many-0000000", 0, true);
    source.send(&reading)?;
    source.flush()?;
    let started = Instant::now();
    let (client, _) = stage.start()?;
    let seen = watch.until(START_MAX, |seen| seen.events.get(&reading.event_id).copied()).await?;
    let memory = crate::memory::resident_bytes(client.pid)? as f64 / 1e6;
    println!(
        "\nstart → first alert visible, {} rules: {:.1} s, {memory:.0} MB resident",
        stage.options.rules,
        seen.saturating_duration_since(started).as_secs_f64()
    );
    client.process.stop().await?;
    Ok(())
}

fn print(what: &str, took: &[f64]) -> Result<()> {
    let of = |fraction| percentile(took, fraction).context("nothing was measured");
    println!("\n{what}: p50 {:.1} ms, p99 {:.1} ms, of {}", of(0.5)?, of(0.99)?, took.len());
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
