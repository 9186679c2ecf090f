//! Encodes what the gateway says, with the codes and the fields that the client's version knows.

use super::{Connect, Version};
use bytes::{BufMut, BytesMut};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{self, ConnAck, ConnAckProperties, ConnectReturnCode, Packet, Protocol as _};

/// Bytes of the longest reason string; a longer one is cut. Long enough for a sentence, short enough for any
/// client.
const REASON_BYTES_MAX: usize = 200;

/// A client that takes no packet of this size gets a welcome without a note: the rest of it stays below a
/// hundred bytes.
const NOTED_BYTES_MIN: usize = 256;

/// Bytes of the longest variable byte integer.
const LENGTH_BYTES_MAX: usize = 4;

/// What an accepted CONNECT is told. 3.1.1 has no room for any of it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// How many PUBLISH packets may be without their PUBACK at a time.
    pub receive_max: u16,
    /// Bytes of the largest packet the gateway takes.
    pub packet_bytes_max: u32,
    /// The client id the gateway chose for a client that left it open.
    pub assigned_client_id: Option<String>,
    /// Whether the client asked for a session that outlives its connection, so must hear that there is none.
    pub wanted_session: bool,
    /// What else the client should know, in a sentence.
    pub note: Option<&'static str>,
}

/// Why a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectRefusal {
    /// A protocol level that is not spoken here.
    Version,
    /// The bytes are not a CONNECT.
    Malformed,
    /// The CONNECT has something it may not have.
    Protocol,
    /// 3.1.1 asks for a kept session without naming it.
    ClientId,
    /// The certificate is not that of an active device.
    NotAuthorized,
    /// The gateway cannot serve now.
    Unavailable,
    /// An enhanced authentication exchange is asked for.
    AuthenticationMethod,
    /// The CONNECT is larger than the gateway reads.
    TooLarge,
    /// The will is to be retained.
    Retain,
    /// The will has QoS 2.
    Qos,
}

impl ConnectRefusal {
    /// The reason as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::Protocol => "protocol",
            Self::ClientId => "client-id",
            Self::NotAuthorized => "not-authorized",
            Self::Unavailable => "unavailable",
            Self::AuthenticationMethod => "authentication-method",
            Self::TooLarge => "too-large",
            Self::Retain => "retain",
            Self::Qos => "qos",
        }
    }
}

/// Why a PUBLISH is acknowledged or refused in a PUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubAckReason {
    /// It is durable.
    Success,
    /// The topic belongs to another device.
    NotAuthorized,
}

/// The answer to one topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubAckReason {
    /// Granted at QoS 0.
    Granted,
    /// The filter reaches beyond the device's own branch.
    NotAuthorized,
    /// The filter is a shared subscription.
    Shared,
    /// The packet carries a subscription identifier.
    Identifier,
}

impl SubAckReason {
    /// Returns the words that MQTT 5 is told besides the code.
    fn text(self) -> &'static str {
        match self {
            Self::Granted => "",
            Self::NotAuthorized => "subscribe below devices/<your sensor id>/ only",
            Self::Shared => "shared subscriptions are not offered",
            Self::Identifier => "subscription identifiers are not offered",
        }
    }
}

/// Why the gateway ends a connection, with its MQTT 5 code (table 3-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DisconnectReason {
    /// The bytes are not a packet.
    Malformed = 0x81,
    /// A packet came that has no place here.
    Protocol = 0x82,
    /// A packet was not complete in time; the table has no code for it alone.
    FrameTime = 0x83,
    /// The certificate is not that of an active device any more.
    NotAuthorized = 0x87,
    /// What was sent could not be made durable; it was not acknowledged.
    Busy = 0x89,
    /// The gateway stops.
    ShuttingDown = 0x8B,
    /// Nothing came for one and a half times the keep-alive.
    KeepAlive = 0x8D,
    /// The same device connected again with the same client id.
    TakenOver = 0x8E,
    /// A topic alias was used though none is offered.
    TopicAlias = 0x94,
    /// A packet is larger than announced.
    TooLarge = 0x95,
    /// The device was suspended or retired.
    Administrative = 0x98,
    /// A message was to be retained though that is not offered.
    Retain = 0x9A,
    /// QoS 2 was used though it is not offered.
    Qos = 0x9B,
}

