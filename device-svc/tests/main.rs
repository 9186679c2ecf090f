//! device-svc on a real socket and a real database.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod manners;

use device_svc::Config;
use serde_json::{Value, json};
use testkit::postgres::Database;
use testkit::rest::{Answer, Rest};

const PATH: &str = "/api/v1/devices";

struct World {
    database: Database,
    rest: Rest,
}

async fn start() -> World {
    let database = Database::create().await;
    let settings = database.settings();
    let rest = Rest::start(|http, auth, chassis| {
        device_svc::run(Config { http, auth, database: settings.clone() }, chassis)
    })
    .await;
    World { database, rest }
}

fn fingerprint(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn thermostat() -> Value {
    json!({"sensorId": "thermostat-1", "displayName": "Küche, links", "deviceType": "THERMOSTAT", "zoneId": "kitchen",
        "codec": "json", "status": "active", "fingerprints": [fingerprint('a')]})
}

fn changed(field: &str, value: Value) -> Value {
    let mut body = thermostat();
    body[field] = value;
    body
}

impl World {
    async fn create(&self, body: &Value) -> Answer {
        self.rest.post(PATH, body).await.ok(201)
    }

    async fn put(&self, body: &Value) -> Answer {
        self.rest.put(&format!("{PATH}/thermostat-1"), body).await
    }
}

#[tokio::test]
async fn registered_device_is_a_row_and_is_read_back() {
    let world = start().await;
    let created = world.create(&thermostat()).await;
    assert_eq!(created.header("etag"), Some("\"1\""));
    assert_eq!(created.header("location"), Some("/api/v1/devices/thermostat-1"));
    for (field, value) in thermostat().as_object().unwrap() {
        assert_eq!(created.body[field], *value, "{field}");
    }
    assert_eq!(created.body["version"], 1);
    assert_eq!(created.body["createdAt"], created.body["updatedAt"]);
    assert_eq!(created.body.as_object().unwrap().len(), 10);
    assert_eq!(world.rest.get("/api/v1/devices/thermostat-1").await.ok(200).body, created.body);
    let columns = "SELECT sensor_id, device_type, zone_id, codec, status, fingerprints, version FROM devices";
    let row = world.database.client().await.query_one(columns, &[]).await.unwrap();
    let texts: Vec<String> = (0..5).map(|column| row.get(column)).collect();
    assert_eq!(texts, ["thermostat-1", "THERMOSTAT", "kitchen", "json", "active"]);
    assert_eq!((row.get::<_, Vec<String>>(5), row.get::<_, i64>(6)), (vec![fingerprint('a')], 1));
}

#[tokio::test]
async fn registration_needs_little_and_takes_defaults() {
    let world = start().await;
    let created = world.create(&json!({"sensorId": "s", "deviceType": "T", "zoneId": "z"})).await;
    let defaults = json!({"displayName": "", "codec": "json", "status": "active", "fingerprints": []});
    for (field, value) in defaults.as_object().unwrap() {
        assert_eq!(created.body[field], *value, "{field}");
    }
}

#[tokio::test]
async fn second_registration_of_a_sensor_conflicts_and_changes_nothing() {
    let world = start().await;
    let created = world.create(&thermostat()).await;
    let refused = world.rest.post(PATH, &changed("zoneId", json!("cellar"))).await.problem(409);
    assert_eq!(refused.body["type"], "/problems/exists");
    assert_eq!(world.rest.get("/api/v1/devices/thermostat-1").await.body, created.body);
}

#[tokio::test]
async fn fingerprints_are_kept_in_one_form() {
    let world = start().await;
    let upper = fingerprint('b').to_uppercase();
    let colons = vec!["CC"; 32].join(":");
    let given = json!([upper, colons, fingerprint('b'), fingerprint('d')]);
    let created = world.create(&changed("fingerprints", given)).await;
    assert_eq!(created.body["fingerprints"], json!([fingerprint('b'), fingerprint('c'), fingerprint('d')]));
    let eight: Vec<_> = "01234567".chars().map(fingerprint).collect();
    assert_eq!(
        world.put(&changed("fingerprints", json!(eight))).await.ok(200).body["fingerprints"],
        json!(eight)
    );
}

#[tokio::test]
async fn replacement_keeps_what_it_does_not_name() {
    let world = start().await;
    let created = world.create(&changed("status", json!("suspended"))).await;
    let replaced = world.put(&json!({"deviceType": "HEART_RATE_METER", "zoneId": "ward"})).await.ok(200);
    assert_eq!(replaced.header("etag"), Some("\"2\""));
    for field in ["sensorId", "displayName", "status", "codec", "fingerprints", "createdAt"] {
        assert_eq!(replaced.body[field], created.body[field], "{field}");
    }
    let new = json!({"deviceType": "HEART_RATE_METER", "zoneId": "ward", "version": 2});
    for (field, value) in new.as_object().unwrap() {
        assert_eq!(replaced.body[field], *value, "{field}");
    }
    assert!(replaced.body["updatedAt"].as_str() > created.body["updatedAt"].as_str());
    let body = json!({"deviceType": "T", "zoneId": "z", "displayName": null, "status": "active", "fingerprints": []});
    let replaced = world.put(&body).await.ok(200).body;
    assert_eq!(replaced["displayName"], "");
    assert_eq!((&replaced["status"], &replaced["fingerprints"]), (&json!("active"), &json!([])));
}

#[tokio::test]
async fn replacement_takes_what_a_get_gave_unless_it_is_stale() {
    let world = start().await;
    let mut body = world.create(&thermostat()).await.body;
    body["displayName"] = json!("Kitchen");
    let replaced = world.put(&body).await.ok(200);
    assert_eq!((&replaced.body["displayName"], &replaced.body["version"]), (&json!("Kitchen"), &json!(2)));
    // The body still says version 1, which is no more in force than with If-Match.
    world.put(&body).await.problem(412);
    let patch = json!({"version": 1, "displayName": "x"});
    world.rest.patch(&format!("{PATH}/thermostat-1"), &patch).await.problem(412);
    for field in ["createdAt", "updatedAt", "sensorId"] {
        let mut body = replaced.body.clone();
        body[field] = json!("2026-01-01T00:00:00Z");
        assert_eq!(world.put(&body).await.problem(400).bad_fields(), [field]);
    }
}

#[tokio::test]
async fn patch_changes_what_it_names_and_nothing_else() {
    let world = start().await;
    let created = world.create(&changed("status", json!("suspended"))).await.body;
    let path = format!("{PATH}/thermostat-1");
    let patched = world.rest.patch(&path, &json!({"displayName": "Kitchen"})).await.ok(200);
    assert_eq!(patched.header("etag"), Some("\"2\""));
    for (field, value) in created.as_object().unwrap() {
        let is_named = ["displayName", "version", "updatedAt"].contains(&field.as_str());
        assert_eq!(patched.body[field] != *value, is_named, "{field}");
    }
    assert_eq!(world.rest.patch(&path, &json!({"displayName": null})).await.ok(200).body["displayName"], "");
    // Fields that decide whether a device may publish cannot be taken away by chance.
    for field in ["status", "codec", "fingerprints", "deviceType", "zoneId"] {
        let answer = world.rest.patch(&path, &json!({field: null})).await.problem(400);
        assert_eq!(answer.bad_fields(), [field]);
    }
    let layout = json!({"length": 2, "fields": [{"metric": "t", "at": 0, "type": "i16be"}]});
    let binary = json!({"codec": "binary", "codecLayout": layout});
    assert_eq!(world.rest.patch(&path, &binary).await.ok(200).body["codecLayout"], layout);
    let longer = world.rest.patch(&path, &json!({"codecLayout": {"length": 4}})).await.ok(200).body;
    assert_eq!(
        (&longer["codecLayout"]["length"], &longer["codecLayout"]["fields"]),
        (&json!(4), &layout["fields"])
    );
    let json = world.rest.patch(&path, &json!({"codec": "json"})).await.ok(200).body;
    assert_eq!((&json["codec"], json.get("codecLayout")), (&json!("json"), None));

    let stale = world.rest.call("PATCH", &path).header("if-match", "\"1\"");
    stale.body_as("application/merge-patch+json", "{}").send().await.problem(412);
    let plain = world.rest.call("PATCH", &path).body("{}").send().await.problem(415);
    assert!(plain.body["detail"].as_str().unwrap().contains("application/merge-patch+json"));
    world.rest.patch(&format!("{PATH}/nobody"), &json!({})).await.problem(404);
}

#[tokio::test]
async fn versions_survive_deletion_and_registration() {
    let world = start().await;
    world.create(&thermostat()).await;
    let path = format!("{PATH}/thermostat-1");
    world.put(&thermostat()).await.ok(200);
    world.rest.delete(&path).await.ok(204);
    let again = world.create(&thermostat()).await.body["version"].as_i64().unwrap();
    assert!(again > 2, "version {again} may have been another device's");
    for stale in ["\"1\"", "\"2\""] {
        let put = world.rest.call("PUT", &path).header("if-match", stale).json(&thermostat());
        put.send().await.problem(412);
    }
}

#[tokio::test]
async fn retired_device_stays_retired() {
    let world = start().await;
    world.create(&thermostat()).await;
    world.put(&changed("status", json!("suspended"))).await.ok(200);
    world.put(&changed("status", json!("active"))).await.ok(200);
    world.put(&changed("status", json!("retired"))).await.ok(200);
    for status in ["active", "suspended"] {
        world.put(&changed("status", json!(status))).await.problem(409);
    }
    // Its name and its zone may still be set right.
    let moved = world.put(&json!({"deviceType": "THERMOSTAT", "zoneId": "attic"})).await.ok(200);
    assert_eq!((&moved.body["status"], &moved.body["version"]), (&json!("retired"), &json!(5)));
    // Nor does it come back under its name.
    world.rest.delete(&format!("{PATH}/thermostat-1")).await.problem(409);
    world.rest.post(PATH, &thermostat()).await.problem(409);
}

#[tokio::test]
async fn change_of_another_version_than_expected_is_refused() {
    let world = start().await;
    world.create(&thermostat()).await;
    let path = format!("{PATH}/thermostat-1");
    let put =
        |tag: &'static str| world.rest.call("PUT", &path).header("if-match", tag).json(&thermostat()).send();
    let delete = |tag: &'static str| world.rest.call("DELETE", &path).header("if-match", tag).send();
    assert_eq!(put("\"1\"").await.ok(200).body["version"], 2);
    for stale in ["\"1\"", "W/\"2\"", "\"3\""] {
        put(stale).await.problem(412);
        delete(stale).await.problem(412);
    }
    assert_eq!(put("2").await.problem(400).bad_fields(), ["If-Match"]);
    delete("\"2\"").await.ok(204);
    world.rest.get(&path).await.problem(404);
    put("\"2\"").await.problem(404);
    delete("*").await.problem(404);
    // A stale version is told before the retirement, which the caller has not seen.
    world.create(&changed("status", json!("retired"))).await;
    put("\"2\"").await.problem(412);
    put("*").await.problem(409);
    delete("*").await.problem(409);
}

#[tokio::test]
async fn get_of_a_version_that_is_held_carries_no_body() {
    let world = start().await;
    world.create(&thermostat()).await;
    let get = |tag: &'static str| {
        world.rest.call("GET", "/api/v1/devices/thermostat-1").header("if-none-match", tag).send()
    };
    assert_eq!(get("\"1\"").await.ok(304).header("etag"), Some("\"1\""));
    assert!(get("\"0\"").await.ok(200).body.is_object());
}

