//! Alerts that a target did not get → `iot-notify-dlq`.

use crate::target::Target;
use anyhow::Context;
use chassis::admin::Latch;
use chassis::kafka::{Settings, headers_of, owned_headers};
use chassis::retry::{Disposition, Supervisor};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;
use schema::dead_letter::{DeadLetter, Origin};
use schema::topics;

/// Says why a target did not get an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It refuses this alert for good.
    Refused,
    /// It failed over this alert at every try.
    Failed,
    /// The alert is older than the target wants to hear.
    TooOld,
}

impl Reason {
    /// Returns the name in the dead letter's header.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "target-refused",
            Self::Failed => "target-failed",
            Self::TooOld => "too-old",
        }
    }
}

/// Sends dead letters and waits until they are durable. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    producer: FutureProducer,
    topic: String,
    latch: Latch,
}

impl DeadLetters {
    /// Opens the latch, which is closed while a letter waits for its topic.
    ///
    /// # Errors
    /// The client cannot be made (stop).
    pub(crate) fn open(kafka: &Settings, latch: Latch) -> anyhow::Result<Self> {
        let producer = kafka.producer().create().context("create the dead letter producer")?;
        latch.open();
        Ok(Self { producer, topic: kafka.topic(topics::NOTIFY_DLQ.name), latch })
    }

    /// Returns when Kafka has the letter; until then the alert is not done.
    pub(crate) async fn send(&self, record: &OwnedMessage, target: &Target, reason: Reason, detail: &str) {
        let detail = format!("target {}: {detail}", target.name);
        let (partition, offset) = (record.partition(), record.offset());
        tracing::warn!(target_name = target.name, partition, offset, detail, "alert is a dead letter");
        let own = headers_of(record).map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
        let letter = DeadLetter {
            origin: Some(Origin { topic: record.topic().to_owned(), place: Some((partition, offset)) }),
            source_headers: own.collect(),
            ..DeadLetter::new(reason.as_str(), detail.as_str())
        };
        let headers = owned_headers(letter.headers());
        let set_up = |is_up: bool| if is_up { self.latch.open() } else { self.latch.close() };
        let mut supervisor = Supervisor::new("dead letter is not accepted; trying again").telling(&set_up);
        let sent = supervisor.run(
            |_: &KafkaError| Disposition::Retry,
            |_| async {
                let letter = FutureRecord::<[u8], [u8]> {
                    topic: &self.topic,
                    partition: None,
                    payload: record.payload(),
                    key: record.key(),
                    timestamp: None,
                    headers: Some(headers.clone()),
                };
                self.producer.send(letter, Timeout::Never).await.map(drop).map_err(|(error, _)| error)
            },
        );
        // Every failure is followed by another try.
        let _ = sent.await;
    }
}
