//! The same walk with cdc-svc and with Debezium in its place: the readers notice nothing.

use e2e::{Publisher, Service, System, complaints};
use schema::topics::{self, Topic};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use testkit::connect::Connect;
use testkit::kafka::{Kafka, Reader};
use testkit::pki::TestPki;
use testkit::postgres::Database;
use testkit::server::Server;
use testkit::wait::until;

/// The shipped connector.
const CONNECTOR: &str = include_str!("../../k8s/components/debezium/connector.yaml");
/// What builds the image that it runs in.
const CONNECT: &str = include_str!("../../k8s/components/debezium/connect.yaml");
/// The connector as this test runs it.
const POM: &str = include_str!("../../testkit/debezium/pom.xml");
/// Rules of a database that lets the capturer in over TLS with its password alone.
const RULES: [&str; 2] =
    ["hostssl all cdc_svc 127.0.0.1/32 scram-sha-256", "host all postgres 127.0.0.1/32 scram-sha-256"];

/// What captures changes.
enum Capturer {
    CdcSvc,
    Debezium(Box<Connect>),
}

impl Capturer {
    async fn kill(&mut self, system: &mut System) {
        match self {
            Self::CdcSvc => system.kill(Service::CDC),
            Self::Debezium(connect) => connect.kill().await,
        }
    }

    async fn restart(&mut self, system: &mut System) {
        match self {
            Self::CdcSvc => system.restart(Service::CDC).await,
            Self::Debezium(connect) => connect.restart().await,
        }
    }
}

async fn run(system: &System, sql: &str) {
    system.database.client().await.batch_execute(sql).await.unwrap();
}

/// Reads on until a change of that row, and returns it; none for a tombstone.
async fn change_of(reader: &Reader, key: &Value) -> Option<Value> {
    let is_its = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).is_ok_and(|found| found == *key);
    let record = reader.find(|record| is_its(&record.key)).await;
    record.value.as_ref().map(|_| serde_json::from_str(record.text()).unwrap())
}

/// Reads on until what happens to that row is this op.
async fn op_of(reader: &Reader, key: &Value, op: &str) -> Value {
    loop {
        if let Some(change) = change_of(reader, key).await.filter(|change| change["op"] == op) {
            return change;
        }
    }
}

const ID: &str = "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b";

/// What a row's life looks like on the topic: keys, envelope, `before`, tombstone.
async fn rows_keep_their_form(system: &System) {
    let key = json!({ "silence_id": ID });
    run(
        system,
        &format!(
            "INSERT INTO silences (silence_id, zone_id, starts_at, ends_at, comment, created_by) \
             VALUES ('{ID}', 'z', '2026-01-02 03:04:05.000006+00', '2026-01-03+00', 'Umbau', 'ada'); \
             UPDATE silences SET comment = 'länger' WHERE silence_id = '{ID}'; \
             DELETE FROM silences WHERE silence_id = '{ID}'"
        ),
    )
    .await;
    let silences = system.kafka.read(topics::SILENCE_UPDATES);
    let inserted = change_of(&silences, &key).await.unwrap();
    assert_eq!((&inserted["op"], &inserted["before"]), (&json!("c"), &Value::Null));
    assert_eq!(inserted["after"]["comment"], "Umbau");
    let updated = change_of(&silences, &key).await.unwrap();
    assert_eq!((&updated["op"], &updated["before"]), (&json!("u"), &inserted["after"]));
    let deleted = change_of(&silences, &key).await.unwrap();
    assert_eq!((&deleted["op"], &deleted["before"]), (&json!("d"), &updated["after"]));
    assert!(deleted["after"].is_null());
    assert_eq!(change_of(&silences, &key).await, None, "a tombstone follows");
    for change in [&inserted, &updated, &deleted] {
        let complaints = complaints("silence-change.1", change);
        assert!(complaints.is_empty(), "{complaints:?} in {change}");
        assert_eq!(change["source"]["table"], "silences");
    }
}

