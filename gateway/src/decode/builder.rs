//! What was measured at an instant, within every bound, and how it becomes a reading.
//!
//! A payload of one instant fills a [`ReadingBuilder`], one of several fills [`ReadingsByTime`].

use super::undecodable::Name;
use super::{ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTES_MAX, METRICS_MAX, Message, READINGS_MAX, Undecodable};
use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What was measured, and said beside it, at one instant.
#[derive(Debug, Default)]
pub(super) struct ReadingBuilder {
    values: BTreeMap<String, f64>,
    attributes: Map<String, Value>,
    /// Metric to unit.
    units: Map<String, Value>,
}

impl ReadingBuilder {
    pub(super) fn number(&mut self, name: &str, number: f64) -> Result<(), Undecodable> {
        if !number.is_finite() {
            return Err(Undecodable::NotFinite(Name::of(name)));
        }
        schema::check_metric(name).map_err(|_| Undecodable::MetricName(Name::of(name)))?;
        schema::check_value(name, number)?;
        self.check_new(name)?;
        if self.values.len() == METRICS_MAX {
            return Err(Undecodable::TooManyMetrics);
        }
        self.values.insert(name.to_owned(), number);
        Ok(())
    }

    pub(super) fn attribute(&mut self, name: &str, value: Value) -> Result<(), Undecodable> {
        if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
            return Err(Undecodable::AttributeName(Name::of(name)));
        }
        self.check_new(name)?;
        if self.attributes.len() == ATTRIBUTES_MAX {
            return Err(Undecodable::TooManyAttributes);
        }
        self.attributes.insert(name.to_owned(), value);
        Ok(())
    }

    /// Notes the unit of a metric; an empty one is none.
    pub(super) fn unit(&mut self, name: &str, unit: &str) {
        if !unit.is_empty() {
            self.units.insert(name.to_owned(), Value::String(unit.to_owned()));
        }
    }

    /// Takes over what was said, not measured, at another instant.
    fn absorb(&mut self, other: Self) -> Result<(), Undecodable> {
        other.attributes.into_iter().try_for_each(|(name, value)| self.attribute(&name, value))
    }

    fn check_new(&self, name: &str) -> Result<(), Undecodable> {
        let is_known = self.values.contains_key(name) || self.attributes.contains_key(name);
        if is_known { Err(Undecodable::DuplicateField(Name::of(name))) } else { Ok(()) }
    }

    /// Tells whether anything was measured: without, there is no reading.
    pub(super) fn has_metric(&self) -> bool {
        !self.values.is_empty()
    }

    pub(super) fn into_reading(
        mut self,
        message: &Message<'_>,
        reading_at: Timestamp,
        event_id: Uuid,
    ) -> Result<ReadingCreatedEvent, Undecodable> {
        if !self.units.is_empty() {
            let units = std::mem::take(&mut self.units);
            self.attribute("units", Value::Object(units))?;
        }
        schema::check_attributes(&self.attributes)?;
        Ok(ReadingCreatedEvent {
            event_id,
            sensor_id: message.sensor_id.to_owned(),
            device_type: message.device_type.to_owned(),
            zone_id: message.zone_id.to_owned(),
            values: self.values,
            attributes: self.attributes,
            reading_at,
            received_at: message.received_at,
        })
    }
}

/// Gathers what a payload says under the instants that it says it of.
#[derive(Debug, Default)]
pub(super) struct ReadingsByTime(BTreeMap<Timestamp, ReadingBuilder>);

impl ReadingsByTime {
    /// The moment at an instant, new or begun.
    pub(super) fn at(&mut self, instant: Timestamp) -> Result<&mut ReadingBuilder, Undecodable> {
        if self.0.len() == READINGS_MAX && !self.0.contains_key(&instant) {
            return Err(Undecodable::TooManyReadings);
        }
        Ok(self.0.entry(instant).or_default())
    }

    /// Tells whether nothing at all was said.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the readings, in the order of time.
    ///
    /// Attributes of an instant at which nothing was measured go with the reading before it, or else with
    /// the first. The instants differ, so an event id from the payload differs by them; one from the
    /// publisher, by their order.
    pub(super) fn finish(self, message: &Message<'_>) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
        let mut measured: Vec<(Timestamp, ReadingBuilder)> = Vec::new();
        let mut said_before = ReadingBuilder::default();
        for (instant, mut builder) in self.0 {
            match measured.last_mut() {
                _ if builder.has_metric() => {
                    builder.absorb(std::mem::take(&mut said_before))?;
                    measured.push((instant, builder));
                }
                Some((_, before)) => before.absorb(builder)?,
                None => said_before.absorb(builder)?,
            }
        }
        if measured.is_empty() {
            return Err(Undecodable::NoMetric);
        }
        let readings = (0..).zip(measured).map(|(part, (instant, builder))| {
            let event_id = match message.event_id {
                Some(event_id) => schema::event_id_from_publisher_part(message.sensor_id, event_id, part),
                None => schema::event_id_from_payload(message.sensor_id, instant, message.payload),
            };
            builder.into_reading(message, instant, event_id)
        });
        readings.collect()
    }
}
