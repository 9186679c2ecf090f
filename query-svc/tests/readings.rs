//! Raw readings, one or many.

use crate::{EVER, World, start, texts};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::wait::until;

const PATH: &str = "/api/v1/readings/raw";
const DAY: &str = "from=2026-03-29&to=2026-03-30";

impl World {
    /// Stores a reading every second from midnight on for each of some sensors, with two metrics.
    async fn seconds(&self, sensors: &[&str], seconds: u32) {
        if self.database.dialect == schema::migrations::Dialect::Postgres {
            self.sql("SELECT ensure_reading_partition('2026-03-29')").await;
        }
        for sensor in sensors {
            self.sql(&format!(
                "INSERT INTO readings_ingestion \
                 SELECT '{sensor}', metric, '2026-03-29T00:00:00Z'::timestamptz + n * INTERVAL '1 second', n, \
                        md5('{sensor}' || n)::uuid, '2026-03-29T12:00:00Z', 'T', 'z', \
                        CASE WHEN n = 1 THEN '{{\"units\": {{\"t\": \"Cel\"}}, \"site\": \"x\"}}'::jsonb END \
                 FROM generate_series(0, {seconds} - 1) AS n, unnest(ARRAY['h', 't']) AS metric; \
                 INSERT INTO sensor_latest \
                 SELECT DISTINCT ON (sensor_id, metric) sensor_id, metric, reading_at, value, event_id, received_at, \
                        device_type, zone_id \
                 FROM readings_ingestion WHERE sensor_id = '{sensor}'"
            ))
            .await;
        }
    }

    async fn raw_pages(&self, query: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.rest.get(&format!("{PATH}?{query}&limit={limit}{cursor}")).await.ok(200).body;
            let rows = page["resources"].as_array().unwrap();
            assert_eq!(page["count"], rows.len());
            all.extend(rows.iter().cloned());
            let Some(next) = page["next"].as_str() else { return all };
            assert_eq!(rows.len(), limit);
            cursor = format!("&cursor={next}");
        }
    }

    /// How many statements of the service run or wait for its client.
    async fn statements(&self) -> i64 {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid() AND query LIKE 'SELECT%FROM readings_ingestion%' AND state <> 'idle'";
        self.database.count(query).await
    }
}

#[tokio::test]
async fn a_row_carries_what_is_stored_of_its_reading() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 2).await;
    let answer = world.rest.get(&format!("{PATH}?sensorId=a&metric=t&{DAY}")).await.ok(200);
    let row = |n: i64, id: &str, unit: Value, attributes: Value| {
        json!({"sensorId": "a", "metric": "t", "readingAt": format!("2026-03-29T00:00:0{n}.000000Z"),
            "value": f64::from(i32::try_from(n).unwrap()), "unit": unit, "receivedAt": "2026-03-29T12:00:00.000000Z",
            "deviceType": "T", "zoneId": "z", "eventId": id, "attributes": attributes})
    };
    let attributes = json!({"units": {"t": "Cel"}, "site": "x"});
    let ids = texts(&answer, &["eventId"]);
    let expected = [row(0, &ids[0], Value::Null, Value::Null), row(1, &ids[1], json!("Cel"), attributes)];
    assert_eq!(answer.body, json!({"resources": expected, "count": 2}));
    let humidity = world.rest.get(&format!("{PATH}?sensorId=a&metric=h&{DAY}")).await.ok(200);
    assert_eq!(humidity.body["resources"][1]["unit"], Value::Null);
}

#[tokio::test]
async fn pages_of_any_size_are_the_whole_in_the_order_of_the_key() {
    let world = start(EVER, EVER).await;
    world.seconds(&["b", "a", "c"], 7).await;
    // Two readings of one instant differ by their event alone.
    world
        .sql(
            "INSERT INTO readings_ingestion SELECT sensor_id, metric, reading_at, -1, gen_random_uuid(), received_at, \
             device_type, zone_id FROM readings_ingestion WHERE value = 3",
        )
        .await;
    let query = format!("sensorId=c,b,nobody&{DAY}");
    let whole = world.raw_pages(&query, 1_000).await;
    assert_eq!(whole.len(), 2 * 2 * 8);
    let key = |row: &Value| ["sensorId", "metric", "readingAt", "eventId"].map(|name| row[name].to_string());
    assert!(whole.is_sorted_by(|row, next| key(row) < key(next)));
    for limit in [1, 3, 8, 31, 32] {
        assert_eq!(world.raw_pages(&query, limit).await, whole, "{limit}");
    }
    let part = "sensorId=a,b&metric=t&from=2026-03-29T00:00:02Z&to=2026-03-29T00:00:05Z";
    let part = world.raw_pages(part, 2).await;
    let seconds: Vec<_> =
        part.iter().map(|row| row["readingAt"].as_str().unwrap()[17..19].to_owned()).collect();
    assert_eq!(seconds, ["02", "03", "03", "04", "02", "03", "03", "04"]);
}

