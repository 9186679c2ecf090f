//! What librdkafka knows about itself, as a latch, and the assignment that the group gives it.

use crate::admin::Latch;
use prometheus::IntGauge;
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
    /// Set by consumers that have no watch.
    lag: Option<IntGauge>,
}

impl Monitor {
    /// Watches the client that it is given to as a context, and sets the gauge to the lag of its last fetch.
    pub fn new(latch: Latch, lag: IntGauge) -> Self {
        Self { latch, lag: Some(lag) }
    }

    /// Watches the client that it is given to as a context.
    pub fn of(latch: Latch) -> Self {
        Self { latch, lag: None }
    }
}

impl ClientContext for Monitor {
    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.latch.open();
        } else {
            self.latch.close();
        }
        let Some(lag) = &self.lag else { return };
        let partitions = statistics.topics.values().flat_map(|topic| topic.partitions.values());
        // -1 stands for "not known yet" and for partitions that others read.
        lag.set(partitions.map(|partition| partition.consumer_lag.max(0)).sum());
    }
}

impl ConsumerContext for Monitor {}
