//! The gateway beside a bare producer of the same records: messages per CPU second, the time to a PUBACK, and
//! memory.

mod bare;
mod fleet;
mod flood;
mod idle;
mod link;
mod options;
mod pace;
mod report;
mod service;

use crate::stats::Spread;
use crate::topic::Topic;
use anyhow::{Context as _, Result, ensure};
use bare::Event;
use chassis::kafka;
use fleet::Device;
use iotctl::pki::Pki;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use options::Options;
use schema::topics;
use service::Service;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Descriptors that a process needs beside those of its connections.
const OTHER_FILES: u64 = 200;

/// Names a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Contender {
    Gateway,
    Spool,
    Bare,
    Baseline,
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
struct Run {
    messages: i64,
    took: Duration,
    cpu: Duration,
}

/// Holds what every measurement shares.
struct Stage {
    options: Options,
    kafka: kafka::Settings,
    readings: Topic,
    pki: Pki,
    devices: Vec<Device>,
    /// What the gateway made of the messages.
    events: Vec<Event>,
}

/// Measures what the arguments ask for and prints the tables.
#[must_use]
pub fn main() -> ExitCode {
    crate::main_of("bench-gateway", run)
}

async fn run(options: Options) -> Result<()> {
    chassis::install_tls_provider();
    let program = options.gateway();
    ensure!(program.is_file(), "{} is not built: run `make bench-gateway`", program.display());
    allow_files(u64::from(options.devices()) + OTHER_FILES)?;
    let mut stage = Stage::set(options).await?;
    let services = stage.services().await?;
    let gateway = &services[&Contender::Gateway];
    // Everybody's memory and the broker's compiler get warm, and the bare producer gets its records.
    flood::run(&stage, gateway, stage.options.messages.div_ceil(5)).await?;
    stage.events = bare::events(&stage.readings)?;
    tokio::task::block_in_place(|| bare::run(&stage, stage.options.messages.div_ceil(5)))?;
    report::head(&stage);
    let results = rounds(&stage, &services).await?;
    report::throughput(&results);
    if stage.options.latency_seconds > 0 {
        let rates: Vec<f64> = results[&Contender::Gateway].iter().map(Run::per_second).collect();
        let capacity = Spread::of(&rates).context("no round was run")?.median;
        let rate = capacity * f64::from(stage.options.load_percent) / 100.0;
        report::latency(&stage, rate, &pace::run(&stage, gateway, rate).await?);
    }
    for service in services.into_values() {
        service.stop().await?;
    }
    if stage.options.idle > 0 {
        idle::measure(&stage).await?;
    }
    stage.readings.delete().await
}

/// Runs every round; each begins with the next contender, so that nobody always follows the same one.
async fn rounds(
    stage: &Stage,
    services: &BTreeMap<Contender, Service>,
) -> Result<BTreeMap<Contender, Vec<Run>>> {
    let contenders: Vec<Contender> = services.keys().copied().chain([Contender::Bare]).collect();
    let mut results: BTreeMap<Contender, Vec<Run>> = BTreeMap::new();
    for round in 0..usize::from(stage.options.rounds) {
        for contender in contenders.iter().cycle().skip(round % contenders.len()).take(contenders.len()) {
            let run = match services.get(contender) {
                Some(service) => flood::run(stage, service, stage.options.messages).await,
                None => tokio::task::block_in_place(|| bare::run(stage, stage.options.messages)),
            };
            let run = run.with_context(|| format!("run {}", contender.title()))?;
            let line = format!("round {}: {} {:.0} msg/s", round + 1, contender.title(), run.per_second());
            report::progress(&line);
            results.entry(*contender).or_default().push(run);
        }
    }
    Ok(results)
}

impl Stage {
    async fn set(mut options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.folder).context("make the folder of logs")?;
        options.folder = options.folder.canonicalize().context("find the folder of logs")?;
        // Beside what earlier runs left on the same broker.
        let prefix = format!("bench-{}-", iotctl::files::random_name(6));
        let kafka = kafka::Settings::local(&options.kafka_bootstrap, prefix);
        let readings = Topic::create(&kafka, topics::READINGS.name, options.partitions).await?;
        for topic in [topics::PRODUCER_DLQ, topics::DEVICE_UPDATES] {
            Topic::create(&kafka, topic.name, 1).await?;
        }
        let pki = fleet::authority(&options.folder.join("gateway-pki"))?;
        let count = options.devices();
        let devices = tokio::task::block_in_place(|| {
            let devices = fleet::issue(&pki, count)?;
            fleet::register(&devices, &kafka).map(|()| devices)
        })?;
        report::progress(&format!("registered {count} devices"));
        Ok(Self { options, kafka, readings, pki, devices, events: Vec::new() })
    }

    /// Starts every gateway that takes part.
    async fn services(&self) -> Result<BTreeMap<Contender, Service>> {
        let program = self.options.gateway();
        let mut services = BTreeMap::new();
        let gateway = Service::start(self, "gateway", &program, false).await?;
        services.insert(Contender::Gateway, gateway);
        if !self.options.without_spool {
            let gateway = Service::start(self, "gateway-with-spool", &program, true).await?;
            services.insert(Contender::Spool, gateway);
        }
        if let Some(program) = &self.options.baseline {
            let gateway = Service::start(self, "gateway-baseline", program, false).await?;
            services.insert(Contender::Baseline, gateway);
        }
        Ok(services)
    }

    fn certificates(&self) -> PathBuf {
        self.options.folder.join("gateway-pki")
    }

    fn publishers(&self) -> &[Device] {
        &self.devices[..usize::from(self.options.connections)]
    }
}

impl Contender {
    /// Says what it is, for the table.
    const fn title(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Spool => "gateway, with a spool",
            Self::Bare => "bare librdkafka producer",
            Self::Baseline => "gateway, the other build",
        }
    }
}

impl Run {
    fn per_second(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }

    fn per_cpu_second(&self) -> f64 {
        // Less than a tick is no measurement; it counts as one tick.
        self.messages as f64 / self.cpu.as_secs_f64().max(0.01)
    }
}

/// Raises this process's limit of open files, which the gateway inherits: many systems allow 1,024 at first.
fn allow_files(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of open files")?;
    ensure!(
        hard >= wanted,
        "{wanted} open files are needed and {hard} allowed: raise `ulimit -Hn`, or lower --idle"
    );
    setrlimit(Resource::RLIMIT_NOFILE, wanted.max(soft), hard).context("raise the limit of open files")
}
