//! A payload → records, and word when they are stored: one way for every front door.
//!
//! A front door knows who sends and how the bytes came. What they mean, in which form they are kept, and what
//! becomes of those that nobody can read is decided here.

use crate::decode::{self, Births, Format, Message, TimestampBounds, Undecodable};
use crate::device::account;
use crate::device::registry::Device;
use crate::durable::budget::Permit;
use crate::durable::in_flight::{AckKind, InFlight, Outcome, RECORD_OVERHEAD_BYTES};
use crate::durable::producer::Producer;
use crate::durable::record::{NotTaken, Record};
use schema::dead_letter::DeadLetter;
use schema::{ReadingCreatedEvent, Timestamp};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// Bytes of the largest event: below the million that a Kafka client takes by default, headers and all.
const EVENT_BYTES_MAX: usize = 900_000;
/// Bytes that the event of a few metrics fits into.
const EVENT_BYTES_USUAL: usize = 512;

/// The sender, and when it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    pub(crate) sensor_id: &'a str,
    pub(crate) device: &'a Device,
    pub(crate) received_at: Timestamp,
}

/// What came, and what was said beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'a> {
    pub(crate) format: &'a Format,
    /// What follows the device's own topic; empty where there is nothing of the kind.
    pub(crate) subtopic: &'a str,
    /// The publisher's own event id, if it was said outside of the bytes.
    pub(crate) event_id: Option<&'a str>,
    pub(crate) bytes: &'a [u8],
}

/// What a payload becomes.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// One for each reading, in order; none when the payload was understood and measures nothing.
    pub(crate) records: VecDeque<Record>,
    /// Bytes of the rows that they become.
    pub(crate) row_bytes: usize,
}

/// Says that not every record was stored: send all of them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotStored;

impl Sender<'_> {
    /// Reads a payload.
    ///
    /// # Errors
    /// Nobody can read it; another try would end the same.
    pub(crate) fn decode(
        &self,
        payload: &Payload<'_>,
        births: &mut Births,
        bounds: &TimestampBounds,
    ) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
        let message = Message {
            sensor_id: self.sensor_id,
            device_type: &self.device.device_type,
            zone_id: &self.device.zone_id,
            subtopic: payload.subtopic,
            event_id: payload.event_id,
            received_at: self.received_at,
            payload: payload.bytes,
        };
        decode::decode(payload.format, &message, births, bounds)
    }

    /// Makes the letter that stands for a payload which nobody can read.
    pub(crate) fn dead_letter(&self, why: &Undecodable, mqtt_topic: String, bytes: Vec<u8>) -> Record {
        let letter = DeadLetter {
            codec: Some(self.device.codec.clone()),
            mqtt_topic: Some(mqtt_topic),
            received_at: Some(self.received_at),
            ..DeadLetter::new(why.reason(), why.to_string())
        };
        Record::DeadLetter(Box::new(letter), bytes)
    }
}

impl Encoded {
    /// Encodes readings, all or none.
    ///
    /// # Errors
    /// One is larger than Kafka takes.
    pub(crate) fn of(readings: &[ReadingCreatedEvent]) -> Result<Self, Undecodable> {
        let records = readings.iter().map(encode).collect::<Result<_, _>>()?;
        Ok(Self { records, row_bytes: readings.iter().map(account::row_bytes).sum() })
    }
}

fn encode(reading: &ReadingCreatedEvent) -> Result<Record, Undecodable> {
    let mut event = Vec::with_capacity(EVENT_BYTES_USUAL);
    match serde_json::to_writer(&mut event, reading) {
        Ok(()) if event.len() <= EVENT_BYTES_MAX => Ok(Record::Reading(event)),
        // A reading is plain data under text keys, which always encodes; if not, its size is not the reason
        // to lose it.
        Ok(()) | Err(_) => Err(Undecodable::EventTooLarge),
    }
}

/// Returns the bytes in flight that a record counts for.
pub(crate) fn in_flight_bytes(record: &Record) -> usize {
    record.bytes() + RECORD_OVERHEAD_BYTES
}

/// Hands all records on and waits until every one of them is stored. `permit` holds their
/// [`in_flight_bytes`]; what it has beyond them is given back at once.
///
/// # Errors
/// [`NotStored`] (retry): some may be stored all the same.
pub(crate) async fn store_all(
    producer: &Producer,
    sensor_id: &str,
    records: VecDeque<Record>,
    mut permit: Option<Permit>,
) -> Result<(), NotStored> {
    let (in_flight, count) = (Arc::new(InFlight::default()), records.len());
    for record in records {
        let bytes = in_flight_bytes(&record);
        let own = permit.as_mut().and_then(|permit| permit.split(bytes)).ok_or(NotStored)?;
        let handle = in_flight.open(AckKind::Part, bytes, own);
        producer.produce(sensor_id, &record, handle).map_err(|not_taken| {
            if let NotTaken::Full(_) = not_taken {
                producer.metrics().read_pauses.with_label_values(&["queue"]).inc();
            }
            NotStored
        })?;
    }
    drop(permit);
    let (mut stored, mut failed) = (0, 0);
    // Every handle is completed: the producer gives up a record that it cannot deliver.
    poll_fn(|cx| {
        in_flight.watch(cx.waker());
        in_flight.take_completed(|completed| match completed.outcome {
            Outcome::Stored => stored += 1,
            Outcome::NotAuthorized | Outcome::Failed => failed += 1,
        });
        if stored + failed == count { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    if failed == 0 { Ok(()) } else { Err(NotStored) }
}
