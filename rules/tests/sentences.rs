//! What the decisions say, one sentence each. ADR 0022, ADR 0024.

use crate::stage::{Reading, Stage, second, threshold};
use rules::Input;
use schema::EpisodeStep::{Closed, Continuing, Opened};
use schema::Reason::{Above, DeviceGone, NoData, Recovered, RuleChanged, RuleDeleted, RuleOff};
use schema::{Mode, Repeat, Scope, Severity, ThresholdRow};
use serde_json::json;
use uuid::Uuid;

fn read(stage: &mut Stage, values: impl IntoIterator<Item = (i64, f64)>) {
    for (at, value) in values {
        stage.read(&Reading::new("s", at, value));
    }
}

#[test]
fn minute_of_violations_is_one_alert_where_nothing_is_repeated_and_sixty_where_everything_is() {
    for (repeat, alerts) in [(Repeat::Never, 1), (Repeat::Every, 60), (Repeat::Seconds(20), 3)] {
        let mut stage = Stage::new([ThresholdRow { repeat, ..threshold(1) }]);
        read(&mut stage, (0..60).map(|at| (at, 31.0)));
        assert_eq!(stage.steps().len(), alerts, "{repeat}");
        read(&mut stage, [(60, 29.0)]);
        assert_eq!(stage.steps().last(), Some(&(Closed, Recovered, 60)));
        assert!(stage.alerts.iter().all(|alert| alert.episode_id == stage.alerts[0].episode_id));
    }
}

