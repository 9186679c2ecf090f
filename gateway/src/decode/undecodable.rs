//! Why a payload is no reading.

use super::{
    ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_MAX, BORN_MAX, DEPTH_MAX, EVENT_ID_BYTES_MAX, METRICS_MAX,
    READINGS_MAX,
};
use schema::Unstorable;
use std::fmt;

/// Characters of a name that a dead letter repeats.
const NAME_CHARS_MAX: usize = 64;

/// A name out of a payload, quoted and cut, so that the one bad field of many is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Option<Box<str>>);

impl Name {
    pub(super) fn of(name: &str) -> Self {
        Self(Some(name.chars().take(NAME_CHARS_MAX).collect()))
    }

    /// Stands for a field that was not known where it was refused.
    pub(super) const fn unknown() -> Self {
        Self(None)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // Quoted with escapes: a control character or a line end may be what is wrong with it.
            Some(name) => write!(f, "{name:?}"),
            None => f.write_str("a value"),
        }
    }
}

/// Says why a payload is no reading. [`Undecodable::reason`] is the short name that dead letters and metrics
/// carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The registry names a codec that this gateway does not have.
    #[error("codec is not known")]
    CodecUnknown,
    /// Not JSON.
    #[error("payload is not JSON: line {line}, column {column}")]
    NotJson {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// Not CBOR.
    #[error("payload is not CBOR: byte {at}")]
    NotCbor {
        /// Where, from 0.
        at: usize,
    },
    /// Well-formed, but not what RFC 8428 describes.
    #[error("payload is not a SenML pack: {0}")]
    NotSenml(&'static str),
    /// SenML of a version that this gateway does not understand, and so must not use.
    #[error("SenML version is newer than 10")]
    SenmlVersion,
    /// A field that must be understood, and is not.
    #[error("a field whose name ends in _ is not known")]
    MandatoryField,
    /// Not protobuf, or not a Sparkplug B payload.
    #[error("payload is not a Sparkplug B protobuf")]
    NotProtobuf,
    /// The topic does not say what kind of Sparkplug message this is.
    #[error("topic does not end in NBIRTH, NDATA, NDEATH, or in DBIRTH, DDATA, DDEATH and a device")]
    SparkplugKind,
    /// A birth that does not declare what it brings.
    #[error("a metric of a birth has no name or no datatype")]
    BirthIncomplete,
    /// Data that lean on a birth which this connection has not seen: a rebirth is needed.
    #[error("a metric's alias or datatype was not declared by a birth on this connection")]
    BirthUnknown,
    /// Two metrics that could not be told apart.
    #[error("metric {0}: another metric of the births has its alias, or a name that becomes the same")]
    NameCollision(Name),
    /// More than [`BORN_MAX`].
    #[error("births declare more than {BORN_MAX} metrics")]
    TooManyBorn,
    /// A value that its datatype does not have.
    #[error("metric {0}: its value does not fit its datatype")]
    Datatype(Name),
    /// The codec is `binary`, and the registry has no layout that could be used.
    #[error("the registered layout cannot be used: {0}")]
    Layout(String),
    /// A payload that is not as long as its layout.
    #[error("payload has {is_bytes} bytes, its layout {must_bytes}")]
    PayloadLength {
        /// Bytes of the payload.
        is_bytes: usize,
        /// Bytes of the layout.
        must_bytes: usize,
    },
    /// Well-formed, but not an object.
    #[error("payload is not an object of named fields")]
    NotObject,
    /// A field's name is neither text nor a whole number.
    #[error("a field's name is neither text nor a whole number")]
    FieldName,
    /// Nothing measured.
    #[error("payload has no metric")]
    NoMetric,
    /// More than [`METRICS_MAX`].
    #[error("payload has more than {METRICS_MAX} metrics")]
    TooManyMetrics,
    /// More than [`ATTRIBUTES_MAX`].
    #[error("payload has more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    /// More than [`READINGS_MAX`].
    #[error("payload has more than {READINGS_MAX} readings")]
    TooManyReadings,
    /// A number under a name that no metric may have.
    #[error("metric {0}: its name breaks the rule [A-Za-z][A-Za-z0-9_.]{{0,63}}")]
    MetricName(Name),
    /// An attribute name longer than [`ATTRIBUTE_NAME_BYTES_MAX`].
    #[error("attribute {0}: its name is longer than {ATTRIBUTE_NAME_BYTES_MAX} bytes")]
    AttributeName(Name),
    /// The same name twice.
    #[error("{0} comes twice")]
    DuplicateField(Name),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("objects are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// A number beyond what a double holds.
    #[error("{0} is not a finite number")]
    NotFinite(Name),
    /// A value, a text or attributes that no dialect of the storage can hold.
    #[error(transparent)]
    Unstorable(#[from] Unstorable),
    /// The timestamp is neither a number nor RFC 3339.
    #[error("timestamp is neither a number nor RFC 3339")]
    Timestamp,
    /// The timestamp is too long ago or ahead.
    #[error("timestamp is too far from the time of arrival")]
    TimestampOutOfBounds,
    /// The event id is neither a short text nor a whole number.
    #[error("eventId is neither a text of 1 to {EVENT_ID_BYTES_MAX} bytes nor a whole number")]
    EventId,
    /// The event would not fit into Kafka.
    #[error("event is larger than Kafka accepts")]
    EventTooLarge,
}

impl Undecodable {
    /// Returns the short name, fixed for ever: dead letters are grouped by it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CodecUnknown => "codec-unknown",
            Self::NotJson { .. } => "not-json",
            Self::NotCbor { .. } => "not-cbor",
            Self::NotSenml(_) => "not-senml",
            Self::SenmlVersion => "senml-version",
            Self::MandatoryField => "mandatory-field",
            Self::NotProtobuf => "not-protobuf",
            Self::SparkplugKind => "sparkplug-kind",
            Self::BirthIncomplete => "birth-incomplete",
            Self::BirthUnknown => "birth-unknown",
            Self::NameCollision(_) => "name-collision",
            Self::TooManyBorn => "too-many-born",
            Self::Datatype(_) => "datatype",
            Self::Layout(_) => "layout",
            Self::PayloadLength { .. } => "payload-length",
            Self::NotObject => "not-object",
            Self::FieldName => "field-name",
            Self::NoMetric => "no-metric",
            Self::TooManyMetrics => "too-many-metrics",
            Self::TooManyAttributes => "too-many-attributes",
            Self::TooManyReadings => "too-many-readings",
            Self::MetricName(_) => "metric-name",
            Self::AttributeName(_) => "attribute-name",
            Self::DuplicateField(_) => "duplicate-field",
            Self::TooDeep => "too-deep",
            Self::NotFinite(_) => "not-finite",
            Self::Unstorable(unstorable) => unstorable.reason(),
            Self::Timestamp => "timestamp",
            Self::TimestampOutOfBounds => "timestamp-out-of-bounds",
            Self::EventId => "event-id",
            Self::EventTooLarge => "event-too-large",
        }
    }
}
