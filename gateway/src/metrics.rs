//! What the gateway counts. Never a sensor id as a label.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Buckets of the acknowledgement time: 1 ms is a good broker nearby, 30 s is when a message is given up.
const ACK_SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The gateway's metrics. The docstring of each is its help text.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Sockets that are open, handshakes included.
    pub(crate) connections: IntGauge,
    /// Sockets closed before a session began, by reason.
    pub(crate) refusals: IntCounterVec,
    /// Connections that ended, by reason.
    pub(crate) sessions_ended: IntCounterVec,
    /// PUBLISH packets read, by QoS: the labels 0, 1 and 2, in order, looked up once.
    pub(crate) publishes: [IntCounter; 3],
    /// PUBACK packets written for messages that are durable.
    pub(crate) acknowledgements: IntCounter,
    /// Seconds from a PUBLISH read to its acknowledgement.
    pub(crate) ack_seconds: Histogram,
    /// Messages that Kafka did not take; never acknowledged.
    pub(crate) produce_failures: IntCounter,
    /// Messages kept as dead letters because no reading could be made of them, by reason.
    pub(crate) dead_letters: IntCounterVec,
    /// Times a connection had to stop reading, by what was full.
    pub(crate) read_pauses: IntCounterVec,
    /// 1 while Kafka answers; while it does not, the table of devices stays as it was last known.
    pub(crate) kafka_up: IntGauge,
    /// Devices in the table.
    pub(crate) devices: IntGauge,
    /// Changes of devices that could not be read; such a device is refused.
    pub(crate) device_changes_unreadable: IntCounter,
    /// Changes of devices that came again or late, and were not applied.
    pub(crate) device_changes_stale: IntCounter,
    /// HTTP requests answered, by status.
    pub(crate) http_requests: IntCounterVec,
    /// CONNECT packets with a will, which is dropped.
    pub(crate) wills_dropped: IntCounter,
    /// 1 while a part stands still with nothing in its way: spool, forwarder, tls-files.
    pub(crate) stalled: IntGaugeVec,
    /// Handshakes and what they show.
    pub(crate) tls: Tls,
    /// What goes by way of the spool.
    pub(crate) spool: Spool,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// The registry has one of these names already (stop).
    pub(crate) fn register(registry: &Registry) -> anyhow::Result<Self> {
        let ack_seconds =
            HistogramOpts::new("gateway_ack_seconds", "Seconds from a PUBLISH read to its acknowledgement.")
                .buckets(ACK_SECONDS.to_vec());
        let counters = |name: &str, help: &str, label: &str| {
            register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let publishes = counters("gateway_publishes_total", "PUBLISH packets read, by QoS.", "qos")?;
        Ok(Self {
            connections: gauge("gateway_connections", "Sockets that are open, handshakes included.")?,
            refusals: counters(
                "gateway_refusals_total",
                "Sockets closed before a session began, by reason.",
                "reason",
            )?,
            sessions_ended: counters(
                "gateway_sessions_ended_total",
                "MQTT sessions that ended, by reason.",
                "reason",
            )?,
            publishes: ["0", "1", "2"].map(|qos| publishes.with_label_values(&[qos])),
            acknowledgements: counter(
                "gateway_acknowledgements_total",
                "PUBACK packets written for messages that are durable.",
            )?,
            ack_seconds: register(registry, Histogram::with_opts(ack_seconds)?)?,
            produce_failures: counter(
                "gateway_produce_failures_total",
                "Messages that Kafka did not take; never acknowledged.",
            )?,
            dead_letters: counters(
                "gateway_dead_letters_total",
                "Messages kept as dead letters because no reading could be made of them, by reason.",
                "reason",
            )?,
            read_pauses: counters(
                "gateway_read_pauses_total",
                "Times a connection had to stop reading, by what was full.",
                "full",
            )?,
            kafka_up: gauge(
                "gateway_kafka_up",
                "1 while Kafka answers; while it does not, the table of devices stays as it was last known.",
            )?,
            devices: gauge("gateway_devices", "Devices in the table.")?,
            device_changes_unreadable: counter(
                "gateway_device_changes_unreadable_total",
                "Changes of devices that could not be read; such a device is refused.",
            )?,
            device_changes_stale: counter(
                "gateway_device_changes_stale_total",
                "Changes of devices that came again or late, and were not applied.",
            )?,
            http_requests: counters(
                "gateway_http_requests_total",
                "HTTP requests answered, by status.",
                "status",
            )?,
            wills_dropped: counter(
                "gateway_wills_dropped_total",
                "CONNECT packets with a will, which is dropped.",
            )?,
            stalled: register_stalled(registry)?,
            tls: Tls::register(registry)?,
            spool: Spool::register(registry)?,
        })
    }
}

