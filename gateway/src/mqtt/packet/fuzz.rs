//! The codec under mutated streams: nothing panics, stalls or depends on how the network cuts a stream, and
//! what is let through keeps what [`super::Publish`] and its kind promise.

use super::tests::{PACKET_BYTES_MAX, connect_frame, decode};
use super::*;
use crate::fuzz::packets::{self, TOKENS, frame_bytes};
use crate::fuzz::{Dice, Round, Rounds, Seed, mutate, seeds};
use bytes::BytesMut;
use rumqttd::protocol::{self, Protocol as _, v4::V4, v5::V5};

/// Rounds unless the environment says otherwise: two seconds.
const ROUNDS: u64 = 10_000;
/// Cuts of a stream on its way.
const CUTS_MAX: usize = 8;

/// A folder of the corpus: whole frames, after the CONNECT of a version or in the place of one.
const FOLDERS: [(&str, Option<Version>); 3] =
    [("mqtt-connect", None), ("mqtt-3.1.1", Some(Version::V311)), ("mqtt-5", Some(Version::V5))];

/// Names the end of a stream as the corpus does.
fn outcome(refusal: Option<Refusal>) -> &'static str {
    match refusal {
        None => "ok",
        Some(Refusal::Malformed(_)) => "malformed",
        Some(Refusal::Protocol(_)) => "protocol",
        Some(Refusal::TooLarge { .. }) => "too-large",
        Some(Refusal::Version(_)) => "version",
        Some(Refusal::NotMqtt) => "not-mqtt",
    }
}

/// Returns what stands before the frames of a folder.
fn head(version: Option<Version>) -> Vec<u8> {
    version.map(connect_frame).unwrap_or_default()
}

fn each_seed(mut look: impl FnMut(Option<Version>, &Seed)) {
    for (folder, version) in FOLDERS {
        let seeds = seeds(folder);
        assert!(seeds.len() > 10, "{folder}");
        seeds.iter().for_each(|seed| look(version, seed));
    }
}

/// Holds what was let through against what the rest of the gateway relies on.
fn check(packets: &[Packet], bytes: usize) {
    for (n, packet) in packets.iter().enumerate() {
        assert_eq!(n == 0, matches!(packet, Packet::Connect(_)), "a CONNECT comes first, and once");
        match packet {
            Packet::Publish(publish) => {
                assert!(!publish.mqtt_topic.contains(['+', '#', '\0']));
                assert!(!publish.mqtt_topic.is_empty() || publish.topic_alias.is_some());
                assert_eq!(publish.packet_id == 0, publish.qos == Qos::AtMostOnce);
                assert!(!publish.dup || publish.qos != Qos::AtMostOnce);
                assert!(publish.topic_alias != Some(0) && publish.payload.len() <= bytes);
            }
            Packet::Subscribe { packet_id, filters, .. } | Packet::Unsubscribe { packet_id, filters } => {
                assert!(*packet_id != 0 && !filters.is_empty());
                assert!(filters.iter().all(|filter| !filter.is_empty() && !filter.contains('\0')));
            }
            Packet::Connect(connect) => assert!(!connect.client_id.contains('\0')),
            Packet::PingReq | Packet::Disconnect => {}
        }
    }
}

/// Answers every packet in every way that there is: each answer is whole frames, and never larger than the
/// client takes.
fn answer(packets: &[Packet], dice: &mut Dice) {
    let Some(Packet::Connect(connect)) = packets.first() else { return };
    let encoder = Encoder::new(connect);
    let text = "\u{e9}".repeat(dice.below(130));
    let mut out = BytesMut::new();
    let subacks =
        [SubAckReason::Granted, SubAckReason::NotAuthorized, SubAckReason::Shared, SubAckReason::Identifier];
    for packet in packets {
        match packet {
            Packet::Connect(_) => {
                let accepted = Accepted {
                    receive_max: 1,
                    packet_bytes_max: u32::MAX,
                    assigned_client_id: dice.once_in(2).then(|| "c".repeat(36)),
                    wanted_session: dice.once_in(2),
                    note: dice.once_in(2).then_some("a note"),
                };
                encoder.accept(&accepted, &mut out);
                encoder.refuse(ConnectRefusal::NotAuthorized, &text, &mut out);
            }
            Packet::Publish(publish) => {
                encoder.puback(publish.packet_id, PubAckReason::Success, "", &mut out);
                encoder.puback(publish.packet_id, PubAckReason::NotAuthorized, &text, &mut out);
            }
            Packet::Subscribe { packet_id, filters, .. } => {
                let count = if dice.once_in(8) { 20_000 } else { filters.len() };
                let reasons: Vec<_> = (0..count).map(|_| *dice.pick(&subacks)).collect();
                encoder.suback(*packet_id, &reasons, &mut out);
            }
            Packet::Unsubscribe { packet_id, filters } => {
                encoder.unsuback(*packet_id, filters.len(), &mut out);
            }
            Packet::PingReq => encoder.pingresp(&mut out),
            Packet::Disconnect => encoder.disconnect(DisconnectReason::Busy, &text, &mut out),
        }
    }
    while !out.is_empty() {
        let bytes = frame_bytes(&out).expect("a whole header");
        assert!(bytes <= out.len(), "an answer is cut: {out:02x?}");
        drop(out.split_to(bytes));
    }
}

