//! Rebuilds the memory of partitions from the tail of `iot-alerts`, on a thread of its own: the partitions
//! that this instance keeps go on meanwhile, and each that it gets goes on as soon as its own memory is
//! whole.

use anyhow::{Context, bail};
use chassis::kafka::{Quiet, Settings};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rules::{DedupKey, DedupWindow};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Timeout after which a broker counts as unreachable.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Longest time without any progress. A transaction that a killed instance left open is aborted by the broker
/// after its timeout of 10 s, which the broker looks at every 10 s; how much there is to read is no reason to
/// give up.
const STANDSTILL_MAX: Duration = Duration::from_secs(45);
/// Interval at which the stable ends are looked at, and longest wait of one poll.
const LOOK: Duration = Duration::from_millis(10);

/// What is needed of an alert.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Caused {
    threshold_id: Uuid,
    event_id: Uuid,
}

/// Which partitions are to be recalled, each with the number of the wish: one that was given away and came
/// back is another.
#[derive(Clone, Default)]
struct Wishes(Arc<Mutex<BTreeMap<i32, u64>>>);

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, partition: i32, wish: u64) -> bool {
        self.lock().get(&partition) == Some(&wish)
    }
}

enum Told {
    Whole { partition: i32, wish: u64, recent: DedupWindow },
    Failed(anyhow::Error),
}

/// Asks the thread, and takes what it has found. The thread ends with this value.
pub(crate) struct Recaller {
    wishes: Wishes,
    count: u64,
    asks: Sender<BTreeMap<i32, u64>>,
    told: Receiver<Told>,
}

impl Recaller {
    /// Starts the thread. `capacity` counts causes per partition.
    pub(crate) fn start(settings: &Settings, topic: &str, capacity: usize) -> anyhow::Result<Self> {
        let (asks, asked) = channel::<BTreeMap<i32, u64>>();
        let (tell, told) = channel();
        let wishes = Wishes::default();
        let mut reader = Reader {
            stable: consumer(settings, "read_committed")?,
            all: consumer(settings, "read_uncommitted")?,
            topic: topic.to_owned(),
            capacity,
            wishes: wishes.clone(),
            waiting: BTreeMap::new(),
            reading: BTreeMap::new(),
            moved: Instant::now(),
        };
        let work = move || {
            while let Ok(partitions) = asked.recv() {
                if let Err(error) = reader.recall(partitions, &tell) {
                    // Err means that the session has ended, and with it the wish.
                    let _ = tell.send(Told::Failed(error));
                    return;
                }
            }
        };
        std::thread::Builder::new().name("recall".to_owned()).spawn(work).context("start a thread")?;
        Ok(Self { wishes, count: 0, asks, told })
    }

    /// Asks for the memory of partitions.
    pub(crate) fn want(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.count += 1;
        let wanted: BTreeMap<i32, u64> =
            partitions.into_iter().map(|partition| (partition, self.count)).collect();
        if wanted.is_empty() {
            return;
        }
        self.wishes.lock().extend(&wanted);
        // Err means that the thread has ended: what it has told says why.
        let _ = self.asks.send(wanted);
    }

    /// Takes a wish back.
    pub(crate) fn forget(&self, partition: i32) {
        self.wishes.lock().remove(&partition);
    }

    /// Says whether the memory of a partition is still to come.
    pub(crate) fn is_wanted(&self, partition: i32) -> bool {
        self.wishes.lock().contains_key(&partition)
    }

    /// Says whether any memory is still to come.
    pub(crate) fn is_busy(&self) -> bool {
        !self.wishes.lock().is_empty()
    }

    /// Takes a memory that has become whole since the last call.
    ///
    /// # Errors
    /// Kafka does not answer, or a transaction stays open (retry).
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<(i32, DedupWindow)>> {
        loop {
            match self.told.try_recv() {
                Ok(Told::Whole { partition, wish, recent }) if self.wishes.holds(partition, wish) => {
                    self.forget(partition);
                    return Ok(Some((partition, recent)));
                }
                Ok(Told::Whole { .. }) => {}
                Ok(Told::Failed(error)) => return Err(error),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => bail!("the recall thread has ended"),
            }
        }
    }
}

impl Drop for Recaller {
    fn drop(&mut self) {
        self.wishes.lock().clear();
    }
}

/// A partition whose stable end has not reached the end that it had when it was asked for.
struct Waiting {
    wish: u64,
    low: i64,
    high: i64,
    stable: i64,
}

/// A partition that is read to its end.
struct Reading {
    wish: u64,
    next: i64,
    recent: DedupWindow,
}

struct Reader {
    stable: BaseConsumer<Quiet>,
    all: BaseConsumer<Quiet>,
    topic: String,
    capacity: usize,
    wishes: Wishes,
    waiting: BTreeMap<i32, Waiting>,
    reading: BTreeMap<i32, Reading>,
    /// When anything last moved.
    moved: Instant,
}

