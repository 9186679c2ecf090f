//! Walks the fields of one whole frame and checks what the decoder takes on trust.

use super::Refusal::{self, Malformed, Protocol};

/// The bytes of a packet that are still to be walked.
pub(super) struct Fields<'a>(&'a [u8]);

/// How the value of an MQTT 5 property is written.
enum Shape {
    Flag,
    Byte,
    Two,
    TwoNotZero,
    Four,
    FourNotZero,
    VarintNotZero,
    Text,
    Binary,
}

/// What of a property block is wanted later.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found<'a> {
    /// Topic Alias.
    pub(super) topic_alias: Option<u16>,
    /// The first user property `event-id`.
    pub(super) event_id: Option<&'a str>,
}

/// Topic Alias.
const TOPIC_ALIAS: u8 = 35;
/// User Property: the only one that may come more than once from a client.
const USER_PROPERTY: u8 = 38;

/// A set of property ids (all are below 64), one bit each.
pub(super) type Properties = u64;

/// Properties a client may put in each packet: MQTT 5, table 2-4, without those only a server sends.
pub(super) const CONNECT: Properties = set(&[17, 21, 22, 23, 25, 33, 34, 38, 39]);
pub(super) const WILL: Properties = set(&[1, 2, 3, 8, 9, 24, 38]);
pub(super) const PUBLISH: Properties = set(&[1, 2, 3, 8, 9, 35, 38]);
pub(super) const SUBSCRIBE: Properties = set(&[11, 38]);
pub(super) const UNSUBSCRIBE: Properties = set(&[38]);
pub(super) const DISCONNECT: Properties = set(&[17, 31, 38]);

const fn set(ids: &[u8]) -> Properties {
    let mut bits = 0;
    let mut at = 0;
    while at < ids.len() {
        bits |= 1 << ids[at];
        at += 1;
    }
    bits
}

fn shape(id: u8) -> Shape {
    match id {
        1 | 23 | 25 => Shape::Flag,
        36 | 37 | 40 | 41 | 42 => Shape::Byte,
        19 | 34 => Shape::Two,
        33 => Shape::TwoNotZero,
        2 | 17 | 24 => Shape::Four,
        39 => Shape::FourNotZero,
        11 => Shape::VarintNotZero,
        9 | 22 => Shape::Binary,
        _ => Shape::Text,
    }
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the walk; a packet with bytes left over is malformed.
    pub(super) fn end(&self) -> Result<(), Refusal> {
        if self.is_empty() { Ok(()) } else { Err(Malformed("bytes after the last field")) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Refusal> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed("a field ends after its packet"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Refusal> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn packet_id(&mut self) -> Result<u16, Refusal> {
        match self.u16()? {
            0 => Err(Protocol("packet id 0")),
            id => Ok(id),
        }
    }

    pub(super) fn binary(&mut self) -> Result<&'a [u8], Refusal> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// UTF-8 without U+0000 (MQTT-1.5.4-2).
    pub(super) fn text(&mut self) -> Result<&'a str, Refusal> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Malformed("a string is not UTF-8"))?;
        if text.contains('\0') { Err(Malformed("a string contains NUL")) } else { Ok(text) }
    }

    /// Reads a variable byte integer, in as few bytes as it needs (MQTT-1.5.5-1).
    fn varint(&mut self) -> Result<usize, Refusal> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let is_minimal = byte != 0 || shift == 0;
                return if is_minimal {
                    Ok(value)
                } else {
                    Err(Malformed("a length in more bytes than it needs"))
                };
            }
        }
        Err(Malformed("a length of more than four bytes"))
    }

    /// All that is left: the payload of a PUBLISH.
    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// A property block: its length is exact, each property is allowed here and comes once.
    pub(super) fn properties(&mut self, allowed: Properties) -> Result<Found<'a>, Refusal> {
        let len = self.varint()?;
        let mut block = Fields(self.take(len)?);
        let mut seen: Properties = 0;
        let mut found = Found::default();
        while !block.is_empty() {
            let id = block.u8()?;
            let bit = 1u64.checked_shl(u32::from(id)).unwrap_or(0);
            if allowed & bit == 0 {
                return Err(Malformed("a property that does not belong in this packet"));
            }
            if seen & bit != 0 && id != USER_PROPERTY {
                return Err(Protocol("a property comes twice"));
            }
            seen |= bit;
            match id {
                TOPIC_ALIAS => found.topic_alias = Some(block.topic_alias()?),
                USER_PROPERTY => {
                    let (name, value) = (block.text()?, block.text()?);
                    if name == "event-id" {
                        found.event_id.get_or_insert(value);
                    }
                }
                _ => block.property(id)?,
            }
        }
        Ok(found)
    }

    fn topic_alias(&mut self) -> Result<u16, Refusal> {
        match self.u16()? {
            0 => Err(Protocol("a property has a value it may not have")),
            alias => Ok(alias),
        }
    }

    fn property(&mut self, id: u8) -> Result<(), Refusal> {
        let is_valid = match shape(id) {
            Shape::Flag => self.u8()? <= 1,
            Shape::Byte => self.u8().map(|_| true)?,
            Shape::Two => self.take(2).map(|_| true)?,
            Shape::TwoNotZero => self.take(2)? != [0; 2],
            Shape::Four => self.take(4).map(|_| true)?,
            Shape::FourNotZero => self.take(4)? != [0; 4],
            Shape::VarintNotZero => self.varint()? != 0,
            Shape::Text => self.text().map(|_| true)?,
            Shape::Binary => self.binary().map(|_| true)?,
        };
        if is_valid { Ok(()) } else { Err(Protocol("a property has a value it may not have")) }
    }
}
