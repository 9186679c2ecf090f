//! Codec `senml+json`: RFC 8428, section 5. The pack is walked once, record by record.

use super::super::fields::set_once;
use super::super::json::refuse;
use super::{Message, Pack, Record, Target, TimestampBounds, Undecodable};
use schema::ReadingCreatedEvent;
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use std::fmt;

pub(in super::super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    let mut walk = Walk { pack: Pack::new(message, bounds), stopped: None };
    let mut json = serde_json::Deserializer::from_slice(message.payload);
    let end = Records(&mut walk).deserialize(&mut json).and_then(|()| json.end());
    match (end, walk.stopped) {
        (Err(_), Some(stopped)) => Err(stopped),
        (Err(error), None) if error.classify() == Category::Data => {
            Err(Undecodable::NotSenml("a field, a record or the pack has the wrong type"))
        }
        (Err(error), None) => Err(refuse(&error)),
        (Ok(()), _) => walk.pack.finish(),
    }
}

/// The pack so far, and what stopped the walk: serde's own error would only carry its text.
struct Walk<'a> {
    pack: Pack<'a>,
    stopped: Option<Undecodable>,
}

impl Walk<'_> {
    fn done<T, E: serde::de::Error>(&mut self, result: Result<T, Undecodable>) -> Result<T, E> {
        result.map_err(|undecodable| {
            let error = E::custom(&undecodable);
            self.stopped = Some(undecodable);
            error
        })
    }
}

/// Walks the array.
struct Records<'w, 'a>(&'w mut Walk<'a>);

impl<'de> DeserializeSeed<'de> for Records<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML pack")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Fields(self.0))?.is_some() {}
        Ok(())
    }
}

/// Walks one record.
struct Fields<'w, 'a>(&'w mut Walk<'a>);

impl<'de> DeserializeSeed<'de> for Fields<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a SenML record")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut record = Record::default();
        while let Some(label) = map.next_key::<String>()? {
            let target = record.target(&label);
            match self.0.done(target)? {
                Target::Number(place) => self.fill(&mut map, &label, place)?,
                Target::Text(place) | Target::Data(place) => self.fill(&mut map, &label, place)?,
                Target::Bool(place) => self.fill(&mut map, &label, place)?,
                Target::Version(place) => self.fill(&mut map, &label, place)?,
                Target::Ignored => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let added = self.0.pack.add(record);
        self.0.done(added)
    }
}

impl Fields<'_, '_> {
    fn fill<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        label: &str,
        place: &mut Option<T>,
    ) -> Result<(), A::Error> {
        let filled = set_once(place, label, map.next_value()?);
        self.0.done(filled)
    }
}
