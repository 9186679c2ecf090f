//! `iotctl thresholds` and `iotctl silences` against a real threshold-svc.

use chassis::http;
use schema::migrations::Dialect;
use serde_json::{Value, json};
use std::process::Output;
use testkit::pki::TestPki;
use testkit::postgres::Database;
use testkit::rest::Rest;
use threshold_svc::Config;

struct World {
    database: Database,
    rest: Rest,
    folder: tempfile::TempDir,
}

async fn start() -> World {
    start_with(|http| http).await
}

async fn start_with(listening: impl Fn(http::Settings) -> http::Settings) -> World {
    let database = Database::create().await;
    let settings = database.settings();
    let rest = Rest::start(|http, auth, chassis| {
        threshold_svc::run(Config { http: listening(http), auth, database: settings.clone() }, chassis)
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), rest.tokens.of("operator")).unwrap();
    World { database, rest, folder }
}

impl World {
    /// Stores a value a minute of one sensor in the hall: five times 20, then 31.
    async fn store_ten_minutes(&self) {
        let client = self.database.client().await;
        if self.database.dialect == Dialect::Postgres {
            client.batch_execute("SELECT ensure_reading_partition('2026-01-02')").await.unwrap();
        }
        let store = "INSERT INTO readings_ingestion (sensor_id, metric, reading_at, value, event_id, received_at, \
                     device_type, zone_id) SELECT 'a', 'temperature', timestamptz '2026-01-02T00:00:00Z' + \
                     n * interval '1 minute', CASE WHEN n < 5 THEN 20 ELSE 31 END, gen_random_uuid(), now(), 'T', \
                     'hall' FROM generate_series(0, 9) AS n";
        client.batch_execute(store).await.unwrap();
    }

