//! The loop: consume, gather, cut; it waits for nothing but the next thing to do.
//!
//! The consumer is polled whatever the store does, so an outage of the store does not cost the group
//! membership.

use crate::buffer::{Limits, Record};
use crate::metrics::Metrics;
use crate::partition::{Next, Partition, Phase};
use crate::work::{Start, Work, Written};
use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::{Assignment, Change, Commits, Done, Member};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longest drain after a shutdown, for the records at hand; the rest is read again.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// How often ages are looked at, and how often an idle loop says that it is alive.
const TICK: Duration = Duration::from_millis(500);

/// What a task has done, for the ownership that asked for it.
struct Finished {
    partition: i32,
    generation: u64,
    outcome: anyhow::Result<Outcome>,
}

enum Outcome {
    Started(Start),
    /// Up to this offset.
    Written(Written, i64),
}

/// What ties a session to its consumer group.
pub(crate) struct Group {
    pub(crate) consumer: Arc<StreamConsumer<Member>>,
    /// The topic with its prefix.
    pub(crate) topic: String,
    pub(crate) assignment: Assignment,
    pub(crate) commits: Arc<Commits>,
}

pub(crate) struct Session {
    group: Group,
    work: Work,
    limits: Limits,
    buffer_bytes_max: usize,
    metrics: Metrics,
    partitions: BTreeMap<i32, Partition>,
    tasks: JoinSet<Finished>,
    generations: u64,
    /// Sum over the partitions.
    buffered_bytes: usize,
    gathering: Gathering,
}

/// Which partitions hold records that are not due for a file yet, or wait for memory: their offsets stand
/// still for a reason.
pub(crate) type Gathering = Arc<Mutex<BTreeSet<i32>>>;

impl Session {
    pub(crate) fn new(
        group: Group,
        work: Work,
        limits: Limits,
        buffer_bytes_max: usize,
        metrics: Metrics,
    ) -> Self {
        Self {
            group,
            work,
            limits,
            buffer_bytes_max,
            metrics,
            partitions: BTreeMap::new(),
            tasks: JoinSet::new(),
            generations: 0,
            buffered_bytes: 0,
            gathering: Gathering::default(),
        }
    }

    pub(crate) fn gathering(&self) -> Gathering {
        Arc::clone(&self.gathering)
    }