impl DisconnectReason {
    /// The reason as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Protocol => "protocol",
            Self::FrameTime => "frame-time",
            Self::NotAuthorized => "not-authorized",
            Self::Busy => "busy",
            Self::ShuttingDown => "shutting-down",
            Self::KeepAlive => "keep-alive",
            Self::TakenOver => "taken-over",
            Self::TopicAlias => "topic-alias",
            Self::TooLarge => "too-large",
            Self::Administrative => "administrative",
            Self::Retain => "retain",
            Self::Qos => "qos",
        }
    }
}

/// Writes packets for one client.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    version: Version,
    wants_problem_info: bool,
    packet_bytes_max: usize,
}

impl Encoder {
    /// Writes for the client that sent `connect`.
    pub fn new(connect: &Connect) -> Self {
        Self {
            version: connect.version,
            wants_problem_info: connect.wants_problem_info,
            packet_bytes_max: connect.packet_bytes_max.map_or(usize::MAX, |bytes| bytes as usize),
        }
    }

    /// Writes for a client whose CONNECT could not be decoded: only the version is known.
    pub fn bare(version: Version) -> Self {
        Self { version, wants_problem_info: false, packet_bytes_max: usize::MAX }
    }

    /// Returns the version that it writes.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Writes a CONNACK that lets the client in.
    pub fn accept(&self, accepted: &Accepted, out: &mut BytesMut) {
        let connack = ConnAck { session_present: false, code: ConnectReturnCode::Success };
        let properties = ConnAckProperties {
            session_expiry_interval: accepted.wanted_session.then_some(0),
            receive_max: Some(accepted.receive_max),
            max_qos: Some(1),
            retain_available: Some(0),
            max_packet_size: Some(accepted.packet_bytes_max),
            assigned_client_identifier: accepted.assigned_client_id.clone(),
            topic_alias_max: Some(0),
            wildcard_subscription_available: Some(1),
            subscription_identifiers_available: Some(0),
            shared_subscription_available: Some(0),
            reason_string: accepted
                .note
                .filter(|_| self.packet_bytes_max >= NOTED_BYTES_MIN)
                .map(str::to_owned),
            ..ConnAckProperties::default()
        };
        self.write(Packet::ConnAck(connack, Some(properties)), out);
    }

    /// Writes a CONNACK that refuses. Where 3.1.1 has no code, nothing is written and the connection just
    /// closes.
    pub fn refuse(&self, refusal: ConnectRefusal, reason: &str, out: &mut BytesMut) {
        let Some(code) = self.refusal_code(refusal) else { return };
        match self.version {
            Version::V311 => out.put_slice(&[0x20, 2, 0, code]),
            Version::V5 => self.put_with_reason(0x20, &[0, code], reason, &[], out),
        }
    }

    fn refusal_code(&self, refusal: ConnectRefusal) -> Option<u8> {
        use ConnectRefusal::{
            AuthenticationMethod, ClientId, Malformed, NotAuthorized, Protocol, Qos, Retain, TooLarge,
            Unavailable, Version as Level,
        };
        let (v311, v5) = match refusal {
            Level => (Some(1), 0x84),
            ClientId => (Some(2), 0x85),
            Unavailable => (Some(3), 0x88),
            NotAuthorized => (Some(5), 0x87),
            Malformed => (None, 0x81),
            Protocol => (None, 0x82),
            AuthenticationMethod => (None, 0x8C),
            TooLarge => (None, 0x95),
            Retain => (None, 0x9A),
            Qos => (None, 0x9B),
        };
        if self.version == Version::V5 { Some(v5) } else { v311 }
    }

    /// Writes a PUBACK. 3.1.1 can only say yes: a refusal there must close the connection instead.
    pub fn puback(&self, packet_id: u16, reason: PubAckReason, text: &str, out: &mut BytesMut) {
        let [high, low] = packet_id.to_be_bytes();
        match (reason, self.version) {
            (PubAckReason::Success, _) => out.put_slice(&[0x40, 2, high, low]),
            (PubAckReason::NotAuthorized, Version::V5) => {
                let text = if self.wants_problem_info { text } else { "" };
                self.put_with_reason(0x40, &[high, low, 0x87], text, &[], out);
            }
            (PubAckReason::NotAuthorized, Version::V311) => {}
        }
    }

