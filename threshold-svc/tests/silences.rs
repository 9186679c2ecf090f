//! Silences and acknowledgements.

use crate::{World, start};
use schema::Timestamp;
use serde_json::{Value, json};
use testkit::rest::Answer;

const PATH: &str = "/api/v1/silences";
const EPISODE: &str = "e822263f-9bd0-500e-afba-f3e76eafaee4";

/// An instant that many seconds from now, as text.
fn from_now(seconds: i64) -> String {
    let micros = Timestamp::now().as_micros() + seconds * 1_000_000;
    serde_json::to_value(Timestamp::from_micros(micros).unwrap()).unwrap().as_str().unwrap().to_owned()
}

fn works() -> Value {
    json!({"zoneId": "z", "severity": "warning", "endsAt": from_now(3_600), "comment": "the door is being painted"})
}

fn with(field: &str, value: Value) -> Value {
    let mut body = works();
    body[field] = value;
    body
}

fn path(answer: &Answer) -> String {
    format!("{PATH}/{}", answer.body["silenceId"].as_str().unwrap())
}

/// Names the comments of a list, in its order.
async fn listed(world: &World, query: &str) -> Vec<String> {
    let body = world.rest.get(&format!("{PATH}?{query}")).await.ok(200).body;
    let silences = body["resources"].as_array().unwrap();
    silences.iter().map(|silence| silence["comment"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_silence_is_a_row_of_the_contract_and_is_read_back() {
    let world = start().await;
    let created = world.rest.post(PATH, &works()).await.ok(201);
    assert_eq!(created.header("location"), Some(&*path(&created)));
    for (field, value) in works().as_object().unwrap() {
        assert!(*field == "endsAt" || created.body[field] == *value, "{field}: {:?}", created.body);
    }
    assert_eq!((&created.body["createdBy"], &created.body["version"]), (&json!("ada"), &json!(1)));
    assert_eq!(created.body["startsAt"], created.body["createdAt"], "it begins now unless it says when");
    let read = world.rest.get(&path(&created)).await.ok(200);
    assert_eq!((&read.body, read.header("etag")), (&created.body, Some("\"1\"")));
    let client = world.database.client().await;
    let row = client.query_one("SELECT to_jsonb(s) FROM silences AS s", &[]).await.unwrap();
    let mut row: Value = row.get(0);
    for instant in ["starts_at", "ends_at", "created_at", "updated_at"] {
        // PostgreSQL's own spelling of an instant is not that of change data capture.
        row[instant] = json!(row[instant].as_str().unwrap().replace("+00:00", "Z"));
    }
    let row: schema::SilenceRow = serde_json::from_value(row).unwrap();
    assert_eq!((row.zone_id.as_deref(), row.sensor_id), (Some("z"), None));
    assert_eq!(row.severity, Some(schema::Severity::Warning));
}

#[tokio::test]
async fn its_end_and_its_words_may_change_and_nothing_else() {
    let world = start().await;
    let created = world.rest.post(PATH, &works()).await.ok(201);
    let path = path(&created);
    let later = from_now(7_200);
    let patched = world.rest.patch(&path, &json!({"endsAt": later, "comment": "it rains"})).await.ok(200);
    for (field, value) in created.body.as_object().unwrap() {
        let may_change = ["endsAt", "comment", "version", "updatedAt"].contains(&field.as_str());
        assert_eq!(patched.body[field] != *value, may_change, "{field}");
    }
    assert_eq!(patched.header("etag"), Some("\"2\""));
    // What GET gave may be sent back.
    world.rest.patch(&path, &patched.body).await.ok(200);
    world.rest.patch(&path, &patched.body).await.problem(412);
    for (patch, bad) in [
        (json!({"zoneId": "y"}), "zoneId"),
        (json!({"sensorId": "a"}), "sensorId"),
        (json!({"severity": null}), "severity"),
        (json!({"startsAt": from_now(1)}), "startsAt"),
        (json!({"endsAt": null}), "endsAt"),
        (json!({"endsAt": from_now(-1)}), "endsAt"),
        (json!({"endsAt": from_now(366 * 86_400)}), "endsAt"),
        (json!({"comment": null}), "comment"),
        (json!({"comment": " "}), "comment"),
        (json!({"createdBy": "eve"}), "createdBy"),
        (json!({"colour": "red"}), "colour"),
    ] {
        assert_eq!(world.rest.patch(&path, &patch).await.problem(400).bad_fields(), [bad], "{patch}");
    }
    let stale = world.rest.call("DELETE", &path).header("if-match", "\"1\"");
    stale.send().await.problem(412);
    world.rest.put(&path, &works()).await.problem(405);
}

#[tokio::test]
async fn deletion_ends_it_now_and_what_has_not_begun_goes() {
    let world = start().await;
    let active = world.rest.post(PATH, &works()).await.ok(201);
    let pending = world.rest.post(PATH, &with("startsAt", json!(from_now(1_800)))).await.ok(201);
    assert_eq!(listed(&world, "state=active").await.len(), 1);
    assert_eq!(listed(&world, "state=pending").await.len(), 1);
    for silence in [&active, &pending] {
        world.rest.delete(&path(silence)).await.ok(204);
    }
    world.rest.get(&path(&pending)).await.problem(404);
    let over = world.rest.get(&path(&active)).await.ok(200).body;
    assert!(over["endsAt"].as_str() < Some(&*from_now(1)), "{over}");
    assert_eq!(over["startsAt"], active.body["startsAt"]);
    assert_eq!(
        (listed(&world, "state=active").await.len(), listed(&world, "state=expired").await.len()),
        (0, 1)
    );
    // It stays over: another deletion changes nothing, and a change is refused.
    world.rest.delete(&path(&active)).await.ok(204);
    assert_eq!(world.rest.get(&path(&active)).await.ok(200).body, over);
    let revived = world.rest.patch(&path(&active), &json!({"endsAt": from_now(60)})).await.problem(409);
    assert_eq!(revived.body["type"], "/problems/expired");
}

#[tokio::test]
async fn creation_can_be_repeated_with_an_id_of_the_callers_own() {
    let world = start().await;
    let body = with("silenceId", json!(EPISODE));
    let first = world.rest.post(PATH, &body).await.ok(201);
    assert_eq!(world.rest.post(PATH, &body).await.ok(200).body, first.body);
    let mut other = body.clone();
    other["comment"] = json!("something else");
    assert_eq!(world.rest.post(PATH, &other).await.problem(409).body["type"], "/problems/exists");
    assert_eq!(world.database.count("SELECT count(*) FROM silences").await, 1);
}

#[tokio::test]
async fn a_list_has_the_one_that_ends_last_first_and_is_filtered_and_paged() {
    let world = start().await;
    for (comment, end, matcher, value) in [
        ("a", 100, "zoneId", "z"),
        ("b", 400, "sensorId", "nobody-yet"),
        ("c", 200, "metric", "temperature"),
        ("d", 300, "deviceType", "T"),
    ] {
        let mut body = json!({"comment": comment, "endsAt": from_now(end)});
        body[matcher] = json!(value);
        world.rest.post(PATH, &body).await.ok(201);
    }
    assert_eq!(listed(&world, "").await, ["b", "d", "c", "a"]);
    for (query, expected) in
        [("zoneId=z", "a"), ("sensorId=nobody-yet", "b"), ("metric=temperature", "c"), ("deviceType=T", "d")]
    {
        assert_eq!(listed(&world, query).await, [expected], "{query}");
    }
    assert_eq!(listed(&world, "severity=info").await, Vec::<String>::new());
    for limit in 1..=5 {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let query = format!("{PATH}?total=true&limit={limit}{cursor}");
            let body = world.rest.get(&query).await.ok(200).body;
            assert_eq!(body["total"], 4);
            seen.extend(body["resources"].as_array().unwrap().iter().map(|one| one["comment"].clone()));
            let Some(next) = body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, ["b", "d", "c", "a"], "pages of {limit}");
    }
    // The largest i64, and an id.
    let beyond = "WzkyMjMzNzIwMzY4NTQ3NzU4MDcsImU4MjIyNjNmLTliZDAtNTAwZS1hZmJhLWYzZTc2ZWFmYWVlNCJd";
    for (query, bad) in [
        (format!("cursor={beyond}"), "cursor"),
        ("state=over".to_owned(), "state"),
        ("severity=loud".to_owned(), "severity"),
    ] {
        let answer = world.rest.get(&format!("{PATH}?{query}")).await.problem(400);
        assert_eq!(answer.bad_fields(), [bad]);
    }
}

#[tokio::test]
async fn there_are_only_as_many_as_alerts_can_be_held_against_and_old_ones_are_forgotten() {
    let world = start().await;
    let client = world.database.client().await;
    let fill = |count: i32, end: &str| {
        format!(
            "INSERT INTO silences (silence_id, zone_id, starts_at, ends_at, comment, created_by) \
             SELECT gen_random_uuid(), 'z' || n, now() - INTERVAL '3 years', now() {end}, 'why', 'ada' \
             FROM generate_series(1, {count}) AS n"
        )
    };
    client.batch_execute(&fill(1_000, "+ INTERVAL '1 day'")).await.unwrap();
    client.batch_execute(&fill(150, "- INTERVAL '2 years'")).await.unwrap();
    let refused = world.rest.post(PATH, &works()).await.problem(409);
    assert_eq!(refused.body["type"], "/problems/too-many");
    assert_eq!(world.database.count("SELECT count(*) FROM silences").await, 1_150);
    client
        .batch_execute(
            "UPDATE silences SET ends_at = now() - INTERVAL '1 day' WHERE zone_id = 'z7' AND ends_at > now()",
        )
        .await
        .unwrap();
    world.rest.post(PATH, &works()).await.ok(201);
    assert_eq!(world.database.count("SELECT count(*) FROM silences").await, 1_051);
}

#[tokio::test]
async fn an_acknowledgement_stands_until_it_is_taken_back() {
    let world = start().await;
    let path = format!("/api/v1/alerts/{EPISODE}/acknowledgement");
    world.rest.get(&path).await.problem(404);
    world.rest.delete(&path).await.problem(404);
    let given = world.rest.post(&path, &json!({"note": "on my way"})).await.ok(201).body;
    assert_eq!(given["episodeId"], EPISODE);
    assert_eq!((&given["note"], &given["acknowledgedBy"]), (&json!("on my way"), &json!("ada")));
    assert_eq!(world.rest.get(&path).await.ok(200).body, given);
    assert_eq!(world.rest.post(&path, &json!({"note": "on my way"})).await.ok(200).body, given);
    let other = world.rest.post(&path, &json!({})).await.problem(409);
    assert_eq!(other.body["type"], "/problems/acknowledged");
    world.rest.delete(&path).await.ok(204);
    assert_eq!(world.rest.post(&path, &json!({})).await.ok(201).body["note"], "");
    let bad = world.rest.post(&path, &json!({"note": "\u{0}", "by": "me"})).await.problem(400);
    assert_eq!(bad.bad_fields(), ["note", "by"]);
    let nowhere = world.rest.post("/api/v1/alerts/x/acknowledgement", &json!({})).await.problem(400);
    assert_eq!(nowhere.bad_fields(), ["episodeId"]);
}

#[tokio::test]
async fn only_operators_silence_and_acknowledge() {
    let world = start().await;
    let silence = path(&world.rest.post(PATH, &works()).await.ok(201));
    let acknowledgement = format!("/api/v1/alerts/{EPISODE}/acknowledgement");
    world.rest.post(&acknowledgement, &json!({})).await.ok(201);
    for (methods, path) in [
        (&["POST", "GET"][..], PATH),
        (&["GET", "PATCH", "DELETE"], &silence),
        (&["POST", "GET", "DELETE"], &acknowledgement),
    ] {
        for method in methods {
            world.rest.assert_refuses_bad_tokens(method, path).await;
            world.rest.assert_refuses_roles(method, path, &["device", ""]).await;
            if *method == "GET" {
                world.rest.call("GET", path).role(&world.rest.tokens, "analyst").send().await.ok(200);
            } else {
                world.rest.assert_refuses_roles(method, path, &["analyst"]).await;
            }
        }
    }
}
