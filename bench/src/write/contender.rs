//! Who takes part, and how each is run once.

pub(super) mod connect;
mod consumer;
pub(super) mod service;

use super::options::Options;
use super::{Stage, memory};
use crate::cpu;
use crate::server::Server;
use anyhow::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Names a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Contender {
    /// command-svc
    Service,
    /// Binary COPY from memory.
    Copy,
    /// INSERT … unnest … ON CONFLICT DO NOTHING from memory.
    Insert,
    /// Debezium's JDBC sink on Kafka Connect.
    Connect,
    /// A plain Java consumer.
    Consumer,
    /// Another build of command-svc.
    #[value(skip)]
    Baseline,
}

/// What one run measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) rows: i64,
    pub(super) took: Duration,
    pub(super) client_cpu: Duration,
    pub(super) server_cpu: Duration,
    /// Every process and the kernel: the two above, Kafka, and whatever else runs.
    pub(super) machine_cpu: Duration,
}

impl Contender {
    pub(super) const ALL: [Self; 5] =
        [Self::Service, Self::Copy, Self::Insert, Self::Connect, Self::Consumer];

    /// Names it in logs and databases.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Service => "command-svc",
            Self::Copy => "copy",
            Self::Insert => "insert",
            Self::Connect => "connect",
            Self::Consumer => "consumer",
            Self::Baseline => "baseline",
        }
    }

    /// Says what it is, for the table.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Service => "command-svc, with read models",
            Self::Copy => "(a) binary COPY, encoded in memory",
            Self::Insert => "(b) INSERT unnest ON CONFLICT, in memory",
            Self::Connect => "(c1) Debezium JDBC sink 3.6.0, unnest",
            Self::Consumer => "(c2) Java consumer, JDBC batches",
            Self::Baseline => "command-svc, the other build",
        }
    }

    /// Returns the program of ours that it runs.
    pub(super) fn program(self, options: &Options) -> Option<PathBuf> {
        match self {
            Self::Service => Some(options.service()),
            Self::Baseline => Some(options.baseline()),
            _ => None,
        }
    }

    /// Returns how many rows it writes in a run.
    pub(super) fn rows(self, options: &Options) -> i64 {
        if self == Self::Connect { options.connect_rows() } else { options.rows }
    }

    /// Runs it once, into a new database, and checks what it left there.
    pub(super) async fn run(self, stage: &Stage) -> Result<Run> {
        let rows = self.rows(&stage.options);
        let database = stage.server.create(self.label(), &stage.workload, 0..rows).await?;
        let run = match self {
            Self::Service | Self::Baseline => service::drain(stage, self, &database).await?,
            Self::Copy => memory::copy(stage, &database, 0..rows).await?,
            Self::Insert => memory::insert(stage, &database, 0..rows).await?,
            Self::Connect => connect::drain(stage, &database).await?,
            Self::Consumer => consumer::drain(stage, &database).await?,
        };
        database.ensure_rows(rows, matches!(self, Self::Service | Self::Baseline)).await?;
        stage.server.forget(database).await?;
        Ok(run)
    }
}

impl Run {
    pub(super) fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }

    pub(super) fn rows_per_cpu_second(&self) -> f64 {
        // Less than a tick is no measurement; it counts as one tick.
        self.rows as f64 / self.client_cpu.as_secs_f64().max(0.01)
    }
}

/// A clock for time and for CPU time.
pub(super) struct Lap<'a> {
    server: &'a Server,
    client: u32,
    client_cpu: Duration,
    server_cpu: Duration,
    machine_cpu: Duration,
    started: Instant,
}

impl<'a> Lap<'a> {
    pub(super) fn start(server: &'a Server, client: u32) -> Result<Self> {
        let (client_cpu, server_cpu, machine_cpu) =
            (cpu::of_process(client)?, server.cpu()?, cpu::of_machine()?);
        Ok(Self { server, client, client_cpu, server_cpu, machine_cpu, started: Instant::now() })
    }

    pub(super) fn end(self, rows: i64) -> Result<Run> {
        let took = self.started.elapsed();
        Ok(Run {
            rows,
            took,
            client_cpu: cpu::of_process(self.client)?.saturating_sub(self.client_cpu),
            server_cpu: self.server.cpu()?.saturating_sub(self.server_cpu),
            machine_cpu: cpu::of_machine()?.saturating_sub(self.machine_cpu),
        })
    }
}
