//! One transactional producer: records, and the offsets that they were made from, all or nothing.

use super::Settings;
use crate::retry::Disposition;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::time::{Duration, Instant};

/// Timeout of a step of a transaction after which Kafka counts as away.
const SETTLE_WAIT: Duration = Duration::from_secs(15);
/// Wait for a delivery report before the next look at how many are under way.
const REPORT_WAIT: Duration = Duration::from_millis(1);

/// Says what failed, and what that ends.
#[derive(Debug, thiserror::Error)]
#[error("{step}{}", fatal.as_ref().map_or_else(String::new, |(code, reason)| format!(": {code}: {reason}")))]
pub struct TransactionError {
    step: &'static str,
    source: Box<KafkaError>,
    /// The client's fatal error: it is of no use any more.
    fatal: Option<(RDKafkaErrorCode, String)>,
}

impl TransactionError {
    /// Says what follows: another producer with our id would throw this one out for ever, so that is a stop.
    pub fn disposition(&self) -> Disposition {
        use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
        match self.fatal {
            Some((Fenced | InvalidProducerEpoch | ProducerFenced, _)) => Disposition::Stop,
            _ => Disposition::Retry,
        }
    }

    /// Says whether the group has gone on to another generation; an abort makes room for a transaction under
    /// that one.
    pub fn is_regrouped(&self) -> bool {
        use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
        let KafkaError::Transaction(error) = &*self.source else { return false };
        self.fatal.is_none()
            && error.txn_requires_abort()
            && matches!(error.code(), IllegalGeneration | RebalanceInProgress | UnknownMemberId)
    }
}

/// Produces in transactions, one at a time. Its calls block.
pub struct TransactionalProducer {
    // Serves delivery reports on a thread of its own: without one, an abort waits for reports that nobody
    // takes.
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Settings {
    /// Returns settings for a transactional producer, whose open transaction the broker aborts after
    /// `transaction_max`; readers wait for it until then.
    pub fn transactional_producer(&self, id: &str, transaction_max: Duration) -> ClientConfig {
        let transaction_ms = transaction_max.as_millis().to_string();
        let mut config = self.producer();
        config
            .set("transactional.id", self.group(id))
            .set("transaction.timeout.ms", &transaction_ms)
            // May not exceed the transaction's.
            .set("message.timeout.ms", &transaction_ms);
        config
    }
}

impl TransactionalProducer {
    /// Starts a producer; what an earlier one of the same id has left open is aborted, and it is refused from
    /// now on.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn start(config: &ClientConfig) -> Result<Self, TransactionError> {
        let created = config.create();
        let producer: ThreadedProducer<_> = created.map_err(|source| TransactionError {
            step: "create the producer",
            source: source.into(),
            fatal: None,
        })?;
        let started = producer.init_transactions(SETTLE_WAIT);
        let transactional = Self { producer };
        transactional.check(started, "start the producer")?;
        Ok(transactional)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn begin(&self) -> Result<(), TransactionError> {
        self.check(self.producer.begin_transaction(), "begin a transaction")
    }

    /// Produces into the open transaction; the commit says whether it was delivered.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), TransactionError> {
        let mut record = record;
        let deadline = Instant::now() + SETTLE_WAIT;
        let sent = loop {
            match self.producer.send(record) {
                // The queue is bounded; acknowledgements make room.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again))
                    if Instant::now() < deadline =>
                {
                    record = again;
                    self.producer.poll(REPORT_WAIT);
                }
                outcome => break outcome.map_err(|(error, _)| error),
            }
        };
        self.check(sent, "produce")
    }

    /// Commits the records, and the offsets that they were made from, together. When this returns without an
    /// error, all of it is durable and visible.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn commit(
        &self,
        offsets: Option<(&TopicPartitionList, &ConsumerGroupMetadata)>,
    ) -> Result<(), TransactionError> {
        let deadline = Instant::now() + SETTLE_WAIT;
        // A commit while delivery reports are queued would stall for 100 ms.
        self.wait_for_deliveries(deadline);
        if let Some((offsets, group)) = offsets {
            self.settle("commit offsets", deadline, |left| {
                self.producer.send_offsets_to_transaction(offsets, group, left)
            })?;
        }
        self.settle("commit a transaction", deadline, |left| self.producer.commit_transaction(left))
    }

    /// Aborts the open transaction, within `wait` at most.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn abort_within(&self, wait: Duration) -> Result<(), TransactionError> {
        let deadline = Instant::now() + wait;
        // Before the first delivery the broker may not know of the transaction yet, and refuses to end it.
        self.wait_for_deliveries(deadline);
        self.settle("abort a transaction", deadline, |left| self.producer.abort_transaction(left))
    }

    /// Aborts the open transaction.
    ///
    /// # Errors
    /// [`TransactionError`].
    pub fn abort(&self) -> Result<(), TransactionError> {
        self.abort_within(SETTLE_WAIT)
    }

    fn wait_for_deliveries(&self, deadline: Instant) {
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(REPORT_WAIT);
        }
    }

    /// Repeats a step that may be repeated, until the time is over.
    fn settle(
        &self,
        step: &'static str,
        deadline: Instant,
        try_once: impl Fn(Duration) -> Result<(), KafkaError>,
    ) -> Result<(), TransactionError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match try_once(left) {
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {}
                outcome => return self.check(outcome, step),
            }
        }
    }

    fn check(&self, outcome: Result<(), KafkaError>, step: &'static str) -> Result<(), TransactionError> {
        let fatal = || self.producer.client().fatal_error();
        outcome.map_err(|source| TransactionError { step, source: source.into(), fatal: fatal() })
    }
}
