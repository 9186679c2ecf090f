//! Records of a group in batches, for work that may take long: while one is worked on, the partitions pause
//! and the consumer is polled, so that an outage behind the work costs no membership.

use super::{Assignment, Commits, Done, Member, Monitor};
use anyhow::Context;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Age of the work from which the partitions pause.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// A record, and the version of the assignment under which it came.
#[derive(Debug)]
pub struct Taken {
    /// The record as Kafka had it.
    pub record: OwnedMessage,
    /// For [`Done`].
    pub version: u64,
}

/// A member of a group that hands out batches.
///
/// A batch under way when its partition leaves is delivered again to the next owner; nobody waits for it. So
/// the work has to be such that a repetition does no harm.
pub struct Batches {
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
    assignment: Assignment,
    commits: Arc<Commits>,
    records_max: usize,
    held: Held,
}

/// Holds the records that came and the partitions that were paused while a batch was worked on.
#[derive(Default)]
struct Held {
    /// For the next batch.
    records: Vec<Taken>,
    /// Paused and not resumed. It outlives an ownership, as the client's own flag does.
    paused: BTreeSet<i32>,
}

impl Batches {
    /// Joins the group of the settings.
    ///
    /// # Errors
    /// The client cannot be made (stop).
    pub fn join(
        mut settings: ClientConfig,
        topic: &str,
        assignment: &Assignment,
        monitor: Monitor,
        records_max: usize,
    ) -> anyhow::Result<Self> {
        let commits = Arc::new(Commits::new(assignment.clone()));
        let leaving = Arc::clone(&commits);
        let member = Member::new(monitor, assignment.clone()).revoking(Box::new(move |partitions, _| {
            leaving.revoke(partitions);
            leaving.let_go();
        }));
        settings
            .set("statistics.interval.ms", super::REPORT_INTERVAL_MS)
            .set("partition.assignment.strategy", "cooperative-sticky");
        let made = settings.create_with_context(member);
        let consumer: StreamConsumer<Member> =
            made.with_context(|| format!("create the consumer of {topic}"))?;
        consumer.subscribe(&[topic]).with_context(|| format!("subscribe to {topic}"))?;
        Ok(Self {
            consumer: Arc::new(consumer),
            topic: topic.to_owned(),
            assignment: assignment.clone(),
            commits,
            records_max,
            held: Held::default(),
        })
    }

    /// Keeps commits until the group has them. Runs until it is dropped.
    ///
    /// # Errors
    /// As [`Commits::keep`] (stop).
    pub fn keep_commits(&self) -> impl Future<Output = anyhow::Result<()>> + Send + 'static {
        Arc::clone(&self.commits).keep(Arc::clone(&self.consumer), self.topic.clone())
    }

    /// Waits for a record, and takes what is there at this moment. May be dropped while it waits.
    pub async fn gather(&mut self) -> Vec<Taken> {
        while self.held.records.is_empty() {
            // One that comes back to us comes as it was left.
            self.resume();
            tokio::select! {
                next = self.next() => self.held.records.push(next),
                () = self.assignment.changed() => {}
            }
        }
        let mut batch = std::mem::take(&mut self.held.records);
        while batch.len() < self.records_max {
            tokio::select! {
                biased;
                next = self.next() => batch.push(next),
                () = std::future::ready(()) => break,
            }
        }
        batch
    }

    /// Works, and polls the consumer meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut held = std::mem::take(&mut self.held);
        let worked = tokio::select! {
            worked = work => worked,
            never = self.keep_polling(&mut held) => match never {},
        };
        self.held = held;
        self.resume();
        worked
    }

    /// Commits offsets of partitions that have been ours without a break.
    pub fn commit(&self, done: &BTreeMap<i32, Done>, mode: CommitMode) {
        self.commits.commit(&self.consumer, &self.topic, done, mode);
    }

    async fn next(&self) -> Taken {
        loop {
            match self.consumer.recv().await {
                Ok(record) => {
                    return Taken { record: record.detach(), version: self.assignment.version() };
                }
                // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                Err(error) => tracing::warn!(topic = self.topic, %error, "records cannot be read now"),
            }
        }
    }

    /// Polls a consumer whose partitions are paused. A record that comes all the same, of a partition that
    /// has just been assigned, waits for the next batch.
    async fn keep_polling(&self, held: &mut Held) -> Infallible {
        sleep(PAUSE_AFTER).await;
        loop {
            let partitions = self.assignment.partitions();
            if let Err(error) = self.consumer.pause(&self.list(&partitions)) {
                // They are ours no more; the handover is under way.
                tracing::debug!(%error, "cannot pause");
            }
            held.paused.extend(partitions);
            self.assignment.set_paused(&held.paused);
            // An assignment makes no record, so it is looked for as well.
            if let Ok(next) = timeout(PAUSE_AFTER, self.next()).await {
                held.records.push(next);
            }
        }
    }

    /// Resumes what was paused and is ours.
    fn resume(&mut self) {
        let assigned = self.assignment.partitions();
        let (ours, others): (BTreeSet<i32>, BTreeSet<i32>) =
            self.held.paused.iter().partition(|partition| assigned.contains(partition));
        if !ours.is_empty() {
            if let Err(error) = self.consumer.resume(&self.list(&ours)) {
                tracing::debug!(%error, "cannot resume");
            }
            self.held.paused = others;
            self.assignment.set_paused(&self.held.paused);
        }
    }

    fn list(&self, partitions: &BTreeSet<i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }
}

/// Returns how far the records of a batch are when all of it is done.
pub fn done_of(batch: &[Taken]) -> BTreeMap<i32, Done> {
    use rdkafka::message::Message as _;
    let done = |Taken { record, version }: &Taken| {
        (record.partition(), Done { next: record.offset() + 1, version: *version })
    };
    batch.iter().map(done).collect()
}
