//! Records from Kafka into lanes; a lane that is full has its partitions paused.
//!
//! What should be paused is worked out anew whenever a lane fills or empties and whenever the assignment
//! changes, and compared with what is. librdkafka keeps a partition paused while others own it, so an order
//! to resume that was given to the wrong partitions, or to none in the middle of a rebalance, would never
//! come again.
//!
//! The consumer is polled whatever the lanes do, so an outage of the database does not cost the group
//! membership.

use crate::lanes::Lanes;
use crate::parcel::Parcel;
use anyhow::{Context, anyhow};
use chassis::Chassis;
use chassis::kafka::{Assignment, Member};
use futures::{FutureExt as _, Stream, StreamExt as _};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Parcels between the router and a lane that are not in a batch yet: what the other lanes read while one
/// lane writes a large batch, or they would run dry. Some 20 MiB of usual readings, 64 MiB at most and a
/// record for each parcel.
pub(crate) const LANE_PARCELS_MAX: usize = 256;
/// Wait for room in a lane that has just become full. Pausing at once would be dear: librdkafka throws away
/// what it has fetched ahead of a paused partition, and fetches it again.
const ROOM_WAIT: Duration = Duration::from_millis(500);
/// How often a full lane is asked for room.
const ROOM_POLL: Duration = Duration::from_millis(2);
/// How often an idle loop says that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// The way into a lane. It holds a few parcels at most: the partitions are paused when there is one.
pub(crate) struct LaneSender {
    sender: Sender<Parcel>,
    open: Parcel,
    held: VecDeque<Parcel>,
}

impl LaneSender {
    pub(crate) fn new(sender: Sender<Parcel>, topic: &str) -> Self {
        Self { sender, open: Parcel::new(topic.into()), held: VecDeque::new() }
    }

    fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Hands over what is held, as far as the lane has room.
    fn send(&mut self) {
        while let Some(parcel) = self.held.pop_front() {
            // A closed lane keeps its records held; its failure ends the service.
            if let Err(TrySendError::Full(parcel) | TrySendError::Closed(parcel)) =
                self.sender.try_send(parcel)
            {
                self.held.push_front(parcel);
                return;
            }
        }
    }

    /// Closes the open parcel and hands over, waiting a moment when the lane becomes full.
    async fn send_soon(&mut self, version: u64) {
        let was_blocked = self.is_blocked();
        self.held.push_back(self.open.take(version));
        self.send();
        // Later records of a lane that is full already must not hold up the others.
        if self.is_blocked()
            && !was_blocked
            && let Ok(Ok(room)) = timeout(ROOM_WAIT, self.sender.reserve()).await
            && let Some(parcel) = self.held.pop_front()
        {
            room.send(parcel);
        }
    }
}

/// Moves records from the consumer into the lanes.
pub(crate) struct Router {
    consumer: Arc<StreamConsumer<Member>>,
    topic: String,
    assignment: Assignment,
    lanes: Arc<Lanes>,
    senders: Vec<LaneSender>,
    /// The version of the assignment that the lanes were last spread over.
    version: u64,
    /// What this has paused and not resumed. It outlives an ownership, as the client's own flag does.
    paused: BTreeSet<i32>,
}

impl Router {
    pub(crate) fn new(
        consumer: Arc<StreamConsumer<Member>>,
        topic: String,
        assignment: Assignment,
        lanes: Arc<Lanes>,
        senders: Vec<LaneSender>,
    ) -> Self {
        Self { consumer, topic, assignment, lanes, senders, version: 0, paused: BTreeSet::new() }
    }

