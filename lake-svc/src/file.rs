//! Records of a cut → one Parquet file for each day. Pure: the same records give the same files.

use crate::buffer::Record;
use crate::cut::{Cut, Manifest, iso};
use bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};
use schema::{ReadingCreatedEvent, check_metric, check_sensor_id};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::{Date, OffsetDateTime};

/// Rows that are laid out at once, over all days; bounds the memory beside the records themselves.
const ROWS_PENDING_MAX: usize = 131_072;

/// The columns of `readings_ingestion`, and where Kafka had the record. Texts and not UUID or JSON types,
/// which some readers refuse; `attributes` is a JSON object.
const SCHEMA: &str = "message reading {
    required binary sensor_id (STRING);
    required binary metric (STRING);
    required int64 reading_at (TIMESTAMP(MICROS,true));
    required double value;
    required binary event_id (STRING);
    required int64 received_at (TIMESTAMP(MICROS,true));
    required binary device_type (STRING);
    required binary zone_id (STRING);
    optional binary attributes (STRING);
    required int32 kafka_partition;
    required int64 kafka_offset;
}";

/// What a cut has become.
#[derive(Debug)]
pub struct Files {
    /// To be written first.
    pub manifest: Manifest,
    /// The files, by path.
    pub files: Vec<(String, Bytes)>,
}

/// Lays out the records of a cut.
///
/// Shape: one row for each metric value, in row groups that are sorted by sensor, metric, time of reading and
/// offset. A record that is no reading is counted and left out.
///
/// # Errors
/// The Parquet library refuses its own settings (stop).
pub fn files_of(cut: Cut, records: &[Record]) -> Result<Files> {
    let layout = Layout::new()?;
    let mut days: BTreeMap<Date, Day> = BTreeMap::new();
    let (mut rows_pending, mut undecodable) = (0, 0);
    for record in records {
        let Some(reading) = decode(record.value.as_deref()) else {
            undecodable += 1;
            continue;
        };
        rows_pending += reading.values.len();
        let day = OffsetDateTime::from(reading.reading_at).date();
        days.entry(day).or_default().pending.push((record.offset, reading));
        if rows_pending >= ROWS_PENDING_MAX {
            days.values_mut().try_for_each(|day| day.write_pending(&layout, cut.partition))?;
            rows_pending = 0;
        }
    }
    let (mut files, mut rows) = (Vec::new(), BTreeMap::new());
    for (date, mut day) in days {
        day.write_pending(&layout, cut.partition)?;
        let Some(writer) = day.writer else { continue };
        rows.insert(iso(date), day.rows);
        files.push((cut.file_path(date), writer.into_inner()?.into()));
    }
    let records = records.len() as u64;
    Ok(Files { manifest: Manifest { first: cut.first, last: cut.last, records, undecodable, rows }, files })
}

/// Decodes as command-svc does: what it takes for a row is a row here, what is a dead letter there is none
/// here.
pub fn decode(value: Option<&[u8]>) -> Option<ReadingCreatedEvent> {
    let reading: ReadingCreatedEvent = serde_json::from_slice(value?).ok()?;
    check_sensor_id(&reading.sensor_id).ok()?;
    reading.values.keys().try_for_each(|metric| check_metric(metric)).ok()?;
    (!reading.values.is_empty()).then_some(reading)
}

struct Layout {
    schema: TypePtr,
    properties: WriterPropertiesPtr,
}

impl Layout {
    fn new() -> Result<Self> {
        // Positions in SCHEMA: sensor, metric, time of reading, offset.
        let sorted = [0, 1, 2, 10].map(|place| SortingColumn {
            column_idx: place,
            descending: false,
            nulls_first: false,
        });
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            // Every id is another one: a dictionary would be built and thrown away.
            .set_column_dictionary_enabled(ColumnPath::from("event_id"), false)
            .set_sorting_columns(Some(sorted.to_vec()))
            .build();
        Ok(Self { schema: Arc::new(parse_message_type(SCHEMA)?), properties: Arc::new(properties) })
    }
}

