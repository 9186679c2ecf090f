//! The only way into the update topics: one transactional producer, which keeps order and fences its
//! predecessor.

use crate::Config;
use crate::blocking::blocking;
use crate::envelope::Record;
use crate::mark::Mark;
use crate::metrics::Metrics;
use crate::topic;
use anyhow::Context;
use chassis::kafka::{Quiet, Settings, TransactionalProducer};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::producer::BaseRecord;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most records of one Kafka transaction. A larger transaction of the database is cut, and its LSN confirmed
/// at its end.
pub const RECORDS_MAX: usize = 10_000;
/// Most bytes of one Kafka transaction; well below what the producer's queue holds, so a send never finds it
/// full.
pub const BYTES_MAX: usize = 32 << 20;
/// Longest open transaction, after which the broker aborts it: far longer than a commit takes.
const TRANSACTION_MAX: Duration = Duration::from_secs(30);
/// Age of its first record at which a transaction is committed, however closely further changes follow: a
/// suspension must not wait for the end of a bulk load. A commit takes a few milliseconds, so most of the
/// time is left for changes.
const AGE_MAX: Duration = Duration::from_millis(20);
/// Longest wait for an abort at the end of a session. The next producer aborts the transaction anyway.
const ABORT_WAIT: Duration = Duration::from_secs(1);

/// What the open transaction holds; nothing when there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// When it got its first record.
    opened: Option<Instant>,
    records: usize,
    bytes: usize,
}

impl Held {
    fn add(&mut self, bytes: usize, now: Instant) {
        self.opened.get_or_insert(now);
        self.records += 1;
        self.bytes += bytes;
    }

    fn is_old(&self, now: Instant) -> bool {
        self.opened.is_some_and(|opened| now.saturating_duration_since(opened) >= AGE_MAX)
    }

    fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }
}

/// Writes to the update topics.
pub struct Sink {
    producer: Arc<TransactionalProducer>,
    /// In whose notes the mark stands.
    group: Arc<ConsumerGroupMetadata>,
    settings: Settings,
    metrics: Metrics,
    held: Held,
    /// Records of the open transaction, by topic.
    counts: BTreeMap<&'static str, u64>,
}

impl Sink {
    /// Starts a producer and fences every earlier one of the same slot.
    pub(crate) async fn start(config: &Config, metrics: &Metrics) -> anyhow::Result<Self> {
        let settings = config.kafka.clone();
        let client = settings.transactional_producer(&format!("cdc-svc-{}", config.slot), TRANSACTION_MAX);
        let start = move || TransactionalProducer::start(&client).context("fence the predecessor");
        let producer = Arc::new(blocking(start).await?);
        let consumer: BaseConsumer<_> =
            settings.consumer(topic::GROUP).create_with_context(Quiet).context("create a consumer")?;
        let group = Arc::new(consumer.group_metadata().context("name the group")?);
        let (metrics, held) = (metrics.clone(), Held::default());
        Ok(Self { producer, group, settings, metrics, held, counts: BTreeMap::new() })
    }

    /// Says whether records wait for [`Sink::commit`].
    pub(crate) fn is_open(&self) -> bool {
        self.held.opened.is_some()
    }

    /// Says whether its first record has waited for as long as it may.
    pub(crate) fn is_old(&self) -> bool {
        self.held.is_old(Instant::now())
    }

    /// Says whether the transaction is as large as it may be.
    pub(crate) fn is_full(&self) -> bool {
        self.held.is_full()
    }

    /// Produces a record in the open transaction, or opens one. It is durable and visible only after
    /// [`Sink::commit`].
    pub(crate) fn send(&mut self, record: &Record) -> anyhow::Result<()> {
        if !self.is_open() {
            self.producer.begin()?;
        }
        let topic = self.settings.topic(record.topic);
        let mut produced = BaseRecord::<[u8], [u8]>::to(&topic).key(&record.key);
        if let Some(value) = &record.value {
            produced = produced.payload(value);
        }
        let bytes = record.key.len() + record.value.as_ref().map_or(0, Vec::len);
        self.held.add(bytes, Instant::now());
        *self.counts.entry(record.topic).or_default() += 1;
        // Whether it was delivered is what the commit says.
        self.producer.send(produced).context("produce a change")
    }

    /// Commits what was produced, and with it the mark up to which the topics are complete then. When this
    /// returns without an error, all of it is durable and visible. Without records it moves the mark alone.
    pub(crate) async fn commit(&mut self, mark: Option<&Mark>) -> anyhow::Result<()> {
        if !self.is_open() {
            self.producer.begin()?;
        }
        let notes = mark.map(|mark| topic::noted(&self.settings, Some(mark))).transpose()?;
        let (producer, group) = (Arc::clone(&self.producer), Arc::clone(&self.group));
        blocking(move || Ok(producer.commit(notes.as_ref().map(|notes| (notes, &*group)))?)).await?;
        for (topic, count) in std::mem::take(&mut self.counts) {
            self.metrics.records.with_label_values(&[topic]).inc_by(count);
        }
        self.metrics.transactions.inc();
        self.held = Held::default();
        Ok(())
    }
}

impl Drop for Sink {
    /// Aborts what is open, so that readers are not held up until the broker does it.
    fn drop(&mut self) {
        if self.is_open() {
            let _ = self.producer.abort_within(ABORT_WAIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_as_old_as_its_first_record_however_closely_others_follow() {
        let (mut held, begin) = (Held::default(), Instant::now());
        assert!(!held.is_old(begin + AGE_MAX), "nothing is open");
        let mut now = begin;
        while now < begin + AGE_MAX {
            held.add(1, now);
            assert!(!held.is_old(now), "{:?}", now - begin);
            now += AGE_MAX / 10;
        }
        assert!(held.is_old(now));
        held = Held::default();
        held.add(1, now);
        assert!(!held.is_old(now), "the next one begins anew");
    }

    #[test]
    fn a_transaction_is_full_by_records_or_by_bytes() {
        let now = Instant::now();
        let of = |bytes: usize, records: usize| {
            let mut held = Held::default();
            (0..records).for_each(|_| held.add(bytes, now));
            held.is_full()
        };
        assert!(!of(1, RECORDS_MAX - 1) && of(1, RECORDS_MAX));
        assert!(!of(BYTES_MAX - 1, 1) && of(BYTES_MAX, 1));
    }
}
