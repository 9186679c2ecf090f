//! Records gathered into batches, and batches into columns. Pure: no clock, no I/O.

use rdkafka::message::{Message, OwnedMessage};
use schema::{ReadingCreatedEvent, Timestamp, check_metric, check_sensor_id};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

/// Says when a batch is ready to be written, and how large it may grow while it waits for the one before.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows, one per metric value, that are worth a transaction.
    pub rows_ready: usize,
    /// Age of the oldest record at which fewer rows are written, too; it bounds the latency of a quiet topic.
    pub age_max: Duration,
    /// Most rows; the last record may pass it.
    pub rows_max: usize,
    /// Most bytes of Kafka values; the last record may pass it.
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

/// Holds one reading and the record that carried it, which a dead letter repeats.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The decoded reading.
    pub reading: ReadingCreatedEvent,
    /// The record as Kafka had it.
    pub record: OwnedMessage,
}

/// Decodes one record.
///
/// # Errors
/// [`Undecodable`] (dead letter).
pub fn decode(value: Option<&[u8]>) -> Result<ReadingCreatedEvent, Undecodable> {
    let reading: ReadingCreatedEvent = serde_json::from_slice(value.ok_or(Undecodable::Empty)?)?;
    check_sensor_id(&reading.sensor_id)?;
    reading.values.keys().try_for_each(|metric| check_metric(metric))?;
    if reading.values.is_empty() { Err(Undecodable::NoValues) } else { Ok(reading) }
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
    entries: Vec<Entry>,
    rejected: Vec<Rejected>,
    next_offsets: BTreeMap<i32, i64>,
    row_count: usize,
    byte_count: usize,
}

impl Batch {
    /// Decodes a record and adds it, as a reading or as rejected.
    pub fn push(&mut self, record: OwnedMessage) {
        self.next_offsets.insert(record.partition(), record.offset() + 1);
        self.byte_count += record.payload().map_or(0, <[u8]>::len);
        match decode(record.payload()) {
            Ok(reading) => {
                self.row_count += reading.values.len();
                self.entries.push(Entry { reading, record });
            }
            Err(error) => {
                self.row_count += 1; // so that a flood of them fills a batch, too
                self.rejected.push(Rejected { record, reason: error.to_string() });
            }
        }
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
        if self.entries.iter().all(|entry| entry.reading.reading_at >= kept_from) {
            return; // almost always
        }
        let (kept, old) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|entry: &Entry| entry.reading.reading_at >= kept_from);
        self.entries = kept;
        let rejected = |entry: Entry| Rejected { record: entry.record, reason: reason.to_owned() };
        self.rejected.extend(old.into_iter().map(rejected));
    }

    /// Returns the readings, in the order in which they were pushed.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
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

/// Holds rows as the columns that one statement takes, one element per metric value.
#[derive(Debug, Default, PartialEq)]
pub struct Columns<'a> {
    pub(crate) sensor_id: Vec<&'a str>,
    pub(crate) metric: Vec<&'a str>,
    pub(crate) reading_at: Vec<OffsetDateTime>,
    pub(crate) value: Vec<f64>,
    pub(crate) event_id: Vec<Uuid>,
    pub(crate) received_at: Vec<OffsetDateTime>,
    pub(crate) device_type: Vec<&'a str>,
    pub(crate) zone_id: Vec<&'a str>,
    pub(crate) attributes: Vec<Option<&'a Map<String, Value>>>,
}

impl<'a> Columns<'a> {
    /// Lays the readings out in rows: those of a sensor's metric together, in the order in which they were pushed, and
    /// these series in the order of the table's key. An index takes neighbours together much faster than scattered rows.
    pub fn of(entries: &'a [Entry]) -> Self {
        let mut series: HashMap<(&str, &str), Vec<(&ReadingCreatedEvent, f64)>> = HashMap::new();
        for Entry { reading, .. } in entries {
            for (metric, value) in &reading.values {
                series.entry((&reading.sensor_id, metric)).or_default().push((reading, *value));
            }
        }
        let mut series: Vec<_> = series.into_iter().collect();
        series.sort_unstable_by_key(|(key, _)| *key);
        let mut columns = Self::default();
        for ((sensor_id, metric), rows) in series {
            for (reading, value) in rows {
                columns.sensor_id.push(sensor_id);
                columns.metric.push(metric);
                columns.reading_at.push(reading.reading_at.into());
                columns.value.push(value);
                columns.event_id.push(reading.event_id);
                columns.received_at.push(reading.received_at.into());
                columns.device_type.push(&reading.device_type);
                columns.zone_id.push(&reading.zone_id);
                columns.attributes.push((!reading.attributes.is_empty()).then_some(&reading.attributes));
            }
        }
        columns
    }

