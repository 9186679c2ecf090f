//! Settings of the gateway, from the environment.

use crate::decode::TimestampBounds;
use crate::durable::in_flight::RECORD_OVERHEAD_BYTES;
use chassis::config::Env;
use chassis::{auth, kafka};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the largest number of readings in a request costs beside its own bytes: 2 KiB for each of 1,024.
const HTTP_EVENTS_BYTES_MAX: usize = 2 << 20;

/// Default of [`Limits::in_flight_device_bytes_max`].
const IN_FLIGHT_DEVICE_BYTES: usize = 4 << 20;

/// Everything the gateway is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `KAFKA_…`: see [`kafka::Settings::from_env`].
    pub kafka: kafka::Settings,
    /// `MQTT_LISTEN`: address and port for MQTT over TLS.
    pub listen: SocketAddr,
    /// `HTTP_LISTEN`: address and port for `POST /api/v1/readings` over HTTPS; without it there is no HTTP.
    pub http_listen: Option<SocketAddr>,
    /// `JWT_…`: see [`auth::Settings::from_env`]; whose tokens stand in for a certificate over HTTP. Without
    /// `JWT_JWKS_FILE` and `JWT_JWKS_URL` a certificate is needed there, too.
    pub tokens: Option<auth::Settings>,
    /// `TLS_CERT_FILE`, `TLS_KEY_FILE`, `TLS_CLIENT_CA_FILE`, and `TLS_CRL_FILE` if there is a list: PEM
    /// files, followed while the gateway runs.
    pub tls: TlsFiles,
    /// How much of everything.
    pub limits: Limits,
    /// `SPOOL_…`: where records go that Kafka does not acknowledge in time; without it they wait,
    /// unacknowledged.
    pub spool: Option<Spool>,
    /// `STALL_MS_MAX` (120,000): how long the table of devices may stand still while its topic has more and
    /// Kafka answers; and the spool's thread, the forwarder of the spool and the reader of the TLS files with
    /// nothing in their way. Then the gateway is not ready, and not live after twice the time.
    pub stall_max: Duration,
    /// `READING_AGE_DAYS_MAX` (366) and `READING_FUTURE_S_MAX` (86,400): how far a device's clock may be off.
    /// A device without a clock says 1970; a year lets a logger deliver what it stored over a winter.
    pub timestamps: TimestampBounds,
}

/// Where the gateway's own certificate is, and whose devices it believes. PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The gateway's certificate and what leads from it to a root that devices know.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that sign device certificates.
    pub client_ca: PathBuf,
    /// Their revocation lists. When given, each authority needs one: a device whose authority has none is
    /// refused.
    pub crl: Option<PathBuf>,
}

impl TlsFiles {
    /// Lists all that are given.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.cert, &self.key, &self.client_ca].into_iter().chain(&self.crl).map(PathBuf::as_path)
    }
}

/// The spool.
#[derive(Clone, Debug)]
pub struct Spool {
    /// `SPOOL_DIR`: its directory, on a disk that outlives the process. One gateway's own.
    pub dir: PathBuf,
    /// `SPOOL_BYTES_MAX` (536,870,912): what its records may take of the disk; a million readings of 400
    /// bytes.
    pub bytes_max: u64,
    /// `SPOOL_PATIENCE_MS` (2,000): how long Kafka may take to acknowledge a record. Longer than the election
    /// of a leader usually takes, and shorter than a device's own patience.
    pub patience: Duration,
}

