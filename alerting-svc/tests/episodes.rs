//! Episodes: opened once, closed once, whatever ends meanwhile.

use crate::support::{Rule, Stage, alert, reading};
use schema::{Alert, EpisodeStep, Mode, ReadingCreatedEvent, Reason, Scope, Status, Timestamp, topics};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use testkit::kafka::Reader;
use testkit::wait::{PATIENCE, until};
use uuid::Uuid;

/// Enough sensors to reach every partition.
const SENSORS: usize = 16;

fn sensor(n: usize) -> String {
    format!("sensor-{}", n % SENSORS)
}

/// A rule for every thermostat that speaks when an episode opens and closes.
fn of_type() -> Rule {
    let scope = Scope::DeviceType("THERMOSTAT".to_owned());
    Rule { scope, more: json!({"repeat": "never"}), ..Rule::new("", 30.0) }
}

async fn next(alerts: &Reader) -> Alert {
    alert(&alerts.next().await)
}

#[tokio::test]
async fn sixty_violations_are_one_alert_and_the_end_is_another() {
    let stage = Stage::set().await;
    let rule = of_type();
    stage.put(&rule).await;
    let device = json!({
        "sensor_id": "s", "display_name": "Hall", "device_type": "THERMOSTAT", "zone_id": "kitchen",
        "codec": "json", "status": "active", "fingerprints": [], "version": 1,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    });
    stage.put_row(topics::DEVICE_UPDATES, json!({"sensor_id": "s"}), device).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    let mut readings = Vec::new();
    for _ in 0..60 {
        readings.push(reading("s", 31.5));
        stage.publish(readings.last().unwrap()).await;
    }
    stage.publish(&reading("s", 29.0)).await;
    let (opened, closed) = (next(&alerts).await, next(&alerts).await);
    assert_eq!((opened.status, opened.episode), (Status::Firing, Some(EpisodeStep::Opened)));
    assert_eq!((opened.event_id, opened.occurrences), (Some(readings[0].event_id), Some(1)));
    assert_eq!(opened.summary.as_deref(), Some("Hall: temperature 31.5 is above 30"));
    assert_eq!((closed.status, closed.reason), (Status::Resolved, Some(Reason::Recovered)));
    assert_eq!((closed.episode_id, closed.occurrences), (opened.episode_id, Some(60)));
    assert_eq!((closed.opened_at, closed.value), (Some(readings[0].reading_at), Some(29.0)));
    service.stop().await;
}

#[tokio::test]
async fn rule_of_a_type_opens_one_episode_for_each_sensor_over_two_instances() {
    let stage = Stage::set().await;
    stage.put(&of_type()).await;
    let services = [stage.start("a"), stage.start("b")];
    let alerts = stage.alerts();
    let mut steps: BTreeMap<String, Vec<EpisodeStep>> = BTreeMap::new();
    for value in [31.0, 32.0, 29.0] {
        for n in 0..SENSORS {
            stage.publish(&reading(&sensor(n), value)).await;
        }
    }
    while steps.values().flatten().count() < 2 * SENSORS {
        let alert = next(&alerts).await;
        steps.entry(alert.sensor_id).or_default().push(alert.episode.unwrap());
    }
    assert!(steps.values().all(|steps| *steps == [EpisodeStep::Opened, EpisodeStep::Closed]), "{steps:?}");
    for service in services {
        service.stop().await;
    }
}

#[tokio::test]
async fn rule_that_is_deleted_closes_the_episode_also_while_nobody_looks() {
    let stage = Stage::set().await;
    let rules = [Rule::new("s", 30.0), Rule::new("t", 30.0)];
    for rule in &rules {
        stage.put(rule).await;
    }
    let service = stage.start("a");
    let alerts = stage.alerts();
    for sensor in ["s", "t"] {
        stage.publish(&reading(sensor, 31.0)).await;
        assert_eq!(next(&alerts).await.episode, Some(EpisodeStep::Opened));
    }
    stage.delete(&rules[0]).await;
    let closed = next(&alerts).await;
    assert_eq!((closed.sensor_id.as_str(), closed.reason), ("s", Some(Reason::RuleDeleted)));
    service.stop().await;
    stage.delete(&rules[1]).await;
    let service = stage.start("a");
    let closed = next(&alerts).await;
    assert_eq!((closed.sensor_id.as_str(), closed.reason), ("t", Some(Reason::RuleDeleted)));
    service.stop().await;
}

#[tokio::test]
async fn silence_of_a_sensor_is_told_once_over_restarts_and_ends_when_it_speaks() {
    let stage = Stage::set().await;
    let more = json!({"max_value": null, "no_data_seconds": 3});
    stage.put(&Rule { more, ..Rule::new("s", 0.0) }).await;
    let alerts = stage.alerts();
    let service = stage.start("a");
    let first = reading("s", 1.0);
    stage.publish(&first).await;
    until("the reading to be evaluated", async || {
        (service.metric("alerting_readings_total") >= 1.0).then_some(())
    })
    .await;
    // The record of the sensor says when it spoke first; only its readings say when it spoke last.
    let last = reading("s", 1.0);
    stage.publish(&last).await;
    until("the second to be evaluated", async || {
        (service.metric("alerting_readings_total") >= 2.0).then_some(())
    })
    .await;
    service.stop().await;
    let service = stage.start("a");
    let opened = next(&alerts).await;
    assert_eq!((opened.reason, opened.reading_at), (Some(Reason::NoData), last.reading_at));
    assert_eq!((opened.value, opened.event_id), (None, None));
    assert!(opened.detected_at.as_micros() - last.received_at.as_micros() >= 3_000_000, "a false alarm");
    service.stop().await;
    let service = stage.start("b");
    service.is_ready().await;
    let again = reading("s", 2.0);
    stage.publish(&again).await;
    let closed = next(&alerts).await;
    assert_eq!((closed.reason, closed.event_id), (Some(Reason::Recovered), Some(again.event_id)));
    assert_eq!(closed.episode_id, opened.episode_id);
    service.stop().await;
}

