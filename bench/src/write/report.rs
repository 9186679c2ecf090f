//! What is printed: tables on standard output, progress on standard error.

use super::Stage;
use super::contender::{Contender, Run};
use crate::stats::Spread;
use anyhow::Result;
use std::collections::BTreeMap;

/// Prints one line of progress.
pub(super) fn progress(line: &str) {
    eprintln!("bench-write: {line}");
}

/// Prints what was measured on what.
pub(super) async fn head(stage: &Stage) -> Result<()> {
    let options = &stage.options;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    println!(
        "{} rows, {} sensors, {} partitions, {} connections each, seed {}; PostgreSQL {} with fsync and Kafka on the same \
         {cores} cores; load {load} before the first run",
        options.rows,
        options.sensors,
        options.partitions,
        options.connections,
        options.seed,
        stage.server.version().await?,
    );
    Ok(())
}

/// Prints the contenders and how command-svc compares.
pub(super) fn throughput(stage: &Stage, results: &BTreeMap<Contender, Vec<Run>>) {
    println!(
        "\n{:<42} {:>9} {:>6} {:>9} {:>7} {:>12} {:>12}",
        "contender", "rows", "rounds", "rows/s", "spread", "rows/CPU-s", "server CPU"
    );
    for (contender, runs) in results {
        let spread = |measure: fn(&Run) -> f64| Spread::of(&runs.iter().map(measure).collect::<Vec<_>>());
        let (Some(rate), Some(per_cpu), Some(server)) = (
            spread(Run::rows_per_second),
            spread(Run::rows_per_cpu_second),
            spread(|run| run.server_cpu.as_secs_f64() * 1e6 / run.rows as f64),
        ) else {
            continue;
        };
        println!(
            "{:<42} {:>9} {:>6} {:>9.0} {:>6.0}% {:>12.0} {:>9.2} µs/row",
            contender.title(),
            contender.rows(&stage.options),
            runs.len(),
            rate.median,
            rate.percent(),
            per_cpu.median,
            server.median
        );
    }
    println!(
        "spread: the round farthest from the median. CPU of the client's process alone; (a) and (b) do not decode.\n\
         (c1) reads a copy of the records of its own that carries their schema; (c1) and (c2) keep no read model."
    );
    ratios(results);
}

fn ratios(results: &BTreeMap<Contender, Vec<Run>>) {
    let rates = |contender: Contender| -> Vec<f64> {
        results.get(&contender).into_iter().flatten().map(Run::rows_per_second).collect()
    };
    // Round by round, because noise that lasts meets both sides of a round.
    let ratio = |of: Contender, to: &[f64]| {
        Spread::of(&rates(of).iter().zip(to).map(|(one, other)| one / other).collect::<Vec<_>>())
    };
    let show = |name: &str, ratio: Option<Spread>, goal: &str| {
        if let Some(Spread { median, min, max }) = ratio {
            println!("{name:<42} {median:>6.2}  ({min:.2} to {max:.2})  {goal}");
        }
    };
    println!();
    let peers = [rates(Contender::Connect), rates(Contender::Consumer)];
    let best_peer = peers.into_iter().max_by(|one, other| {
        let median = |rates: &[f64]| Spread::of(rates).map_or(0.0, |spread| spread.median);
        median(one).total_cmp(&median(other))
    });
    show("command-svc ÷ (a)", ratio(Contender::Service, &rates(Contender::Copy)), "goal 0.60");
    show("command-svc ÷ (b)", ratio(Contender::Service, &rates(Contender::Insert)), "goal 0.90");
    show("command-svc ÷ best of (c)", ratio(Contender::Service, &best_peer.unwrap_or_default()), "goal 5");
    show("command-svc ÷ the other build", ratio(Contender::Service, &rates(Contender::Baseline)), "");
}

/// Prints a drain into a table that was not empty.
pub(super) fn existing(rows: i64, run: &Run) {
    println!("into a table of {rows:>11} rows: {:>9.0} rows/s", run.rows_per_second());
}

/// Prints how long queries of one sensor's 30 days of hours took.
pub(super) fn queries(when: &str, count: usize, p50_ms: f64, p99_ms: f64) {
    println!(
        "30 days of hours of one sensor, {when}: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms ({count} queries)"
    );
}

/// Prints how long rows took to be visible.
pub(super) fn latency(rate: u32, count: usize, p50_ms: f64, p99_ms: f64) {
    println!(
        "appended to visible at {rate} rows/s offered: p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms ({count} rows)"
    );
}
