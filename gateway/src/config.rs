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
const DEVICE_BYTES: usize = 4 << 20;

chassis::settings! {
    /// Everything the gateway is told.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// Serves MQTT over TLS.
        pub listen: SocketAddr = env.socket("MQTT_LISTEN"),
        /// Serves `POST /api/v1/readings` over HTTPS; without it there is no HTTP.
        pub http_listen: Option<SocketAddr> = env.socket_optional("HTTP_LISTEN"),
        /// `JWT_…`: whose tokens stand in for a certificate over HTTP. Without `JWT_JWKS_FILE` and
        /// `JWT_JWKS_URL` a certificate is needed there, too.
        pub tokens: Option<auth::Settings> = auth::Settings::optional_from_env(env),
        /// `TLS_…`.
        pub tls: TlsFiles = TlsFiles::from_env(env),
        /// How much of everything.
        pub limits: Limits = Limits::checked_from_env(env, http_listen.is_some()),
        /// `SPOOL_…`: where records go that Kafka does not acknowledge in time; without it they wait,
        /// unacknowledged.
        pub spool: Option<Spool> = Spool::optional_from_env(env),
        /// `STALL_MS_MAX`: how long the table of devices may stand still while its topic has more and Kafka
        /// answers; and the spool's thread, the forwarder of the spool and the reader of the TLS files with
        /// nothing in their way.
        pub stall_max: Duration = kafka::stall_max(env),
        /// `READING_…`: how far a device's clock may be off.
        pub timestamps: TimestampBounds = timestamps(env),
    }
}

chassis::settings! {
    /// Where the gateway's own certificate is, and whose devices it believes. PEM files, followed while the
    /// gateway runs.
    #[derive(Clone, Debug)]
    pub struct TlsFiles (env) {
        /// The gateway's certificate and what leads from it to a root that devices know, PEM. Like the other
        /// files of TLS it is followed while the gateway runs.
        pub cert: PathBuf = env.path("TLS_CERT_FILE"),
        /// Its key, PEM.
        pub key: PathBuf = env.path("TLS_KEY_FILE"),
        /// The authorities that sign device certificates, PEM.
        pub client_ca: PathBuf = env.path("TLS_CLIENT_CA_FILE"),
        /// Their revocation lists, PEM. When given, each authority needs one: a device whose authority has
        /// none is refused.
        pub crl: Option<PathBuf> = env.path_optional("TLS_CRL_FILE"),
    }
}

impl TlsFiles {
    /// Lists all that are given.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.cert, &self.key, &self.client_ca].into_iter().chain(&self.crl).map(PathBuf::as_path)
    }
}

chassis::settings! {
    /// The spool, if there is a directory for it.
    #[derive(Clone, Debug)]
    struct SpoolSettings (env) {
        /// The directory of the spool, on a disk that outlives the process, one gateway's own. Records go
        /// there that Kafka does not acknowledge in time; without it they wait, unacknowledged.
        dir: Option<String> = env.text_optional("SPOOL_DIR"),
        /// What its records may take of the disk; the default holds a million readings of 400 bytes.
        bytes_max: u64 = env.number_in("SPOOL_BYTES_MAX", 512 << 20, 16 << 20..=1 << 40),
        /// How long Kafka may take to acknowledge a record. Longer than the election of a leader usually
        /// takes, and shorter than a device's own patience.
        patience: Duration = env.duration_ms("SPOOL_PATIENCE_MS", 2_000, 10..=600_000),
    }
}

/// The spool.
#[derive(Clone, Debug)]
pub struct Spool {
    /// Its directory, on a disk that outlives the process. One gateway's own.
    pub dir: PathBuf,
    /// What its records may take of the disk.
    pub bytes_max: u64,
    /// How long Kafka may take to acknowledge a record.
    pub patience: Duration,
}

impl Spool {
    fn optional_from_env(env: &mut Env) -> Option<Self> {
        let SpoolSettings { dir, bytes_max, patience } = SpoolSettings::from_env(env);
        dir.map(|dir| Self { dir: PathBuf::from(dir), bytes_max, patience })
    }
}

fn timestamps(env: &mut Env) -> TimestampBounds {
    env.about(
        "How old a reading may be by its own timestamp. A device without a clock says 1970; a year lets a \
         logger deliver what it stored over a winter.",
    );
    let days = env.number_in("READING_AGE_DAYS_MAX", 366, 1..=36_500);
    env.about("How far in the future a reading's own timestamp may be.");
    let ahead = env.number_in("READING_FUTURE_S_MAX", 86_400, 0..=31_536_000);
    TimestampBounds { age_max: Duration::from_secs(86_400 * days), future_max: Duration::from_secs(ahead) }
}

