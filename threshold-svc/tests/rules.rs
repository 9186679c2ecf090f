//! What a threshold may say, and what its answer warns of.

use crate::{PATH, World, changed, id, start, warm};
use serde_json::{Value, json};

/// A threshold that says everything that one about limits can say.
fn full() -> Value {
    let mut body = warm();
    body.as_object_mut().unwrap().extend(
        json!({"hysteresis": 0.5, "forSeconds": 60, "keepFiringSeconds": 120, "repeat": 3600, "alertAgeSecondsMax": 86_400})
            .as_object()
            .unwrap()
            .clone(),
    );
    body
}

fn silence() -> Value {
    json!({"deviceType": "T", "metric": "temperature", "noDataSeconds": 900, "severity": "critical", "repeat": "never"})
}

#[tokio::test]
async fn all_that_a_threshold_says_is_stored_answered_and_taken_back() {
    let world = start().await;
    for (number, body) in [full(), silence()].iter().enumerate() {
        let created = world.create(body).await.body;
        for (field, value) in body.as_object().unwrap() {
            let same = created[field] == *value || created[field].as_f64() == value.as_f64();
            assert!(same && !created[field].is_null(), "{field}: {created}");
        }
        assert_eq!(created["updatedBy"], "ada");
        let path = format!("{PATH}/{}", created["thresholdId"].as_str().unwrap());
        let read = world.rest.get(&path).await.ok(200).body;
        assert_eq!(read, created);
        let mut replaced = world.rest.put(&path, &read).await.ok(200).body;
        for field in ["version", "updatedAt"] {
            assert_ne!(replaced[field], read[field], "{field}");
            replaced[field] = read[field].clone();
        }
        assert_eq!(replaced, read);
        // The row is what change data capture sends on: it is a row of the contract.
        let row = world
            .database
            .client()
            .await
            .query_one("SELECT to_jsonb(t) FROM sensor_thresholds AS t ORDER BY created_at DESC LIMIT 1", &[])
            .await
            .unwrap();
        let row: schema::ThresholdRow = serde_json::from_value(row.get(0)).unwrap();
        assert_eq!(row.no_data_seconds.is_some(), number == 1);
        assert_eq!(row.repeat, [schema::Repeat::Seconds(3_600), schema::Repeat::Never][number]);
        assert_eq!(row.updated_by, "ada");
    }
}

#[tokio::test]
async fn what_a_patch_takes_away_is_as_if_it_had_never_been_said() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&full()).await));
    for (field, default) in [
        ("hysteresis", json!(0.0)),
        ("forSeconds", json!(0)),
        ("keepFiringSeconds", json!(0)),
        ("repeat", json!("every")),
        ("alertAgeSecondsMax", Value::Null),
    ] {
        let patched = world.rest.patch(&path, &json!({ field: null })).await.ok(200).body;
        assert_eq!(patched[field], default, "{field}");
    }
    // Limits become a silence in one change, not in two.
    let silent = json!({"min": null, "max": null, "noDataSeconds": 60});
    assert_eq!(world.rest.patch(&path, &silent).await.ok(200).body["noDataSeconds"], 60);
    assert_eq!(
        world.rest.patch(&path, &json!({"max": 3})).await.problem(400).bad_fields(),
        ["noDataSeconds"]
    );
}

#[tokio::test]
async fn what_cannot_happen_is_refused() {
    let world = start().await;
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    for (body, bad) in [
        (with(full(), "noDataSeconds", json!(60)), vec!["noDataSeconds", "hysteresis", "forSeconds"]),
        (with(silence(), "forSeconds", json!(1)), vec!["forSeconds"]),
        (with(silence(), "hysteresis", json!(0.1)), vec!["hysteresis"]),
        (with(full(), "hysteresis", json!(-0.1)), vec!["hysteresis"]),
        // -5 to 30.5: 17.75 from both ends is nowhere.
        (with(full(), "hysteresis", json!(17.75)), vec!["hysteresis"]),
        (with(full(), "hysteresis", json!("1")), vec!["hysteresis"]),
        (with(full(), "forSeconds", json!(-1)), vec!["forSeconds"]),
        (with(full(), "forSeconds", json!(0.5)), vec!["forSeconds"]),
        (with(full(), "keepFiringSeconds", json!(31_536_001)), vec!["keepFiringSeconds"]),
        (with(silence(), "noDataSeconds", json!(0)), vec!["noDataSeconds"]),
        (with(silence(), "noDataSeconds", json!(31_536_001)), vec!["noDataSeconds"]),
        (with(full(), "alertAgeSecondsMax", json!(0)), vec!["alertAgeSecondsMax"]),
        (with(full(), "repeat", json!("sometimes")), vec!["repeat"]),
        (with(full(), "repeat", json!("60")), vec!["repeat"]),
        (with(full(), "repeat", json!(0)), vec!["repeat"]),
        (with(full(), "repeat", json!(31_536_001)), vec!["repeat"]),
        (with(full(), "updatedBy", json!("me")), vec!["updatedBy"]),
    ] {
        assert_eq!(world.rest.post(PATH, &body).await.problem(400).bad_fields(), bad, "{body}");
    }
    let all = json!({"metric": 1, "noDataSeconds": 0, "hysteresis": "x", "forSeconds": -1, "keepFiringSeconds": 0.5,
        "repeat": 0, "alertAgeSecondsMax": 1e9});
    let names = ["metric", "noDataSeconds", "hysteresis", "forSeconds", "keepFiringSeconds", "repeat"];
    let rest = ["alertAgeSecondsMax", "severity", "sensorId"];
    assert_eq!(world.rest.post(PATH, &all).await.problem(400).bad_fields(), [&names[..], &rest[..]].concat());
    assert_eq!(world.rows().await, 0);
}

