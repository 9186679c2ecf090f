//! Episodes of alerts, with who has taken note of them and what silences them.

use crate::{EVER, World, start, texts};
use serde_json::json;

const PATH: &str = "/api/v1/alerts";
const COUNT: &str = "SELECT count(*) FROM alert_episodes";

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

/// An episode of that number, opened in that minute.
fn insert(number: u32, minute: u32, rest: [&str; 6]) -> String {
    let [sensor, zone, device_type, metric, severity, status] = rest;
    let closed = if status == "closed" { "'2026-01-02T04:00:00Z'" } else { "NULL" };
    format!(
        "INSERT INTO alert_episodes (episode_id, threshold_id, threshold_version, sensor_id, metric, severity, \
           zone_id, device_type, status, reason, bound_limit, bound_value, opened_at, last_at, last_detected_at, \
           closed_at, occurrences, last_alert_id) \
         VALUES ('{}', '{}', 1, '{sensor}', '{metric}', '{severity}', '{zone}', '{device_type}', '{status}', \
           'above', 'max', 30, '2026-01-02T03:{minute:02}:00Z', '2026-01-02T03:59:00Z', '2026-01-02T03:59:01Z', \
           {closed}, 3, '{}');",
        id(number),
        id(100 + number % 2),
        id(200 + number)
    )
}

async fn start_with_episodes() -> World {
    let world = start(EVER, EVER).await;
    let episodes = [
        insert(1, 1, ["a", "x", "T", "t", "critical", "open"]),
        insert(2, 2, ["a", "x", "T", "h", "warning", "closed"]),
        insert(3, 3, ["b", "y", "T", "t", "critical", "closed"]),
        insert(4, 3, ["c", "y", "H", "t", "info", "open"]),
        insert(5, 5, ["c", "y", "H", "h", "warning", "open"]),
    ];
    world.sql(&episodes.concat()).await;
    world
}

impl World {
    /// Returns the last digits of the ids of a page.
    async fn numbers(&self, query: &str) -> String {
        let answer = self.rest.get(&format!("{PATH}?{query}")).await.ok(200);
        assert_eq!(answer.body["count"], answer.body["resources"].as_array().unwrap().len());
        let numbers = texts(&answer, &["episodeId"]);
        numbers.iter().map(|id| &id[35..]).collect::<Vec<_>>().join(" ")
    }

    async fn silence(&self, number: u32, matcher: &str, span: &str) {
        self.sql(&format!(
            "INSERT INTO silences (silence_id, {}, starts_at, ends_at, comment, created_by) \
             VALUES ('{}', {}, {span}, 'maintenance', 'olga')",
            matcher.split_once('=').unwrap().0,
            id(300 + number),
            matcher.split_once('=').unwrap().1,
        ))
        .await;
    }
}

#[tokio::test]
async fn episode_carries_what_is_known_of_it() {
    let world = start_with_episodes().await;
    let least = json!({
        "episodeId": id(1), "thresholdId": id(101), "thresholdVersion": 1, "sensorId": "a", "metric": "t",
        "severity": "critical", "zoneId": "x", "deviceType": "T", "status": "open", "reason": "above",
        "bound": {"limit": "max", "value": 30.0}, "openedAt": "2026-01-02T03:01:00.000000Z",
        "lastAt": "2026-01-02T03:59:00.000000Z", "occurrences": 3
    });
    assert_eq!(world.rest.get(&format!("{PATH}/{}", id(1))).await.ok(200).body, least);

    let all = "UPDATE alert_episodes SET display_name = 'Hall', unit = 'Cel', closing_reason = 'recovered', \
               value_first = 31, value_last = 29, value_min = 31, value_max = 35.5, summary = 'hot', \
               description = 'too hot', silenced_by = 'SILENCE' WHERE episode_id = 'EPISODE'";
    world.sql(&all.replace("SILENCE", &id(301)).replace("EPISODE", &id(3))).await;
    world.silence(1, "zone_id='y'", "'2026-01-02T03:00Z', '2026-01-02T05:00Z'").await;
    let acknowledged =
        "INSERT INTO alert_acknowledgements VALUES ('EPISODE', 'on it', 'otto', '2026-01-02T03:30Z')";
    world.sql(&acknowledged.replace("EPISODE", &id(3))).await;
    let full = json!({
        "episodeId": id(3), "thresholdId": id(101), "thresholdVersion": 1, "sensorId": "b", "displayName": "Hall",
        "metric": "t", "unit": "Cel", "severity": "critical", "zoneId": "y", "deviceType": "T",
        "status": "closed", "reason": "above", "closingReason": "recovered",
        "bound": {"limit": "max", "value": 30.0}, "valueFirst": 31.0, "valueLast": 29.0, "valueMin": 31.0,
        "valueMax": 35.5, "openedAt": "2026-01-02T03:03:00.000000Z", "lastAt": "2026-01-02T03:59:00.000000Z",
        "closedAt": "2026-01-02T04:00:00.000000Z", "occurrences": 3, "summary": "hot", "description": "too hot",
        "silencedBy": id(301),
        "acknowledgement":
            {"note": "on it", "acknowledgedBy": "otto", "acknowledgedAt": "2026-01-02T03:30:00.000000Z"},
        "silence": {"silenceId": id(301), "endsAt": "2026-01-02T05:00:00.000000Z", "comment": "maintenance",
            "createdBy": "olga"}
    });
    assert_eq!(world.rest.get(&format!("{PATH}/{}", id(3))).await.ok(200).body, full);
    world.rest.get(&format!("{PATH}/{}", id(9))).await.problem(404);
}