#[tokio::test]
async fn a_body_asks_what_an_address_has_no_room_for() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a", "b"], 3).await;
    let mut sensors: Vec<_> = (0..998).map(|number| format!("none-{number}")).collect();
    sensors.extend(["a".to_owned(), "b".to_owned()]);
    let body =
        json!({"sensorId": sensors, "metric": "t", "from": "2026-03-29", "to": "2026-03-30", "limit": 4});
    let answer = world.rest.post(PATH, &body).await.ok(200);
    assert_eq!((answer.body["count"].as_i64(), answer.body["next"].is_string()), (Some(4), true));
    world.rest.call("POST", PATH).body_as("text/plain", "{}").send().await.problem(415);
}

#[tokio::test]
async fn one_reading_is_found_by_its_event() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a", "b"], 3).await;
    let rows = world.raw_pages(&format!("sensorId=a&metric=t&{DAY}"), 10).await;
    let id = rows[1]["eventId"].as_str().unwrap();
    let of = |sensor: &str, at: &str| format!("/api/v1/readings/{id}?sensorId={sensor}&readingAt={at}");
    let answer = world.rest.get(&of("a", "2026-03-29T00:00:01Z")).await.ok(200);
    let expected = json!({"eventId": id, "sensorId": "a", "readingAt": "2026-03-29T00:00:01.000000Z",
        "receivedAt": "2026-03-29T12:00:00.000000Z", "deviceType": "T", "zoneId": "z",
        "values": {"h": 1.0, "t": 1.0}, "attributes": {"units": {"t": "Cel"}, "site": "x"}});
    assert_eq!(answer.body, expected);
    world.rest.get(&of("a", "2026-03-29T00:00:02Z")).await.problem(404);
    world.rest.get(&of("b", "2026-03-29T00:00:01Z")).await.problem(404);
    let bad = world.rest.get("/api/v1/readings/x?x=1").await.problem(400);
    assert_eq!(bad.bad_fields(), ["eventId", "sensorId", "readingAt", "x"]);
}

#[tokio::test]
async fn every_bad_parameter_is_reported_together() {
    let world = start(EVER, EVER).await;
    let bad = async |query: &str| {
        let answer = world.rest.get(&format!("{PATH}?{query}")).await.problem(400);
        answer.bad_fields().join(" ")
    };
    let worst = "sensorId=*&metric=2&timezone=x&from=x&to=y&total=true&limit=0&cursor=%00&bucket=1h";
    assert_eq!(bad(worst).await, "sensorId metric timezone from to total limit cursor bucket");
    assert_eq!(bad("").await, "sensorId from");
    for (query, field) in [
        ("sensorId=a&from=now-32d", "from"),
        ("sensorId=a&from=now&to=now-1h", "from"),
        ("sensorId=a&from=now-1d&limit=10001", "limit"),
        ("from=now-1d", "sensorId"),
        ("sensorId=a&from=now-1d&cursor=W10", "cursor"),
    ] {
        assert_eq!(bad(query).await, field, "{query}");
    }
}

#[tokio::test]
async fn hostile_parameters_never_fail_the_service() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 3).await;
    world
        .assert_survives(&format!("{PATH}?sensorId=a&from=2026-03-29"), &["metric", "timezone", "cursor"])
        .await;
    world.assert_survives(&format!("{PATH}?sensorId=a&from=2026-03-29"), &["to", "limit", "x"]).await;
    world.assert_survives(&format!("{PATH}?{DAY}"), &["sensorId"]).await;
}

#[tokio::test]
async fn those_who_may_read_read_and_nobody_else() {
    let world = start(EVER, EVER).await;
    let id = "/api/v1/readings/00000000-0000-0000-0000-000000000001?sensorId=a&readingAt=now";
    let paths = [
        format!("{PATH}?sensorId=a&{DAY}"),
        id.to_owned(),
        format!("/api/v1/readings/aggregates?{DAY}&bucket=1d"),
    ];
    for (path, status) in paths.iter().zip([200, 404, 200]) {
        world.rest.assert_refuses_bad_tokens("GET", path).await;
        world.rest.assert_refuses_roles("GET", path, &["device", "root"]).await;
        for role in ["analyst", "operator", "admin"] {
            world.rest.call("GET", path).role(&world.rest.tokens, role).send().await.ok(status);
        }
    }
    for path in [PATH, "/api/v1/readings/aggregates"] {
        world.rest.assert_refuses_bad_tokens("POST", path).await;
        world.rest.assert_refuses_roles("POST", path, &["device", "root"]).await;
        world.rest.delete(path).await.problem(405);
    }
}

