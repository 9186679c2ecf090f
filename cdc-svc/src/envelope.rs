//! Makes Kafka records of row changes: the Debezium key and envelope. Pure.

use crate::pgoutput::{Cell, Relation, Tuple};
use crate::values::{self, ValueError};
use schema::topics::{self, Topic};
use schema::{Change, Op, Source};
use serde_json::{Map, Value};

/// Ties a captured table to its key column and its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its primary key. With replica identity FULL the stream marks every column as key, so it is named here.
    pub key: &'static str,
    /// Where its changes go.
    pub topic: Topic,
}

/// The tables of publication `fieldline_changes`.
pub const TABLES: [Table; 3] = [
    Table { name: "devices", key: "sensor_id", topic: topics::DEVICE_UPDATES },
    Table { name: "sensor_thresholds", key: "threshold_id", topic: topics::THRESHOLD_UPDATES },
    Table { name: "silences", key: "silence_id", topic: topics::SILENCE_UPDATES },
];

/// Holds a row as JSON, column by column.
pub type Row = Map<String, Value>;

/// Carries what happened to a row.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// A snapshot read it.
    Read(Row),
    /// It was inserted.
    Insert(Row),
    /// It was updated.
    Update {
        /// The row before, if the server sent it.
        before: Option<Row>,
        /// The row after.
        after: Row,
    },
    /// It was deleted.
    Delete(Row),
}

/// Says where a change comes from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// The database.
    pub db: &'a str,
    /// Its schema.
    pub schema: &'a str,
    /// The commit's position in the WAL, or the snapshot's.
    pub lsn: u64,
    /// Whether a snapshot read it.
    pub snapshot: bool,
    /// When it was captured, in milliseconds since the Unix epoch.
    pub ts_ms: i64,
}

/// A record to produce; no value means a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic, before any prefix.
    pub topic: &'static str,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

/// Says why a change cannot become a record (stop: skipping it would lose it).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// A row has more or fewer values than its table has columns.
    #[error("row of {0} has another number of columns than its relation")]
    Shape(String),
    /// A value cannot be read.
    #[error("column {column} cannot be read")]
    Value {
        /// Which column.
        column: String,
        /// Why.
        #[source]
        source: ValueError,
    },
    /// The server left out what only an old row could tell.
    #[error("table {0} does not send old rows; it needs REPLICA IDENTITY FULL")]
    NoOldRow(String),
    /// The table has no such key column.
    #[error("table {0} lacks its key column")]
    NoKey(&'static str),
}

/// Turns a tuple into a row. A value that an update left out is taken from the row before.
///
/// # Errors
/// [`EnvelopeError`].
pub fn row(relation: &Relation, tuple: Tuple, before: Option<&Row>) -> Result<Row, EnvelopeError> {
    if tuple.len() != relation.columns.len() {
        return Err(EnvelopeError::Shape(relation.table.clone()));
    }
    let mut row = Row::new();
    for (column, cell) in relation.columns.iter().zip(tuple) {
        let value = match cell {
            Cell::Null => Value::Null,
            Cell::Text(text) => values::json(column.type_oid, &text)
                .map_err(|source| EnvelopeError::Value { column: column.name.clone(), source })?,
            Cell::Unchanged => before
                .and_then(|before| before.get(&column.name))
                .cloned()
                .ok_or_else(|| EnvelopeError::NoOldRow(relation.table.clone()))?,
        };
        row.insert(column.name.clone(), value);
    }
    Ok(row)
}

/// Makes the records of one change, in the order in which they are to be produced.
///
/// Shape: a delete is followed by a tombstone; an update that changes the key is a delete, a tombstone and an
/// insert.
/// Source: Debezium documentation, PostgreSQL connector, "Data change events".
///
/// # Errors
/// [`EnvelopeError::NoKey`].
pub fn records(table: &Table, origin: &Origin<'_>, change: RowChange) -> Result<Vec<Record>, EnvelopeError> {
    match change {
        RowChange::Read(after) => Ok(vec![record(table, origin, Op::Read, None, Some(after))?]),
        RowChange::Insert(after) => Ok(vec![record(table, origin, Op::Create, None, Some(after))?]),
        RowChange::Delete(before) => {
            let deleted = record(table, origin, Op::Delete, Some(before), None)?;
            let tombstone = Record { value: None, ..deleted.clone() };
            Ok(vec![deleted, tombstone])
        }
        RowChange::Update { before: Some(before), after }
            if before.get(table.key) != after.get(table.key) =>
        {
            let mut moved = records(table, origin, RowChange::Delete(before))?;
            moved.extend(records(table, origin, RowChange::Insert(after))?);
            Ok(moved)
        }
        RowChange::Update { before, after } => {
            Ok(vec![record(table, origin, Op::Update, before, Some(after))?])
        }
    }
}

/// Makes the delete and the tombstone of a row of which only a record of the topic is left.
///
/// Shape: the key's bytes are taken over, so that compaction forgets exactly that record; `before` is what
/// the record last said, where that can be read.
pub fn forget(table: &Table, origin: &Origin<'_>, key: Vec<u8>, last_value: &[u8]) -> [Record; 2] {
    let before = serde_json::from_slice(last_value).ok().and_then(|mut value: Value| {
        let envelope = if value.get("payload").is_some() { value.get_mut("payload")? } else { &mut value };
        match envelope.get_mut("after")?.take() {
            Value::Object(row) => Some(row),
            _ => None,
        }
    });
    let value = encode(table, origin, Op::Delete, before, None);
    let topic = table.topic.name;
    [Record { topic, key: key.clone(), value: Some(value) }, Record { topic, key, value: None }]
}

