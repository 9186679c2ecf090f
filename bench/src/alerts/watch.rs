//! Alerts as a `read_committed` consumer sees them, and when.

use super::stage::Stage;
use anyhow::{Context as _, Result, ensure};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::topics;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// Interval between two looks for an alert that is waited for.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Longest wait of the consumer for a record, after which it looks whether it is to end.
const POLL: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: String,
    event_id: Option<Uuid>,
    threshold_id: Uuid,
}

/// When each was seen first.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) events: HashMap<Uuid, Instant>,
    pub(super) rules: HashMap<Uuid, Instant>,
}

/// Watches until it is dropped.
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    _stop: DropGuard,
}

impl Watch {
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let consumer: BaseConsumer =
            stage.kafka.consumer("bench-watch").create().context("create a consumer")?;
        let (mut partitions, topic) = (TopicPartitionList::new(), stage.kafka.topic(topics::ALERTS.name));
        for partition in 0..stage.options.partitions {
            partitions.add_partition_offset(&topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), CancellationToken::new());
        let (shared, stopped) = (Arc::clone(&seen), stop.clone());
        tokio::task::spawn_blocking(move || {
            while !stopped.is_cancelled() {
                // A broker on this machine recovers by itself; what does not come is missed by who waits.
                let Some(Ok(record)) = consumer.poll(POLL) else { continue };
                let bytes = record.payload().unwrap_or_default();
                let Ok(alert) = serde_json::from_slice::<Alert>(bytes) else { continue };
                if alert.status == "firing" {
                    let (now, mut seen) =
                        (Instant::now(), shared.lock().unwrap_or_else(PoisonError::into_inner));
                    alert.event_id.map(|event| *seen.events.entry(event).or_insert(now));
                    seen.rules.entry(alert.threshold_id).or_insert(now);
                }
            }
        });
        Ok(Self { seen, _stop: stop.drop_guard() })
    }

    /// Waits for something to be seen.
    pub(super) async fn until(
        &self,
        within: Duration,
        look: impl Fn(&Seen) -> Option<Instant>,
    ) -> Result<Instant> {
        let started = Instant::now();
        loop {
            if let Some(at) = look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(at);
            }
            ensure!(started.elapsed() < within, "no alert within {within:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Returns when an event's alert was seen.
    pub(super) fn event(&self, event: &Uuid) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).events.get(event).copied()
    }
}
