//! Thresholds as rows of CSV and as a JSON array. Pure.

use crate::threshold::Threshold;
use chassis::http::{FieldError, Problem, read_array};
use serde_json::{Map, Value};

/// Most thresholds of one import: a transaction of seconds. A fleet is a few rules for its types and zones.
pub(super) const ROWS_MAX: usize = 5_000;

/// The columns, in the order in which an export has them.
const COLUMNS: [&str; 20] = [
    "thresholdId",
    "sensorId",
    "deviceType",
    "zoneId",
    "metric",
    "min",
    "max",
    "noDataSeconds",
    "hysteresis",
    "forSeconds",
    "keepFiringSeconds",
    "repeat",
    "alertAgeSecondsMax",
    "severity",
    "mode",
    "description",
    "version",
    "createdAt",
    "updatedAt",
    "updatedBy",
];
/// Columns of numbers; `repeat` is a number or a word.
const NUMBERS: [&str; 9] = [
    "min",
    "max",
    "noDataSeconds",
    "hysteresis",
    "forSeconds",
    "keepFiringSeconds",
    "repeat",
    "alertAgeSecondsMax",
    "version",
];

/// One threshold of an import, and where it stands: the line of a CSV, or the place in an array from 1 on.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) members: Map<String, Value>,
}

/// Names a field of a line.
pub(super) fn at_line(number: u64, field: &str) -> String {
    format!("line {number}: {field}")
}

/// Reads a JSON array of thresholds.
///
/// # Errors
/// 400 that names every line that is no threshold.
pub(super) fn of_json(bytes: &[u8]) -> Result<Vec<Line>, Problem> {
    let values = read_array(bytes)?;
    check_count(values.len())?;
    let (mut lines, mut errors) = (Vec::new(), Vec::new());
    for (number, value) in (1..).zip(values) {
        match value {
            Value::Object(members) => lines.push(Line { number, members }),
            _ => errors
                .push(FieldError { field: at_line(number, "body"), detail: "must be a JSON object".into() }),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(Problem::fields(errors)) }
}

/// Reads CSV with a header. An empty cell takes its field away, as `null` does; that of `mode` says nothing,
/// because every threshold has one. A column that is not there stays as it is.
///
/// # Errors
/// 400 that says where the CSV breaks.
pub(super) fn of_csv(bytes: &[u8]) -> Result<Vec<Line>, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = csv::Reader::from_reader(bytes);
    let broken = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        let detail = match error.kind() {
            csv::ErrorKind::Utf8 { .. } => "is not UTF-8",
            csv::ErrorKind::UnequalLengths { .. } => "has another number of cells than the header",
            _ => "is not CSV",
        };
        Problem::field(at_line(line, "body"), detail)
    };
    let header = reader.headers().map_err(broken)?.clone();
    let unknown = header.iter().filter(|name| !COLUMNS.contains(name));
    let twice =
        header.iter().enumerate().filter(|(at, name)| header.iter().take(*at).any(|one| one == *name));
    let unknown = unknown.map(|name| (name, "is unknown"));
    let errors: Vec<_> = unknown
        .chain(twice.map(|(_, name)| (name, "is given twice")))
        .map(|(name, detail)| FieldError { field: at_line(1, name), detail: detail.to_owned() })
        .collect();
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let (mut lines, mut counter) = (Vec::new(), LineCounter { bytes, at: 0, line: 1 });
    for record in reader.records() {
        let record = record.map_err(broken)?;
        let number = counter.line_of(record.position().map_or(0, csv::Position::byte));
        let cells = header.iter().zip(&record).filter(|(name, cell)| *name != "mode" || !cell.is_empty());
        let members = cells.map(|(name, cell)| (name.to_owned(), of_cell(name, cell))).collect();
        lines.push(Line { number, members });
        check_count(lines.len())?;
    }
    Ok(lines)
}