chassis::settings! {
    /// Bounds of what clients may take.
    ///
    /// A client that meets one is counted: connections, handshakes and CONNECT packets in
    /// `gateway_refusals_total`, packets that are too large and more in flight than was agreed in
    /// `gateway_sessions_ended_total`, rates, windows and budgets in `gateway_read_pauses_total`, requests in
    /// `gateway_http_requests_total`.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits (env) {
        /// MQTT sockets at a time; file descriptors and about 24 KiB each.
        pub connections_max: usize = env.number_in("CONNECTIONS_MAX", 20_000, 1..=1_000_000),
        /// HTTPS sockets at a time. They have places of their own, because a handshake there needs no
        /// certificate: strangers who take all of them take none of MQTT's.
        pub http_connections_max: usize = env.number_in("HTTP_CONNECTIONS_MAX", 4_000, 1..=1_000_000),
        /// Sockets of one address, of MQTT and of HTTPS each; a site behind one NAT fits, a single flooder
        /// does not take all.
        pub connections_per_address_max: usize =
            env.number_in("CONNECTIONS_PER_ADDRESS_MAX", 2_000, 1..=1_000_000),
        /// New sockets of one address in a second, once `CONNECTIONS_PER_ADDRESS_MAX` have come at once. A
        /// handshake is a millisecond of one core before anybody knows who comes, so that this is a fifth of
        /// one. One whose device has as many as it may counts as ten.
        pub connection_rate_per_address_max: u32 =
            env.number_in("CONNECTION_RATE_PER_ADDRESS_MAX", 200, 1..=1_000_000),
        /// Sockets of one certificate or token, MQTT and HTTPS together. A device has one or two, and some
        /// that have died without a word.
        pub connections_per_device_max: usize =
            env.number_in("CONNECTIONS_PER_DEVICE_MAX", 32, 1..=1_000_000),
        /// TLS handshakes computed at a time. Each is a millisecond of one core, so a live connection waits
        /// behind 16 ms of them at worst when a whole fleet comes back; one that waits for its peer holds no
        /// turn.
        pub handshakes_max: usize = env.number_in("HANDSHAKES_MAX", 16, 1..=10_000),
        /// Time from the accepted socket to the end of its handshake, waiting included. Three round trips of
        /// a satellite link with its losses take five seconds; a silent peer costs a socket and a few KiB
        /// meanwhile.
        pub handshake_time_max: Duration = env.duration_ms("HANDSHAKE_MS_MAX", 10_000, 100..=120_000),
        /// Time from there to the whole CONNECT packet, which a client sends at once: one round trip, and the
        /// 16 KiB that it may have at most on the slowest line.
        pub connect_time_max: Duration = env.duration_ms("CONNECT_MS_MAX", 10_000, 100..=120_000),
        /// The largest packet, well below the megabyte that Kafka takes by default.
        pub packet_bytes_max: usize = env.number_in("PACKET_BYTES_MAX", 262_144, 1_024..=524_288),
        /// Messages of one connection without their PUBACK; MQTT 5 is told it as Receive Maximum. A client
        /// that sends more is read no further until there is room, in 3.1.1 as in 5.
        pub in_flight_max: u16 = env.number_in("IN_FLIGHT_MAX", 100, 1..=10_000),
        /// Bytes of one connection's messages without their PUBACK, with 1,024 more for each message.
        pub in_flight_bytes_max: usize = env.number_in("IN_FLIGHT_BYTES_MAX", 1 << 20, 4_096..=32 << 20),
        /// What `IN_FLIGHT_BYTES_MAX` counts, over all connections; half of the producer's own queue.
        pub in_flight_total_bytes_max: usize =
            env.number_in("IN_FLIGHT_TOTAL_BYTES_MAX", 64 << 20, 65_536..=96 << 20),
        /// What `IN_FLIGHT_BYTES_MAX` counts, over all connections and requests of one device: a sixteenth of
        /// the total, so that no device can take all; and room for the largest body and the events it
        /// becomes.
        pub in_flight_device_bytes_max: usize =
            in_flight_device_bytes_max(env, in_flight_total_bytes_max),
        /// The largest body of a request; a thousand readings of a kilobyte.
        pub http_body_bytes_max: usize = env.number_in("HTTP_BODY_BYTES_MAX", 1 << 20, 1_024..=16 << 20),
        /// Units of cost of one device in a second, over all its connections and requests. A reading is one,
        /// and so are 512 bytes of a message or of the rows that it becomes; a PINGREQ, a topic filter and a
        /// refused topic are one, a connection is ten; 256 bytes that cannot be decoded are one. A sensor has
        /// tens at most; beyond this it is a loop gone wild, whose socket then waits. A logger that comes
        /// home with a year of minutes has delivered them in eleven minutes.
        pub publish_rate_max: u32 = env.number_in("PUBLISH_RATE_MAX", 1_000, 1..=1_000_000),
        /// Units that pass at once after quiet: what a device kept while it was out of reach for an hour.
        pub publish_burst_max: u32 = env.number_in("PUBLISH_BURST_MAX", 5_000, 1..=1_000_000),
        /// How long a stopping gateway waits for acknowledgements that are under way.
        pub drain_time_max: Duration = env.duration_ms("DRAIN_MS_MAX", 10_000, 0..=120_000),
    }
}

fn in_flight_device_bytes_max(env: &mut Env, total: usize) -> usize {
    env.number_in("IN_FLIGHT_DEVICE_BYTES_MAX", DEVICE_BYTES.min(total), 65_536..=96 << 20)
}

impl Limits {
    /// Reads them and holds them against each other.
    fn checked_from_env(env: &mut Env, has_http: bool) -> Self {
        let limits = Self::from_env(env);
        limits.check(env, has_http);
        limits
    }

    /// Holds them against each other.
    fn check(&self, env: &mut Env, has_http: bool) {
        if self.in_flight_bytes_max < 2 * self.packet_bytes_max + RECORD_OVERHEAD_BYTES {
            env.problem("IN_FLIGHT_BYTES_MAX must hold twice PACKET_BYTES_MAX and 1024 bytes: a packet and the event it becomes");
        }
        if self.in_flight_device_bytes_max < HTTP_EVENTS_BYTES_MAX + 2 * self.http_body_bytes_max && has_http
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
        Limits::checked_from_env(&mut good, true);
        assert!(good.finish().is_ok(), "the defaults agree");
        let mut bad = env_of(&[("PACKET_BYTES_MAX", "8192"), ("IN_FLIGHT_BYTES_MAX", "16384")]);
        Limits::checked_from_env(&mut bad, false);
        assert!(bad.finish().is_err());
        let mut small = env_of(&[("IN_FLIGHT_TOTAL_BYTES_MAX", "4000000")]);
        Limits::checked_from_env(&mut small, true);
        assert!(small.finish().is_err());
    }
}
