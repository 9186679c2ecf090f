//! Lists: order, filters and pages.

use crate::{PATH, World, changed, start};
use serde_json::{Value, json};

async fn filled() -> World {
    let world = start().await;
    for (sensor, metric) in [("b", "y"), ("a", "x"), ("b", "x"), ("a", "y"), ("c", "x")] {
        let mut body = changed("sensorId", json!(sensor));
        body["metric"] = json!(metric);
        if sensor == "b" {
            body["mode"] = json!("shadow");
        }
        world.create(&body).await;
    }
    for (scope, severity) in [("T", "info"), ("U", "critical")] {
        let fleet =
            json!({"deviceType": scope, "zoneId": "z", "metric": "x", "max": 1, "severity": severity});
        world.create(&fleet).await;
    }
    world
}

/// Reads a list page by page; returns the names of its rows and how many pages it took.
async fn walk(world: &World, query: &str) -> (String, usize) {
    let (mut names, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let body = world.rest.get(&format!("{PATH}?{query}{cursor}")).await.ok(200).body;
        let rows = body["resources"].as_array().unwrap();
        assert_eq!(body["count"], rows.len());
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        names.extend(
            rows.iter().map(|row| ["deviceType", "sensorId", "metric"].map(|name| text(row, name)).concat()),
        );
        pages += 1;
        match body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (names.join(" "), pages),
        }
    }
}

#[tokio::test]
async fn a_list_is_ordered_and_filtered_and_its_pages_join_without_a_gap() {
    let world = filled().await;
    let (first, _) = walk(&world, "metric=x&deviceType=T").await;
    assert_eq!(first, "Tx");
    for (query, expected) in [
        ("sensorId=b", "bx by"),
        ("metric=x&sensorId=a", "ax"),
        ("metric=y", "ay by"),
        ("deviceType=U", "Ux"),
        ("zoneId=z&severity=critical", "Ux"),
        ("zoneId=z&deviceType=T", "Tx"),
        ("zoneId=y", ""),
        ("severity=warning&metric=x", "ax bx cx"),
        ("mode=shadow", "bx by"),
        ("mode=live&sensorId=b", ""),
        ("mode=off", ""),
        ("sensorId=nobody", ""),
        ("sensorId=a&deviceType=T", ""),
    ] {
        let count = expected.split_whitespace().count();
        for limit in [1, 2, 100] {
            let (names, pages) = walk(&world, &format!("limit={limit}&{query}")).await;
            assert_eq!(names, expected, "{query}");
            assert_eq!(pages, count.div_ceil(limit).max(1), "{query}");
        }
        let total = world.rest.get(&format!("{PATH}?total=true&limit=1&{query}")).await.ok(200).body;
        assert_eq!(total["total"], count, "{query}");
    }
    for limit in 1..=8 {
        let (names, _) = walk(&world, &format!("limit={limit}")).await;
        // Those of zones and types come first, in the order of their ids.
        let (fleet, sensors) = names.split_at(6);
        assert!(["Tx Ux ", "Ux Tx "].contains(&fleet), "{names}");
        assert_eq!(sensors, "ax ay bx by cx");
    }
    let body = world.rest.get(PATH).await.ok(200).body;
    assert_eq!((&body["total"], &body["next"]), (&Value::Null, &Value::Null), "nothing was counted");
}

#[tokio::test]
async fn a_page_goes_on_after_its_last_row_even_when_that_is_gone() {
    let world = filled().await;
    let page = world.rest.get(&format!("{PATH}?limit=4")).await.ok(200).body;
    let last = &page["resources"][3];
    assert_eq!((&last["sensorId"], &last["metric"]), (&json!("a"), &json!("y")));
    world.rest.delete(&format!("{PATH}/{}", last["thresholdId"].as_str().unwrap())).await.ok(204);
    let next = page["next"].as_str().unwrap();
    let (names, _) = walk(&world, &format!("cursor={next}")).await;
    assert_eq!(names, "bx by cx");
}

/// With many rows each list is read along an index, wherever its page begins.
#[tokio::test]
async fn a_page_is_read_along_an_index_that_fits_its_filters() {
    let world = start().await;
    let client = world.database.client().await;
    client
        .batch_execute(
            "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) \
             SELECT 's' || n, 'T', 'z', 'json', 'active' FROM generate_series(1, 20000) AS n; \
             INSERT INTO sensor_thresholds (threshold_id, sensor_id, metric, max_value, severity, mode) \
             SELECT gen_random_uuid(), 's' || n, 'm' || n % 50, n, 'info', \
               CASE WHEN n % 1000 = 0 THEN 'off' ELSE 'live' END \
             FROM generate_series(1, 20000) AS n; ANALYZE sensor_thresholds",
        )
        .await
        .unwrap();
    let place = "('s3', '00000000-0000-0000-0000-000000000000')";
    let whole = "('s3', 'm7', '00000000-0000-0000-0000-000000000000')";
    for (conditions, index) in [
        (format!("(coalesce(sensor_id, ''), metric, threshold_id) > {whole}"), "sensor_thresholds_listed"),
        (
            format!("metric = 'm7' AND (coalesce(sensor_id, ''), threshold_id) > {place}"),
            "sensor_thresholds_by_metric",
        ),
        (
            format!("(coalesce(sensor_id, ''), metric, threshold_id) > {whole} AND mode = 'off'"),
            "sensor_thresholds_not_live",
        ),
    ] {
        let explain = format!(
            "EXPLAIN SELECT * FROM sensor_thresholds WHERE {conditions} \
             ORDER BY coalesce(sensor_id, ''), metric, threshold_id LIMIT 101"
        );
        let plan: Vec<String> =
            client.query(&explain, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && plan.contains("Index Cond"), "{plan}");
    }
}
