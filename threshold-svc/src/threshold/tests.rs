use super::*;

fn read(json: &str) -> Result<Draft, Vec<(String, String)>> {
    let outcome = Fields::of_json(json.as_bytes()).and_then(Draft::creation).map(|(_, draft)| draft);
    outcome.map_err(|problem| problem.errors.into_iter().map(|e| (e.field, e.detail)).collect())
}

fn bad(json: &str) -> Vec<String> {
    read(json).unwrap_err().into_iter().map(|(field, _)| field).collect()
}

#[test]
fn absent_fields_take_their_defaults() {
    let draft = read(r#"{"sensorId":"s","metric":"t","max":30,"severity":"warning"}"#).unwrap();
    assert_eq!((draft.min, draft.max, draft.mode), (None, Some(30.0), Mode::Live));
    assert_eq!(draft.description, "");
}

#[test]
fn every_bad_field_is_named_at_once() {
    let json = r#"{"sensorId":"a/b","metric":"2","min":"x","max":true,"severity":"loud","mode":1,
        "description":"\u0000","version":3,"colour":"red"}"#;
    let all = ["version", "sensorId", "metric", "min", "max", "severity", "mode", "description", "colour"];
    assert_eq!(bad(json), all);
    assert_eq!(bad("{}"), ["metric", "severity", "sensorId", "min"]);
}

#[test]
fn scope_is_a_sensor_or_a_type_or_a_zone_or_both_of_these() {
    let scope =
        |scope: &str| read(&format!(r#"{{"metric":"t","max":1,"severity":"info"{scope}}}"#)).map(|_| ());
    let (sensor, device_type, zone) = (r#","sensorId":"s""#, r#","deviceType":"T""#, r#","zoneId":"z""#);
    for good in [&[sensor][..], &[device_type], &[zone], &[device_type, zone]] {
        assert_eq!(scope(&good.concat()), Ok(()), "{good:?}");
    }
    for bad in [&[][..], &[sensor, device_type], &[sensor, zone], &[sensor, device_type, zone]] {
        let problems = scope(&bad.concat()).unwrap_err();
        assert_eq!(problems.iter().map(|(field, _)| field).collect::<Vec<_>>(), ["sensorId"], "{bad:?}");
    }
    assert_eq!(scope(r#","deviceType":"a b","sensorId":"s""#).unwrap_err()[0].0, "deviceType");
}

#[test]
fn limits_are_one_or_two_and_in_order() {
    let limits = |limits: &str| {
        read(&format!(r#"{{"sensorId":"s","metric":"t","severity":"info"{limits}}}"#)).map(|_| ())
    };
    for good in [r#","min":1"#, r#","max":-1"#, r#","min":1,"max":1"#, r#","min":-1e300,"max":1e300"#] {
        assert_eq!(limits(good), Ok(()), "{good}");
    }
    for bad in ["", r#","min":null"#, r#","min":2,"max":1"#] {
        assert_eq!(limits(bad).unwrap_err()[0].0, "min", "{bad}");
    }
    assert_eq!(limits(r#","max":1e999"#).unwrap_err()[0].0, "body");
}

#[test]
fn repeat_is_a_word_or_a_number_and_is_written_as_it_is_read() {
    for (json, repeat) in [
        (r#""every""#, Repeat::Every),
        (r#""never""#, Repeat::Never),
        ("1", Repeat::Seconds(1)),
        ("60.0", Repeat::Seconds(60)),
        ("31536000", Repeat::Seconds(SECONDS_MAX)),
    ] {
        let text = format!(r#"{{"sensorId":"s","metric":"t","severity":"info","max":1,"repeat":{json}}}"#);
        let draft = read(&text).unwrap();
        assert_eq!(draft.repeat, repeat);
        let written = serde_json::to_value(&draft).unwrap();
        assert_eq!(read(&written.to_string()).unwrap(), draft);
    }
}

#[test]
fn hysteresis_leaves_a_value_that_is_inside_again() {
    let with = |limits: &str, hysteresis: &str| {
        let text =
            format!(r#"{{"sensorId":"s","metric":"t","severity":"info","hysteresis":{hysteresis}{limits}}}"#);
        read(&text).map(|_| ())
    };
    let both = r#","min":10,"max":20"#;
    for (limits, good) in
        [(both, "4.9"), (both, "0"), (r#","min":10"#, "1e9"), (r#","min":10,"max":10"#, "0")]
    {
        assert_eq!(with(limits, good), Ok(()), "{limits} {good}");
    }
    for (limits, bad) in
        [(both, "5"), (both, "-1"), (r#","min":10"#, "-0.1"), (r#","min":10,"max":10"#, "0.1")]
    {
        assert_eq!(with(limits, bad).unwrap_err()[0].0, "hysteresis", "{limits} {bad}");
    }
}

#[test]
fn ids_that_begin_alike_are_a_range() {
    let text = |(first, last): (Uuid, Uuid)| (first.to_string(), last.to_string());
    let whole = "0190163d8694739baea5966c26f8ad91";
    assert_eq!(
        id_range("0190163D").map(text),
        Some((
            "0190163d-0000-0000-0000-000000000000".to_owned(),
            "0190163d-ffff-ffff-ffff-ffffffffffff".to_owned()
        ))
    );
    let one = "0190163d-8694-739b-aea5-966c26f8ad91".to_owned();
    assert_eq!(id_range(whole).map(text), Some((one.clone(), one)));
    for bad in ["", "g", "+1", "0190163d-8694", &format!("{whole}0")] {
        assert_eq!(id_range(bad), None, "{bad}");
    }
}
