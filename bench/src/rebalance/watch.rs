//! When rows and alerts of each partition are seen.

use super::pauses::Arrivals;
use super::{METRIC, Stage};
use anyhow::{Context as _, Result};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::topics;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use uuid::Uuid;

/// Interval between two looks at the rows: the error of a pause.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What was seen so far, and by whom.
pub(super) struct Watch {
    watching: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) arrivals: Arrivals,
    /// How often each event was alerted.
    pub(super) alerts: HashMap<Uuid, u32>,
    failure: Option<anyhow::Error>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alerted {
    event_id: Uuid,
}

impl Watch {
    fn spawn<F: Future<Output = Result<()>> + Send + 'static>(
        watch: impl FnOnce(Arc<Mutex<Seen>>) -> F,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (watching, noted) = (watch(Arc::clone(&seen)), Arc::clone(&seen));
        let watching = tokio::spawn(async move {
            if let Err(error) = watching.await {
                lock(&noted).failure = Some(error);
            }
        });
        Self { watching, seen }
    }

    /// Watches the latest row of each watched sensor.
    pub(super) async fn rows(stage: &Stage) -> Result<Self> {
        let client = chassis::postgres::Settings::local(&stage.database_url).connect().await?;
        let watched = stage.watched.clone();
        Ok(Self::spawn(async move |seen: Arc<Mutex<Seen>>| {
            let sensors: Vec<&String> = watched.keys().collect();
            let look =
                "SELECT sensor_id, reading_at FROM sensor_latest WHERE metric = $1 AND sensor_id = ANY($2)";
            let look = client.prepare(look).await.context("prepare the look at rows")?;
            let mut latest: HashMap<String, SystemTime> = HashMap::new();
            loop {
                let rows = client.query(&look, &[&METRIC, &sensors]).await.context("look at rows")?;
                let now = Instant::now();
                for row in rows {
                    let (sensor_id, reading_at): (String, SystemTime) = (row.get(0), row.get(1));
                    let partition = watched[&sensor_id];
                    if latest.insert(sensor_id, reading_at) != Some(reading_at) {
                        lock(&seen).arrivals.push((now, partition));
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        }))
    }

    /// Follows the alerts as a `read_committed` consumer sees them.
    pub(super) fn alerts(stage: &Stage) -> Result<Self> {
        let topic = stage.kafka.topic(topics::ALERTS.name);
        let consumer: StreamConsumer = stage.kafka.consumer("watch").create().context("create a consumer")?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..stage.options.partitions {
            assignment.add_partition_offset(&topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment).context("read the alerts")?;
        Ok(Self::spawn(async move |seen: Arc<Mutex<Seen>>| {
            loop {
                let record = consumer.recv().await.context("read an alert")?;
                let alert: Alerted = serde_json::from_slice(record.payload().unwrap_or_default())?;
                let mut seen = lock(&seen);
                seen.arrivals.push((Instant::now(), record.partition()));
                *seen.alerts.entry(alert.event_id).or_default() += 1;
            }
        }))
    }

    /// Looks at what was seen so far.
    ///
    /// # Errors
    /// The watch has ended with one.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> Result<T> {
        let mut seen = lock(&self.seen);
        match seen.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(look(&seen)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
