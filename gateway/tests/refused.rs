//! Kafka refuses for good what was acknowledged from the spool: it is kept elsewhere, and what is behind it
//! goes on.

use crate::raw::{Client, puback, publish};
use crate::spooling::{ready, spool_settings};
use crate::stack::{Registered, Stack, letter_of, next_reading};
use schema::dead_letter::{Refused, RefusedFile};
use schema::{ReadingCreatedEvent, topics};
use std::path::Path;
use testkit::broker::Broker;
use testkit::wait;

/// Most bytes of a record; lz4 does not make the large one that small, because its text does not
/// repeat.
const BYTES_MAX: usize = 5_000;

/// Text that the gateway takes as an attribute, and that nothing compresses to a third.
fn text() -> String {
    (0..1_900_u32).map(|number| format!("{:x}", number.wrapping_mul(2_654_435_761))).collect()
}

/// Publishes numbered readings while Kafka is frozen, the third of each five too large, and has all
/// acknowledged.
async fn publish_frozen(broker: &Broker, stack: &Stack, client: &mut Client, device: &Registered, from: u16) {
    broker.freeze();
    for number in from..from + 5 {
        let text = if number % 5 == 3 { text() } else { String::new() };
        let payload = format!(r#"{{"number":{number},"text":"{text}"}}"#);
        client.send(&publish(4, 1, number, &device.mqtt_topic(), payload.as_bytes())).await;
    }
    for number in from..from + 5 {
        assert_eq!(client.frame().await.unwrap(), puback(number), "the spool has it");
    }
    assert_eq!(stack.metric("gateway_spooling"), 1.0);
    broker.thaw();
}

/// The spool goes on, and Kafka has got what it takes.
async fn rest_is_forwarded(stack: &Stack, expected: &[u16]) {
    wait::until("the spool is empty", async || {
        (stack.metric("gateway_spool_records") == 0.0 && stack.metric("gateway_spooling") == 0.0)
            .then_some(())
    })
    .await;
    let (readings, mut numbers) = (stack.kafka.read(topics::READINGS), Vec::new());
    while numbers.len() < expected.len() {
        let number = next_reading(&readings).await.values["number"];
        // Purged copies may be there, too: then a number comes again.
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers.sort_by(f64::total_cmp);
    assert_eq!(numbers, expected.iter().copied().map(f64::from).collect::<Vec<_>>());
}

fn files(folder: &Path) -> Vec<Refused> {
    let files = std::fs::read_dir(folder.join("refused")).unwrap().map(|file| file.unwrap().path());
    files.map(|file| RefusedFile::read(&std::fs::read(file).unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_record_that_kafka_refuses_is_a_dead_letter_or_a_file_and_blocks_nothing() {
    let (broker, folder) = (Broker::start().await, tempfile::tempdir().unwrap());
    let stack = Stack::boot(broker.topics().await, &spool_settings(folder.path())).await;
    ready(&stack).await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(4, "c").await;

    stack.refuse_larger_than(topics::READINGS, BYTES_MAX).await;
    publish_frozen(&broker, &stack, &mut client, &device, 1).await;
    rest_is_forwarded(&stack, &[1, 2, 4, 5]).await;
    let letter = stack.kafka.read(topics::PRODUCER_DLQ).next().await;
    assert_eq!(letter.header("reason"), Some("kafka-refused"));
    assert_eq!(letter.header("source-topic"), Some(&*stack.kafka.settings().topic(topics::READINGS.name)));
    let event: ReadingCreatedEvent = serde_json::from_str(letter.text()).unwrap();
    let said = letter_of(&letter);
    let own = vec![("schema".to_owned(), Some(ReadingCreatedEvent::SCHEMA.as_bytes().to_vec()))];
    assert_eq!((said.source_headers, said.event_id), (own, Some(event.event_id)));
    assert_eq!((letter.key.as_slice(), event.values["number"]), (b"a-1".as_slice(), 3.0));
    assert_eq!(stack.metric("gateway_spool_refused_total"), 1.0);

    stack.refuse_larger_than(topics::PRODUCER_DLQ, BYTES_MAX).await;
    publish_frozen(&broker, &stack, &mut client, &device, 6).await;
    rest_is_forwarded(&stack, &[1, 2, 4, 5, 6, 7, 9, 10]).await;
    let files = files(folder.path());
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&*files[0].key, stack.metric("gateway_spool_refused_total")), ("a-1", 2.0));
    assert_eq!(files[0].letter.reason, "kafka-refused");
    let event: ReadingCreatedEvent = serde_json::from_slice(&files[0].value).unwrap();
    assert_eq!(event.values["number"], 8.0);
}
