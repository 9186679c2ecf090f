//! A PUBACK is a promise.

use crate::raw::{PINGREQ, PINGRESP, disconnect_reason, puback, publish};
use crate::stack::{QUIET, Stack, letter_of, next_reading};
use schema::topics;
use testkit::kafka::Kafka;
use testkit::wait;

#[tokio::test(flavor = "multi_thread")]
async fn no_puback_before_kafka_has_the_reading() {
    for version in [4, 5] {
        let stack = Stack::stalled(&[]).await;
        let device = stack.register("a-1").await;
        let mut client = stack.dial(&device).await;
        client.enter(version, "c").await;
        for packet_id in 1..=10 {
            client.send(&publish(version, 1, packet_id, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        }
        client.send(&PINGREQ).await;
        assert_eq!(client.frame().await.unwrap(), PINGRESP, "ten messages wait, and the ping is answered");
        assert_eq!(stack.metric("gateway_publishes_total"), 10.0);
        assert_eq!(stack.metric("gateway_acknowledgements_total"), 0.0);
        stack.release_readings().await;
        for packet_id in 1..=10 {
            assert_eq!(client.frame().await.unwrap(), puback(packet_id), "in PUBLISH order");
        }
        let readings = stack.kafka.read(topics::READINGS);
        for _ in 1..=10 {
            next_reading(&readings).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn undecodable_lands_in_the_dead_letters_and_is_acknowledged_in_its_turn() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    let payloads: [&[u8]; 3] = [br#"{"t":1}"#, b"\xff\x00 not JSON", br#"{"t":2}"#];
    for (packet_id, payload) in (1..).zip(payloads) {
        client.send(&publish(4, 1, packet_id, "devices/a-1/readings/raw", payload)).await;
    }
    for packet_id in 1..=3 {
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
    }
    let letter = stack.kafka.read(topics::PRODUCER_DLQ).next().await;
    assert_eq!((letter.key.as_slice(), letter.value.as_deref()), (b"a-1".as_slice(), Some(payloads[1])));
    assert_eq!(letter.header("reason"), Some("not-json"));
    assert_eq!(
        letter_of(&letter).mqtt_topic.as_deref(),
        Some("devices/a-1/readings/raw"),
        "it can be read again"
    );
    assert_eq!(letter.header("codec"), Some("json"));
    assert_eq!(letter.header("mqtt-topic"), Some("devices/a-1/readings/raw"));
    assert!(schema::Timestamp::parse(letter.header("received-at").unwrap()).is_ok());
    let readings = stack.kafka.read(topics::READINGS);
    for value in [1.0, 2.0] {
        assert_eq!(next_reading(&readings).await.values["t"], value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_not_acknowledged() {
    let stack = Stack::start().await;
    let device = stack.register("a-1").await;
    stack.refuse_readings().await;
    for version in [4, 5] {
        let mut client = stack.dial(&device).await;
        client.enter(version, "c").await;
        client.send(&publish(version, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#)).await;
        if version == 5 {
            assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x89);
        }
        assert_eq!(client.frame().await, None);
    }
    assert_eq!(stack.metric("gateway_acknowledgements_total"), 0.0);
    assert_eq!(stack.metric("gateway_produce_failures_total"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_window_stops_the_reading_and_loses_nothing() {
    let stack = Stack::stalled(&[("IN_FLIGHT_MAX", "2")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    for packet_id in 1..=6 {
        let payload = format!(r#"{{"t":{packet_id}}}"#);
        client.send(&publish(4, 1, packet_id, &device.mqtt_topic(), payload.as_bytes())).await;
    }
    wait::until("the reading stops", async || {
        (stack.metric("gateway_read_pauses_total") > 0.0).then_some(())
    })
    .await;
    assert_eq!(stack.metric("gateway_publishes_total"), 3.0, "two in flight, one at hand, the rest unread");
    stack.release_readings().await;
    let readings = stack.kafka.read(topics::READINGS);
    for packet_id in 1..=6 {
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
        assert_eq!(next_reading(&readings).await.values["t"], f64::from(packet_id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_ignores_its_receive_maximum_waits_and_loses_nothing() {
    let stack = Stack::stalled(&[("IN_FLIGHT_MAX", "2")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    for packet_id in 1..=50 {
        client.send(&publish(5, 1, packet_id, &device.mqtt_topic(), br#"{"t":1}"#)).await;
    }
    wait::until("the reading stops", async || {
        (stack.metric_of("gateway_read_pauses_total", "window") > 0.0).then_some(())
    })
    .await;
    assert_eq!(stack.metric("gateway_publishes_total"), 3.0, "two in flight, one at hand, the rest unread");
    stack.release_readings().await;
    for packet_id in 1..=50 {
        assert_eq!(client.frame().await.unwrap(), puback(packet_id));
    }
    assert_eq!(stack.metric("gateway_sessions_ended_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_readings_wait_for_room_like_any_other() {
    let stack = Stack::stalled(&[("IN_FLIGHT_MAX", "10")]).await;
    let device = stack.register("edge-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;
    client.send(&publish(4, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#)).await;
    wait::until("a reading waits for Kafka", async || {
        (stack.metric("gateway_publishes_total") == 1.0).then_some(())
    })
    .await;
    stack.change(&device, |row| row.codec = "sparkplug-b".to_owned()).await;
    // Registered later, so that the change before it has arrived, too.
    stack.register("witness-1").await;
    let death = format!("{}/NDEATH", device.mqtt_topic());
    for packet_id in 2..=500 {
        client.send(&publish(4, 1, packet_id, &death, b"")).await;
    }
    wait::until("the reading stops", async || {
        (stack.metric_of("gateway_read_pauses_total", "window") > 0.0).then_some(())
    })
    .await;
    assert_eq!(stack.metric("gateway_publishes_total"), 11.0, "ten in the window, one at hand");
    stack.release_readings().await;
    for packet_id in 1..=500 {
        assert_eq!(client.frame().await.unwrap(), puback(packet_id), "in PUBLISH order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_budget_stops_the_reading_and_loses_nothing() {
    // Room for one large message at a time.
    let settings = [
        ("PACKET_BYTES_MAX", "40000"),
        ("IN_FLIGHT_BYTES_MAX", "90000"),
        ("IN_FLIGHT_TOTAL_BYTES_MAX", "90000"),
    ];
    let stack = Stack::stalled(&settings).await;
    let (a, b) = (stack.register("a-1").await, stack.register("b-1").await);
    let payload = format!(r#"{{"t":1{}}}"#, " ".repeat(30_000));
    let mut clients = Vec::new();
    for device in [&a, &b] {
        let mut client = stack.dial(device).await;
        client.enter(4, "c").await;
        client.send(&publish(4, 1, 1, &device.mqtt_topic(), payload.as_bytes())).await;
        clients.push(client);
    }
    wait::until("the budget is exhausted", async || {
        (stack.metric("gateway_read_pauses_total") > 0.0).then_some(())
    })
    .await;
    assert_eq!(stack.metric("gateway_publishes_total"), 1.0);
    stack.release_readings().await;
    for client in &mut clients {
        assert_eq!(client.frame().await.unwrap(), puback(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_acknowledges_what_is_in_flight_and_says_good_bye() {
    let stack = Stack::stalled(&[]).await;
    let device = stack.register("a-1").await;
    let mut idle = stack.dial(&device).await;
    idle.enter(5, "idle").await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&publish(5, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#)).await;
    wait::until("the message is read", async || {
        (stack.metric("gateway_publishes_total") > 0.0).then_some(())
    })
    .await;
    stack.chassis.shutdown.cancel();
    assert_eq!(disconnect_reason(&idle.frame().await.unwrap()), 0x8b);
    stack.release_readings().await;
    assert_eq!(client.frame().await.unwrap(), puback(1));
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x8b);
    stack.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_though_kafka_does_not_answer() {
    let stack = Stack::stalled(&[("DRAIN_MS_MAX", "200")]).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "c").await;
    client.send(&publish(5, 1, 1, &device.mqtt_topic(), br#"{"t":1}"#)).await;
    wait::until("the message is read", async || {
        (stack.metric("gateway_publishes_total") > 0.0).then_some(())
    })
    .await;
    stack.chassis.shutdown.cancel();
    assert_eq!(disconnect_reason(&client.frame().await.unwrap()), 0x8b, "without a PUBACK");
    stack.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_is_not_ready_and_accepts_nobody_before_it_knows_the_devices() {
    // The topics of another prefix: this gateway's own are not there yet.
    let kafka = Kafka::create().await;
    let elsewhere = format!("{}late-", kafka.prefix);
    let stack = Stack::boot(kafka, &[("KAFKA_TOPIC_PREFIX", &elsewhere)]).await;
    let device = stack.pki.device("a-1");
    let root = stack.pki.root_pem();
    let dial = crate::raw::Client::dial(stack.port, &root, Some(&device));
    assert!(tokio::time::timeout(QUIET, dial).await.is_err(), "nobody shakes hands");
    assert!(stack.chassis.readiness.closed().contains(&"devices"));
}
