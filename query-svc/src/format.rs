//! Rows as JSON, NDJSON or CSV. Pure.

use bytes::Bytes;
use jiff::tz::TimeZone;
use schema::Timestamp;
use uuid::Uuid;

/// Names a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A page: an object with `resources`, `count` and, when there is another page, `next`.
    Json,
    /// An object in each line.
    Ndjson,
    /// A header and a line for each row. Source: RFC 4180.
    Csv,
}

/// Media types of the formats, the preferred one first.
pub(crate) const MEDIA_TYPES: [&str; 3] = ["application/json", "text/csv", "application/x-ndjson"];

impl Format {
    /// Returns the format of a media type of [`MEDIA_TYPES`].
    pub(crate) fn of(media_type: &str) -> Self {
        match media_type {
            "text/csv" => Self::Csv,
            "application/x-ndjson" => Self::Ndjson,
            _ => Self::Json,
        }
    }

    /// Returns the value of `Content-Type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => MEDIA_TYPES[0],
            Self::Csv => "text/csv; charset=utf-8",
            Self::Ndjson => MEDIA_TYPES[2],
        }
    }
}

/// A value in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Text(&'a str),
    Number(f64),
    Count(i64),
    Instant(Timestamp),
    /// An instant as the clock of the answer's zone shows it.
    Local(Timestamp),
    Id(Uuid),
    /// JSON as PostgreSQL writes it.
    Json(&'a str),
}

/// Writes rows into memory, out of which the caller takes them.
pub(crate) struct Writer {
    format: Format,
    columns: Vec<&'static str>,
    zone: TimeZone,
    out: Vec<u8>,
    rows: usize,
}

impl Writer {
    /// Begins an answer.
    pub(crate) fn new(format: Format, columns: Vec<&'static str>, zone: TimeZone) -> Self {
        let mut writer = Self { format, columns, zone, out: Vec::new(), rows: 0 };
        match format {
            Format::Json => writer.out.extend_from_slice(b"{\"resources\":["),
            Format::Csv => {
                writer.out.extend_from_slice(writer.columns.join(",").as_bytes());
                writer.out.extend_from_slice(b"\r\n");
            }
            Format::Ndjson => {}
        }
        writer
    }

    /// Returns the value of `Content-Type`.
    pub(crate) const fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    /// Adds a row: a cell for each column.
    pub(crate) fn row<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) {
        match self.format {
            Format::Csv => self.csv(cells),
            Format::Json | Format::Ndjson => self.object(cells),
        }
        self.rows += 1;
    }

    fn object<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) {
        if self.format == Format::Json && self.rows > 0 {
            self.out.push(b',');
        }
        let mut joint = b'{';
        for (name, cell) in self.columns.iter().zip(cells) {
            self.out.push(joint);
            joint = b',';
            self.out.push(b'"');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
            write_json(&mut self.out, cell, &self.zone);
        }
        self.out.push(b'}');
        if self.format == Format::Ndjson {
            self.out.push(b'\n');
        }
    }

    fn csv<'a>(&mut self, cells: impl IntoIterator<Item = Cell<'a>>) {
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            match cell {
                Cell::Null => {}
                Cell::Text(text) | Cell::Json(text) => write_quoted(&mut self.out, text),
                Cell::Instant(instant) => self.out.extend_from_slice(instant.to_string().as_bytes()),
                Cell::Local(instant) => self.out.extend_from_slice(local(instant, &self.zone).as_bytes()),
                Cell::Id(id) => self.out.extend_from_slice(id.to_string().as_bytes()),
                Cell::Number(_) | Cell::Count(_) => write_json(&mut self.out, cell, &self.zone),
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// Returns how many rows were added.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns how many bytes wait to be taken.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Takes what was written since the last time.
    pub(crate) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.out).into()
    }

    /// Ends the answer, with the cursor of the next page when there is one, and returns the rest of it.
    pub(crate) fn end(mut self, next: Option<&str>) -> Bytes {
        if self.format == Format::Json {
            self.out.extend_from_slice(format!("],\"count\":{}", self.rows).as_bytes());
            if let Some(next) = next {
                self.out.extend_from_slice(b",\"next\":");
                write_json(&mut self.out, Cell::Text(next), &self.zone);
            }
            self.out.push(b'}');
        }
        self.out.into()
    }
}

