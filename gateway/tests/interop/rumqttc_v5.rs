//! rumqttc in MQTT 5.

use super::{MESSAGES, assert_numbered, assert_one_dead_letter};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{
        ConnAckProperties, DisconnectReasonCode, Packet, PubAckReason, PublishProperties, SubscribeReasonCode,
    },
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{TlsConfiguration, Transport};
use schema::topics;
use std::sync::Arc;
use std::time::Duration;
use testkit::wait::PATIENCE;
use tokio::time::timeout;

/// What the gateway announces as Receive Maximum, and the client keeps to.
const WINDOW: u16 = 20;

struct Client {
    client: AsyncClient,
    events: EventLoop,
    offer: ConnAckProperties,
}

impl Client {
    async fn connect(stack: &Stack, device: &Registered, client_id: &str) -> Self {
        let mut options = MqttOptions::new(client_id, "localhost", stack.port);
        let tls = testkit::device::tls(&stack.pki.root_pem(), Some(&device.certificate));
        options
            .set_keep_alive(Duration::from_secs(5))
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, mut events) = AsyncClient::new(options, 2 * MESSAGES);
        let offer = loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = events.poll().await.unwrap() {
                break connack.properties.expect("MQTT 5 is told the limits");
            }
        };
        Self { client, events, offer }
    }

    /// The next packet that is wanted, or how the connection ended before it came.
    async fn wait<T>(&mut self, wanted: impl Fn(&Packet) -> Option<T>) -> Result<T, ConnectionError> {
        let search = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await?
                    && let Some(found) = wanted(&packet)
                {
                    return Ok(found);
                }
            }
        };
        timeout(PATIENCE, search).await.expect("waited in vain for a packet or the end")
    }

    async fn puback(&mut self) -> Result<(u16, PubAckReason), ConnectionError> {
        let told = |packet: &Packet| match packet {
            Packet::PubAck(puback) => Some((puback.pkid, puback.reason)),
            Packet::PubRec(_) => panic!("a PUBREC would promise what is not kept"),
            _ => None,
        };
        self.wait(told).await
    }

    /// Publishes, and waits for the PUBACK or the end.
    async fn publish(
        &mut self,
        mqtt_topic: &str,
        qos: QoS,
        retain: bool,
        payload: &str,
    ) -> Result<PubAckReason, ConnectionError> {
        self.client.publish(mqtt_topic, qos, retain, payload.to_owned()).await.unwrap();
        self.puback().await.map(|(_, reason)| reason)
    }

    async fn subscribe(&mut self, filter: &str) -> (Vec<SubscribeReasonCode>, Option<String>) {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let told = |packet: &Packet| match packet {
            Packet::SubAck(suback) => {
                let text = suback.properties.as_ref().and_then(|properties| properties.reason_string.clone());
                Some((suback.return_codes.clone(), text))
            }
            _ => None,
        };
        self.wait(told).await.unwrap()
    }

    /// How the gateway ends the connection.
    async fn end(&mut self) -> (DisconnectReasonCode, String) {
        told_at_the_end(self.wait(|_| None::<()>).await.expect_err("nothing else is waited for"))
    }
}

fn told_at_the_end(error: ConnectionError) -> (DisconnectReasonCode, String) {
    match error {
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            (reason_code, reason_string.expect("a sentence for the firmware engineer"))
        }
        other => panic!("no DISCONNECT: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_in_5_is_a_device_and_is_told_why_it_is_refused() {
    let stack = Stack::with(&[("IN_FLIGHT_MAX", &WINDOW.to_string()), ("PACKET_BYTES_MAX", "65536")]).await;
    let device = stack.register("car-1").await;
    let own = device.mqtt_topic();
    let mut client = Client::connect(&stack, &device, "main").await;
    let offer = &client.offer;
    assert_eq!((offer.receive_max, offer.max_packet_size), (Some(WINDOW), Some(65_536)));
    assert_eq!((offer.max_qos, offer.retain_available, offer.topic_alias_max), (Some(1), Some(0), Some(0)));
    assert_eq!(offer.wildcard_subscription_available, Some(1));
    assert_eq!(offer.subscription_identifiers_available, Some(0));
    assert_eq!(offer.shared_subscription_available, Some(0));
    for n in 0..MESSAGES {
        client.client.publish(&own, QoS::AtLeastOnce, false, format!(r#"{{"n":{n}}}"#)).await.unwrap();
    }
    for packet_id in (1..=WINDOW).cycle().take(MESSAGES) {
        assert_eq!(client.puback().await.unwrap(), (packet_id, PubAckReason::Success), "in PUBLISH order");
    }
    let named = PublishProperties {
        user_properties: vec![("event-id".to_owned(), "e-1".to_owned())],
        ..PublishProperties::default()
    };
    client
        .client
        .publish_with_properties(&own, QoS::AtLeastOnce, false, r#"{"named":1}"#, named)
        .await
        .unwrap();
    assert_eq!(client.puback().await.unwrap().1, PubAckReason::Success);
    let malformed = client.publish(&own, QoS::AtLeastOnce, false, "this is not JSON").await;
    assert_eq!(malformed.unwrap(), PubAckReason::Success);
    let foreign = client.publish("devices/another-1/readings", QoS::AtLeastOnce, false, "{}").await;
    assert_eq!(foreign.unwrap(), PubAckReason::NotAuthorized);
    let granted = vec![SubscribeReasonCode::Success(QoS::AtMostOnce)];
    assert_eq!(client.subscribe("devices/car-1/#").await, (granted, None));
    for (filter, code, word) in [
        ("devices/another-1/#", SubscribeReasonCode::NotAuthorized, "below devices/"),
        ("$share/all/devices/car-1/#", SubscribeReasonCode::SharedSubscriptionsNotSupported, "shared"),
    ] {
        let (codes, text) = client.subscribe(filter).await;
        assert_eq!(codes, [code]);
        assert!(text.as_ref().is_some_and(|text| text.contains(word)), "{text:?}");
    }
    client.wait(|packet| matches!(packet, Packet::PingResp(_)).then_some(())).await.unwrap();

    for (qos, retain, code, word) in [
        (QoS::ExactlyOnce, false, DisconnectReasonCode::QoSNotSupported, "QoS 1"),
        (QoS::AtLeastOnce, true, DisconnectReasonCode::RetainNotSupported, "retain flag"),
    ] {
        let mut refused = Client::connect(&stack, &device, "refused").await;
        let ended = refused.publish(&own, qos, retain, r#"{"refused":1}"#).await.expect_err("not offered");
        let (reason, text) = told_at_the_end(ended);
        assert_eq!(reason, code);
        assert!(text.contains(word), "{text}");
    }
    let mut successor = Client::connect(&stack, &device, "main").await;
    assert_eq!(client.end().await.0, DisconnectReasonCode::SessionTakenOver);
    let stored = successor.publish(&own, QoS::AtLeastOnce, false, r#"{"successor":1}"#).await;
    assert_eq!(stored.unwrap(), PubAckReason::Success);

    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    let event_id = next_reading(&readings).await.event_id;
    assert_eq!(event_id, schema::event_id_from_publisher("car-1", "e-1"));
    assert_eq!(next_reading(&readings).await.values["successor"], 1.0);
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
    assert_one_dead_letter(&stack, "this is not JSON").await;
}
