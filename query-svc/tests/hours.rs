//! Hourly aggregates and their cache.

use crate::{EVER, World, numbers, start, texts};
use schema::migrations::Dialect;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::rest::Answer;

const PATH: &str = "/api/v1/sensors/thermostat-1/aggregates/hourly";
const DAY: &str = "from=2026-01-02T00:00:00Z&to=2026-01-03T00:00:00Z";

impl World {
    async fn hours(&self, query: &str) -> Answer {
        self.rest.get(&format!("{PATH}?{query}")).await.ok(200)
    }

    async fn three_hours(&self) {
        for (bucket, low) in [("05", 3.0), ("03", 1.0), ("04", 2.0)] {
            self.hour("thermostat-1", "temperature", &format!("2026-01-02T{bucket}:00:00Z"), low, low + 2.0)
                .await;
        }
        self.hour("thermostat-1", "humidity", "2026-01-02T04:00:00Z", 40.0, 60.0).await;
        self.hour("thermostat-2", "temperature", "2026-01-02T04:00:00Z", 0.0, 0.0).await;
        self.sql(
            "INSERT INTO sensor_latest VALUES ('thermostat-1', 'temperature', '2026-01-02T05:30:00Z', 3, \
             gen_random_uuid(), now(), 'T', 'z')",
        )
        .await;
    }
}

#[tokio::test]
async fn hours_are_ordered_by_bucket_and_metric() {
    let world = start(EVER, EVER).await;
    world.three_hours().await;
    let answer = world.hours(DAY).await;
    assert_eq!(numbers(&answer), [4, 4, 0]);
    let rows = texts(&answer, &["bucket", "metric", "min", "max", "avg", "sum", "count"]);
    assert_eq!(
        rows,
        [
            "2026-01-02T03:00:00.000000Z temperature 1.0 3.0 2.0 4.0 2",
            "2026-01-02T04:00:00.000000Z humidity 40.0 60.0 50.0 100.0 2",
            "2026-01-02T04:00:00.000000Z temperature 2.0 4.0 3.0 6.0 2",
            "2026-01-02T05:00:00.000000Z temperature 3.0 5.0 4.0 8.0 2",
        ]
    );
    let row = answer.body["resources"][0].as_object().unwrap();
    assert_eq!((row.len(), &row["deviceType"], &row["zoneId"]), (9, &json!("T"), &json!("z")));
}

#[tokio::test]
async fn range_has_its_first_hour_and_not_its_last_and_pages_cover_it() {
    let world = start(EVER, EVER).await;
    world.three_hours().await;
    let rows = async |query: &str| {
        let answer = world.hours(query).await;
        let hours: Vec<_> = texts(&answer, &["bucket", "metric"])
            .iter()
            .map(|t| format!("{}{}", &t[11..13], &t[28..29]))
            .collect();
        (hours.join(" "), numbers(&answer))
    };
    let range = "from=2026-01-02T03:00:00Z&to=2026-01-02T05:00:00Z";
    assert_eq!(rows(range).await, ("03t 04h 04t".to_owned(), [3, 3, 0]));
    let shifted = "from=2026-01-02T05:00:00%2B02:00&to=2026-01-02T00:00:00-05:00";
    assert_eq!(rows(shifted).await, ("03t 04h 04t".to_owned(), [3, 3, 0]));
    // An hour belongs to a range in which it begins.
    let within = "from=2026-01-02T03:00:00.000001Z&to=2026-01-02T04:00:00.000001Z";
    assert_eq!(rows(within).await, ("04h 04t".to_owned(), [2, 2, 0]));
    assert_eq!(rows(&format!("{DAY}&metric=temperature")).await, ("03t 04t 05t".to_owned(), [3, 3, 0]));
    assert_eq!(rows(&format!("{DAY}&limit=2")).await, ("03t 04h".to_owned(), [4, 2, 0]));
    assert_eq!(rows(&format!("{DAY}&limit=2&offset=2")).await, ("04t 05t".to_owned(), [4, 2, 2]));
    assert_eq!(rows(&format!("{DAY}&offset=4")).await, (String::new(), [4, 0, 4]));
    assert_eq!(rows(&format!("{DAY}&metric=rpm")).await, (String::new(), [0, 0, 0]));
    world.rest.get(&format!("/api/v1/sensors/nobody/aggregates/hourly?{DAY}")).await.problem(404);
}

