//! What the gateway counts. Never a sensor id as a label.

use chassis::metrics;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// Buckets of the acknowledgement time: 1 ms is a good broker nearby, 30 s is when a message is given up.
const ACK_SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

metrics! {
    /// Holds every metric of the gateway but those of the watch on the table of devices.
    #[derive(Clone, Debug)]
    pub(crate) struct Metrics {
        /// Sockets that are open, handshakes included.
        pub(crate) connections: IntGauge = "gateway_connections",
        /// Sockets closed before a session began, by reason.
        pub(crate) refusals: IntCounterVec = "gateway_refusals_total" by ["reason"],
        /// MQTT sessions that ended, by reason.
        pub(crate) sessions_ended: IntCounterVec = "gateway_sessions_ended_total" by ["reason"],
        /// PUBLISH packets read.
        pub(crate) publishes: Publishes,
        /// PUBACK packets written for messages that are durable.
        pub(crate) acknowledgements: IntCounter = "gateway_acknowledgements_total",
        /// Seconds from a PUBLISH read to its acknowledgement.
        pub(crate) ack_seconds: Histogram = "gateway_ack_seconds" in ACK_SECONDS,
        /// Messages that Kafka did not take; never acknowledged.
        pub(crate) produce_failures: IntCounter = "gateway_produce_failures_total",
        /// Messages kept as dead letters because no reading could be made of them, by reason.
        pub(crate) dead_letters: IntCounterVec = "gateway_dead_letters_total" by ["reason"],
        /// Times a connection had to stop reading, by what was full.
        pub(crate) read_pauses: IntCounterVec = "gateway_read_pauses_total" by ["full"],
        /// 1 while Kafka answers; while it does not, the table of devices stays as it was last known.
        pub(crate) kafka_up: IntGauge = "gateway_kafka_up",
        /// Devices in the table.
        pub(crate) devices: IntGauge = "gateway_devices",
        /// Changes of devices that could not be read; such a device is refused.
        pub(crate) device_changes_unreadable: IntCounter = "gateway_device_changes_unreadable_total",
        /// Changes of devices that came again or late, and were not applied.
        pub(crate) device_changes_stale: IntCounter = "gateway_device_changes_stale_total",
        /// HTTP requests answered, by status.
        pub(crate) http_requests: IntCounterVec = "gateway_http_requests_total" by ["status"],
        /// CONNECT packets with a will, which is dropped.
        pub(crate) wills_dropped: IntCounter = "gateway_wills_dropped_total",
        /// 1 while a part stands still with nothing in its way: spool, forwarder, tls-files.
        pub(crate) stalled: IntGaugeVec = "gateway_stalled" by ["part"],
        /// Handshakes and what they show.
        pub(crate) tls: Tls,
        /// What goes by way of the spool.
        pub(crate) spool: Spool,
    }
}

metrics! {
    /// Handshakes and what they show.
    #[derive(Clone, Debug)]
    pub(crate) struct Tls {
        /// Sockets whose TLS handshake is not complete.
        pub(crate) handshakes: IntGauge = "gateway_handshakes",
        /// Times a handshake had to wait for its turn to compute.
        pub(crate) handshake_waits: IntCounter = "gateway_handshake_waits_total",
        /// Changes of the TLS files, by what became of them: loaded, refused.
        pub(crate) reloads: IntCounterVec = "gateway_tls_reloads_total" by ["outcome"],
        /// 1 while the TLS files cannot be used and older ones are in force.
        pub(crate) files_stale: IntGauge = "gateway_tls_files_stale",
        /// Unix time at which a TLS file ends, the earliest of what it holds: certificate, authorities
        /// (notAfter), lists (nextUpdate).
        ends: IntGaugeVec = "gateway_tls_ends_timestamp_seconds" by ["file"],
    }
}

metrics! {
    /// What goes by way of the spool.
    #[derive(Clone, Debug)]
    pub(crate) struct Spool {
        /// 1 while every record goes to the spool, 0 while Kafka acknowledges in time.
        pub(crate) is_active: IntGauge = "gateway_spooling",
        /// Records in the spool.
        pub(crate) records: IntGauge = "gateway_spool_records",
        /// Bytes that they take of SPOOL_BYTES_MAX.
        pub(crate) bytes: IntGauge = "gateway_spool_bytes",
        /// Records that are or were durable in the spool.
        pub(crate) appended: IntCounter = "gateway_spool_appended_total",
        /// Records of the spool that Kafka has acknowledged, repetitions included.
        pub(crate) forwarded: IntCounter = "gateway_spool_forwarded_total",
        /// Records of the spool that Kafka refused for good, by where they are kept: dead-letter, file.
        pub(crate) refused: IntCounterVec = "gateway_spool_refused_total" by ["kept"],
    }
}

metrics! {
    /// PUBLISH packets with every QoS.
    struct PublishesByQos {
        /// PUBLISH packets read, by QoS.
        by_qos: IntCounterVec = "gateway_publishes_total" by ["qos"],
    }
}

/// PUBLISH packets by QoS, whose labels 0, 1 and 2 are looked up once and not for each packet.
#[derive(Clone, Debug)]
pub(crate) struct Publishes([IntCounter; 3]);

impl Publishes {
    /// Returns the counter of a QoS: 0, 1 or 2.
    pub(crate) fn of(&self, qos: usize) -> &IntCounter {
        &self.0[qos]
    }

    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let PublishesByQos { by_qos } = PublishesByQos::register(registry)?;
        Ok(Self(["0", "1", "2"].map(|qos| by_qos.with_label_values(&[qos]))))
    }

    fn names() -> Vec<String> {
        PublishesByQos::names()
    }
}

impl Tls {
    /// Shows until when the files are good that are in force, in Unix seconds.
    pub(crate) fn show(&self, certificate_s: i64, authorities_s: i64, lists_s: Option<i64>) {
        self.ends.with_label_values(&["certificate"]).set(certificate_s);
        self.ends.with_label_values(&["authorities"]).set(authorities_s);
        match lists_s {
            Some(end) => self.ends.with_label_values(&["lists"]).set(end),
            // Err means that it had none before.
            None => drop(self.ends.remove_label_values(&["lists"])),
        }
    }
}
