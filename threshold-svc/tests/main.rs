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
    let filtered =
        async |query: &str| world.rest.get(&format!("{PATH}?{query}")).await.ok(200).body["total"].clone();
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
    assert_eq!(allowed(patched), ["GET", "HEAD", "OPTIONS", "POST"]);
    let posted = world.rest.post(&format!("{PATH}/x"), &warm()).await.problem(405);
    let of_one = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "PUT"];
    assert_eq!(allowed(posted), of_one);
    let asked = world.rest.call("OPTIONS", &format!("{PATH}/x")).no_token().send().await.ok(204);
    assert_eq!(asked.header("accept-patch"), Some("application/merge-patch+json"));
    assert_eq!(allowed(asked), of_one);
    world.rest.call("OPTIONS", "/nowhere").no_token().send().await.problem(404);
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    for path in [PATH, &path] {
        let (get, head) =
            (world.rest.get(path).await.ok(200), world.rest.call("HEAD", path).send().await.ok(200));
        assert_eq!(head.body, Value::Null);
        for header in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{header}");
        }
    }
    assert_eq!(world.rest.call("HEAD", &path).no_token().send().await.status, 401);
    assert_eq!(world.rest.call("HEAD", "/nowhere").send().await.status, 404);
}

#[tokio::test]
async fn bodies_that_say_they_are_something_else_are_refused() {
    let world = start().await;
    let text = warm().to_string();
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/xml", "", "application/jsonx"]
    {
        let call = world.rest.call("POST", PATH).body_as(kind, text.clone());
        call.send().await.problem(415);
    }
    let zipped = world.rest.call("POST", PATH).header("content-encoding", "gzip").body(text.clone());
    zipped.send().await.problem(415);
    // A token is asked for first.
    world.rest.call("POST", PATH).body_as("text/plain", text.clone()).no_token().send().await.problem(401);
    let json = "Application/JSON; charset=utf-8";
    world.rest.call("POST", PATH).body_as(json, text).send().await.ok(201);
}

#[tokio::test]
async fn a_name_given_twice_is_refused_and_a_byte_order_mark_passed_over() {
    let world = start().await;
    let text = warm().to_string();
    let twice = text.replace("\"max\":30.5", "\"max\":30.5,\"max\":31");
    let answer = world.rest.call("POST", PATH).body(twice).send().await.problem(400);
    assert_eq!(answer.bad_fields(), ["body"]);
    assert!(answer.body.to_string().contains("given twice"), "{:?}", answer.body);
    world.rest.call("POST", PATH).body(format!("\u{feff}{text}")).send().await.ok(201);
}

#[tokio::test]
async fn the_scheme_of_a_token_is_read_in_any_case() {
    let world = start().await;
    let token = world.rest.tokens.of("operator");
    for scheme in ["bearer", "BEARER", "bEaReR"] {
        let call =
            world.rest.call("GET", PATH).no_token().header("authorization", &format!("{scheme} {token}"));
        call.send().await.ok(200);
    }
    let basic = world.rest.call("GET", PATH).no_token().header("authorization", "Basic YTpi");
    assert_eq!(
        basic.send().await.problem(401).header("www-authenticate"),
        Some("Bearer realm=\"fieldline\"")
    );
    let role = world.rest.call("GET", PATH).role(&world.rest.tokens, "device").send().await.problem(403);
    assert!(role.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\""));
}

#[tokio::test]
async fn invented_methods_share_one_series() {
    let world = start().await;
    let series = || {
        let families = world.rest.chassis.registry.gather();
        families.iter().map(|family| family.get_metric().len()).sum::<usize>()
    };
    for path in [PATH, "/nowhere", "/api/v1/thresholds/x"] {
        world.rest.call("INVENTED", path).no_token().send().await;
    }
    let before = series();
    for number in 0..100 {
        for path in
            [PATH.to_owned(), format!("/nowhere-{number}"), format!("/api/v1/thresholds/{number}?a={number}")]
        {
            world.rest.call(&format!("M{number}"), &path).no_token().send().await;
        }
    }
    assert_eq!(series(), before);
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
        ("zoneId", json!("z")),
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
    for (method, path) in
        [("POST", PATH), ("GET", PATH), ("GET", &path), ("PUT", &path), ("PATCH", &path), ("DELETE", &path)]
    {
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
