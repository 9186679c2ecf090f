//! The rules of the codecs that are one object of named fields, whatever its encoding.
//!
//! Numbers are metrics, under their dotted path when nested; everything else is an attribute. At the top,
//! `timestamp` is the device's clock and `eventId` its own id of the event. A codec walks its encoding once
//! and calls these.

use super::builder::ReadingBuilder;
use super::undecodable::Name;
use super::{DEPTH_MAX, EVENT_ID_BYTES_MAX, Message, TimestampBounds, Undecodable, timestamp};
use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::Value;
use std::fmt;

/// What a walk has found so far, and where it stands.
#[derive(Debug, Default)]
pub(super) struct Fields {
    builder: ReadingBuilder,
    reading_at: Option<Timestamp>,
    event_id: Option<String>,
    path: String,
    depth: usize,
}

impl Fields {
    /// Takes a number at the current path.
    pub(super) fn number(&mut self, number: f64) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (0, _) => Err(Undecodable::NotObject),
            (1, "timestamp") => set_once(&mut self.reading_at, "timestamp", timestamp::from_epoch(number)?),
            (1, "eventId") => Err(Undecodable::EventId),
            _ => self.builder.number(&self.path, number),
        }
    }

    /// Takes a whole number, which may also be an event id, and keeps all its digits as one.
    pub(super) fn whole(&mut self, digits: impl fmt::Display, number: f64) -> Result<(), Undecodable> {
        if self.depth == 1 && self.path == "eventId" {
            return set_once(&mut self.event_id, "eventId", digits.to_string());
        }
        self.number(number)
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (1, "timestamp") => set_once(&mut self.reading_at, "timestamp", timestamp::from_text(text)?),
            (1, "eventId") if (1..=EVENT_ID_BYTES_MAX).contains(&text.len()) => {
                set_once(&mut self.event_id, "eventId", text.to_owned())
            }
            _ => self.attribute(Value::String(text.to_owned())),
        }
    }

    /// Takes anything that is neither number nor text nor object.
    pub(super) fn attribute(&mut self, value: Value) -> Result<(), Undecodable> {
        self.check_plain()?;
        self.builder.attribute(&self.path, value)
    }

    /// Steps into an array, of which nothing but the whole is taken.
    pub(super) fn check_plain(&self) -> Result<(), Undecodable> {
        match (self.depth, self.path.as_str()) {
            (0, _) => Err(Undecodable::NotObject),
            (1, "timestamp") => Err(Undecodable::Timestamp),
            (1, "eventId") => Err(Undecodable::EventId),
            _ => Ok(()),
        }
    }

    /// Steps into an object; [`Fields::leave`] steps out.
    pub(super) fn enter(&mut self) -> Result<(), Undecodable> {
        if self.depth == DEPTH_MAX {
            return Err(Undecodable::TooDeep);
        }
        if self.depth > 0 {
            self.check_plain()?;
        }
        self.depth += 1;
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Steps to a field of the current object; returns what [`Fields::parent`] steps back with.
    pub(super) fn child(&mut self, name: &str) -> usize {
        let parent_bytes = self.path.len();
        if parent_bytes > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        parent_bytes
    }

    pub(super) fn parent(&mut self, parent_bytes: usize) {
        self.path.truncate(parent_bytes);
    }

    /// Gives a refusal the name of the field that it was met at, where the encoding's reader could not know
    /// it.
    pub(super) fn named(&self, undecodable: Undecodable) -> Undecodable {
        match undecodable {
            Undecodable::NotFinite(_) if !self.path.is_empty() => {
                Undecodable::NotFinite(Name::of(&self.path))
            }
            other => other,
        }
    }

    /// Makes the reading of all that was found.
    pub(super) fn finish(
        self,
        message: &Message<'_>,
        bounds: &TimestampBounds,
    ) -> Result<ReadingCreatedEvent, Undecodable> {
        if !self.builder.has_metric() {
            return Err(Undecodable::NoMetric);
        }
        let reading_at = match self.reading_at {
            Some(reading_at) => bounds.check(reading_at, message.received_at)?,
            None => message.received_at,
        };
        let event_id = match message.event_id.or(self.event_id.as_deref()) {
            Some(event_id) => schema::event_id_from_publisher(message.sensor_id, event_id),
            None => schema::event_id_from_payload(message.sensor_id, reading_at, message.payload),
        };
        self.builder.into_reading(message, reading_at, event_id)
    }
}

/// Fills the empty place of a field.
pub(super) fn set_once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), Undecodable> {
    match place.replace(value) {
        Some(_) => Err(Undecodable::DuplicateField(Name::of(name))),
        None => Ok(()),
    }
}
