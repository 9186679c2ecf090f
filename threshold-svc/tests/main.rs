//! threshold-svc on a real socket and a real database.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod backtest;
mod bulk;
mod docs;
mod history;
mod manners;
mod paging;
mod rules;
mod silences;

use serde_json::{Value, json};
use testkit::postgres::Database;
use testkit::rest::{Answer, Rest};
use threshold_svc::Config;

const PATH: &str = "/api/v1/thresholds";

struct World {
    database: Database,
    rest: Rest,
}

/// The registered devices; device-svc writes them in a whole system.
const DEVICES: [&str; 5] = ["thermostat-1", "heart-1", "a", "b", "c"];

async fn start() -> World {
    let database = Database::create().await;
    let register = "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
                    SELECT unnest($1::text[]), 'T', 'z', 'json', 'active'";
    database.client().await.execute(register, &[&DEVICES.as_slice()]).await.unwrap();
    let settings = database.settings();
    let rest = Rest::start(|http, auth, chassis| {
        threshold_svc::run(Config { http, auth, database: settings.clone() }, chassis)
    })
    .await;
    World { database, rest }
}

fn warm() -> Value {
    json!({"sensorId": "thermostat-1", "metric": "temperature", "min": -5, "max": 30.5, "severity": "warning",
        "mode": "live", "description": "too warm\nor too cold"})
}

fn changed(field: &str, value: Value) -> Value {
    let mut body = warm();
    body[field] = value;
    body
}

impl World {
    async fn create(&self, body: &Value) -> Answer {
        self.rest.post(PATH, body).await.ok(201)
    }

    async fn rows(&self) -> i64 {
        self.database.count("SELECT count(*) FROM sensor_thresholds").await
    }
}