#[tokio::test]
async fn formats_are_chosen_by_accept_and_hold_the_same_rows() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 3).await;
    for path in [
        format!("{PATH}?sensorId=a&{DAY}"),
        format!("/api/v1/readings/aggregates?{DAY}&sensorId=a&bucket=1m&fill=null&timezone=Europe/Berlin"),
    ] {
        let page = world.rest.get(&format!("{path}&limit=10000")).await.ok(200);
        let rows = page.body["resources"].as_array().unwrap();
        let (kind, lines) = world.text(&path, "application/x-ndjson").await;
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((kind.as_str(), &lines), ("application/x-ndjson", rows));
        let (kind, csv) = world.text(&path, "text/csv, */*;q=0.1").await;
        assert_eq!((kind.as_str(), csv.lines().count()), ("text/csv; charset=utf-8", rows.len() + 1));
        assert_eq!(world.text(&format!("{path}&limit=2"), "text/csv").await.1.lines().count(), 3);
        let none = world.rest.call("GET", &path).header("accept", "image/png").send().await.problem(406);
        let detail = none.body["detail"].as_str().unwrap();
        assert!(
            ["application/json", "text/csv", "application/x-ndjson"].iter().all(|kind| detail.contains(kind))
        );
    }
}

impl World {
    /// Returns the media type and the body of an answer.
    async fn text(&self, path: &str, accept: &str) -> (String, String) {
        let mut answer = self.stream(path, accept).await;
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.unwrap() {
            body.extend_from_slice(&part);
        }
        (kind, String::from_utf8(body).unwrap())
    }

    async fn stream(&self, path: &str, accept: &str) -> reqwest::Response {
        let url = format!("http://{}{path}", self.rest.listen);
        let request = reqwest::Client::new().get(url).header("accept", accept);
        let answer = request.bearer_auth(self.rest.tokens.of("analyst")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    }
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_statement_along() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 86_400).await;
    let path = format!("{PATH}?sensorId=a&{DAY}");
    for accept in ["text/csv", "application/x-ndjson"] {
        let mut stream = world.stream(&path, accept).await;
        assert!(stream.chunk().await.unwrap().is_some());
        assert!(world.statements().await > 0, "the stream waits for its reader");
        drop(stream);
        until("the end of the statement", async || (world.statements().await == 0).then_some(())).await;
    }
    // More of them than there are connections: none was lost on the way.
    for _ in 0..10 {
        let mut stream = world.stream(&path, "text/csv").await;
        assert!(stream.chunk().await.unwrap().is_some());
    }
    let (_, whole) = world.text(&path, "text/csv").await;
    assert_eq!(whole.lines().count(), 2 * 86_400 + 1);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_page_takes_the_statement_along() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 2).await;
    let mut client = world.database.client().await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("LOCK TABLE readings_ingestion IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let path = format!("/api/v1/readings/aggregates?{DAY}&sensorId=a&bucket=1m");
    let call = tokio::spawn(world.rest.call("GET", &path).send());
    until("the statement of the page", async || (world.statements().await > 0).then_some(())).await;
    call.abort();
    until("its end", async || (world.statements().await == 0).then_some(())).await;
    transaction.rollback().await.unwrap();
    world.rest.get(&path).await.ok(200);
}

#[tokio::test]
async fn more_streams_than_there_is_room_for_are_told_to_come_again() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 86_400).await;
    let path = format!("{PATH}?sensorId=a&{DAY}");
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(world.stream(&path, "text/csv").await);
    }
    let refused = world.rest.get(&path).await.problem(503);
    assert!(refused.header("retry-after").is_some());
    // Short questions still find a connection.
    world.rest.get("/api/v1/readings/latest").await.ok(200);
    drop(open);
    until("room for a stream", async || (world.rest.get(&path).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn a_database_that_goes_away_breaks_a_stream_off() {
    let world = start(EVER, EVER).await;
    world.seconds(&["a"], 86_400).await;
    let path = format!("{PATH}?sensorId=a&{DAY}");
    let mut stream = world.stream(&path, "text/csv").await;
    assert!(stream.chunk().await.unwrap().is_some());
    let admin = world.take_away().await;
    let broken = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match stream.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    });
    assert!(broken.await.unwrap(), "a part is never taken for the whole");
    world.rest.get(&path).await.problem(503);
    world.give_back(&admin).await;
    world.rest.get(&path).await.ok(200);
}
