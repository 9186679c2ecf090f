//! What is printed: tables on standard output, progress on standard error.

use super::Stage;
use super::contender::Contender;
use super::lap::Run;
use crate::stats::Spread;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where results go: standard output, and a file that keeps what an interrupted run had.
pub(super) struct Report {
    file: Mutex<File>,
    started: Instant,
}

impl Report {
    /// Empties the file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { file: Mutex::new(file), started: Instant::now() })
    }

    /// Prints results.
    pub(super) fn print(&self, lines: &str) {
        println!("{lines}");
        let written = self.file.lock().map(|mut file| writeln!(file, "{lines}"));
        if !matches!(written, Ok(Ok(()))) {
            self.progress("the results' file cannot be written; they are on standard output alone");
        }
    }

    /// Prints one line of progress.
    pub(super) fn progress(&self, line: &str) {
        eprintln!("bench-write: {:4} s: {line}", self.started.elapsed().as_secs());
    }

    /// Prints one contender's run.
    pub(super) fn run(&self, round: usize, contender: Contender, run: &Run) {
        self.print(&format!(
            "round {round}: {:<12} {:>9.0} rows/s, {:.2} s; CPU {:.2} s client, {:.2} s server, {:.2} s machine",
            contender.label(),
            run.rows_per_second(),
            run.took.as_secs_f64(),
            run.client_cpu.as_secs_f64(),
            run.server_cpu.as_secs_f64(),
            run.machine_cpu.as_secs_f64(),
        ));
    }
}

/// Prints what was measured on what.
pub(super) async fn head(stage: &Stage) -> Result<()> {
    let options = &stage.options;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let memory: String = stage.server.setting("shared_buffers").await?;
    stage.report.print(&format!(
        "{} rows, {} sensors, {} partitions, {} connections each, seed {}; PostgreSQL {} with fsync and {memory} of buffers, \
         and Kafka, on the same {cores} cores; load {load} before the first run",
        options.rows,
        options.sensors,
        options.partitions,
        options.connections,
        options.seed,
        stage.server.setting("server_version").await?,
    ));
    Ok(())
}

/// Prints the contenders and how command-svc compares.
pub(super) fn throughput(stage: &Stage, results: &BTreeMap<Contender, Vec<Run>>) {
    let mut table = format!(
        "\n{:<42} {:>9} {:>6} {:>9} {:>7} {:>12} {:>8} {:>8} {:>8}\n",
        "contender", "rows", "rounds", "rows/s", "spread", "rows/CPU-s", "client", "server", "machine"
    );
    for (contender, runs) in results {
        let spread = |measure: fn(&Run) -> f64| Spread::of(&runs.iter().map(measure).collect::<Vec<_>>());
        let micros = |cpu: fn(&Run) -> Duration| {
            let per_row: Vec<f64> =
                runs.iter().map(|run| cpu(run).as_secs_f64() * 1e6 / run.rows as f64).collect();
            Spread::of(&per_row).map_or(f64::NAN, |spread| spread.median)
        };
        let (Some(rate), Some(per_cpu)) = (spread(Run::rows_per_second), spread(Run::rows_per_cpu_second))
        else {
            continue;
        };
        // Cannot fail: it is a string.
        let _ = writeln!(
            table,
            "{:<42} {:>9} {:>6} {:>9.0} {:>6.0}% {:>12.0} {:>8.2} {:>8.2} {:>8.2}",
            contender.title(),
            stage.options.rows_of(*contender),
            runs.len(),
            rate.median,
            rate.percent(),
            per_cpu.median,
            micros(|run| run.client_cpu),
            micros(|run| run.server_cpu),
            micros(|run| run.machine_cpu),
        );
    }
    table.push_str(
        "rows/s, rows/CPU-s and CPU µs/row are medians; spread: the round farthest from the median. rows/CPU-s counts the \
         client's process\nalone; machine counts every process, with the kernel and Kafka. (a) and (b) do not decode. (c1) \
         reads a copy of the records of its\nown that carries their schema; (c1) and (c2) keep no read model.\n",
    );
    ratios(results, &mut table);
    stage.report.print(table.trim_end());
}

fn ratios(results: &BTreeMap<Contender, Vec<Run>>, table: &mut String) {
    let rates = |contender: Contender| -> Vec<f64> {
        results.get(&contender).into_iter().flatten().map(Run::rows_per_second).collect()
    };
    // Round by round, because noise that lasts meets both sides of a round.
    let ratio = |of: Contender, to: &[f64]| {
        Spread::of(&rates(of).iter().zip(to).map(|(one, other)| one / other).collect::<Vec<_>>())
    };
    let mut show = |name: &str, ratio: Option<Spread>, remark: &str| {
        if let Some(Spread { median, min, max }) = ratio {
            let _ = write!(table, "\n{name:<42} {median:>6.2}  ({min:.2} to {max:.2})  {remark}");
        }
    };
    let peers = [rates(Contender::Connect), rates(Contender::Consumer)];
    let best_peer = peers.into_iter().max_by(|one, other| {
        let median = |rates: &[f64]| Spread::of(rates).map_or(0.0, |spread| spread.median);
        median(one).total_cmp(&median(other))
    });
    let best_peer = best_peer.unwrap_or_default();
    show("command-svc ÷ (a)", ratio(Contender::Service, &rates(Contender::Copy)), "goal 0.60");
    show("command-svc ÷ (b)", ratio(Contender::Service, &rates(Contender::Insert)), "goal 0.90");
    show("command-svc ÷ best of (c)", ratio(Contender::Service, &best_peer), "goal 5");
    show("(a) ÷ best of (c)", ratio(Contender::Copy, &best_peer), "with a client that costs nothing");
    show("command-svc ÷ the other build", ratio(Contender::Service, &rates(Contender::Baseline)), "");
}

/// Prints a drain into a table that was not empty.
pub(super) fn existing(stage: &Stage, rows: i64, run: &Run) {
    stage.report.print(&format!(
        "into a table of {rows:>11} rows: {:>9.0} rows/s, {:.2} µs of the client's and {:.2} µs of the server's CPU per row",
        run.rows_per_second(),
        run.client_cpu.as_secs_f64() * 1e6 / run.rows as f64,
        run.server_cpu.as_secs_f64() * 1e6 / run.rows as f64,
    ));
}

/// Prints how long queries of one sensor's 30 days of hours took.
pub(super) fn queries(stage: &Stage, when: &str, count: usize, p50_ms: f64, p99_ms: f64) {
    stage.report.print(&format!(
        "30 days of hours of one sensor, {when}: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms ({count} queries)"
    ));
}

/// Prints how long rows took to be visible.
pub(super) fn latency(stage: &Stage, rate: u32, count: usize, p50_ms: f64, p99_ms: f64) {
    stage.report.print(&format!(
        "appended to visible at {rate} rows/s offered: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms ({count} rows)"
    ));
}
