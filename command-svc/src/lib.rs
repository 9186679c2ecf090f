//! Kafka `iot-reading-topic` → table `readings_ingestion`, in batches.
//!
//! In:         topic `iot-reading-topic`, group `command-svc`.
//! Out:        tables `readings_ingestion`, `sensor_latest`, and in the `postgres` dialect
//!             `sensor_reading_hourly_aggregates`; nothing else writes them. Topic `iot-reading-dlq`.
//! Guarantee:  effectively once: offsets are committed after the rows, and a redelivered reading inserts no rows.
//! On failure: database away → the batch is tried again, consumption pauses, group membership stays, not ready.
//!             Undecodable, or refused by the database on its own after three tries → dead letter. Kafka away → waits.

pub mod batch;
mod config;
mod dead_letter;
mod filling;
mod metrics;
pub mod rollup;
pub mod store;
mod writer;

pub use config::Config;
pub use metrics::Metrics;

use anyhow::Context;
use batch::Batch;
use chassis::Chassis;
use chassis::kafka::{Monitor, REPORT_INTERVAL_MS};
use dead_letter::DeadLetters;
use filling::Filling;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::{migrations, topics};
use writer::Writer;

/// Runs until shutdown.
///
/// # Errors
/// The schema is not the one this build needs, or a client cannot be made (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let metrics = Metrics::register(&chassis.registry).context("register metrics")?;
    let pool = config.postgres.pool()?;
    chassis::postgres::wait_for_version(&pool, migrations::VERSION, &chassis.shutdown).await?;
    let monitor = Monitor::new(chassis.readiness.latch("kafka"), metrics.lag_records.clone());
    let consumer: StreamConsumer<Monitor> = config
        .kafka
        .consumer("command-svc")
        .set("statistics.interval.ms", REPORT_INTERVAL_MS)
        .create_with_context(monitor)
        .context("create the readings consumer")?;
    let topic = config.kafka.topic(topics::READINGS.name);
    consumer.subscribe(&[&topic]).context("subscribe to readings")?;
    let dead_letters = DeadLetters::open(&config.kafka, metrics.clone())?;
    let latch = chassis.readiness.latch("postgres");
    let mut writer = Writer::open(pool, dead_letters, latch, metrics, config.data_retry_first).await?;

    let mut filling = Filling::new(config.limits);
    while filling.fill(&consumer, &chassis).await? {
        let batch = filling.take();
        // While this batch is written the next one fills; polling also keeps the group membership during an outage.
        tokio::select! {
            stored = writer.store(&batch) => stored?,
            never = filling.keep_filling(&consumer, &chassis) => match never? {},
            () = chassis.shutdown.cancelled() => break, // nothing was committed: the batch is delivered again
        }
        commit(&consumer, &topic, &batch);
    }
    Ok(())
}

/// Commits what the batch has done, for partitions that are still ours; another's commit must not move back.
fn commit(consumer: &StreamConsumer<Monitor>, topic: &str, batch: &Batch) {
    let Ok(assigned) = consumer.assignment() else { return };
    let mut offsets = TopicPartitionList::new();
    for (partition, next) in batch.next_offsets() {
        if assigned.find_partition(topic, *partition).is_some() {
            // Cannot fail: the offset after a received record is a valid one.
            let _ = offsets.add_partition_offset(topic, *partition, Offset::Offset(*next));
        }
    }
    if offsets.count() == 0 {
        return;
    }
    // Not fatal: without the commit the batch is delivered again, and its rows are there already.
    if let Err(error) = consumer.commit(&offsets, CommitMode::Async) {
        tracing::warn!(%error, "offsets are not committed; the batch will be delivered again");
    }
}
