//! One transactional producer, and which of its errors end what.

use anyhow::Context;
use chassis::kafka::Settings;
use chassis::retry::Disposition;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::time::{Duration, Instant};

/// The broker aborts a transaction that is open for so long, and readers wait for it until then. A batch takes a tenth of
/// a second. `message.timeout.ms` may not exceed it.
const TRANSACTION_MS: &str = "10000";
/// Kafka may take so long to settle a transaction before it counts as away.
const SETTLE_WAIT: Duration = Duration::from_secs(15);

/// Says what an error ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The transaction: the group has another generation than its readings. Abort, and read them again.
    #[error("transaction")]
    Regrouped(#[source] anyhow::Error),
    /// The session: begin again from the committed offsets.
    #[error("session")]
    Retry(#[source] anyhow::Error),
    /// The process.
    #[error("process")]
    Stop(#[source] anyhow::Error),
}

impl Trouble {
    /// Says what a session that ends with it asks for.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Regrouped(_) | Self::Retry(_) => Disposition::Retry,
            Self::Stop(_) => Disposition::Stop,
        }
    }
}

/// Writes alerts and offsets, all or nothing.
pub(crate) struct Transaction {
    // Serves delivery reports on a thread of its own: without one, an abort waits for reports that nobody takes.
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Transaction {
    /// Starts a producer; whatever an earlier one of the same id has left open is aborted, and it is refused from now on.
    pub(crate) fn start(settings: &Settings, id: &str) -> Result<Self, Trouble> {
        let mut config = settings.producer();
        config
            .set("transactional.id", settings.group(id))
            .set("transaction.timeout.ms", TRANSACTION_MS)
            .set("message.timeout.ms", TRANSACTION_MS)
            // The commit flushes; waiting for more records would only delay the alert.
            .set("linger.ms", "0");
        let producer: ThreadedProducer<_> =
            config.create().context("create the producer").map_err(Trouble::Stop)?;
        let transaction = Self { producer };
        let started = transaction.producer.init_transactions(SETTLE_WAIT);
        transaction.check(started, "start the producer")?;
        Ok(transaction)
    }

    pub(crate) fn begin(&self) -> Result<(), Trouble> {
        self.check(self.producer.begin_transaction(), "begin a transaction")
    }

    /// Produces into the open transaction; the commit says whether it was delivered.
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: i32,
        key: &[u8],
        value: &[u8],
        headers: OwnedHeaders,
    ) -> Result<(), Trouble> {
        let mut record =
            BaseRecord::<[u8], [u8]>::to(topic).partition(partition).key(key).payload(value).headers(headers);
        let deadline = Instant::now() + SETTLE_WAIT;
        let sent = loop {
            match self.producer.send(record) {
                // The queue is bounded; acknowledgements make room.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if Instant::now() < deadline =>
                {
                    record = again;
                    self.producer.poll(Duration::from_millis(1));
                }
                outcome => break outcome.map_err(|(error, _)| error),
            }
        };
        self.check(sent, "produce")
    }

    /// Commits the records and the offsets together.
    pub(crate) fn commit(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Trouble> {
        let deadline = Instant::now() + SETTLE_WAIT;
        let left = || deadline.saturating_duration_since(Instant::now());
        // A commit while delivery reports are queued would stall for 100 ms.
        self.wait_for_deliveries(deadline);
        self.settle("commit offsets", left, || {
            self.producer.send_offsets_to_transaction(offsets, group, left())
        })?;
        self.settle("commit a transaction", left, || self.producer.commit_transaction(left()))
    }

    /// Aborts the open transaction.
    pub(crate) fn abort(&self) -> Result<(), Trouble> {
        let deadline = Instant::now() + SETTLE_WAIT;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Before the first delivery the broker may not know of the transaction yet, and refuses to end it.
        self.wait_for_deliveries(deadline);
        self.settle("abort a transaction", left, || self.producer.abort_transaction(left()))
    }

    fn wait_for_deliveries(&self, deadline: Instant) {
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::from_millis(1));
        }
    }

    /// Repeats a step that may be repeated, until the time is over.
    fn settle(
        &self,
        step: &'static str,
        left: impl Fn() -> Duration,
        try_once: impl Fn() -> Result<(), KafkaError>,
    ) -> Result<(), Trouble> {
        loop {
            match try_once() {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left().is_zero() => {}
                outcome => return self.check(outcome, step),
            }
        }
    }

    /// Fatal means that the client is of no use any more. The next session makes another, unless another
    /// instance has our id: then the two would throw each other out for ever.
    fn check(&self, outcome: Result<(), KafkaError>, step: &'static str) -> Result<(), Trouble> {
        let Err(error) = outcome else { return Ok(()) };
        let fatal = self.producer.client().fatal_error();
        let is_regrouped = is_regrouped(&error);
        let error = anyhow::Error::new(error).context(step);
        Err(match fatal {
            Some((code, reason)) if is_fenced(code) => {
                Trouble::Stop(error.context(format!("{code}: {reason}")))
            }
            Some((code, reason)) => Trouble::Retry(error.context(format!("{code}: {reason}"))),
            None if is_regrouped => Trouble::Regrouped(error),
            None => Trouble::Retry(error),
        })
    }
}

/// Says whether another producer has taken our transactional id.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Fenced | InvalidProducerEpoch | ProducerFenced)
}

/// Says whether the group has gone on to another generation; an abort makes room for a transaction under that
/// one.
fn is_regrouped(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
    let KafkaError::Transaction(error) = error else { return false };
    error.txn_requires_abort()
        && matches!(error.code(), IllegalGeneration | RebalanceInProgress | UnknownMemberId)
}
