//! threshold-svc on a real socket and a real database.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use serde_json::{Value, json};
use testkit::postgres::Database;
use testkit::rest::{Answer, Rest};
use threshold_svc::Config;

const PATH: &str = "/api/v1/thresholds";

struct World {
    database: Database,
    rest: Rest,
}

async fn start() -> World {
    let database = Database::create().await;
    let settings = database.settings();
    let rest = Rest::start(|listen, auth, chassis| {
        threshold_svc::run(Config { listen, auth, database: settings.clone() }, chassis)
    })
    .await;
    World { database, rest }
}

fn warm() -> Value {
    json!({"sensorId": "thermostat-1", "metric": "temperature", "min": -5, "max": 30.5, "severity": "warning",
        "enabled": true, "description": "too warm\nor too cold"})
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
    assert_eq!(created.body.as_object().unwrap().len(), 11);

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
async fn replaced_threshold_is_wholly_new_and_one_version_on() {
    let world = start().await;
    let created = world.create(&warm()).await;
    let path = format!("{PATH}/{}", id(&created));
    let new =
        json!({"sensorId": "heart-1", "metric": "bpm", "max": 180, "severity": "critical", "enabled": false});
    let replaced = world.rest.put(&path, &new).await.ok(200);
    assert_eq!(replaced.header("etag"), Some("\"2\""));
    assert_eq!(replaced.body["version"], 2);
    assert_eq!(replaced.body["createdAt"], created.body["createdAt"]);
    assert!(replaced.body["updatedAt"].as_str() > created.body["updatedAt"].as_str());
    assert_eq!((&replaced.body["min"], &replaced.body["description"]), (&Value::Null, &json!("")));
    assert_eq!((&replaced.body["sensorId"], &replaced.body["enabled"]), (&json!("heart-1"), &json!(false)));
    assert_eq!(world.rest.get(&path).await.body, replaced.body);
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
async fn what_is_not_there_is_not_found() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    world.rest.delete(&path).await.ok(204);
    for path in [path, format!("{PATH}/00000000-0000-0000-0000-000000000000")] {
        world.rest.get(&path).await.problem(404);
        world.rest.put(&path, &warm()).await.problem(404);
        world.rest.call("PUT", &path).header("if-match", "\"1\"").json(&warm()).send().await.problem(404);
        world.rest.delete(&path).await.problem(404);
    }
    for nowhere in ["/", "/api/v1/threshold", "/api/v1/thresholds/", "/api/v1/thresholds/x/y"] {
        world.rest.get(nowhere).await.problem(404);
    }
}

#[tokio::test]
async fn other_methods_are_refused_with_those_allowed() {
    let world = start().await;
    let allowed = |answer: Answer| {
        let mut methods: Vec<_> = answer.header("allow").unwrap().split(", ").map(str::to_owned).collect();
        methods.sort();
        methods
    };
    let patched = world.rest.call("PATCH", PATH).send().await.problem(405);
    assert_eq!(allowed(patched), ["GET", "POST"]);
    let posted = world.rest.post(&format!("{PATH}/x"), &warm()).await.problem(405);
    assert_eq!(allowed(posted), ["DELETE", "GET", "PUT"]);
}

#[tokio::test]
async fn get_of_a_version_that_is_held_carries_no_body() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    let get = |tag: &'static str| world.rest.call("GET", &path).header("if-none-match", tag).send();
    let held = get("\"1\"").await.ok(304);
    assert_eq!((held.header("etag"), &held.body), (Some("\"1\""), &Value::Null));
    assert!(get("\"2\"").await.ok(200).body.is_object());
}

#[tokio::test]
async fn list_is_ordered_filtered_and_paged() {
    let world = start().await;
    for (sensor, metric) in [("b", "y"), ("a", "x"), ("b", "x"), ("a", "y"), ("c", "x")] {
        let mut body = changed("sensorId", json!(sensor));
        body["metric"] = json!(metric);
        world.create(&body).await;
    }
    let list = async |query: &str| {
        let body = world.rest.get(&format!("{PATH}?{query}")).await.ok(200).body;
        let name =
            |row: &Value| [&row["sensorId"], &row["metric"]].map(|v| v.as_str().unwrap().to_owned()).concat();
        let names: Vec<_> = body["resources"].as_array().unwrap().iter().map(name).collect();
        let number = |field: &str| body[field].as_i64().unwrap();
        (names.join(" "), number("total"), number("count"), number("offset"))
    };
    assert_eq!(list("").await, ("ax ay bx by cx".to_owned(), 5, 5, 0));
    assert_eq!(list("limit=2").await, ("ax ay".to_owned(), 5, 2, 0));
    assert_eq!(list("limit=2&offset=4").await, ("cx".to_owned(), 5, 1, 4));
    assert_eq!(list("offset=5").await, (String::new(), 5, 0, 5));
    assert_eq!(list("sensorId=b").await, ("bx by".to_owned(), 2, 2, 0));
    assert_eq!(list("metric=x&limit=1&offset=1").await, ("bx".to_owned(), 3, 1, 1));
    assert_eq!(list("sensorId=a&metric=y").await, ("ay".to_owned(), 1, 1, 0));
    assert_eq!(list("sensorId=nobody").await, (String::new(), 0, 0, 0));
}