    /// Routes until shutdown.
    ///
    /// # Errors
    /// The consumer can neither pause nor resume, or another instance has our name (stop).
    pub(crate) async fn run(mut self, chassis: &Chassis) -> anyhow::Result<()> {
        let consumer = Arc::clone(&self.consumer);
        let mut records = consumer.stream();
        let assignment = self.assignment.clone();
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            chassis.liveness.beat();
            let is_blocked = self.senders.iter().any(LaneSender::is_blocked);
            tokio::select! {
                () = chassis.shutdown.cancelled() => return Ok(()),
                () = assignment.changed() => {}
                Some(first) = records.next() => {
                    self.take(first, &mut records);
                    if let Some((code, reason)) = consumer.client().fatal_error() {
                        return Err(anyhow!("{code}: {reason}"));
                    }
                    for sender in self.senders.iter_mut().filter(|sender| !sender.open.is_empty()) {
                        sender.send_soon(self.version).await;
                    }
                }
                () = sleep(ROOM_POLL), if is_blocked => self.senders.iter_mut().for_each(LaneSender::send),
                _ = beats.tick() => {}
            }
            self.follow_assignment();
            self.regulate()?;
        }
    }

    /// Puts what is there at this moment into the parcels of its lanes, until one is full.
    fn take<'a, S>(&mut self, first: S::Item, records: &mut S)
    where
        S: Stream<Item = KafkaResult<BorrowedMessage<'a>>> + Unpin,
    {
        let mut received = first;
        loop {
            // A record may come in the same breath as its assignment.
            self.follow_assignment();
            match received {
                Ok(record) => {
                    // None: revoked while it was on its way.
                    if let Some(lane) = self.lanes.of(record.partition()) {
                        let open = &mut self.senders[lane].open;
                        open.push(&record);
                        if open.is_full() {
                            return;
                        }
                    }
                }
                // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                Err(error) => {
                    tracing::warn!(%error, "readings cannot be read now");
                    return;
                }
            }
            match records.next().now_or_never().flatten() {
                Some(next) => received = next,
                None => return,
            }
        }
    }

    /// Spreads a changed assignment over the lanes. Records of before it and after it share no parcel.
    fn follow_assignment(&mut self) {
        let version = self.assignment.version();
        if version == self.version {
            return;
        }
        self.version = version;
        self.lanes.spread(&self.assignment.partitions());
        for sender in &mut self.senders {
            let before = sender.open.take(version);
            if !before.is_empty() {
                sender.held.push_back(before);
                sender.send();
            }
        }
    }

    /// Pauses the partitions of full lanes, and resumes all others.
    fn regulate(&mut self) -> anyhow::Result<()> {
        let full: Vec<bool> = self.senders.iter().map(LaneSender::is_blocked).collect();
        full.iter().enumerate().for_each(|(lane, is_full)| self.lanes.set_full(lane, *is_full));
        if self.paused.is_empty() && !full.contains(&true) {
            return Ok(()); // almost always
        }
        let assigned = self.assignment.partitions();
        let is_full = |partition: &i32| self.lanes.of(*partition).is_some_and(|lane| full[lane]);
        let (pause, resume) = differences(&assigned, &self.paused, is_full);
        if !pause.is_empty() {
            self.consumer.pause(&self.list(&pause)).context("pause readings")?;
            self.paused.extend(pause);
        }
        if !resume.is_empty() {
            self.consumer.resume(&self.list(&resume)).context("resume readings")?;
            self.paused.retain(|partition| !resume.contains(partition));
        }
        self.assignment.set_paused(&self.paused);
        Ok(())
    }

    fn list(&self, partitions: &BTreeSet<i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }
}

/// Returns which assigned partitions have to be paused, and which resumed; a partition of others is left as
/// it is.
fn differences(
    assigned: &BTreeSet<i32>,
    paused: &BTreeSet<i32>,
    is_full: impl Fn(&i32) -> bool,
) -> (BTreeSet<i32>, BTreeSet<i32>) {
    let wanted: BTreeSet<i32> = assigned.iter().copied().filter(is_full).collect();
    let resume = assigned.intersection(paused).filter(|partition| !wanted.contains(partition));
    (wanted.difference(paused).copied().collect(), resume.copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_comes_back_paused_is_resumed() {
        let paused = [0, 1].into(); // both lanes were full, and 1 went to another instance
        assert_eq!(differences(&[0].into(), &paused, |_| false), ([].into(), [0].into()));
        assert_eq!(differences(&[0, 1].into(), &[1].into(), |_| false), ([].into(), [1].into()));
        assert_eq!(differences(&[0, 1, 2].into(), &paused, |_| true), ([2].into(), [].into()));
        assert_eq!(differences(&[].into(), &paused, |_| false), ([].into(), [].into()));
    }
}
