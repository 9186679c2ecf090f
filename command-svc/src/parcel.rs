//! Records in parcels: hundreds of them in one buffer, because a buffer for each costs more than decoding it.

use rdkafka::Timestamp;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Message, OwnedHeaders, OwnedMessage};
use std::ops::Range;
use std::sync::Arc;

/// Most records of a parcel: enough to make its own cost small, few enough to be handed over soon.
const RECORDS_MAX: usize = 256;
/// Bytes at which a parcel is full.
const BYTES_MAX: usize = 256 << 10;

/// Holds records of one topic as Kafka had them, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Parcel {
    topic: Arc<str>,
    /// The version of the assignment under which its records came.
    version: u64,
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

/// Says where a record is, and where its parts lie in the parcel's bytes.
#[derive(Clone, Debug)]
struct Slot {
    partition: i32,
    offset: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Option<OwnedHeaders>,
}

impl Parcel {
    /// Makes an empty one.
    pub fn new(topic: Arc<str>) -> Self {
        Self { topic, version: 0, bytes: Vec::new(), slots: Vec::new() }
    }

    /// Returns what it holds and leaves it empty, for records of a version of the assignment.
    #[must_use]
    pub fn take(&mut self, version: u64) -> Self {
        let empty = Self { version, ..Self::new(Arc::clone(&self.topic)) };
        std::mem::replace(self, empty)
    }

    /// Returns the version of the assignment under which its records came.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Copies a record that librdkafka holds.
    pub fn push(&mut self, record: &BorrowedMessage<'_>) {
        self.add(record, record.headers().map(BorrowedHeaders::detach));
    }

    /// Copies a record that somebody made.
    pub fn push_owned(&mut self, record: &OwnedMessage) {
        self.add(record, record.headers().cloned());
    }

    fn add(&mut self, record: &impl Message, headers: Option<OwnedHeaders>) {
        let key = record.key().map(|key| self.copy(key));
        let value = record.payload().map(|value| self.copy(value));
        self.slots.push(Slot { partition: record.partition(), offset: record.offset(), key, value, headers });
    }

    fn copy(&mut self, part: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(part);
        start..self.bytes.len()
    }

    /// Says whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Says whether it should be handed over now.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= RECORDS_MAX || self.bytes.len() >= BYTES_MAX
    }

    /// Returns the number of records.
    pub fn record_count(&self) -> usize {
        self.slots.len()
    }

    /// Returns the partition and offset of a record.
    pub(crate) fn place(&self, number: usize) -> (i32, i64) {
        (self.slots[number].partition, self.slots[number].offset)
    }

    /// Returns the value of a record; none for a tombstone.
    pub(crate) fn value(&self, number: usize) -> Option<&[u8]> {
        self.slots[number].value.clone().map(|range| &self.bytes[range])
    }

    /// Returns a copy of a record that stands for itself, as a dead letter needs it.
    pub(crate) fn record(&self, number: usize) -> OwnedMessage {
        let slot = &self.slots[number];
        let part = |range: &Option<Range<usize>>| range.clone().map(|range| self.bytes[range].to_vec());
        OwnedMessage::new(
            part(&slot.value),
            part(&slot.key),
            self.topic.to_string(),
            Timestamp::NotAvailable,
            slot.partition,
            slot.offset,
            slot.headers.clone(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rdkafka::message::{Header, Headers};

    type Part = Option<Vec<u8>>;

    fn part() -> impl Strategy<Value = Part> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20))
    }

    proptest! {
        #[test]
        fn any_record_comes_out_as_it_went_in(parts in prop::collection::vec((part(), part(), part()), 0..20)) {
            let mut parcel = Parcel::new("t".into());
            for (offset, (key, value, header)) in (0..).zip(&parts) {
                let headers = OwnedHeaders::new().insert(Header { key: "h", value: header.as_ref() });
                let (key, value) = (key.clone(), value.clone());
                let record =
                    OwnedMessage::new(value, key, "t".into(), Timestamp::NotAvailable, 3, offset, Some(headers));
                parcel.push_owned(&record);
            }
            let parcel = parcel.take(0);
            prop_assert_eq!(parcel.record_count(), parts.len());
            for (number, (key, value, header)) in parts.iter().enumerate() {
                let record = parcel.record(number);
                prop_assert_eq!((record.key(), record.payload()), (key.as_deref(), value.as_deref()));
                prop_assert_eq!(record.headers().unwrap().get(0).value, header.as_deref());
                prop_assert_eq!((record.topic(), record.partition()), ("t", 3));
                prop_assert_eq!(parcel.place(number), (3, record.offset()));
                prop_assert_eq!(parcel.value(number), value.as_deref());
            }
        }
    }
}
