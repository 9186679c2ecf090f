//! How much one device may send.

use std::time::{Duration, Instant};

use schema::topics;

use crate::raw::{disconnect_reason, frame, puback, publish};
use crate::stack::{Stack, next_reading};

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
    assert!(stack.metric("gateway_read_pauses_total") > 0.0);
    for _ in 0..31 {
        next_reading(&readings).await;
    }
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
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&publish(5, 2, 1, &device.mqtt_topic(), b"{}")).await;
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x9b);
}
