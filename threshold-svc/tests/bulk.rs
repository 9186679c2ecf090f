//! Import and export.

use crate::{PATH, World, changed, id, start, warm};
use serde_json::{Value, json};
use testkit::rest::Answer;

const PREFIX: &str = "3cbaeb57c640";

fn import_path(query: &str) -> String {
    format!("{PATH}/import?{query}")
}

async fn import_csv(world: &World, query: &str, csv: &str) -> Answer {
    world.rest.call("POST", &import_path(query)).body_as("text/csv", csv.to_owned()).send().await
}

/// The numbers of a report: created, changed, unchanged, deleted.
fn counts(report: &Answer) -> [i64; 4] {
    ["created", "changed", "unchanged", "deleted"].map(|name| report.body[name].as_i64().unwrap())
}

async fn export(world: &World, accept: &str) -> (String, String) {
    let request = reqwest::Client::new().get(format!("http://{}{PATH}/export", world.rest.listen));
    let token = world.rest.tokens.of("analyst");
    let answer = request.bearer_auth(token).header("accept", accept).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, answer.text().await.unwrap())
}

const CSV: &str = "sensorId,zoneId,metric,max,noDataSeconds,repeat,severity,mode,description\r\n\
    a,,t,30.5,,60,warning,,\"warm, \"\"very\"\"\r\nor so\"\r\n\
    ,z,t,,900,never,critical,shadow,\r\n";

#[tokio::test]
async fn what_is_exported_can_be_imported_and_changes_nothing() {
    let world = start().await;
    let report = import_csv(&world, "", CSV).await.ok(200);
    assert_eq!(counts(&report), [2, 0, 0, 0]);
    assert_eq!(report.body["lines"][1]["line"], 4, "a cell had a line end");
    // Again without ids: the same limits are the same thresholds.
    assert_eq!(counts(&import_csv(&world, "", CSV).await.ok(200)), [0, 0, 2, 0]);

    let (kind, csv) = export(&world, "text/csv").await;
    assert!(kind.starts_with("text/csv"), "{kind}");
    assert_eq!(counts(&import_csv(&world, "", &csv).await.ok(200)), [0, 0, 2, 0]);
    let (kind, text) = export(&world, "application/json").await;
    assert_eq!(kind, "application/json");
    let thresholds: Value = serde_json::from_str(&text).unwrap();
    let listed = world.rest.get(PATH).await.ok(200).body;
    assert_eq!(thresholds, listed["resources"]);
    assert_eq!(thresholds[1]["description"], "warm, \"very\"\r\nor so");
    assert_eq!(counts(&world.rest.post(&import_path(""), &thresholds).await.ok(200)), [0, 0, 2, 0]);
    assert_eq!(world.database.count("SELECT max(version) FROM sensor_thresholds").await, 2);

    // Elsewhere the same file makes the same thresholds, under their ids.
    let other = start().await;
    assert_eq!(counts(&import_csv(&other, "", &csv).await.ok(200)), [2, 0, 0, 0]);
    for threshold in thresholds.as_array().unwrap() {
        let path = format!("{PATH}/{}", threshold["thresholdId"].as_str().unwrap());
        let there = other.rest.get(&path).await.ok(200).body;
        assert_eq!((&there["metric"], &there["repeat"]), (&threshold["metric"], &threshold["repeat"]));
        let history = other.rest.get(&format!("{path}/versions")).await.ok(200).body;
        assert_eq!((&history["count"], &history["resources"][0]["changedBy"]), (&json!(1), &json!("ada")));
    }
}

#[tokio::test]
async fn an_export_is_whole_however_many_pages_it_takes() {
    let world = start().await;
    assert_eq!(export(&world, "application/json").await.1, "[\n]\n");
    assert_eq!(export(&world, "text/csv").await.1.lines().count(), 1);
    let client = world.database.client().await;
    let fill = "INSERT INTO sensor_thresholds (threshold_id, device_type, metric, max_value, severity) \
                SELECT gen_random_uuid(), 'T' || n % 7, 'm', n, 'info' FROM generate_series(1, 2500) AS n";
    client.batch_execute(fill).await.unwrap();
    let (_, json) = export(&world, "*/*").await;
    assert_eq!(serde_json::from_str::<Vec<Value>>(&json).unwrap().len(), 2_500);
    let (_, csv) = export(&world, "text/csv, application/json;q=0.5").await;
    assert_eq!(csv.lines().count(), 2_501);
    let refused = world.rest.call("GET", &format!("{PATH}/export")).header("accept", "image/png");
    refused.send().await.problem(406);
    // Every resource but this one is JSON alone.
    world.rest.call("GET", PATH).header("accept", "text/csv").send().await.problem(406);
}

