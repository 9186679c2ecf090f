//! The part of a Sparkplug B payload that readings are made of; protobuf passes over the rest by itself.
//!
//! Source: Sparkplug 3.0.0, section 6.4.1 for the numbers of the fields, 6.4.9 for quality, 6.4.16 for the
//! numbers of the datatypes.

use prost::bytes::Bytes;

/// The message.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    /// Milliseconds since the epoch.
    #[prost(uint64, optional, tag = "1")]
    pub(super) timestamp: Option<u64>,
    /// Each a [`Metric`], decoded only when there are not too many: undecoded, a metric of two bytes costs
    /// 32, not 200.
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
    /// Measured when its own timestamp says, and sent later.
    #[prost(bool, optional, tag = "5")]
    pub(super) is_historical: Option<bool>,
    /// Not to be stored.
    #[prost(bool, optional, tag = "6")]
    pub(super) is_transient: Option<bool>,
    /// There is no value, whatever the value says.
    #[prost(bool, optional, tag = "7")]
    pub(super) is_null: Option<bool>,
    /// What else is said of the value; only its quality matters here.
    #[prost(message, optional, tag = "9")]
    pub(super) properties: Option<Properties>,
    /// Absent, too, when it is of a kind that no reading can hold: bytes, data sets, templates.
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    pub(super) value: Option<Value>,
}

/// Keys and, at the same places, values.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Properties {
    #[prost(string, repeated, tag = "1")]
    pub(super) keys: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    pub(super) values: Vec<Property>,
}

/// The value of a property, as far as it is a quality: Int32 in the field of that name.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Property {
    #[prost(uint32, optional, tag = "3")]
    pub(super) int_value: Option<u32>,
}

impl Metric {
    /// The code of the property `Quality`, when it says that the value is not good.
    pub(super) fn bad_quality(&self) -> Option<u32> {
        let properties = self.properties.as_ref()?;
        let at = properties.keys.iter().position(|key| key == "Quality")?;
        properties.values.get(at)?.int_value.filter(|quality| *quality != QUALITY_GOOD)
    }
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

/// Beside 0, bad, and 500, stale.
const QUALITY_GOOD: u32 = 192;

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
