//! Codec `senml+cbor`: RFC 8428, section 6. Labels are the numbers of its table 4; their names are taken too.

use super::super::fields::set_once;
use super::super::items::{Item, Items, Left, bytes_to_text, whole_to_double};
use super::{Message, Pack, Record, Target, TimestampBounds, Undecodable};
use schema::ReadingCreatedEvent;
use std::borrow::Cow;

const WRONG_TYPE: Undecodable = Undecodable::NotSenml("a field, a record or the pack has the wrong type");

pub(in super::super) fn decode(
    message: &Message<'_>,
    bounds: &TimestampBounds,
) -> Result<Vec<ReadingCreatedEvent>, Undecodable> {
    let mut pack = Pack::new(message, bounds);
    let mut items = Items::new(message.payload);
    let Item::Array(mut records) = items.next()? else { return Err(WRONG_TYPE) };
    while items.more(&mut records)? {
        let Item::Map(fields) = items.next()? else { return Err(WRONG_TYPE) };
        pack.add(record(&mut items, fields)?)?;
    }
    items.end()?;
    pack.finish()
}

fn record(items: &mut Items<'_>, mut fields: Left) -> Result<Record, Undecodable> {
    let mut record = Record::default();
    while items.more(&mut fields)? {
        let label = match items.next()? {
            Item::Whole(number) => Cow::Borrowed(label(number)),
            Item::Text(text) => text,
            _ => return Err(Undecodable::FieldName),
        };
        match record.target(&label)? {
            Target::Number(place) => set_once(place, &label, number(items)?)?,
            Target::Text(place) => set_once(place, &label, text(items)?)?,
            Target::Data(place) => match items.next()? {
                Item::Bytes(bytes) => set_once(place, &label, bytes_to_text(&bytes))?,
                _ => return Err(WRONG_TYPE),
            },
            Target::Bool(place) => match items.next()? {
                Item::Bool(bool) => set_once(place, &label, bool)?,
                _ => return Err(WRONG_TYPE),
            },
            Target::Version(place) => match items.next()? {
                Item::Whole(version) => set_once(place, &label, version.try_into().map_err(|_| WRONG_TYPE)?)?,
                _ => return Err(WRONG_TYPE),
            },
            Target::Ignored => items.skip()?,
        }
    }
    Ok(record)
}

/// The name of a label; table 4 is complete, so that other numbers have none.
pub(super) fn label(number: i128) -> &'static str {
    match number {
        -6 => "bs",
        -5 => "bv",
        -4 => "bu",
        -3 => "bt",
        -2 => "bn",
        -1 => "bver",
        0 => "n",
        1 => "u",
        2 => "v",
        3 => "vs",
        4 => "vb",
        5 => "s",
        6 => "t",
        7 => "ut",
        8 => "vd",
        _ => "",
    }
}

fn number(items: &mut Items<'_>) -> Result<f64, Undecodable> {
    match items.next()? {
        Item::Whole(number) => Ok(whole_to_double(number)),
        Item::Float(number) => Ok(number),
        _ => Err(WRONG_TYPE),
    }
}

fn text(items: &mut Items<'_>) -> Result<String, Undecodable> {
    match items.next()? {
        Item::Text(text) => Ok(text.into_owned()),
        _ => Err(WRONG_TYPE),
    }
}
