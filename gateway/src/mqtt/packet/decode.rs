//! Cuts whole frames off a stream and decodes them.

use super::Refusal::{self, Malformed, Protocol};
use super::walk::{self, Fields};
use super::{Connect, Packet, Publish, Qos, Version};
use bytes::{Buf, BytesMut};
use rumqttd::protocol::v4::{self, V4};
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{self, Error, Protocol as _};

/// Bytes of the largest CONNECT. It holds a client id, a will and properties, and is read before anything is
/// known about the session, so it gets less room than a reading.
const CONNECT_BYTES_MAX: usize = 16 * 1024;

/// Packet types: the high nibble of a packet's first byte.
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Decodes the packets of one connection.
///
/// Shape: the first packet is a CONNECT and no later one is. After a refusal the stream is of no use any
/// more.
#[derive(Debug)]
pub struct Decoder {
    version: Option<Version>,
    packet_bytes_max: usize,
}

impl Decoder {
    /// Decodes packets of up to `packet_bytes_max` bytes, fixed header included.
    pub fn new(packet_bytes_max: usize) -> Self {
        Self { version: None, packet_bytes_max }
    }

    /// Returns the version of the connection, once its CONNECT has come.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off `stream`, or nothing (and leaves it as it is) while the packet is
    /// incomplete.
    ///
    /// # Errors
    /// A refusal of what the bytes are; the connection must be closed.
    pub fn decode(&mut self, stream: &mut BytesMut) -> Result<Option<Packet>, Refusal> {
        let Some((header_len, frame_len)) = self.check(stream)? else { return Ok(None) };
        if let (Some(version), PUBLISH) = (self.version, stream[0] >> 4) {
            // Nearly all packets are this one, so it is read where it lies.
            let publish = publish(version, &stream[..frame_len], header_len);
            stream.advance(frame_len);
            return publish.map(|publish| Some(Packet::Publish(publish)));
        }
        let mut frame = stream.split_to(frame_len);
        match self.version {
            None => {
                let version = sniff(&frame, header_len)?;
                // Known from here on, so that even a malformed CONNECT can be answered in its own version.
                self.version = Some(version);
                let connect = connect(version, &mut frame, header_len)?;
                Ok(Some(Packet::Connect(Box::new(connect))))
            }
            Some(version) => packet(version, &mut frame, header_len).map(Some),
        }
    }

    /// Counts the bytes that the frame at the start of `stream` will have; none while its length is unknown.
    pub fn frame_bytes(&self, stream: &BytesMut) -> Option<usize> {
        match v4::check(stream.iter(), usize::MAX) {
            Ok(header) => Some(header.frame_length()),
            // Fewer than two bytes, or a length that has not ended: the crate then asks for one byte or two.
            Err(Error::InsufficientBytes(missing)) if missing > 2 => Some(stream.len() + missing),
            Err(_) => None,
        }
    }

    /// Refuses a frame as early as its first bytes allow; lengths of header and frame once it is complete.
    fn check(&self, stream: &BytesMut) -> Result<Option<(usize, usize)>, Refusal> {
        let Some(&first) = stream.first() else { return Ok(None) };
        self.check_first(first)?;
        let bytes_max = match self.version {
            None => CONNECT_BYTES_MAX.min(self.packet_bytes_max),
            Some(_) => self.packet_bytes_max,
        };
        match v4::check(stream.iter(), bytes_max) {
            Ok(header) if header.frame_length() > bytes_max => {
                Err(Refusal::TooLarge { bytes: header.frame_length(), bytes_max })
            }
            Ok(header) if header.fixed_header_len > 2 && stream[header.fixed_header_len - 1] == 0 => {
                Err(Malformed("a length in more bytes than it needs"))
            }
            Ok(header) => Ok(Some((header.fixed_header_len, header.frame_length()))),
            Err(Error::InsufficientBytes(missing)) if stream.len() + missing > bytes_max && missing > 2 => {
                Err(Refusal::TooLarge { bytes: stream.len() + missing, bytes_max })
            }
            Err(Error::InsufficientBytes(_)) => Ok(None),
            Err(Error::PayloadSizeLimitExceeded(bytes)) => Err(Refusal::TooLarge { bytes, bytes_max }),
            Err(_) => Err(Malformed("fixed header")),
        }
    }

