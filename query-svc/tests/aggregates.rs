//! Aggregates by sensor, zone and type, in buckets of every width.

use crate::{EVER, World, start, texts};
use schema::migrations::Dialect;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::rest::Answer;

const PATH: &str = "/api/v1/readings/aggregates";

impl World {
    /// Stores a value of an instant as a raw reading, with its latest value and, where the dialect does not
    /// compute it, its hour.
    async fn reading(&self, sensor: &str, metric: &str, at: &str, value: f64) {
        let (kind, zone) =
            if sensor.starts_with('p') { ("Pump", "cellar") } else { ("Thermo", "hall, east") };
        self.reading_of(sensor, metric, at, value, kind, zone).await;
    }

    async fn reading_of(&self, sensor: &str, metric: &str, at: &str, value: f64, kind: &str, zone: &str) {
        let row =
            format!("'{sensor}', '{metric}', '{at}', {value}, gen_random_uuid(), '{at}', '{kind}', '{zone}'");
        let columns = "sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id";
        if self.database.dialect == Dialect::Postgres {
            self.sql(&format!(
                "SELECT ensure_reading_partition(('{at}'::timestamptz AT TIME ZONE 'UTC')::date)"
            ))
            .await;
        }
        self.sql(&format!(
            "INSERT INTO readings_ingestion ({columns}) VALUES ({row}); \
             INSERT INTO sensor_latest ({columns}) VALUES ({row}) ON CONFLICT DO NOTHING"
        ))
        .await;
        if self.database.dialect == Dialect::Timescale {
            return;
        }
        let is_plain = self.database.dialect == Dialect::Postgres;
        let (avg, avg_value) = if is_plain { ("", "") } else { (", avg", ", sum(value) / count(*)") };
        self.sql(&format!(
            "DELETE FROM sensor_reading_hourly_aggregates \
             WHERE (sensor_id, metric) = ('{sensor}', '{metric}') AND bucket = date_trunc('hour', '{at}'::timestamptz, 'UTC'); \
             INSERT INTO sensor_reading_hourly_aggregates \
               (bucket, sensor_id, metric, device_type, zone_id, min, max, count, sum{avg}) \
             SELECT date_trunc('hour', reading_at, 'UTC'), sensor_id, metric, device_type, zone_id, \
                    min(value), max(value), count(*), sum(value){avg_value} \
             FROM readings_ingestion WHERE (sensor_id, metric) = ('{sensor}', '{metric}') \
               AND date_trunc('hour', reading_at, 'UTC') = date_trunc('hour', '{at}'::timestamptz, 'UTC') \
             GROUP BY 1, 2, 3, 4, 5"
        ))
        .await;
    }

    async fn ask(&self, query: &str) -> Answer {
        self.rest.get(&format!("{PATH}?{query}")).await.ok(200)
    }

    /// Asks for aggregates and writes each row as `label bucket value…`.
    async fn rows(&self, query: &str, fields: &[&str]) -> Vec<String> {
        texts(&self.ask(query).await, fields)
    }

    /// Follows `next` to the end.
    async fn pages(&self, query: &str, limit: usize) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.ask(&format!("{query}&limit={limit}{cursor}")).await.body;
            let rows = page["resources"].as_array().unwrap();
            assert_eq!(page["count"], rows.len());
            all.extend(rows.iter().cloned());
            let Some(next) = page["next"].as_str() else { return all };
            assert_eq!(rows.len(), limit);
            cursor = format!("&cursor={next}");
        }
    }

    /// A day around the change of clocks, by two thermostats and a pump.
    async fn spring(&self) {
        for (sensor, metric, at, value) in [
            ("t1", "celsius", "2026-03-28T22:30:00Z", 1.0),
            ("t1", "celsius", "2026-03-28T23:30:00Z", 2.0),
            ("t1", "celsius", "2026-03-28T23:40:00Z", 4.0),
            ("t1", "celsius", "2026-03-29T21:59:59Z", 6.0),
            ("t1", "celsius", "2026-03-29T22:00:00Z", 8.0),
            ("t2", "celsius", "2026-03-29T05:00:00Z", 30.0),
            ("t2", "percent", "2026-03-29T05:00:00Z", 50.0),
            ("p1", "bar", "2026-03-29T05:10:00Z", 5.0),
        ] {
            self.reading(sensor, metric, at, value).await;
        }
    }
}