/// Counts lines as an editor does. The reader of CSV counts a line end of two characters with the line after
/// it.
struct LineCounter<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// Returns the line in which the first character at or after a byte stands that is no line end.
    fn line_of(&mut self, byte: u64) -> u64 {
        let start = usize::try_from(byte).unwrap_or(usize::MAX).min(self.bytes.len());
        let ends = self.bytes[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        for byte in &self.bytes[self.at.min(start + ends)..start + ends] {
            self.line += u64::from(*byte == b'\n');
        }
        self.at = start + ends;
        self.line
    }
}

fn check_count(count: usize) -> Result<(), Problem> {
    if count <= ROWS_MAX {
        return Ok(());
    }
    Err(Problem::field("body", format!("has over {ROWS_MAX} thresholds: send them in parts")))
}

fn of_cell(name: &str, cell: &str) -> Value {
    if cell.is_empty() {
        return Value::Null;
    }
    let number = || match cell.parse::<i64>() {
        Ok(whole) => Some(Value::from(whole)),
        Err(_) => cell.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
    };
    let number = NUMBERS.contains(&name).then(number).flatten();
    number.unwrap_or_else(|| Value::String(cell.to_owned()))
}

/// Writes the header of an export.
pub(super) fn header() -> Vec<u8> {
    let mut line = COLUMNS.join(",");
    line.push_str("\r\n");
    line.into_bytes()
}

/// Writes thresholds as lines of CSV that [`of_csv`] reads.
///
/// # Errors
/// None of ours: memory takes what is written.
pub(super) fn to_csv(thresholds: &[Threshold]) -> Result<Vec<u8>, Problem> {
    let internal = |error: &dyn std::fmt::Display| Problem::internal(error);
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for threshold in thresholds {
        let json = serde_json::to_value(threshold).map_err(|error| internal(&error))?;
        let cells = COLUMNS.map(|name| match &json[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        writer.write_record(&cells).map_err(|error| internal(&error))?;
    }
    writer.into_inner().map_err(|error| internal(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(problem: Problem) -> Vec<String> {
        problem.errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn csv_has_numbers_words_and_nothing() {
        let text = "metric,max,repeat,mode,description,zoneId\r\nt,30.5,60,,\"a, \"\"b\"\"\nc\",\r\nu,,never,off,,z\r\n";
        let lines = of_csv(text.as_bytes()).unwrap();
        let members: Vec<_> = lines.iter().map(|line| Value::Object(line.members.clone())).collect();
        let first =
            json!({"metric": "t", "max": 30.5, "repeat": 60, "description": "a, \"b\"\nc", "zoneId": null});
        let second = json!({"metric": "u", "max": null, "repeat": "never", "mode": "off", "description": null, "zoneId": "z"});
        assert_eq!(members, [first, second]);
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 4]);
    }

    #[test]
    fn what_is_no_csv_is_refused_by_line() {
        for (text, field) in [
            ("metric,colour\nt,red\n", "line 1: colour"),
            ("metric,metric\nt,t\n", "line 1: metric"),
            ("metric,max\nt,1\nu\n", "line 3: body"),
        ] {
            assert_eq!(fields(of_csv(text.as_bytes()).unwrap_err()), [field], "{text}");
        }
        assert_eq!(fields(of_csv(b"metric\n\xff\n").unwrap_err()), ["line 2: body"]);
        assert_eq!(of_csv(b"").unwrap(), []);
    }

    #[test]
    fn rows_are_bounded() {
        let csv = format!("metric\n{}", "t\n".repeat(ROWS_MAX + 1));
        assert_eq!(fields(of_csv(csv.as_bytes()).unwrap_err()), ["body"]);
        let json = format!("[{}{{}}]", "{},".repeat(ROWS_MAX));
        assert_eq!(fields(of_json(json.as_bytes()).unwrap_err()), ["body"]);
        assert_eq!(fields(of_json(b"[1,{},[]]").unwrap_err()), ["line 1: body", "line 3: body"]);
    }
}
