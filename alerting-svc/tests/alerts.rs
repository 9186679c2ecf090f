//! Which readings become alerts.

use crate::support::{MARKER, Rule, Stage, alert, reading};
use schema::{Alert, Limit, Mode, Reason, Scope, Severity, Status, topics};
use std::time::{Duration, Instant};
use testkit::kafka::Reader;
use testkit::wait::until;

#[tokio::test]
async fn reading_outside_its_threshold_becomes_an_alert_and_one_inside_does_not() {
    let stage = Stage::set().await;
    let rule = Rule { version: 7, ..Rule::new("s", 30.0) };
    stage.put(&rule).await;
    let service = stage.start("a");
    let (inside, outside) = (reading("s", 30.0), reading("s", 30.5));
    stage.publish(&inside).await;
    stage.publish(&outside).await;
    let record = stage.alerts().next().await;
    let alert = alert(&record);
    assert_eq!((record.key.as_slice(), record.header("schema")), (b"s".as_slice(), Some("alert/1")));
    assert_eq!(alert.alert_id, Alert::id(rule.id, 7, outside.event_id));
    assert_eq!((alert.event_id, alert.reason), (Some(outside.event_id), Some(Reason::Above)));
    assert_eq!((alert.threshold_id, alert.threshold_version), (rule.id, 7));
    assert_eq!((alert.status, alert.severity), (Status::Firing, Severity::Critical));
    assert_eq!((alert.bound.limit, alert.bound.value), (Limit::Max, 30.0));
    assert_eq!(
        (alert.sensor_id.as_str(), alert.metric.as_str(), alert.value),
        ("s", "temperature", Some(30.5))
    );
    assert_eq!((alert.zone_id.as_str(), alert.device_type.as_str()), ("kitchen", "THERMOSTAT"));
    assert_eq!(alert.reading_at, outside.reading_at);
    assert!(alert.detected_at >= outside.received_at);
    service.stop().await;
}

#[tokio::test]
async fn most_specific_rule_of_a_sensor_speaks_and_those_of_others_do_not() {
    let stage = Stage::set().await;
    let (zone, kind) = ("kitchen".to_owned(), "THERMOSTAT".to_owned());
    let both = Scope::ZoneAndType { zone_id: zone.clone(), device_type: kind.clone() };
    let scopes = [
        Scope::Sensor("s".to_owned()),
        both,
        Scope::Zone(zone),
        Scope::DeviceType(kind),
        Scope::Sensor("other".to_owned()),
        Scope::Zone("garage".to_owned()),
        Scope::DeviceType("PUMP".to_owned()),
    ];
    let rules = scopes.map(|scope| Rule { scope, ..Rule::new("", 30.0) });
    for rule in &rules {
        stage.put(rule).await;
    }
    let service = stage.start("a");
    let alerts = stage.alerts();
    for (sensor, expected) in [("s", &rules[0]), ("t", &rules[1]), ("s", &rules[0])] {
        let reading = reading(sensor, 31.0);
        stage.publish(&reading).await;
        let alert = alert(&alerts.next().await);
        assert_eq!((alert.threshold_id, alert.event_id), (expected.id, Some(reading.event_id)));
    }
    service.stop().await;
}

#[tokio::test]
async fn rule_in_shadow_is_counted_and_alerts_nobody() {
    let stage = Stage::set().await;
    let mut rule = Rule { mode: Mode::Shadow, ..Rule::new("s", 30.0) };
    stage.put(&rule).await;
    stage.put(&Rule::marker("s")).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    assert_eq!(metrics(&stage, &alerts, 31.0).await, [MARKER]);
    assert_eq!(metrics(&stage, &alerts, 29.0).await, [MARKER]);
    let counted = async || (service.metric("alerting_readings_total") >= 2.0).then_some(());
    until("both readings to be committed", counted).await;
    assert_eq!(service.metric("alerting_shadow_violations_total"), 1.0);
    (rule.version, rule.mode) = (2, Mode::Live);
    stage.put(&rule).await;
    comes_to(&stage, &alerts, 31.0, &["temperature", MARKER]).await;
    service.stop().await;
}

/// Publishes a reading and returns the metrics of its violations; the marker's comes last.
async fn metrics(stage: &Stage, alerts: &Reader, temperature: f64) -> Vec<String> {
    let reading = reading("s", temperature);
    stage.publish(&reading).await;
    let mut metrics = Vec::new();
    while metrics.last().is_none_or(|metric| metric != MARKER) {
        let alert = alert(&alerts.next().await);
        if alert.status == Status::Firing {
            assert_eq!(alert.event_id, Some(reading.event_id));
            metrics.push(alert.metric);
        }
    }
    metrics
}

/// Publishes readings until one has that outcome: a change of the table travels on its own.
async fn comes_to(stage: &Stage, alerts: &Reader, temperature: f64, expected: &[&str]) {
    let started = Instant::now();
    while metrics(stage, alerts, temperature).await != expected {
        assert!(started.elapsed() < testkit::wait::PATIENCE, "alerts never come to {expected:?}");
    }
}

