//! Partitions read to the end that they had when they were asked for, open transactions included.
//!
//! The broker writes the commit marker of a transaction to each partition on its own, so a reader that stops
//! at the stable end may miss records of a transaction that is committed elsewhere. Hence: ask for the end
//! without regard to transactions, wait until the stable end has reached it, then read to the stable end.

use super::{Quiet, Settings};
use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Interval at which the stable ends are looked at, and longest wait of one step.
const LOOK: Duration = Duration::from_millis(10);

/// Reads partitions of one topic to their ends, in no group. Its calls block.
///
/// Guarantee: what is read of a partition holds every record from the asked beginning on that was committed,
/// or stood in an open transaction that was committed later, when the partition was added.
pub struct EndReader {
    stable: BaseConsumer<Quiet>,
    all: BaseConsumer<Quiet>,
    topic: String,
    waiting: BTreeMap<i32, Waiting>,
    /// The next offset of each partition that is being read.
    reading: BTreeMap<i32, i64>,
    ended: VecDeque<i32>,
    looked: Option<Instant>,
    moved: Instant,
}

/// A partition whose stable end has not reached the end that it had when it was asked for.
struct Waiting {
    first: i64,
    high: i64,
    stable: i64,
}

/// What one step brought.
pub enum Step<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// The end of a partition, which is read no further.
    End(i32),
    /// Nothing yet.
    Wait,
}

impl EndReader {
    /// Makes the clients; they connect when they are first used. The reader's name comes without its prefix,
    /// the topic with it.
    ///
    /// # Errors
    /// A client cannot be made (stop).
    pub fn open(settings: &Settings, reader: &str, topic: &str) -> anyhow::Result<Self> {
        Ok(Self {
            stable: consumer(settings, reader, "read_committed")?,
            all: consumer(settings, reader, "read_uncommitted")?,
            topic: topic.to_owned(),
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
            ended: VecDeque::new(),
            looked: None,
            moved: Instant::now(),
        })
    }

    /// Lists the partitions of the topic.
    ///
    /// # Errors
    /// No broker answers, or there is no such topic (retry).
    pub fn partitions(&self) -> anyhow::Result<BTreeSet<i32>> {
        let partitions = partitions(&self.stable, &self.topic).context("ask for the partitions")?;
        if partitions.is_empty() {
            bail!("topic {} does not exist", self.topic);
        }
        Ok(partitions)
    }

    /// Adds partitions, of each its last `offsets_max` offsets.
    ///
    /// # Errors
    /// No broker answers (retry).
    pub fn add(&mut self, partitions: &BTreeSet<i32>, offsets_max: i64) -> anyhow::Result<()> {
        self.moved = Instant::now();
        let lows = self.ask(&self.all, partitions, Offset::Beginning).context("ask for the beginnings")?;
        let highs = self.ask(&self.all, partitions, Offset::End).context("ask for the ends")?;
        for partition in partitions {
            let (Some(low), Some(high)) = (lows.get(partition), highs.get(partition)) else {
                bail!("nobody names the end of partition {partition} of {}", self.topic);
            };
            let first = high.saturating_sub(offsets_max).max(*low);
            self.waiting.insert(*partition, Waiting { first, high: *high, stable: *low });
        }
        Ok(())
    }

    /// Keeps only the partitions that are still wanted.
    ///
    /// # Errors
    /// The client cannot be pointed elsewhere (retry).
    pub fn retain(&mut self, is_wanted: impl Fn(i32) -> bool) -> anyhow::Result<()> {
        self.waiting.retain(|partition, _| is_wanted(*partition));
        let before = self.reading.len();
        self.reading.retain(|partition, _| is_wanted(*partition));
        if self.reading.len() < before { self.assign() } else { Ok(()) }
    }

    /// Says whether every partition has been read to its end.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.reading.is_empty() && self.ended.is_empty()
    }

    /// Returns how long nothing has moved.
    pub fn standstill(&self) -> Duration {
        self.moved.elapsed()
    }

    /// Takes a record or the end of a partition, if there is one; waits a moment for it.
    ///
    /// # Errors
    /// No broker answers (retry).
    pub fn step(&mut self) -> anyhow::Result<Step<'_>> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.look_at_stable_ends()?;
            self.looked = Some(Instant::now());
        }
        if let Some(partition) = self.ended.pop_front() {
            return Ok(Step::End(partition));
        }
        match self.stable.poll(LOOK) {
            Some(Ok(record)) => {
                self.moved = Instant::now();
                // None: what was fetched before the partition was given up.
                let Some(next) = self.reading.get_mut(&record.partition()) else { return Ok(Step::Wait) };
                *next = (*next).max(record.offset() + 1);
                Ok(Step::Record(record))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.moved = Instant::now();
                let was_read = self.reading.remove(&partition).is_some();
                if self.reading.is_empty() {
                    self.stable.unassign().context("let go of what is read")?;
                }
                Ok(if was_read { Step::End(partition) } else { Step::Wait })
            }
            // librdkafka reconnects by itself; a standstill shows what it cannot heal.
            Some(Err(error)) => {
                tracing::debug!(topic = self.topic, %error, "topic cannot be read now");
                Ok(Step::Wait)
            }
            None => Ok(Step::Wait),
        }
    }

    /// Begins to read the partitions that hold no open transaction any more.
    fn look_at_stable_ends(&mut self) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let partitions: BTreeSet<i32> = self.waiting.keys().copied().collect();
        let ends = self.ask(&self.stable, &partitions, Offset::End).context("ask for the stable ends")?;
        let mut has_begun = false;
        for (partition, stable) in ends {
            let Some(waiting) = self.waiting.get_mut(&partition) else { continue };
            if stable > waiting.stable {
                waiting.stable = stable;
                self.moved = Instant::now();
            }
            if stable < waiting.high {
                continue;
            }
            let Waiting { first, high, .. } = *waiting;
            self.waiting.remove(&partition);
            if first < high {
                self.reading.insert(partition, first);
                has_begun = true;
            } else {
                self.ended.push_back(partition);
            }
        }
        if has_begun { self.assign() } else { Ok(()) }
    }

    /// Points the consumer at what is to be read, each partition where it has come to.
    fn assign(&self) -> anyhow::Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in &self.reading {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(*next))?;
        }
        self.stable.assign(&assignment).context("assign what is read to its end")
    }

    /// Asks for an offset of several partitions, in one request for each leader.
    fn ask(
        &self,
        client: &BaseConsumer<Quiet>,
        partitions: &BTreeSet<i32>,
        at: Offset,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, *partition, at)?;
        }
        // The "times" -1 and -2 stand for the end and the beginning.
        let answer = client.offsets_for_times(list, ANSWER_WAIT)?;
        let elements = answer.elements();
        let known = elements.iter().filter_map(|element| match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
            _ => None,
        });
        Ok(known.collect())
    }
}

/// Makes a consumer in no group that is told of the end of a partition.
///
/// # Errors
/// It cannot be made (stop).
fn consumer(settings: &Settings, reader: &str, isolation: &str) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut config = settings.consumer(reader);
    config.set("enable.partition.eof", "true").set("isolation.level", isolation);
    config.create_with_context(Quiet).context("create a consumer")
}

/// Lists the partitions of a topic; none when there is no such topic.
///
/// # Errors
/// No broker answers (retry).
pub fn partitions<X: ConsumerContext>(
    consumer: &impl Consumer<X>,
    topic: &str,
) -> Result<BTreeSet<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_WAIT)?;
    let topics = metadata.topics().iter();
    Ok(topics.flat_map(|topic| topic.partitions()).map(|partition| partition.id()).collect())
}
