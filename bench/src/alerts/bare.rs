//! A consumer that does nothing but consume, and one that decodes: the least that any evaluation spends.

use super::drain::Lap;
use super::stage::{Alerts, Stage};
use crate::{cpu, memory};
use anyhow::{Context as _, Result};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::ReadingView;
use std::time::{Duration, Instant};

/// Timeout after which a broker on this machine counts as broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Consumes every reading in this process, in which nothing else runs meanwhile.
pub(super) async fn drain(stage: &Stage, decodes: bool) -> Result<Lap> {
    let (settings, topic) = (stage.kafka.clone(), stage.readings.clone());
    let wanted = stage.options.readings;
    tokio::task::spawn_blocking(move || {
        let mut settings = settings.consumer("bench-bare");
        // The client's own second between two looks at a full queue would be the limit.
        settings.set("fetch.queue.backoff.ms", "5");
        let consumer: BaseConsumer = settings.create().context("create a consumer")?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..topic.partitions() {
            partitions.add_partition_offset(&topic.name, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (mut readings, mut begun) = (0, None);
        // What is used of each reading, so that nothing of the work may be left out.
        let mut values = 0;
        while readings < wanted {
            let record = consumer.poll(ANSWER_MAX).context("the broker does not hand out its records")??;
            let bytes = record.payload().unwrap_or_default();
            if decodes {
                let reading: ReadingView<'_> = serde_json::from_slice(bytes).context("decode a reading")?;
                values += reading.values.len();
            } else {
                values += bytes.len().min(1);
            }
            readings += 1;
            if begun.is_none() {
                begun = Some((Instant::now(), cpu::of_process(std::process::id())?));
            }
        }
        let (started, cpu) = begun.context("there are no readings")?;
        let (took, cpu) = (started.elapsed(), cpu::of_process(std::process::id())?.saturating_sub(cpu));
        anyhow::ensure!(std::hint::black_box(values) > 0, "no reading has a value");
        let bytes_max = memory::resident_bytes(std::process::id())?;
        Ok(Lap { readings, took, cpu, bytes_max, alerts: Alerts::default() })
    })
    .await?
}
