use super::*;
use serde_json::json;

const OPENED: &str = include_str!("../../../schema/tests/golden/alert.1.episode.json");

/// Reads a file of targets: these, or what is wrong with them.
fn read(file: &serde_json::Value) -> Result<Vec<Target>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("targets.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let mut env = Env::of([("TARGETS_FILE".to_owned(), path.display().to_string())]);
    let targets = targets(&mut env);
    env.finish().map(|()| targets).map_err(|problems| problems.to_string())
}

#[test]
fn a_target_hears_what_opens_and_closes_and_is_not_silenced_unless_it_asks_for_more() {
    let alert: Alert = serde_json::from_str(OPENED).unwrap();
    let step = |step, status, silenced_by| Alert { episode: step, status, silenced_by, ..alert.clone() };
    let opened = step(Some(EpisodeStep::Opened), Status::Firing, None);
    let continuing = step(Some(EpisodeStep::Continuing), Status::Firing, None);
    let closed = step(Some(EpisodeStep::Closed), Status::Resolved, None);
    let silenced = Alert { silenced_by: alert.silenced_by, ..opened.clone() };
    let of_before = step(None, Status::Firing, None);
    let heard = |extra: serde_json::Value| {
        let mut target = json!({"name": "a", "url": "https://example.com/", "format": "json"});
        target.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let matcher = read(&json!({"targets": [target]})).unwrap().remove(0).matcher;
        [&opened, &continuing, &closed, &silenced, &of_before].map(|alert| matcher.hears(alert))
    };
    assert_eq!(heard(json!({})), [true, false, true, false, true]);
    assert_eq!(heard(json!({"continuing": true, "silenced": true})), [true; 5]);
    let same = json!({"severities": ["critical"], "zones": ["living-room"], "deviceTypes": ["THERMOSTAT"]});
    assert_eq!(heard(same), [true, false, true, false, true]);
    for other in [json!({"severities": ["info"]}), json!({"zones": ["x"]}), json!({"deviceTypes": ["X"]})] {
        assert_eq!(heard(other), [false; 5]);
    }
}

#[test]
fn every_problem_of_the_file_is_named_together() {
    let bad = read(&json!({"targets": [
        {"name": "1", "url": "http://example.com/", "format": "json", "timeoutMs": 1, "perMinuteMax": 0},
        {"name": "b", "format": "pagerduty", "giveUpSeconds": 1},
        {"name": "B", "url": "https://example.com/", "format": "slack", "hmacKeyFile": "/nowhere"},
    ]}));
    let problems = bad.unwrap_err();
    for part in [
        "target 1: name",
        "target 1: url must be https",
        "timeoutMs",
        "perMinuteMax",
        "must have url or urlFile",
        "routingKeyFile belongs",
        "giveUpSeconds",
        "two targets have the name B",
        "hmacKeyFile names /nowhere",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    assert!(read(&json!({"targets": []})).unwrap_err().contains("1 to 16"));
    assert!(
        read(&json!({"targets": [{"name": "a", "urlx": "", "format": "json"}]}))
            .unwrap_err()
            .contains("urlx")
    );
    assert!(
        read(&json!({"targets": [{"name": "a", "url": "http://127.0.0.1:1/", "format": "json"}]})).is_ok()
    );
}

#[test]
fn secrets_are_read_from_their_files_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let target = json!({"name": "a", "urlFile": file("url", "https://hooks.example.com/T0/S3CRET\n"),
        "format": "pagerduty", "routingKeyFile": file("routing", "R0UT1NG\n"), "hmacKeyFile": file("hmac", "K3Y")});
    let target = read(&json!({"targets": [target]})).unwrap().remove(0);
    assert_eq!(target.url.expose(), "https://hooks.example.com/T0/S3CRET");
    assert_eq!((target.routing_key.expose(), target.hmac_key.clone().unwrap().expose()), ("R0UT1NG", "K3Y"));
    let printed = format!("{target:?}");
    assert!(!["S3CRET", "R0UT1NG", "K3Y"].iter().any(|secret| printed.contains(secret)), "{printed}");
}