#[tokio::test]
async fn every_bad_field_is_reported_together() {
    let world = start().await;
    let worst = json!({"sensorId": "a'; DROP TABLE sensor_thresholds; --", "metric": 7, "min": "low", "severity": "loud",
        "enabled": "yes", "description": "a\u{0}b", "version": 1, "colour": "red"});
    let all = ["sensorId", "metric", "min", "severity", "enabled", "description", "version", "colour"];
    assert_eq!(world.rest.post(PATH, &worst).await.problem(400).bad_fields(), all);
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    assert_eq!(world.rest.put(&path, &worst).await.problem(400).bad_fields(), all);
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
        ("enabled", json!(0)),
        ("description", json!("x".repeat(1_001))),
        ("description", json!({})),
        ("thresholdId", json!("00000000-0000-0000-0000-000000000000")),
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

#[tokio::test]
async fn broken_bodies_are_refused() {
    let world = start().await;
    let post = |body: Vec<u8>| world.rest.call("POST", PATH).body(body).send();
    let infinite = warm().to_string().replace("30.5", "1e999").into_bytes();
    let nan = warm().to_string().replace("30.5", "NaN").into_bytes();
    let half_a_pair = warm().to_string().replace("too warm", "\\ud800").into_bytes();
    let deep = [b"[".repeat(50_000), b"]".repeat(50_000)].concat();
    for body in
        [vec![], b"{".to_vec(), b"[]".to_vec(), b"\xff\xfe".to_vec(), infinite, nan, half_a_pair, deep]
    {
        assert_eq!(post(body).await.problem(400).bad_fields(), ["body"]);
    }
    post(vec![b' '; 256 * 1024 + 1]).await.problem(413);
    // The largest number of all is finite.
    world.rest.post(PATH, &changed("max", json!(f64::MAX))).await.ok(201);
}

#[tokio::test]
async fn hostile_paths_and_queries_are_bad_requests() {
    let world = start().await;
    for id in ["1", "x", "%00", "%ff", "%27%20OR%201%3D1--", &"f".repeat(10_000), "%2e%2e%2f", "..%5c"] {
        let path = format!("{PATH}/{id}");
        assert_eq!(world.rest.get(&path).await.problem(400).bad_fields(), ["thresholdId"], "{id}");
        assert_eq!(world.rest.delete(&path).await.problem(400).bad_fields(), ["thresholdId"], "{id}");
    }
    for (query, bad) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("limit=1&limit=1", "limit"),
        ("offset=-1", "offset"),
        ("offset=1000001", "offset"),
        ("sensorId=", "sensorId"),
        ("sensorId=%00", "sensorId"),
        ("sensorId=%ff%fe", "sensorId"),
        ("sensorId='%20OR%20'1'='1", "sensorId"),
        ("sensorId=a&sensorId=b", "sensorId"),
        ("metric=%24(id)", "metric"),
        ("order=asc", "order"),
        ("%00=1", "\0"),
        ("=", ""),
        ("%", "%"),
    ] {
        let answer = world.rest.get(&format!("{PATH}?{query}")).await.problem(400);
        assert_eq!(answer.bad_fields(), [bad], "{query}");
    }
    let all = world.rest.get(&format!("{PATH}?limit=x&offset=y&metric=9&sensorId=*&z=1")).await.problem(400);
    assert_eq!(all.bad_fields(), ["sensorId", "metric", "limit", "offset", "z"]);
}

#[tokio::test]
async fn only_operators_write_and_only_analysts_read_beside_them() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    for (method, path) in [("POST", PATH), ("GET", PATH), ("GET", &path), ("PUT", &path), ("DELETE", &path)] {
        world.rest.assert_refuses_bad_tokens(method, path).await;
        world.rest.assert_refuses_roles(method, path, &["device", "root", ""]).await;
        if method != "GET" {
            world.rest.assert_refuses_roles(method, path, &["analyst"]).await;
        }
    }
    for role in ["analyst", "operator", "admin"] {
        for path in [PATH, &path] {
            world.rest.call("GET", path).role(&world.rest.tokens, role).send().await.ok(200);
        }
    }
    let admin = world.rest.call("PUT", &path).role(&world.rest.tokens, "admin").json(&warm());
    assert_eq!(admin.send().await.ok(200).body["version"], 2);
    let admin = world.rest.call("DELETE", &path).role(&world.rest.tokens, "admin");
    admin.send().await.ok(204);
}

#[tokio::test]
async fn database_that_goes_away_is_unavailable_and_comes_back() {
    let world = start().await;
    let created = world.create(&warm()).await;
    let path = format!("{PATH}/{}", id(&created));
    let url: String = world.database.url().to_owned();
    let name = url.rsplit('/').next().unwrap();
    // Refuses new connections, and ends those that are there.
    let admin =
        chassis::postgres::Settings::local(testkit::setting("TEST_DATABASE_URL")).connect().await.unwrap();
    let kick = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false; {kick}")).await.unwrap();
    let readiness = &world.rest.chassis.readiness;
    testkit::wait::until("not ready", async || (readiness.closed() == ["postgres"]).then_some(())).await;
    let answer = world.rest.get(&path).await.problem(503);
    assert!(answer.header("retry-after").is_some());
    assert!(!answer.body.to_string().contains(name), "{:?}", answer.body);
    admin.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await.unwrap();
    testkit::wait::until("ready", async || readiness.closed().is_empty().then_some(())).await;
    assert_eq!(world.rest.get(&path).await.ok(200).body, created.body);
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