const SPRING: &str = "from=2026-03-28&to=2026-04-01";

#[tokio::test]
async fn a_day_is_that_of_the_zone_and_has_23_hours_in_spring() {
    let world = start(EVER, EVER).await;
    world.spring().await;
    let fields = ["sensorId", "bucket", "min", "max", "count", "sum", "avg"];
    let query = format!("{SPRING}&sensorId=t1&bucket=1d&timezone=Europe/Berlin");
    assert_eq!(
        world.rows(&query, &fields).await,
        [
            "t1 2026-03-28T00:00:00.000000+01:00 1.0 1.0 1 1.0 1.0",
            "t1 2026-03-29T00:00:00.000000+01:00 2.0 6.0 3 12.0 4.0",
            "t1 2026-03-30T00:00:00.000000+02:00 8.0 8.0 1 8.0 8.0",
        ]
    );
    let query = format!("{SPRING}&sensorId=t1&bucket=1d");
    assert_eq!(
        world.rows(&query, &["bucket", "count"]).await,
        ["2026-03-28T00:00:00.000000Z 3", "2026-03-29T00:00:00.000000Z 2"]
    );
    for (bucket, expected) in [
        ("6h", "18:00+01:00=1 00:00+01:00=2 18:00+02:00=1 00:00+02:00=1"),
        ("7d", "00:00+01:00=4 00:00+02:00=1"),
        ("1mo", "00:00+01:00=5"),
    ] {
        let query =
            format!("from=2026-03-01&to=2026-04-01&sensorId=t1&timezone=Europe/Berlin&bucket={bucket}");
        let query = if bucket == "7d" { query.replace("03-01", "02-23") } else { query };
        let rows = world.rows(&query, &["bucket", "count"]).await;
        let short: Vec<_> =
            rows.iter().map(|row| format!("{}{}={}", &row[11..16], &row[26..32], &row[33..])).collect();
        assert_eq!(short.join(" "), expected, "{bucket}");
    }
}

#[tokio::test]
async fn rows_are_about_sensors_zones_types_or_both() {
    let world = start(EVER, EVER).await;
    world.spring().await;
    let day = "from=2026-03-29&to=2026-03-30&bucket=1d&operations=count,max";
    for (by, fields, expected) in [
        (
            "sensor",
            vec!["sensorId"],
            vec!["p1 bar 1 5.0", "t1 celsius 2 8.0", "t2 celsius 1 30.0", "t2 percent 1 50.0"],
        ),
        (
            "zone",
            vec!["zoneId"],
            vec!["cellar bar 1 5.0", "hall, east celsius 3 30.0", "hall, east percent 1 50.0"],
        ),
        (
            "type",
            vec!["deviceType"],
            vec!["Pump bar 1 5.0", "Thermo celsius 3 30.0", "Thermo percent 1 50.0"],
        ),
        (
            "zoneAndType",
            vec!["zoneId", "deviceType"],
            vec![
                "cellar Pump bar 1 5.0",
                "hall, east Thermo celsius 3 30.0",
                "hall, east Thermo percent 1 50.0",
            ],
        ),
    ] {
        let fields = [&fields[..], &["metric", "count", "max"]].concat();
        assert_eq!(world.rows(&format!("{day}&by={by}"), &fields).await, expected, "{by}");
        let row = world.ask(&format!("{day}&by={by}")).await.body["resources"][0].clone();
        assert_eq!(row.as_object().unwrap().len(), fields.len() + 1, "{row}");
    }
    for (filter, expected) in [
        ("zoneId=hall,%20east&metric=celsius", vec!["t1 celsius", "t2 celsius"]),
        ("deviceType=Pump", vec!["p1 bar"]),
        ("sensorId=t2,p1&metric=bar,percent", vec!["p1 bar", "t2 percent"]),
        ("zoneId=hall", vec![]),
        ("sensorId=nobody", vec![]),
    ] {
        assert_eq!(
            world.rows(&format!("{day}&{filter}"), &["sensorId", "metric"]).await,
            expected,
            "{filter}"
        );
    }
}

