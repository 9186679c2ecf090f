//! CBOR, one item at a time, for the codecs that are encoded in it.
//!
//! A pull reader over the payload: nothing is allocated for a length before its bytes are there, and only the
//! caller recurses, which bounds its own depth.

use super::Undecodable;
use super::undecodable::Name;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use minicbor::data::{IanaTag, Type};
use minicbor::decode::{Decoder, Error};
use serde_json::{Number, Value};
use std::borrow::Cow;

/// One item, its tags stripped. The content of an array or a map is read next, under the control of
/// [`Items::more`].
#[derive(Debug)]
pub(super) enum Item<'b> {
    Whole(i128),
    Float(f64),
    Text(Cow<'b, str>),
    Bytes(Vec<u8>),
    Bool(bool),
    /// `null` and `undefined`.
    Null,
    Array(Left),
    Map(Left),
}

/// How many elements or pairs are left; `None` until a break.
pub(super) type Left = Option<u64>;

/// Reads a payload.
pub(super) struct Items<'b>(Decoder<'b>);

impl<'b> Items<'b> {
    pub(super) fn new(payload: &'b [u8]) -> Self {
        Self(Decoder::new(payload))
    }

    /// Reads the next item. Tags say how to read what they enclose; two matter here, the others change
    /// nothing: a text or a number that is tagged as a time is a time by its place already.
    pub(super) fn next(&mut self) -> Result<Item<'b>, Undecodable> {
        while self.kind()? == Type::Tag {
            let tag = self.0.tag();
            if self.take(tag)? == IanaTag::Decimal.tag() {
                return self.decimal();
            }
        }
        let kind = self.kind()?;
        let read = match kind {
            Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int => self.0.int().map(|number| Item::Whole(number.into())),
            Type::F16 | Type::F32 | Type::F64 => self.0.f64().map(Item::Float),
            Type::String => self.0.str().map(|text| Item::Text(Cow::Borrowed(text))),
            Type::StringIndef => self
                .0
                .str_iter()
                .and_then(|mut parts| parts.try_fold(String::new(), |text, part| Ok(text + part?)))
                .map(|text| Item::Text(Cow::Owned(text))),
            Type::Bytes | Type::BytesIndef => self.0.bytes_iter().and_then(|mut parts| {
                let joined = parts.try_fold(Vec::new(), |mut bytes, part| {
                    bytes.extend_from_slice(part?);
                    Ok(bytes)
                });
                joined.map(Item::Bytes)
            }),
            Type::Bool => self.0.bool().map(Item::Bool),
            Type::Null => self.0.null().map(|()| Item::Null),
            Type::Undefined => self.0.undefined().map(|()| Item::Null),
            Type::Array | Type::ArrayIndef => self.0.array().map(Item::Array),
            Type::Map | Type::MapIndef => self.0.map().map(Item::Map),
            Type::Tag | Type::Simple | Type::Break | Type::Unknown(_) => return Err(self.refuse()),
        };
        self.take(read)
    }

    /// Tells whether an array or a map goes on, and counts what is taken from it.
    pub(super) fn more(&mut self, left: &mut Left) -> Result<bool, Undecodable> {
        match left {
            Some(0) => Ok(false),
            Some(count) => {
                *count -= 1;
                Ok(true)
            }
            None if self.kind()? == Type::Break => {
                self.0.set_position(self.0.position() + 1);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Reads the name of a field: text, or a whole number by its digits.
    pub(super) fn name(&mut self) -> Result<Cow<'b, str>, Undecodable> {
        match self.next()? {
            Item::Text(name) => Ok(name),
            Item::Whole(number) => Ok(Cow::Owned(number.to_string())),
            _ => Err(Undecodable::FieldName),
        }
    }

    /// Passes over one item with all that is in it.
    pub(super) fn skip(&mut self) -> Result<(), Undecodable> {
        let skipped = self.0.skip();
        self.take(skipped)
    }

    /// Refuses bytes after the last item.
    pub(super) fn end(&self) -> Result<(), Undecodable> {
        if self.0.position() == self.0.input().len() { Ok(()) } else { Err(self.refuse()) }
    }

    /// Reads an array of a power of ten and a mantissa (RFC 8949, section 3.4.4) as the decimal number that
    /// it stands for, so that it is rounded once.
    fn decimal(&mut self) -> Result<Item<'b>, Undecodable> {
        let count = self.0.array();
        if self.take(count)? != Some(2) {
            return Err(self.refuse());
        }
        let exponent = self.0.int();
        let exponent = self.take(exponent)?;
        let mantissa = self.0.int();
        let mantissa = self.take(mantissa)?;
        format!("{mantissa}e{exponent}")
            .parse()
            .map(Item::Float)
            .map_err(|_| Undecodable::NotFinite(Name::unknown()))
    }

    fn kind(&self) -> Result<Type, Undecodable> {
        self.0.datatype().map_err(|_| self.refuse())
    }

    fn take<T>(&self, read: Result<T, Error>) -> Result<T, Undecodable> {
        read.map_err(|_| self.refuse())
    }

    /// Refuses what is at the current place, or just before it: it is not CBOR.
    fn refuse(&self) -> Undecodable {
        Undecodable::NotCbor { at: self.0.position() }
    }
}

/// Writes bytes as the text that JSON can hold: base64 with the URL-safe alphabet, as RFC 8949 (section 6.1)
/// proposes.
pub(super) fn bytes_to_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Keeps all digits of a whole number where JSON's numbers can.
pub(super) fn whole_to_value(number: i128) -> Value {
    match (u64::try_from(number), i64::try_from(number)) {
        (Ok(number), _) => Value::from(number),
        (_, Ok(number)) => Value::from(number),
        _ => Number::from_f64(whole_to_double(number)).map_or(Value::Null, Value::Number),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a double; larger whole numbers are rounded")]
pub(super) fn whole_to_double(number: i128) -> f64 {
    number as f64
}