impl Reader {
    /// Reads the last alerts of the partitions and tells each memory when it is whole.
    ///
    /// Guarantee: a memory holds every alert that was committed, or that stood in an open transaction which
    /// was committed later, when the call began. The broker writes the commit marker of a transaction to each
    /// partition on its own, so the offsets of the former owner may be visible before its alerts are. Hence:
    /// ask for the end without regard to transactions, wait until the stable end has reached it, then read to
    /// the stable end.
    fn recall(&mut self, partitions: BTreeMap<i32, u64>, tell: &Sender<Told>) -> anyhow::Result<()> {
        let started = Instant::now();
        self.moved = started;
        let list = || partitions.keys().copied();
        let lows = self.ask(&self.all, list(), Offset::Beginning).context("ask for the beginnings")?;
        let highs = self.ask(&self.all, list(), Offset::End).context("ask for the ends")?;
        for (partition, wish) in &partitions {
            let (Some(low), Some(high)) = (lows.get(partition), highs.get(partition)) else {
                bail!("nobody names the end of partition {partition} of {}", self.topic);
            };
            let waiting = Waiting { wish: *wish, low: *low, high: *high, stable: *low };
            self.waiting.insert(*partition, waiting);
        }
        let mut looked: Option<Instant> = None;
        let mut records = 0_u64;
        while !(self.waiting.is_empty() && self.reading.is_empty()) {
            if self.moved.elapsed() > STANDSTILL_MAX {
                bail!("a transaction stays open, or the end of the alerts does not come");
            }
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                self.drop_unwanted()?;
                self.look_at_stable_ends(tell)?;
                looked = Some(Instant::now());
            }
            records += u64::from(self.read(tell)?);
        }
        self.stable.unassign().context("let go of the alerts")?;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(partitions = partitions.len(), records, seconds, "alerts are recalled");
        Ok(())
    }

    /// Begins to read the partitions that hold no open transaction any more.
    fn look_at_stable_ends(&mut self, tell: &Sender<Told>) -> anyhow::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let ends = self.ask(&self.stable, self.waiting.keys().copied(), Offset::End);
        // A transaction that holds one alert takes two offsets: the alert's and the marker's.
        let tail = i64::try_from(self.capacity.saturating_mul(2)).unwrap_or(i64::MAX);
        let mut begun = false;
        for (partition, stable) in ends.context("ask for the stable ends")? {
            let Some(waiting) = self.waiting.get_mut(&partition) else { continue };
            if stable > waiting.stable {
                waiting.stable = stable;
                self.moved = Instant::now();
            }
            if stable < waiting.high {
                continue;
            }
            let Waiting { wish, low, high, .. } = *waiting;
            self.waiting.remove(&partition);
            let reading = Reading {
                wish,
                next: high.saturating_sub(tail).max(low),
                recent: DedupWindow::new(self.capacity),
            };
            if reading.next < high {
                self.reading.insert(partition, reading);
                begun = true;
            } else {
                self.tell(tell, partition, reading);
            }
        }
        if begun { self.assign() } else { Ok(()) }
    }

    /// Takes one record, or the end of a partition, if there is one; says whether it was a record.
    fn read(&mut self, tell: &Sender<Told>) -> anyhow::Result<bool> {
        match self.stable.poll(LOOK) {
            Some(Ok(record)) => {
                self.moved = Instant::now();
                if let Some(reading) = self.reading.get_mut(&record.partition()) {
                    reading.next = reading.next.max(record.offset() + 1);
                    // What is no alert cannot have been caused by a reading.
                    let value = record.payload();
                    if let Some(Caused { threshold_id, event_id }) =
                        value.and_then(|value| serde_json::from_slice(value).ok())
                    {
                        reading.recent.insert(DedupKey { threshold_id, event_id });
                    }
                }
                Ok(true)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.moved = Instant::now();
                if let Some(reading) = self.reading.remove(&partition) {
                    self.tell(tell, partition, reading);
                }
                Ok(false)
            }
            // librdkafka reconnects by itself; a standstill shows what it cannot heal.
            Some(Err(error)) => {
                tracing::debug!(%error, "alerts cannot be read now");
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn tell(&self, tell: &Sender<Told>, partition: i32, Reading { wish, recent, .. }: Reading) {
        // Err means that the session has ended, and with it the wish.
        let _ = tell.send(Told::Whole { partition, wish, recent });
    }

    /// Stops reading what was given away meanwhile.
    fn drop_unwanted(&mut self) -> anyhow::Result<()> {
        let wishes = self.wishes.clone();
        self.waiting.retain(|partition, waiting| wishes.holds(*partition, waiting.wish));
        let before = self.reading.len();
        self.reading.retain(|partition, reading| wishes.holds(*partition, reading.wish));
        if self.reading.len() < before { self.assign() } else { Ok(()) }
    }

    /// Points the consumer at what is to be read, each partition where it has come to.
    fn assign(&self) -> anyhow::Result<()> {
        let mut assignment = TopicPartitionList::new();
        for (partition, reading) in &self.reading {
            assignment.add_partition_offset(&self.topic, *partition, Offset::Offset(reading.next))?;
        }
        self.stable.assign(&assignment).context("assign the alerts")
    }

    /// Asks for an offset of several partitions, in one request for each leader.
    fn ask(
        &self,
        client: &BaseConsumer<Quiet>,
        partitions: impl Iterator<Item = i32>,
        at: Offset,
    ) -> anyhow::Result<BTreeMap<i32, i64>> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(&self.topic, partition, at)?;
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

fn consumer(settings: &Settings, isolation: &str) -> anyhow::Result<BaseConsumer<Quiet>> {
    let mut config = settings.consumer("alerting-svc-recall");
    config.set("enable.partition.eof", "true").set("isolation.level", isolation);
    config.create_with_context(Quiet).context("create a consumer of alerts")
}
