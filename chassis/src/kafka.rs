//! Kafka settings that keep our guarantees, the one way to hold a compacted topic as a table, and the watch
//! on lag and progress.

mod assignment;
mod batches;
mod commits;
mod headers;
mod member;
mod monitor;
mod progress;
mod quiet;
mod read_to_end;
pub mod table;
mod transaction;
mod watch;

pub use assignment::{Assignment, partitions_of};
pub use batches::{Batches, Taken, done_of};
pub use commits::{Commits, Done};
pub use headers::{headers_of, owned_headers};
pub use member::{Change, Member, Revoke};
pub use monitor::{Monitor, REPORT_INTERVAL_MS};
pub use progress::{Look, Progress, Verdict};
pub use quiet::Quiet;
pub use read_to_end::{EndReader, Step, partitions};
pub use transaction::{TransactionError, TransactionalProducer};
pub use watch::{Watch, WatchMetrics, Watched, stall_max};

use crate::config::Env;
use rdkafka::config::ClientConfig;
use std::path::PathBuf;

/// Most records a producer keeps before they are acknowledged; beyond it a send reports a full queue.
const PRODUCER_QUEUE_RECORDS_MAX: &str = "100000";
/// Most kibibytes a producer keeps before they are acknowledged.
const PRODUCER_QUEUE_KIB_MAX: &str = "131072";
/// Most kibibytes a consumer fetches ahead of the loop that reads it.
const CONSUMER_QUEUE_KIB_MAX: &str = "65536";

/// Says where Kafka is and how names are prefixed.
#[derive(Clone, Debug)]
pub struct Settings {
    bootstrap: String,
    prefix: String,
    tls: Option<Tls>,
}

#[derive(Clone, Debug)]
struct Tls {
    ca: PathBuf,
    client: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    /// Reads `KAFKA_…`. Plain text is accepted only to a broker on this host.
    pub fn from_env(env: &mut Env) -> Self {
        let bootstrap = env.about("Brokers, `host:port` and commas.").text("KAFKA_BOOTSTRAP_SERVERS");
        env.about("Stands before the name of each topic, consumer group and transactional id.");
        let prefix = env.text_or("KAFKA_TOPIC_PREFIX", "");
        env.about(
            "Authorities of the brokers' certificates, PEM; with it TLS is spoken. Required unless every \
             broker is on this host.",
        );
        let ca = env.path_optional("KAFKA_CA_FILE");
        env.about("The certificate that the service shows the brokers, and its key, PEM; both or neither.");
        let client = match (env.path_optional("KAFKA_CERT_FILE"), env.path_optional("KAFKA_KEY_FILE")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                env.problem("KAFKA_CERT_FILE and KAFKA_KEY_FILE belong together");
                None
            }
        };
        if ca.is_none() && !bootstrap.split(',').all(is_loopback) {
            env.problem("KAFKA_CA_FILE is required unless every bootstrap server is on this host");
        }
        Self { bootstrap, prefix, tls: ca.map(|ca| Tls { ca, client }) }
    }

    /// Points at a broker on this host, in plain text, as tests and tools do.
    pub fn local(bootstrap: impl Into<String>, prefix: impl Into<String>) -> Self {
        Self { bootstrap: bootstrap.into(), prefix: prefix.into(), tls: None }
    }

    /// Puts the prefix before a topic's name.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Puts the prefix before the name of a consumer group or transactional id.
    pub fn group(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Returns settings for a producer: durable, idempotent, bounded, and on the Java clients' partitioner.
    ///
    /// Source: ADR 0003 (partitioner); librdkafka CONFIGURATION.md.
    pub fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "30000")
            .set("queue.buffering.max.messages", PRODUCER_QUEUE_RECORDS_MAX)
            .set("queue.buffering.max.kbytes", PRODUCER_QUEUE_KIB_MAX);
        config
    }

    /// Returns settings for a consumer of the group: nothing is committed unless the service does it, and
    /// records of open or aborted transactions are not seen.
    pub fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", self.group(group))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "2000")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", CONSUMER_QUEUE_KIB_MAX);
        config
    }

    /// Returns settings for an administrative client.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that fixes client settings")]
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        // Seconds, not minutes, to notice that a broker came back.
        config.set("reconnect.backoff.max.ms", "2000");
        if let Some(tls) = &self.tls {
            config.set("security.protocol", "ssl").set("ssl.ca.location", tls.ca.to_string_lossy());
            if let Some((cert, key)) = &tls.client {
                config.set("ssl.certificate.location", cert.to_string_lossy());
                config.set("ssl.key.location", key.to_string_lossy());
            }
        }
        config
    }
}

/// Says whether `host:port`, or the host of a URL, is this machine.
pub(crate) fn is_loopback(server: &str) -> bool {
    let host = server.trim().rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_refused_to_another_host() {
        for (servers, accepted) in [
            ("127.0.0.1:9092", true),
            ("localhost:9092,[::1]:9093", true),
            ("kafka:9092", false),
            ("127.0.0.1:9092,10.0.0.1:9092", false),
        ] {
            let mut env = Env::of([("KAFKA_BOOTSTRAP_SERVERS".to_owned(), servers.to_owned())]);
            Settings::from_env(&mut env);
            assert_eq!(env.finish().is_ok(), accepted, "{servers}");
        }
    }

    #[test]
    fn a_producer_is_durable_and_idempotent() {
        let config = Settings::local("127.0.0.1:1", "t-").producer();
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("enable.idempotence"), Some("true"));
        assert_eq!(config.get("partitioner"), Some("murmur2_random"));
    }
}
