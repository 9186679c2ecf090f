//! A context for consumers that ask for the end of a partition.

use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// Keeps errors out of the log that are answers (the end of a partition, with `enable.partition.eof`) or that
/// come again with every record that is asked for: whoever asks says so, once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Quiet {}
