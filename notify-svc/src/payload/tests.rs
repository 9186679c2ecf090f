use super::*;
use schema::{EpisodeStep, Reason};
use serde_json::Value;

const OPENED: &str = include_str!("../../../schema/tests/golden/alert.1.episode.json");
const CLOSED: &str = include_str!("../../../schema/tests/golden/alert.1.closed.json");
const WITHOUT_EPISODE: &str = include_str!("../../../schema/tests/golden/alert.1.json");

fn alert(text: &str) -> Alert {
    serde_json::from_str(text).unwrap()
}

fn body_of(format: Format, alert: &Alert) -> Value {
    serde_json::from_slice(&body(format, alert, b"{}", "R0UT1NG")).unwrap()
}

#[test]
fn bodies_are_what_the_golden_files_say() {
    let opened = Alert { episode: Some(EpisodeStep::Opened), ..alert(OPENED) };
    for (name, format) in
        [("slack", Format::Slack), ("pagerduty", Format::Pagerduty), ("alertmanager", Format::Alertmanager)]
    {
        for (step, alert) in [("opened", &opened), ("closed", &alert(CLOSED))] {
            let path = format!("{}/tests/golden/{name}.{step}.json", env!("CARGO_MANIFEST_DIR"));
            let golden: Value = serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(&path);
            assert_eq!(body_of(format, alert), golden, "{path}");
        }
    }
}

#[test]
fn native_body_is_the_record_byte_for_byte() {
    let record = b"{ \"later\" : \"field\" }";
    assert_eq!(body(Format::Json, &alert(OPENED), record, ""), record);
}

#[test]
fn opening_and_closing_name_one_incident() {
    let (opened, closed) = (alert(OPENED), alert(CLOSED));
    let key = |alert| body_of(Format::Pagerduty, alert)["dedup_key"].clone();
    assert_eq!(key(&opened), key(&closed));
    // Alertmanager knows them by their labels.
    let labels = |alert| body_of(Format::Alertmanager, alert)[0]["labels"].clone();
    assert_eq!(labels(&opened), labels(&closed));
}

#[test]
fn an_alert_without_words_gets_some() {
    let bare = alert(WITHOUT_EPISODE);
    let words = |reason, limit| {
        let bound = schema::Bound { limit, ..bare.bound };
        summary(&Alert { reason: Some(reason), bound, ..bare.clone() })
    };
    let value = bare.value.unwrap();
    assert_eq!(words(Reason::Above, Limit::Max), format!("thermostat-1: temperature is {value}, above 30"));
    assert_eq!(words(Reason::Below, Limit::Min), format!("thermostat-1: temperature is {value}, below 30"));
    assert_eq!(
        summary(&Alert { value: None, bound: schema::Bound { limit: Limit::NoData, value: 60.0 }, ..bare }),
        "thermostat-1: no temperature for more than 60 s"
    );
    let hostile = Alert { summary: Some("<!channel> & more".to_owned()), ..alert(OPENED) };
    let text = body_of(Format::Slack, &hostile)["text"].as_str().unwrap().to_owned();
    assert!(text.ends_with("&lt;!channel&gt; &amp; more"), "{text}");
}