#[tokio::test]
async fn episodes_are_filtered_and_come_newest_first() {
    let world = start_with_episodes().await;
    for (query, expected) in [
        ("", "5 4 3 2 1"),
        ("state=open", "5 4 1"),
        ("state=closed", "3 2"),
        ("sensorId=c", "5 4"),
        ("zoneId=x", "2 1"),
        ("deviceType=H", "5 4"),
        ("metric=h", "5 2"),
        ("severity=critical", "3 1"),
        (&format!("thresholdId={}", id(100)), "4 2"),
        ("from=2026-01-02T03:02:00Z&to=2026-01-02T03:05:00Z", "4 3 2"),
        ("from=2026-01-02T03:05:00Z", "5"),
        ("to=2026-01-02T03:02:00Z", "1"),
        ("acknowledged=true", ""),
        ("acknowledged=false&silenced=false", "5 4 3 2 1"),
        ("state=open&zoneId=y&deviceType=H&metric=t&severity=info", "4"),
        ("zoneId=nowhere", ""),
    ] {
        assert_eq!(world.numbers(query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn open_episodes_are_silenced_by_what_covers_them_now_and_closed_ones_by_what_covered_their_end() {
    let world = start_with_episodes().await;
    let (past, now) =
        ("now() - interval '2 days', now() - interval '1 day'", "now(), now() + interval '1 day'");
    let later = "now() + interval '1 day', now() + interval '2 days'";
    world.silence(1, "zone_id='y'", now).await;
    world.silence(2, "sensor_id='a'", past).await;
    world.silence(3, "metric='t'", later).await;
    world.silence(4, "severity='info'", "now(), now() + interval '3 days'").await;
    assert_eq!(world.numbers("silenced=true").await, "5 4", "3 is closed, 1 was and will be silenced");
    let answer = world.rest.get(&format!("{PATH}/{}", id(4))).await.ok(200);
    assert_eq!(answer.body["silence"]["silenceId"], id(304), "of two the one that ends last");
    assert_eq!(answer.body["silencedBy"], json!(null), "nobody has marked it");
    // A silence that is deleted has covered the end of an episode all the same.
    world
        .sql(&format!("UPDATE alert_episodes SET silenced_by = '{}' WHERE episode_id = '{}'", id(399), id(2)))
        .await;
    assert_eq!(world.numbers("silenced=true").await, "5 4 2");
    assert_eq!(world.numbers("silenced=false").await, "3 1");
    let note = format!("INSERT INTO alert_acknowledgements VALUES ('{}', '', 'otto')", id(5));
    world.sql(&note).await;
    assert_eq!(world.numbers("acknowledged=true").await, "5");
    assert_eq!(world.numbers("acknowledged=false&silenced=true").await, "4 2");
}

#[tokio::test]
async fn pages_by_cursor_show_each_episode_once_while_others_come() {
    let world = start_with_episodes().await;
    let first = world.rest.get(&format!("{PATH}?limit=2&total=true")).await.ok(200);
    assert_eq!((texts(&first, &["episodeId"]), first.body["total"].as_i64()), (vec![id(5), id(4)], Some(5)));
    world.sql(&insert(6, 6, ["d", "x", "T", "t", "info", "open"])).await;
    let mut seen = Vec::new();
    let mut next = first.body["next"].as_str().map(str::to_owned);
    while let Some(cursor) = next {
        let page = world.rest.get(&format!("{PATH}?limit=1&cursor={cursor}")).await.ok(200);
        assert_eq!(page.body["total"], json!(null), "nobody asked");
        seen.extend(texts(&page, &["episodeId"]));
        next = page.body["next"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, [id(3), id(2), id(1)], "3 and 4 were opened at one instant");
}

#[tokio::test]
async fn every_bad_parameter_of_episodes_is_reported_together() {
    let world = start(EVER, EVER).await;
    let worst = "state=ajar&sensorId=*&zoneId=%00&deviceType=%07&metric=&severity=bad&thresholdId=x&from=x&to=y\
                 &acknowledged=maybe&silenced=1&limit=0&cursor=x&total=yes&offset=1";
    let answer = world.rest.get(&format!("{PATH}?{worst}")).await.problem(400);
    let mut bad = answer.bad_fields();
    bad.sort_unstable();
    let all = "acknowledged cursor deviceType from limit metric offset sensorId severity silenced state \
               thresholdId to total zoneId";
    assert_eq!(bad.join(" "), all);
    let turned = "from=2026-01-02T03:05:00Z&to=2026-01-02T03:05:00Z";
    assert_eq!(world.rest.get(&format!("{PATH}?{turned}")).await.problem(400).bad_fields(), ["from"]);
    assert_eq!(world.rest.get(&format!("{PATH}/x?y=1")).await.problem(400).bad_fields(), ["episodeId", "y"]);
}

#[tokio::test]
async fn hostile_parameters_of_episodes_never_fail_the_service() {
    let world = start_with_episodes().await;
    let all =
        ["state", "sensorId", "zoneId", "deviceType", "metric", "severity", "thresholdId", "from", "to"];
    world.assert_survives(PATH, &all).await;
    world.assert_survives(PATH, &["acknowledged", "silenced", "limit", "cursor", "total", "x"]).await;
    assert_eq!(world.database.count(COUNT).await, 5);
}

#[tokio::test]
async fn episodes_are_read_by_those_who_may_and_nobody_else() {
    let world = start_with_episodes().await;
    for path in [PATH, &format!("{PATH}/{}", id(1))] {
        world.rest.assert_refuses_bad_tokens("GET", path).await;
        world.rest.assert_refuses_roles("GET", path, &["device", "root"]).await;
        for role in ["analyst", "operator", "admin"] {
            world.rest.call("GET", path).role(&world.rest.tokens, role).send().await.ok(200);
        }
        world.rest.delete(path).await.problem(405);
    }
}

#[tokio::test]
async fn each_way_to_ask_for_a_page_has_an_index_in_its_order() {
    let world = start_with_episodes().await;
    // Five rows are read at once by any plan, so the planner is told to do without the other ways.
    let explain = async |filter: &str| {
        let client = world.database.client().await;
        client.batch_execute("SET enable_seqscan = off; SET enable_sort = off").await.unwrap();
        let query = format!(
            "EXPLAIN SELECT * FROM alert_episodes e WHERE {filter} \
             ORDER BY e.opened_at DESC, e.episode_id DESC LIMIT 10"
        );
        let rows = client.query(&query, &[]).await.unwrap();
        rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
    };
    for (filter, index) in [
        ("true", "alert_episodes_listed"),
        ("e.status = 'open'", "alert_episodes_open"),
        ("e.sensor_id = 'a'", "alert_episodes_by_sensor"),
        ("e.zone_id = 'x'", "alert_episodes_by_zone"),
        ("e.threshold_id = '00000000-0000-0000-0000-000000000100'", "alert_episodes_by_threshold"),
    ] {
        let plan = explain(filter).await;
        let ordered = format!("Index Scan Backward using {index}");
        assert!(plan.contains(&ordered) && !plan.contains("Sort"), "{filter}: {plan}");
    }
}