    /// Refuses by the first byte alone what a client may not send at all, before anything of it is decoded.
    fn check_first(&self, first: u8) -> Result<(), Refusal> {
        let (kind, flags) = (first >> 4, first & 0x0f);
        if self.version.is_none() {
            return if first == CONNECT << 4 { Ok(()) } else { Err(Refusal::NotMqtt) };
        }
        let expected_flags = match kind {
            PUBLISH => return if flags & 0b0110 == 0b0110 { Err(Malformed("QoS 3")) } else { Ok(()) },
            CONNECT => return Err(Protocol("a second CONNECT")),
            SUBSCRIBE | UNSUBSCRIBE => 0b0010,
            PINGREQ | DISCONNECT => 0,
            0 => return Err(Malformed("packet type 0")),
            2 | 9 | 11 | 13 => return Err(Protocol("a packet that only a server sends")),
            4..=7 => return Err(Protocol("an acknowledgement of something that was never sent")),
            _ => return Err(Protocol("an authentication exchange that was never offered")),
        };
        if flags == expected_flags { Ok(()) } else { Err(Malformed("reserved flags in the fixed header")) }
    }
}

/// Reads the version out of a CONNECT without decoding it.
fn sniff(frame: &[u8], header_len: usize) -> Result<Version, Refusal> {
    let mut fields = Fields::new(&frame[header_len..]);
    let name = fields.binary().map_err(|_| Refusal::NotMqtt)?;
    let level = fields.u8().map_err(|_| Refusal::NotMqtt)?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", level) => Err(Refusal::Version(level)),
        (b"MQIsdp", level) => Err(Refusal::Version(level)),
        _ => Err(Refusal::NotMqtt),
    }
}

/// Hands a frame that has been walked to the crate's decoder.
fn read(version: Version, frame: &mut BytesMut) -> Result<protocol::Packet, Refusal> {
    let bytes = frame.len();
    match version {
        Version::V311 => V4.read_mut(frame, bytes),
        Version::V5 => V5.read_mut(frame, bytes),
    }
    .map_err(|_| Malformed("a field has a value it may not have"))
}

fn connect(version: Version, frame: &mut BytesMut, header_len: usize) -> Result<Connect, Refusal> {
    walk_connect(version, &frame[header_len..])?;
    let protocol::Packet::Connect(connect, properties, will, _, _) = read(version, frame)? else {
        return Err(Malformed("CONNECT"));
    };
    let properties = properties.as_ref();
    Ok(Connect {
        version,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        session_expiry_s: properties.and_then(|p| p.session_expiry_interval).unwrap_or(0),
        packet_bytes_max: properties.and_then(|p| p.max_packet_size),
        wants_problem_info: properties.and_then(|p| p.request_problem_info) != Some(0),
        has_authentication_method: properties.is_some_and(|p| p.authentication_method.is_some()),
        will: will.map(|will| (qos(will.qos as u8), will.retain)),
    })
}

fn walk_connect(version: Version, body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields::new(body);
    fields.binary()?;
    fields.u8()?;
    let flags = fields.u8()?;
    let (has_name, has_password, has_will) = (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x04 != 0);
    if flags & 0x01 != 0 {
        return Err(Malformed("the reserved CONNECT flag is set"));
    }
    if !has_will && flags & 0x38 != 0 {
        return Err(Malformed("will flags without a will"));
    }
    if version == Version::V311 && has_password && !has_name {
        return Err(Malformed("a password without a user name"));
    }
    fields.u16()?;
    if version == Version::V5 {
        fields.properties(walk::CONNECT)?;
    }
    fields.text()?;
    if has_will {
        if version == Version::V5 {
            fields.properties(walk::WILL)?;
        }
        topic_name(fields.text()?)?;
        fields.binary()?;
    }
    if has_name {
        fields.text()?;
    }
    if has_password {
        fields.binary()?;
    }
    fields.end()
}

