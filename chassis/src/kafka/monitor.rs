//! What librdkafka knows about its brokers, as a latch.

use crate::admin::Latch;
use rdkafka::client::ClientContext;
use rdkafka::consumer::ConsumerContext;
use rdkafka::statistics::Statistics;

/// How often librdkafka reports; also how late the latch may be.
pub const REPORT_INTERVAL_MS: &str = "1000";

/// Opens a latch while a broker is connected. The lag is [`super::Watch`]'s to know.
///
/// It needs `statistics.interval.ms` ([`REPORT_INTERVAL_MS`]) in the client's settings.
#[derive(Clone, Debug)]
pub struct Monitor {
    latch: Latch,
}

impl Monitor {
    /// Watches the client that it is given to as a context.
    pub fn new(latch: Latch) -> Self {
        Self { latch }
    }
}

impl ClientContext for Monitor {
    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.latch.open();
        } else {
            self.latch.close();
        }
    }
}

impl ConsumerContext for Monitor {}