#[tokio::test]
async fn list_is_ordered_filtered_and_paged() {
    let world = start().await;
    for (sensor, kind, zone, status) in [
        ("c", "T", "y", "active"),
        ("a", "T", "x", "active"),
        ("b", "H", "x", "suspended"),
        ("d", "H", "y", "retired"),
    ] {
        let device = json!({"sensorId": sensor, "deviceType": kind, "zoneId": zone, "status": status});
        world.create(&device).await;
    }
    let list = async |query: &str| {
        let body = world.rest.get(&format!("{PATH}?{query}")).await.ok(200).body;
        let name = |row: &Value| row["sensorId"].as_str().unwrap().to_owned();
        let names: String = body["resources"].as_array().unwrap().iter().map(name).collect();
        let number = |field: &str| body[field].as_i64().unwrap();
        (names, number("total"), number("count"), number("offset"))
    };
    assert_eq!(list("").await, ("abcd".to_owned(), 4, 4, 0));
    assert_eq!(list("limit=2&offset=1").await, ("bc".to_owned(), 4, 2, 1));
    assert_eq!(list("offset=4").await, (String::new(), 4, 0, 4));
    assert_eq!(list("status=active").await, ("ac".to_owned(), 2, 2, 0));
    assert_eq!(list("deviceType=H").await, ("bd".to_owned(), 2, 2, 0));
    assert_eq!(list("zoneId=x&status=suspended").await, ("b".to_owned(), 1, 1, 0));
    assert_eq!(list("zoneId=nowhere").await, (String::new(), 0, 0, 0));
}

