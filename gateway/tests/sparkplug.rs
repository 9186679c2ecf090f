//! A Sparkplug B edge node and a device behind it, over whole connections. The messages are encoded here, by
//! a schema of this test's own, so that the decoder is not held against itself.

use crate::raw::{Client, puback, publish};
use crate::stack::{QUIET, Registered, Stack, next_reading};
use prost::Message;
use schema::topics;

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, tag = "1")]
    timestamp: u64,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(uint64, tag = "3")]
    seq: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    alias: Option<u64>,
    #[prost(uint64, tag = "3")]
    timestamp: u64,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(bool, optional, tag = "5")]
    is_historical: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    is_null: Option<bool>,
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

/// Declares a metric in a birth, with its present value.
fn born(name: &str, alias: u64, datatype: u32, value: Value) -> Metric {
    Metric {
        name: Some(name.to_owned()),
        alias: Some(alias),
        datatype: Some(datatype),
        value: Some(value),
        ..Metric::default()
    }
}

/// A value by its alias alone, as data must be when there are aliases.
fn aliased(alias: u64, value: Value) -> Metric {
    Metric { alias: Some(alias), value: Some(value), ..Metric::default() }
}

/// One connection of an edge node.
struct Node {
    client: Client,
    topic: String,
    now_ms: u64,
    sent: u16,
}

impl Node {
    async fn connect(stack: &Stack, device: &Registered) -> Self {
        let mut client = stack.dial(device).await;
        client.enter(4, "edge").await;
        let now_ms = u64::try_from(schema::Timestamp::now().as_micros() / 1_000).unwrap();
        Self { client, topic: device.mqtt_topic(), now_ms, sent: 0 }
    }

    /// Publishes one message at QoS 1 and waits for its PUBACK, which comes whatever is decoded; each is a
    /// second later.
    async fn send(&mut self, below: &str, mut metrics: Vec<Metric>) -> Vec<u8> {
        self.sent += 1;
        let timestamp = self.now_ms + 1_000 * u64::from(self.sent);
        for metric in metrics.iter_mut().filter(|metric| metric.timestamp == 0) {
            metric.timestamp = timestamp;
        }
        let payload = Payload { timestamp, metrics, seq: u64::from(self.sent - 1) }.encode_to_vec();
        self.client.send(&publish(4, 1, self.sent, &format!("{}/{below}", self.topic), &payload)).await;
        assert_eq!(self.client.frame().await.unwrap(), puback(self.sent), "{below}");
        payload
    }

    async fn birth(&mut self) {
        let node = vec![
            Metric { alias: None, ..born("bdSeq", 0, 8, Value::Long(0)) },
            born("Node Control/Rebirth", 1, 11, Value::Boolean(false)),
            born("Uptime", 2, 8, Value::Long(7)),
        ];
        self.send("NBIRTH", node).await;
        let pump = vec![
            born("Level", 10, 10, Value::Double(1.5)),
            born("Valve/Open", 11, 11, Value::Boolean(true)),
            born("Drift", 12, 2, Value::Int(0xffff)),
            born("Firmware", 13, 12, Value::Text("1.2".to_owned())),
        ];
        self.send("DBIRTH/pump 1", pump).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_of_an_edge_node_becomes_readings() {
    let stack = Stack::start().await;
    let device = stack.register("edge-1").await;
    stack.change(&device, |row| row.codec = "sparkplug-b".to_owned()).await;
    stack.register("witness-1").await;
    let (readings, letters) = (stack.kafka.read(topics::READINGS), stack.kafka.read(topics::PRODUCER_DLQ));
    let told = async || {
        let reading = next_reading(&readings).await;
        let values: Vec<_> = reading.values.into_iter().collect();
        (values, reading.attributes, reading.reading_at.as_micros() / 1_000)
    };
    let value = |name: &str, value: f64| (name.to_owned(), value);

    let mut node = Node::connect(&stack, &device).await;
    let start = i64::try_from(node.now_ms).unwrap();
    node.birth().await;
    assert_eq!(told().await.0, [value("Uptime", 7.0)], "no bdSeq, no Node Control");
    let (values, attributes, at) = told().await;
    let expected = [value("pump_1.Drift", -1.0), value("pump_1.Level", 1.5), value("pump_1.Valve.Open", 1.0)];
    assert_eq!((values.as_slice(), at), (expected.as_slice(), start + 2_000));
    assert_eq!(attributes["pump_1.Firmware"], "1.2");

    node.send("DDATA/pump 1", vec![aliased(11, Value::Boolean(false)), aliased(12, Value::Int(0x8000))])
        .await;
    let expected = [value("pump_1.Drift", -32_768.0), value("pump_1.Valve.Open", 0.0)];
    assert_eq!(told().await.0, expected, "Int16 by the datatype of the birth");
    let stored = Metric {
        is_historical: Some(true),
        timestamp: node.now_ms - 60_000,
        ..aliased(10, Value::Double(9.0))
    };
    let null = Metric { is_null: Some(true), value: None, ..aliased(10, Value::Int(0)) };
    node.send("DDATA/pump 1", vec![stored, null.clone(), aliased(12, Value::Int(3))]).await;
    assert_eq!(told().await, (vec![value("pump_1.Level", 9.0)], Default::default(), start - 60_000));
    assert_eq!(told().await.0, [value("pump_1.Drift", 3.0)]);
    node.send("DDATA/pump 1", vec![null]).await;

    let unknown = node.send("DDATA/pump 1", vec![aliased(99, Value::Double(1.0))]).await;
    let letter = letters.next().await;
    assert_eq!(
        (letter.value.as_deref(), letter.header("reason")),
        (Some(&unknown[..]), Some("birth-unknown"))
    );
    assert_eq!(letter.header("mqtt-topic"), Some("devices/edge-1/readings/DDATA/pump 1"));

    drop(node);
    let mut node = Node::connect(&stack, &device).await;
    node.send("DDATA/pump 1", vec![aliased(10, Value::Double(2.0))]).await;
    assert_eq!(
        letters.next().await.header("reason"),
        Some("birth-unknown"),
        "births end with their connection"
    );
    node.birth().await;
    node.send("DDATA/pump 1", vec![aliased(10, Value::Double(2.5))]).await;
    told().await;
    told().await;
    assert_eq!(told().await.0, [value("pump_1.Level", 2.5)], "born again");
    node.send("DDEATH/pump 1", Vec::new()).await;
    node.send("DDATA/pump 1", vec![aliased(10, Value::Double(3.0))]).await;
    assert_eq!(letters.next().await.header("reason"), Some("birth-unknown"), "dead");
    assert!(readings.next_within(QUIET).await.is_none() && letters.next_within(QUIET).await.is_none());
}
