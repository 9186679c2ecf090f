//! Backtests over stored readings.

use crate::{PATH, World, start};
use schema::Timestamp;
use schema::migrations::Dialect;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::wait;
use tokio_postgres::types::ToSql;

/// The beginning of every range.
const FROM: &str = "2026-01-02T00:00:00Z";
const TO: &str = "2026-01-02T01:00:00Z";

fn path() -> String {
    format!("{PATH}/backtest")
}

/// Stores one value a minute from the beginning of the range on, of a sensor of type T in zone z.
async fn store(world: &World, sensor: &str, values: &[f64]) {
    store_from(world, sensor, FROM, values).await;
}

async fn store_from(world: &World, sensor: &str, from: &str, values: &[f64]) {
    let client = world.database.client().await;
    let from = Timestamp::parse(from).unwrap().as_micros();
    for (minute, value) in (0..).zip(values) {
        let at = Timestamp::from_micros(from + minute * 60_000_000).unwrap();
        if world.database.dialect == Dialect::Postgres {
            let day = &at.to_string()[..10];
            client.batch_execute(&format!("SELECT ensure_reading_partition('{day}')")).await.unwrap();
        }
        let at = time::OffsetDateTime::from(at);
        let insert = "INSERT INTO readings_ingestion (sensor_id, metric, reading_at, value, event_id, received_at, \
                      device_type, zone_id) VALUES ($1, 'temperature', $2, $3, gen_random_uuid(), now(), 'T', 'z')";
        let params: [&(dyn ToSql + Sync); 3] = [&sensor, &at, value];
        client.execute(insert, &params).await.unwrap();
    }
}

fn rule() -> Value {
    json!({"deviceType": "T", "metric": "temperature", "max": 30, "severity": "warning"})
}

/// A rule with other fields beside, or in the place of its own.
fn rule_with(fields: &Value) -> Value {
    let mut rule = rule();
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    rule
}

fn asked(threshold: &Value) -> Value {
    json!({"threshold": threshold, "from": FROM, "to": TO})
}

impl World {
    async fn backtest(&self, body: &Value) -> Value {
        self.rest.post(&path(), body).await.ok(200).body
    }
}

/// The sums of one of the sets of thresholds: episodes, flaps, open at the end, seconds in alarm.
fn sums(report: &Value, of: &str) -> (u64, u64, u64, f64) {
    let count = |name: &str| report[of][name].as_u64().unwrap();
    (count("episodes"), count("flaps"), count("openAtEnd"), report[of]["secondsInAlarm"].as_f64().unwrap())
}

#[tokio::test]
async fn a_backtest_says_when_a_threshold_would_have_spoken() {
    let world = start().await;
    store(&world, "a", &[20.0, 31.0, 32.0, 33.0, 20.0, 20.0, 31.0, 20.0]).await;
    store(&world, "b", &[20.0, 20.0]).await;
    store(&world, "c", &[40.0, 40.0]).await;
    let report = world.backtest(&asked(&rule())).await;
    assert_eq!((&report["readings"], &report["sensors"]), (&json!(12), &json!(3)));
    assert_eq!(
        (&report["truncated"], &report["until"]),
        (&json!(false), &json!("2026-01-02T01:00:00.000000Z"))
    );
    // a: three minutes and one, c: until the end of the range.
    assert_eq!(sums(&report, "tested"), (3, 1, 1, 180.0 + 60.0 + 3_600.0));
    // Opened, twice continuing, closed; opened, closed; opened, continuing.
    assert_eq!(report["tested"]["alerts"], 8);
    let episodes = report["episodes"].as_array().unwrap();
    let opened: Vec<_> = episodes.iter().map(|one| (&one["sensorId"], &one["openedAt"])).collect();
    let instants = ["00:00", "01:00", "06:00"].map(|time| json!(format!("2026-01-02T00:{time}.000000Z")));
    assert_eq!(
        opened,
        [(&json!("c"), &instants[0]), (&json!("a"), &instants[1]), (&json!("a"), &instants[2])]
    );
    let first = &episodes[1];
    assert_eq!((&first["reason"], &first["occurrences"]), (&json!("above"), &json!(3)));
    assert_eq!((&first["value"], &first["bound"]), (&json!(31.0), &json!({"limit": "max", "value": 30.0})));
    assert_eq!(first["closedAt"], "2026-01-02T00:04:00.000000Z");
    assert_eq!(episodes[0]["closedAt"], Value::Null);
    // Nothing is in force, and nothing is stored.
    assert_eq!(sums(&report, "inForce"), (0, 0, 0, 0.0));
    assert_eq!(report["difference"], json!({"added": 3, "gone": 0, "kept": 0}));
    assert_eq!(world.rows().await, 0);
}

