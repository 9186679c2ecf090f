//! `kill -9` of each service while devices publish: nothing acknowledged is lost, nothing is doubled.

use e2e::{Service, System};
use schema::{Alert, Status, Timestamp, topics};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use testkit::kafka::Reader;
use testkit::wait::PATIENCE;

const DEVICES: usize = 4;
/// Time between two readings of a device.
const PACE: Duration = Duration::from_millis(10);
/// Readings of which one lies beyond the threshold.
const ALERT_EVERY: u64 = 5;
const MAX: f64 = 1_000_000.0;
/// The value of readings that are published until a threshold is in force; they are not counted.
const WARM_UP: f64 = 10_000_000.0;

/// The value that a reading carries: its number, beyond the threshold for some.
fn value_of(number: u64) -> f64 {
    let value = number as f64;
    if number.is_multiple_of(ALERT_EVERY) { MAX + 1.0 + value } else { value }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_any_one_service_loses_nothing_and_doubles_nothing() {
    let mut system = System::start().await;
    let alerts = system.kafka.read(topics::ALERTS);
    let mut publishers = Vec::new();
    for device in 0..DEVICES {
        let sensor_id = format!("sensor-{device}");
        let certificate = system.register(&sensor_id).await;
        system.create_threshold(&sensor_id, "number", MAX).await;
        publishers.push(system.publisher(&sensor_id, certificate));
    }
    // Thresholds travel by change data capture; the count begins when each is in force.
    for (device, publisher) in publishers.iter_mut().enumerate() {
        let sensor_id = format!("sensor-{device}");
        let mut tries = 0_u64;
        testkit::wait::until("the threshold in force", async || {
            tries += 1;
            publisher
                .publish(&json!({"number": WARM_UP, "eventId": format!("warm-{tries}")}).to_string())
                .await;
            let record = alerts.next_within(Duration::from_millis(500)).await?;
            (record.key == sensor_id.as_bytes()).then_some(())
        })
        .await;
    }

    let stop = Arc::new(AtomicBool::new(false));
    // The devices' clock starts here, when the thresholds are in force. A message that is sent again keeps
    // its timestamp: that is how it is recognised.
    let begin_ms = Timestamp::now().as_micros() / 1_000;
    let tasks: Vec<_> = publishers
        .into_iter()
        .map(|mut publisher| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut acknowledged = 0_u64;
                let mut pace = tokio::time::interval(PACE);
                while !stop.load(Ordering::Relaxed) {
                    let number = acknowledged + 1;
                    let payload =
                        json!({"number": value_of(number), "timestamp": begin_ms + number.cast_signed()});
                    publisher.publish(&payload.to_string()).await;
                    acknowledged = number;
                    pace.tick().await;
                }
                acknowledged
            })
        })
        .collect();
    for service in Service::required() {
        let before = system.database.count("SELECT count(*) FROM readings_ingestion").await;
        system.kill(service);
        system.restart(service).await;
        testkit::wait::until("rows to grow again", async || {
            (system.database.count("SELECT count(*) FROM readings_ingestion").await > before + 20)
                .then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = BTreeMap::new();
    for (device, task) in tasks.into_iter().enumerate() {
        acknowledged.insert(format!("sensor-{device}"), task.await.unwrap());
    }

    rows_are_exactly_what_was_acknowledged(&system, &acknowledged).await;
    alerts_are_exactly_those_expected(&alerts, &acknowledged).await;
}

/// Numbers 1 to n of each sensor, each once, and the hours count them once.
async fn rows_are_exactly_what_was_acknowledged(system: &System, acknowledged: &BTreeMap<String, u64>) {
    let total: u64 = acknowledged.values().sum();
    let stored = "SELECT count(*) FROM readings_ingestion WHERE value <> 10000000";
    testkit::wait::until("every acknowledged reading as a row", async || {
        (system.database.count(stored).await >= i64::try_from(total).unwrap()).then_some(())
    })
    .await;
    let client = system.database.client().await;
    for (sensor_id, count) in acknowledged {
        let rows = client
            .query(
                "SELECT value FROM readings_ingestion WHERE sensor_id = $1 AND value <> 10000000 ORDER BY value",
                &[sensor_id],
            )
            .await
            .unwrap();
        let mut expected: Vec<f64> = (1..=*count).map(value_of).collect();
        expected.sort_by(f64::total_cmp);
        let values: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(values, expected, "{sensor_id}");
    }
    let all = system.database.count("SELECT count(*) FROM readings_ingestion").await;
    assert_eq!(
        system.database.count("SELECT sum(count)::bigint FROM sensor_reading_hourly_aggregates").await,
        all
    );
    println!("acknowledged {total}, stored {all} with the warm-up, lost 0, doubled 0");
}

/// One alert for each reading that lies beyond the threshold, none twice.
async fn alerts_are_exactly_those_expected(alerts: &Reader, acknowledged: &BTreeMap<String, u64>) {
    let expected: BTreeSet<(String, u64)> = acknowledged
        .iter()
        .flat_map(|(sensor_id, count)| (1..=*count).map(move |number| (sensor_id.clone(), value_of(number))))
        .filter(|(_, value)| *value > MAX)
        .map(|(sensor_id, value)| (sensor_id, value.to_bits()))
        .collect();
    let (mut seen, mut ids) = (BTreeSet::new(), BTreeSet::new());
    loop {
        // Once all are there, whatever still comes must be none of them.
        let patience = if seen.len() < expected.len() { PATIENCE } else { Duration::from_secs(2) };
        let Some(record) = alerts.next_within(patience).await else { break };
        let alert: Alert = serde_json::from_str(record.text()).unwrap();
        assert!(ids.insert(alert.alert_id), "alert {} came twice", alert.alert_id);
        let value = alert.value.unwrap();
        if value < WARM_UP && alert.status == Status::Firing {
            seen.insert((alert.sensor_id, value.to_bits()));
        }
    }
    assert_eq!(seen, expected);
    println!("alerts expected {}, seen {}, doubled 0", expected.len(), seen.len());
}