/// A threshold of that scope, with limits that no other has.
async fn of(world: &World, scope: Value, max: f64, mode: &str) -> Value {
    let mut body = json!({"metric": "temperature", "max": max, "severity": "warning", "mode": mode});
    body.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
    world.create(&body).await.body
}

/// What an answer warns of: types and ids.
fn warned(answer: &Value) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ids = |warning: &Value| {
        let ids: Vec<_> = warning["thresholdIds"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(warning["count"], ids.len());
        ids
    };
    let warnings = answer["warnings"].as_array().cloned().unwrap_or_default();
    warnings.iter().map(|warning| (text(&warning["type"]), ids(warning))).collect()
}

#[tokio::test]
async fn thresholds_that_hide_each_other_are_warned_of_and_stored_all_the_same() {
    let world = start().await;
    let one = |kind: &str, others: &[&Value]| {
        let mut ids: Vec<_> =
            others.iter().map(|other| other["thresholdId"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        (kind.to_owned(), ids)
    };
    // Every device of this world is a T in z.
    let kind = of(&world, json!({"deviceType": "T"}), 1.0, "live").await;
    assert_eq!(warned(&kind), []);
    let elsewhere = of(&world, json!({"deviceType": "U"}), 2.0, "live").await;
    let zone = of(&world, json!({"zoneId": "z"}), 3.0, "live").await;
    assert_eq!(warned(&zone), [one("hides", &[&kind, &elsewhere])]);
    let sensor = of(&world, json!({"sensorId": "a"}), 4.0, "live").await;
    assert_eq!(warned(&sensor), [one("hides", &[&kind, &zone])]);
    let both = of(&world, json!({"zoneId": "z", "deviceType": "T"}), 5.0, "live").await;
    assert_eq!(warned(&both), [one("hidden", &[&sensor]), one("hides", &[&kind, &zone])]);
    // The same scope again: both speak.
    let beside = of(&world, json!({"sensorId": "a"}), 6.0, "live").await;
    assert_eq!(warned(&beside), [one("hides", &[&kind, &zone, &both])]);
    // On trial it is hidden and hides nothing that is live; off it is nothing to anybody.
    let trial = of(&world, json!({"zoneId": "z", "deviceType": "T"}), 7.0, "shadow").await;
    assert_eq!(warned(&trial), [one("hidden", &[&sensor, &beside])]);
    assert_eq!(warned(&of(&world, json!({"zoneId": "z"}), 8.0, "off").await), []);
    // Another metric, severity or kind is another matter.
    let mut other = silence();
    other["severity"] = json!("warning");
    assert_eq!(warned(&world.create(&other).await.body), []);

    // An answer with warnings may be sent back, and a GET has none.
    let path = format!("{PATH}/{}", sensor["thresholdId"].as_str().unwrap());
    assert_eq!(world.rest.get(&path).await.ok(200).body["warnings"], Value::Null);
    let again = world.rest.put(&path, &sensor).await.ok(200).body;
    assert_eq!(warned(&again), [one("hides", &[&kind, &zone, &both, &trial])]);
    let patched = world.rest.patch(&path, &json!({"mode": "off"})).await.ok(200).body;
    assert_eq!(warned(&patched), []);
}

#[tokio::test]
async fn the_same_silence_twice_is_refused_as_the_same_limits_are() {
    let world = start().await;
    let first = id(&world.create(&silence()).await);
    let twin = world.rest.post(PATH, &silence()).await.problem(409);
    assert!(twin.body["detail"].as_str().unwrap().contains(&first), "{:?}", twin.body);
    let mut longer = silence();
    longer["noDataSeconds"] = json!(901);
    world.create(&longer).await;
    // What does not tell thresholds apart: two that wait for another time are the same limits.
    world.create(&warm()).await;
    let patient = changed("forSeconds", json!(60));
    assert_eq!(world.rest.post(PATH, &patient).await.problem(409).body["type"], "/problems/same-limits");
}