/// Bounds of what clients may take. Each is a variable of the same name in capitals; times end in `_MS_MAX`.
///
/// A client that meets one is counted: connections, handshakes and CONNECT packets in
/// `gateway_refusals_total`, packets that are too large and more in flight than was agreed in
/// `gateway_sessions_ended_total`, rates, windows and budgets in `gateway_read_pauses_total`, requests in
/// `gateway_http_requests_total`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `CONNECTIONS_MAX` (20,000): MQTT sockets at a time; file descriptors and about 24 KiB each.
    pub connections_max: usize,
    /// `HTTP_CONNECTIONS_MAX` (4,000): HTTPS sockets at a time. They have places of their own, because a
    /// handshake there needs no certificate: strangers who take all of them take none of MQTT's.
    pub http_connections_max: usize,
    /// `CONNECTIONS_PER_ADDRESS_MAX` (2,000): sockets of one address, of MQTT and of HTTPS each; a site
    /// behind one NAT fits, a single flooder does not take all.
    pub connections_per_address_max: usize,
    /// `CONNECTION_RATE_PER_ADDRESS_MAX` (200): new sockets of one address in a second, once
    /// `CONNECTIONS_PER_ADDRESS_MAX` have come at once. A handshake is a millisecond of one core before
    /// anybody knows who comes, so that this is a fifth of one. One whose device has as many as it may counts
    /// as ten.
    pub connection_rate_per_address_max: u32,
    /// `CONNECTIONS_PER_DEVICE_MAX` (32): sockets of one certificate or token, MQTT and HTTPS together. A
    /// device has one or two, and some that have died without a word.
    pub connections_per_device_max: usize,
    /// `HANDSHAKES_MAX` (16): TLS handshakes computed at a time. Each is a millisecond of one core, so a live
    /// connection waits behind 16 ms of them at worst when a whole fleet comes back; one that waits for its
    /// peer holds no turn.
    pub handshakes_max: usize,
    /// `HANDSHAKE_MS_MAX` (10,000): from the accepted socket to the end of its handshake, waiting included.
    /// Three round trips of a satellite link with its losses take five seconds; a silent peer costs a socket
    /// and a few KiB meanwhile.
    pub handshake_time_max: Duration,
    /// `CONNECT_MS_MAX` (10,000): from there to the whole CONNECT packet, which a client sends at once: one
    /// round trip, and the 16 KiB that it may have at most on the slowest line.
    pub connect_time_max: Duration,
    /// `PACKET_BYTES_MAX` (262,144): the largest packet, well below the megabyte that Kafka takes by default.
    pub packet_bytes_max: usize,
    /// `IN_FLIGHT_MAX` (100): messages of one connection without their PUBACK; MQTT 5 is told it as Receive
    /// Maximum. A client that sends more is read no further until there is room, in 3.1.1 as in 5.
    pub in_flight_max: u16,
    /// `IN_FLIGHT_BYTES_MAX` (1,048,576): the same in bytes, with 1,024 more for each message.
    pub in_flight_bytes_max: usize,
    /// `IN_FLIGHT_TOTAL_BYTES_MAX` (67,108,864): the same over all connections; half of the producer's own
    /// queue.
    pub in_flight_total_bytes_max: usize,
    /// `IN_FLIGHT_DEVICE_BYTES_MAX` (4,194,304, or all of the total when that is less): the same over all
    /// connections and requests of one device: a sixteenth, so that no device can take all; and room for the
    /// largest body and the events it becomes.
    pub in_flight_device_bytes_max: usize,
    /// `HTTP_BODY_BYTES_MAX` (1,048,576): the largest body of a request; a thousand readings of a kilobyte.
    pub http_body_bytes_max: usize,
    /// `PUBLISH_RATE_MAX` (1,000): units of cost of one device in a second, over all its connections and
    /// requests. A reading is one, and so are 512 bytes of a message or of the rows that it becomes; a
    /// PINGREQ, a topic filter and a refused topic are one, a connection is ten; 256 bytes that cannot be
    /// decoded are one. A sensor has tens at most; beyond this it is a loop gone wild, whose socket then
    /// waits. A logger that comes home with a year of minutes has delivered them in eleven minutes.
    pub publish_rate_max: u32,
    /// `PUBLISH_BURST_MAX` (5,000): units that pass at once after quiet: what a device kept while it was out
    /// of reach for an hour.
    pub publish_burst_max: u32,
    /// `DRAIN_MS_MAX` (10,000): how long a stopping gateway waits for acknowledgements that are under way.
    pub drain_time_max: Duration,
}

impl Config {
    /// Reads the settings; problems stay in `env`.
    pub fn from_env(env: &mut Env) -> Self {
        Self {
            kafka: kafka::Settings::from_env(env),
            listen: env.socket("MQTT_LISTEN"),
            http_listen: env.text_optional("HTTP_LISTEN").map(|_| env.socket("HTTP_LISTEN")),
            tokens: auth::Settings::optional_from_env(env),
            tls: TlsFiles {
                cert: env.path("TLS_CERT_FILE"),
                key: env.path("TLS_KEY_FILE"),
                client_ca: env.path("TLS_CLIENT_CA_FILE"),
                crl: env.path_optional("TLS_CRL_FILE"),
            },
            limits: Limits::from_env(env),
            spool: Spool::from_env(env),
            stall_max: kafka::stall_max(env),
            timestamps: TimestampBounds {
                age_max: Duration::from_secs(86_400 * env.number_in("READING_AGE_DAYS_MAX", 366, 1..=36_500)),
                future_max: Duration::from_secs(env.number_in(
                    "READING_FUTURE_S_MAX",
                    86_400,
                    0..=31_536_000,
                )),
            },
        }
    }
}

impl Spool {
    fn from_env(env: &mut Env) -> Option<Self> {
        let dir = env.text_optional("SPOOL_DIR").map(PathBuf::from);
        let bytes_max = env.number_in("SPOOL_BYTES_MAX", 512 << 20, 16 << 20..=1 << 40);
        let patience = env.duration_ms("SPOOL_PATIENCE_MS", 2_000, 10..=600_000);
        dir.map(|dir| Self { dir, bytes_max, patience })
    }
}

