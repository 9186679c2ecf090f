//! What is made durable: readings, and payloads that none could be made of. Pure.

use crate::durable::in_flight::AckHandle;
use schema::ReadingCreatedEvent;
use schema::dead_letter::DeadLetter;

/// What is to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An encoded [`ReadingCreatedEvent`].
    Reading(Vec<u8>),
    /// A payload that no reading could be made of, as it came.
    DeadLetter(Box<DeadLetter>, Vec<u8>),
}

impl Record {
    /// Bytes of its value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Reading(event) => event.len(),
            Self::DeadLetter(_, payload) => payload.len(),
        }
    }
}

/// Says why a record was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// The producer's queue is full: wait, then try again with the same handle.
    Full(AckHandle),
    /// The producer will never take it.
    Broken,
}

/// Headers of every reading.
pub(super) fn reading_headers() -> Vec<(String, Vec<u8>)> {
    vec![("schema".to_owned(), ReadingCreatedEvent::SCHEMA.as_bytes().to_vec())]
}

/// Headers of a letter; a value of none, which only foreign records have, is an empty one here.
pub(super) fn letter_headers(letter: &DeadLetter) -> Vec<(String, Vec<u8>)> {
    letter.headers().into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}
