//! What the codec reads and writes, against any bytes, and against any split of a stream. The known bad
//! frames are the corpus of [`super::fuzz`].

use super::*;
use bytes::BytesMut;
use proptest::prelude::*;

pub(super) const PACKET_BYTES_MAX: usize = 4096;

/// Decodes all of `chunks`, fed one after the other, up to the first refusal.
pub(super) fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Packet>, Option<Refusal>) {
    let mut decoder = Decoder::new(PACKET_BYTES_MAX);
    let mut stream = BytesMut::new();
    let mut packets = Vec::new();
    for chunk in chunks {
        stream.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut stream) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(refusal) => return (packets, Some(refusal)),
            }
        }
    }
    (packets, None)
}

pub(super) fn connect_frame(version: Version) -> Vec<u8> {
    match version {
        Version::V311 => b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id".to_vec(),
        Version::V5 => b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02id".to_vec(),
    }
}

/// What follows a CONNECT of `version` is decoded to.
fn after_connect(version: Version, frame: &[u8]) -> Result<Option<Packet>, Refusal> {
    let (mut packets, refusal) = decode([connect_frame(version).as_slice(), frame]);
    assert!(matches!(packets.first(), Some(Packet::Connect(_))), "the CONNECT itself is fine");
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(packets.drain(1..).next()),
    }
}

#[test]
fn connect_says_its_version_and_its_wishes() {
    let frame =
        b"\x10\x19\x00\x04MQTT\x05\x02\x00\x0a\x0c\x11\x00\x00\x00\x05\x27\x00\x00\x00\x80\x17\x00\x00\x00";
    let (packets, refusal) = decode([frame.as_slice()]);
    assert_eq!(refusal, None);
    let [Packet::Connect(connect)] = packets.as_slice() else { panic!("{packets:?}") };
    assert_eq!((connect.version, connect.keep_alive_s, connect.clean_start), (Version::V5, 10, true));
    assert_eq!((connect.session_expiry_s, connect.packet_bytes_max), (5, Some(128)));
    assert!(!connect.wants_problem_info && connect.client_id.is_empty());
}

#[test]
fn publish_keeps_flags_and_packet_id_of_the_frame() {
    for version in [Version::V311, Version::V5] {
        let frame: &[u8] = match version {
            Version::V311 => b"\x3b\x08\x00\x01t\x01\x02abc",
            Version::V5 => b"\x3b\x1d\x00\x01t\x01\x02\x14\x26\x00\x08event-id\x00\x07e-00017abc",
        };
        let Ok(Some(Packet::Publish(publish))) = after_connect(version, frame) else { panic!("{version:?}") };
        assert_eq!((publish.qos, publish.packet_id), (Qos::AtLeastOnce, 0x0102));
        assert!(publish.dup && publish.retain);
        assert_eq!((publish.mqtt_topic.as_str(), publish.payload.as_slice()), ("t", b"abc".as_slice()));
        assert_eq!(publish.event_id.as_deref(), (version == Version::V5).then_some("e-00017"));
    }
}

#[test]
fn topic_beyond_ascii_is_decoded_and_denied_without_panic() {
    let frame = "\u{30}\u{0b}\u{0}\u{7}été/x".as_bytes().to_vec();
    let Ok(Some(Packet::Publish(publish))) =
        after_connect(Version::V311, &[frame.as_slice(), b"p1"].concat()[..])
    else {
        panic!("a topic may have letters of any language")
    };
    assert_eq!(publish.mqtt_topic, "été/x");
    assert!(!topic::may_publish("t-1", &publish.mqtt_topic));
}

#[test]
fn disconnect_may_leave_out_its_property_length() {
    for frame in
        [[0xE0, 0x00].as_slice(), &[0xE0, 0x01, 0x00], &[0xE0, 0x01, 0x04], &[0xE0, 0x02, 0x00, 0x00]]
    {
        assert_eq!(after_connect(Version::V5, frame), Ok(Some(Packet::Disconnect)), "{frame:02x?}");
    }
    assert!(after_connect(Version::V311, &[0xE0, 0x01, 0x00]).is_err());
}

