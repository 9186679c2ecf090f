//! `docs/devices.md` says what the gateway does.

use chassis::config::Env;
use gateway::Config;
use gateway::decode::{Births, Format, Message, TimestampBounds, decode};
use schema::{Codec, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

const PAGE: &str = include_str!("../../docs/devices.md");

/// A day each way; the examples were sent a minute before they came.
const BOUNDS: TimestampBounds =
    TimestampBounds { age_max: Duration::from_secs(86_400), future_max: Duration::from_secs(86_400) };
const RECEIVED_AT: &str = "2026-01-02T03:05:05Z";

/// The part of the page under a heading.
fn section<'a>(heading: &str) -> &'a str {
    let start = PAGE.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let text = &PAGE[start + 1 + heading.len()..];
    let level = heading.split(' ').next().unwrap().len();
    let ends = (1..=level).filter_map(|level| text.find(&format!("\n{} ", "#".repeat(level))));
    &text[..ends.min().unwrap_or(text.len())]
}

/// The fenced blocks of a text: what stands after the fence, and what within.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("a fence has a line of its own")).collect()
}

/// The first cells of a table's rows, without its head.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
}

/// All that stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_example_is_decoded_to_its_readings() {
    for codec in Codec::ALL {
        let (mut layout, mut births, mut examples) = (None, Births::default(), 0);
        let mut read = None;
        for (kind, text) in blocks(section(&format!("### `{}`", codec.as_str()))) {
            let (kind, subtopic) = kind.split_once(' ').unwrap_or((kind, ""));
            let payload = match kind {
                "layout" => {
                    layout = Some(text);
                    continue;
                }
                "json" => text.as_bytes().to_vec(),
                "hex" => hex::decode(text.split_whitespace().collect::<String>()).unwrap(),
                _ => {
                    assert_eq!(kind, "readings");
                    let expected: Vec<Value> =
                        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                    assert_eq!(read.take(), Some(normal(expected)), "{}", codec.as_str());
                    examples += 1;
                    continue;
                }
            };
            let message = Message {
                sensor_id: "t-1",
                device_type: "T",
                zone_id: "z",
                subtopic,
                event_id: None,
                received_at: Timestamp::parse(RECEIVED_AT).unwrap(),
                payload: &payload,
            };
            let readings =
                decode(&Format::of(codec.as_str(), layout), &message, &mut births, &BOUNDS).unwrap();
            let told = readings.iter().map(|reading| {
                json!({"at": reading.reading_at, "values": reading.values, "attributes": reading.attributes})
            });
            read = Some(normal(told.collect()));
        }
        assert!(examples > 0 && read.is_none(), "{} has an example without its readings", codec.as_str());
    }
}

/// Times in one form and numbers as doubles, however they are written.
fn normal(mut readings: Vec<Value>) -> Vec<Value> {
    for reading in &mut readings {
        let at = Timestamp::parse(reading["at"].as_str().unwrap()).unwrap();
        reading["at"] = at.to_string().into();
        for value in reading["values"].as_object_mut().unwrap().values_mut() {
            *value = value.as_f64().unwrap().into();
        }
    }
    readings
}

#[test]
fn every_reason_of_a_dead_letter_is_explained() {
    let sources =
        [include_str!("../src/decode/undecodable.rs"), include_str!("../../schema/src/storable.rs")];
    let source = sources.concat();
    let names = source.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let known: BTreeSet<_> = names.collect();
    let table: Vec<_> = rows(section("## Reasons of dead letters")).collect();
    let explained: BTreeSet<_> = table.iter().flat_map(|row| quoted(row[0])).collect();
    assert!(known.len() > 25);
    assert_eq!(explained, known);
}

#[test]
fn every_code_of_mqtt_5_is_explained() {
    let source = include_str!("../src/mqtt/packet/encode.rs");
    let codes = source.match_indices("0x").map(|(at, _)| &source[at..at + 4]);
    // A code that is no reason is a first byte of a packet, a mask, or success.
    let no_reason = ["0x90", "0x40", "0x20", "0xE0", "0x80", "0x7f", "0x00"];
    let known: BTreeSet<_> = codes.filter(|code| !no_reason.contains(code)).collect();
    let table: Vec<_> = rows(section("## What the gateway says no with")).collect();
    let explained: BTreeSet<_> = table.iter().map(|row| row[0]).collect();
    assert!(known.len() > 15);
    assert_eq!(explained, known);
}

#[test]
fn every_limit_has_its_default() {
    let variables = [
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        ("MQTT_LISTEN", "127.0.0.1:8883"),
        ("TLS_CERT_FILE", "/dev/null"),
        ("TLS_KEY_FILE", "/dev/null"),
        ("TLS_CLIENT_CA_FILE", "/dev/null"),
    ];
    let mut env = Env::of(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let limits = Config::from_env(&mut env).limits;
    let ms = |duration: Duration| usize::try_from(duration.as_millis()).unwrap();
    for row in rows(section("## Limits")) {
        let default = match row[0].trim_matches('`') {
            "PACKET_BYTES_MAX" => limits.packet_bytes_max,
            "IN_FLIGHT_MAX" => limits.in_flight_max.into(),
            "PUBLISH_RATE_MAX" => limits.publish_rate_max as usize,
            "PUBLISH_BURST_MAX" => limits.publish_burst_max as usize,
            "IN_FLIGHT_DEVICE_BYTES_MAX" => limits.in_flight_device_bytes_max,
            "CONNECTIONS_PER_DEVICE_MAX" => limits.connections_per_device_max,
            "CONNECTIONS_PER_ADDRESS_MAX" => limits.connections_per_address_max,
            "CONNECTION_RATE_PER_ADDRESS_MAX" => limits.connection_rate_per_address_max as usize,
            "HTTP_CONNECTIONS_MAX" => limits.http_connections_max,
            "CONNECTIONS_MAX" => limits.connections_max,
            "HANDSHAKE_MS_MAX" => ms(limits.handshake_time_max),
            "CONNECT_MS_MAX" => ms(limits.connect_time_max),
            "HTTP_BODY_BYTES_MAX" => limits.http_body_bytes_max,
            other => panic!("what is {other}?"),
        };
        assert_eq!(row[1].replace(',', ""), default.to_string(), "{}", row[0]);
    }
}

#[test]
fn documentation_names_only_metrics_that_exist() {
    testkit::docs::assert_metrics_exist("gateway_", &gateway::metric_names());
}
