//! The write side: command-svc beside the database's own limits and beside what a user would pick instead.

mod connect;
mod consumer;
mod contender;
mod drain;
mod existing;
mod lap;
mod latency;
mod memory;
mod options;
mod report;
mod rounds;
mod service;

use crate::peers::Peers;
use crate::readings::Workload;
use crate::server::Server;
use crate::topic::{self, Topic};
use anyhow::{Context as _, Result, ensure};
use chassis::kafka;
use contender::Contender;
use options::{Options, Part};
use report::Report;
use schema::topics;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Holds what every contender shares.
struct Stage {
    options: Options,
    report: Report,
    workload: Arc<Workload>,
    server: Server,
    kafka: kafka::Settings,
    readings: Topic,
    with_schema: Option<Topic>,
    peers: Option<Peers>,
}

/// Measures what the arguments ask for and prints the tables.
#[must_use]
pub fn main() -> ExitCode {
    crate::main_of("bench-write", run)
}

async fn run(options: Options) -> Result<()> {
    let contenders = options.contenders();
    for contender in &contenders {
        if let Some(program) = options.program(*contender) {
            ensure!(program.is_file(), "{} is not built: run `make bench-write`", program.display());
        }
    }
    let stage = Stage::set(options, &contenders).await?;
    report::head(&stage).await?;
    if stage.options.has(Part::Drain) {
        rounds::run(&stage, &contenders).await?;
    }
    if stage.options.has(Part::Latency) {
        for rate in &stage.options.latency_rates {
            latency::measure(&stage, *rate).await?;
        }
    }
    if stage.options.has(Part::Queries) {
        existing::measure_queries(&stage).await?;
    }
    if stage.options.has(Part::Fill) {
        for rows in &stage.options.existing {
            existing::measure(&stage, *rows).await?;
        }
    }
    stage.report.progress("done");
    stage.clear().await
}

impl Stage {
    async fn set(options: Options, contenders: &[Contender]) -> Result<Self> {
        std::fs::create_dir_all(&options.folder).context("make the folder of logs")?;
        let report = Report::open(&options.folder.join("write.txt"))?;
        let server = Server::open(&options.database_url).await?;
        let workload = Arc::new(Workload::new(options.sensors, options.seed));
        // Beside what earlier runs left on the same broker.
        let prefix = format!("bench-{}-", iotctl::files::random_name(6));
        let kafka = kafka::Settings::local(&options.kafka_bootstrap, prefix);
        let readings = Topic::create(&kafka, topics::READINGS.name, options.partitions).await?;
        if options.needs_readings(contenders) {
            let started = Instant::now();
            readings.fill(&workload, 0..options.rows, topic::event).await?;
            report.progress(&format!("filled {} records in {:.1?}", options.rows, started.elapsed()));
        }
        let mut with_schema = None;
        if contenders.contains(&Contender::Connect) {
            let topic = Topic::create(&kafka, "with-schema", options.partitions).await?;
            topic.fill(&workload, 0..options.connect_rows(), connect::encode).await?;
            with_schema = Some(topic);
        }
        let has_peers = contenders.iter().any(|one| matches!(one, Contender::Connect | Contender::Consumer));
        let peers = if has_peers { Some(Peers::prepare(&options.folder.join("java")).await?) } else { None };
        Ok(Self { options, report, workload, server, kafka, readings, with_schema, peers })
    }

    async fn clear(self) -> Result<()> {
        for topic in self.with_schema.into_iter().chain([self.readings]) {
            topic.delete().await?;
        }
        Ok(())
    }

    fn peers(&self) -> &Peers {
        self.peers.as_ref().expect("the stage is set for its contenders")
    }
}