#[test]
fn another_version_or_protocol_is_told_apart_first() {
    let mqtt_3_1 = b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02id";
    assert_eq!(decode([mqtt_3_1.as_slice()]).1, Some(Refusal::Version(3)));
    assert_eq!(decode([b"\x10\x07\x00\x04MQTT\x06".as_slice()]).1, Some(Refusal::Version(6)));
    assert_eq!(decode([b"GET / HTTP/1.1\r\n".as_slice()]).1, Some(Refusal::NotMqtt));
    assert_eq!(decode([b"\x10\x04\x00\x02ab".as_slice()]).1, Some(Refusal::NotMqtt));
    assert_eq!(decode([b"\x16\x03\x01".as_slice()]).1, Some(Refusal::NotMqtt));
    assert_eq!(decode([b"\x30\x03\x00\x01t".as_slice()]).1, Some(Refusal::NotMqtt), "PUBLISH before CONNECT");
}

#[test]
fn large_frame_is_refused_by_its_first_bytes() {
    let refusal = after_connect(Version::V5, b"\x30\xff\xff\xff\x7f").expect_err("256 MiB");
    assert!(matches!(refusal, Refusal::TooLarge { bytes_max: PACKET_BYTES_MAX, .. }), "{refusal}");
}

fn encode(version: Version, write: impl FnOnce(&Encoder, &mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&Encoder::bare(version), &mut out);
    out.to_vec()
}

#[test]
fn disconnect_is_written_as_the_standard_has_it() {
    let disconnect = |text: &'static str| {
        encode(Version::V5, move |encoder, out| encoder.disconnect(DisconnectReason::ShuttingDown, text, out))
    };
    assert_eq!(disconnect(""), b"\xe0\x02\x8b\x00");
    assert_eq!(disconnect("stop"), b"\xe0\x09\x8b\x07\x1f\x00\x04stop");
    let silent =
        encode(Version::V311, |encoder, out| encoder.disconnect(DisconnectReason::Malformed, "x", out));
    assert!(silent.is_empty(), "a 3.1.1 server sends no DISCONNECT");
}

#[test]
fn long_reason_is_cut_and_its_lengths_stay_right() {
    let text = "é".repeat(300);
    let frame = encode(Version::V5, |encoder, out| encoder.disconnect(DisconnectReason::Busy, &text, out));
    assert_eq!(after_connect(Version::V5, &frame), Ok(Some(Packet::Disconnect)));
    assert_eq!(frame.len(), 1 + 2 + 1 + 2 + 3 + 200);
}

#[test]
fn refusals_have_a_code_their_version_knows() {
    let refuse = |version, refusal| encode(version, move |encoder, out| encoder.refuse(refusal, "", out));
    assert_eq!(refuse(Version::V311, ConnectRefusal::Version), b"\x20\x02\x00\x01");
    assert_eq!(refuse(Version::V311, ConnectRefusal::ClientId), b"\x20\x02\x00\x02");
    assert_eq!(refuse(Version::V311, ConnectRefusal::NotAuthorized), b"\x20\x02\x00\x05");
    assert!(refuse(Version::V311, ConnectRefusal::Qos).is_empty());
    assert_eq!(refuse(Version::V5, ConnectRefusal::NotAuthorized), b"\x20\x03\x00\x87\x00");
    assert_eq!(refuse(Version::V5, ConnectRefusal::Version), b"\x20\x03\x00\x84\x00");
}

#[test]
fn acknowledgements_have_a_code_their_version_knows() {
    let suback = |version| {
        encode(version, |encoder, out| {
            encoder.suback(
                7,
                &[SubAckReason::Granted, SubAckReason::NotAuthorized, SubAckReason::Shared],
                out,
            );
        })
    };
    assert_eq!(suback(Version::V311), b"\x90\x05\x00\x07\x00\x80\x80");
    assert_eq!(suback(Version::V5), b"\x90\x06\x00\x07\x00\x00\x87\x9e");
    let unsuback = |version| encode(version, |encoder, out| encoder.unsuback(7, 2, out));
    assert_eq!(unsuback(Version::V311), b"\xb0\x02\x00\x07");
    assert_eq!(unsuback(Version::V5), b"\xb0\x05\x00\x07\x00\x00\x00");
    let puback =
        |version, reason| encode(version, move |encoder, out| encoder.puback(0x0102, reason, "no", out));
    assert_eq!(puback(Version::V311, PubAckReason::Success), b"\x40\x02\x01\x02");
    assert_eq!(puback(Version::V5, PubAckReason::Success), b"\x40\x02\x01\x02");
    assert_eq!(puback(Version::V5, PubAckReason::NotAuthorized), b"\x40\x04\x01\x02\x87\x00");
    assert!(puback(Version::V311, PubAckReason::NotAuthorized).is_empty(), "3.1.1 has no word for it");
}

