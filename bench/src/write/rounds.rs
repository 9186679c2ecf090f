//! Rounds in which every contender takes its turn.

use super::contender::Contender;
use super::lap::Run;
use super::{Stage, connect, consumer, memory, report, service};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;

/// Runs every round and prints what was measured, also when a contender fails.
///
/// Each round begins with the next contender, so that nobody always follows the same one.
pub(super) async fn run(stage: &Stage, contenders: &[Contender]) -> Result<()> {
    let mut results: BTreeMap<Contender, Vec<Run>> = BTreeMap::new();
    let mut outcome = Ok(());
    'rounds: for round in 0..usize::from(stage.options.rounds) {
        let first = round % contenders.len().max(1);
        for contender in contenders.iter().cycle().skip(first).take(contenders.len()) {
            stage.report.progress(&format!("round {}: {} begins", round + 1, contender.label()));
            match run_once(stage, *contender).await.with_context(|| format!("run {}", contender.label())) {
                Ok(run) => {
                    stage.report.run(round + 1, *contender, &run);
                    results.entry(*contender).or_default().push(run);
                }
                Err(error) => {
                    outcome = Err(error);
                    break 'rounds;
                }
            }
        }
    }
    report::throughput(stage, &results);
    outcome
}

/// Runs a contender once, into a new database, and checks what it left there.
async fn run_once(stage: &Stage, contender: Contender) -> Result<Run> {
    let rows = stage.options.rows_of(contender);
    let database = stage.server.create(contender.label(), &stage.workload, 0..rows).await?;
    let run = match contender {
        Contender::Service | Contender::Baseline => service::drain(stage, contender, &database).await?,
        Contender::Copy => memory::copy(stage, &database, 0..rows).await?,
        Contender::Insert => memory::insert(stage, &database, 0..rows).await?,
        Contender::Connect => connect::drain(stage, &database).await?,
        Contender::Consumer => consumer::drain(stage, &database).await?,
    };
    database.ensure_rows(rows, matches!(contender, Contender::Service | Contender::Baseline)).await?;
    stage.server.forget(database).await?;
    Ok(run)
}
