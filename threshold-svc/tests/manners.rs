//! HTTP itself: methods, bodies, paths, tokens, and a database that is away.

use crate::{PATH, changed, id, start, warm};
use serde_json::{Value, json};
use testkit::rest::Answer;

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
        ("offset=0", "offset"),
        ("count=1", "count"),
        ("total=yes", "total"),
        ("cursor=", "cursor"),
        ("cursor=W10", "cursor"),
        ("severity=loud", "severity"),
        ("mode=Live", "mode"),
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
    let all = world.rest.get(&format!("{PATH}?limit=x&cursor=y&metric=9&sensorId=*&z=1")).await.problem(400);
    assert_eq!(all.bad_fields(), ["sensorId", "metric", "limit", "cursor", "z"]);
}

#[tokio::test]
async fn only_operators_write_and_only_analysts_read_beside_them() {
    let world = start().await;
    let path = format!("{PATH}/{}", id(&world.create(&warm()).await));
    let versions = format!("{path}/versions");
    for (method, path) in [
        ("POST", PATH),
        ("GET", PATH),
        ("GET", &path),
        ("GET", &versions),
        ("PUT", &path),
        ("PATCH", &path),
        ("DELETE", &path),
    ] {
        world.rest.assert_refuses_bad_tokens(method, path).await;
        world.rest.assert_refuses_roles(method, path, &["device", "root", ""]).await;
        if method != "GET" {
            world.rest.assert_refuses_roles(method, path, &["analyst"]).await;
        }
    }
    for role in ["analyst", "operator", "admin"] {
        for path in [PATH, &path, &versions] {
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
