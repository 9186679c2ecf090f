//! Records from Kafka into lanes; a lane that is full has its partitions paused.
//!
//! The consumer is polled whatever the lanes do, so an outage of the database does not cost the group membership.

use crate::parcel::Parcel;
use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::Monitor;
use futures::{FutureExt as _, Stream, StreamExt as _};
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

/// Parcels between the router and a lane that are not in a batch yet: what the other lanes read while one lane writes a
/// large batch, or they would run dry. Some 20 MiB of usual readings, 64 MiB at most and a record for each parcel.
pub(crate) const LANE_PARCELS_MAX: usize = 256;
/// A lane that writes has room again so soon. Pausing at once would be dear: librdkafka throws away what it has fetched
/// ahead of a paused partition, and fetches it again.
const ROOM_WAIT: Duration = Duration::from_millis(500);
/// How often a full lane is asked for room.
const ROOM_POLL: Duration = Duration::from_millis(2);
/// How often an idle loop says that it is alive.
const BEAT: Duration = Duration::from_secs(5);

/// The way into a lane. What is held is a few parcels: the partitions are paused when there is one.
pub(crate) struct Inlet {
    sender: Sender<Parcel>,
    open: Parcel,
    held: VecDeque<Parcel>,
}

impl Inlet {
    pub(crate) fn new(sender: Sender<Parcel>, topic: &str) -> Self {
        Self { sender, open: Parcel::new(topic.into()), held: VecDeque::new() }
    }

    fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Hands over what is held; false when the lane has no room for all of it.
    fn hand_over(&mut self) -> bool {
        while let Some(parcel) = self.held.pop_front() {
            // A closed lane keeps its records held; its failure ends the service.
            if let Err(TrySendError::Full(parcel) | TrySendError::Closed(parcel)) =
                self.sender.try_send(parcel)
            {
                self.held.push_front(parcel);
                return false;
            }
        }
        true
    }

    /// Closes the open parcel and hands over, waiting a moment when the lane becomes full; false when it has no room even
    /// then.
    async fn hand_over_soon(&mut self) -> bool {
        let was_blocked = self.is_blocked();
        self.held.push_back(self.open.take());
        if self.hand_over() {
            return true;
        }
        // What still comes for a lane that is full already must not hold up the others.
        if !was_blocked
            && let Ok(Ok(room)) = timeout(ROOM_WAIT, self.sender.reserve()).await
            && let Some(parcel) = self.held.pop_front()
        {
            room.send(parcel);
        }
        !self.is_blocked()
    }
}

/// Routes until shutdown.
///
/// # Errors
/// The consumer can neither pause nor resume (stop).
pub(crate) async fn route(
    consumer: &StreamConsumer<Monitor>,
    mut inlets: Vec<Inlet>,
    chassis: &Chassis,
) -> anyhow::Result<()> {
    let lanes = inlets.len();
    let mut records = consumer.stream();
    loop {
        chassis.liveness.beat();
        let is_blocked = inlets.iter().any(Inlet::is_blocked);
        tokio::select! {
            () = chassis.shutdown.cancelled() => return Ok(()),
            Some(first) = records.next() => {
                take(first, &mut records, &mut inlets);
                for (lane, inlet) in inlets.iter_mut().enumerate().filter(|(_, inlet)| !inlet.open.is_empty()) {
                    if !inlet.hand_over_soon().await {
                        consumer.pause(&partitions_of(consumer, lane, lanes)?).context("pause readings")?;
                    }
                }
            }
            () = sleep(ROOM_POLL), if is_blocked => {
                for (lane, inlet) in inlets.iter_mut().enumerate().filter(|(_, inlet)| inlet.is_blocked()) {
                    if inlet.hand_over() {
                        consumer.resume(&partitions_of(consumer, lane, lanes)?).context("resume readings")?;
                    }
                }
            }
            () = sleep(BEAT) => {}
        }
    }
}

/// Puts what is there at this moment into the parcels of its lanes, until one is full.
fn take<'a, S>(first: S::Item, records: &mut S, inlets: &mut [Inlet])
where
    S: Stream<Item = KafkaResult<BorrowedMessage<'a>>> + Unpin,
{
    let mut received = first;
    loop {
        match received {
            Ok(record) => {
                let open = &mut inlets[lane_of(record.partition(), inlets.len())].open;
                open.push(&record);
                if open.is_full() {
                    return;
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

fn lane_of(partition: i32, lanes: usize) -> usize {
    usize::try_from(partition).unwrap_or(0) % lanes
}

/// The assigned partitions of a lane.
fn partitions_of(
    consumer: &StreamConsumer<Monitor>,
    lane: usize,
    lanes: usize,
) -> anyhow::Result<TopicPartitionList> {
    let assigned = consumer.assignment().context("ask for the assignment")?;
    let mut own = TopicPartitionList::new();
    for element in assigned.elements() {
        if lane_of(element.partition(), lanes) == lane {
            own.add_partition(element.topic(), element.partition());
        }
    }
    Ok(own)
}