#[test]
fn reason_is_left_out_for_a_client_that_cannot_take_it() {
    let mut frame = connect_frame(Version::V5);
    frame.splice(10..13, *b"\x00\x3c\x05\x27\x00\x00\x00\x08");
    frame[1] = 0x14;
    let (packets, refusal) = decode([frame.as_slice()]);
    let [Packet::Connect(connect)] = packets.as_slice() else { panic!("{refusal:?}") };
    let mut out = BytesMut::new();
    Encoder::new(connect).disconnect(DisconnectReason::Busy, "a sentence", &mut out);
    assert_eq!(&out[..], b"\xe0\x02\x89\x00");
}

#[test]
fn welcome_tells_the_truth() {
    let accepted = Accepted {
        receive_max: 100,
        packet_bytes_max: 65_536,
        assigned_client_id: None,
        wanted_session: true,
        note: None,
    };
    let frame = encode(Version::V5, |encoder, out| encoder.accept(&accepted, out));
    let expected = [
        b"\x20\x1d\x00\x00\x1a".as_slice(),
        b"\x11\x00\x00\x00\x00", // session expiry: none is kept
        b"\x21\x00\x64",         // receive maximum
        b"\x24\x01",             // maximum QoS
        b"\x25\x00",             // retain available
        b"\x27\x00\x01\x00\x00", // maximum packet size
        b"\x22\x00\x00",         // topic alias maximum
        b"\x28\x01\x29\x00\x2a\x00",
    ]
    .concat();
    assert_eq!(frame[5..], expected[5..]);
    assert_eq!(frame, expected);
    assert_eq!(encode(Version::V311, |encoder, out| encoder.accept(&accepted, out)), b"\x20\x02\x00\x00");
}

/// Mostly right frames: random bodies behind every first byte, with a true length.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..120)).prop_map(|(first, body)| {
        let mut frame = vec![first, u8::try_from(body.len()).expect("below 120")];
        frame.extend(body);
        frame
    })
}

/// A stream of good packets.
fn good_stream(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let packet = (0..4u8, "[a-zé/]{1,12}", proptest::collection::vec(any::<u8>(), 0..300), 1..=u16::MAX);
    proptest::collection::vec(packet, 0..12).prop_map(move |packets| {
        let mut stream = connect_frame(version);
        let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        for (kind, topic, payload, packet_id) in packets {
            let id = packet_id.to_be_bytes();
            let topic_len = u16::try_from(topic.len()).expect("short").to_be_bytes();
            let (first, body) = match kind {
                0 => (0x30, [&topic_len, topic.as_bytes(), properties, &payload].concat()),
                1 => (0x32, [&topic_len, topic.as_bytes(), &id, properties, &payload].concat()),
                2 => (0x82, [&id, properties, &topic_len, topic.as_bytes(), &[1]].concat()),
                _ => (0xc0, Vec::new()),
            };
            stream.push(first);
            let len = u16::try_from(body.len()).expect("short");
            match len {
                0..128 => stream.push(len.to_le_bytes()[0]),
                _ => stream.extend([len.to_le_bytes()[0] | 0x80, u8::try_from(len >> 7).expect("short")]),
            }
            stream.extend(body);
        }
        stream
    })
}

