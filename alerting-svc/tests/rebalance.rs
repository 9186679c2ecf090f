//! What holds while partitions move.

use crate::support::{Rule, Service, Stage, alert, reading};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rules::{DedupWindow, Devices, Episodes, Input, Outputs, Rules, Tables};
use schema::{Alert, ReadingCreatedEvent, ThresholdRow, Timestamp, topics};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::kafka::Reader;
use testkit::wait::until;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Enough sensors to reach every partition.
const SENSORS: usize = 16;
/// How long a broker may take over one step of a transaction.
const SETTLE_WAIT: Duration = Duration::from_secs(30);

fn sensor(n: usize) -> String {
    format!("sensor-{}", n % SENSORS)
}

/// Puts one threshold for each sensor.
async fn rules(stage: &Stage) -> Vec<Rule> {
    let rules: Vec<Rule> = (0..SENSORS).map(|n| Rule::new(&sensor(n), 30.0)).collect();
    for rule in &rules {
        stage.put(rule).await;
    }
    rules
}

#[tokio::test]
async fn partition_that_waits_for_its_former_owner_holds_up_no_other() {
    let stage = Stage::set().await;
    let rules = rules(&stage).await;
    let readings: Vec<ReadingCreatedEvent> = (0..SENSORS).map(|n| reading(&sensor(n), 31.0)).collect();
    let mut partition_of = BTreeMap::new();
    let published = stage.kafka.read(topics::READINGS);
    for reading in &readings {
        stage.publish(reading).await;
        partition_of.insert(reading.event_id, published.next().await.partition);
    }
    // What a former owner has produced and not committed yet.
    let (first, partition) = (&readings[0], partition_of[&readings[0].event_id]);
    let row = rules[0].as_row();
    let left_open = alerts_of(first, row);
    let settings = stage.kafka.settings();
    let mut config = settings.producer();
    let former: BaseProducer = config.set("transactional.id", settings.group("former")).create().unwrap();
    former.init_transactions(SETTLE_WAIT).unwrap();
    former.begin_transaction().unwrap();
    let (topic, value) = (settings.topic(topics::ALERTS.name), serde_json::to_string(&left_open[0]).unwrap());
    let record =
        BaseRecord::<str, str>::to(&topic).partition(partition).key(&first.sensor_id).payload(&value);
    former.send(record).unwrap();
    former.flush(SETTLE_WAIT).unwrap();

    let service = stage.start("a");
    let alerts = stage.alerts();
    let others: BTreeSet<Uuid> =
        partition_of.iter().filter(|(_, of)| **of != partition).map(|(event, _)| *event).collect();
    let mut seen: BTreeMap<Uuid, usize> = BTreeMap::new();
    count_until(&alerts, &mut seen, &others).await;
    assert!(seen.keys().all(|event| others.contains(event)), "a window that is not restored was used");

    former.commit_transaction(SETTLE_WAIT).unwrap();
    let last = reading(&first.sensor_id, 32.0);
    stage.publish(&last).await;
    let all: BTreeSet<Uuid> = partition_of.keys().copied().chain([last.event_id]).collect();
    count_until(&alerts, &mut seen, &all).await;
    service.stop().await;
}

/// Evaluates one reading by one threshold.
fn alerts_of(reading: &ReadingCreatedEvent, row: ThresholdRow) -> Vec<Alert> {
    let (mut rules, devices, mut out) = (Rules::default(), Devices::default(), Outputs::default());
    rules.put(row);
    let tables = Tables { rules: &rules, devices: &devices };
    let text = serde_json::to_string(reading).unwrap();
    let view = serde_json::from_str(&text).unwrap();
    Episodes::new(DedupWindow::new(1), 1).step(tables, Input::Reading(&view, 0), Timestamp::now(), &mut out);
    out.alerts
}

/// Reads alerts until every one of the events has one; none comes twice.
async fn count_until(alerts: &Reader, seen: &mut BTreeMap<Uuid, usize>, events: &BTreeSet<Uuid>) {
    while !events.iter().all(|event| seen.contains_key(event)) {
        let event = alert(&alerts.next().await).event_id.unwrap();
        *seen.entry(event).or_default() += 1;
        assert_eq!(seen[&event], 1, "an alert came twice");
    }
}

