//! Rows of a CSV file as readings. Pure but for reading the file.

use anyhow::{Context as _, Result, bail, ensure};
use csv::{Reader, StringRecord};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// Forms of a timestamp without a zone, which is read as UTC.
const UNZONED: [&[BorrowedFormatItem<'_>]; 4] = [
    format_description!("[year]/[month]/[day] [hour]:[minute]"),
    format_description!("[year]/[month]/[day] [hour]:[minute]:[second]"),
    format_description!("[year]-[month]-[day] [hour]:[minute]"),
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
];
/// Separators of cells, the usual one first. Where two are in a header equally often, the first
/// one it is.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];
/// Smallest number that is a time since 1970, in seconds (1973): a smaller one is a year, or a mistake.
const EPOCH_MIN: f64 = 1e8;
/// Numbers below this are seconds, below a thousand times this milliseconds, and below a million times this
/// microseconds, as the gateway reads them.
const EPOCH_SECONDS_END: f64 = 1e11;
/// Cells that say that there is no value.
const ABSENT: [&str; 5] = ["", "NA", "N/A", "NaN", "null"];

/// How the columns of a file are read. Columns that it does not name are metrics.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Name of the column with the sensor's id.
    pub sensor: String,
    /// The one sensor of a file without that column.
    pub sensor_id: Option<String>,
    /// Name of the column with the time.
    pub timestamp: String,
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The sensor.
    pub sensor_id: String,
    /// When it was measured.
    pub reading_at: OffsetDateTime,
    /// Its metrics that have a value, in the file's order.
    pub values: Vec<(String, f64)>,
}

/// The rows of an open file.
pub struct Rows<R> {
    reader: Reader<BufReader<R>>,
    record: StringRecord,
    /// What stands between a number and its fraction beside the point: a comma where that does not separate
    /// cells.
    has_decimal_comma: bool,
    /// The meaning of each column.
    kinds: Vec<Kind>,
    sensor_id: Option<String>,
}

enum Kind {
    Sensor,
    Timestamp,
    Metric(String),
}

impl Rows<File> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, or its header does not fit `columns`.
    pub fn open(path: &Path, columns: &Columns) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Self::new(file, columns).with_context(|| format!("read the header of {}", path.display()))
    }
}

impl<R: Read> Rows<R> {
    /// Reads the header. Cells are separated by commas, semicolons or tabs, whichever is in it most often.
    ///
    /// # Errors
    /// It does not fit `columns`.
    pub fn new(source: R, columns: &Columns) -> Result<Self> {
        let mut source = BufReader::new(source);
        let delimiter = delimiter_of(source.fill_buf()?);
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::All).from_reader(source);
        let header = reader.headers()?.clone();
        let kinds = header.iter().map(|name| kind_of(name, columns)).collect::<Result<Vec<_>>>()?;
        let has = |wanted: fn(&Kind) -> bool| kinds.iter().filter(|kind| wanted(kind)).count();
        let timestamp = &columns.timestamp;
        ensure!(has(|kind| matches!(kind, Kind::Timestamp)) == 1, "there must be one column {timestamp:?}");
        ensure!(has(|kind| matches!(kind, Kind::Metric(_))) > 0, "there is no column with a metric");
        match (has(|kind| matches!(kind, Kind::Sensor)), &columns.sensor_id) {
            (1, None) => {}
            (0, Some(sensor_id)) => schema::check_sensor_id(sensor_id)?,
            (0, None) => bail!("there is no column {:?}; name the sensor instead", columns.sensor),
            _ => bail!("the sensor is named twice"),
        }
        let (record, sensor_id) = (StringRecord::new(), columns.sensor_id.clone());
        Ok(Self { reader, record, has_decimal_comma: delimiter != b',', kinds, sensor_id })
    }

    /// Reads the next row, if there is one.
    ///
    /// # Errors
    /// A cell is not what its column says; the message names the line.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        if !self.reader.read_record(&mut self.record)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        self.row().with_context(|| format!("line {line}")).map(Some)
    }

    fn row(&self) -> Result<Row> {
        let mut sensor_id = self.sensor_id.as_deref();
        let mut reading_at = None;
        let mut values = Vec::with_capacity(self.kinds.len());
        for (kind, cell) in self.kinds.iter().zip(&self.record) {
            match kind {
                Kind::Sensor => sensor_id = Some(cell),
                Kind::Timestamp => reading_at = Some(parse_timestamp(cell)?),
                Kind::Metric(_) if ABSENT.contains(&cell) => {}
                Kind::Metric(name) => values.push((name.clone(), self.parse_value(cell)?)),
            }
        }
        let sensor_id = sensor_id.context("no sensor")?.to_owned();
        schema::check_sensor_id(&sensor_id)?;
        Ok(Row { sensor_id, reading_at: reading_at.context("no timestamp")?, values })
    }

    fn parse_value(&self, cell: &str) -> Result<f64> {
        let number = match cell.split_once(',') {
            Some((whole, fraction)) if self.has_decimal_comma && !cell.contains('.') => {
                format!("{whole}.{fraction}").parse::<f64>()
            }
            _ => cell.parse::<f64>(),
        };
        number.ok().filter(|value| value.is_finite()).with_context(|| format!("{cell:?} is no number"))
    }
}