#[tokio::test]
async fn a_sensor_that_moves_within_an_hour_has_one_row_of_it() {
    let world = start(EVER, EVER).await;
    world.reading_of("m", "t", "2026-03-29T05:00:00Z", 1.0, "A", "x").await;
    world.reading_of("m", "t", "2026-03-29T05:10:00Z", 3.0, "A", "y").await;
    let hour = "from=2026-03-29&to=2026-03-30&bucket=1h";
    assert_eq!(world.rows(hour, &["sensorId", "count", "avg"]).await, ["m 2 2.0"]);
    assert_eq!(world.rows(&format!("{hour}&by=zone"), &["zoneId", "count"]).await, ["x 1", "y 1"]);
}

#[tokio::test]
async fn minutes_are_made_of_raw_readings_and_know_their_order_and_ranks() {
    let world = start(EVER, EVER).await;
    for (minute, value) in [("00", 5.0), ("01", 1.0), ("04", 3.0), ("05", 7.0), ("29", 9.0)] {
        world.reading("t1", "celsius", &format!("2026-03-29T05:{minute}:00Z"), value).await;
    }
    let range = "from=2026-03-29T05:00:00Z&to=2026-03-29T06:00:00Z&sensorId=t1";
    let fields = ["bucket", "first", "last", "p50", "count"];
    let rows = async |bucket: &str| {
        let query = format!("{range}&bucket={bucket}&operations=first,last,p50,count");
        world
            .rows(&query, &fields)
            .await
            .iter()
            .map(|row| row[14..].replace(":00.000000Z", ""))
            .collect::<Vec<_>>()
    };
    assert_eq!(rows("5m").await, ["00 5.0 3.0 3.0 3", "05 7.0 7.0 7.0 1", "25 9.0 9.0 9.0 1"]);
    assert_eq!(rows("15m").await, ["00 5.0 7.0 4.0 4", "15 9.0 9.0 9.0 1"]);
    assert_eq!(rows("1m").await.len(), 5);
    let all = world.ask(&format!("{range}&bucket=15m&operations=p99,sum,p5,p90,p95,avg,min,max")).await;
    let row = &all.body["resources"][0];
    let numbers = ["avg", "min", "max", "sum", "p5"].map(|name| row[name].as_f64().unwrap());
    assert_eq!(numbers, [4.0, 1.0, 7.0, 16.0, 1.3]);
}

#[tokio::test]
async fn gaps_are_filled_the_same_whatever_the_page() {
    let world = start(EVER, EVER).await;
    world.spring().await;
    let query =
        "from=2026-03-28T22:00:00Z&to=2026-03-29T06:00:00Z&bucket=1h&metric=celsius&operations=max,count";
    let rows = world.rows(&format!("{query}&fill=null&sensorId=t1"), &["max", "count"]).await;
    assert_eq!(rows, ["1.0 1", "4.0 2", "null 0", "null 0", "null 0", "null 0", "null 0", "null 0"]);
    let rows = world.rows(&format!("{query}&fill=previous&sensorId=t1"), &["max", "count"]).await;
    assert_eq!(rows, ["1.0 1", "4.0 2", "4.0 0", "4.0 0", "4.0 0", "4.0 0", "4.0 0", "4.0 0"]);
    for fill in ["none", "null", "previous"] {
        let query = format!("{query}&fill={fill}");
        let whole = world.ask(&query).await.body["resources"].as_array().unwrap().clone();
        assert_eq!(whole.len(), if fill == "none" { 3 } else { 16 });
        for limit in [1, 2, 3, 5, 16] {
            assert_eq!(world.pages(&query, limit).await, whole, "{fill} {limit}");
        }
    }
    for by in ["zone", "type", "zoneAndType"] {
        let query = format!("{SPRING}&bucket=6h&fill=previous&by={by}&timezone=Europe/Berlin");
        let whole = world.ask(&query).await.body["resources"].as_array().unwrap().clone();
        assert_eq!(world.pages(&query, 4).await, whole, "{by}");
    }
}

#[tokio::test]
async fn a_reading_of_the_future_is_told_and_makes_no_gap_before_it() {
    let world = start(EVER, EVER).await;
    world.spring().await;
    if world.database.dialect != Dialect::Timescale {
        world.hour("t1", "celsius", "2034-01-01T00:00:00Z", 1.0, 2.0).await;
    }
    let past = "sensorId=t1&bucket=1d&from=2026-03-29&fill=null&operations=count";
    let until_now = world.ask(&format!("{past}&limit=10000")).await.body["count"].as_i64().unwrap();
    let beyond =
        world.ask(&format!("{past}&to=2035-01-01&limit=10000")).await.body["count"].as_i64().unwrap();
    let told = i64::from(world.database.dialect != Dialect::Timescale);
    assert_eq!(beyond, until_now + told);
}

