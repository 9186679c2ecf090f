//! MQTT over mutual TLS, and HTTPS → Kafka `iot-reading-topic`.
//!
//! In:         MQTT 3.1.1 and 5, `devices/{sensor_id}/readings` and below; `POST /api/v1/readings`; topic
//!             `iot-device-updates`, all of it; TLS files, followed while it runs.
//! Out:        topic `iot-reading-topic`, key `sensor_id`; topic `iot-producer-dlq` for what cannot be
//!             decoded.
//! Guarantee:  a PUBACK means that Kafka has the reading (acks=all), or the spool's disk; acknowledgements
//!             leave in PUBLISH order. A device publishes as its certificate's CN, and only while the
//!             registry says that it may.
//! On failure: Kafka away → the spool takes over ([`durable::spool`]), and Kafka gets all of it, in order per
//!             sensor, when it is back; some of it twice, with the same event id. Spool full, failing, or
//!             none → no PUBACK, then no reading from sockets; what fails is never acknowledged and its
//!             connection ends. A spooled record that Kafka refuses for good → dead letter, or a file
//!             (`durable::refused`). Undecodable → dead letter, then PUBACK. Unregistered, suspended,
//!             retired → refused, or closed while connected.
//!
//! Not supported: QoS 2 (MQTT 5 is told so; in 3.1.1 such a PUBLISH ends the
//! connection), retained messages (3.1.1: the flag is ignored), wills (read and dropped: ADR 0009), sessions
//! that outlive a connection, topic aliases. A SUBSCRIBE below `devices/{sensor_id}/` is granted, but nothing
//! is delivered there yet.

pub mod decode;
pub mod device;
pub mod durable;
pub mod mqtt;

mod config;
mod deadline;
#[cfg(test)]
#[path = "../fuzz/inputs.rs"]
mod fuzz;
mod gateway;
mod http;
mod ingest;
mod listener;
mod metrics;
mod notices;
mod watchdog;

use crate::device::{account, connections, registry, updates};
use crate::durable::failover::Failover;
use crate::durable::forwarder::Forwarder;
use crate::durable::producer::Producer;
use crate::durable::spool;
use crate::gateway::Gateway;
use crate::listener::{Arrived, Door, reload};
use crate::metrics::Metrics;
use anyhow::{Context, bail};
use chassis::Chassis;
use chassis::auth::Verifier;
use chassis::kafka::{self, Assignment, Watch, WatchMetrics, Watched, table};
use schema::topics;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use config::{Config, Limits, Spool as SpoolConfig, TlsFiles};
pub use listener::Listeners;
use watchdog::{Standing, Watchdog};

/// How often Kafka is asked whether it is there; with traffic, delivery reports say so sooner.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How long closing connections get after the drain, to say good-bye.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);

/// Lists the metrics of the gateway.
pub fn metric_names() -> Vec<String> {
    [Metrics::names(), WatchMetrics::names("gateway_devices")].concat()
}

/// Runs the gateway on the address that the settings name.
///
/// # Errors
/// The address, the certificates or the Kafka client cannot be used, or the producer broke (stop).
pub async fn run(config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let bind = async |address: SocketAddr| {
        TcpListener::bind(address).await.with_context(|| format!("listen for devices on {address}"))
    };
    let mqtt = bind(config.listen).await?;
    let http = match config.http_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    serve(Listeners { mqtt, http }, config, chassis).await
}

/// Runs the gateway on sockets that listen already, until the shutdown.
///
/// # Errors
/// As [`run`].
pub async fn serve(listeners: Listeners, config: Config, chassis: Chassis) -> anyhow::Result<()> {
    let (parts, files) = open(&config, &chassis).await?;
    let tasks = TaskTracker::new();
    let mut forwarding = pin!(forward(parts.forwarder.as_ref()));
    // The forwarder goes on while the connections are drained: their messages may wait for it.
    tokio::select! {
        outcome = run_until_shutdown(&listeners, &parts, files, &tasks, &config, &chassis) => outcome?,
        () = &mut forwarding => {}
    }
    drop(listeners);
    tokio::select! {
        () = drain(&parts.gateway, &tasks) => {}
        () = &mut forwarding => {}
    }
    parts.gateway.producer.close().await;
    Ok(())
}

/// What is there before the first connection.
struct Parts {
    gateway: Arc<Gateway>,
    door: Arc<Door>,
    forwarder: Option<Forwarder>,
}

/// Reads the TLS files, and opens the spool and the producer.
async fn open(config: &Config, chassis: &Chassis) -> anyhow::Result<(Parts, reload::Watch)> {
    let (files, loaded) = reload::Watch::start(config.tls.clone())?;
    let tokens = config.tokens.as_ref().map(|tokens| Verifier::open(tokens, chassis)).transpose()?;
    let metrics = Metrics::register(&chassis.registry)?;
    let (producer, forwarder) =
        open_producer(&config.kafka, config.spool.as_ref(), &metrics, chassis).await?;
    let gateway = Arc::new(Gateway {
        limits: config.limits,
        timestamps: config.timestamps,
        registry: registry::Registry::default(),
        connections: Arc::default(),
        producer,
        metrics,
        notices: notices::Notices::default(),
        accounts: Arc::new(account::Accounts::new(&config.limits)),
        tokens,
        shutdown: chassis.shutdown.clone(),
    });
    gateway.registry.revoke(loaded.revoked.clone());
    reload::show(&gateway.metrics, &loaded.ends);
    let door = Arc::new(Door::new(loaded, &config.limits));
    Ok((Parts { gateway, door, forwarder }, files))
}