#[tokio::test]
async fn change_of_a_threshold_is_in_force_for_the_next_reading() {
    let stage = Stage::set().await;
    stage.put(&Rule::marker("s")).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    assert_eq!(metrics(&stage, &alerts, 35.0).await, [MARKER]);
    let mut rule = Rule::new("s", 30.0);
    stage.put(&rule).await;
    comes_to(&stage, &alerts, 35.0, &["temperature", MARKER]).await;
    (rule.version, rule.max) = (2, 40.0);
    stage.put(&rule).await;
    comes_to(&stage, &alerts, 35.0, &[MARKER]).await;
    assert_eq!(metrics(&stage, &alerts, 41.0).await, ["temperature", MARKER]);
    (rule.version, rule.mode) = (3, Mode::Off);
    stage.put(&rule).await;
    comes_to(&stage, &alerts, 41.0, &[MARKER]).await;
    (rule.version, rule.mode) = (4, Mode::Live);
    stage.put(&rule).await;
    comes_to(&stage, &alerts, 41.0, &["temperature", MARKER]).await;
    stage.delete(&rule).await;
    comes_to(&stage, &alerts, 41.0, &[MARKER]).await;
    service.stop().await;
}

#[tokio::test]
async fn first_reading_is_evaluated_by_the_whole_table() {
    let stage = Stage::set().await;
    stage.publish(&reading("s", 31.0)).await;
    for other in 0..300 {
        stage.put(&Rule::new(&format!("other-{other}"), 0.0)).await;
    }
    stage.put(&Rule::new("s", 99.0)).await;
    let rule = Rule::new("s", 30.0);
    stage.put(&Rule { max: 99.0, ..rule.clone() }).await;
    stage.put(&Rule { version: 2, ..rule.clone() }).await;
    let service = stage.start("a");
    let alert = alert(&stage.alerts().next().await);
    assert_eq!((alert.threshold_id, alert.threshold_version), (rule.id, 2));
    service.stop().await;
}

#[tokio::test]
async fn alert_is_visible_well_within_a_second() {
    let stage = Stage::set().await;
    stage.put(&Rule::new("s", 30.0)).await;
    let service = stage.start("a");
    service.is_ready().await;
    let alerts = stage.alerts();
    stage.publish(&reading("s", 31.0)).await;
    alerts.next().await;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        stage.publish(&reading("s", 31.0)).await;
        alerts.next().await;
        waits.push(started.elapsed());
    }
    waits.sort();
    println!("publish to visible alert: median {:?}, longest {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(500), "{waits:?}");
    service.stop().await;
}

#[tokio::test]
async fn record_that_is_no_reading_is_counted_and_holds_nothing_up() {
    let stage = Stage::set().await;
    stage.put(&Rule::new("s", 30.0)).await;
    let service = stage.start("a");
    stage.kafka.produce(topics::READINGS, "s", Some(b"{\"secret\":")).await;
    stage.kafka.produce(topics::READINGS, "s", None).await;
    stage.publish(&reading("s", 31.0)).await;
    stage.alerts().next().await;
    until("both to be counted", async || {
        (service.metric("alerting_undecodable_records_total") >= 2.0).then_some(())
    })
    .await;
    // command-svc is the one writer of the dead letters.
    assert_eq!(stage.kafka.count(topics::READING_DLQ), 0);
    service.stop().await;
}

#[tokio::test]
async fn threshold_whose_change_cannot_be_read_stays_in_force_and_makes_the_service_unready() {
    let stage = Stage::set().await;
    let rule = Rule::new("s", 30.0);
    stage.put(&rule).await;
    stage.put(&Rule::marker("s")).await;
    let service = stage.start("a");
    service.is_ready().await;
    let alerts = stage.alerts();
    assert_eq!(metrics(&stage, &alerts, 35.0).await, ["temperature", MARKER]);
    until("the watch on the table to find it read to its end", async || {
        let is_watched = service.metric("alerting_thresholds_partitions_assigned") > 0.0;
        (is_watched && service.metric("alerting_thresholds_lag_records") == 0.0).then_some(())
    })
    .await;
    stage.rule_record(&rule, Some(serde_json::json!({"op": "u", "after": {"of": "another release"}}))).await;
    until("the service to be not ready", async || {
        (service.chassis.readiness.closed() == ["thresholds-readable"]).then_some(())
    })
    .await;
    assert_eq!(service.metric("alerting_unreadable_thresholds"), 1.0);
    assert_eq!(metrics(&stage, &alerts, 35.0).await, ["temperature", MARKER]);
    stage.delete(&rule).await;
    service.is_ready().await;
    comes_to(&stage, &alerts, 35.0, &[MARKER]).await;
    service.stop().await;
}

#[tokio::test]
async fn reading_published_twice_makes_one_alert_also_after_a_restart_or_a_handover() {
    let stage = Stage::set().await;
    let rule = Rule::new("s", 30.0);
    stage.put(&rule).await;
    let alerts = stage.alerts();
    let twice = reading("s", 31.0);
    for (run, instance) in ["a", "a", "b"].into_iter().enumerate() {
        let service = stage.start(instance);
        let last = reading("s", 32.0);
        stage.publish(&twice).await;
        stage.publish(&twice).await;
        stage.publish(&last).await;
        if run == 0 {
            assert_eq!(alert(&alerts.next().await).event_id.unwrap(), twice.event_id);
        }
        assert_eq!(alert(&alerts.next().await).event_id.unwrap(), last.event_id, "run {run}");
        service.stop().await;
    }
    // Neither does an edit of the threshold make it a new alert.
    stage.put(&Rule { version: 2, ..rule }).await;
    let service = stage.start("a");
    let last = reading("s", 33.0);
    stage.publish(&twice).await;
    stage.publish(&last).await;
    let next = alert(&alerts.next().await);
    assert_eq!((next.event_id, next.threshold_version), (Some(last.event_id), 2));
    service.stop().await;
}
