//! The Debezium change envelope, with or without its `schema`/`payload` wrapper.

use crate::{DeviceKey, DeviceRow, SilenceKey, SilenceRow, ThresholdKey, ThresholdRow};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Names what happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Inserted.
    #[serde(rename = "c")]
    Create,
    /// Updated.
    #[serde(rename = "u")]
    Update,
    /// Deleted; a tombstone follows.
    #[serde(rename = "d")]
    Delete,
    /// Read by a snapshot.
    #[serde(rename = "r")]
    Read,
}

/// Says where in PostgreSQL a change comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the capturing program.
    #[serde(default)]
    pub connector: String,
    /// Database.
    #[serde(default)]
    pub db: String,
    /// Schema of the table.
    #[serde(default)]
    pub schema: String,
    /// Table.
    #[serde(default)]
    pub table: String,
    /// Commit position in the WAL; several changes of one transaction share it. Absent in a snapshot of some
    /// capturers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<u64>,
    /// `"true"` or `"last"` for rows read by a snapshot, else `"false"`; text, as Debezium writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// Carries one change of one row of type `R`.
///
/// Shape: `before` is set for u (full row: replica identity is FULL) and d; `after` for c, u and r.
/// Source: Debezium documentation, PostgreSQL connector, "Data change events".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change<R> {
    /// What happened.
    pub op: Op,
    /// The row as it was.
    #[serde(default = "none")]
    pub before: Option<R>,
    /// The row as it is now.
    #[serde(default = "none")]
    pub after: Option<R>,
    /// Where it comes from.
    #[serde(default)]
    pub source: Source,
    /// When the capturer handled it, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub ts_ms: i64,
}

fn none<R>() -> Option<R> {
    None
}

/// Says why a record is no change of the expected row.
#[derive(Debug, thiserror::Error)]
#[error("record is not a change of the expected row")]
pub struct ChangeError(#[from] serde_json::Error);

/// Ties a row type to the key type of its topic.
pub trait RowKey: DeserializeOwned {
    /// The record key.
    type Key: DeserializeOwned;
}

impl RowKey for DeviceRow {
    type Key = DeviceKey;
}

impl RowKey for ThresholdRow {
    type Key = ThresholdKey;
}

impl RowKey for SilenceRow {
    type Key = SilenceKey;
}

impl<R: RowKey> Change<R> {
    /// Reads a record's value, wrapped (`{"schema": …, "payload": …}`) or plain.
    ///
    /// # Errors
    /// [`ChangeError`] when it is not JSON or not this envelope (dead letter).
    pub fn decode(value: &[u8]) -> Result<Self, ChangeError> {
        Ok(unwrap(value)?)
    }

    /// Reads a record's key, wrapped or plain.
    ///
    /// # Errors
    /// [`ChangeError`] when it is not JSON or not this key (dead letter).
    pub fn decode_key(key: &[u8]) -> Result<R::Key, ChangeError> {
        Ok(unwrap(key)?)
    }
}

/// The envelope around an envelope of a converter that writes schemas.
#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Reads a plain record, or else a wrapped one. No record is both: what is plain has fields that a wrapper
/// lacks.
pub(crate) fn unwrap<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let plain = serde_json::from_slice(bytes);
    match (plain, bytes.trim_ascii_start().first()) {
        (Err(plain), Some(b'{')) => match serde_json::from_slice::<Wrapper<'_>>(bytes) {
            Ok(wrapper) => serde_json::from_str(wrapper.payload.get()),
            Err(_) => Err(plain),
        },
        (plain, _) => plain,
    }
}
