//! What is made durable: readings, and payloads that none could be made of. Pure.

use schema::{ReadingCreatedEvent, Timestamp};

use crate::durable::in_flight::AckHandle;

/// What is to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An encoded [`ReadingCreatedEvent`].
    Reading(Vec<u8>),
    /// A payload that no reading could be made of.
    DeadLetter(Box<DeadLetter>),
}

impl Record {
    /// Bytes of its value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Reading(event) => event.len(),
            Self::DeadLetter(letter) => letter.payload.len(),
        }
    }
}

/// A payload as it came, and why it is kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The original bytes.
    pub(crate) payload: Vec<u8>,
    /// The short name of what was wrong.
    pub(crate) reason: &'static str,
    /// The same in words.
    pub(crate) detail: String,
    /// The codec that the device is registered with.
    pub(crate) codec: String,
    /// Where it was published.
    pub(crate) mqtt_topic: String,
    /// When it was read.
    pub(crate) received_at: Timestamp,
}

/// Says why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// The producer's queue is full: wait, then try again with the same handle.
    Full(AckHandle),
    /// The producer will never take it.
    Broken,
}

pub(super) fn reading_headers() -> Vec<(String, Vec<u8>)> {
    vec![header("schema", ReadingCreatedEvent::SCHEMA)]
}

pub(super) fn dead_letter_headers(letter: &DeadLetter) -> Vec<(String, Vec<u8>)> {
    vec![
        header("reason", letter.reason),
        header("detail", &letter.detail),
        header("codec", &letter.codec),
        header("topic", &letter.mqtt_topic),
        header("received_at", &letter.received_at.to_string()),
    ]
}

pub(super) fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}