fn kind_of(name: &str, columns: &Columns) -> Result<Kind> {
    if name == columns.timestamp {
        return Ok(Kind::Timestamp);
    }
    if name == columns.sensor {
        return Ok(Kind::Sensor);
    }
    schema::check_metric(name).with_context(|| format!("column {name:?}"))?;
    Ok(Kind::Metric(name.to_owned()))
}

/// Finds what separates the cells of a header, which is the first line of `text` or all of it.
fn delimiter_of(text: &[u8]) -> u8 {
    let header = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| header.iter().filter(|&&byte| byte == delimiter).count();
    // Of equals `max_by_key` returns the last.
    DELIMITERS.into_iter().rev().max_by_key(|&delimiter| count(delimiter)).unwrap_or(b',')
}

/// Reads RFC 3339, `YYYY/MM/DD HH:MM` or `YYYY-MM-DD HH:MM`, the latter two also with seconds and as UTC, or
/// seconds, milliseconds or microseconds since 1970.
///
/// # Errors
/// It is none of them.
pub fn parse_timestamp(cell: &str) -> Result<OffsetDateTime> {
    if let Ok(zoned) = OffsetDateTime::parse(cell, &Rfc3339) {
        return Ok(zoned.to_offset(time::UtcOffset::UTC));
    }
    let unzoned = UNZONED.iter().find_map(|form| PrimitiveDateTime::parse(cell, form).ok());
    unzoned.map(PrimitiveDateTime::assume_utc).or_else(|| parse_epoch(cell)).with_context(|| {
        format!(
            "{cell:?} is no timestamp (RFC 3339, YYYY/MM/DD HH:MM, YYYY-MM-DD HH:MM[:SS], or a number of seconds, \
             milliseconds or microseconds since 1970)"
        )
    })
}

