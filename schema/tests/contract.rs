//! Holds the event types against their frozen messages and their published JSON Schemas.

use schema::dead_letter::{DeadLetter, RefusedFile};
use schema::{
    Alert, Change, DeviceRow, Episode, Op, ReadingCreatedEvent, RowKey, Scope, SilenceRow, ThresholdRow,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn read(folder: &str, name: &str) -> Value {
    let path = format!("{}/{folder}/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(&path)
}

/// The frozen message decodes, encodes to the same JSON, and both satisfy the schema that consumers are
/// given.
fn holds<T: Serialize + DeserializeOwned>(version: &str) {
    holds_variant::<T>(version, version);
}

/// The same of another message of that version.
fn holds_variant<T: Serialize + DeserializeOwned>(version: &str, variant: &str) {
    let golden = read("tests/golden", &format!("{variant}.json"));
    let decoded: T = serde_json::from_value(golden.clone()).expect("frozen message decodes");
    let encoded = serde_json::to_value(decoded).expect("event encodes");
    assert_eq!(encoded, golden);
    satisfies(version, &encoded);
}

fn satisfies(version: &str, message: &Value) {
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&read("json", &format!("{version}.schema.json")))
        .expect("the schema itself is valid");
    let complaints: Vec<_> = validator.iter_errors(message).map(|error| error.to_string()).collect();
    assert!(complaints.is_empty(), "{version}: {complaints:?}");
}

#[test]
fn every_released_message_still_decodes_and_satisfies_its_schema() {
    holds::<ReadingCreatedEvent>("reading-created.1");
    holds::<Alert>("alert.1");
    holds_variant::<Alert>("alert.1", "alert.1.episode");
    holds_variant::<Alert>("alert.1", "alert.1.closed");
    holds::<Episode>("episode.1");
    holds::<Change<DeviceRow>>("device-change.1");
    holds::<Change<ThresholdRow>>("threshold-change.1");
    holds::<Change<SilenceRow>>("silence-change.1");
    holds::<RefusedFile>("refused-file.1");
}

#[test]
fn every_released_dead_letter_is_read_and_written_again_as_it_was() {
    let golden: Vec<(String, String)> =
        serde_json::from_value(read("tests/golden", "dead-letter.1.json")).unwrap();
    let headers = golden.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
    let letter = DeadLetter::read(headers).unwrap();
    let text = |(name, value): (_, Option<_>)| (name, String::from_utf8(value.unwrap()).unwrap());
    assert_eq!(letter.headers().into_iter().map(text).collect::<Vec<_>>(), golden);
    let own = golden.len() - letter.source_headers.len();
    satisfies("dead-letter.1", &golden[..own].iter().cloned().collect());

    let file = read("tests/golden", "refused-file.1.json").to_string();
    let refused = RefusedFile::read(file.as_bytes()).unwrap();
    assert_eq!((refused.key.as_str(), refused.value.as_slice()), ("thermostat-1", &b"{}"[..]));
    assert_eq!(refused.letter.origin.unwrap().topic, "iot-reading-topic");
    assert_eq!(refused.letter.source_headers[1].1.as_deref(), Some(&[0xff][..]));
}

#[test]
fn schema_refuses_a_reading_without_values() {
    let mut reading = read("tests/golden", "reading-created.1.json");
    reading["values"] = serde_json::json!({});
    let validator = jsonschema::validator_for(&read("json", "reading-created.1.schema.json")).unwrap();
    assert!(!validator.is_valid(&reading));
}

#[test]
fn debezium_wrapped_change_decodes_like_a_plain_one() {
    let wrapped = read("tests/golden", "threshold-change.1.wrapped.json").to_string();
    let change = Change::<ThresholdRow>::decode(wrapped.as_bytes()).unwrap();
    assert_eq!(change.op, Op::Delete);
    assert_eq!(change.before.unwrap().scope, Scope::Sensor("thermostat-1".to_owned()));
    assert!(change.after.is_none());
    let id = "4a1f0b57-2e7a-4e0f-8f58-1c2d3e4f5a6b";
    for key in [
        format!(r#"{{"threshold_id":"{id}"}}"#),
        format!(r#"{{"schema":{{}},"payload":{{"threshold_id":"{id}"}}}}"#),
    ] {
        assert_eq!(Change::<ThresholdRow>::decode_key(key.as_bytes()).unwrap().threshold_id.to_string(), id);
    }
}

#[test]
fn foreign_bytes_are_an_error_and_never_a_panic() {
    for bytes in [&b""[..], b"{", b"null", b"[]", b"\xff", br#"{"op":"x"}"#, br#"{"payload":null}"#] {
        assert!(Change::<DeviceRow>::decode(bytes).is_err());
        assert!(Change::<DeviceRow>::decode_key(bytes).is_err());
        assert!(serde_json::from_slice::<ReadingCreatedEvent>(bytes).is_err());
    }
    fn key_of<R: RowKey>(_: R::Key) {}
    key_of::<DeviceRow>(schema::DeviceKey { sensor_id: String::new() });
}

#[test]
fn the_asyncapi_document_names_every_topic_and_every_schema_file() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let document = std::fs::read_to_string(format!("{folder}/asyncapi.yaml")).unwrap();
    for topic in schema::topics::ALL {
        assert!(
            document.contains(&format!("    address: {}\n", topic.name)),
            "{} is not documented",
            topic.name
        );
    }
    assert_eq!(document.matches("    address: ").count(), schema::topics::ALL.len());
    for file in std::fs::read_dir(format!("{folder}/json")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(document.contains(&format!("$ref: ./json/{name}")), "{name} is not referenced");
    }
}