    /// Returns the columns of some rows, in the given order.
    pub fn only(&self, rows: &[usize]) -> Self {
        fn pick<T: Copy>(column: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|row| column[*row]).collect()
        }
        Self {
            sensor_id: pick(&self.sensor_id, rows),
            metric: pick(&self.metric, rows),
            reading_at: pick(&self.reading_at, rows),
            value: pick(&self.value, rows),
            event_id: pick(&self.event_id, rows),
            received_at: pick(&self.received_at, rows),
            device_type: pick(&self.device_type, rows),
            zone_id: pick(&self.zone_id, rows),
            attributes: pick(&self.attributes, rows),
        }
    }

    /// Returns what makes a row unique.
    pub(crate) fn key(&self, row: usize) -> (&'a str, &'a str, OffsetDateTime, Uuid) {
        (self.sensor_id[row], self.metric[row], self.reading_at[row], self.event_id[row])
    }

    /// Returns the number of rows.
    pub fn row_count(&self) -> usize {
        self.value.len()
    }

    /// Returns the UTC days that the rows fall on.
    pub fn days(&self) -> BTreeSet<Date> {
        self.reading_at.iter().map(|at| at.date()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rdkafka::Timestamp as KafkaTimestamp;

    fn entry(partition: i32, offset: i64, values: &[(&str, f64)]) -> Entry {
        let at = schema::Timestamp::parse("2026-03-01T23:59:59.999999Z").unwrap();
        let reading = ReadingCreatedEvent {
            event_id: Uuid::from_u128(u128::try_from(offset).unwrap()),
            sensor_id: "s".into(),
            device_type: "T".into(),
            zone_id: "z".into(),
            values: values.iter().map(|(metric, value)| ((*metric).into(), *value)).collect(),
            attributes: serde_json::Map::new(),
            reading_at: at,
            received_at: at,
        };
        let value = serde_json::to_vec(&reading).unwrap();
        let record = OwnedMessage::new(
            Some(value),
            None,
            "iot-reading-topic".into(),
            KafkaTimestamp::NotAvailable,
            partition,
            offset,
            None,
        );
        Entry { reading, record }
    }

    #[test]
    fn a_reading_becomes_one_row_per_metric() {
        let entries = [entry(0, 1, &[("humidity", 40.0), ("temperature", 21.5)]), entry(0, 2, &[("x", 1.0)])];
        let columns = Columns::of(&entries);
        assert_eq!(columns.row_count(), 3);
        assert_eq!(columns.metric, ["humidity", "temperature", "x"]);
        assert_eq!(columns.event_id[0], columns.event_id[1]);
        assert_eq!(columns.days().len(), 1);
    }

    #[test]
    fn rows_of_a_series_lie_together_and_keep_their_order() {
        let mut entries: Vec<_> = (0..6).map(|offset| entry(0, offset, &[("b", 2.0), ("a", 1.0)])).collect();
        for entry in entries.iter_mut().step_by(2) {
            entry.reading.sensor_id = "r".into();
        }
        let columns = Columns::of(&entries);
        assert_eq!(columns.sensor_id, ["r", "r", "r", "r", "r", "r", "s", "s", "s", "s", "s", "s"]);
        assert_eq!(columns.metric, ["a", "a", "a", "b", "b", "b", "a", "a", "a", "b", "b", "b"]);
        let offsets: Vec<_> = columns.event_id.iter().map(Uuid::as_u128).collect();
        assert_eq!(offsets, [0, 2, 4, 0, 2, 4, 1, 3, 5, 1, 3, 5]);
    }

    #[test]
    fn readings_past_retention_are_rejected_and_their_offsets_count() {
        let mut batch = Batch::default();
        batch.push(entry(0, 7, &[("m", 1.0)]).record);
        let at = Timestamp::parse("2026-03-01T23:59:59.999999Z").unwrap();
        batch.reject_before(at, "old");
        assert_eq!(
            (batch.entries().len(), batch.rejected().len()),
            (1, 0),
            "an instant is not before itself"
        );
        batch.reject_before(Timestamp::parse("2026-03-02T00:00:00Z").unwrap(), "old");
        assert_eq!((batch.entries().len(), batch.rejected().len()), (0, 1));
        assert_eq!(batch.rejected()[0].reason, "old");
        assert_eq!(batch.next_offsets()[&0], 8);
    }

    #[test]
    fn what_is_no_reading_is_told_apart() {
        for bytes in [None, Some(&b""[..]), Some(b"{}"), Some(b"\xff"), Some(b"[1]")] {
            assert!(decode(bytes).is_err());
        }
        let mut good = entry(0, 0, &[("temperature", 1.0)]).reading;
        assert!(decode(Some(&serde_json::to_vec(&good).unwrap())).is_ok());
        good.sensor_id = "a/b".into();
        assert!(matches!(decode(Some(&serde_json::to_vec(&good).unwrap())), Err(Undecodable::Name(_))));
        good.sensor_id = "a".into();
        good.values.clear();
        assert!(matches!(decode(Some(&serde_json::to_vec(&good).unwrap())), Err(Undecodable::NoValues)));
    }

    proptest! {
        #[test]
        fn any_interleaving_commits_the_end_of_each_partition(partitions in prop::collection::vec(0..4_i32, 1..100)) {
            let mut batch = Batch::default();
            let mut next = BTreeMap::new();
            for partition in partitions {
                let offset = next.entry(partition).or_insert(0_i64);
                let values: &[_] = if *offset % 3 == 0 { &[] } else { &[("m", 0.0)] };
                batch.push(entry(partition, *offset, values).record);
                *offset += 1;
            }
            prop_assert_eq!(batch.next_offsets(), &next);
            let total = usize::try_from(next.values().sum::<i64>()).unwrap();
            prop_assert_eq!(batch.entries().len() + batch.rejected().len(), total);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Some(&bytes));
        }
    }
}
