//! Bytes of a device's socket ⇄ MQTT packets, for MQTT 3.1.1 and 5.
//!
//! This is the only module that touches `rumqttd::protocol`. The crate decodes and encodes; what it does not
//! check is checked here first, so that a frame it would panic on, swallow or misread never reaches it:
//!
//! | the crate | here |
//! |---|---|
//! | `read_mut` takes a truncated v5 frame off the stream and then asks for more bytes | frames are cut by their fixed header first; any error in a whole frame is malformed |
//! | a client-sent v5 CONNACK or UNSUBACK panics the decoder | packets only a server sends are refused by their type |
//! | fixed-header flags, packet id 0, NUL, wildcards and property lengths are not checked | `walk` reads each frame before it is decoded |
//! | v5 DISCONNECT without properties carries a wrong length; encoders panic on codes of the other version | `Encoder` maps codes per version and writes DISCONNECT itself |
//! | decoded payloads are slices that keep the whole read buffer alive | payloads are copied out: PUBLISH is read here alone |
//! | `matches` cuts a topic at byte 1 and panics on `été/x` | never called; see `topic` |
//!
//! A CONNECT password must be UTF-8, because the crate reads it as text. Devices are known by certificate, so
//! none is needed.

mod decode;
mod encode;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
pub mod topic;
mod walk;

pub use decode::Decoder;
pub use encode::{Accepted, ConnectRefusal, DisconnectReason, Encoder, PubAckReason, SubAckReason};

/// The protocol versions the gateway speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Names the delivery promise a PUBLISH asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// At most once: no acknowledgement, counted best effort.
    AtMostOnce,
    /// At least once: PUBACK when the reading is durable.
    AtLeastOnce,
    /// Exactly once: not offered.
    ExactlyOnce,
}

/// A packet that a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// The first packet of a connection, and only that.
    Connect(Box<Connect>),
    /// A message of the device.
    Publish(Publish),
    /// A request for messages, with its packet id and topic filters.
    Subscribe {
        /// Chosen by the client, never 0.
        packet_id: u16,
        /// At least one.
        filters: Vec<String>,
        /// Whether an MQTT 5 subscription identifier came along; the gateway announces that it has none.
        has_identifier: bool,
    },
    /// The end of subscriptions.
    Unsubscribe {
        /// Chosen by the client, never 0.
        packet_id: u16,
        /// At least one.
        filters: Vec<String>,
    },
    /// A sign of life that wants an answer.
    PingReq,
    /// The client's good-bye.
    Disconnect,
}

/// What a device says when it connects. User name, password and will are read, checked and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The version sniffed from the packet.
    pub version: Version,
    /// Empty when the client leaves the choice to the server.
    pub client_id: String,
    /// Clean Session (3.1.1) or Clean Start (5).
    pub clean_start: bool,
    /// Seconds between two packets that the client promises; 0 means no promise.
    pub keep_alive_s: u16,
    /// Seconds the client wants its session kept; the gateway keeps none and says so.
    pub session_expiry_s: u32,
    /// Bytes of the largest packet the client accepts.
    pub packet_bytes_max: Option<u32>,
    /// False when the client asked for no reason strings outside CONNACK and DISCONNECT.
    pub wants_problem_info: bool,
    /// Whether the client asks for an enhanced authentication exchange, which the gateway does not have.
    pub has_authentication_method: bool,
    /// The will's QoS and retain flag, when there is a will.
    pub will: Option<(Qos, bool)>,
}

/// A message of a device. Its topic has been checked: UTF-8 without NUL or wildcards, never empty in 3.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The promise asked for.
    pub qos: Qos,
    /// 0 at QoS 0, never 0 otherwise.
    pub packet_id: u16,
    /// Set by a client that sends this again.
    pub dup: bool,
    /// Asks to keep the message for later subscribers, which the gateway does not do.
    pub retain: bool,
    /// The full topic name; empty only together with an alias.
    pub mqtt_topic: String,
    /// An MQTT 5 topic alias, not offered by the gateway.
    pub topic_alias: Option<u16>,
    /// The publisher's own event id: MQTT 5 user property `event-id`.
    pub event_id: Option<String>,
    /// A copy of its own, so it does not keep the read buffer alive.
    pub payload: Vec<u8>,
}

/// Says why bytes are refused; every one of them ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not a packet (MQTT 5 reason 0x81).
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The packet has no place here (MQTT 5 reason 0x82).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The packet is larger than announced (MQTT 5 reason 0x95).
    #[error("packet of {bytes} bytes is larger than the maximum of {bytes_max}")]
    TooLarge {
        /// What the fixed header promised.
        bytes: usize,
        /// What the gateway accepts.
        bytes_max: usize,
    },
    /// A protocol level the gateway does not speak: 3 is MQTT 3.1.
    #[error("protocol level {0} is not spoken here: 4 is MQTT 3.1.1, 5 is MQTT 5")]
    Version(u8),
    /// The first bytes are of another protocol.
    #[error("the first packet is not an MQTT CONNECT")]
    NotMqtt,
}