impl Limits {
    fn from_env(env: &mut Env) -> Self {
        let in_flight_total_bytes_max =
            env.count_in("IN_FLIGHT_TOTAL_BYTES_MAX", 64 << 20, 65_536..=96 << 20);
        let limits = Self {
            connections_max: env.count_in("CONNECTIONS_MAX", 20_000, 1..=1_000_000),
            http_connections_max: env.count_in("HTTP_CONNECTIONS_MAX", 4_000, 1..=1_000_000),
            connections_per_address_max: env.count_in("CONNECTIONS_PER_ADDRESS_MAX", 2_000, 1..=1_000_000),
            connection_rate_per_address_max: u32::try_from(env.number_in(
                "CONNECTION_RATE_PER_ADDRESS_MAX",
                200,
                1..=1_000_000,
            ))
            .unwrap_or(200),
            connections_per_device_max: env.count_in("CONNECTIONS_PER_DEVICE_MAX", 32, 1..=1_000_000),
            handshakes_max: env.count_in("HANDSHAKES_MAX", 16, 1..=10_000),
            handshake_time_max: env.duration_ms("HANDSHAKE_MS_MAX", 10_000, 100..=120_000),
            connect_time_max: env.duration_ms("CONNECT_MS_MAX", 10_000, 100..=120_000),
            packet_bytes_max: env.count_in("PACKET_BYTES_MAX", 262_144, 1_024..=524_288),
            in_flight_max: u16::try_from(env.number_in("IN_FLIGHT_MAX", 100, 1..=10_000)).unwrap_or(100),
            in_flight_bytes_max: env.count_in("IN_FLIGHT_BYTES_MAX", 1 << 20, 4_096..=32 << 20),
            in_flight_total_bytes_max,
            in_flight_device_bytes_max: env.count_in(
                "IN_FLIGHT_DEVICE_BYTES_MAX",
                IN_FLIGHT_DEVICE_BYTES.min(in_flight_total_bytes_max),
                65_536..=96 << 20,
            ),
            http_body_bytes_max: env.count_in("HTTP_BODY_BYTES_MAX", 1 << 20, 1_024..=16 << 20),
            publish_rate_max: u32::try_from(env.number_in("PUBLISH_RATE_MAX", 1_000, 1..=1_000_000))
                .unwrap_or(1_000),
            publish_burst_max: u32::try_from(env.number_in("PUBLISH_BURST_MAX", 5_000, 1..=1_000_000))
                .unwrap_or(5_000),
            drain_time_max: env.duration_ms("DRAIN_MS_MAX", 10_000, 0..=120_000),
        };
        limits.check(env);
        limits
    }

    /// Holds them against each other.
    fn check(&self, env: &mut Env) {
        if self.in_flight_bytes_max < 2 * self.packet_bytes_max + RECORD_OVERHEAD_BYTES {
            env.problem("IN_FLIGHT_BYTES_MAX must hold twice PACKET_BYTES_MAX and 1024 bytes: a packet and the event it becomes");
        }
        if self.in_flight_device_bytes_max < HTTP_EVENTS_BYTES_MAX + 2 * self.http_body_bytes_max
            && env.text_optional("HTTP_LISTEN").is_some()
        {
            env.problem("IN_FLIGHT_DEVICE_BYTES_MAX must hold twice HTTP_BODY_BYTES_MAX and 2 MiB: a body and the events it becomes");
        }
        if self.in_flight_device_bytes_max < self.in_flight_bytes_max {
            env.problem("IN_FLIGHT_DEVICE_BYTES_MAX must not be below IN_FLIGHT_BYTES_MAX");
        }
        if self.in_flight_total_bytes_max < self.in_flight_device_bytes_max {
            env.problem("IN_FLIGHT_TOTAL_BYTES_MAX must not be below IN_FLIGHT_DEVICE_BYTES_MAX");
        }
    }
}

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        Self::from_env(&mut Env::of([]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let env_of = |pairs: &[(&str, &str)]| {
            Env::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        };
        let mut good = env_of(&[]);
        Limits::from_env(&mut good);
        assert!(good.finish().is_ok(), "the defaults agree");
        let mut bad = env_of(&[("PACKET_BYTES_MAX", "8192"), ("IN_FLIGHT_BYTES_MAX", "16384")]);
        Limits::from_env(&mut bad);
        assert!(bad.finish().is_err());
        let mut small = env_of(&[("HTTP_LISTEN", "127.0.0.1:1"), ("IN_FLIGHT_TOTAL_BYTES_MAX", "4000000")]);
        Limits::from_env(&mut small);
        assert!(small.finish().is_err());
    }
}
