//! Records gathered into batches. Pure: no clock, no I/O.

use crate::names::Names;
use crate::parcel::Parcel;
use rdkafka::message::OwnedMessage;
use schema::{IdentityError, ReadingView, Timestamp, check_metric, check_sensor_id};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use uuid::Uuid;

/// Says when a batch is ready to be written, and how large it may grow while it waits for the one before.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows, one per metric value, that are worth a transaction.
    pub rows_ready: usize,
    /// Age of the oldest record at which fewer rows are written, too; it bounds the latency of a quiet topic.
    pub age_max: Duration,
    /// Most rows; the last parcel may pass it.
    pub rows_max: usize,
    /// Most bytes of Kafka values; the last parcel may pass it.
    pub bytes_max: usize,
}

/// Says why a record is no reading (dead letter).
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    /// A tombstone, or a record without a value.
    #[error("record has no value")]
    Empty,
    /// Not the JSON of a reading. It says where and not what, because logs must not quote a payload.
    #[error("record is not a ReadingCreatedEvent: {category:?} error at line {line}, column {column}")]
    NotAReading {
        /// What kind of error.
        category: serde_json::error::Category,
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// A name outside its alphabet or length.
    #[error(transparent)]
    Name(#[from] schema::IdentityError),
    /// A reading that says nothing.
    #[error("reading has no value")]
    NoValues,
}

impl From<serde_json::Error> for Undecodable {
    fn from(error: serde_json::Error) -> Self {
        Self::NotAReading { category: error.classify(), line: error.line(), column: error.column() }
    }
}

/// Decodes one record.
///
/// # Errors
/// [`Undecodable`] (dead letter); names are not looked at.
pub fn decode(value: Option<&[u8]>) -> Result<ReadingView<'_>, Undecodable> {
    let reading: ReadingView<'_> = serde_json::from_slice(value.ok_or(Undecodable::Empty)?)?;
    if reading.values.is_empty() { Err(Undecodable::NoValues) } else { Ok(reading) }
}

/// Holds one reading of a batch, which keeps its texts, and where the record is that carried it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(crate) event_id: Uuid,
    pub(crate) sensor: u32,
    pub(crate) device_type: u32,
    pub(crate) zone: u32,
    pub(crate) values: Range<usize>,
    /// Boxed, because most readings have none.
    pub(crate) attributes: Option<Box<Map<String, Value>>>,
    pub(crate) reading_at: Timestamp,
    pub(crate) received_at: Timestamp,
    parcel: usize,
    record: usize,
}

/// Holds a record that is no reading, and why.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The record as Kafka had it.
    pub record: OwnedMessage,
    /// One clause, for the dead letter.
    pub reason: String,
}

/// Gathers records and remembers how far each partition has come.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) sensors: Names,
    pub(crate) metrics: Names,
    /// Device types and zones.
    pub(crate) places: Names,
    /// Metric and value.
    pub(crate) values: Vec<(u32, f64)>,
    parcels: Vec<Parcel>,
    entries: Vec<Entry>,
    rejected: Vec<Rejected>,
    next_offsets: BTreeMap<i32, i64>,
    row_count: usize,
    byte_count: usize,
}

impl Batch {
    /// Decodes records and adds each, as a reading or as rejected.
    pub fn push(&mut self, parcel: Parcel) {
        for number in 0..parcel.record_count() {
            let (partition, offset) = parcel.place(number);
            self.next_offsets.insert(partition, offset + 1);
            let value = parcel.value(number);
            self.byte_count += value.map_or(0, <[u8]>::len);
            match decode(value).and_then(|reading| self.entry(reading, number)) {
                Ok(entry) => {
                    self.row_count += entry.values.len();
                    self.entries.push(entry);
                }
                Err(error) => {
                    self.row_count += 1; // so that a flood of them fills a batch, too
                    let (record, reason) = (parcel.record(number), error.to_string());
                    self.rejected.push(Rejected { record, reason });
                }
            }
        }
        self.parcels.push(parcel);
    }

    /// Makes an entry of a reading; what it leaves behind when it fails is never looked at.
    fn entry(&mut self, reading: ReadingView<'_>, record: usize) -> Result<Entry, Undecodable> {
        let unchecked = |_: &str| Ok::<_, IdentityError>(());
        let first = self.values.len();
        for (metric, value) in &reading.values {
            self.values.push((self.metrics.number(metric, check_metric)?, *value));
        }
        Ok(Entry {
            event_id: reading.event_id,
            sensor: self.sensors.number(&reading.sensor_id, check_sensor_id)?,
            device_type: self.places.number(&reading.device_type, unchecked)?,
            zone: self.places.number(&reading.zone_id, unchecked)?,
            values: first..self.values.len(),
            attributes: (!reading.attributes.is_empty()).then(|| Box::new(reading.attributes)),
            reading_at: reading.reading_at,
            received_at: reading.received_at,
            parcel: self.parcels.len(),
            record,
        })
    }