/// Publishes readings without an end, one after the other, and each of them twice.
struct Load {
    ended: Arc<AtomicBool>,
    task: JoinHandle<BTreeSet<Uuid>>,
}

impl Load {
    fn begin(stage: &Arc<Stage>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (stage, until) = (Arc::clone(stage), Arc::clone(&ended));
        let task = tokio::spawn(async move {
            let mut events = BTreeSet::new();
            let mut before: Option<ReadingCreatedEvent> = None;
            for n in 0.. {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                let reading = reading(&sensor(n), 31.0);
                stage.publish(&reading).await;
                events.insert(reading.event_id);
                // Sent again a little later, by which time it may belong to another instance.
                if let Some(again) = before.replace(reading) {
                    stage.publish(&again).await;
                }
            }
            events
        });
        Self { ended, task }
    }

    async fn end(self) -> BTreeSet<Uuid> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// An alert's event and partition, and when it came.
type Seen = (Uuid, i32, Instant);

/// Reads every alert as it comes, until it is told to end.
fn follow(alerts: Reader) -> (Arc<AtomicBool>, JoinHandle<Vec<Seen>>) {
    let ended = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&ended);
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        while !until.load(Ordering::Relaxed) {
            if let Some(record) = alerts.next_within(Duration::from_millis(100)).await {
                seen.push((alert(&record).event_id.unwrap(), record.partition, Instant::now()));
            }
        }
        seen
    });
    (ended, task)
}

async fn evaluates_one(service: &Service) {
    let before = service.metric("alerting_readings_total");
    let evaluated = async || (service.metric("alerting_readings_total") > before).then_some(());
    until("readings to be evaluated", evaluated).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaled_out_restarted_and_scaled_in_each_alert_comes_once() {
    let stage = Arc::new(Stage::set().await);
    rules(&stage).await;
    let (ended, followed) = follow(stage.alerts());
    let load = Load::begin(&stage);
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for name in ["a", "b", "c"] {
        let service = stage.start(name);
        evaluates_one(&service).await;
        services.insert(name, service);
    }
    // A rolling restart, each under its own name.
    let begun = Instant::now();
    for name in ["a", "b", "c"] {
        services.remove(name).unwrap().stop().await;
        let service = stage.start(name);
        evaluates_one(&service).await;
        services.insert(name, service);
    }
    let rolled = Instant::now();
    for name in ["c", "b"] {
        services.remove(name).unwrap().stop().await;
    }
    // A static member that does not come back is missed when its session is over.
    let left = services.remove("a").unwrap();
    let events = load.end().await;
    let lag = || stage.kafka.lag("alerting-svc", topics::READINGS);
    until("no lag on any partition", async || (lag() == 0).then_some(())).await;
    ended.store(true, Ordering::Relaxed);
    let seen = followed.await.unwrap();
    left.stop().await;
    let restart: Vec<_> = seen.iter().filter(|(.., at)| (begun..rolled).contains(at)).copied().collect();
    println!(
        "{} readings, each twice; longest silence of a partition {:?} in the rolling restart, {:?} in all",
        events.len(),
        silence(&restart),
        silence(&seen)
    );
    let mut counts: BTreeMap<Uuid, usize> = BTreeMap::new();
    for (event, ..) in &seen {
        *counts.entry(*event).or_default() += 1;
    }
    let missing = events.iter().filter(|event| !counts.contains_key(event)).count();
    let double = counts.values().filter(|count| **count > 1).count();
    assert_eq!((missing, double), (0, 0), "alerts that are missing, and that came twice");
}

/// Returns the longest time between two alerts of one partition.
fn silence(seen: &[Seen]) -> Duration {
    let mut last: BTreeMap<i32, Instant> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for (_, partition, at) in seen {
        if let Some(before) = last.insert(*partition, *at) {
            longest = longest.max(at.duration_since(before));
        }
    }
    longest
}
