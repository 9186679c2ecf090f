//! Records from Kafka into lanes; a lane that is full has its partitions paused.
//!
//! The consumer is polled whatever the lanes do, so an outage of the database does not cost the group membership.

use anyhow::Context;
use chassis::Chassis;
use chassis::kafka::Monitor;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{sleep, timeout};

/// Records between the router and a lane that are not in a batch yet.
pub(crate) const LANE_RECORDS_MAX: usize = 2_048;
/// A lane that writes has room again so soon. Pausing at once would be dear: librdkafka throws away what it has fetched
/// ahead of a paused partition, and fetches it again.
const ROOM_WAIT: Duration = Duration::from_millis(500);
/// How often a full lane is asked for room.
const ROOM_POLL: Duration = Duration::from_millis(2);
/// How often an idle loop says that it is alive.
const BEAT: Duration = Duration::from_secs(5);

/// The way into a lane. What is held is a few records: the partitions are paused when there is one.
pub(crate) struct Inlet {
    sender: Sender<OwnedMessage>,
    held: VecDeque<OwnedMessage>,
}

impl Inlet {
    pub(crate) fn new(sender: Sender<OwnedMessage>) -> Self {
        Self { sender, held: VecDeque::new() }
    }

    /// Hands over what is held, then what is new; false when the lane has no room for all of it.
    fn hand_over(&mut self, new: Option<OwnedMessage>) -> bool {
        self.held.extend(new);
        while let Some(record) = self.held.pop_front() {
            // A closed lane keeps its records held; its failure ends the service.
            if let Err(TrySendError::Full(record) | TrySendError::Closed(record)) =
                self.sender.try_send(record)
            {
                self.held.push_front(record);
                return false;
            }
        }
        true
    }

    /// Hands over, waiting a moment when the lane becomes full; false when it has no room even then.
    async fn hand_over_soon(&mut self, new: OwnedMessage) -> bool {
        let was_full = !self.held.is_empty();
        if self.hand_over(Some(new)) {
            return true;
        }
        // What still comes for a lane that is full already must not hold up the others.
        if !was_full
            && let Ok(Ok(room)) = timeout(ROOM_WAIT, self.sender.reserve()).await
            && let Some(record) = self.held.pop_front()
        {
            room.send(record);
        }
        self.held.is_empty()
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
    loop {
        chassis.liveness.beat();
        let is_blocked = inlets.iter().any(|inlet| !inlet.held.is_empty());
        tokio::select! {
            () = chassis.shutdown.cancelled() => return Ok(()),
            received = consumer.recv() => match received {
                Ok(record) => {
                    let lane = lane_of(record.partition(), inlets.len());
                    if !inlets[lane].hand_over_soon(record.detach()).await {
                        consumer.pause(&partitions_of(consumer, lane, inlets.len())?).context("pause readings")?;
                    }
                }
                // librdkafka reconnects by itself, and the monitor closes the latch meanwhile.
                Err(error) => tracing::warn!(%error, "readings cannot be read now"),
            },
            () = sleep(ROOM_POLL), if is_blocked => {
                let lanes = inlets.len();
                for (lane, inlet) in inlets.iter_mut().enumerate().filter(|(_, inlet)| !inlet.held.is_empty()) {
                    if inlet.hand_over(None) {
                        consumer.resume(&partitions_of(consumer, lane, lanes)?).context("resume readings")?;
                    }
                }
            }
            () = sleep(BEAT) => {}
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