/// Reads a PUBLISH once more, as the crate does, and holds what both have found against each other.
fn check_by_the_crate(version: Version, frame: &[u8], publish: &Publish) {
    let mut copy = BytesMut::from(frame);
    let read = match version {
        Version::V311 => V4.read_mut(&mut copy, frame.len()),
        Version::V5 => V5.read_mut(&mut copy, frame.len()),
    };
    let Ok(protocol::Packet::Publish(theirs, properties)) = read else { return };
    assert_eq!(
        (&theirs.topic[..], &theirs.payload[..]),
        (publish.mqtt_topic.as_bytes(), &publish.payload[..])
    );
    let alias = properties.as_ref().and_then(|properties| properties.topic_alias);
    let pairs = properties.iter().flat_map(|properties| &properties.user_properties);
    let event_id = pairs.into_iter().find(|(name, _)| name == "event-id").map(|(_, value)| value.as_str());
    assert_eq!((alias, event_id), (publish.topic_alias, publish.event_id.as_deref()));
}

/// Decodes a stream whole and frame by frame, by a count of its own: the decoder takes exactly whole frames,
/// and does not wait for more bytes when a frame is there.
fn check_frames(stream: &[u8], packets: &[Packet], refusal: Option<Refusal>) {
    let mut decoder = Decoder::new(PACKET_BYTES_MAX);
    let mut input = BytesMut::from(stream);
    for packet in packets {
        let bytes = frame_bytes(&input).expect("a packet has a header");
        let before = input.len();
        if let (Packet::Publish(publish), Some(version)) = (packet, decoder.version()) {
            check_by_the_crate(version, &input[..bytes], publish);
        }
        assert_eq!(decoder.decode(&mut input).as_ref(), Ok(&Some(packet.clone())));
        assert_eq!(before - input.len(), bytes, "not a frame was taken but something else");
    }
    if refusal.is_none() {
        let left = frame_bytes(&input).is_none_or(|bytes| bytes > input.len());
        assert!(left, "a whole frame is there, and more is waited for: {input:02x?}");
    }
}

/// Decodes what round `number` makes of the corpus and of the generator; tells whether all of it was taken.
fn round(number: u64, seeds: &[(Option<Version>, Seed)], mutants: &[Seed]) -> bool {
    let mut dice = Dice(number);
    let is_v5 = dice.once_in(2);
    let lies = *dice.pick(&[0, 0, 40, 100]);
    let mut stream = match dice.below(4) {
        0 => {
            let (version, seed) = dice.pick(seeds);
            [head(*version), seed.bytes.clone()].concat()
        }
        _ => packets::stream(&mut dice, is_v5, lies, "a-1"),
    };
    let is_good = lies == 0 && dice.once_in(2);
    if !is_good {
        mutate(&mut dice, mutants, &TOKENS, &mut stream);
    }
    let _round = Round("mqtt", number, &stream);
    let (packets, refusal) = decode([stream.as_slice()]);
    check(&packets, stream.len());
    check_frames(&stream, &packets, refusal);
    let chunks = dice.split(&stream, CUTS_MAX);
    assert_eq!(decode(chunks), (packets.clone(), refusal), "it depends on the reads");
    answer(&packets, &mut dice);
    refusal.is_none() && !packets.is_empty()
}

#[test]
fn no_mutated_stream_panics_stalls_or_breaks_a_promise() {
    let mut seeds = Vec::new();
    each_seed(|version, seed| seeds.push((version, seed.clone())));
    let mutants: Vec<_> = seeds.iter().map(|(_, seed)| seed.clone()).collect();
    let mut rounds = Rounds::of("mqtt", ROUNDS);
    while let Some(number) = rounds.next() {
        if round(number, &seeds, &mutants) {
            rounds.accept();
        }
    }
    assert!(!rounds.is_sample() || rounds.accepted_percent() > 10.0);
}

#[test]
fn streams_without_lies_are_taken_whole() {
    for number in 0..500 {
        let mut dice = Dice(number);
        let is_v5 = dice.once_in(2);
        let stream = packets::stream(&mut dice, is_v5, 0, "a-1");
        let (_, refusal) = decode([stream.as_slice()]);
        assert_eq!(refusal, None, "{number}: {stream:02x?}");
    }
}

#[test]
fn every_file_of_the_corpus_has_its_outcome() {
    each_seed(|version, seed| {
        let (packets, refusal) = decode([head(version).as_slice(), &seed.bytes]);
        assert_eq!(outcome(refusal), seed.outcome, "{version:?} {}: {refusal:?}", seed.what);
        assert!(
            refusal.is_some() || packets.len() > usize::from(version.is_some()),
            "{version:?} {}",
            seed.what
        );
    });
}

#[test]
fn every_split_in_three_reads_gives_the_same_packets() {
    each_seed(|version, seed| {
        let stream = [head(version), seed.bytes.clone()].concat();
        let whole = decode([stream.as_slice()]);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let reads = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(decode(reads), whole, "{version:?} {} cut at {first} and {second}", seed.what);
            }
        }
        let bytes = stream.chunks(1);
        assert_eq!(decode(bytes), whole, "{version:?} {} byte by byte", seed.what);
    });
}

#[test]
fn every_truncation_waits_or_is_refused() {
    each_seed(|version, seed| {
        let head = head(version);
        for end in 0..seed.bytes.len() {
            // The stream ends here: what is incomplete waits.
            let stream = [&head, &seed.bytes[..end]].concat();
            let (packets, refusal) = decode([stream.as_slice()]);
            check_frames(&stream, &packets, refusal);
            // The frame ends here and says so: it is a packet or it is refused, but nothing is waited for.
            let header_bytes = 2 + seed.bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count();
            let Some(body) = seed.bytes[..end].get(header_bytes..) else { continue };
            let cut = [&head, &seed.bytes[..1], &packets::varint(body.len()), body].concat();
            let (packets, refusal) = decode([cut.as_slice()]);
            let is_packet = packets.len() > usize::from(version.is_some());
            assert!(refusal.is_some() || is_packet, "{version:?} {} cut at {end}", seed.what);
            check(&packets, cut.len());
            check_frames(&cut, &packets, refusal);
        }
    });
}