fn id(answer: &Answer) -> String {
    answer.body["thresholdId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn created_threshold_is_a_row_and_is_read_back() {
    let world = start().await;
    let created = world.create(&warm()).await;
    assert_eq!(created.header("etag"), Some("\"1\""));
    let location = created.header("location").unwrap();
    assert_eq!(location, format!("{PATH}/{}", id(&created)));
    for (field, value) in warm().as_object().unwrap() {
        let same = created.body[field] == *value || created.body[field].as_f64() == value.as_f64();
        assert!(same && !created.body[field].is_null(), "{field}: {:?}", created.body);
    }
    assert_eq!(created.body["version"], 1);
    assert_eq!(created.body["createdAt"], created.body["updatedAt"]);
    assert_eq!(created.body.as_object().unwrap().len(), 18);

    let read = world.rest.get(location).await.ok(200);
    assert_eq!(read.body, created.body);
    assert_eq!(read.header("etag"), Some("\"1\""));
    let stored = world
        .database
        .client()
        .await
        .query_one(
            "SELECT sensor_id, metric, min_value, max_value, severity, version FROM sensor_thresholds",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((stored.get(0), stored.get(1)), ("thermostat-1", "temperature"));
    assert_eq!((stored.get(2), stored.get(3)), (Some(-5.0), Some(30.5)));
    assert_eq!((stored.get(4), stored.get(5)), ("warning", 1_i64));
}

#[tokio::test]
async fn replacement_keeps_what_it_does_not_name() {
    let world = start().await;
    let created = world.create(&changed("mode", json!("off"))).await;
    let path = format!("{PATH}/{}", id(&created));
    let new = json!({"sensorId": "heart-1", "metric": "bpm", "max": 180, "severity": "critical"});
    let replaced = world.rest.put(&path, &new).await.ok(200);
    assert_eq!(replaced.header("etag"), Some("\"2\""));
    assert_eq!(replaced.body["version"], 2);
    for field in ["thresholdId", "createdAt", "min", "mode", "description"] {
        assert_eq!(replaced.body[field], created.body[field], "{field}");
    }
    assert!(replaced.body["updatedAt"].as_str() > created.body["updatedAt"].as_str());
    assert_eq!((&replaced.body["sensorId"], &replaced.body["max"]), (&json!("heart-1"), &json!(180.0)));
    assert_eq!(world.rest.get(&path).await.body, replaced.body);
    // A limit is taken away by name.
    let mut open = new.clone();
    open["min"] = Value::Null;
    assert_eq!(world.rest.put(&path, &open).await.ok(200).body["min"], Value::Null);
    open["max"] = Value::Null;
    assert_eq!(world.rest.put(&path, &open).await.problem(400).bad_fields(), ["min"]);
}

#[tokio::test]
async fn replacement_takes_what_a_get_gave_unless_it_is_stale() {
    let world = start().await;
    let mut body = world.create(&changed("mode", json!("off"))).await.body;
    let path = format!("{PATH}/{}", body["thresholdId"].as_str().unwrap());
    body["description"] = json!("other words");
    let replaced = world.rest.put(&path, &body).await.ok(200).body;
    assert_eq!((&replaced["description"], &replaced["mode"]), (&json!("other words"), &json!("off")));
    // The body still says version 1, which is no more in force than with If-Match.
    world.rest.put(&path, &body).await.problem(412);
    let mut other = replaced.clone();
    other["thresholdId"] = json!("00000000-0000-0000-0000-000000000000");
    assert_eq!(world.rest.put(&path, &other).await.problem(400).bad_fields(), ["thresholdId"]);
}

#[tokio::test]
async fn patch_changes_what_it_names_and_nothing_else() {
    let world = start().await;
    let created = world.create(&changed("mode", json!("off"))).await.body;
    let path = format!("{PATH}/{}", created["thresholdId"].as_str().unwrap());
    let patched = world.rest.patch(&path, &json!({"max": 20})).await.ok(200).body;
    for (field, value) in created.as_object().unwrap() {
        let is_named = ["max", "version", "updatedAt"].contains(&field.as_str());
        assert_eq!(patched[field] != *value, is_named, "{field}");
    }
    assert_eq!(world.rest.patch(&path, &json!({"min": null})).await.ok(200).body["min"], Value::Null);
    for (patch, bad) in [
        (json!({"max": null}), "min"),
        (json!({"min": 21}), "min"),
        (json!({"mode": null}), "mode"),
        (json!({"zoneId": "z"}), "sensorId"),
        (json!({"sensorId": null}), "sensorId"),
        (json!({"severity": null}), "severity"),
        (json!({"createdAt": null}), "createdAt"),
        (json!({"colour": "red"}), "colour"),
    ] {
        assert_eq!(world.rest.patch(&path, &patch).await.problem(400).bad_fields(), [bad], "{patch}");
    }
    world.rest.patch(&path, &json!({"version": 1, "max": 21})).await.problem(412);
    world.rest.patch(&path, &json!({"version": 3, "max": 21})).await.ok(200);
    let array = world.rest.call("PATCH", &path).body_as("application/merge-patch+json", "[]").send();
    assert_eq!(array.await.problem(400).bad_fields(), ["body"]);
    for kind in ["application/json", "application/json-patch+json", "text/plain"] {
        world.rest.call("PATCH", &path).body_as(kind, "{}").send().await.problem(415);
    }
}

#[tokio::test]
async fn creation_can_be_repeated_with_the_id_that_the_caller_chose() {
    let world = start().await;
    let chosen = "0190163d-8694-739b-aea5-966c26f8ad91";
    let body = changed("thresholdId", json!(chosen));
    let first = world.create(&body).await;
    assert_eq!(id(&first), chosen);
    let again = world.rest.post(PATH, &body).await.ok(200);
    assert_eq!((&again.body, again.header("etag")), (&first.body, first.header("etag")));
    assert_eq!(again.header("location"), first.header("location"));
    // Many at once make one.
    let other = "0190163d-8694-739b-aea5-966c26f8ad92";
    let mut body = changed("thresholdId", json!(other));
    body["max"] = json!(31);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let call = world.rest.call("POST", PATH).json(&body);
        callers.spawn(async { call.send().await.status });
    }
    let mut statuses = callers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [&[200; 7][..], &[201]].concat());
    // A threshold that was changed since is not created again, nor another one under the same id.
    world.rest.patch(&format!("{PATH}/{other}"), &json!({"mode": "off"})).await.ok(200);
    let refused = world.rest.post(PATH, &body).await.problem(409);
    assert_eq!(refused.body["type"], "/problems/exists");
    assert_eq!(world.rows().await, 2);
}

