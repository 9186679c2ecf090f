//! One run of a contender, and the clock that measures it.

use crate::cpu;
use crate::server::Server;
use anyhow::Result;
use std::time::{Duration, Instant};

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
