//! Clients that others wrote.

use std::process::Stdio;

use rumqttc::v5;
use schema::topics;
use testkit::device::Device;
use tokio::process::Command;

use crate::stack::{Registered, Stack, next_reading};

async fn mosquitto_pub(stack: &Stack, device: &Registered, version: &str, qos: &str, payload: &str) -> bool {
    let certificate = stack.pki.path(&format!("{}.pem", device.sensor_id));
    let key = stack.pki.path(&format!("{}.key", device.sensor_id));
    let status = Command::new("mosquitto_pub")
        .args(["-h", "localhost", "-p", &stack.port.to_string(), "-V", version, "-q", qos])
        .arg("--cafile")
        .arg(stack.pki.path("ca.pem"))
        .arg("--cert")
        .arg(certificate)
        .arg("--key")
        .arg(key)
        .args(["-t", &device.mqtt_topic(), "-m", payload])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .unwrap();
    status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_pub_makes_readings_in_both_versions() {
    let stack = Stack::start().await;
    let device = stack.register("thermostat-1").await;
    let readings = stack.kafka.read(topics::READINGS);
    for (version, qos, value) in
        [("mqttv311", "1", 21.5), ("mqttv5", "1", 22.5), ("mqttv311", "0", 23.5), ("mqttv5", "0", 24.5)]
    {
        let payload = format!(r#"{{"temperature":{value},"unit":"C"}}"#);
        assert!(mosquitto_pub(&stack, &device, version, qos, &payload).await, "{version} QoS {qos}");
        let reading = next_reading(&readings).await;
        assert_eq!(reading.values["temperature"], value);
        assert_eq!(reading.attributes["unit"], "C");
        assert_eq!((reading.sensor_id.as_str(), reading.zone_id.as_str()), ("thermostat-1", "zone-1"));
        assert_eq!(reading.device_type, "THERMOSTAT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_makes_readings_in_3_1_1() {
    let stack = Stack::start().await;
    let device = stack.register("heart-1").await;
    let mut client = Device::connect(stack.port, &stack.pki.root_pem(), "heart-1", Some(&device.certificate))
        .await
        .unwrap();
    let readings = stack.kafka.read(topics::READINGS);
    for value in 0..20_u8 {
        client.publish(&format!(r#"{{"bpm":{value}}}"#)).await.unwrap();
        assert_eq!(next_reading(&readings).await.values["bpm"], f64::from(value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_makes_readings_in_5_and_names_its_events() {
    use v5::mqttbytes::{QoS, v5::Packet, v5::PublishProperties};
    let stack = Stack::start().await;
    let device = stack.register("car-1").await;
    let tls = testkit::device::tls(&stack.pki.root_pem(), Some(&device.certificate));
    let mut options = v5::MqttOptions::new("car-1", "localhost", stack.port);
    options
        .set_transport(rumqttc::Transport::Tls(rumqttc::TlsConfiguration::Rustls(std::sync::Arc::new(tls))));
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let properties = PublishProperties {
        user_properties: vec![("event-id".to_owned(), "e-1".to_owned())],
        ..PublishProperties::default()
    };
    let payload = r#"{"fuel":0.5}"#;
    client
        .publish_with_properties(device.mqtt_topic(), QoS::AtLeastOnce, false, payload, properties)
        .await
        .unwrap();
    loop {
        if let v5::Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
            break;
        }
    }
    let reading = next_reading(&stack.kafka.read(topics::READINGS)).await;
    assert_eq!(reading.event_id, schema::event_id_from_publisher("car-1", "e-1"));
}
