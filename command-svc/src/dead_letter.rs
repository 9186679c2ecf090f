//! Records that will never be rows → `iot-reading-dlq`.

use crate::batch::{Rejected, decode};
use crate::metrics::Metrics;
use anyhow::Context;
use chassis::kafka::{Settings, dead_letter_headers};
use chassis::retry::Backoff;
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

/// Sends dead letters and waits until they are durable. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
    metrics: Metrics,
}

impl DeadLetters {
    pub(crate) fn open(kafka: &Settings, metrics: Metrics) -> anyhow::Result<Self> {
        let producer = kafka.producer().create().context("create the dead letter producer")?;
        Ok(Self { producer, topic: kafka.topic(schema::topics::READING_DLQ.name), metrics })
    }

    /// Returns when Kafka has the record for good; Kafka away means waiting, because the offset may not pass it.
    pub(crate) async fn send(&self, Rejected { record, reason }: &Rejected) {
        let mut backoff = Backoff::default();
        loop {
            let letter = FutureRecord::<[u8], [u8]> {
                topic: &self.topic,
                partition: None,
                payload: record.payload(),
                key: record.key(),
                timestamp: None,
                headers: Some(headers(record, reason)),
            };
            match self.producer.send(letter, Timeout::Never).await {
                Ok(_) => break,
                Err((error, _)) => {
                    tracing::warn!(%error, "dead letter is not accepted; trying again");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
        self.metrics.dead_letters.inc();
        tracing::warn!(
            partition = record.partition(),
            offset = record.offset(),
            reason,
            "record is a dead letter"
        );
    }
}

/// Beside what every dead letter says, the event id of a record that is a reading.
fn headers(record: &OwnedMessage, reason: &str) -> OwnedHeaders {
    let headers = dead_letter_headers(record, reason);
    match decode(record.payload()) {
        Ok(reading) => {
            headers.insert(Header { key: "event-id", value: Some(reading.event_id.to_string().as_bytes()) })
        }
        Err(_) => headers,
    }
}
