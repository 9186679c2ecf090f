//! The part of a Sparkplug B payload that readings are made of; protobuf passes over the rest by itself.
//!
//! Source: Sparkplug 3.0.0, section 6.4.1 for the numbers of the fields, 6.4.16 for those of the datatypes.

use prost::bytes::Bytes;

/// The message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    /// Milliseconds since the epoch.
    #[prost(uint64, optional, tag = "1")]
    pub(super) timestamp: Option<u64>,
    /// Each a [`Metric`], decoded only when there are not too many: undecoded, a metric of two bytes costs 32, not 200.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) metrics: Vec<Bytes>,
}

/// One value, or the declaration of one.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Metric {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) alias: Option<u64>,
    /// Milliseconds since the epoch.
    #[prost(uint64, optional, tag = "3")]
    pub(super) timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) datatype: Option<u32>,
    /// Not to be stored.
    #[prost(bool, optional, tag = "6")]
    pub(super) is_transient: Option<bool>,
    /// There is no value, whatever the value says.
    #[prost(bool, optional, tag = "7")]
    pub(super) is_null: Option<bool>,
    /// Absent, too, when it is of a kind that no reading can hold: bytes, data sets, templates.
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    pub(super) value: Option<Value>,
}

/// A value as it is transmitted; the datatype says what it is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

pub(super) const INT8: u32 = 1;
pub(super) const INT16: u32 = 2;
pub(super) const INT32: u32 = 3;
pub(super) const INT64: u32 = 4;
pub(super) const UINT8: u32 = 5;
pub(super) const UINT16: u32 = 6;
pub(super) const UINT32: u32 = 7;
pub(super) const UINT64: u32 = 8;
pub(super) const BOOLEAN: u32 = 11;
pub(super) const DATE_TIME: u32 = 13;