#[tokio::test]
async fn closed_hours_are_kept_and_shared_by_those_who_ask_at_once() {
    let world = start(Duration::ZERO, EVER).await;
    world.three_hours().await;
    // Nobody is answered before everybody has been heard: the first load waits for this lock.
    let mut client = world.database.client().await;
    let transaction = client.transaction().await.unwrap();
    let table = match world.database.dialect {
        Dialect::Postgres | Dialect::Distributed => "sensor_reading_hourly_aggregates",
        Dialect::Timescale => "readings_ingestion",
    };
    transaction.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let call = world.rest.call("GET", &format!("{PATH}?{DAY}"));
        askers.spawn(async { call.send().await.ok(200).body });
    }
    testkit::wait::until("the first load", async || (world.loads() == 1.0).then_some(())).await;
    transaction.rollback().await.unwrap();
    let answers = askers.join_all().await;
    assert!(answers.iter().all(|body| *body == answers[0] && body["total"] == 4));
    assert_eq!(world.loads(), 1.0);

    world.hour("thermostat-1", "temperature", "2026-01-02T03:00:00Z", 7.0, 9.0).await;
    assert_eq!(world.hours(DAY).await.body, answers[0]);
    // Another spelling of the same question, then another question.
    let same = "to=2026-01-02T23:59:59Z&from=2026-01-02T01:00:00%2B01:00&limit=1000&offset=0";
    assert_eq!((world.hours(same).await.body, world.loads()), (answers[0].clone(), 1.0));
    let fresh = world.hours(&format!("{DAY}&metric=temperature")).await;
    assert_eq!((&fresh.body["resources"][0]["min"], world.loads()), (&json!(7.0), 2.0));
}