#[tokio::test]
async fn the_same_limits_twice_are_refused_with_the_id_of_the_first() {
    let world = start().await;
    let first = id(&world.create(&warm()).await);
    let twin = world.rest.post(PATH, &changed("description", json!("again"))).await.problem(409);
    assert!(twin.body["detail"].as_str().unwrap().contains(&first), "{:?}", twin.body);
    assert_eq!(twin.body["type"], "/problems/same-limits");
    let mut open = warm();
    open["min"] = Value::Null;
    let open = world.create(&open).await;
    let path = format!("{PATH}/{}", id(&open));
    let twin = world.rest.patch(&path, &json!({"min": -5})).await.problem(409);
    assert!(twin.body["detail"].as_str().unwrap().contains(&first), "{:?}", twin.body);
    assert_eq!(world.rest.get(&path).await.body, open.body, "nothing was changed");
    world.create(&changed("severity", json!("critical"))).await;
    assert_eq!(world.rows().await, 3);
}

/// A threshold without its scope, and one with it.
fn scoped(scope: &Value) -> Value {
    let mut body = warm();
    body.as_object_mut().unwrap().remove("sensorId");
    body.as_object_mut().unwrap().extend(scope.as_object().unwrap().clone());
    body
}

fn scope_of(body: &Value) -> Value {
    let names = ["sensorId", "deviceType", "zoneId"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), body.get(*name)?.clone()))).collect()
}

#[tokio::test]
async fn scope_is_a_sensor_a_type_a_zone_or_type_and_zone_and_is_replaced_as_one() {
    let world = start().await;
    let scopes = [
        json!({"sensorId": "a"}),
        json!({"deviceType": "T"}),
        json!({"zoneId": "z"}),
        json!({"deviceType": "T", "zoneId": "z"}),
    ];
    for scope in &scopes {
        let created = world.create(&scoped(scope)).await;
        assert_eq!(scope_of(&created.body), *scope);
        // A PUT takes the answer of a GET as it is.
        let path = format!("{PATH}/{}", id(&created));
        let read = world.rest.get(&path).await.ok(200).body;
        assert_eq!(scope_of(&world.rest.put(&path, &read).await.ok(200).body), *scope);
        // The same scope with the same limits is there once.
        let twin = world.rest.post(PATH, &scoped(scope)).await.problem(409);
        assert_eq!(twin.body["type"], "/problems/same-limits");
        assert!(twin.body["detail"].as_str().unwrap().contains(&id(&created)), "{:?}", twin.body);
    }
    let filtered = async |query: &str| {
        world.rest.get(&format!("{PATH}?total=true&{query}")).await.ok(200).body["total"].clone()
    };
    for (query, total) in
        [("deviceType=T", 2), ("zoneId=z", 2), ("deviceType=T&zoneId=z", 1), ("zoneId=y", 0)]
    {
        assert_eq!(filtered(query).await, total, "{query}");
    }
    // A PUT names the whole scope, a PATCH the parts that change.
    let path = format!("{PATH}/{}", id(&world.create(&changed("metric", json!("moved"))).await));
    let put = scoped(&json!({"zoneId": "y", "metric": "moved"}));
    assert_eq!(scope_of(&world.rest.put(&path, &put).await.ok(200).body), json!({"zoneId": "y"}));
    let patch = json!({"zoneId": null, "sensorId": "b"});
    assert_eq!(scope_of(&world.rest.patch(&path, &patch).await.ok(200).body), json!({"sensorId": "b"}));
    // A zone's threshold outlives its devices.
    world.database.client().await.batch_execute("DELETE FROM devices").await.unwrap();
    assert_eq!(world.rows().await, 3);
}

