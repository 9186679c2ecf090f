//! The tail of `iot-alerts` → the dedup windows of partitions, on a thread of its own: the partitions that
//! this instance keeps go on meanwhile, and each that it gets goes on as soon as its own window is restored.

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
/// Interval at which the requests are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The part of an alert that deduplicates.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyOfAlert {
    threshold_id: Uuid,
    event_id: Uuid,
}

/// Holds the partitions to be restored, each with the number of its request: one that was given away and came
/// back has another.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<BTreeMap<i32, u64>>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn holds(&self, partition: i32, request: u64) -> bool {
        self.lock().get(&partition) == Some(&request)
    }
}

enum Answer {
    Restored { partition: i32, request: u64, window: DedupWindow },
    Failed(anyhow::Error),
}

/// Asks the thread, and takes what it has found. The thread ends with this value.
pub(crate) struct Restorer {
    requests: Requests,
    count: u64,
    requested: Sender<BTreeMap<i32, u64>>,
    answers: Receiver<Answer>,
}

impl Restorer {
    /// Starts the thread. `capacity` counts keys per partition.
    pub(crate) fn start(settings: &Settings, topic: &str, capacity: usize) -> anyhow::Result<Self> {
        let (asks, asked) = channel::<BTreeMap<i32, u64>>();
        let (tell, answers) = channel();
        let requests = Requests::default();
        let mut reader = Reader {
            alerts: EndReader::open(settings, "alerting-svc-restore", topic)?,
            capacity,
            requests: requests.clone(),
            found: BTreeMap::new(),
        };
        let work = move || {
            while let Ok(partitions) = asked.recv() {
                if let Err(error) = reader.restore(&partitions, &tell) {
                    // Err means that the session has ended, and with it the request.
                    let _ = tell.send(Answer::Failed(error));
                    return;
                }
            }
        };
        std::thread::Builder::new().name("restore".to_owned()).spawn(work).context("start a thread")?;
        Ok(Self { requests, count: 0, requested: asks, answers })
    }

    /// Asks for the windows of partitions.
    pub(crate) fn request(&mut self, partitions: impl IntoIterator<Item = i32>) {
        self.count += 1;
        let wanted: BTreeMap<i32, u64> =
            partitions.into_iter().map(|partition| (partition, self.count)).collect();
        if wanted.is_empty() {
            return;
        }
        self.requests.lock().extend(&wanted);
        // Err means that the thread has ended: what it has answers says why.
        let _ = self.requested.send(wanted);
    }

    /// Takes a request back.
    pub(crate) fn cancel(&self, partition: i32) {
        self.requests.lock().remove(&partition);
    }

    /// Says whether a partition is still to be restored.
    pub(crate) fn is_requested(&self, partition: i32) -> bool {
        self.requests.lock().contains_key(&partition)
    }

    /// Says whether any partition is still to be restored.
    pub(crate) fn is_busy(&self) -> bool {
        !self.requests.lock().is_empty()
    }

    /// Takes a window that was restored since the last call.
    ///
    /// # Errors
    /// Kafka does not answer, or a transaction stays open (retry).
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<(i32, DedupWindow)>> {
        loop {
            match self.answers.try_recv() {
                Ok(Answer::Restored { partition, request, window })
                    if self.requests.holds(partition, request) =>
                {
                    self.cancel(partition);
                    return Ok(Some((partition, window)));
                }
                Ok(Answer::Restored { .. }) => {}
                Ok(Answer::Failed(error)) => return Err(error),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => bail!("the restore thread has ended"),
            }
        }
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        self.requests.lock().clear();
    }
}

/// Reads the tails of `iot-alerts`.
struct Reader {
    alerts: EndReader,
    capacity: usize,
    requests: Requests,
    /// The windows so far, each with its request.
    found: BTreeMap<i32, (u64, DedupWindow)>,
}

impl Reader {
    /// Reads the last alerts of the partitions and answers with each window when it is whole.
    ///
    /// Guarantee: a window holds every alert that was committed, or that stood in an open transaction which
    /// was committed later, when the call began; see [`EndReader`].
    fn restore(&mut self, wanted: &BTreeMap<i32, u64>, tell: &Sender<Answer>) -> anyhow::Result<()> {
        let started = Instant::now();
        // A transaction that holds one alert takes two offsets: the alert's and the marker's.
        let offsets_max = i64::try_from(self.capacity.saturating_mul(2)).unwrap_or(i64::MAX);
        self.alerts.add(&wanted.keys().copied().collect(), offsets_max)?;
        let begin =
            |(partition, request): (&i32, &u64)| (*partition, (*request, DedupWindow::new(self.capacity)));
        self.found = wanted.iter().map(begin).collect();
        let mut looked = started;
        let mut records = 0_u64;
        while !self.alerts.is_done() {
            if self.alerts.standstill() > STANDSTILL_MAX {
                bail!("a transaction stays open, or the end of the alerts does not come");
            }
            if looked.elapsed() >= LOOK {
                // A partition that was given away meanwhile is read no further.
                self.alerts.retain(|partition| self.requests.holds(partition, wanted[&partition]))?;
                looked = Instant::now();
            }
            match self.alerts.step()? {
                Step::Record(record) => {
                    records += 1;
                    // Something else than an alert deduplicates nothing.
                    let key = record.payload().and_then(|value| serde_json::from_slice(value).ok());
                    if let Some(KeyOfAlert { threshold_id, event_id }) = key
                        && let Some((_, window)) = self.found.get_mut(&record.partition())
                    {
                        window.insert(DedupKey { threshold_id, event_id });
                    }
                }
                Step::End(partition) => {
                    if let Some((request, window)) = self.found.remove(&partition) {
                        // Err means that the session has ended, and with it the request.
                        let _ = tell.send(Answer::Restored { partition, request, window });
                    }
                }
                Step::Wait => {}
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(partitions = wanted.len(), records, seconds, "the last alerts are restored");
        Ok(())
    }
}