#[tokio::test]
async fn every_bad_field_is_reported_together() {
    let world = start().await;
    let worst = json!({"sensorId": "a/b", "displayName": "a\u{0}b", "deviceType": "", "zoneId": 7, "codec": "morse",
        "status": "asleep", "fingerprints": [fingerprint('a'), "abc", 1], "version": 1, "owner": "me"});
    let own = [
        "displayName",
        "deviceType",
        "zoneId",
        "codec",
        "status",
        "fingerprints[1]",
        "fingerprints[2]",
        "owner",
    ];
    let of_post = [&["sensorId", "version"][..], &own].concat();
    assert_eq!(world.rest.post(PATH, &worst).await.problem(400).bad_fields(), of_post);
    world.create(&thermostat()).await;
    // The version is that of the row: no problem.
    assert_eq!(world.put(&worst).await.problem(400).bad_fields(), [&["sensorId"][..], &own].concat());
    assert_eq!(
        world.rest.post(PATH, &json!({})).await.problem(400).bad_fields(),
        ["sensorId", "deviceType", "zoneId"]
    );
    assert_eq!(world.put(&json!({})).await.problem(400).bad_fields(), ["deviceType", "zoneId"]);

    for (field, value) in [
        ("sensorId", json!("x".repeat(129))),
        ("sensorId", json!("'; DROP TABLE devices; --")),
        ("displayName", json!("x".repeat(201))),
        ("deviceType", json!("x".repeat(65))),
        ("deviceType", json!("a b")),
        ("zoneId", json!("-x")),
        ("zoneId", Value::Null),
        ("codec", json!("JSON")),
        ("status", json!("")),
        ("fingerprints", json!("a")),
        ("fingerprints", json!("012345678".chars().map(fingerprint).collect::<Vec<_>>())),
        ("fingerprints[0]", json!([""])),
        ("createdAt", json!("2026-01-01T00:00:00Z")),
    ] {
        let body = changed(field.trim_end_matches("[0]"), value.clone());
        assert_eq!(world.rest.post(PATH, &body).await.problem(400).bad_fields(), [field], "{value}");
    }
    assert_eq!(world.put(&changed("sensorId", json!("other"))).await.problem(400).bad_fields(), ["sensorId"]);
    assert_eq!(world.database.count("SELECT sum(version)::int8 FROM devices").await, 1);
}

