//! Rebuilds the memory of partitions from the tail of `iot-alerts`, on a thread of its own: the partitions
//! that this instance keeps go on meanwhile, and each that it gets goes on as soon as its own memory is
//! whole.

use anyhow::{Context, bail};
use chassis::kafka::{EndReader, Settings, Step};
use rdkafka::message::Message;
use rules::{DedupKey, DedupWindow};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest time without any progress. A transaction that a killed instance left open is aborted by the broker
/// after its timeout of 10 s, which the broker looks at every 10 s; how much there is to read is no reason to
/// give up.
const STANDSTILL_MAX: Duration = Duration::from_secs(45);
/// Interval at which the wishes are looked at.
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
            alerts: EndReader::open(settings, "alerting-svc-recall", topic)?,
            capacity,
            wishes: wishes.clone(),
            found: BTreeMap::new(),
        };
        let work = move || {
            while let Ok(partitions) = asked.recv() {
                if let Err(error) = reader.recall(&partitions, &tell) {
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

/// Reads the tails of `iot-alerts`.
struct Reader {
    alerts: EndReader,
    capacity: usize,
    wishes: Wishes,
    /// What was found so far, and for which wish.
    found: BTreeMap<i32, (u64, DedupWindow)>,
}

impl Reader {
    /// Reads the last alerts of the partitions and tells each memory when it is whole.
    ///
    /// Guarantee: a memory holds every alert that was committed, or that stood in an open transaction which
    /// was committed later, when the call began; see [`EndReader`].
    fn recall(&mut self, wanted: &BTreeMap<i32, u64>, tell: &Sender<Told>) -> anyhow::Result<()> {
        let started = Instant::now();
        // A transaction that holds one alert takes two offsets: the alert's and the marker's.
        let offsets_max = i64::try_from(self.capacity.saturating_mul(2)).unwrap_or(i64::MAX);
        self.alerts.add(&wanted.keys().copied().collect(), offsets_max)?;
        let begin = |(partition, wish): (&i32, &u64)| (*partition, (*wish, DedupWindow::new(self.capacity)));
        self.found = wanted.iter().map(begin).collect();
        let mut looked = started;
        let mut records = 0_u64;
        while !self.alerts.is_done() {
            if self.alerts.standstill() > STANDSTILL_MAX {
                bail!("a transaction stays open, or the end of the alerts does not come");
            }
            if looked.elapsed() >= LOOK {
                // What was given away meanwhile is read no further.
                self.alerts.retain(|partition| self.wishes.holds(partition, wanted[&partition]))?;
                looked = Instant::now();
            }
            match self.alerts.step()? {
                Step::Record(record) => {
                    records += 1;
                    // What is no alert cannot have been caused by a reading.
                    let caused = record.payload().and_then(|value| serde_json::from_slice(value).ok());
                    if let Some(Caused { threshold_id, event_id }) = caused
                        && let Some((_, recent)) = self.found.get_mut(&record.partition())
                    {
                        recent.insert(DedupKey { threshold_id, event_id });
                    }
                }
                Step::End(partition) => {
                    if let Some((wish, recent)) = self.found.remove(&partition) {
                        // Err means that the session has ended, and with it the wish.
                        let _ = tell.send(Told::Whole { partition, wish, recent });
                    }
                }
                Step::Wait => {}
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(partitions = wanted.len(), records, seconds, "alerts are recalled");
        Ok(())
    }
}