    fn file(&self, text: &str) -> String {
        let file = self.folder.path().join("rules.yaml");
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    async fn iotctl(&self, arguments: &[&str]) -> Output {
        let token = self.folder.path().join("token");
        let url = format!("http://{}", self.rest.listen);
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_iotctl"));
        command.current_dir(self.folder.path()).env_remove("FIELDLINE_STATE");
        command.env("FIELDLINE_THRESHOLDS_URL", url).env("FIELDLINE_TOKEN_FILE", token);
        command.args(arguments).output().await.unwrap()
    }

    /// Runs a command that must end with that code, and returns the lines of JSON that it prints.
    async fn lines(&self, code: i32, arguments: &[&str]) -> Vec<Value> {
        let output = self.iotctl(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn apply(&self, code: i32, text: &str, more: &[&str]) -> Vec<Value> {
        let file = self.file(text);
        self.lines(code, &[&["thresholds", "apply", "-f", file.as_str()], more].concat()).await
    }
}

const FILE: &str = "
owner: hall
rules:
  - {name: warm, zoneId: hall, metric: temperature, max: 30, severity: warning, forSeconds: 60}
  - {name: silent, deviceType: THERMOSTAT, metric: temperature, noDataSeconds: 900, severity: critical}
";

fn actions(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["action"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_planned_applied_and_applied_again_without_a_change() {
    let world = start().await;
    assert_eq!(actions(&world.apply(2, FILE, &["--plan"]).await), ["create", "create"]);
    assert_eq!(world.rest.get("/api/v1/thresholds").await.ok(200).body["count"], 0, "a plan changes nothing");
    let applied = world.apply(0, FILE, &[]).await;
    assert_eq!(applied[2]["summary"]["created"], 2);
    let plan = world.apply(0, FILE, &["--plan", "--prune"]).await;
    assert_eq!(plan, [json!({"summary": {"toDo": 0}})]);
    let before = world.rest.get("/api/v1/thresholds").await.ok(200).body;
    assert_eq!(world.apply(0, FILE, &["--prune"]).await[0]["summary"]["unchanged"], 2);
    assert_eq!(world.rest.get("/api/v1/thresholds").await.ok(200).body, before);
    assert_eq!(before["resources"][0]["updatedBy"], "ada");

    // A change by hand is drift: the file puts it right, also where it says nothing.
    let list = world.lines(0, &["thresholds", "list", "--zone", "hall"]).await;
    let path = format!("/api/v1/thresholds/{}", list[0]["thresholdId"].as_str().unwrap());
    world.rest.patch(&path, &json!({"max": 35, "hysteresis": 2, "mode": "off"})).await.ok(200);
    let plan = world.apply(2, FILE, &["--plan"]).await;
    assert_eq!(plan[0]["action"], "change");
    let expected = json!({"max": [35.0, 30], "hysteresis": [2.0, 0], "mode": ["off", "live"]});
    assert_eq!(plan[0]["fields"], expected);
    assert_eq!(world.apply(0, FILE, &[]).await[1]["summary"]["changed"], 1);
    assert_eq!(world.rest.get(&path).await.ok(200).body["max"], 30.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_does_not_name_any_more_goes_when_it_is_asked_for_and_nobody_elses_does() {
    let world = start().await;
    let foreign = json!({"zoneId": "hall", "metric": "humidity", "max": 80, "severity": "info"});
    world.rest.post("/api/v1/thresholds", &foreign).await.ok(201);
    world.apply(0, FILE, &[]).await;
    // The other team's file has a rule of the same name.
    let other =
        FILE.replace("owner: hall", "owner: cellar").replace("max: 30", "max: 31").replace("900", "901");
    world.apply(0, &other, &["--prune"]).await;
    let renamed = FILE.replace("name: warm", "name: too-warm");
    let plan = world.apply(2, &renamed, &["--plan", "--prune"]).await;
    assert_eq!(actions(&plan), ["create", "delete"]);
    // Without --prune both would have the same limits.
    let refused = world.iotctl(&["thresholds", "apply", "-f", &world.file(&renamed)]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("too-warm"), "{said}");
    let summary = world.apply(0, &renamed, &["--prune"]).await[2]["summary"].clone();
    assert_eq!(
        (&summary["created"], &summary["deleted"], &summary["unchanged"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let left = world.rest.get("/api/v1/thresholds").await.ok(200).body;
    assert_eq!(left["count"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_refused_is_named_and_keeps_all_of_the_file_out() {
    let world = start().await;
    let bad = FILE.replace("metric: temperature, max: 30", "metric: 2fast, max: 30, hysterisis: 1");
    let output = world.iotctl(&["thresholds", "apply", "-f", &world.file(&bad)]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for part in ["warm: metric", "warm: hysterisis is unknown", "1 of 2"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let broken = world.iotctl(&["thresholds", "apply", "-f", &world.file("rules: 1")]).await;
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(broken.status.code() == Some(1) && said.contains("owner:") && said.contains("rules:"), "{said}");
    assert_eq!(world.rest.get("/api/v1/thresholds").await.ok(200).body["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_threshold_is_printed_and_deleted() {
    let world = start().await;
    world.apply(0, FILE, &[]).await;
    let list = world.lines(0, &["thresholds", "list", "--type", "THERMOSTAT"]).await;
    assert_eq!(list.len(), 1);
    let id = list[0]["thresholdId"].as_str().unwrap();
    let got = world.iotctl(&["thresholds", "get", id]).await;
    assert_eq!(serde_json::from_slice::<Value>(&got.stdout).unwrap(), list[0]);
    assert!(world.iotctl(&["thresholds", "delete", id]).await.status.success());
    assert_eq!(world.iotctl(&["thresholds", "get", id]).await.status.code(), Some(1));
    assert_eq!(world.lines(0, &["thresholds", "list"]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_a_file_is_tested_alone_or_in_the_place_of_what_is_stored() {
    let world = start().await;
    world.store_ten_minutes().await;
    let file = world.file(FILE);
    let range = ["--from", "2026-01-02", "--to", "2026-01-03"];
    let test = async |more: &[&str]| {
        let arguments = [&["thresholds", "backtest"], more, &range].concat();
        world.lines(0, &arguments).await.remove(0)
    };
    let warm = ["-f", file.as_str(), "--name", "warm"];
    let report = test(&warm).await;
    assert_eq!((&report["tested"]["episodes"], &report["inForce"]["episodes"]), (&json!(1), &json!(0)));
    assert_eq!(report["difference"], json!({"added": 1, "gone": 0, "kept": 0}));
    assert_eq!(report["episodes"][0]["openedAt"], "2026-01-02T00:06:00.000000Z");

    // Once it is stored, the file's rule is what it would become.
    world.apply(0, FILE, &[]).await;
    let file = world.file(&FILE.replace("max: 30", "max: 35"));
    let report = test(&["-f", file.as_str(), "--name", "warm"]).await;
    assert_eq!(report["difference"], json!({"added": 0, "gone": 1, "kept": 0}));
    let list = world.lines(0, &["thresholds", "list", "--zone", "hall"]).await;
    let id = list[0]["thresholdId"].as_str().unwrap();
    assert_eq!(test(&[id]).await["difference"], json!({"added": 0, "gone": 0, "kept": 1}));
    assert_eq!(test(&[id, "--zone", "hall", "--type", "X", "--sensor", "a"]).await["readings"], 0);

    let refused = async |arguments: &[&str]| {
        let output = world.iotctl(&[&["thresholds", "backtest"], arguments].concat()).await;
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&["-f", &file]).await;
    assert!(code == Some(1) && said.contains("--name"), "{said}");
    let (code, said) = refused(&[id, "--last", "32d"]).await;
    assert!(code == Some(1) && said.contains("from must be at most 31 days before to"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silence_is_added_listed_and_expired() {
    let world = start().await;
    let add = [
        "silences",
        "add",
        "--zone",
        "hall",
        "--severity",
        "warning",
        "--for",
        "2h",
        "--comment",
        "painting",
    ];
    let added = world.lines(0, &add).await;
    assert_eq!((&added[0]["zoneId"], &added[0]["comment"]), (&json!("hall"), &json!("painting")));
    let active = world.lines(0, &["silences", "list", "--only", "active"]).await;
    assert_eq!(active, added);
    let id = added[0]["silenceId"].as_str().unwrap();
    assert!(world.iotctl(&["silences", "expire", id]).await.status.success());
    assert_eq!(world.lines(0, &["silences", "list", "--only", "active"]).await, Vec::<Value>::new());
    // Of nothing in particular there is no silence.
    let all = world.iotctl(&["silences", "add", "--for", "2h", "--comment", "all"]).await;
    assert_eq!(all.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_behind_tls_is_believed_by_the_authorities_of_a_file_alone() {
    let (pki, other) = (TestPki::create(), TestPki::create());
    let (cert, key) = (pki.path("server.pem"), pki.path("server.key"));
    let world = start_with(|http| http.with_tls(cert.clone(), key.clone())).await;
    let url = format!("https://{}", world.rest.listen);
    let list = async |pki: &TestPki| {
        let file = world.folder.path().join("ca.pem");
        std::fs::write(&file, pki.root_pem()).unwrap();
        let file = file.display().to_string();
        world.iotctl(&["thresholds", "list", "--url", &url, "--ca-file", &file]).await
    };
    let (listed, refused) = (list(&pki).await, list(&other).await);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("certificate"), "{said}");
}