#[tokio::test]
async fn zones_of_half_hours_are_refused_unless_whole_hours_will_do() {
    let world = start(EVER, EVER).await;
    world.reading("t1", "celsius", "2026-03-28T18:40:00Z", 1.0).await;
    world.reading("t1", "celsius", "2026-03-28T19:10:00Z", 2.0).await;
    let day = "from=2026-03-28&to=2026-03-31&sensorId=t1&timezone=Asia/Kolkata&operations=count";
    let refused = world.rest.get(&format!("{PATH}?{day}&bucket=1d")).await.problem(400);
    assert_eq!(refused.bad_fields(), ["timezone"]);
    // The hour of UTC that begins at 18:00 belongs to the day before, also its later half.
    let rows = world.rows(&format!("{day}&bucket=1d&approximate=true"), &["bucket", "count"]).await;
    assert_eq!(rows, ["2026-03-28T00:00:00.000000+05:30 1", "2026-03-29T00:00:00.000000+05:30 1"]);
    // Hours and minutes are exact everywhere.
    let rows = world.rows(&format!("{day}&bucket=1h"), &["bucket", "count"]).await;
    assert_eq!(rows, ["2026-03-28T23:30:00.000000+05:30 1", "2026-03-29T00:30:00.000000+05:30 1"]);
    let rows = world.rows(&format!("{day}&bucket=15m"), &["bucket"]).await;
    assert_eq!(rows, ["2026-03-29T00:00:00.000000+05:30", "2026-03-29T00:30:00.000000+05:30"]);
}

#[tokio::test]
async fn hours_alone_make_everything_that_is_wider() {
    let world = start(Duration::ZERO, Duration::ZERO).await;
    world.spring().await;
    if world.database.dialect == Dialect::Timescale {
        return;
    }
    world.sql("DROP TABLE readings_ingestion").await;
    for bucket in ["1h", "6h", "1d", "7d", "1mo"] {
        world.ask(&format!("from=2026-03-01&to=2026-04-01&bucket={bucket}")).await;
    }
}