/// A PUBLISH with some of its properties, in fewer than 128 bytes.
fn any_publish(version: Version) -> impl Strategy<Value = Vec<u8>> {
    let pair = (prop_oneof![Just("event-id".to_owned()), "[a-z]{0,8}"], "[a-zé]{0,4}");
    let properties = (proptest::option::of(1..=u16::MAX), proptest::collection::vec(pair, 0..3));
    let flags = prop_oneof![Just(0x30_u8), Just(0x32), Just(0x3b), Just(0x35)];
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    (flags, "[a-zé/]{1,6}", 1..=u16::MAX, properties, payload).prop_map(
        move |(first, topic, packet_id, (alias, pairs), payload)| {
            let text = |text: &str| [&[0, text.len().to_le_bytes()[0]], text.as_bytes()].concat();
            let mut block: Vec<u8> =
                alias.map(|alias| [&[35], alias.to_be_bytes().as_slice()].concat()).unwrap_or_default();
            pairs.iter().for_each(|(name, value)| block.extend([vec![38], text(name), text(value)].concat()));
            let mut body = text(&topic);
            body.extend(if first & 0b0110 == 0 { Vec::new() } else { packet_id.to_be_bytes().to_vec() });
            if version == Version::V5 {
                body.push(block.len().to_le_bytes()[0]);
                body.extend(block);
            }
            body.extend(payload);
            [vec![first, body.len().to_le_bytes()[0]], body].concat()
        },
    )
}

/// Topic, alias, event id and payload of a PUBLISH as the crate reads it.
fn read_by_crate(version: Version, frame: &[u8]) -> (String, Option<u16>, Option<String>, Vec<u8>) {
    use rumqttd::protocol::{self, Protocol as _};
    let mut stream = BytesMut::from(frame);
    let packet = match version {
        Version::V311 => protocol::v4::V4.read_mut(&mut stream, PACKET_BYTES_MAX),
        Version::V5 => protocol::v5::V5.read_mut(&mut stream, PACKET_BYTES_MAX),
    };
    let Ok(protocol::Packet::Publish(publish, properties)) = packet else { panic!("{packet:?}") };
    let properties = properties.unwrap_or_default();
    let event_id = properties.user_properties.into_iter().find(|(name, _)| name == "event-id");
    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
    (topic, properties.topic_alias, event_id.map(|(_, value)| value), publish.payload.to_vec())
}

/// Cuts `bytes` at `cuts`, taken modulo its length.
fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect()
}

proptest! {
    #[test]
    fn any_bytes_never_panic(is_v5: bool, frames in proptest::collection::vec(any_frame(), 1..4)) {
        let version = if is_v5 { Version::V5 } else { Version::V311 };
        for frame in frames {
            let _ = after_connect(version, &frame);
            let _ = decode([frame.as_slice()]);
        }
    }

    #[test]
    fn any_change_of_a_good_stream_never_panics(
        mut stream in prop_oneof![good_stream(Version::V311), good_stream(Version::V5)],
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        let _ = decode([stream.as_slice()]);
    }

    #[test]
    fn any_split_into_chunks_gives_the_same_packets(
        stream in prop_oneof![good_stream(Version::V311), good_stream(Version::V5)],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = decode([stream.as_slice()]);
        prop_assert_eq!(&whole.1, &None);
        prop_assert_eq!(whole, decode(split(&stream, &cuts)));
    }

    #[test]
    fn any_split_of_any_bytes_ends_in_the_same_refusal(
        frames in proptest::collection::vec(any_frame(), 1..4),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let stream = [connect_frame(Version::V5), frames.concat()].concat();
        prop_assert_eq!(decode([stream.as_slice()]), decode(split(&stream, &cuts)));
    }

    #[test]
    fn publish_is_read_as_the_crate_reads_it(
        (version, frame) in prop_oneof![
            any_publish(Version::V311).prop_map(|frame| (Version::V311, frame)),
            any_publish(Version::V5).prop_map(|frame| (Version::V5, frame)),
        ]
    ) {
        let Ok(Some(Packet::Publish(ours))) = after_connect(version, &frame) else { panic!("{frame:02x?}") };
        let ours = (ours.mqtt_topic, ours.topic_alias, ours.event_id, ours.payload);
        prop_assert_eq!(ours, read_by_crate(version, &frame));
    }
}
