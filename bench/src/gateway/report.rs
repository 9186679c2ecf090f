//! What is printed: a table on standard output, progress on standard error.

use super::{Contender, Run, Stage};
use crate::stats::{Spread, percentile};
use std::collections::BTreeMap;

/// Prints one line of progress.
pub(super) fn progress(line: &str) {
    eprintln!("bench-gateway: {line}");
}

/// Prints what was measured on what.
pub(super) fn head(stage: &Stage) {
    let options = &stage.options;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let bytes: usize = stage.events.iter().map(|event| event.value.len()).sum();
    println!(
        "{} messages a run, {} connections (mutual TLS, QoS 1, MQTT 3.1.1 and 5 by turns), window {}, {} partitions, \
         events of {} bytes; Kafka and the load on the same {cores} cores",
        options.messages,
        options.connections,
        options.window,
        options.partitions,
        bytes / stage.events.len().max(1),
    );
}

/// Prints the contenders and how the gateway compares.
pub(super) fn throughput(results: &BTreeMap<Contender, Vec<Run>>) {
    println!(
        "\n{:<34} {:>6} {:>9} {:>7} {:>12} {:>7} {:>10}",
        "contender", "rounds", "msg/s", "spread", "msg/CPU-s", "spread", "µs CPU/msg"
    );
    for (contender, runs) in results {
        let spread = |measure: fn(&Run) -> f64| Spread::of(&runs.iter().map(measure).collect::<Vec<_>>());
        let (Some(rate), Some(per_cpu)) = (spread(Run::per_second), spread(Run::per_cpu_second)) else {
            continue;
        };
        println!(
            "{:<34} {:>6} {:>9.0} {:>6.0}% {:>12.0} {:>6.0}% {:>10.2}",
            contender.title(),
            runs.len(),
            rate.median,
            rate.percent(),
            per_cpu.median,
            per_cpu.percent(),
            1e6 / per_cpu.median
        );
    }
    println!(
        "spread: the round farthest from the median. CPU, user and system, of the contender's process alone.\n"
    );
    let per_cpu = |contender: Contender| -> Vec<f64> {
        results.get(&contender).into_iter().flatten().map(Run::per_cpu_second).collect()
    };
    let bare = per_cpu(Contender::Bare);
    for (contender, name, goal) in [
        (Contender::Gateway, "gateway ÷ bare, msg/CPU-s", "goal 0.40"),
        (Contender::Spool, "with a spool ÷ bare, msg/CPU-s", ""),
        (Contender::Baseline, "the other build ÷ bare, msg/CPU-s", ""),
    ] {
        // Round by round, because noise that lasts meets both sides of a round.
        let ratios: Vec<f64> = per_cpu(contender).iter().zip(&bare).map(|(one, other)| one / other).collect();
        if let Some(Spread { median, min, max }) = Spread::of(&ratios) {
            println!("{name:<34} {median:>6.2}  ({min:.2} to {max:.2})  {goal}");
        }
    }
}

/// Prints how long a PUBACK took.
pub(super) fn latency(stage: &Stage, rate: f64, measured: &[f64]) {
    let at = |fraction| percentile(measured, fraction).unwrap_or(f64::NAN);
    println!(
        "PUBACK at {rate:.0} msg/s offered ({} % of the capacity), bursts of {}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms \
         ({} messages)",
        stage.options.load_percent,
        stage.options.burst,
        at(0.5),
        at(0.95),
        at(0.99),
        measured.len()
    );
}

/// Prints what an idle connection costs.
pub(super) fn idle(version: u8, connections: usize, before: u64, after: u64) {
    let version = if version == 5 { "5" } else { "3.1.1" };
    let (mib, each) = (f64::from(1 << 20), after.saturating_sub(before) as f64 / connections as f64 / 1024.0);
    println!(
        "{connections} idle connections, MQTT {version}: {each:.1} KiB each, TLS included  ({:.1} MiB before, {:.1} MiB with \
         them)  goal 24",
        before as f64 / mib,
        after as f64 / mib
    );
}