#[tokio::test]
async fn a_threshold_watches_a_registered_device_and_goes_with_it() {
    let world = start().await;
    let unknown = changed("sensorId", json!("nobody"));
    assert_eq!(world.rest.post(PATH, &unknown).await.problem(400).bad_fields(), ["sensorId"]);
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    assert_eq!(world.rest.put(&path, &unknown).await.problem(400).bad_fields(), ["sensorId"]);
    let client = world.database.client().await;
    client.batch_execute("DELETE FROM devices WHERE sensor_id = 'thermostat-1'").await.unwrap();
    world.rest.get(&path).await.problem(404);
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn change_of_another_version_than_expected_is_refused() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    let put = |tag: &'static str| world.rest.call("PUT", &path).header("if-match", tag).json(&warm()).send();
    let delete = |tag: &'static str| world.rest.call("DELETE", &path).header("if-match", tag).send();

    assert_eq!(put("\"1\"").await.ok(200).body["version"], 2);
    for stale in ["\"1\"", "W/\"2\"", "\"02\"", "\"other\"", "\"3\", \"4\""] {
        put(stale).await.problem(412);
        delete(stale).await.problem(412);
    }
    for malformed in ["2", "\"2", "'2'"] {
        assert_eq!(put(malformed).await.problem(400).bad_fields(), ["If-Match"]);
        assert_eq!(delete(malformed).await.problem(400).bad_fields(), ["If-Match"]);
    }
    assert_eq!(put("\"9\", \"2\"").await.ok(200).body["version"], 3);
    assert_eq!(put("*").await.ok(200).body["version"], 4);
    // Without the header the last write wins.
    assert_eq!(world.rest.put(&path, &warm()).await.ok(200).body["version"], 5);
    assert_eq!(delete("\"5\"").await.ok(204).body, Value::Null);
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn of_many_writers_with_one_version_exactly_one_wins() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let call = world.rest.call("PUT", &path).header("if-match", "\"1\"").json(&warm());
        writers.spawn(async { call.send().await.status });
    }
    let mut statuses = writers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses[1..].iter().all(|status| *status == 412), "{statuses:?}");
}

#[tokio::test]
async fn every_bad_field_is_reported_together() {
    let world = start().await;
    let worst = json!({"sensorId": "a'; DROP TABLE sensor_thresholds; --", "metric": 7, "min": "low", "severity": "loud",
        "mode": "yes", "description": "a\u{0}b", "version": 1, "colour": "red"});
    let own = ["sensorId", "metric", "min", "severity", "mode", "description", "colour"];
    let of_post = [&["version"][..], &own].concat();
    assert_eq!(world.rest.post(PATH, &worst).await.problem(400).bad_fields(), of_post);
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    // The version is that of the row: no problem.
    assert_eq!(world.rest.put(&path, &worst).await.problem(400).bad_fields(), own);
    assert_eq!(world.rest.get(&path).await.body["version"], 1);

    for (field, value) in [
        ("sensorId", json!("")),
        ("sensorId", json!("x".repeat(129))),
        ("sensorId", json!("é")),
        ("sensorId", Value::Null),
        ("metric", json!("2fast")),
        ("metric", json!("x".repeat(65))),
        ("min", json!(31)),
        ("min", json!(true)),
        ("max", json!("30")),
        ("severity", json!("Warning")),
        ("severity", json!(1)),
        ("mode", json!(0)),
        ("mode", json!("Live")),
        ("deviceType", json!("a b")),
        ("zoneId", json!("")),
        ("description", json!("x".repeat(1_001))),
        ("description", json!({})),
        ("thresholdId", json!("1")),
        ("createdAt", json!("2026-01-01T00:00:00Z")),
        ("Severity", json!("info")),
    ] {
        let answer = world.rest.post(PATH, &changed(field, value.clone())).await.problem(400);
        assert_eq!(answer.bad_fields(), [field], "{value}");
    }
    let no_limit = json!({"sensorId": "s", "metric": "t", "severity": "info", "min": null});
    assert_eq!(world.rest.post(PATH, &no_limit).await.problem(400).bad_fields(), ["min"]);
    assert_eq!(world.rows().await, 1);
}

#[test]
fn unusable_settings_are_named_together() {
    let mut env = chassis::config::Env::of([("HTTP_LISTEN".to_owned(), "here".to_owned())]);
    Config::from_env(&mut env);
    let problems = env.finish().unwrap_err().to_string();
    for name in ["HTTP_LISTEN", "JWT_JWKS_FILE", "JWT_ISSUER", "JWT_AUDIENCE", "DATABASE_URL"] {
        assert!(problems.contains(name), "{name}: {problems}");
    }
}