#[tokio::test]
async fn only_readings_of_the_range_and_of_the_sensors_asked_for_are_evaluated() {
    let world = start().await;
    for sensor in ["a", "b"] {
        store_from(&world, sensor, "2026-01-01T23:58:00Z", &[31.0; 4]).await;
        store_from(&world, sensor, "2026-01-02T00:59:00Z", &[31.0; 3]).await;
    }
    let ask = async |more: Value| {
        let mut body = asked(&rule());
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let report = world.backtest(&body).await;
        (report["sensors"].as_u64().unwrap(), report["readings"].as_u64().unwrap())
    };
    assert_eq!(ask(json!({})).await, (2, 6));
    assert_eq!(ask(json!({"sensorId": "a"})).await, (1, 3));
    assert_eq!(ask(json!({"zoneId": "z"})).await, (2, 6));
    assert_eq!(ask(json!({"zoneId": "y"})).await, (0, 0));
    // Over midnight, which is where days are cut: it is one episode.
    let mut body = asked(&rule());
    body["from"] = json!("2026-01-01T23:00:00Z");
    let report = world.backtest(&body).await;
    assert_eq!((&report["readings"], sums(&report, "tested").0), (&json!(10), 2));
    // The future is not evaluated.
    let shifted = |hours: i64| {
        Timestamp::from_micros(Timestamp::now().as_micros() + hours * 3_600_000_000).unwrap().to_string()
    };
    (body["from"], body["to"]) = (json!(shifted(-1)), json!(shifted(1)));
    let report = world.backtest(&body).await;
    assert!(report["until"].as_str() < report["to"].as_str(), "{report}");
}

#[tokio::test]
async fn the_difference_to_what_is_in_force_is_counted() {
    let world = start().await;
    store(&world, "a", &[20.0, 31.0, 20.0, 35.0, 36.0, 36.0, 20.0]).await;
    store(&world, "b", &[25.0, 28.5, 25.0]).await;
    let stored = world.create(&rule()).await.body;
    // As it is, it changes nothing.
    let alone = json!({"thresholdId": stored["thresholdId"], "from": FROM, "to": TO});
    let alone = world.backtest(&alone).await;
    assert_eq!((sums(&alone, "tested").0, sums(&alone, "inForce").0), (2, 2));
    assert_eq!(alone["difference"], json!({"added": 0, "gone": 0, "kept": 2}));

    // Another one in its place; the answer of a GET will do.
    let instead = async |fields: Value| {
        let mut threshold = stored.clone();
        threshold.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut body = asked(&threshold);
        body["thresholdId"] = stored["thresholdId"].clone();
        world.backtest(&body).await
    };
    let patient = instead(json!({"forSeconds": 60})).await;
    assert_eq!((sums(&patient, "tested").0, sums(&patient, "inForce").0), (1, 2));
    assert_eq!(patient["difference"], json!({"added": 0, "gone": 1, "kept": 1}));
    let strict = instead(json!({"max": 28})).await;
    assert_eq!((sums(&strict, "ifSaved").0, sums(&strict, "inForce").0), (3, 2));
    assert_eq!(strict["difference"], json!({"added": 1, "gone": 0, "kept": 2}));

    // One that is off or in shadow is tested as if it were live, and is not in force.
    let location = format!("{PATH}/{}", stored["thresholdId"].as_str().unwrap());
    for mode in ["shadow", "off"] {
        world.rest.patch(&location, &json!({"mode": mode})).await.ok(200);
        let id = json!({"thresholdId": stored["thresholdId"], "from": FROM, "to": TO});
        assert_eq!(world.backtest(&id).await["difference"], json!({"added": 2, "gone": 0, "kept": 0}));
    }
}

#[tokio::test]
async fn where_a_more_specific_threshold_is_in_force_that_one_speaks() {
    let world = start().await;
    for sensor in ["a", "b"] {
        store(&world, sensor, &[20.0, 35.0, 20.0]).await;
    }
    world.create(&json!({"sensorId": "a", "metric": "temperature", "max": 60, "severity": "warning"})).await;
    // Another purpose has no say in it.
    world.create(&json!({"sensorId": "b", "metric": "temperature", "max": 60, "severity": "critical"})).await;
    world
        .create(
            &json!({"sensorId": "b", "metric": "temperature", "noDataSeconds": 60, "severity": "warning"}),
        )
        .await;
    let report = world.backtest(&asked(&rule())).await;
    assert_eq!((sums(&report, "tested").0, &report["episodes"][0]["sensorId"]), (1, &json!("b")));
    // A more specific one takes the word of one that is in force.
    world.create(&rule()).await;
    let quiet = json!({"sensorId": "b", "metric": "temperature", "max": 50, "severity": "warning"});
    let report = world.backtest(&asked(&quiet)).await;
    assert_eq!((sums(&report, "tested").0, sums(&report, "inForce").0), (0, 1));
    assert_eq!(report["difference"], json!({"added": 0, "gone": 1, "kept": 0}));
}

