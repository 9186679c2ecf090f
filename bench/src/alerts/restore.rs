//! What open episodes add to a start: from the start of the process to the first alert, without any and with
//! very many in each partition.

use super::latency::{Source, reading};
use super::rules::{self, LIMIT, Limits};
use super::stage::Stage;
use super::watch::Watch;
use crate::readings::{DEVICE_TYPE, METRIC};
use anyhow::{Context as _, Result};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use schema::{
    Bound, Episode, EpisodeKey, EpisodeState, Limit, Mode, Reason, Severity, Timestamp,
    event_id_from_publisher, topics,
};
use std::time::{Duration, Instant};

/// Timeout after which a broker on this machine counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest wait for the first alert after a start.
const START_MAX: Duration = Duration::from_secs(300);

/// Starts the service twice and prints how long each start took.
pub(super) async fn of_episodes(stage: &Stage) -> Result<()> {
    let rule = rules::change(rules::id("fleet"), None, Limits { min: None, max: Some(LIMIT) });
    rules::write(stage, topics::THRESHOLD_UPDATES.name, std::iter::once(rule))?;
    let without = start(stage, 0).await?;
    write(stage)?;
    let with = start(stage, 1).await?;
    println!(
        "\nstart → first alert visible: {without:.2} s, and {with:.2} s with {} open episodes in each of {} \
         partitions",
        stage.options.episodes, stage.options.partitions
    );
    Ok(())
}

/// Returns the seconds from the start to the alert of a reading that waits for it.
async fn start(stage: &Stage, number: u64) -> Result<f64> {
    let (watch, source) = (Watch::start(stage)?, Source::of(stage)?);
    let waiting = reading("restored", number, true);
    source.send(&waiting)?;
    source.flush()?;
    let started = Instant::now();
    let (client, _) = stage.start()?;
    let seen = watch.until(START_MAX, |seen| seen.events.get(&waiting.event_id).copied()).await?;
    client.process.stop().await?;
    Ok(seen.saturating_duration_since(started).as_secs_f64())
}

/// Writes the records of open episodes, as the service does.
fn write(stage: &Stage) -> Result<()> {
    let producer: BaseProducer = stage.kafka.producer().create().context("create a producer")?;
    let topic = stage.kafka.topic(topics::ALERT_STATE.name);
    for partition in 0..stage.options.partitions {
        for number in 0..stage.options.episodes {
            let episode = episode(&format!("open-{partition}-{number}"));
            let key = EpisodeKey { threshold_id: episode.threshold_id, sensor_id: episode.sensor_id.clone() };
            let (key, value) = (key.to_string(), serde_json::to_vec(&episode).context("encode an episode")?);
            let mut record = BaseRecord::to(&topic).partition(partition).key(&key).payload(&value);
            while let Err((error, refused)) = producer.send(record) {
                let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                anyhow::ensure!(is_full, "write to {topic}: {error}");
                producer.poll(Duration::from_millis(10));
                record = refused;
            }
        }
    }
    producer.flush(ANSWER_MAX).context("wait for the broker to take every record")
}

fn episode(sensor: &str) -> Episode {
    let at = Timestamp::now();
    let key = EpisodeKey { threshold_id: rules::id("fleet"), sensor_id: sensor.to_owned() };
    Episode {
        episode_id: Episode::id(&key, at),
        threshold_id: key.threshold_id,
        threshold_version: 1,
        sensor_id: key.sensor_id,
        metric: METRIC.to_owned(),
        severity: Severity::Critical,
        mode: Mode::Live,
        state: EpisodeState::Open,
        reason: Reason::Above,
        bound: Bound { limit: Limit::Max, value: LIMIT },
        since: at,
        opened_at: Some(at),
        last_reading_at: at,
        last_received_at: Some(at),
        last_value: Some(LIMIT + 1.0),
        unit: None,
        last_event_ids: vec![event_id_from_publisher(sensor, "open")],
        last_violation_at: Some(at),
        occurrences: 1,
        last_alert_at: Some(at),
        extremes: None,
        display_name: None,
        description: None,
        zone_id: "hall".to_owned(),
        device_type: DEVICE_TYPE.to_owned(),
    }
}