#[tokio::test]
async fn alert_that_a_silence_covers_is_marked_and_not_dropped() {
    let stage = Stage::set().await;
    stage.put(&Rule::new("s", 30.0)).await;
    stage.put(&Rule::new("t", 30.0)).await;
    let id = Uuid::from_u128(7);
    let silence = json!({
        "silence_id": id, "sensor_id": "s", "device_type": null, "zone_id": null, "metric": null, "severity": null,
        "starts_at": "2026-01-02T03:04:05Z", "ends_at": "9000-01-02T03:04:05Z", "comment": "painting",
        "created_by": "jo", "version": 1,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    });
    stage.put_row(topics::SILENCE_UPDATES, json!({"silence_id": id}), silence).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    for (sensor, silenced_by) in [("s", Some(id)), ("t", None)] {
        stage.publish(&reading(sensor, 31.0)).await;
        let alert = next(&alerts).await;
        assert_eq!((alert.sensor_id.as_str(), alert.silenced_by), (sensor, silenced_by));
    }
    service.stop().await;
}

#[tokio::test]
async fn device_that_is_suspended_closes_its_episode() {
    let stage = Stage::set().await;
    stage.put(&Rule::new("s", 30.0)).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    stage.publish(&reading("s", 31.0)).await;
    next(&alerts).await;
    let device = json!({
        "sensor_id": "s", "device_type": "THERMOSTAT", "zone_id": "kitchen", "codec": "json",
        "status": "suspended", "fingerprints": [], "version": 2,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    });
    stage.put_row(topics::DEVICE_UPDATES, json!({"sensor_id": "s"}), device).await;
    let closed = next(&alerts).await;
    assert_eq!((closed.status, closed.reason), (Status::Resolved, Some(Reason::DeviceGone)));
    service.stop().await;
}

#[tokio::test]
async fn violation_that_lasts_opens_without_another_reading() {
    let stage = Stage::set().await;
    stage.put(&Rule { more: json!({"for_seconds": 2}), ..Rule::new("s", 30.0) }).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    let only = reading("s", 31.0);
    stage.publish(&only).await;
    let opened = next(&alerts).await;
    let due = Timestamp::from_micros(only.reading_at.as_micros() + 2_000_000).unwrap();
    assert_eq!((opened.episode, opened.opened_at), (Some(EpisodeStep::Opened), Some(due)));
    assert_eq!((opened.event_id, opened.value), (Some(only.event_id), Some(31.0)));
    service.stop().await;
}

#[tokio::test]
async fn episode_in_shadow_is_counted_and_told_to_nobody() {
    let stage = Stage::set().await;
    stage.put(&Rule { mode: Mode::Shadow, ..Rule::new("s", 30.0) }).await;
    stage.put(&Rule::new("t", 30.0)).await;
    let service = stage.start("a");
    let alerts = stage.alerts();
    stage.publish(&reading("s", 31.0)).await;
    stage.publish(&reading("t", 31.0)).await;
    assert_eq!(next(&alerts).await.sensor_id, "t");
    let counted = async || (service.metric("alerting_shadow_episodes_total") >= 1.0).then_some(());
    until("the episode in shadow to be counted", counted).await;
    service.stop().await;
}

/// A sensor's readings: outside and inside in turn.
fn turns(round: usize) -> Vec<ReadingCreatedEvent> {
    let value = if round.is_multiple_of(2) { 31.0 } else { 29.0 };
    (0..SENSORS).map(|n| reading(&sensor(n), value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_episodes_open_once_and_close_once() {
    let stage = Stage::set().await;
    stage.put(&of_type()).await;
    let alerts = stage.alerts();
    let steady = stage.start("steady");
    let mut seen: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
    let mut rounds = 0;
    for kill in 0..4_u64 {
        let process = stage.spawn("killed");
        // Killed in the middle of what it reads: at another moment each time.
        let until_killed = Instant::now() + Duration::from_millis(1_500 + 700 * kill);
        while Instant::now() < until_killed {
            for reading in turns(rounds) {
                stage.publish(&reading).await;
            }
            rounds += 1;
        }
        process.kill();
    }
    // The last round is inside: every episode is over.
    for reading in turns(1) {
        stage.publish(&reading).await;
    }
    // A round outside opened, the inside one after it closed.
    let expected = 2 * rounds.div_ceil(2) * SENSORS;
    let started = Instant::now();
    while seen.values().flatten().count() < expected {
        assert!(started.elapsed() < 2 * PATIENCE, "{} of {expected} alerts", seen.values().flatten().count());
        if let Some(record) = alerts.next_within(Duration::from_millis(500)).await {
            let alert = alert(&record);
            seen.entry(alert.sensor_id.clone()).or_default().push(alert);
        }
    }
    println!("{rounds} rounds of {SENSORS} sensors, four kills, {expected} alerts");
    let extra = stage.start("extra");
    stage.publish(&reading("last", 31.0)).await;
    let last = next(&alerts).await;
    assert_eq!(last.sensor_id, "last", "an alert came twice");
    for (sensor, alerts) in seen {
        for pair in alerts.chunks(2) {
            let [opened, closed] = pair else { panic!("{sensor}: an episode is not closed") };
            assert_eq!(
                (opened.episode, closed.episode),
                (Some(EpisodeStep::Opened), Some(EpisodeStep::Closed))
            );
            assert_eq!(opened.episode_id, closed.episode_id, "{sensor}");
        }
    }
    steady.stop().await;
    extra.stop().await;
}