#[tokio::test]
async fn time_that_passes_without_a_reading_opens_and_closes() {
    let world = start().await;
    store(&world, "a", &[20.0, 20.0, 20.0]).await;
    let silence =
        json!({"sensorId": "a", "metric": "temperature", "noDataSeconds": 600, "severity": "critical"});
    let report = world.backtest(&asked(&silence)).await;
    // From 00:12 to the end of the hour.
    assert_eq!(sums(&report, "tested"), (1, 0, 1, 48.0 * 60.0));
    assert_eq!(report["episodes"][0]["reason"], "noData");
    assert_eq!(report["episodes"][0]["openedAt"], "2026-01-02T00:12:00.000000Z");
    // A value that is outside stays there until the next one: after ten minutes it is an episode, and ten
    // minutes after the last one inside it is over.
    store(&world, "b", &[31.0]).await;
    store_from(&world, "b", "2026-01-02T00:30:00Z", &[20.0]).await;
    let patient = rule_with(&json!({"forSeconds": 600, "keepFiringSeconds": 600}));
    let report = world.backtest(&asked(&patient)).await;
    assert_eq!(sums(&report, "tested"), (1, 0, 0, 30.0 * 60.0));
    assert_eq!(report["episodes"][0]["openedAt"], "2026-01-02T00:10:00.000000Z");
    assert_eq!(report["episodes"][0]["closedAt"], "2026-01-02T00:40:00.000000Z");
}

#[tokio::test]
async fn every_bad_field_of_a_request_is_named() {
    let world = start().await;
    let refused = async |body: Value| world.rest.post(&path(), &body).await.problem(400);
    assert_eq!(refused(json!({})).await.bad_fields(), ["threshold", "from", "to"]);
    let long = json!({"threshold": {"metric": "2", "max": 1, "zoneId": "z", "severity": "info"}, "from": FROM,
        "to": "2026-02-02T00:00:00.000001Z", "sensorId": "a/b", "colour": "red"});
    assert_eq!(refused(long).await.bad_fields(), ["threshold.metric", "sensorId", "from", "colour"]);
    assert_eq!(
        refused(json!({"threshold": 7, "from": TO, "to": FROM})).await.bad_fields(),
        ["threshold", "from"]
    );
    let future = json!({"threshold": rule(), "from": "2999-01-01T00:00:00Z", "to": "2999-01-01T01:00:00Z"});
    assert_eq!(refused(future).await.bad_fields(), ["from"]);
    let nobody = json!({"thresholdId": "00000000-0000-0000-0000-000000000000", "from": FROM, "to": TO});
    world.rest.post(&path(), &nobody).await.problem(404);
    let mut elsewhere = asked(&rule_with(&json!({"zoneId": "z"})));
    elsewhere["zoneId"] = json!("y");
    elsewhere["deviceType"] = json!("U");
    assert_eq!(refused(elsewhere).await.bad_fields(), ["deviceType", "zoneId"]);
    world.rest.assert_refuses_bad_tokens("POST", &path()).await;
    world.rest.assert_refuses_roles("POST", &path(), &["device", ""]).await;
    let analyst = world.rest.call("POST", &path()).role(&world.rest.tokens, "analyst").json(&asked(&rule()));
    analyst.send().await.ok(200);
}

/// A table that is locked stands for a query that takes long.
#[tokio::test]
async fn a_caller_who_leaves_takes_the_query_along_and_there_are_two_places() {
    let world = start().await;
    let mut holder = world.database.client().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE readings_ingestion").await.unwrap();
    let watcher = world.database.client().await;
    let waiting = async || {
        let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND wait_event_type = 'Lock' AND query LIKE '%readings_ingestion%'";
        watcher.query_one(asks, &[]).await.unwrap().get::<_, i64>(0)
    };
    let call = || {
        let request = reqwest::Client::new().post(format!("http://{}{}", world.rest.listen, path()));
        let request = request.bearer_auth(world.rest.tokens.of("operator")).json(&asked(&rule()));
        tokio::spawn(request.timeout(Duration::from_secs(300)).send())
    };
    let callers = [call(), call()];
    wait::until("two backtests that wait", async || (waiting().await == 2).then_some(())).await;
    let busy = world.rest.post(&path(), &asked(&rule())).await.problem(503);
    assert!(busy.header("retry-after").is_some());
    // Other requests are answered meanwhile.
    world.rest.get(PATH).await.ok(200);
    for caller in callers {
        caller.abort();
    }
    wait::until("no backtest that waits", async || (waiting().await == 0).then_some(())).await;
    lock.rollback().await.unwrap();
    wait::until("a place that is free", async || {
        (world.rest.post(&path(), &asked(&rule())).await.status == 200).then_some(())
    })
    .await;
    let families = world.rest.chassis.registry.gather();
    let shown = prometheus::TextEncoder::new().encode_to_string(&families).unwrap();
    for line in [
        "threshold_backtests_total{outcome=\"busy\"} ",
        "threshold_backtests_total{outcome=\"complete\"} 1\n",
        "threshold_backtests_total{outcome=\"unfinished\"} 2\n",
        "threshold_backtests_under_way 0\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}