fn write_json(out: &mut Vec<u8>, cell: Cell<'_>, zone: &TimeZone) {
    let written = match cell {
        Cell::Null => {
            out.extend_from_slice(b"null");
            Ok(())
        }
        Cell::Json(text) => {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        }
        Cell::Text(text) => serde_json::to_writer(out, text),
        Cell::Number(number) => serde_json::to_writer(out, &number),
        Cell::Count(count) => serde_json::to_writer(out, &count),
        Cell::Instant(instant) => serde_json::to_writer(out, &instant),
        Cell::Local(instant) => serde_json::to_writer(out, &local(instant, zone)),
        Cell::Id(id) => serde_json::to_writer(out, &id),
    };
    written.expect("memory takes texts and numbers");
}

/// Writes a field of CSV, in quotes where it needs them.
fn write_quoted(out: &mut Vec<u8>, text: &str) {
    if !text.contains([',', '"', '\r', '\n']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// Writes an instant with the offset that its zone has then; in UTC as every instant of ours.
fn local(instant: Timestamp, zone: &TimeZone) -> String {
    let Ok(at) = jiff::Timestamp::from_microsecond(instant.as_micros()) else { return instant.to_string() };
    if *zone == TimeZone::UTC {
        return instant.to_string();
    }
    let offset = zone.to_offset(at);
    let (sign, minutes) = (if offset.seconds() < 0 { '-' } else { '+' }, offset.seconds().abs() / 60);
    format!("{:.6}{sign}{:02}:{:02}", zone.to_datetime(at), minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, next: Option<&str>) -> String {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut writer = Writer::new(format, vec!["a", "b", "c", "d", "e"], zone);
        let at = Timestamp::parse("2026-03-29T00:30:00Z").unwrap();
        let later = Timestamp::parse("2026-03-29T01:00:00.000001Z").unwrap();
        writer.row([
            Cell::Text("x"),
            Cell::Number(2.0),
            Cell::Count(3),
            Cell::Local(at),
            Cell::Json(r#"{"k": [1]}"#),
        ]);
        let first = writer.take();
        writer.row([
            Cell::Text("a\"b,\n"),
            Cell::Null,
            Cell::Id(Uuid::nil()),
            Cell::Local(later),
            Cell::Instant(at),
        ]);
        assert_eq!((writer.rows(), writer.waiting() > 0), (2, true));
        String::from_utf8([first, writer.end(next)].concat()).unwrap()
    }

    #[test]
    fn rows_are_the_same_in_every_format() {
        let first = r#"{"a":"x","b":2.0,"c":3,"d":"2026-03-29T01:30:00.000000+01:00","e":{"k": [1]}}"#;
        let second = concat!(
            r#"{"a":"a\"b,\n","b":null,"c":"00000000-0000-0000-0000-000000000000","#,
            r#""d":"2026-03-29T03:00:00.000001+02:00","e":"2026-03-29T00:30:00.000000Z"}"#
        );
        let page = format!(r#"{{"resources":[{first},{second}],"count":2}}"#);
        assert_eq!(written(Format::Json, None), page);
        assert_eq!(written(Format::Json, Some("q")), page.replace("2}", r#"2,"next":"q"}"#));
        assert_eq!(written(Format::Ndjson, Some("q")), format!("{first}\n{second}\n"));
        let csv = concat!(
            "a,b,c,d,e\r\n",
            "x,2.0,3,2026-03-29T01:30:00.000000+01:00,\"{\"\"k\"\": [1]}\"\r\n",
            "\"a\"\"b,\n\",,00000000-0000-0000-0000-000000000000,2026-03-29T03:00:00.000001+02:00,",
            "2026-03-29T00:30:00.000000Z\r\n",
        );
        assert_eq!(written(Format::Csv, None), csv);
    }

    #[test]
    fn an_answer_without_rows_is_one() {
        let empty = |format| Writer::new(format, vec!["a"], TimeZone::UTC).end(None);
        assert_eq!(empty(Format::Json), r#"{"resources":[],"count":0}"#);
        assert_eq!((empty(Format::Csv), empty(Format::Ndjson)), (Bytes::from("a\r\n"), Bytes::new()));
    }
}
