//! What the gateway says to clients that go beyond what it offers.

use crate::raw::{PINGREQ, PINGRESP, disconnect_reason, frame, puback, publish};
use crate::stack::{QUIET, Stack};
use schema::{DeviceStatus, topics};

#[tokio::test(flavor = "multi_thread")]
async fn welcome_in_mqtt_5_tells_the_limits() {
    let stack = Stack::with(&[("IN_FLIGHT_MAX", "17"), ("PACKET_BYTES_MAX", "65536")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    let connack = client.connect(5, "").await.unwrap();
    assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, 0));
    let has = |property: &[u8]| connack[5..].windows(property.len()).any(|window| window == property);
    assert!(has(&[0x21, 0, 17]), "receive maximum");
    assert!(has(&[0x24, 1]), "maximum QoS");
    assert!(has(&[0x25, 0]), "retain available");
    assert!(has(&[0x27, 0, 1, 0, 0]), "maximum packet size");
    assert!(has(&[0x22, 0, 0]), "topic alias maximum");
    assert!(has(&[0x12, 0, 36]), "assigned client identifier");
    assert!(has(&[0x29, 0]) && has(&[0x2a, 0]), "no subscription identifiers, no shared subscriptions");
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_1_is_told_which_version_is_spoken() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.send(b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02id").await;
    assert_eq!(client.frame().await.unwrap(), [0x20, 2, 0, 1]);
    assert_eq!(client.frame().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_is_never_promised() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    for version in [4, 5] {
        let mut client = stack.dial(&device).await;
        client.enter(version, "c").await;
        client.send(&publish(version, 2, 1, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        if version == 5 {
            assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x9b);
        }
        assert_eq!(client.frame().await, None, "and no PUBREC");
    }
    assert!(stack.kafka.read(topics::READINGS).next_within(QUIET).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_ends_an_mqtt_5_session_with_its_reason() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let topic = b"\x00\x14devices/a-1/readings";
    let cases: [(&str, Vec<u8>, u8); 7] = [
        ("retain", frame(0x33, &[topic, b"\x00\x01\x00".as_slice()].concat()), 0x9a),
        ("topic alias", frame(0x32, &[topic, b"\x00\x01\x03\x23\x00\x01".as_slice()].concat()), 0x94),
        ("UNSUBACK from a client", b"\xb0\x04\x00\x01\x00\x00".to_vec(), 0x82),
        ("CONNACK from a client", b"\x20\x03\x00\x00\x00".to_vec(), 0x82),
        ("packet id 0", publish(5, 1, 0, "devices/a-1/readings", b"{}"), 0x82),
        ("wildcard", publish(5, 1, 1, "devices/+/readings", b"{}"), 0x81),
        ("256 MB", b"\x30\xff\xff\xff\x7f".to_vec(), 0x95),
    ];
    for (name, bytes, reason) in cases {
        let mut client = stack.dial(&device).await;
        client.enter(5, "c").await;
        client.send(&bytes).await;
        assert_eq!(disconnect_reason(&client.frame().await.unwrap()), reason, "{name}");
        assert_eq!(client.frame().await, None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retain_is_ignored_in_3_1_1() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let mut retained = publish(4, 1, 9, &device.mqtt_topic(), br#"{"t":1}"#);
    retained[0] |= 1;
    client.send(&retained).await;
    assert_eq!(client.frame().await.unwrap(), puback(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_client_is_disconnected_after_its_keep_alive() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    let started = std::time::Instant::now();
    assert_eq!(client.connect_with(5, "c", 1).await.unwrap()[3], 0);
    client.send(&PINGREQ).await;
    assert_eq!(client.frame().await.unwrap(), PINGRESP);
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x8d);
    assert!(started.elapsed().as_millis() >= 1_500, "not before one and a half times what was promised");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_may_come_byte_by_byte() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let stream = [publish(4, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#), PINGREQ.to_vec()].concat();
    for byte in stream {
        client.send(&[byte]).await;
    }
    let mut frames = [client.frame().await.unwrap(), client.frame().await.unwrap()];
    frames.sort();
    assert_eq!(frames, [puback(1), PINGRESP.to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connect_is_told_what_to_do_in_mqtt_5() {
    let stack = Stack::start().await;
    let active = stack.register("active-1").await;
    let suspended = stack.register_as("suspended-1", DeviceStatus::Suspended).await;
    let retired = stack.register_as("retired-1", DeviceStatus::Retired).await;
    let rotated = stack.register_with("rotated-1", DeviceStatus::Active, stack.pki.device("rotated-1")).await;
    stack.change(&rotated, |row| row.fingerprints.clear()).await;
    stack.register("witness-1").await;
    let connect = |flags: u8, properties: &[u8], rest: &[u8]| {
        frame(0x10, &[b"\x00\x04MQTT\x05", &[flags, 0, 0][..], properties, b"\x00\x01c", rest].concat())
    };
    let plain = connect(2, b"\x00", b"");
    let will = b"\x00\x00\x01t\x00\x01m";
    let cases = [
        (&suspended, plain.clone(), 0x87, "an operator"),
        (&retired, plain.clone(), 0x87, "for good"),
        (&rotated, plain, 0x87, "fingerprint"),
        (&active, connect(2, b"\x05\x15\x00\x02ab", b""), 0x8c, "the certificate is the authentication"),
        (&active, connect(0x16, b"\x00", will), 0x9b, "QoS 2"),
        (&active, connect(0x26, b"\x00", will), 0x9a, "retained"),
        (&active, connect(2, b"\x02\x23\x00", b""), 0x81, "does not belong in this packet"),
        (&active, connect(2, b"\x03\x21\x00\x00", b""), 0x82, "a value it may not have"),
        (&active, b"\x10\xff\xff\x03".to_vec(), 0, ""),
        (&active, b"\x10\x0e\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x01c".to_vec(), 0x84, "5 is MQTT 5"),
    ];
    for (device, bytes, code, words) in cases {
        let mut client = stack.dial(device).await;
        client.send(&bytes).await;
        match client.frame().await {
            Some(connack) => {
                assert_eq!((connack[0], connack[3]), (0x20, code), "{words}: {connack:02x?}");
                let text = String::from_utf8_lossy(&connack[5..]).into_owned();
                assert!(text.contains(words), "{text}");
            }
            None => assert_eq!(
                code, 0,
                "{words}: larger than a CONNECT may be, of a version that nobody knows yet"
            ),
        }
        assert_eq!(client.frame().await, None);
    }
}