/// What changes while nobody captures arrives, each row in its order.
async fn nothing_is_lost_by_a_kill(system: &mut System, capturer: &mut Capturer) {
    let devices = system.kafka.read(topics::DEVICE_UPDATES);
    let key = json!({ "sensor_id": "early" });
    capturer.kill(system).await;
    let rename =
        |number: u32| format!("UPDATE devices SET display_name = 'name {number}' WHERE sensor_id = 'early'");
    for number in 1..=20 {
        run(system, &rename(number)).await;
    }
    capturer.restart(system).await;
    let mut seen = 0;
    while seen < 20 {
        let Some(change) = change_of(&devices, &key).await else {
            panic!("a tombstone of a row that is there")
        };
        let name = change["after"]["display_name"].as_str().unwrap();
        let Some(number) = name.strip_prefix("name ") else { continue };
        let number: u32 = number.parse().unwrap();
        assert!(number <= seen + 1, "{number} follows {seen}");
        seen = seen.max(number);
    }
}

/// A column of a later release does not stop the capturer or a reader.
async fn added_column_arrives(system: &System) {
    let devices = system.kafka.read(topics::DEVICE_UPDATES);
    let key = json!({ "sensor_id": "early" });
    run(system, "ALTER TABLE devices ADD COLUMN floor integer").await;
    run(system, "UPDATE devices SET floor = 4 WHERE sensor_id = 'early'").await;
    while op_of(&devices, &key, "u").await["after"]["floor"] != 4 {}
}