#[tokio::test]
async fn equal_questions_share_an_answer_that_late_readings_outdate() {
    let world = start(Duration::ZERO, EVER).await;
    world.spring().await;
    let first = world.ask(&format!("{SPRING}&bucket=1d&sensorId=t1,t2&operations=max,min")).await;
    let body = json!({"from": "2026-03-28T00:00:00Z", "to": "2026-04-01", "bucket": "1d",
        "sensorId": ["t2", "t1", "t2"], "operations": ["min", "max"], "limit": 1000});
    let second = world.rest.post(PATH, &body).await.ok(200);
    assert_eq!((&second.body, world.loads()), (&first.body, 1.0));
    let tag = first.header("etag").unwrap();
    let held = world.rest.call("POST", PATH).json(&body).header("if-none-match", tag).send().await;
    held.ok(304);
    for other in [
        "&fill=null",
        "&timezone=Europe/Berlin",
        "&by=zone",
        "&operations=max",
        "&limit=2",
        "&metric=celsius",
    ] {
        let loads = world.loads();
        let query = format!("{SPRING}&bucket=1d&sensorId=t1,t2&operations=max,min");
        let query = if other.starts_with("&op") {
            query.replace("&operations=max,min", other)
        } else {
            query + other
        };
        world.ask(&query).await;
        assert_eq!(world.loads(), loads + 1.0, "{other}");
    }

    let world = start(Duration::ZERO, Duration::from_millis(50)).await;
    world.spring().await;
    let count = async || world.rows(&format!("{SPRING}&bucket=1mo&by=type&metric=bar"), &["count"]).await;
    let query = "from=2026-03-01&to=2026-04-01&bucket=1mo&metric=bar";
    assert_eq!(world.rows(query, &["count"]).await, ["1"]);
    assert_eq!(count().await, [""; 0]);
    world.reading("p1", "bar", "2026-03-29T05:20:00Z", 5.0).await;
    testkit::wait::until("the late reading", async || {
        (world.rows(query, &["count"]).await == ["2"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_bad_parameter_is_reported_together() {
    let world = start(EVER, EVER).await;
    let bad = async |query: &str| {
        let answer = world.rest.get(&format!("{PATH}?{query}")).await.problem(400);
        answer.bad_fields().join(" ")
    };
    let worst = "by=all&sensorId=-&zoneId=%00&deviceType=%07&metric=2&bucket=2h&timezone=Mars/Phobos&from=x&to=y\
        &operations=avg,best&fill=zero&approximate=maybe&total=true&limit=0&cursor=x&x=1";
    let all = "by sensorId zoneId deviceType metric bucket timezone from to operations fill approximate total limit \
        cursor x";
    assert_eq!(bad(worst).await, all);
    assert_eq!(bad("").await, "bucket from");
    for (query, field) in [
        ("bucket=1m&from=now-1h", "sensorId"),
        ("bucket=1m&from=now-49h&sensorId=a", "from"),
        ("bucket=5m&from=now-8d&sensorId=a", "from"),
        ("bucket=15m&from=now-32d&sensorId=a", "from"),
        ("bucket=1d&from=now-3660d", "from"),
        ("bucket=1d&from=now&to=now-1d", "from"),
        ("bucket=1d&from=now-1d&operations=first", "operations"),
        ("bucket=1h&from=now-1d&operations=avg,p99", "operations"),
        ("bucket=1d&from=now-1d&limit=10001", "limit"),
        ("bucket=1d&from=now-1d&timezone=../../etc/passwd", "timezone"),
        ("bucket=1d&from=now-1d&sensorId=a,,b", "sensorId"),
        ("bucket=1d&from=now-1d&cursor=W10", "cursor"),
    ] {
        assert_eq!(bad(query).await, field, "{query}");
    }
    let two = world.ask(&format!("{SPRING}&bucket=1d&by=zoneAndType&limit=1")).await;
    assert!(two.body["next"].is_null());
    for body in [
        json!({"sensorId": []}),
        json!({"sensorId": [1]}),
        json!({"sensorId": {"a": 1}}),
        json!({"sensorId": 7}),
    ] {
        let mut body = body;
        body["from"] = json!("now-1d");
        body["bucket"] = json!("1d");
        assert_eq!(world.rest.post(PATH, &body).await.problem(400).bad_fields(), ["sensorId"]);
    }
    let many: Vec<_> = (0..1_001).map(|number| format!("s{number}")).collect();
    let body = json!({"sensorId": many, "from": "now-1d", "bucket": "1d"});
    assert_eq!(world.rest.post(PATH, &body).await.problem(400).bad_fields(), ["sensorId"]);
}

#[tokio::test]
async fn hostile_parameters_never_fail_the_service() {
    let world = start(EVER, EVER).await;
    world.spring().await;
    let all = [
        "by",
        "sensorId",
        "zoneId",
        "deviceType",
        "metric",
        "timezone",
        "to",
        "operations",
        "fill",
        "cursor",
        "limit",
    ];
    world.assert_survives(&format!("{PATH}?bucket=1d&from=2026-03-01"), &all).await;
    world.assert_survives(&format!("{PATH}?bucket=1d&to=2026-04-01"), &["from"]).await;
    world.assert_survives(&format!("{PATH}?from=2026-03-01&to=2026-04-01"), &["bucket"]).await;
}

#[tokio::test]
async fn every_dialect_answers_the_same() {
    let mut answers = Vec::new();
    for dialect in testkit::postgres::dialects().await {
        let world = crate::start_with(dialect, EVER, EVER).await;
        world.spring().await;
        for query in [
            "bucket=1d&timezone=Europe/Berlin&fill=previous",
            "bucket=6h&by=zoneAndType",
            "bucket=1h&by=zone&metric=celsius",
            "bucket=15m&sensorId=t1,t2,p1&operations=p95,first,avg",
        ] {
            answers.push((query, world.ask(&format!("{SPRING}&{query}")).await.body));
        }
    }
    for (query, body) in &answers {
        let first = &answers.iter().find(|(other, _)| other == query).unwrap().1;
        assert_eq!((first, body["count"].as_i64() > Some(2)), (body, true), "{query}");
    }
}
