//! `iot-alert-state` and the tail of `iot-alerts` → the episodes of partitions, on a thread of its own: the
//! partitions that this instance keeps go on meanwhile, and each that it gets goes on as soon as it is
//! restored.

mod heard;

use crate::partition::Partition;
use crate::shared::Shared;
use crate::tables::Tables;
use anyhow::{Context, bail};
use chassis::kafka::{EndReader, Step};
use heard::Heard;
use rdkafka::message::{BorrowedMessage, Message};
use rules::{DedupKey, DedupWindow, Episodes};
use schema::{Episode, EpisodeKey, topics};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
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
    #[serde(default)]
    event_id: Option<Uuid>,
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
    Restored { partition: i32, request: u64, restored: Box<Partition> },
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
    /// Starts the thread.
    pub(crate) fn start(shared: &Shared) -> anyhow::Result<Self> {
        let (asks, asked) = channel::<BTreeMap<i32, u64>>();
        let (tell, answers) = channel();
        let requests = Requests::default();
        let mut reader = Reader::open(shared, requests.clone())?;
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

    /// Asks for partitions.
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

    /// Takes a partition that was restored since the last call.
    ///
    /// # Errors
    /// Kafka does not answer, or a transaction stays open (retry).
    pub(crate) fn take(&mut self) -> anyhow::Result<Option<(i32, Partition)>> {
        loop {
            match self.answers.try_recv() {
                Ok(Answer::Restored { partition, request, restored })
                    if self.requests.holds(partition, request) =>
                {
                    self.cancel(partition);
                    return Ok(Some((partition, *restored)));
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

/// Reads the three topics that a partition is restored from.
struct Reader {
    alerts: EndReader,
    state: EndReader,
    readings: Heard,
    tables: Tables,
    capacity: usize,
    requests: Requests,
    /// What is found so far.
    found: BTreeMap<i32, Found>,
}

struct Found {
    request: u64,
    window: DedupWindow,
    records: Vec<(EpisodeKey, Option<Episode>)>,
    has_alerts: bool,
    has_state: bool,
}

impl Reader {
    fn open(shared: &Shared, requests: Requests) -> anyhow::Result<Self> {
        let kafka = &shared.config.kafka;
        let reader = |topic: &str| EndReader::open(kafka, "alerting-svc-restore", &kafka.topic(topic));
        Ok(Self {
            alerts: reader(topics::ALERTS.name)?,
            state: reader(topics::ALERT_STATE.name)?,
            readings: Heard::open(shared)?,
            tables: shared.tables.clone(),
            capacity: shared.config.alerts_remembered,
            requests,
            found: BTreeMap::new(),
        })
    }

    /// Reads the last alerts and every episode of the partitions, and answers with each partition when it is
    /// whole.
    ///
    /// Guarantee: it holds everything that was committed, or that stood in an open transaction which
    /// was committed later, when the call began; see [`EndReader`].
    fn restore(&mut self, wanted: &BTreeMap<i32, u64>, tell: &Sender<Answer>) -> anyhow::Result<()> {
        let started = Instant::now();
        let partitions = wanted.keys().copied().collect();
        // A transaction that holds one alert takes two offsets: the alert's and the marker's.
        let offsets_max = i64::try_from(self.capacity.saturating_mul(2)).unwrap_or(i64::MAX);
        self.alerts.add(&partitions, offsets_max)?;
        self.state.add(&partitions, i64::MAX)?;
        let begin = |(partition, request): (&i32, &u64)| (*partition, Found::new(*request, self.capacity));
        self.found = wanted.iter().map(begin).collect();
        let mut looked = started;
        while !(self.alerts.is_done() && self.state.is_done()) {
            if self.alerts.standstill().min(self.state.standstill()) > STANDSTILL_MAX {
                bail!("a transaction stays open, or the end of the alerts or of the episodes does not come");
            }
            if looked.elapsed() >= LOOK {
                // A partition that was given away meanwhile is read no further.
                self.alerts.retain(|partition| self.requests.holds(partition, wanted[&partition]))?;
                self.state.retain(|partition| self.requests.holds(partition, wanted[&partition]))?;
                looked = Instant::now();
            }
            let mut ended = BTreeSet::new();
            read(&mut self.alerts, &mut self.found, &mut ended, Found::add_alert, |found| {
                found.has_alerts = true;
            })?;
            read(&mut self.state, &mut self.found, &mut ended, Found::add_record, |found| {
                found.has_state = true;
            })?;
            for partition in ended {
                self.answer(partition, tell)?;
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(partitions = wanted.len(), seconds, "partitions are restored");
        Ok(())
    }

    /// Answers with a partition if both of its topics are read.
    fn answer(&mut self, partition: i32, tell: &Sender<Answer>) -> anyhow::Result<()> {
        if self.found.get(&partition).is_none_or(|found| !found.has_alerts || !found.has_state) {
            return Ok(());
        }
        let Some(Found { request, window, records, .. }) = self.found.remove(&partition) else {
            return Ok(());
        };
        let mut episodes = Episodes::new(window, self.capacity);
        for (key, record) in records {
            episodes.restore(&key, record);
        }
        let next = self.readings.committed(partition)?;
        if let Some(next) = next
            && episodes.is_listening()
        {
            self.readings.hear_again(partition, next, |reading, offset| {
                let held = self.tables.read();
                let tables = rules::Tables { rules: &held.rules, devices: &held.devices };
                episodes.hear_again(tables, reading, offset);
            })?;
        }
        let restored = Box::new(Partition { episodes, next, is_checked: false });
        // Err means that the session has ended, and with it the request.
        let _ = tell.send(Answer::Restored { partition, request, restored });
        Ok(())
    }
}

impl Found {
    fn new(request: u64, capacity: usize) -> Self {
        let window = DedupWindow::new(capacity);
        Self { request, window, records: Vec::new(), has_alerts: false, has_state: false }
    }

    /// Takes an alert; one that no reading caused deduplicates nothing.
    fn add_alert(&mut self, record: &BorrowedMessage<'_>) {
        let alert = record.payload().and_then(|value| serde_json::from_slice::<KeyOfAlert>(value).ok());
        if let Some(KeyOfAlert { threshold_id, event_id: Some(event_id) }) = alert {
            self.window.insert(DedupKey { threshold_id, event_id });
        }
    }

    /// Takes a record of an episode; only alerting-svc writes there, so every one can be read.
    fn add_record(&mut self, record: &BorrowedMessage<'_>) {
        let key = record.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
        let episode = record.payload().map(serde_json::from_slice).transpose();
        match (key, episode) {
            (Some(key), Ok(episode)) => self.records.push((key, episode)),
            _ => tracing::error!(offset = record.offset(), "a record of iot-alert-state is no episode"),
        }
    }
}

/// Reads one topic for as long as there is something to read.
fn read(
    reader: &mut EndReader,
    found: &mut BTreeMap<i32, Found>,
    ended: &mut BTreeSet<i32>,
    add: impl Fn(&mut Found, &BorrowedMessage<'_>),
    end: impl Fn(&mut Found),
) -> anyhow::Result<()> {
    while !reader.is_done() {
        match reader.step()? {
            Step::Record(record) => {
                if let Some(found) = found.get_mut(&record.partition()) {
                    add(found, &record);
                }
            }
            Step::End(partition) => {
                if let Some(found) = found.get_mut(&partition) {
                    end(found);
                    ended.insert(partition);
                }
                return Ok(());
            }
            Step::Wait => return Ok(()),
        }
    }
    Ok(())
}