/// A rule made by SQL alerts, and a device that an operator suspends is cut off.
async fn readers_notice_nothing(system: &System) {
    let certificate = system.register("thermostat-1").await;
    let rule = "INSERT INTO sensor_thresholds (threshold_id, sensor_id, metric, max_value, severity) \
                VALUES (gen_random_uuid(), 'thermostat-1', 'temperature', 30, 'critical')";
    run(system, rule).await;
    let mut device: Publisher = system.publisher("thermostat-1", certificate.clone());
    let alerts = system.kafka.read(topics::ALERTS);
    until("an alert", async || {
        device.publish(r#"{"temperature": 31.5}"#).await;
        alerts.next_within(Duration::from_millis(300)).await
    })
    .await;
    let (mqtt, root) = (system.mqtt_port, system.pki.root_pem());
    let connect =
        async || testkit::device::Device::connect(mqtt, &root, "thermostat-1", Some(&certificate)).await.ok();
    let live = until("a live connection", connect).await;
    let (_client, mut events) = live.into_parts();
    let suspend = json!({
        "displayName": "thermostat-1", "deviceType": "THERMOSTAT", "zoneId": "kitchen", "codec": "json",
        "status": "suspended", "fingerprints": [certificate.fingerprint_sha256_hex],
    });
    let said = Instant::now();
    let path = "/api/v1/devices/thermostat-1";
    let (status, answer) = system.rest(Service::DEVICE, "PUT", path, Some(&suspend)).await;
    assert_eq!(status, 200, "{answer}");
    let cut_off = async { while events.poll().await.is_ok() {} };
    tokio::time::timeout(testkit::wait::PATIENCE, cut_off).await.expect("the device is cut off");
    println!("from the operator's word to the closed connection: {:?}", said.elapsed());
}

async fn walk(system: &mut System, capturer: &mut Capturer) {
    let early =
        op_of(&system.kafka.read(topics::DEVICE_UPDATES), &json!({ "sensor_id": "early" }), "r").await;
    assert_eq!(early["before"], Value::Null);
    rows_keep_their_form(system).await;
    readers_notice_nothing(system).await;
    nothing_is_lost_by_a_kill(system, capturer).await;
    added_column_arrives(system).await;
    for (topic, schema) in [
        (topics::DEVICE_UPDATES, "device-change.1"),
        (topics::THRESHOLD_UPDATES, "threshold-change.1"),
        (topics::SILENCE_UPDATES, "silence-change.1"),
    ] {
        all_keep_their_schema(system, topic, schema).await;
    }
    for service in [Service::GATEWAY, Service::ALERTING] {
        system.wait_ready(service).await;
        let metrics = system.metrics(service).await;
        let unreadable = |line: &&str| line.contains("unreadable") && !line.starts_with('#');
        let found: Vec<&str> =
            metrics.lines().filter(unreadable).filter(|line| !line.ends_with(" 0")).collect();
        assert!(found.is_empty(), "{}: {found:?}", service.name);
    }
}

async fn all_keep_their_schema(system: &System, topic: Topic, schema: &str) {
    for record in system.kafka.read_all(topic).await.iter().filter(|record| record.value.is_some()) {
        let change: Value = serde_json::from_str(record.text()).unwrap();
        let complaints = complaints(schema, &change);
        assert!(complaints.is_empty(), "{}: {complaints:?} in {change}", topic.name);
    }
}

/// Puts a device into the table before anything captures it.
async fn add_early(database: &Database) {
    let early = "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
                 VALUES ('early', 't', 'z', 'json', 'active')";
    database.client().await.batch_execute(early).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_cdc_svc_see_every_change() {
    let database = Database::create().await;
    add_early(&database).await;
    let mut system = System::start_without(&[], Kafka::create().await, database).await;
    walk(&mut system, &mut Capturer::CdcSvc).await;
}

/// Reads what the manifest configures.
fn shipped() -> BTreeMap<String, String> {
    let (_, config) = CONNECTOR.split_once("\n  config:\n").unwrap();
    let class = CONNECTOR.lines().find_map(|line| line.strip_prefix("  class: ")).unwrap();
    let lines = config.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let settings = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    settings.chain([("connector.class".to_owned(), class.to_owned())]).collect()
}

/// Names the servers of this test, the place of the authority, and the prefix of its topics; the rest is as
/// shipped.
fn configured(
    server: &Server,
    pki: &TestPki,
    database: &Database,
    kafka: &Kafka,
) -> BTreeMap<String, String> {
    let mut connector = shipped();
    let (_, name) = database.url().rsplit_once('/').unwrap();
    for (setting, value) in [
        ("database.hostname", "localhost".to_owned()),
        ("database.port", server.port().to_string()),
        ("database.dbname", name.to_owned()),
        ("database.password", "right".to_owned()),
        ("database.sslrootcert", pki.path("ca.pem").display().to_string()),
    ] {
        assert!(connector.insert(setting.to_owned(), value).is_some(), "{setting} is not shipped");
    }
    let topics = connector.iter_mut().filter(|(name, _)| name.ends_with(".replacement"));
    topics.for_each(|(_, topic)| topic.insert_str(0, &kafka.prefix));
    connector
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_debezium_see_every_change() {
    let pki = TestPki::create();
    let server = Server::start_with_tls(&pki).await;
    let (database, kafka) = (Database::create_on(&server).await, Kafka::create().await);
    let role = "CREATE ROLE cdc_svc LOGIN REPLICATION PASSWORD 'right'; \
                GRANT SELECT ON refinery_schema_history, devices, sensor_thresholds, silences TO cdc_svc";
    database.client().await.batch_execute(role).await.unwrap();
    server.admit(&RULES).await;
    add_early(&database).await;
    let connector = configured(&server, &pki, &database, &kafka);
    let mut system = System::start_without(&[Service::CDC], kafka, database).await;
    let begun = Instant::now();
    let connect = Connect::start(&system.kafka.bootstrap, connector).await;
    println!("Kafka Connect runs the connector after {:?}", begun.elapsed());
    let mut capturer = Capturer::Debezium(Box::new(connect));
    walk(&mut system, &mut capturer).await;
    let Capturer::Debezium(connect) = &capturer else { unreachable!("it is Debezium") };
    connect.is_running().await;
    println!("with Debezium: {:?}", begun.elapsed());
}

#[test]
fn tested_connector_is_the_shipped_one() {
    let version = CONNECT.split_once("debezium-connector-postgres, version: ").unwrap().1;
    let version = version.split('}').next().unwrap();
    assert!(POM.contains(&format!("<version>{version}</version>")), "{version}");
}