/// Handshakes and what they show. The docstring of each is its help text.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Sockets whose TLS handshake is not complete.
    pub(crate) handshakes: IntGauge,
    /// Times a handshake had to wait for its turn to compute.
    pub(crate) handshake_waits: IntCounter,
    /// Changes of the TLS files, by what became of them: loaded, refused.
    pub(crate) reloads: IntCounterVec,
    /// 1 while the TLS files cannot be used and older ones are in force.
    pub(crate) files_stale: IntGauge,
    /// Unix time at which a TLS file ends, the earliest of what it holds: certificate, authorities
    /// (notAfter), lists (nextUpdate).
    ends: IntGaugeVec,
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

    fn register(registry: &Registry) -> anyhow::Result<Self> {
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        let reloads = Opts::new(
            "gateway_tls_reloads_total",
            "Changes of the TLS files, by what became of them: loaded, refused.",
        );
        let ends = Opts::new(
            "gateway_tls_ends_timestamp_seconds",
            "Unix time at which a TLS file ends, the earliest of what it holds: certificate, authorities (notAfter), lists (nextUpdate).",
        );
        let waits = IntCounter::new(
            "gateway_handshake_waits_total",
            "Times a handshake had to wait for its turn to compute.",
        )?;
        Ok(Self {
            handshakes: gauge("gateway_handshakes", "Sockets whose TLS handshake is not complete.")?,
            handshake_waits: register(registry, waits)?,
            reloads: register(registry, IntCounterVec::new(reloads, &["outcome"])?)?,
            files_stale: gauge(
                "gateway_tls_files_stale",
                "1 while the TLS files cannot be used and older ones are in force.",
            )?,
            ends: register(registry, IntGaugeVec::new(ends, &["file"])?)?,
        })
    }
}

/// What goes by way of the spool. The docstring of each is its help text.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    /// 1 while every record goes to the spool, 0 while Kafka acknowledges in time.
    pub(crate) is_active: IntGauge,
    /// Records in the spool.
    pub(crate) records: IntGauge,
    /// Bytes that they take of SPOOL_BYTES_MAX.
    pub(crate) bytes: IntGauge,
    /// Records that are or were durable in the spool.
    pub(crate) appended: IntCounter,
    /// Records of the spool that Kafka has acknowledged, repetitions included.
    pub(crate) forwarded: IntCounter,
    /// Records of the spool that Kafka refused for good, by where they are kept: dead-letter, file.
    pub(crate) refused: IntCounterVec,
}

impl Spool {
    fn register(registry: &Registry) -> anyhow::Result<Self> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help)?);
        Ok(Self {
            is_active: gauge(
                "gateway_spooling",
                "1 while every record goes to the spool, 0 while Kafka acknowledges in time.",
            )?,
            records: gauge("gateway_spool_records", "Records in the spool.")?,
            bytes: gauge("gateway_spool_bytes", "Bytes that they take of SPOOL_BYTES_MAX.")?,
            appended: counter(
                "gateway_spool_appended_total",
                "Records that are or were durable in the spool.",
            )?,
            forwarded: counter(
                "gateway_spool_forwarded_total",
                "Records of the spool that Kafka has acknowledged, repetitions included.",
            )?,
            refused: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "gateway_spool_refused_total",
                        "Records of the spool that Kafka refused for good, by where they are kept: dead-letter, file.",
                    ),
                    &["kept"],
                )?,
            )?,
        })
    }
}

fn register_stalled(registry: &Registry) -> anyhow::Result<IntGaugeVec> {
    let stalled = Opts::new(
        "gateway_stalled",
        "1 while a part stands still with nothing in its way: spool, forwarder, tls-files.",
    );
    register(registry, IntGaugeVec::new(stalled, &["part"])?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> anyhow::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
