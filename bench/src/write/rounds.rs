//! Rounds in which every contender takes its turn.

use super::contender::{Contender, Run};
use super::{Stage, report};
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
            match contender.run(stage).await.with_context(|| format!("run {}", contender.label())) {
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