#[test]
fn alert_says_for_a_person_what_met_what_since_when_and_how_often() {
    let mut stage = Stage::new([ThresholdRow { description: "too hot".to_owned(), ..threshold(1) }]);
    let row = json!({
        "sensor_id": "s", "display_name": "Hall", "device_type": "T", "zone_id": "z", "codec": "json",
        "status": "active", "fingerprints": [], "version": 1,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    });
    let change = json!({"op": "c", "before": null, "after": row, "ts_ms": 0}).to_string();
    stage.devices.apply(br#"{"sensor_id":"s"}"#, Some(change.as_bytes())).unwrap();
    read(&mut stage, [(0, 31.5), (1, 32.0), (2, 30.0)]);
    stage.commit();
    let summaries: Vec<_> = stage.alerts.iter().map(|alert| alert.summary.clone().unwrap()).collect();
    let since = second(0);
    assert_eq!(
        summaries,
        [
            "Hall: m 31.5 is above 30 (too hot)".to_owned(),
            format!("Hall: m 32 is above 30, since {since}, 2 times (too hot)"),
            format!("Hall: m 30 is inside its limits again, since {since}, 2 times (too hot)"),
        ]
    );
    let opened = &stage.alerts[0];
    assert_eq!((opened.display_name.as_deref(), opened.opened_at), (Some("Hall"), Some(since)));
    assert_eq!((opened.description.as_deref(), opened.detected_at), (Some("too hot"), since));
}

#[test]
fn alert_has_the_unit_that_its_sensor_said_last() {
    let mut stage = Stage::new([threshold(1)]);
    let say = |at, value, attributes: serde_json::Value| Reading {
        attributes: serde_json::from_value(attributes).unwrap(),
        ..Reading::new("s", at, value)
    };
    stage.read(&say(0, 31.0, json!({"units": {"m": "Cel", "other": "V"}})));
    stage.commit();
    stage.restart();
    stage.read(&say(1, 32.0, json!({})));
    stage.read(&say(2, 33.0, json!({"units.m": "°F"})));
    for (at, refused) in (3..).zip([json!("x".repeat(33)), json!("\u{1b}[2J"), json!(""), json!(7)]) {
        stage.read(&say(at, 34.0, json!({"units": {"m": refused}})));
    }
    stage.read(&say(1, 32.5, json!({"units": {"m": "K"}})));
    stage.read(&say(7, 29.0, json!({"units": "Cel"})));
    stage.commit();
    let units: Vec<_> = stage.alerts.iter().map(|alert| alert.unit.as_deref().unwrap()).collect();
    assert_eq!(units, ["Cel", "Cel", "°F", "°F", "°F", "°F", "°F", "K", "°F"]);
    let summary = |at: usize| stage.alerts[at].summary.clone().unwrap();
    assert_eq!(summary(0), "s: m 31 Cel is above 30 Cel");
    assert!(summary(8).starts_with("s: m 29 °F is inside its limits again"), "{}", summary(8));
}

#[test]
fn most_specific_of_one_metric_one_severity_and_one_kind_speaks() {
    let scoped = |id: u128, scope: Scope| ThresholdRow { scope, repeat: Repeat::Never, ..threshold(id) };
    let (zone_id, device_type) = ("z".to_owned(), "T".to_owned());
    let scopes = [
        Scope::Sensor("s".to_owned()),
        Scope::ZoneAndType { zone_id: zone_id.clone(), device_type: device_type.clone() },
        Scope::Zone(zone_id),
        Scope::DeviceType(device_type),
    ];
    let rows: Vec<_> = (1..).zip(scopes).map(|(id, scope)| scoped(id, scope)).collect();
    let speaking = |rows: &[ThresholdRow]| {
        let mut stage = Stage::new(rows.to_vec());
        read(&mut stage, [(0, 31.0)]);
        stage.commit();
        stage.alerts.iter().map(|alert| alert.threshold_id.as_u128()).collect::<Vec<_>>()
    };
    for first in 0..4 {
        assert_eq!(speaking(&rows[first..]), [rows[first].threshold_id.as_u128()]);
    }
    let also = |change: fn(&mut ThresholdRow)| {
        let mut row = ThresholdRow { threshold_id: Uuid::from_u128(9), ..rows[0].clone() };
        change(&mut row);
        speaking(&[row, rows[3].clone()])
    };
    assert_eq!(also(|_| ()), [9]);
    // Another severity is another purpose, and a threshold that is off or in shadow hides no live one.
    assert_eq!(also(|row| row.severity = Severity::Critical), [9, 4]);
    assert_eq!(also(|row| row.mode = Mode::Shadow), [4]);
    assert_eq!(also(|row| row.mode = Mode::Off), [4]);
    assert_eq!(also(|row| (row.max_value, row.no_data_seconds) = (None, Some(60))), [4]);
    // Equally specific ones all speak.
    assert_eq!(also(|row| row.scope = Scope::DeviceType("T".to_owned())), [4, 9]);
}

#[test]
fn change_that_evaluates_otherwise_closes_the_episode_and_one_of_words_does_not() {
    let row = ThresholdRow { repeat: Repeat::Never, ..threshold(1) };
    let change = |change: fn(&mut ThresholdRow)| {
        let mut stage = Stage::new([row.clone()]);
        read(&mut stage, [(0, 31.0)]);
        let mut row = ThresholdRow { version: 2, updated_at: second(1), ..row.clone() };
        change(&mut row);
        stage.put(row, 1);
        // A reading that was under way opens nothing.
        read(&mut stage, [(1, 31.0)]);
        stage.steps()
    };
    let opened = (Opened, Above, 1);
    assert_eq!(change(|row| row.max_value = Some(40.0)), [opened, (Closed, RuleChanged, 1)]);
    assert_eq!(change(|row| row.scope = Scope::Sensor("t".to_owned())), [opened, (Closed, RuleChanged, 1)]);
    assert_eq!(change(|row| row.mode = Mode::Off), [opened, (Closed, RuleOff, 1)]);
    assert_eq!(change(|row| row.description = "other words".to_owned()), [opened]);
}

#[test]
fn threshold_that_is_deleted_or_hidden_closes_its_episodes() {
    let mut stage = Stage::new([threshold(1)]);
    read(&mut stage, [(0, 31.0)]);
    let touched = stage.rules.remove(Uuid::from_u128(1)).unwrap();
    stage.step(Input::RuleChanged(&touched), 1);
    assert_eq!(stage.steps(), [(Opened, Above, 1), (Closed, RuleDeleted, 1)]);

    let mut stage = Stage::new([threshold(1)]);
    read(&mut stage, [(0, 31.0)]);
    let specific = Scope::Sensor("s".to_owned());
    stage.put(
        ThresholdRow { scope: specific, max_value: Some(90.0), updated_at: second(1), ..threshold(2) },
        1,
    );
    assert_eq!(stage.steps(), [(Opened, Above, 1), (Closed, RuleChanged, 1)]);
}

#[test]
fn device_that_is_suspended_closes_its_episodes_and_opens_none() {
    let row = json!({
        "sensor_id": "s", "device_type": "T", "zone_id": "z", "codec": "json", "status": "suspended",
        "fingerprints": [], "version": 1,
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    });
    let change = json!({"op": "c", "before": null, "after": row, "ts_ms": 0}).to_string();
    let silence = ThresholdRow { max_value: None, no_data_seconds: Some(10), ..threshold(2) };
    let mut stage = Stage::new([threshold(1), silence]);
    read(&mut stage, [(0, 31.0)]);
    stage.devices.apply(br#"{"sensor_id":"s"}"#, Some(change.as_bytes())).unwrap();
    stage.step(Input::DeviceChanged("s"), 1);
    read(&mut stage, [(2, 31.0)]);
    stage.tick(1_000);
    assert_eq!(stage.steps(), [(Opened, Above, 1), (Closed, DeviceGone, 1)]);
    assert_eq!(stage.episodes.next_due(), None);
}

#[test]
fn late_reading_is_evaluated_by_the_version_of_its_event_time_and_opens_nothing_that_is_closed() {
    let mut stage = Stage::new([threshold(1)]);
    let second_version =
        ThresholdRow { version: 2, max_value: Some(40.0), updated_at: second(100), ..threshold(1) };
    stage.put(second_version, 100);
    let late = |at, value| Reading { received: 200, ..Reading::new("s", at, value) };
    stage.read(&late(50, 35.0));
    stage.read(&late(51, 29.0));
    // Older than the end of the episode, and older than the threshold.
    stage.read(&late(49, 35.0));
    stage.read(&late(-1_000_001, 35.0));
    // By the version that is in force now.
    stage.read(&late(150, 35.0));
    assert_eq!(stage.steps(), [(Opened, Above, 1), (Closed, Recovered, 1)]);
    assert_eq!(stage.alerts[0].threshold_version, 1);
    assert_eq!(stage.out.late, 1);
}

#[test]
fn reading_that_is_too_old_moves_nothing() {
    let mut stage = Stage::new([ThresholdRow { alert_age_seconds_max: Some(60), ..threshold(1) }]);
    for at in 0..100 {
        stage.read(&Reading { received: 100_000, ..Reading::new("s", at, 31.0) });
    }
    assert_eq!((stage.steps().len(), stage.out.aged), (0, 100));
    stage.read(&Reading { received: 60, ..Reading::new("s", 0, 31.0) });
    assert_eq!(stage.steps(), [(Opened, Above, 1)]);
}

#[test]
fn silence_lasts_until_the_sensor_speaks_also_over_restarts() {
    let silence = ThresholdRow { max_value: None, no_data_seconds: Some(10), ..threshold(1) };
    let mut stage = Stage::new([silence]);
    read(&mut stage, [(0, 1.0), (5, 1.0)]);
    stage.commit();
    // The record says 0, the readings 5.
    stage.restart();
    stage.tick(14);
    assert_eq!(stage.steps(), []);
    stage.tick(15);
    for _ in 0..3 {
        stage.commit();
        stage.restart();
        stage.tick(100_000);
    }
    assert_eq!(stage.steps(), [(Opened, NoData, 0)]);
    assert_eq!((stage.alerts[0].reading_at, stage.alerts[0].opened_at), (second(5), Some(second(15))));
    read(&mut stage, [(100_001, 1.0)]);
    assert_eq!(stage.steps()[1..], [(Closed, Recovered, 0)]);
}

#[test]
fn device_whose_clock_is_wrong_is_not_silent_while_it_speaks() {
    let silence = ThresholdRow { max_value: None, no_data_seconds: Some(10), ..threshold(1) };
    let mut stage = Stage::new([silence]);
    for now in 0..50 {
        stage.read(&Reading { received: now, ..Reading::new("s", now - 3600, 1.0) });
        stage.tick(now);
    }
    assert_eq!(stage.steps(), []);
    stage.tick(58);
    assert_eq!(stage.steps(), []);
    stage.tick(59);
    assert_eq!(stage.steps(), [(Opened, NoData, 0)]);
}

#[test]
fn continuing_is_said_of_a_late_violation_where_everything_is_repeated() {
    let mut stage = Stage::new([threshold(1)]);
    read(&mut stage, [(0, 31.0), (10, 32.0), (5, 33.0), (5, 33.0)]);
    assert_eq!(stage.steps(), [(Opened, Above, 1), (Continuing, Above, 2), (Continuing, Above, 2)]);
    assert_eq!(stage.alerts[2].value, Some(33.0));
}