/// Makes the Debezium key of a row.
///
/// # Errors
/// [`EnvelopeError::NoKey`].
pub fn key(table: &Table, row: &Row) -> Result<Vec<u8>, EnvelopeError> {
    let value = row.get(table.key).ok_or(EnvelopeError::NoKey(table.name))?;
    Ok(serde_json::json!({ table.key: value }).to_string().into_bytes())
}

fn record(
    table: &Table,
    origin: &Origin<'_>,
    op: Op,
    before: Option<Row>,
    after: Option<Row>,
) -> Result<Record, EnvelopeError> {
    let row = after.as_ref().or(before.as_ref()).ok_or(EnvelopeError::NoKey(table.name))?;
    let key = key(table, row)?;
    Ok(Record { topic: table.topic.name, key, value: Some(encode(table, origin, op, before, after)) })
}

fn encode(table: &Table, origin: &Origin<'_>, op: Op, before: Option<Row>, after: Option<Row>) -> Vec<u8> {
    let source = Source {
        // Debezium's name for it, so that a consumer cannot tell the two apart.
        connector: "postgresql".to_owned(),
        db: origin.db.to_owned(),
        schema: origin.schema.to_owned(),
        table: table.name.to_owned(),
        lsn: Some(origin.lsn),
        snapshot: Some(origin.snapshot.to_string()),
    };
    let change = Change { op, before, after, source, ts_ms: origin.ts_ms };
    serde_json::to_vec(&change).expect("maps with text keys always encode")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Column;
    use proptest::prelude::*;
    use schema::ThresholdRow;
    use serde_json::json;

    const ORIGIN: Origin<'static> = Origin {
        db: "fieldline",
        schema: "public",
        lsn: 24_023_128,
        snapshot: false,
        ts_ms: 1_767_323_045_120,
    };

    fn row_of(value: Value) -> Row {
        value.as_object().unwrap().clone()
    }

    fn relation(columns: &[(&str, u32)]) -> Relation {
        let columns =
            columns.iter().map(|(name, type_oid)| Column { name: (*name).to_owned(), type_oid: *type_oid });
        Relation {
            id: 1,
            schema: "public".to_owned(),
            table: "devices".to_owned(),
            columns: columns.collect(),
        }
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_owned())
    }

    #[test]
    fn insert_becomes_the_frozen_message() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/tests/golden/threshold-change.1.json");
        let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let after = row_of(golden["after"].clone());
        let made = records(&TABLES[1], &ORIGIN, RowChange::Insert(after)).unwrap();
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].topic, "iot-threshold-updates");
        assert_eq!(made[0].key, br#"{"threshold_id":"4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b"}"#);
        let value = made[0].value.as_deref().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(value).unwrap(), golden);
        assert!(Change::<ThresholdRow>::decode(value).is_ok());
    }

    #[test]
    fn delete_is_followed_by_a_tombstone_of_the_same_key() {
        let before = row_of(json!({"sensor_id": "a", "version": 1}));
        let made = records(&TABLES[0], &ORIGIN, RowChange::Delete(before)).unwrap();
        assert_eq!(made.len(), 2);
        assert_eq!(made[0].key, made[1].key);
        assert_eq!(made[1].value, None);
    }

    #[test]
    fn update_of_the_key_moves_the_row() {
        let (before, after) = (row_of(json!({"sensor_id": "a"})), row_of(json!({"sensor_id": "b"})));
        let made = records(&TABLES[0], &ORIGIN, RowChange::Update { before: Some(before), after }).unwrap();
        let keys: Vec<_> = made.iter().map(|record| String::from_utf8_lossy(&record.key)).collect();
        assert_eq!(keys, [r#"{"sensor_id":"a"}"#, r#"{"sensor_id":"a"}"#, r#"{"sensor_id":"b"}"#]);
    }

    #[test]
    fn value_that_did_not_travel_is_taken_from_the_row_before() {
        let relation = relation(&[("sensor_id", 25), ("display_name", 25)]);
        let before = row(&relation, vec![text("a"), text("long")], None).unwrap();
        let after = row(&relation, vec![text("a"), Cell::Unchanged], Some(&before)).unwrap();
        assert_eq!(after["display_name"], "long");
        let lost = row(&relation, vec![text("a"), Cell::Unchanged], None);
        assert_eq!(lost, Err(EnvelopeError::NoOldRow("devices".to_owned())));
    }

    #[test]
    fn row_of_another_shape_is_refused() {
        let lost = row(&relation(&[("sensor_id", 25)]), vec![text("a"), text("b")], None);
        assert_eq!(lost, Err(EnvelopeError::Shape("devices".to_owned())));
    }

    #[test]
    fn forgotten_row_keeps_its_key_bytes_and_tells_what_it_was() {
        let wrapped = br#"{"schema":{},"payload":{"op":"c","after":{"sensor_id":"a"}}}"#;
        let key = br#"{"schema":{},"payload":{"sensor_id":"a"}}"#.to_vec();
        let [deleted, tombstone] = forget(&TABLES[0], &ORIGIN, key.clone(), wrapped);
        assert_eq!((&deleted.key, &tombstone.key, &tombstone.value), (&key, &key, &None));
        let value: Value = serde_json::from_slice(deleted.value.as_deref().unwrap()).unwrap();
        assert_eq!(value["before"], json!({"sensor_id": "a"}));
        assert_eq!((&value["op"], &value["after"]), (&json!("d"), &Value::Null));
    }

    proptest! {
        #[test]
        fn any_record_left_in_the_topic_can_be_forgotten(key: Vec<u8>, value: Vec<u8>) {
            let [deleted, _] = forget(&TABLES[0], &ORIGIN, key, &value);
            prop_assert!(serde_json::from_slice::<Value>(deleted.value.as_deref().unwrap()).is_ok());
        }
    }
}
