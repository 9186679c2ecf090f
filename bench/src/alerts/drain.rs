//! A topic full of readings, drained by each contender in turn.

use super::rules::Rules;
use super::stage::{Alerts, Client, Stage};
use super::{bare, streams};
use crate::peers::Peers;
use crate::{cpu, memory, stats::Spread};
use anyhow::{Context as _, Result, ensure};
use schema::topics;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often offsets are looked at: it bounds the error of a run of seconds to a few thousandths.
const POLL: Duration = Duration::from_millis(20);
/// Timeout after which a contender that commits nothing has failed.
const STILL_MAX: Duration = Duration::from_secs(120);

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lap {
    pub(super) readings: i64,
    pub(super) took: Duration,
    pub(super) cpu: Duration,
    /// Most memory that was resident.
    pub(super) bytes_max: u64,
    pub(super) alerts: Alerts,
}

/// Names who drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Bare,
    Json,
    Ours,
    Streams,
}

impl Contender {
    const ALL: [Self; 4] = [Self::Bare, Self::Json, Self::Ours, Self::Streams];

    const fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare consumption",
            Self::Json => "consumption with JSON",
            Self::Ours => "alerting-svc",
            Self::Streams => "Kafka Streams",
        }
    }

    async fn drain(self, stage: &Stage, peers: &Peers) -> Result<Lap> {
        match self {
            Self::Bare => bare::drain(stage, false).await,
            Self::Json => bare::drain(stage, true).await,
            Self::Ours => ours(stage).await,
            Self::Streams => streams::drain(stage, peers).await,
        }
        .with_context(|| format!("measure {}", self.label()))
    }
}

/// Fills the topic once, lets everybody drain it in every round with both sets of rules, and prints the
/// table.
pub(super) async fn run(stage: &Stage, peers: &Peers) -> Result<()> {
    eprintln!("fill a topic with {} readings", stage.options.readings);
    stage.readings.fill(&stage.workload, 0..stage.options.readings, crate::topic::event).await?;
    println!(
        "| rules | contender | readings/s | readings per CPU-s | of bare | resident | firing | resolved |\n|{}",
        "---|".repeat(8)
    );
    for rules in Rules::ALL {
        stage.empty(&[topics::THRESHOLD_UPDATES.name, streams::RULES]).await?;
        rules.write(stage)?;
        let mut laps = Contender::ALL.map(|contender| (contender, Vec::new()));
        for round in 1..=stage.options.rounds {
            for (contender, laps) in &mut laps {
                eprintln!("round {round}: {}", contender.label());
                laps.push(contender.drain(stage, peers).await?);
            }
        }
        print(rules, stage, &laps)?;
    }
    Ok(())
}

fn print(rules: Rules, stage: &Stage, laps: &[(Contender, Vec<Lap>)]) -> Result<()> {
    let median = |laps: &[Lap], of: fn(&Lap) -> f64| {
        let measured: Vec<f64> = laps.iter().map(of).collect();
        Spread::of(&measured).map(|spread| spread.median).context("no rounds")
    };
    let rate: fn(&Lap) -> f64 = |lap| lap.readings as f64 / lap.took.as_secs_f64();
    let per_cpu: fn(&Lap) -> f64 = |lap| lap.readings as f64 / lap.cpu.as_secs_f64().max(0.001);
    let bare = median(&laps.first().context("no contender")?.1, per_cpu)?;
    for (contender, laps) in laps {
        let last = laps.last().context("no rounds")?;
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.0} MB | {} | {} |",
            rules.label(stage.options.sensors),
            contender.label(),
            median(laps, rate)?,
            median(laps, per_cpu)?,
            median(laps, per_cpu)? / bare,
            median(laps, |lap| lap.bytes_max as f64)? / 1e6,
            last.alerts.firing,
            last.alerts.resolved,
        );
    }
    Ok(())
}

async fn ours(stage: &Stage) -> Result<Lap> {
    stage.empty(&[topics::ALERTS.name, topics::ALERT_STATE.name]).await?;
    let (mut client, _) = stage.start()?;
    let name = stage.kafka.group("alerting-svc");
    let lap = watch(stage, &mut client, &name).await?;
    let status = client.process.stop().await?;
    ensure!(status.success(), "alerting-svc ended with {status}");
    let (group, ended) = (stage.readings.group(&name)?, Instant::now());
    // A member with a name stays in the group for its session's time.
    while let Err(error) = group.clone().forget().await {
        ensure!(ended.elapsed() < STILL_MAX, "{error:#}");
        sleep(POLL).await;
    }
    Ok(Lap { alerts: stage.count(topics::ALERTS.name)?, ..lap })
}

/// Measures from the first commit, so that nobody's start counts, to the commit of the last reading.
pub(super) async fn watch(stage: &Stage, client: &mut Client, group: &str) -> Result<Lap> {
    let group = stage.readings.group(group)?;
    let (mut committed, mut bytes_max, mut moved) = (0, 0, Instant::now());
    let mut begun = None;
    while committed < stage.options.readings {
        client.process.ensure_running()?;
        bytes_max = bytes_max.max(memory::resident_bytes(client.pid)?);
        // A new group has no coordinator yet, and a group on the move none now; the deadline bounds it.
        let found = group.committed().await.unwrap_or(committed);
        if found > committed {
            (committed, moved) = (found, Instant::now());
            if begun.is_none() {
                begun = Some((found, Instant::now(), cpu::of_process(client.pid)?));
            }
        }
        let (name, log) = (client.process.name(), client.process.log().display());
        ensure!(moved.elapsed() < STILL_MAX, "{name} commits nothing more; its log is {log}");
        sleep(POLL).await;
    }
    let (first, started, cpu_before) = begun.context("nothing was committed")?;
    let took = moved.saturating_duration_since(started);
    let cpu = cpu::of_process(client.pid)?.saturating_sub(cpu_before);
    Ok(Lap { readings: committed - first, took, cpu, bytes_max, alerts: Alerts::default() })
}
