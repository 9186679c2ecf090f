//! The history of a threshold: its versions, and their authors.

use crate::{PATH, id, start, warm};
use serde_json::{Value, json};

#[tokio::test]
async fn every_version_is_kept_with_who_made_it_also_the_last() {
    let world = start().await;
    let created = world.create(&warm()).await;
    let path = format!("{PATH}/{}", id(&created));
    let patched = world.rest.patch(&path, &json!({"max": 40})).await.ok(200).body;
    // What is refused leaves no trace.
    world.rest.patch(&path, &json!({"max": null, "min": null})).await.problem(400);
    world.rest.delete(&path).await.ok(204);
    world.rest.get(&path).await.problem(404);

    let versions = format!("{path}/versions");
    let body = world.rest.get(&versions).await.ok(200).body;
    assert_eq!(body["count"], 3);
    let column = |name: &str| -> Vec<Value> {
        body["resources"].as_array().unwrap().iter().map(|version| version[name].clone()).collect()
    };
    assert_eq!(column("change"), ["deleted", "changed", "created"]);
    assert_eq!(column("version"), [3, 2, 1]);
    assert_eq!(column("changedBy"), ["ada", "ada", "ada"]);
    assert_eq!(column("threshold"), [Value::Null, patched.clone(), created.body.clone()]);
    assert_eq!(column("changedAt")[1..], [patched["updatedAt"].clone(), created.body["updatedAt"].clone()]);
    assert!(column("changedAt")[0].as_str() > patched["updatedAt"].as_str());

    let nobody = format!("{PATH}/00000000-0000-0000-0000-000000000000/versions");
    world.rest.get(&nobody).await.problem(404);
    assert_eq!(
        world.rest.get(&format!("{PATH}/x/versions")).await.problem(400).bad_fields(),
        ["thresholdId"]
    );
}

#[tokio::test]
async fn a_history_is_bounded_and_goes_on_when_its_threshold_is_made_again() {
    let world = start().await;
    let mut body = warm();
    body["thresholdId"] = json!("0190163d-8694-739b-aea5-966c26f8ad91");
    let path = format!("{PATH}/{}", id(&world.create(&body).await));
    for number in 0..120 {
        world.rest.patch(&path, &json!({"max": number})).await.ok(200);
    }
    let versions = format!("{path}/versions");
    let history = world.rest.get(&versions).await.ok(200).body;
    assert_eq!((&history["count"], &history["resources"][0]["version"]), (&json!(100), &json!(121)));
    assert_eq!(world.database.count("SELECT count(*) FROM sensor_threshold_versions").await, 100);

    world.rest.delete(&path).await.ok(204);
    world.create(&body).await;
    let history = world.rest.get(&versions).await.ok(200).body;
    let changes: Vec<_> = (0..3).map(|n| history["resources"][n]["change"].clone()).collect();
    assert_eq!(changes, ["created", "deleted", "changed"]);
}

#[tokio::test]
async fn histories_that_ended_long_ago_are_forgotten_and_no_others() {
    let world = start().await;
    let mut ids = Vec::new();
    for max in [40, 41, 42, 43] {
        let mut body = warm();
        body["max"] = json!(max);
        ids.push(id(&world.create(&body).await));
    }
    let [gone, again, recent, last] = ids.try_into().unwrap();
    for id in [&gone, &again] {
        world.rest.delete(&format!("{PATH}/{id}")).await.ok(204);
    }
    let client = world.database.client().await;
    let old = "UPDATE sensor_threshold_versions SET changed_at = changed_at - INTERVAL '367 days'";
    client.batch_execute(old).await.unwrap();
    let mut body = warm();
    body["thresholdId"] = json!(again);
    world.create(&body).await;
    for id in [&recent, &last] {
        world.rest.delete(&format!("{PATH}/{id}")).await.ok(204);
    }
    world.rest.get(&format!("{PATH}/{gone}/versions")).await.problem(404);
    for (id, count) in [(&again, 3), (&recent, 2), (&last, 2)] {
        assert_eq!(world.rest.get(&format!("{PATH}/{id}/versions")).await.ok(200).body["count"], count);
    }
}
