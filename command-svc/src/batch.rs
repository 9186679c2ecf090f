//! Records gathered into batches. No clock, no I/O.

use crate::interner::Interner;
use crate::parcel::Parcel;
use rdkafka::message::{Message as _, OwnedMessage};
use schema::{
    ReadingView, Timestamp, Unstorable, check_attributes, check_metric, check_sensor_id, check_value,
};
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
    /// Most bytes of Kafka values and of attributes, which every row of a reading has; the last parcel may
    /// pass it.
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
    /// What no database would take. The gateway refuses it; an older one, or another producer, may not.
    #[error(transparent)]
    Unstorable(#[from] Unstorable),
    /// A text in which no database takes this character.
    #[error("{name} holds the character U+0000")]
    Nul {
        /// Which text.
        name: &'static str,
    },
}

impl Undecodable {
    fn reason(&self) -> Reason {
        match self {
            Self::Empty | Self::NotAReading { .. } | Self::Name(_) | Self::NoValues => Reason::NotAReading,
            Self::Unstorable(_) | Self::Nul { .. } => Reason::Unstorable,
        }
    }
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
    /// As JSON, once for all its rows.
    pub(crate) attributes: Option<Box<str>>,
    pub(crate) reading_at: Timestamp,
    pub(crate) received_at: Timestamp,
    parcel: usize,
    record: usize,
}

/// Says why a record is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing that decodes to a reading.
    NotAReading,
    /// Nothing that decodes to an alert.
    NotAnAlert,
    /// A reading with a value or a text that no database takes.
    Unstorable,
    /// A reading of a day that retention has dropped or is about to drop.
    PastRetention,
    /// A reading that the database refuses on its own.
    DatabaseRefused,
}

impl Reason {
    /// Returns the name in the dead letter's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotAReading => "not-a-reading",
            Self::NotAnAlert => "not-an-alert",
            Self::Unstorable => "unstorable",
            Self::PastRetention => "past-retention",
            Self::DatabaseRefused => "database-refused",
        }
    }
}

/// Holds a record that is no reading, and why.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The record as Kafka had it.
    pub record: OwnedMessage,
    /// The short name for the dead letter.
    pub reason: Reason,
    /// The same in one clause.
    pub detail: String,
    /// The version of the assignment under which it came.
    pub(crate) version: u64,
}

/// Says how far a partition has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// The offset of the first record that is not done.
    pub offset: i64,
    /// The version of the assignment under which the first record of the batch came.
    pub(crate) first_version: u64,
    /// The version under which the last one came.
    pub(crate) version: u64,
}

/// Gathers records and remembers how far each partition has come.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) sensors: Interner,
    pub(crate) metrics: Interner,
    /// Device types and zones.
    pub(crate) labels: Interner,
    /// Metric and value.
    pub(crate) values: Vec<(u32, f64)>,
    parcels: Vec<Parcel>,
    entries: Vec<Entry>,
    rejected: Vec<Rejected>,
    next_offsets: BTreeMap<i32, Next>,
    row_count: usize,
    byte_count: usize,
}

impl Batch {
    /// Decodes records and adds each, as a reading or as rejected.
    pub fn push(&mut self, parcel: Parcel) {
        for number in 0..parcel.record_count() {
            let (partition, offset) = parcel.place(number);
            let version = parcel.version();
            let first_version = self.next_offsets.get(&partition).map_or(version, |next| next.first_version);
            self.next_offsets.insert(partition, Next { offset: offset + 1, first_version, version });
            let value = parcel.value(number);
            self.byte_count += value.map_or(0, <[u8]>::len);
            match decode(value).and_then(|reading| self.entry(reading, number)) {
                Ok(entry) => {
                    self.row_count += entry.values.len();
                    self.byte_count +=
                        entry.attributes.as_ref().map_or(0, |text| text.len()) * entry.values.len();
                    self.entries.push(entry);
                }
                Err(error) => {
                    self.row_count += 1; // so that a flood of them fills a batch, too
                    let (record, reason, detail) = (parcel.record(number), error.reason(), error.to_string());
                    self.rejected.push(Rejected { record, reason, detail, version: parcel.version() });
                }
            }
        }
        self.parcels.push(parcel);
    }

