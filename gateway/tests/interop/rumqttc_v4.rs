//! rumqttc, what the simulator is made of, in MQTT 3.1.1.

use super::{MESSAGES, assert_numbered, assert_one_dead_letter};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use schema::topics;
use std::sync::Arc;
use std::time::Duration;
use testkit::wait::PATIENCE;
use tokio::time::timeout;

const WINDOW: u16 = 20;

struct Client {
    client: AsyncClient,
    events: EventLoop,
}

impl Client {
    async fn connect(stack: &Stack, device: &Registered, client_id: &str) -> Self {
        let mut options = MqttOptions::new(client_id, "localhost", stack.port);
        let tls = testkit::device::tls(&stack.pki.root_pem(), Some(&device.certificate));
        options
            .set_keep_alive(Duration::from_secs(5))
            .set_inflight(WINDOW)
            .set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, events) = AsyncClient::new(options, 2 * MESSAGES);
        let mut client = Self { client, events };
        client.wait(|packet| matches!(packet, Incoming::ConnAck(_)).then_some(())).await.unwrap();
        client
    }

    /// The next packet that is wanted, or how the connection ended before it came.
    async fn wait<T>(&mut self, wanted: impl Fn(&Incoming) -> Option<T>) -> Result<T, ConnectionError> {
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

    /// Publishes, and waits for the PUBACK or the end.
    async fn publish(
        &mut self,
        mqtt_topic: &str,
        qos: QoS,
        retain: bool,
        payload: &str,
    ) -> Result<u16, ConnectionError> {
        self.client.publish(mqtt_topic, qos, retain, payload).await.unwrap();
        self.puback().await
    }

    async fn puback(&mut self) -> Result<u16, ConnectionError> {
        let id = |packet: &Incoming| match packet {
            Incoming::PubAck(puback) => Some(puback.pkid),
            Incoming::PubRec(_) => panic!("a PUBREC would promise what is not kept"),
            _ => None,
        };
        self.wait(id).await
    }

    async fn subscribe(&mut self, filter: &str) -> Vec<SubscribeReasonCode> {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let codes = |packet: &Incoming| match packet {
            Incoming::SubAck(suback) => Some(suback.return_codes.clone()),
            _ => None,
        };
        self.wait(codes).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_in_3_1_1_is_a_device() {
    let stack = Stack::start().await;
    let device = stack.register("heart-1").await;
    let own = device.mqtt_topic();
    let mut client = Client::connect(&stack, &device, "main").await;
    for n in 0..MESSAGES {
        client.client.publish(&own, QoS::AtLeastOnce, false, format!(r#"{{"n":{n}}}"#)).await.unwrap();
    }
    for packet_id in (1..=WINDOW).cycle().take(MESSAGES) {
        assert_eq!(client.puback().await.unwrap(), packet_id, "in PUBLISH order");
    }
    client.client.publish(&own, QoS::AtMostOnce, false, r#"{"at_most_once":1}"#).await.unwrap();
    client.publish(&own, QoS::AtLeastOnce, true, r#"{"retained":1}"#).await.expect("the flag is ignored");
    client.publish(&own, QoS::AtLeastOnce, false, "this is not JSON").await.unwrap();
    assert_eq!(client.subscribe("devices/heart-1/#").await, [SubscribeReasonCode::Success(QoS::AtMostOnce)]);
    assert_eq!(client.subscribe("devices/another-1/#").await, [SubscribeReasonCode::Failure]);
    client.wait(|packet| matches!(packet, Incoming::PingResp).then_some(())).await.unwrap();

    for (mqtt_topic, qos) in
        [("devices/another-1/readings", QoS::AtLeastOnce), (own.as_str(), QoS::ExactlyOnce)]
    {
        let mut refused = Client::connect(&stack, &device, "refused").await;
        let outcome = refused.publish(mqtt_topic, qos, false, r#"{"refused":1}"#).await;
        assert!(outcome.is_err(), "3.1.1 has no words, the connection ends");
    }
    let mut successor = Client::connect(&stack, &device, "main").await;
    assert!(client.wait(|_| None::<()>).await.is_err(), "taken over");
    successor.publish(&own, QoS::AtLeastOnce, false, r#"{"successor":1}"#).await.unwrap();

    let readings = stack.kafka.read(topics::READINGS);
    assert_numbered(&readings).await;
    for metric in ["at_most_once", "retained", "successor"] {
        assert_eq!(next_reading(&readings).await.values[metric], 1.0);
    }
    assert!(readings.next_within(QUIET).await.is_none(), "nothing of what was refused");
    assert_one_dead_letter(&stack, "this is not JSON").await;
}
