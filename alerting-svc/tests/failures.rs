//! What comes once, whatever ends.

use crate::support::{Rule, Stage, alert, reading};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use schema::{ReadingCreatedEvent, topics};
use std::collections::{BTreeMap, BTreeSet};
use testkit::kafka::Reader;
use testkit::wait::until;
use uuid::Uuid;

/// Enough sensors to reach every partition.
const SENSORS: usize = 16;

fn sensor(n: usize) -> String {
    format!("sensor-{}", n % SENSORS)
}

async fn rules(stage: &Stage) {
    for n in 0..SENSORS {
        stage.put(&Rule::new(&sensor(n), 30.0)).await;
    }
}

/// Publishes one reading for each turn.
async fn publish(stage: &Stage, count: usize) -> BTreeSet<Uuid> {
    let mut events = BTreeSet::new();
    for n in 0..count {
        let reading = reading(&sensor(n), 31.0);
        stage.publish(&reading).await;
        events.insert(reading.event_id);
    }
    events
}

/// Counts alerts by event.
struct Seen<'a> {
    alerts: &'a Reader,
    counts: BTreeMap<Uuid, usize>,
}

impl Seen<'_> {
    async fn all(&mut self, events: &BTreeSet<Uuid>) {
        while !events.iter().all(|event| self.counts.contains_key(event)) {
            let event = alert(&self.alerts.next().await).event_id.unwrap();
            *self.counts.entry(event).or_default() += 1;
            assert_eq!(self.counts[&event], 1, "an alert came twice");
        }
    }

    async fn some(&mut self, count: usize) {
        while self.counts.len() < count {
            let event = alert(&self.alerts.next().await).event_id.unwrap();
            *self.counts.entry(event).or_default() += 1;
            assert_eq!(self.counts[&event], 1, "an alert came twice");
        }
    }
}

#[tokio::test]
async fn process_killed_again_and_again_makes_each_alert_once() {
    let stage = Stage::set().await;
    rules(&stage).await;
    let alerts = stage.alerts();
    let mut seen = Seen { alerts: &alerts, counts: BTreeMap::new() };
    let mut events = BTreeSet::new();
    for _ in 0..3 {
        events.extend(publish(&stage, 40).await);
        let process = stage.spawn("a");
        seen.some(seen.counts.len() + 1).await;
        events.extend(publish(&stage, 40).await);
        process.kill();
    }
    let service = stage.start("a");
    seen.all(&events).await;
    // An alert that comes a second time would stand before these.
    let last = publish(&stage, SENSORS).await;
    seen.all(&last).await;
    service.stop().await;
}

#[tokio::test]
async fn instance_takes_over_what_a_killed_one_has_left() {
    let stage = Stage::set().await;
    rules(&stage).await;
    let alerts = stage.alerts();
    let mut seen = Seen { alerts: &alerts, counts: BTreeMap::new() };
    let (first, second) = (stage.spawn("a"), stage.start("b"));
    let mut events = publish(&stage, 100).await;
    seen.some(50).await;
    events.extend(publish(&stage, 100).await);
    first.kill();
    events.extend(publish(&stage, 100).await);
    seen.all(&events).await;
    let last = publish(&stage, SENSORS).await;
    seen.all(&last).await;
    second.stop().await;
}

#[tokio::test]
async fn instances_share_the_readings_and_hand_them_over_without_a_second_alert() {
    let stage = Stage::set().await;
    rules(&stage).await;
    let alerts = stage.alerts();
    let mut seen = Seen { alerts: &alerts, counts: BTreeMap::new() };
    let first = stage.start("a");
    let readings: Vec<ReadingCreatedEvent> = (0..SENSORS).map(|n| reading(&sensor(n), 31.0)).collect();
    for reading in &readings {
        stage.publish(reading).await;
    }
    seen.all(&readings.iter().map(|reading| reading.event_id).collect()).await;
    let second = stage.start("b");
    let mut events = BTreeSet::new();
    for _ in 0..20 {
        for reading in &readings {
            stage.publish(reading).await;
        }
        events.extend(publish(&stage, SENSORS).await);
    }
    seen.all(&events).await;
    first.stop().await;
    second.stop().await;
}

/// Lets the broker accept alerts, or refuse them as too large; the markers of transactions stay welcome.
async fn accept(stage: &Stage, does: bool) {
    let settings = stage.kafka.settings();
    let admin: AdminClient<DefaultClientContext> = settings.client().create().unwrap();
    let topic = settings.topic(topics::ALERTS.name);
    let bytes = if does { "1000000" } else { "100" };
    let config = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", bytes);
    for outcome in admin.alter_configs([&config], &AdminOptions::new()).await.unwrap() {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn alert_that_kafka_refuses_comes_once_when_it_does_not() {
    let stage = Stage::set().await;
    rules(&stage).await;
    let alerts = stage.alerts();
    let mut seen = Seen { alerts: &alerts, counts: BTreeMap::new() };
    let service = stage.start("a");
    service.is_ready().await;
    let before = publish(&stage, SENSORS).await;
    seen.all(&before).await;
    accept(&stage, false).await;
    let mut events = BTreeSet::new();
    // The broker hears of the setting a little later.
    until("the service to be not ready", async || {
        events.extend(publish(&stage, SENSORS).await);
        (!service.chassis.readiness.closed().is_empty()).then_some(())
    })
    .await;
    accept(&stage, true).await;
    events.extend(publish(&stage, SENSORS).await);
    seen.all(&events).await;
    let last = publish(&stage, SENSORS).await;
    seen.all(&last).await;
    service.stop().await;
}

#[tokio::test]
async fn second_instance_of_a_name_stops_the_first() {
    let stage = Stage::set().await;
    rules(&stage).await;
    let alerts = stage.alerts();
    let first = stage.start("a");
    let events = publish(&stage, SENSORS).await;
    Seen { alerts: &alerts, counts: BTreeMap::new() }.all(&events).await;
    let second = stage.start("a");
    let stopped = tokio::time::timeout(testkit::wait::PATIENCE, first.task).await;
    assert!(stopped.expect("the first stops").unwrap().is_err());
    let events = publish(&stage, SENSORS).await;
    let mut seen = BTreeSet::new();
    while seen != events {
        seen.insert(alert(&alerts.next().await).event_id.unwrap());
    }
    second.stop().await;
}

#[tokio::test]
async fn topics_that_are_not_co_partitioned_stop_the_service() {
    let stage = Stage::set().await;
    let settings = stage.kafka.settings();
    let admin: AdminClient<DefaultClientContext> = settings.client().create().unwrap();
    let alerts = settings.topic(topics::ALERTS.name);
    let more = NewPartitions::new(&alerts, 5);
    for outcome in admin.create_partitions([&more], &AdminOptions::new()).await.unwrap() {
        outcome.unwrap();
    }
    let service = stage.start("a");
    let ended = tokio::time::timeout(testkit::wait::PATIENCE, service.task).await;
    let error = ended.expect("the service stops").unwrap().unwrap_err();
    assert!(error.to_string().contains("same number"), "{error:#}");
}
