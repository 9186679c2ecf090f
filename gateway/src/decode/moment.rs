//! What was measured at an instant, within every bound, and how it becomes a reading.

use std::collections::BTreeMap;

use schema::{ReadingCreatedEvent, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, METRICS_MAX, Message, Undecodable};

/// What was measured, and said beside it, at one instant.
#[derive(Debug, Default)]
pub(super) struct Moment {
    values: BTreeMap<String, f64>,
    attributes: Map<String, Value>,
}

impl Moment {
    pub(super) fn number(&mut self, name: &str, number: f64) -> Result<(), Undecodable> {
        if !number.is_finite() {
            return Err(Undecodable::NotFinite);
        }
        schema::check_metric(name).map_err(|_| Undecodable::MetricName)?;
        self.check_new(name)?;
        if self.values.len() == METRICS_MAX {
            return Err(Undecodable::TooManyMetrics);
        }
        self.values.insert(name.to_owned(), number);
        Ok(())
    }

    pub(super) fn attribute(&mut self, name: &str, value: Value) -> Result<(), Undecodable> {
        if name.len() > ATTRIBUTE_BYTES_MAX {
            return Err(Undecodable::AttributeName);
        }
        self.check_new(name)?;
        if self.attributes.len() == ATTRIBUTES_MAX {
            return Err(Undecodable::TooManyAttributes);
        }
        self.attributes.insert(name.to_owned(), value);
        Ok(())
    }

    fn check_new(&self, name: &str) -> Result<(), Undecodable> {
        let is_known = self.values.contains_key(name) || self.attributes.contains_key(name);
        if is_known { Err(Undecodable::DuplicateField) } else { Ok(()) }
    }

    /// Tells whether anything was measured: without, there is no reading.
    pub(super) fn has_metric(&self) -> bool {
        !self.values.is_empty()
    }

    pub(super) fn into_reading(
        self,
        message: &Message<'_>,
        reading_at: Timestamp,
        event_id: Uuid,
    ) -> ReadingCreatedEvent {
        ReadingCreatedEvent {
            event_id,
            sensor_id: message.sensor_id.to_owned(),
            device_type: message.device_type.to_owned(),
            zone_id: message.zone_id.to_owned(),
            values: self.values,
            attributes: self.attributes,
            reading_at,
            received_at: message.received_at,
        }
    }
}