    /// Says whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.next_offsets.is_empty()
    }

    /// Says whether it has enough rows to be written.
    pub fn is_ready(&self, limits: &Limits) -> bool {
        self.row_count >= limits.rows_ready || self.is_full(limits)
    }

    /// Says whether it may not grow any more.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.row_count >= limits.rows_max || self.byte_count >= limits.bytes_max
    }

    /// Rejects the readings of before an instant; their offsets still count.
    pub fn reject_before(&mut self, kept_from: Timestamp, reason: &str) {
        if self.entries.iter().all(|entry| entry.reading_at >= kept_from) {
            return; // almost always
        }
        let (kept, old): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.reading_at >= kept_from);
        self.entries = kept;
        for entry in old {
            let (record, reason) = (self.record(&entry), reason.to_owned());
            self.rejected.push(Rejected { record, reason });
        }
    }

    /// Returns the record that carried a reading.
    pub(crate) fn record(&self, entry: &Entry) -> OwnedMessage {
        self.parcels[entry.parcel].record(entry.record)
    }

    /// Returns all its readings, in the order in which they were pushed.
    pub fn readings(&self) -> Readings<'_> {
        Readings { batch: self, entries: &self.entries }
    }

    /// Returns what is no reading.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Returns, per partition, the offset of the first record that is not in the batch.
    pub fn next_offsets(&self) -> &BTreeMap<i32, i64> {
        &self.next_offsets
    }
}

/// Some readings of a batch, neighbours in the order in which they were pushed.
#[derive(Clone, Copy, Debug)]
pub struct Readings<'a> {
    pub(crate) batch: &'a Batch,
    pub(crate) entries: &'a [Entry],
}

impl<'a> Readings<'a> {
    /// Returns how many they are.
    pub fn count(self) -> usize {
        self.entries.len()
    }

    /// Returns how many rows they make, one for each value.
    pub(crate) fn row_count(self) -> usize {
        self.entries.iter().map(|entry| entry.values.len()).sum()
    }

    /// Returns both halves.
    pub(crate) fn halves(self) -> (Self, Self) {
        let (first, second) = self.entries.split_at(self.entries.len() / 2);
        (Self { entries: first, ..self }, Self { entries: second, ..self })
    }

    /// Returns the record of the first.
    pub(crate) fn first_record(self) -> Option<OwnedMessage> {
        self.entries.first().map(|entry| self.batch.record(entry))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::columns::Columns;
    use proptest::prelude::*;
    use rdkafka::message::Message as _;
    use schema::ReadingCreatedEvent;

    pub(crate) fn parcel_of(sensor_id: &str, partition: i32, offset: i64, values: &[(&str, f64)]) -> Parcel {
        let at = Timestamp::parse("2026-03-01T23:59:59.999999Z").unwrap();
        let reading = ReadingCreatedEvent {
            event_id: Uuid::from_u128(u128::try_from(offset).unwrap()),
            sensor_id: sensor_id.into(),
            device_type: "T".into(),
            zone_id: "z".into(),
            values: values.iter().map(|(metric, value)| ((*metric).into(), *value)).collect(),
            attributes: Map::new(),
            reading_at: at,
            received_at: at,
        };
        let value = serde_json::to_vec(&reading).unwrap();
        let at = rdkafka::Timestamp::NotAvailable;
        let mut parcel = Parcel::new("iot-reading-topic".into());
        parcel.push_owned(&OwnedMessage::new(Some(value), None, String::new(), at, partition, offset, None));
        parcel
    }

    pub(crate) fn parcel(partition: i32, offset: i64, values: &[(&str, f64)]) -> Parcel {
        parcel_of("s", partition, offset, values)
    }

    #[test]
    fn readings_past_retention_are_rejected_and_their_offsets_count() {
        let mut batch = Batch::default();
        batch.push(parcel(0, 7, &[("m", 1.0)]));
        let at = Timestamp::parse("2026-03-01T23:59:59.999999Z").unwrap();
        batch.reject_before(at, "old");
        assert_eq!(
            (batch.readings().count(), batch.rejected().len()),
            (1, 0),
            "an instant is not before itself"
        );
        batch.reject_before(Timestamp::parse("2026-03-02T00:00:00Z").unwrap(), "old");
        assert_eq!((batch.readings().count(), batch.rejected().len()), (0, 1));
        assert_eq!(batch.rejected()[0].reason, "old");
        assert_eq!(batch.next_offsets()[&0], 8);
    }

    #[test]
    fn what_is_no_reading_is_told_apart() {
        for bytes in [None, Some(&b""[..]), Some(b"{}"), Some(b"\xff"), Some(b"[1]")] {
            assert!(decode(bytes).is_err());
        }
        let mut batch = Batch::default();
        batch.push(parcel(0, 0, &[("temperature", 1.0)]));
        batch.push(parcel_of("a/b", 0, 1, &[("temperature", 1.0)]));
        batch.push(parcel(0, 2, &[("a/b", 1.0)]));
        batch.push(parcel(0, 3, &[]));
        batch.push(parcel(0, 4, &[("temperature", 2.0)]));
        let reasons: Vec<_> = batch.rejected().iter().map(|rejected| rejected.reason.as_str()).collect();
        assert!(
            reasons[0].starts_with("sensor id must match") && reasons[1].starts_with("metric must match")
        );
        assert_eq!(reasons[2..], ["reading has no value"]);
        let columns = Columns::of(batch.readings());
        assert_eq!(columns.value, [1.0, 2.0]);
        assert_eq!(batch.rejected()[0].record.offset(), 1);
    }

    proptest! {
        #[test]
        fn any_interleaving_commits_the_end_of_each_partition(partitions in prop::collection::vec(0..4_i32, 1..100)) {
            let mut batch = Batch::default();
            let mut next = BTreeMap::new();
            for partition in partitions {
                let offset = next.entry(partition).or_insert(0_i64);
                let values: &[_] = if *offset % 3 == 0 { &[] } else { &[("m", 0.0)] };
                batch.push(parcel(partition, *offset, values));
                *offset += 1;
            }
            prop_assert_eq!(batch.next_offsets(), &next);
            let total = usize::try_from(next.values().sum::<i64>()).unwrap();
            prop_assert_eq!(batch.readings().count() + batch.rejected().len(), total);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Some(&bytes));
        }
    }
}