    /// Makes an entry of a reading; what it leaves behind when it fails is never looked at.
    fn entry(&mut self, reading: ReadingView<'_>, record: usize) -> Result<Entry, Undecodable> {
        let first = self.values.len();
        for (metric, value) in &reading.values {
            let number = self.metrics.number(metric, check_metric)?;
            check_value(metric, *value)?;
            self.values.push((number, *value));
        }
        check_attributes(&reading.attributes)?;
        Ok(Entry {
            event_id: reading.event_id,
            sensor: self.sensors.number(&reading.sensor_id, check_sensor_id)?,
            device_type: self.labels.number(&reading.device_type, |text| check_text("deviceType", text))?,
            zone: self.labels.number(&reading.zone_id, |text| check_text("zoneId", text))?,
            values: first..self.values.len(),
            attributes: (!reading.attributes.is_empty())
                .then(|| serde_json::Value::Object(reading.attributes).to_string().into()),
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
    pub fn reject_before(&mut self, kept_from: Timestamp, detail: &str) {
        if self.entries.iter().all(|entry| entry.reading_at >= kept_from) {
            return; // almost always
        }
        let (kept, old): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| entry.reading_at >= kept_from);
        self.entries = kept;
        for entry in old {
            self.rejected.push(self.reject(&entry, Reason::PastRetention, detail.to_owned()));
        }
    }

    /// Forgets the records for which `keep`, given partition and version of the assignment, is false, and
    /// their offsets. A record that is kept under a version is kept under later ones.
    pub(crate) fn retain(&mut self, keep: impl Fn(i32, u64) -> bool) {
        if self.next_offsets.iter().all(|(partition, next)| keep(*partition, next.first_version)) {
            return; // almost always
        }
        let parcels = &self.parcels;
        self.entries.retain(|entry| {
            let parcel = &parcels[entry.parcel];
            keep(parcel.place(entry.record).0, parcel.version())
        });
        self.rejected.retain(|rejected| keep(rejected.record.partition(), rejected.version));
        self.next_offsets.retain(|partition, next| keep(*partition, next.version));
    }

    /// Says that a reading is a dead letter.
    fn reject(&self, entry: &Entry, reason: Reason, detail: String) -> Rejected {
        let parcel = &self.parcels[entry.parcel];
        Rejected { record: parcel.record(entry.record), reason, detail, version: parcel.version() }
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
    pub fn next_offsets(&self) -> &BTreeMap<i32, Next> {
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

    /// Says that the first is a dead letter.
    pub(crate) fn reject_first(self, reason: Reason, detail: String) -> Option<Rejected> {
        self.entries.first().map(|entry| self.batch.reject(entry, reason, detail))
    }
}

fn check_text(name: &'static str, text: &str) -> Result<(), Undecodable> {
    if text.contains('\0') { Err(Undecodable::Nul { name }) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::columns::Columns;
    use proptest::prelude::*;
    use schema::ReadingCreatedEvent;

    pub(crate) fn parcel_of(sensor_id: &str, partition: i32, offset: i64, values: &[(&str, f64)]) -> Parcel {
        let at = Timestamp::parse("2026-03-01T23:59:59.999999Z").unwrap();
        let reading = ReadingCreatedEvent {
            event_id: Uuid::from_u128(u128::try_from(offset).unwrap()),
            sensor_id: sensor_id.into(),
            device_type: "T".into(),
            zone_id: "z".into(),
            values: values.iter().map(|(metric, value)| ((*metric).into(), *value)).collect(),
            attributes: serde_json::Map::new(),
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
        assert_eq!(batch.rejected()[0].reason, Reason::PastRetention);
        assert_eq!(batch.rejected()[0].detail, "old");
        assert_eq!(batch.next_offsets()[&0].offset, 8);
    }

    fn parcel_with(version: u64, offset: i64, change: impl FnOnce(&mut ReadingCreatedEvent)) -> Parcel {
        let mut reading: ReadingCreatedEvent =
            decode(parcel(0, offset, &[("a", 1.0), ("b", 2.0)]).value(0)).unwrap().into();
        change(&mut reading);
        let (value, at) = (serde_json::to_vec(&reading).unwrap(), rdkafka::Timestamp::NotAvailable);
        let mut parcel = Parcel::new("t".into());
        let _ = parcel.take(version);
        parcel.push_owned(&OwnedMessage::new(Some(value), None, String::new(), at, 0, offset, None));
        parcel
    }

    #[test]
    fn what_no_database_takes_is_rejected_before_it_is_asked() {
        let mut batch = Batch::default();
        batch.push(parcel_with(0, 0, |reading| _ = reading.values.insert("m".into(), 1e300)));
        batch.push(parcel_with(0, 1, |reading| {
            reading.attributes.insert("x".into(), serde_json::json!({"deep": ["\0"]}));
        }));
        batch.push(parcel_with(0, 2, |reading| {
            reading.attributes.insert("x".into(), "y".repeat(schema::ATTRIBUTES_BYTES_MAX).into());
        }));
        batch.push(parcel_with(0, 3, |reading| reading.zone_id = "\0".into()));
        batch.push(parcel_with(0, 4, |_| ()));
        let details: Vec<_> = batch.rejected().iter().map(|rejected| rejected.detail.as_str()).collect();
        assert_eq!((details.len(), batch.readings().count()), (4, 1), "{details:?}");
        assert_eq!(details[3], "zoneId holds the character U+0000");
        assert!(batch.rejected().iter().all(|rejected| rejected.reason == Reason::Unstorable));
    }

    #[test]
    fn attributes_count_for_each_row_that_has_them() {
        let (mut without, mut with) = (Batch::default(), Batch::default());
        without.push(parcel_with(0, 0, |_| ()));
        with.push(parcel_with(0, 0, |reading| {
            reading.attributes.insert("x".into(), "y".repeat(1_000).into());
        }));
        assert!(with.byte_count > without.byte_count + 3_000, "once in Kafka and twice in rows");
        let columns = Columns::of(with.readings());
        assert!(
            std::ptr::eq(columns.attributes[0].unwrap(), columns.attributes[1].unwrap()),
            "no copy for each row"
        );
    }

    #[test]
    fn records_of_a_partition_that_left_are_forgotten_with_their_offsets() {
        let mut batch = Batch::default();
        batch.push(parcel_with(1, 0, |_| ()));
        batch.push(parcel_with(1, 1, |reading| reading.values.clear()));
        batch.push(parcel(1, 5, &[("m", 1.0)]));
        batch.retain(|_, _| true);
        assert_eq!((batch.readings().count(), batch.rejected().len()), (2, 1));
        batch.push(parcel_with(3, 0, |_| ())); // it came back under version 3, and so did its record
        batch.retain(|partition, version| partition == 1 || version >= 3);
        assert_eq!((batch.readings().count(), batch.rejected().len()), (2, 0));
        assert_eq!((batch.next_offsets()[&0].offset, batch.next_offsets()[&1].offset), (1, 6));
        batch.retain(|partition, _| partition == 1);
        assert_eq!((batch.readings().count(), batch.next_offsets().len()), (1, 1));
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
        let details: Vec<_> = batch.rejected().iter().map(|rejected| rejected.detail.as_str()).collect();
        assert!(
            details[0].starts_with("sensor id must match") && details[1].starts_with("metric must match")
        );
        assert_eq!(details[2..], ["reading has no value"]);
        assert!(batch.rejected().iter().all(|rejected| rejected.reason == Reason::NotAReading));
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
            let offsets: BTreeMap<_, _> =
                batch.next_offsets().iter().map(|(partition, next)| (*partition, next.offset)).collect();
            prop_assert_eq!(&offsets, &next);
            let total = usize::try_from(next.values().sum::<i64>()).unwrap();
            prop_assert_eq!(batch.readings().count() + batch.rejected().len(), total);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Some(&bytes));
        }
    }
}
