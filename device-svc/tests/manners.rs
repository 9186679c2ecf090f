//! What every REST service does alike, tried on this one.

use super::{PATH, start, thermostat};
use chassis::admin;
use serde_json::Value;
use std::net::SocketAddr;
use testkit::wait::until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_read_in_another_format_than_there_is_is_refused_and_a_write_is_not() {
    let world = start().await;
    let one = format!("{PATH}/thermostat-1");
    let created = world.rest.call("POST", PATH).header("accept", "text/csv").json(&thermostat()).send().await;
    let created = created.ok(201).body;
    for path in [PATH, &one] {
        for method in ["GET", "HEAD"] {
            for refused in ["text/csv", "application/json;q=0, */*"] {
                let answer = world.rest.call(method, path).header("accept", refused).send().await;
                assert_eq!(answer.status, 406, "{method} {path} {refused}");
            }
        }
        for taken in ["application/json", "text/html, */*;q=0.8", "text/csv, application/*"] {
            world.rest.call("GET", path).header("accept", taken).send().await.ok(200);
        }
    }
    let refused = world.rest.call("GET", &one).header("accept", "text/csv").send().await.problem(406);
    assert!(refused.body["detail"].as_str().unwrap().contains("application/json"), "{:?}", refused.body);
    // A resource that is missing is missing in any format.
    world.rest.call("GET", "/nowhere").header("accept", "text/csv").send().await.problem(404);
    assert_eq!(world.rest.get(&one).await.ok(200).body, created);
}

#[tokio::test]
async fn a_refused_token_says_what_to_do_about_it() {
    let world = start().await;
    let absent = world.rest.call("GET", PATH).no_token().send().await.problem(401);
    assert!(absent.body["detail"].as_str().unwrap().contains("Authorization: Bearer"), "{:?}", absent.body);
    for (what, token) in world.rest.tokens.bad() {
        let said = match what {
            "expired" => "get a new one",
            "not valid yet" => "clock",
            "for another audience" => "JWT_AUDIENCE",
            "of another issuer" => "JWT_ISSUER",
            "of another key" => "JWT_JWKS_FILE",
            "of another key under our name" => "signature",
            _ => continue,
        };
        let refused = world.rest.call("GET", PATH).token(token).send().await.problem(401);
        assert!(refused.body["detail"].as_str().unwrap().contains(said), "{what}: {:?}", refused.body);
    }
}

#[tokio::test]
async fn a_problem_says_what_only_its_status_does_not() {
    let world = start().await;
    world.create(&thermostat()).await;
    assert_eq!(world.rest.get(&format!("{PATH}/nobody")).await.problem(404).body["type"], "about:blank");
    assert_eq!(world.rest.post(PATH, &thermostat()).await.problem(409).body["type"], "/problems/exists");
    let path = format!("{PATH}/thermostat-1");
    let patch = |status: &str| serde_json::json!({ "status": status });
    world.rest.patch(&path, &patch("retired")).await.ok(200);
    for refused in [world.rest.patch(&path, &patch("active")).await, world.rest.delete(&path).await] {
        assert_eq!(refused.problem(409).body["type"], "/problems/retired");
    }
    let documented = include_str!("../../docs/api.md");
    for kind in ["/problems/exists", "/problems/retired", "/problems/same-limits"] {
        assert!(documented.contains(&format!("`{kind}`")), "docs/api.md lacks {kind}");
    }
}

/// Sends a request by hand, since clients hide the body of an answer to HEAD; returns status and all that
/// follows the head.
async fn raw(listen: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(listen).await.ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[tokio::test]
async fn probes_answer_head_as_get_without_the_body() {
    let world = start().await;
    let listen = SocketAddr::from(([127, 0, 0, 1], testkit::free_port()));
    let server = admin::serve(listen, &world.rest.chassis).unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server);
    until("the admin server", async || raw(listen, "GET", "/livez").await).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        let (status, body) = raw(listen, "GET", path).await.unwrap();
        assert!(status == 200 && !body.is_empty(), "{path}: {status}");
        assert_eq!(raw(listen, "HEAD", path).await, Some((200, String::new())), "{path}");
    }
    assert_eq!(raw(listen, "HEAD", "/nowhere").await.map(|answer| answer.0), Some(404));
    // A closed latch is seen by either.
    world.rest.chassis.readiness.latch("test").close();
    assert_eq!(raw(listen, "HEAD", "/readyz").await, Some((503, String::new())));
    handle.stop(false).await;
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn every_get_answers_head_alike() {
    let world = start().await;
    world.create(&thermostat()).await;
    for path in [PATH, &format!("{PATH}/thermostat-1")] {
        let get = world.rest.get(path).await.ok(200);
        let head = world.rest.call("HEAD", path).send().await.ok(200);
        assert_eq!(head.body, Value::Null);
        for header in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{path} {header}");
        }
    }
}

#[test]
fn documentation_names_only_metrics_that_exist() {
    testkit::docs::assert_metrics_exist("http_", &chassis::http::metric_names());
    testkit::docs::assert_metrics_exist("auth_", &chassis::auth::metric_names());
}