fn packet(version: Version, frame: &mut BytesMut, header_len: usize) -> Result<Packet, Refusal> {
    match frame[0] >> 4 {
        SUBSCRIBE => {
            walk_filters(version, &frame[header_len..], walk::SUBSCRIBE, true)?;
            let protocol::Packet::Subscribe(subscribe, properties) = read(version, frame)? else {
                return Err(Malformed("SUBSCRIBE"));
            };
            Ok(Packet::Subscribe {
                packet_id: subscribe.pkid,
                filters: subscribe.filters.into_iter().map(|filter| filter.path).collect(),
                has_identifier: properties.is_some_and(|p| p.id.is_some()),
            })
        }
        UNSUBSCRIBE => {
            walk_filters(version, &frame[header_len..], walk::UNSUBSCRIBE, false)?;
            let protocol::Packet::Unsubscribe(unsubscribe, _) = read(version, frame)? else {
                return Err(Malformed("UNSUBSCRIBE"));
            };
            Ok(Packet::Unsubscribe { packet_id: unsubscribe.pkid, filters: unsubscribe.filters })
        }
        PINGREQ => Fields::new(&frame[header_len..]).end().map(|()| Packet::PingReq),
        _ => disconnect(version, &frame[header_len..]).map(|()| Packet::Disconnect),
    }
}

/// Checks it to its end: the crate refuses a v5 DISCONNECT that leaves out its property length, as it may.
fn disconnect(version: Version, body: &[u8]) -> Result<(), Refusal> {
    let mut fields = Fields::new(body);
    if version == Version::V5 && !fields.is_empty() {
        fields.u8()?;
        if !fields.is_empty() {
            fields.properties(walk::DISCONNECT)?;
        }
    }
    fields.end()
}

fn walk_filters(
    version: Version,
    body: &[u8],
    properties: walk::Properties,
    has_options: bool,
) -> Result<(), Refusal> {
    let mut fields = Fields::new(body);
    fields.packet_id()?;
    if version == Version::V5 {
        fields.properties(properties)?;
    }
    if fields.is_empty() {
        return Err(Protocol("no topic filter"));
    }
    // Bits a client leaves at 0: all but the QoS in 3.1.1, the top two in 5.
    let reserved = if version == Version::V5 { 0b1100_0000 } else { 0b1111_1100 };
    while !fields.is_empty() {
        if fields.text()?.is_empty() {
            return Err(Malformed("an empty topic filter"));
        }
        if has_options && fields.u8()? & reserved != 0 {
            return Err(Malformed("reserved subscription options"));
        }
    }
    Ok(())
}

fn topic_name(name: &str) -> Result<(), Refusal> {
    if name.contains(['+', '#']) { Err(Malformed("a topic name with a wildcard")) } else { Ok(()) }
}

/// Reads a PUBLISH in the walk that checks it, so that the crate need not read it a second time: for speed,
/// see ADR 0010.
fn publish(version: Version, frame: &[u8], header_len: usize) -> Result<Publish, Refusal> {
    let first = frame[0];
    let qos = qos((first >> 1) & 0b11);
    let (dup, retain) = (first & 0b1000 != 0, first & 0b0001 != 0);
    if dup && qos == Qos::AtMostOnce {
        return Err(Malformed("DUP at QoS 0"));
    }
    let mut fields = Fields::new(&frame[header_len..]);
    let mqtt_topic = fields.text()?;
    topic_name(mqtt_topic)?;
    let packet_id = if qos == Qos::AtMostOnce { 0 } else { fields.packet_id()? };
    let found = match version {
        Version::V311 => walk::Found::default(),
        Version::V5 => fields.properties(walk::PUBLISH)?,
    };
    if mqtt_topic.is_empty() && found.topic_alias.is_none() {
        return Err(Protocol("an empty topic name"));
    }
    Ok(Publish {
        qos,
        packet_id,
        dup,
        retain,
        mqtt_topic: mqtt_topic.to_owned(),
        topic_alias: found.topic_alias,
        event_id: found.event_id.map(str::to_owned),
        payload: fields.rest().to_vec(),
    })
}

/// Reads the QoS; 3 is refused before.
fn qos(bits: u8) -> Qos {
    match bits {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        _ => Qos::ExactlyOnce,
    }
}