#[tokio::test]
async fn one_bad_line_keeps_all_of_them_out_and_every_one_is_named() {
    let world = start().await;
    let first = id(&world.create(&warm()).await);
    let lines = [
        "thresholdId,sensorId,metric,max,min,severity,version",
        ",a,good,1,,info,",
        ",nobody,t,1,,info,",
        ",b,2t,x,,loud,",
        "x,b,t,1,,info,",
    ];
    let answer = import_csv(&world, "", &lines.join("\n")).await.problem(400);
    let fields =
        ["line 4: metric", "line 4: max", "line 4: severity", "line 5: thresholdId", "line 3: sensorId"];
    assert_eq!(answer.bad_fields(), fields);
    assert_eq!(answer.body["detail"], "3 of 4 thresholds cannot be imported; none was");
    // A stale version, the same threshold twice, the limits of another one.
    let limits = |id: &str| format!("{id},thermostat-1,temperature,30.5,-5,warning");
    let other = "0190163d-8694-739b-aea5-966c26f8ad91";
    let lines = [
        "thresholdId,sensorId,metric,max,min,severity,version".to_owned(),
        format!("{},9", limits(&first)),
        format!("{},", limits(other)),
        ",a,good,1,,info,".to_owned(),
        format!("{other},b,t,1,,info,"),
    ];
    let answer = import_csv(&world, "", &lines.join("\n")).await.problem(400);
    assert_eq!(answer.bad_fields(), ["line 2: version", "line 5: thresholdId"]);
    let answer = import_csv(&world, "", &[&lines[0][..], &lines[2], &lines[3]].join("\n")).await.problem(400);
    assert_eq!(answer.bad_fields(), ["line 2: version"]);
    assert!(answer.body.to_string().contains(&first), "{:?}", answer.body);
    assert_eq!(world.rows().await, 1);
    assert_eq!(world.database.count("SELECT count(*) FROM sensor_threshold_versions").await, 1);
}

#[tokio::test]
async fn a_change_to_limits_of_another_one_is_undone_alone_and_reported() {
    let world = start().await;
    let first = world.create(&warm()).await.body;
    let second = world.create(&changed("max", json!(40))).await.body;
    let mut twin = second.clone();
    twin["max"] = json!(30.5);
    let third = changed("max", json!(50));
    let answer = world.rest.post(&import_path(""), &json!([twin, third])).await.problem(400);
    assert_eq!(answer.bad_fields(), ["line 1: version"]);
    assert!(answer.body.to_string().contains(first["thresholdId"].as_str().unwrap()), "{:?}", answer.body);
    assert_eq!(world.rows().await, 2);
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let world = start().await;
    let there = world.create(&warm()).await.body;
    let mut new = there.clone();
    new["max"] = json!(31);
    let body = json!([new, changed("max", json!(40))]);
    let report = world.rest.post(&import_path("dryRun=true"), &body).await.ok(200);
    assert_eq!((counts(&report), &report.body["isDryRun"]), ([1, 1, 0, 0], &json!(true)));
    assert_eq!(world.rows().await, 1);
    let path = format!("{PATH}/{}", there["thresholdId"].as_str().unwrap());
    assert_eq!(world.rest.get(&path).await.ok(200).body, there);
    let report = world.rest.post(&import_path("dryRun=false"), &body).await.ok(200);
    assert_eq!(counts(&report), [1, 1, 0, 0]);
    assert_eq!(world.rows().await, 2);
}

#[tokio::test]
async fn pruning_deletes_ids_that_begin_alike_and_are_not_in_the_body() {
    let world = start().await;
    let own = |end: &str, max: i64| {
        let mut body = changed("max", json!(max));
        body["thresholdId"] = json!(format!("3cbaeb57-c640-858a-8e16-{end:0>12}"));
        body
    };
    let foreign = id(&world.create(&changed("metric", json!("foreign"))).await);
    let all = json!([own("1", 31), own("2", 32)]);
    assert_eq!(counts(&world.rest.post(&import_path(""), &all).await.ok(200)), [2, 0, 0, 0]);
    // Limits are free for what comes only when the old one goes first.
    let renamed = json!([own("1", 31), own("3", 32)]);
    world.rest.post(&import_path(""), &renamed).await.problem(400);
    let prune = import_path(&format!("prune={PREFIX}"));
    assert_eq!(counts(&world.rest.post(&prune, &renamed).await.ok(200)), [1, 0, 1, 1]);
    assert_eq!(counts(&world.rest.post(&prune, &renamed).await.ok(200)), [0, 0, 2, 0]);
    let listed = world.rest.get(&format!("{PATH}?thresholdIdPrefix={PREFIX}&total=true")).await.ok(200).body;
    assert_eq!(listed["total"], 2);
    let gone = format!("{PATH}/{}", own("2", 0)["thresholdId"].as_str().unwrap());
    world.rest.get(&gone).await.problem(404);
    assert_eq!(
        world.rest.get(&format!("{gone}/versions")).await.ok(200).body["resources"][0]["change"],
        "deleted"
    );
    assert_eq!(counts(&world.rest.post(&prune, &json!([])).await.ok(200)), [0, 0, 0, 2]);
    world.rest.get(&format!("{PATH}/{foreign}")).await.ok(200);
    for bad in ["prune=", "prune=3cbaeb57c64", "prune=3cbaeb57-c640", "dryRun=yes", "prun=1"] {
        let answer = world.rest.post(&import_path(bad), &json!([])).await.problem(400);
        assert_eq!(answer.bad_fields(), [bad.split('=').next().unwrap()]);
    }
}

#[tokio::test]
async fn imports_are_bounded_and_for_operators() {
    let world = start().await;
    let long = vec![b' '; 4 * 1024 * 1024 + 1];
    world.rest.call("POST", &import_path("")).body(long).send().await.problem(413);
    world.rest.call("POST", &import_path("")).body_as("text/plain", "").send().await.problem(415);
    let not_csv = import_csv(&world, "", "metric,colour\nt,red\n").await.problem(400);
    assert_eq!(not_csv.bad_fields(), ["line 1: colour"]);
    assert_eq!(world.rest.post(&import_path(""), &json!({})).await.problem(400).bad_fields(), ["body"]);
    let export = format!("{PATH}/export");
    for (method, path, roles) in
        [("POST", import_path(""), &["device", "analyst"][..]), ("GET", export, &["device"])]
    {
        world.rest.assert_refuses_bad_tokens(method, &path).await;
        world.rest.assert_refuses_roles(method, &path, roles).await;
    }
}