    /// Writes a SUBACK, one code for each filter; MQTT 5 is told why the first refused one was refused.
    pub fn suback(&self, packet_id: u16, reasons: &[SubAckReason], out: &mut BytesMut) {
        let code = |reason: &SubAckReason| match (reason, self.version) {
            (SubAckReason::Granted, _) => 0x00,
            (_, Version::V311) => 0x80,
            (SubAckReason::NotAuthorized, Version::V5) => 0x87,
            (SubAckReason::Shared, Version::V5) => 0x9E,
            (SubAckReason::Identifier, Version::V5) => 0xA1,
        };
        let codes: Vec<u8> = reasons.iter().map(code).collect();
        let id = packet_id.to_be_bytes();
        match self.version {
            Version::V311 => {
                out.put_u8(0x90);
                put_length(id.len() + codes.len(), out);
                out.put_slice(&id);
                out.put_slice(&codes);
            }
            Version::V5 => {
                let text = reasons.iter().map(|reason| reason.text()).find(|text| !text.is_empty());
                let text = text.filter(|_| self.wants_problem_info).unwrap_or_default();
                self.put_with_reason(0x90, &id, text, &codes, out);
            }
        }
    }

    /// Writes an UNSUBACK: there was never anything to deliver, so leaving always succeeds.
    pub fn unsuback(&self, packet_id: u16, filters: usize, out: &mut BytesMut) {
        let unsuback =
            protocol::UnsubAck { pkid: packet_id, reasons: vec![protocol::UnsubAckReason::Success; filters] };
        self.write(Packet::UnsubAck(unsuback, None), out);
    }

    /// Writes a PINGRESP.
    pub fn pingresp(&self, out: &mut BytesMut) {
        self.write(Packet::PingResp(protocol::PingResp), out);
    }

    /// Writes a DISCONNECT with a reason. A 3.1.1 server has none to send; it closes.
    pub fn disconnect(&self, reason: DisconnectReason, text: &str, out: &mut BytesMut) {
        if self.version == Version::V5 {
            self.put_with_reason(0xE0, &[reason as u8], text, &[], out);
        }
    }

    fn write(&self, packet: Packet, out: &mut BytesMut) {
        let written = match self.version {
            Version::V311 => V4.write(packet, out),
            Version::V5 => V5.write(packet, out),
        };
        debug_assert!(written.is_ok(), "every packet built here has a length its header can carry");
    }

    /// Writes a v5 packet of fixed fields, at most Reason String (31) as property, and what follows it. The
    /// string is left out when it is empty or the client could not take the packet with it (MQTT-3.1.2-24).
    fn put_with_reason(&self, first: u8, fields: &[u8], text: &str, rest: &[u8], out: &mut BytesMut) {
        let text = &text[..text.floor_char_boundary(REASON_BYTES_MAX)];
        let property_bytes = 3 + text.len();
        let bare = fields.len() + 1 + rest.len();
        let full = bare + property_bytes + usize::from(property_bytes > 127);
        let has_text = !text.is_empty() && 1 + LENGTH_BYTES_MAX + full <= self.packet_bytes_max;
        out.put_u8(first);
        put_length(if has_text { full } else { bare }, out);
        out.put_slice(fields);
        if has_text {
            put_length(property_bytes, out);
            out.put_u8(31);
            out.put_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
            out.put_slice(text.as_bytes());
        } else {
            out.put_u8(0);
        }
        out.put_slice(rest);
    }
}

/// Writes a variable byte integer.
#[expect(clippy::cast_possible_truncation, reason = "each byte is masked to seven bits first")]
fn put_length(mut len: usize, out: &mut BytesMut) {
    debug_assert!(len < 1 << (7 * LENGTH_BYTES_MAX), "an answer is no longer than what it answers");
    while len >= 0x80 {
        out.put_u8((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.put_u8(len as u8);
}
