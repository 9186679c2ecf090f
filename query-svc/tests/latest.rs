//! Latest values.

use crate::{EVER, World, numbers, start, texts};
use serde_json::json;

const PATH: &str = "/api/v1/readings/latest";

async fn start_with_values() -> World {
    let world = start(EVER, EVER).await;
    world
        .sql(
            "INSERT INTO sensor_latest (sensor_id, metric, reading_at, value, event_id, received_at, device_type, zone_id)
             VALUES
             ('b', 't', '2026-01-02T03:00:03Z', 2.5, '00000000-0000-0000-0000-000000000001', '2026-01-02T03:00:09Z', 'T', 'x'),
             ('a', 't', '2026-01-02T03:00:02Z', 9.0, '00000000-0000-0000-0000-000000000002', '2026-01-02T03:00:08Z', 'T', 'y'),
             ('a', 'h', '2026-01-02T03:00:02Z', 55,  '00000000-0000-0000-0000-000000000002', '2026-01-02T03:00:08Z', 'T', 'y'),
             ('c', 'r', '2026-01-02T03:00:01Z', 9.0, '00000000-0000-0000-0000-000000000003', '2026-01-02T03:00:07Z', 'H', 'x')",
        )
        .await;
    world
}

impl World {
    async fn latest(&self, query: &str) -> (String, [i64; 3]) {
        let answer = self.rest.get(&format!("{PATH}?{query}")).await.ok(200);
        (
            texts(&answer, &["sensorId", "metric"]).join(", ").replace(' ', "").replace(',', " "),
            numbers(&answer),
        )
    }
}

#[tokio::test]
async fn latest_value_carries_what_is_known_of_it() {
    let world = start_with_values().await;
    let answer = world.rest.get(&format!("{PATH}?sensorId=b")).await.ok(200);
    let expected = json!({"resources": [{"sensorId": "b", "metric": "t", "value": 2.5,
        "readingAt": "2026-01-02T03:00:03.000000Z", "receivedAt": "2026-01-02T03:00:09.000000Z", "deviceType": "T",
        "zoneId": "x", "eventId": "00000000-0000-0000-0000-000000000001"}], "total": 1, "count": 1, "offset": 0});
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn latest_values_are_filtered_and_paged() {
    let world = start_with_values().await;
    for (query, rows, numbers) in [
        ("", "ah at bt cr", [4, 4, 0]),
        ("sensorId=a", "ah at", [2, 2, 0]),
        ("zoneId=x", "bt cr", [2, 2, 0]),
        ("deviceType=H", "cr", [1, 1, 0]),
        ("metric=t", "at bt", [2, 2, 0]),
        ("metric=t&zoneId=y&deviceType=T&sensorId=a", "at", [1, 1, 0]),
        ("zoneId=nowhere", "", [0, 0, 0]),
        ("count=2", "ah at", [4, 2, 0]),
        ("count=2&offset=1", "at bt", [4, 2, 1]),
        ("offset=4", "", [4, 0, 4]),
    ] {
        assert_eq!(world.latest(query).await, (rows.to_owned(), numbers), "{query}");
    }
}

#[tokio::test]
async fn every_order_goes_both_ways_and_ties_are_settled_by_the_key() {
    let world = start_with_values().await;
    for (sort, ascending, descending) in [
        ("sensorId", "ah at bt cr", "cr bt at ah"),
        ("metric", "ah cr at bt", "at bt cr ah"),
        ("value", "bt at cr ah", "ah at cr bt"),
        ("readingAt", "cr ah at bt", "bt ah at cr"),
        ("receivedAt", "cr ah at bt", "bt ah at cr"),
        ("zoneId", "bt cr ah at", "ah at bt cr"),
        ("deviceType", "cr ah at bt", "ah at bt cr"),
    ] {
        assert_eq!(world.latest(&format!("sortBy={sort}")).await.0, ascending, "{sort}");
        assert_eq!(world.latest(&format!("sortBy={sort}&orderBy=asc")).await.0, ascending, "{sort}");
        assert_eq!(world.latest(&format!("sortBy={sort}&orderBy=desc")).await.0, descending, "{sort}");
    }
}

#[tokio::test]
async fn one_sensor_has_its_own_resource() {
    let world = start_with_values().await;
    let answer = world.rest.get(&format!("{PATH}/a")).await.ok(200);
    assert_eq!(
        (texts(&answer, &["metric", "value"]), numbers(&answer)),
        (vec!["h 55.0".into(), "t 9.0".into()], [2, 2, 0])
    );
    let second = world.rest.get(&format!("{PATH}/a?count=1&offset=1")).await.ok(200);
    assert_eq!(texts(&second, &["metric"]), ["t"]);
    world.rest.get(&format!("{PATH}/nobody")).await.problem(404);
    world.rest.get(&format!("{PATH}/")).await.problem(404);
    for sensor in ["%00", "%ff", "'--", "a%2Fb", &"a".repeat(129)] {
        let answer = world.rest.get(&format!("{PATH}/{sensor}?x=1")).await.problem(400);
        assert_eq!(answer.bad_fields(), ["sensorId", "x"], "{sensor}");
    }
}

#[tokio::test]
async fn a_value_that_is_stored_is_answered_at_once() {
    let world = start_with_values().await;
    assert_eq!(world.rest.get(&format!("{PATH}/b")).await.body["resources"][0]["value"], 2.5);
    world.sql("UPDATE sensor_latest SET value = 3.5 WHERE sensor_id = 'b'").await;
    assert_eq!(world.rest.get(&format!("{PATH}/b")).await.body["resources"][0]["value"], 3.5);
}

#[tokio::test]
async fn every_bad_parameter_is_reported_together() {
    let world = start(EVER, EVER).await;
    let worst =
        "sensorId=*&zoneId=%00&deviceType=%07&metric=&sortBy=password&orderBy=up&count=0&offset=x&limit=1";
    let answer = world.rest.get(&format!("{PATH}?{worst}")).await.problem(400);
    let all = "sensorId zoneId deviceType metric sortBy orderBy limit count offset";
    assert_eq!(answer.bad_fields().join(" "), all);
    let too_many = world.rest.get(&format!("{PATH}?count=1001")).await.problem(400);
    assert_eq!(too_many.bad_fields(), ["count"]);
}

#[tokio::test]
async fn hostile_parameters_never_fail_the_service() {
    let world = start_with_values().await;
    let all = ["sensorId", "zoneId", "deviceType", "metric", "sortBy", "orderBy", "count", "offset", "x"];
    world.assert_survives(PATH, &all).await;
    world.assert_survives(&format!("{PATH}/a"), &["count", "offset", "sensorId"]).await;
    assert_eq!(world.database.count("SELECT count(*) FROM sensor_latest").await, 4);
}

#[tokio::test]
async fn those_who_may_read_read_and_nobody_else() {
    let world = start_with_values().await;
    for path in [PATH, &format!("{PATH}/a")] {
        world.rest.assert_refuses_bad_tokens("GET", path).await;
        world.rest.assert_refuses_roles("GET", path, &["device", "root"]).await;
        for role in ["analyst", "operator", "admin"] {
            world.rest.call("GET", path).role(&world.rest.tokens, role).send().await.ok(200);
        }
        world.rest.delete(path).await.problem(405);
    }
}
