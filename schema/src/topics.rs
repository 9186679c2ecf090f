//! The topic map, in one place.

/// Says how Kafka forgets records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Drops segments older than so many days.
    DeleteAfterDays(u32),
    /// Keeps the last record of each key.
    Compact,
}

/// Says how many partitions a topic has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// The one count of the co-partitioned topics (100 in production).
    Scaled,
    /// One: a small table that every reader holds whole, in commit order.
    Single,
}

/// Describes one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name, before any prefix.
    pub name: &'static str,
    /// How many partitions.
    pub partitions: Partitions,
    /// How records are forgotten.
    pub cleanup: Cleanup,
}

const fn topic(name: &'static str, partitions: Partitions, cleanup: Cleanup) -> Topic {
    Topic { name, partitions, cleanup }
}

/// Readings, keyed by sensor id; written by gateway.
pub const READINGS: Topic = topic("iot-reading-topic", Partitions::Scaled, Cleanup::DeleteAfterDays(7));
/// Payloads that no decoder understood, keyed by sensor id; written by gateway.
pub const PRODUCER_DLQ: Topic = topic("iot-producer-dlq", Partitions::Single, Cleanup::DeleteAfterDays(30));
/// Readings that a consumer could not use; written by command-svc and alerting-svc.
pub const READING_DLQ: Topic = topic("iot-reading-dlq", Partitions::Single, Cleanup::DeleteAfterDays(30));
/// Changes of `sensor_thresholds`; written by cdc-svc or Debezium.
pub const THRESHOLD_UPDATES: Topic = topic("iot-threshold-updates", Partitions::Single, Cleanup::Compact);
/// Changes of `devices`; written by cdc-svc or Debezium.
pub const DEVICE_UPDATES: Topic = topic("iot-device-updates", Partitions::Single, Cleanup::Compact);
/// Alerts, keyed by sensor id; written by alerting-svc.
pub const ALERTS: Topic = topic("iot-alerts", Partitions::Scaled, Cleanup::DeleteAfterDays(30));
/// Alert episodes; written and read by alerting-svc.
pub const ALERT_STATE: Topic = topic("iot-alert-state", Partitions::Scaled, Cleanup::Compact);

/// Every topic, in data-flow order.
pub const ALL: [Topic; 7] =
    [READINGS, PRODUCER_DLQ, READING_DLQ, THRESHOLD_UPDATES, DEVICE_UPDATES, ALERTS, ALERT_STATE];
