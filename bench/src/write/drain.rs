//! A client in a process of its own that drains a topic, watched from outside by the offsets that it commits.

use super::Stage;
use super::lap::{Lap, Run};
use crate::topic::Group;
use anyhow::{Context as _, Result, ensure};
use iotctl::process::{Process, Stop, recorded};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// How often offsets are looked at: it bounds the error of a run of seconds to a few thousandths.
const POLL: Duration = Duration::from_millis(20);
/// Timeout after which a contender that commits nothing has failed.
const STILL_MAX: Duration = Duration::from_secs(120);

/// A running client.
pub(super) struct Client {
    pub(super) process: Process,
    pub(super) pid: u32,
}

impl Client {
    pub(super) fn start(folder: &Path, label: &str, command: &mut Command, stop: Stop) -> Result<Self> {
        let pid_file = folder.join(format!("{label}.pid"));
        let process = Process::start(label, command, &folder.join(format!("{label}.log")), &pid_file, stop)?;
        let pid = recorded(&pid_file).with_context(|| format!("{label} ended as it started"))?;
        Ok(Self { process, pid: pid.as_raw().unsigned_abs() })
    }
}

/// Measures from the first commit, so that nobody's start counts, to the commit of the last record.
pub(super) async fn watch(client: &mut Client, group: &Group, stage: &Stage, rows: i64) -> Result<Run> {
    let first = advance(client, group, 0).await?;
    let lap = Lap::start(&stage.server, client.pid)?;
    let mut committed = first;
    while committed < rows {
        committed = advance(client, group, committed).await?;
    }
    ensure!(first < rows, "{rows} rows are too few to measure");
    lap.end(rows - first)
}

/// Waits until more is committed.
async fn advance(client: &mut Client, group: &Group, before: i64) -> Result<i64> {
    let started = Instant::now();
    loop {
        client.process.ensure_running()?;
        let committed = match group.committed().await {
            Ok(committed) => committed,
            // A new group has no coordinator yet, and a group on the move none now; the deadline bounds it.
            Err(error) if started.elapsed() > STILL_MAX => return Err(error),
            Err(_) => before,
        };
        if committed > before {
            return Ok(committed);
        }
        let (name, log) = (client.process.name(), client.process.log().display());
        ensure!(started.elapsed() < STILL_MAX, "{name} commits nothing more; its log is {log}");
        sleep(POLL).await;
    }
}
