//! How much one device may send, and how much of the gateway one peer may take.

use crate::raw::{Client, PINGREQ, PINGRESP, disconnect_reason, frame, puback, publish, subscribe};
use crate::stack::{QUIET, Stack, next_reading};
use schema::topics;
use std::time::{Duration, Instant};
use testkit::wait;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn device_that_publishes_too_fast_waits_and_loses_nothing() {
    let stack = Stack::with(&[("PUBLISH_RATE_MAX", "20"), ("PUBLISH_BURST_MAX", "5")]).await;
    let (device, other) = (stack.register("a-1").await, stack.register("b-1").await);
    let readings = stack.kafka.read(topics::READINGS);
    let mut clients = Vec::new();
    for client_id in ["x", "y"] {
        let mut client = stack.dial(&device).await;
        client.enter(4, client_id).await;
        clients.push(client);
    }
    let started = Instant::now();
    for packet_id in 1..=15 {
        for client in &mut clients {
            client.send(&publish(4, 1, packet_id, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        }
    }
    let mut calm = stack.dial(&other).await;
    calm.enter(4, "c").await;
    calm.send(&publish(4, 1, 1, &other.mqtt_topic(), br#"{"t":1}"#)).await;
    assert_eq!(calm.frame().await.unwrap(), puback(1));
    let calm_after = started.elapsed();
    for packet_id in 1..=15 {
        for client in &mut clients {
            assert_eq!(client.frame().await.unwrap(), puback(packet_id));
        }
    }
    // Thirty messages over both connections, five at once: twenty-five at twenty in a second.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_200), "{took:?}");
    assert!(calm_after < took, "another device does not wait: {calm_after:?} of {took:?}");
    assert!(stack.metric_of("gateway_read_pauses_total", "rate") > 0.0);
    for _ in 0..31 {
        next_reading(&readings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_device_sends_is_charged_and_answered() {
    let stack = Stack::with(&[("PUBLISH_RATE_MAX", "100"), ("PUBLISH_BURST_MAX", "30")]).await;
    let filters: Vec<_> = (1..=50).flat_map(|id| subscribe(5, id, "devices/filters/x")).collect();
    let elsewhere = |id| publish(5, 1, id, "devices/other/readings", br#"{"t":1}"#);
    let padded = format!(r#"{{"t":1{}}}"#, " ".repeat(9_000));
    let large = |id| publish(5, 1, id, "devices/bytes/readings", padded.as_bytes());
    for (name, packets, answers) in [
        ("pings", PINGREQ.repeat(50), 50),
        ("filters", filters, 50),
        ("refused", (1..=50).flat_map(elsewhere).collect(), 50),
        ("bytes", (1..=5).flat_map(large).collect(), 5),
    ] {
        let device = stack.register(name).await;
        let before = stack.metric_of("gateway_read_pauses_total", "rate");
        let mut client = stack.dial(&device).await;
        client.enter(5, "c").await;
        client.send(&packets).await;
        for _ in 0..answers {
            assert!(client.frame().await.is_some(), "{name}");
        }
        assert!(stack.metric_of("gateway_read_pauses_total", "rate") > before, "{name} wait");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn account_is_one_over_mqtt_and_http() {
    let stack = Stack::with_http(&[("PUBLISH_RATE_MAX", "1"), ("PUBLISH_BURST_MAX", "40")]).await;
    let (device, other) = (stack.register("a-1").await, stack.register("b-1").await);
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    for packet_id in 1..=29 {
        client.send(&publish(4, 1, packet_id, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
    }
    // Ten for each connection, and one for each reading.
    let nine = r#"[{"t":1},{"t":2},{"t":3},{"t":4},{"t":5},{"t":6},{"t":7},{"t":8},{"t":9}]"#;
    stack.post(&device.certificate, nine).await.problem(429);
    stack.post(&other.certificate, nine).await.accepted(9);
}

#[tokio::test(flavor = "multi_thread")]
async fn will_is_dropped_and_mqtt_5_is_told() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let will = b"\x00\x09devices/x\x00\x04gone";
    let connect = |version: u8, flags: u8| {
        let (properties, will_properties): (&[u8], &[u8]) =
            if version == 5 { (&[0], &[0]) } else { (&[], &[]) };
        let head = [b"\x00\x04MQTT".as_slice(), &[version, flags, 0, 0]].concat();
        frame(0x10, &[&head, properties, b"\x00\x01c", will_properties, will].concat())
    };
    for version in [4, 5] {
        let mut client = stack.dial(&device).await;
        client.send(&connect(version, 0x0e)).await;
        let connack = client.frame().await.unwrap();
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
        let is_told = connack.windows(4).any(|window| window == b"will");
        assert_eq!(is_told, version == 5, "{connack:02x?}");
    }
    assert_eq!(stack.metric("gateway_wills_dropped_total"), 2.0);
    for (flags, reason) in [(0x2e, 0x9a), (0x16, 0x9b)] {
        let mut client = stack.dial(&device).await;
        client.send(&connect(5, flags)).await;
        assert_eq!(client.frame().await.unwrap()[3], reason, "retain and QoS 2 are not offered");
    }
    // 3.1.1 has no words for what is not offered: the will is dropped all the same, and the flag of a message
    // ignored.
    for flags in [0x2e, 0x16] {
        let mut client = stack.dial(&device).await;
        client.send(&connect(4, flags)).await;
        assert_eq!(client.frame().await.unwrap()[3], 0);
    }
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let mut retained = publish(4, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#);
    retained[0] |= 1;
    client.send(&retained).await;
    assert_eq!(client.frame().await.unwrap(), puback(1));
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&publish(5, 2, 1, &device.mqtt_topic(), b"{}")).await;
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x9b);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_in_total_are_limited() {
    let stack = Stack::with(&[("CONNECTIONS_MAX", "2")]).await;
    let (a, b) = (stack.register("a-1").await, stack.register("b-1").await);
    let (mut first, mut second) = (stack.dial(&a).await, stack.dial(&b).await);
    first.enter(4, "c").await;
    second.enter(4, "c").await;
    let dial = async || Client::dial(stack.port, &stack.pki.root_pem(), Some(&b.certificate)).await;
    assert!(dial().await.is_err(), "there is no place, whoever it is");
    assert_eq!(stack.metric_of("gateway_refusals_total", "connections-max"), 1.0);
    first.send(&PINGREQ).await;
    assert_eq!(first.frame().await.unwrap(), PINGRESP, "who is in stays in");
    drop(second);
    wait::until("the place is free again", async || dial().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packet_as_large_as_announced_is_taken_and_no_larger() {
    let stack = Stack::with(&[("PACKET_BYTES_MAX", "2048")]).await;
    let device = stack.register("a-1").await;
    for version in [4, 5] {
        let of_bytes = |bytes: usize| {
            let empty = publish(version, 1, 1, &device.mqtt_topic(), br#"{"t":1,"text":""}"#);
            // Its length needs one byte more than that of the empty one.
            let text = "x".repeat(bytes - empty.len() - 1);
            let payload = format!(r#"{{"t":1,"text":"{text}"}}"#);
            let packet = publish(version, 1, 1, &device.mqtt_topic(), payload.as_bytes());
            assert_eq!(packet.len(), bytes);
            packet
        };
        let mut client = stack.dial(&device).await;
        client.enter(version, "c").await;
        client.send(&of_bytes(2_048)).await;
        assert_eq!(client.frame().await.unwrap(), puback(1));
        client.send(&of_bytes(2_049)).await;
        if version == 5 {
            assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x95);
        }
        assert_eq!(client.frame().await, None);
    }
    assert_eq!(stack.metric_of("gateway_sessions_ended_total", "too-large"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_that_dribbles_is_cut_off_at_every_stage() {
    let stack = Stack::with(&[("HANDSHAKE_MS_MAX", "700"), ("CONNECT_MS_MAX", "700")]).await;
    let device = stack.register("a-1").await;
    let refused = |reason: &str| stack.metric_of("gateway_refusals_total", reason);
    let mut socket = TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
    // A TLS record of 16 KiB, which never comes to its end.
    socket.write_all(&[0x16, 3, 1, 0x3f, 0xff]).await.unwrap();
    wait::until("a handshake that never ends is ended", async || {
        let is_open = socket.write_all(&[1]).await.is_ok();
        (!is_open && refused("handshake-timeout") == 1.0).then_some(())
    })
    .await;
    let mut client = stack.dial(&device).await;
    // A CONNECT with a client id of 10,000 bytes.
    client.send(b"\x10\x9a\x4e\x00\x04MQTT\x04\x02\x00\x00\x27\x10").await;
    wait::until("a CONNECT that never ends is ended", async || {
        let is_open = client.try_send(b"c").await;
        (!is_open && refused("connect-timeout") == 1.0).then_some(())
    })
    .await;
    stack.dial(&device).await.enter(5, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_clock_may_be_off_is_a_setting() {
    let stack = Stack::with(&[("READING_AGE_DAYS_MAX", "1"), ("READING_FUTURE_S_MAX", "60")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let now_s = schema::Timestamp::now().as_micros() / 1_000_000;
    for (packet_id, off_s) in (1..).zip([0, -86_000, 30, -90_000, 120]) {
        let payload = format!(r#"{{"off_s":{off_s},"timestamp":{}}}"#, now_s + off_s);
        client.send(&publish(4, 1, packet_id, &device.mqtt_topic(), payload.as_bytes())).await;
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
    }
    let (readings, letters) = (stack.kafka.read(topics::READINGS), stack.kafka.read(topics::PRODUCER_DLQ));
    for off_s in [0.0, -86_000.0, 30.0] {
        assert_eq!(next_reading(&readings).await.values["off_s"], off_s);
    }
    for off_s in ["-90000", "120"] {
        let letter = letters.next().await;
        assert_eq!(letter.header("reason"), Some("timestamp-out-of-bounds"));
        assert!(letter.text().contains(off_s), "{}", letter.text());
    }
    assert!(readings.next_within(QUIET).await.is_none());
}