    /// Runs until shutdown, then writes what is at hand.
    ///
    /// # Errors
    /// Files cannot be laid out, or the lake was filled from another topic (stop).
    pub(crate) async fn run(mut self, chassis: &Chassis) -> anyhow::Result<()> {
        let consumer = Arc::clone(&self.group.consumer);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            chassis.liveness.beat();
            tokio::select! {
                biased;
                () = chassis.shutdown.cancelled() => break,
                changes = consumer.context().changes() => self.apply(changes),
                Some(finished) = self.tasks.join_next() => self.finish(finished)?,
                _ = ticks.tick() => {
                    self.cut_due();
                    self.note_gathering();
                }
                received = consumer.recv() => match received {
                    Ok(record) => self.gather(&record).await,
                    // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                    Err(error) => tracing::warn!(%error, "readings cannot be read now"),
                },
            }
        }
        if timeout(DRAIN_MAX, self.drain()).await.is_err() {
            tracing::warn!("not all that was at hand is written; it will be read again");
        }
        Ok(())
    }

    /// Cuts everything once more and waits for the files.
    async fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            let partitions: Vec<i32> = self.partitions.keys().copied().collect();
            partitions.into_iter().for_each(|partition| self.cut(partition));
            if self.partitions.values().all(|partition| partition.writing_bytes.is_none()) {
                return Ok(());
            }
            let Some(finished) = self.tasks.join_next().await else { return Ok(()) };
            self.finish(finished)?;
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Assigned(partitions, _) => {
                    partitions.into_iter().for_each(|partition| self.start(partition));
                }
                Change::Revoked(partitions) => {
                    for partition in partitions {
                        // What it had gathered is the next owner's to read.
                        self.partitions.remove(&partition);
                    }
                }
            }
        }
        self.count_bytes();
        self.regulate();
    }

    /// Begins a partition, or begins it again.
    fn start(&mut self, partition: i32) {
        self.generations += 1;
        let generation = self.generations;
        let mut state = Partition::new(generation, self.group.assignment.version());
        let work = self.work.clone();
        state.own(self.tasks.spawn(async move {
            let outcome = work.start(partition).await.map(Outcome::Started);
            Finished { partition, generation, outcome }
        }));
        // One that was begun before is paused as it was; told twice does no harm.
        self.partitions.insert(partition, state);
    }

    async fn gather(&mut self, record: &BorrowedMessage<'_>) {
        let (partition, now) = (record.partition(), Instant::now());
        // None: revoked while it was on its way.
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        let record = Record { offset: record.offset(), value: record.payload().map(<[u8]>::to_vec) };
        let before = state.buffered_bytes();
        let (next, skipped) = state.push(record, now);
        self.buffered_bytes += state.buffered_bytes() - before;
        if skipped > 0 {
            self.metrics.offsets_skipped.inc_by(skipped);
            tracing::error!(partition, skipped, "Kafka does not have these offsets any more");
        }
        if let Next::Seek(offset) = next
            && let Err(error) = self.work.seek(partition, offset).await
        {
            tracing::warn!(partition, offset, error = format!("{error:#}"), "begins anew: cannot seek");
            self.start(partition);
            self.regulate();
            return;
        }
        let Some(state) = self.partitions.get(&partition) else { return };
        let is_full = state.buffer().is_some_and(|buffer| buffer.is_full(&self.limits));
        if is_full || self.buffered_bytes >= self.buffer_bytes_max {
            self.cut_due();
            self.regulate();
        }
    }

    /// Cuts what is due; when memory is short and nothing is being written, the largest as well.
    fn cut_due(&mut self) {
        let now = Instant::now();
        let is_due = |state: &Partition| state.is_due(&self.limits, now);
        let due: Vec<i32> =
            self.partitions.iter().filter(|(_, state)| is_due(state)).map(|(id, _)| *id).collect();
        due.into_iter().for_each(|partition| self.cut(partition));
        let is_writing = self.partitions.values().any(|state| state.writing_bytes.is_some());
        if self.buffered_bytes >= self.buffer_bytes_max && !is_writing {
            let free =
                self.partitions.iter().filter(|(_, state)| state.buffer().is_some_and(|b| !b.is_pinned()));
            if let Some(largest) = free.max_by_key(|(_, state)| state.buffered_bytes()).map(|(id, _)| *id) {
                self.cut(largest);
            }
        }
        self.metrics.buffered_bytes.set(i64::try_from(self.buffered_bytes).unwrap_or(i64::MAX));
    }

    fn note_gathering(&self) {
        let now = Instant::now();
        let is_memory_full = self.buffered_bytes >= self.buffer_bytes_max;
        let gathers = |state: &Partition| {
            let is_young =
                state.buffer().is_some_and(|buffer| !buffer.is_empty() && !buffer.is_due(&self.limits, now));
            is_young || state.must_pause(&self.limits, is_memory_full) && state.buffer().is_some()
        };
        let gathering = self.partitions.iter().filter(|(_, state)| gathers(state));
        *self.gathering.lock().unwrap_or_else(PoisonError::into_inner) =
            gathering.map(|(partition, _)| *partition).collect();
    }

    /// Begins to write what a partition has gathered, unless it writes already.
    fn cut(&mut self, partition: i32) {
        let Some(state) = self.partitions.get_mut(&partition) else { return };
        if state.writing_bytes.is_some() {
            return;
        }
        let Some(buffer) = state.buffer_mut() else { return };
        let bytes = buffer.byte_count();
        let Some((cut, records)) = buffer.cut(partition) else { return };
        state.writing_bytes = Some(bytes);
        let (work, generation) = (self.work.clone(), state.generation);
        let task = self.tasks.spawn(async move {
            let outcome = work.write(cut, records).await;
            Finished {
                partition,
                generation,
                outcome: outcome.map(|written| Outcome::Written(written, cut.last)),
            }
        });
        state.own(task);
    }

    fn finish(&mut self, finished: Result<Finished, tokio::task::JoinError>) -> anyhow::Result<()> {
        let Finished { partition, generation, outcome } = match finished {
            Ok(finished) => finished,
            Err(error) if error.is_cancelled() => return Ok(()), // revoked
            Err(error) => return Err(error).context("run a task"),
        };
        let Some(state) = self.partitions.get_mut(&partition).filter(|state| state.generation == generation)
        else {
            return Ok(());
        };
        match outcome? {
            Outcome::Started(start) => {
                tracing::info!(
                    partition,
                    first = start.first,
                    pinned_last = start.pinned_last,
                    "partition starts"
                );
                state.begin(start);
                self.commit();
            }
            Outcome::Written(Written::Done, last) => {
                state.writing_bytes = None;
                state.stored = Some(last + 1);
                self.commit();
            }
            Outcome::Written(Written::Outrun, last) => {
                tracing::warn!(partition, last, "another instance has made this cut; looking where it ended");
                self.start(partition);
            }
        }
        self.count_bytes();
        self.cut_due();
        self.regulate();
        Ok(())
    }

    fn count_bytes(&mut self) {
        self.buffered_bytes = self.partitions.values().map(Partition::buffered_bytes).sum();
    }

    /// Pauses and resumes as memory and writes ask for.
    fn regulate(&mut self) {
        let is_memory_full = self.buffered_bytes >= self.buffer_bytes_max;
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (partition, state) in &mut self.partitions {
            let must_pause = state.must_pause(&self.limits, is_memory_full);
            if must_pause != state.is_paused || matches!(state.phase, Phase::Starting) {
                state.is_paused = must_pause;
                let list = if must_pause { &mut pause } else { &mut resume };
                list.add_partition(&self.group.topic, *partition);
            }
        }
        for (list, outcome) in
            [(&pause, self.group.consumer.pause(&pause)), (&resume, self.group.consumer.resume(&resume))]
        {
            if let Err(error) = outcome {
                // They are ours no more; the handover is under way.
                tracing::debug!(%error, ?list, "cannot pause or resume");
            }
        }
    }

    /// Tells the group how far the lake is: for whoever looks at the lag, and for nothing else.
    fn commit(&self) {
        let done = |state: &Partition| Some(Done { next: state.stored?, version: state.version });
        let done = self.partitions.iter().filter_map(|(id, state)| Some((*id, done(state)?))).collect();
        let Group { consumer, topic, commits, .. } = &self.group;
        commits.commit(consumer, topic, &done, CommitMode::Async);
    }
}