/// The file of one day while it grows.
#[derive(Default)]
struct Day {
    writer: Option<SerializedFileWriter<Vec<u8>>>,
    pending: Vec<(i64, ReadingCreatedEvent)>,
    rows: u64,
}

/// One row before it is taken apart into columns.
struct Row<'a> {
    reading: &'a ReadingCreatedEvent,
    metric: &'a str,
    value: f64,
    offset: i64,
}

impl Day {
    /// Writes what is pending as one row group.
    fn write_pending(&mut self, layout: &Layout, partition: i32) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut rows: Vec<Row<'_>> = pending
            .iter()
            .flat_map(|(offset, reading)| {
                reading.values.iter().map(|(metric, value)| Row {
                    reading,
                    metric,
                    value: *value,
                    offset: *offset,
                })
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by(|a, b| {
            let key = |row: &Row<'_>| (row.reading.reading_at, row.offset);
            a.reading
                .sensor_id
                .cmp(&b.reading.sensor_id)
                .then_with(|| a.metric.cmp(b.metric))
                .then_with(|| key(a).cmp(&key(b)))
        });
        self.rows += rows.len() as u64;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(SerializedFileWriter::new(
                Vec::new(),
                Arc::clone(&layout.schema),
                Arc::clone(&layout.properties),
            )?),
        };
        write_row_group(writer.next_row_group()?, &rows, partition)
    }
}

/// Writes the columns in the order of [`SCHEMA`].
fn write_row_group(
    mut group: SerializedRowGroupWriter<'_, Vec<u8>>,
    rows: &[Row<'_>],
    partition: i32,
) -> Result<()> {
    texts(&mut group, rows, |row| row.reading.sensor_id.as_str().into())?;
    texts(&mut group, rows, |row| row.metric.into())?;
    column::<Int64Type>(&mut group, rows, |row| row.reading.reading_at.as_micros())?;
    column::<DoubleType>(&mut group, rows, |row| row.value)?;
    texts(&mut group, rows, |row| row.reading.event_id.to_string().into_bytes().into())?;
    column::<Int64Type>(&mut group, rows, |row| row.reading.received_at.as_micros())?;
    texts(&mut group, rows, |row| row.reading.device_type.as_str().into())?;
    texts(&mut group, rows, |row| row.reading.zone_id.as_str().into())?;
    attributes(&mut group, rows)?;
    column::<Int32Type>(&mut group, rows, |_| partition)?;
    column::<Int64Type>(&mut group, rows, |row| row.offset)?;
    group.close().map(|_| ())
}

fn texts(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    rows: &[Row<'_>],
    of: impl Fn(&Row<'_>) -> ByteArray,
) -> Result<()> {
    column::<ByteArrayType>(group, rows, of)
}

fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    rows: &[Row<'_>],
    of: impl Fn(&Row<'_>) -> T::T,
) -> Result<()> {
    let values: Vec<T::T> = rows.iter().map(of).collect();
    write::<T>(group, &values, None)
}

/// Writes the one column that may be absent: its level is 1 where it is there.
fn attributes(group: &mut SerializedRowGroupWriter<'_, Vec<u8>>, rows: &[Row<'_>]) -> Result<()> {
    let of = |row: &&Row<'_>| !row.reading.attributes.is_empty();
    let levels: Vec<i16> = rows.iter().map(|row| i16::from(of(&row))).collect();
    let json =
        |row: &Row<'_>| ByteArray::from(serde_json::to_vec(&row.reading.attributes).unwrap_or_default());
    let values: Vec<ByteArray> = rows.iter().filter(of).map(json).collect();
    write::<ByteArrayType>(group, &values, Some(&levels))
}

fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<()> {
    let next = group.next_column()?;
    let mut column = next.ok_or_else(|| parquet::errors::ParquetError::General("no column left".into()))?;
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

#[cfg(test)]
mod tests;