/// Lets devices in as soon as the table of devices is loaded, and keeps that table, the files and the watches
/// going.
///
/// # Errors
/// A part that never ends has ended (stop).
async fn run_until_shutdown(
    listeners: &Listeners,
    parts: &Parts,
    files: reload::Watch,
    tasks: &TaskTracker,
    config: &Config,
    chassis: &Chassis,
) -> anyhow::Result<()> {
    let Parts { gateway, door, forwarder } = parts;
    let loaded = Notify::new();
    let let_in = async {
        loaded.notified().await;
        listener::open(listeners, door, gateway, tasks, serve_arrived).await;
    };
    let watchdog = watchdog(gateway, &files, forwarder.as_ref(), config.stall_max, chassis);
    tokio::select! {
        outcome = follow_devices(gateway, config, chassis, || loaded.notify_one()) => outcome,
        () = let_in => Ok(()),
        failure = files.follow(door, gateway) => Err(failure),
        () = connections::end_with_certificates(&gateway.connections) => Ok(()),
        () = watch_kafka(gateway, chassis) => Ok(()),
        () = watchdog.run() => Ok(()),
        what = gateway.producer.broken() => bail!("{what}"),
    }
}

/// Keeps the table of devices, and watches over its progress; `loaded` is called once it is read to its end.
async fn follow_devices(
    gateway: &Gateway,
    config: &Config,
    chassis: &Chassis,
    loaded: impl FnOnce(),
) -> anyhow::Result<()> {
    let topic = config.kafka.topic(topics::DEVICE_UPDATES.name);
    let (latch, assignment) = (chassis.readiness.latch("devices"), Assignment::default());
    let source = table::Source { reader: "gateway", topic: &topic, latch: &latch, assignment: &assignment };
    let watched = Watched {
        latch: "devices-progress",
        group: source.reader,
        topic: &topic,
        assignment: &assignment,
        stall_max: config.stall_max,
        metrics: WatchMetrics::register(&chassis.registry, "gateway_devices")?,
    };
    let watch = Watch::open(&config.kafka, chassis, watched)?;
    let apply = |key: &[u8], value: Option<&[u8]>| {
        updates::apply(&gateway.registry, &gateway.connections, &gateway.metrics, key, value);
    };
    tokio::select! {
        outcome = table::follow(&config.kafka, source, &chassis.shutdown, apply, loaded) => outcome,
        outcome = watch.run(|_| true) => outcome,
    }
}

/// Forwards what is in the spool; never ends without one.
async fn forward(forwarder: Option<&Forwarder>) {
    match forwarder {
        Some(forwarder) => forwarder.run().await,
        None => std::future::pending().await,
    }
}

/// Serves a connection to its end, behind the front door of its socket.
async fn serve_arrived(gateway: Arc<Gateway>, arrived: Arrived) {
    match arrived {
        Arrived::Mqtt { identity, connected, stream } => {
            mqtt::connection::serve(gateway, identity, connected, stream).await;
        }
        // Boxed, so that an MQTT session does not carry the room that HTTP needs.
        Arrived::Http { certified, stream } => Box::pin(http::serve(gateway, certified, stream)).await,
    }
}

/// Opens the spool, if there is to be one, and the producer; one latch stands for both.
async fn open_producer(
    kafka: &kafka::Settings,
    settings: Option<&SpoolConfig>,
    metrics: &Metrics,
    chassis: &Chassis,
) -> anyhow::Result<(Producer, Option<Forwarder>)> {
    let Some(settings) = settings else {
        let latch = chassis.readiness.latch("kafka");
        return Ok((Producer::new(kafka, metrics, Some(latch), None)?, None));
    };
    let latch = chassis.readiness.latch("spool");
    let limits = spool::Limits { bytes_max: settings.bytes_max };
    let spool = spool::Spool::open(&settings.dir, limits).await?;
    let failover = Arc::new(Failover::new(spool, settings.patience, metrics.clone()));
    let producer = Producer::new(kafka, metrics, None, Some(failover.clone()))?;
    let forwarder = Forwarder::new(producer.clone(), failover, latch);
    Ok((producer, Some(forwarder)))
}

/// Watches over what goes on by itself.
fn watchdog<'a>(
    gateway: &'a Gateway,
    files: &reload::Watch,
    forwarder: Option<&'a Forwarder>,
    stall_max: Duration,
    chassis: &Chassis,
) -> Watchdog<'a> {
    let mut watchdog = Watchdog::new(stall_max, chassis, gateway.metrics.stalled.clone());
    watchdog.add("tls-files", files.standing());
    if let Some(forwarder) = forwarder {
        watchdog.add("spool", || {
            let steps = forwarder.spool().steps();
            Standing { steps, has_work: steps % 2 == 1, waits_outside: false }
        });
        watchdog.add("forwarder", || forwarder.standing());
    }
    watchdog
}

/// Asks Kafka from time to time; never ends.
async fn watch_kafka(gateway: &Arc<Gateway>, chassis: &Chassis) {
    loop {
        chassis.liveness.beat();
        let producer = gateway.producer.clone();
        // A probe that panics is a probe that failed: the next one comes.
        let _ = tokio::task::spawn_blocking(move || producer.probe()).await;
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// Lets what is in flight be acknowledged, then says good-bye.
async fn drain(gateway: &Gateway, tasks: &TaskTracker) {
    tasks.close();
    gateway.connections.drain();
    let mut is_drained = timeout(gateway.limits.drain_time_max, tasks.wait()).await.is_ok();
    if !is_drained && gateway.producer.give_up() {
        is_drained = timeout(CLOSE_TIME_MAX, tasks.wait()).await.is_ok();
    }
    if !is_drained {
        tracing::warn!(
            sessions = tasks.len(),
            "drain ends with messages in flight; they are not acknowledged"
        );
        gateway.connections.close();
        // What still hangs after this goes with the process.
        let _ = timeout(CLOSE_TIME_MAX, tasks.wait()).await;
    }
}