#[tokio::test]
async fn broken_bodies_are_refused() {
    let world = start().await;
    let post = |body: Vec<u8>| world.rest.call("POST", PATH).body(body).send();
    for body in [&b""[..], b"{", b"[]", b"null", b"\"x\"", b"\xff"] {
        assert_eq!(post(body.to_vec()).await.problem(400).bad_fields(), ["body"]);
    }
    post(vec![b' '; 256 * 1024 + 1]).await.problem(413);
}

#[tokio::test]
async fn hostile_paths_and_queries_are_bad_requests() {
    let world = start().await;
    for id in [
        "%00",
        "%ff",
        "-",
        "%27%20OR%20%271%27%3D%271",
        "a;DROP%20TABLE%20devices",
        "a%2Fb",
        &"a".repeat(129),
    ] {
        for method in ["GET", "DELETE"] {
            let answer = world.rest.call(method, &format!("{PATH}/{id}")).send().await.problem(400);
            assert_eq!(answer.bad_fields(), ["sensorId"], "{id}");
        }
        let answer = world.rest.put(&format!("{PATH}/{id}"), &thermostat()).await.problem(400);
        assert_eq!(answer.bad_fields(), ["sensorId"], "{id}");
    }
    for (query, bad) in [
        ("limit=0", "limit"),
        ("offset=x", "offset"),
        ("status=gone", "status"),
        ("deviceType=%00", "deviceType"),
        ("zoneId='--", "zoneId"),
        ("sensorId=a", "sensorId"),
        ("zoneId=a&zoneId=b", "zoneId"),
    ] {
        let answer = world.rest.get(&format!("{PATH}?{query}")).await.problem(400);
        assert_eq!(answer.bad_fields(), [bad], "{query}");
    }
    world.rest.get("/api/v1/devices/nobody").await.problem(404);
    world.rest.put("/api/v1/devices/nobody", &changed("sensorId", json!("nobody"))).await.problem(404);
    world.rest.delete("/api/v1/devices/nobody").await.problem(404);
    world.rest.get("/api/v1/device").await.problem(404);
    world.rest.call("PATCH", PATH).send().await.problem(405);
    world.rest.call("FOO", PATH).send().await.problem(405);
}

#[tokio::test]
async fn only_operators_write_and_only_analysts_read_beside_them() {
    let world = start().await;
    world.create(&thermostat()).await;
    let path = format!("{PATH}/thermostat-1");
    for (method, path) in
        [("POST", PATH), ("GET", PATH), ("GET", &path), ("PUT", &path), ("PATCH", &path), ("DELETE", &path)]
    {
        world.rest.assert_refuses_bad_tokens(method, path).await;
        world.rest.assert_refuses_roles(method, path, &["device", "root"]).await;
        if method != "GET" {
            world.rest.assert_refuses_roles(method, path, &["analyst"]).await;
        }
    }
    for role in ["analyst", "operator", "admin"] {
        for path in [PATH, &path] {
            world.rest.call("GET", path).role(&world.rest.tokens, role).send().await.ok(200);
        }
    }
    world.rest.call("PUT", &path).role(&world.rest.tokens, "admin").json(&thermostat()).send().await.ok(200);
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