fn parse_epoch(cell: &str) -> Option<OffsetDateTime> {
    let number = cell.parse::<f64>().ok().filter(|number| *number >= EPOCH_MIN)?;
    let unit_micros =
        [1e6, 1e3, 1.0].into_iter().find(|unit_micros| number * unit_micros < EPOCH_SECONDS_END * 1e6)?;
    #[expect(clippy::cast_possible_truncation, reason = "it is below 1e17")]
    let micros = (number * unit_micros).round() as i128;
    OffsetDateTime::from_unix_timestamp_nanos(micros * 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(sensor_id: Option<&str>, timestamp: &str) -> Columns {
        let sensor_id = sensor_id.map(str::to_owned);
        Columns { sensor: "sensor".to_owned(), sensor_id, timestamp: timestamp.to_owned() }
    }

    fn rows(text: &str, columns: &Columns) -> Result<Vec<Row>> {
        let mut rows = Rows::new(text.as_bytes(), columns)?;
        std::iter::from_fn(|| rows.next_row().transpose()).collect()
    }

    #[test]
    fn every_other_column_is_a_metric_and_an_empty_cell_is_none() {
        let text = "sensor,timestamp,temp,rain\na,2010-01-01T01:00:00+01:00,39.4,\nb,2010-01-01 00:00:30,NA,\" 0.5\"\n";
        let read = rows(text, &columns(None, "timestamp")).unwrap();
        let midnight = OffsetDateTime::from_unix_timestamp(1_262_304_000).unwrap();
        let expected = [
            Row { sensor_id: "a".into(), reading_at: midnight, values: vec![("temp".into(), 39.4)] },
            Row {
                sensor_id: "b".into(),
                reading_at: midnight + time::Duration::seconds(30),
                values: vec![("rain".into(), 0.5)],
            },
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn file_of_one_sensor_takes_its_name_from_outside() {
        let read = rows("date,temp\n2010/01/01 01:00,39.2\n", &columns(Some("seattle"), "date")).unwrap();
        assert_eq!(read[0].sensor_id, "seattle");
        assert_eq!(read[0].reading_at.unix_timestamp(), 1_262_307_600);
    }

    #[test]
    fn timestamp_is_read_in_every_form_and_refused_otherwise() {
        for (text, seconds) in [
            ("2010-01-01T00:00:00Z", 1_262_304_000),
            ("2010-01-01T02:00:00.5+02:00", 1_262_304_000),
            ("2010/01/01 00:00", 1_262_304_000),
            ("2010-01-01 00:00", 1_262_304_000),
            ("2010-01-01 00:00:01", 1_262_304_001),
            ("1262304000", 1_262_304_000),
            ("1262304000.75", 1_262_304_000),
            ("1262304000999", 1_262_304_000),
            ("1262304000999999", 1_262_304_000),
        ] {
            assert_eq!(parse_timestamp(text).unwrap().unix_timestamp(), seconds, "{text}");
        }
        for text in [
            "",
            "2010",
            "20100101",
            "1e18",
            "2010-13-01 00:00",
            "2010-02-30 00:00",
            "01/02/2010 00:00",
            "2010-01-01 24:00",
        ] {
            assert!(parse_timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn semicolons_and_tabs_separate_cells_and_leave_the_comma_to_fractions() {
        for text in [
            "date;temp;rain\n2010-01-01 00:00;19,5;1.25\n",
            "date\ttemp\train\n2010-01-01 00:00\t19,5\t1.25\n",
        ] {
            let read = rows(text, &columns(Some("a"), "date")).unwrap();
            assert_eq!(read[0].values, [("temp".to_owned(), 19.5), ("rain".to_owned(), 1.25)], "{text}");
        }
        for cell in ["1.234,5", "1,2,3", ",", "19,5\"x"] {
            let text = format!("date;temp\n2010-01-01 00:00;{cell}\n");
            assert!(rows(&text, &columns(Some("a"), "date")).is_err(), "{text}");
        }
    }

    #[test]
    fn bad_cell_is_reported_with_its_line() {
        let error =
            rows("date,temp\n2010-01-01 00:00,1\n2010-01-01 01:00,warm\n", &columns(Some("a"), "date"));
        assert_eq!(format!("{:#}", error.unwrap_err()), "line 3: \"warm\" is no number");
        for text in ["date,temp °C\n", "temp\n", "date\n", "date,sensor,temp\n", "date,date,temp\n"] {
            assert!(rows(text, &columns(Some("a"), "date")).is_err(), "{text}");
        }
        assert!(rows("date,temp\n", &columns(None, "date")).is_err());
    }
}