#[tokio::test]
async fn late_readings_show_once_the_kept_answer_is_too_old() {
    for (open, closed, range) in [
        (EVER, Duration::from_millis(50), DAY.to_owned()),
        // A range that reaches into the present hour is never closed.
        (Duration::from_millis(50), EVER, "from=2026-01-02T00:00:00Z&to=2035-01-01T00:00:00Z".to_owned()),
    ] {
        let world = start(open, closed).await;
        world.three_hours().await;
        assert_eq!(world.hours(&range).await.body["resources"][0]["min"], 1.0);
        world.hour("thermostat-1", "temperature", "2026-01-02T03:00:00Z", -7.0, 9.0).await;
        testkit::wait::until("the late reading", async || {
            (world.hours(&range).await.body["resources"][0]["min"] == -7.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn client_that_holds_the_answer_gets_no_second_copy() {
    let world = start(Duration::ZERO, Duration::from_secs(100)).await;
    world.three_hours().await;
    let first = world.hours(DAY).await;
    let tag = first.header("etag").unwrap().to_owned();
    let seconds = |answer: &Answer| {
        let age =
            answer.header("cache-control").unwrap().strip_prefix("private, max-age=").unwrap().to_owned();
        age.parse::<u64>().unwrap()
    };
    // The time for which a client may keep it counts into the age, so it is never the whole of it.
    assert!(seconds(&first) < 100);
    let ask = async |query: &str, tag: &str| {
        world.rest.call("GET", &format!("{PATH}?{query}")).header("if-none-match", tag).send().await
    };
    let held = ask(DAY, &tag).await.ok(304);
    assert_eq!((held.header("etag"), &held.body), (Some(tag.as_str()), &Value::Null));
    assert!(seconds(&held) <= seconds(&first));
    assert_eq!(ask(DAY, "\"another\"").await.ok(200).body, first.body);
    let other = world.hours(&format!("{DAY}&limit=1")).await;
    assert_ne!(other.header("etag"), Some(tag.as_str()));

    let open = "from=2026-01-02T00:00:00Z&to=2035-01-01T00:00:00Z";
    let before = world.hours(open).await;
    let tag = before.header("etag").unwrap();
    assert_eq!(seconds(&before), 0);
    ask(open, tag).await.ok(304);
    world.hour("thermostat-1", "temperature", "2026-01-02T03:00:00Z", 7.0, 9.0).await;
    assert_ne!(ask(open, tag).await.ok(200).header("etag"), Some(tag));
}

#[tokio::test]
async fn aggregates_never_touch_the_raw_table() {
    let world = start(Duration::ZERO, Duration::ZERO).await;
    world.three_hours().await;
    if world.database.dialect == Dialect::Postgres {
        // The other dialect's read model is a view, which TimescaleDB completes from the raw rows of the last
        // hours.
        world.sql("DROP TABLE readings_ingestion").await;
    }
    assert_eq!(numbers(&world.hours(DAY).await), [4, 4, 0]);
}

#[tokio::test]
async fn failure_is_unavailable_and_is_not_kept() {
    let world = start(EVER, EVER).await;
    world.three_hours().await;
    let kept = world.hours(DAY).await;
    let admin = world.take_away().await;
    let other = format!("{PATH}?{DAY}&metric=temperature");
    for path in [other.as_str(), "/api/v1/readings/latest", "/api/v1/readings/latest/thermostat-1"] {
        let answer = world.rest.get(path).await.problem(503);
        assert!(answer.header("retry-after").is_some());
        assert!(!answer.body.to_string().contains("database"), "{:?}", answer.body);
    }
    assert_eq!(world.hours(DAY).await.body, kept.body, "what is kept is still answered");
    world.give_back(&admin).await;
    assert_eq!(numbers(&world.rest.get(&other).await.ok(200)), [3, 3, 0]);
}

#[tokio::test]
async fn every_bad_parameter_is_reported_together() {
    let world = start(EVER, EVER).await;
    let bad = async |path: &str| {
        let answer = world.rest.get(path).await.problem(400);
        answer.bad_fields().join(" ")
    };
    let worst = "/api/v1/sensors/-/aggregates/hourly?metric=2&from=then&to=2026-13-01T00:00:00Z&limit=0&offset=-1&x=1";
    assert_eq!(bad(worst).await, "sensorId metric from to limit offset x");
    assert_eq!(bad(PATH).await, "from");
    for (query, field) in [
        ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "from"),
        ("from=2026-01-03T00:00:00Z&to=2026-01-02T00:00:00Z", "from"),
        ("from=2000-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("from=2026-01-02T00:00:00+01:00&to=2026-01-03T00:00:00Z", "from"),
        ("from=2026-01-2&to=2026-01-03T00:00:00Z", "from"),
        ("from=2026-01-02T00:00:00Z&to=1767312000", "to"),
        ("from=0000-01-01T00:00:00Z&to=0001-01-01T00:00:00Z", "from"),
    ] {
        assert_eq!(bad(&format!("{PATH}?{query}")).await, field, "{query}");
    }
    assert_eq!(bad(&format!("{PATH}?{DAY}&limit=10001")).await, "limit");
    assert_eq!(bad(&format!("{PATH}?{DAY}&from=2026-01-01T00:00:00Z")).await, "from");
    for sensor in ["%00", "%ff", "'--", &"a".repeat(129), "a%2Fb"] {
        assert_eq!(bad(&format!("/api/v1/sensors/{sensor}/aggregates/hourly?{DAY}")).await, "sensorId");
    }
    assert_eq!(world.loads(), 0.0);
}

#[tokio::test]
async fn hostile_parameters_never_fail_the_service() {
    let world = start(EVER, EVER).await;
    world.three_hours().await;
    world.assert_survives(&format!("{PATH}?{DAY}"), &["metric", "limit", "offset", "x"]).await;
    world.assert_survives(&format!("{PATH}?to=2026-01-02T00:00:00Z"), &["from"]).await;
    world.assert_survives(&format!("{PATH}?from=2026-01-02T00:00:00Z"), &["to"]).await;
}

#[tokio::test]
async fn those_who_may_read_read_and_nobody_else() {
    let world = start(EVER, EVER).await;
    world.three_hours().await;
    let path = format!("{PATH}?{DAY}");
    // An answer that is kept is not given to everybody.
    world.hours(DAY).await;
    world.rest.assert_refuses_bad_tokens("GET", &path).await;
    world.rest.assert_refuses_roles("GET", &path, &["device", "root"]).await;
    for role in ["analyst", "operator", "admin"] {
        world.rest.call("GET", &path).role(&world.rest.tokens, role).send().await.ok(200);
    }
    world.rest.post(&path, &json!({})).await.problem(405);
    world.rest.get("/api/v1/sensors/thermostat-1/aggregates/daily").await.problem(404);
}
