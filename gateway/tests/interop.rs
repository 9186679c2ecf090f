//! Clients that others wrote, doing what sensors do: each in MQTT 3.1.1 and 5, or over HTTPS, with their
//! certificates.
//!
//! Answers to a client are held against what the gateway should say; its messages, against the topics.

mod curl;
mod mosquitto;
mod paho;
mod rumqttc_v4;
mod rumqttc_v5;

use crate::stack::{Stack, next_reading};
use schema::{ReadingCreatedEvent, topics};
use testkit::kafka::Reader;

/// Messages of a test that fills windows. No client here has a window this large.
const MESSAGES: usize = 100;

/// The next readings of a topic; those of one sensor are in the order of their PUBLISH packets.
async fn next_readings(readings: &Reader, count: usize) -> Vec<ReadingCreatedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.push(next_reading(readings).await);
    }
    events
}

/// Holds the next readings against the numbers that were published as metric `n`.
async fn assert_numbered(readings: &Reader) {
    let numbers: Vec<_> =
        next_readings(readings, MESSAGES).await.iter().map(|event| event.values["n"]).collect();
    let expected: Vec<_> = (0_u8..).map(f64::from).take(MESSAGES).collect();
    assert_eq!(numbers, expected, "each once, in order");
}

/// Holds the dead letters against the one that a client has caused.
async fn assert_one_dead_letter(stack: &Stack, payload: &str) {
    let letters = stack.kafka.read(topics::PRODUCER_DLQ);
    let letter = letters.next().await;
    assert_eq!((letter.text(), letter.header("reason")), (payload, Some("not-json")));
    assert!(letters.next_within(crate::stack::QUIET).await.is_none());
}
