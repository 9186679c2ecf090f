//! The topic map, in one place.

/// Says how Kafka forgets records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Drops segments older than this number of days.
    DeleteAfterDays(u32),
    /// Keeps the last record of each key.
    Compact,
    /// Keeps the last record of each key, and every record for this number of days.
    CompactAfterDays(u32),
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
    /// Most bytes of a partition; beyond it the oldest segments go. None: age alone decides.
    pub bytes_max: Option<u64>,
}

/// Days for which readings are kept, and with them the versions of thresholds that they are evaluated by.
pub const READING_DAYS: u32 = 7;
/// Days for which a compacted topic keeps a tombstone. A reader that was cut off from Kafka for less than
/// this sees the delete when it is back; Kafka's own day is shorter than a long weekend.
pub const TOMBSTONE_DAYS: u32 = 30;
/// Most bytes of a dead-letter topic's partition. Devices decide how much comes here, so age alone would let
/// one of them fill the broker's disk.
pub const DEAD_LETTER_BYTES_MAX: u64 = 10 << 30;

impl Topic {
    /// Returns Kafka's settings of the topic, name and value.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let days_ms = |days: u32| (u64::from(days) * 24 * 3600 * 1000).to_string();
        let mut settings = match self.cleanup {
            Cleanup::DeleteAfterDays(days) => {
                vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", days_ms(days))]
            }
            Cleanup::Compact => vec![
                ("cleanup.policy", "compact".to_owned()),
                ("delete.retention.ms", days_ms(TOMBSTONE_DAYS)),
            ],
            Cleanup::CompactAfterDays(days) => vec![
                ("cleanup.policy", "compact".to_owned()),
                ("min.compaction.lag.ms", days_ms(days)),
                ("delete.retention.ms", days_ms(TOMBSTONE_DAYS)),
            ],
        };
        settings.extend(self.bytes_max.map(|bytes| ("retention.bytes", bytes.to_string())));
        settings
    }
}

const fn topic(name: &'static str, partitions: Partitions, cleanup: Cleanup) -> Topic {
    Topic { name, partitions, cleanup, bytes_max: None }
}

const fn dead_letters(name: &'static str) -> Topic {
    let bytes_max = Some(DEAD_LETTER_BYTES_MAX);
    Topic { bytes_max, ..topic(name, Partitions::Single, Cleanup::DeleteAfterDays(30)) }
}

/// Readings, keyed by sensor id; written by gateway.
pub const READINGS: Topic =
    topic("iot-reading-topic", Partitions::Scaled, Cleanup::DeleteAfterDays(READING_DAYS));
/// Payloads that no decoder understood, keyed by sensor id; written by gateway.
pub const PRODUCER_DLQ: Topic = dead_letters("iot-producer-dlq");
/// Records of `iot-reading-topic` and `iot-alerts` that could not be used; written by command-svc. Other
/// consumers count them.
pub const READING_DLQ: Topic = dead_letters("iot-reading-dlq");
/// Changes of `sensor_thresholds`; written by cdc-svc or Debezium. A late reading is evaluated by the version
/// of its event time, so versions stay for as long as readings do.
pub const THRESHOLD_UPDATES: Topic =
    topic("iot-threshold-updates", Partitions::Single, Cleanup::CompactAfterDays(READING_DAYS));
/// Changes of `devices`; written by cdc-svc or Debezium.
pub const DEVICE_UPDATES: Topic = topic("iot-device-updates", Partitions::Single, Cleanup::Compact);
/// Changes of `silences`; written by cdc-svc or Debezium.
pub const SILENCE_UPDATES: Topic = topic("iot-silence-updates", Partitions::Single, Cleanup::Compact);
/// Alerts, keyed by sensor id; written by alerting-svc.
pub const ALERTS: Topic = topic("iot-alerts", Partitions::Scaled, Cleanup::DeleteAfterDays(30));
/// Alerts that a target of notifications did not get; written by notify-svc.
pub const NOTIFY_DLQ: Topic = dead_letters("iot-notify-dlq");
/// Alert episodes, keyed by threshold and sensor, in the partition of the sensor's readings; written and read
/// by alerting-svc.
pub const ALERT_STATE: Topic = topic("iot-alert-state", Partitions::Scaled, Cleanup::Compact);

/// Every topic, in data-flow order.
pub const ALL: [Topic; 9] = [
    READINGS,
    PRODUCER_DLQ,
    READING_DLQ,
    THRESHOLD_UPDATES,
    DEVICE_UPDATES,
    SILENCE_UPDATES,
    ALERTS,
    ALERT_STATE,
    NOTIFY_DLQ,
];
