//! Rounds in which every contender takes its turn.

use super::contender::{Contender, Run};
use super::{Stage, report};
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;

/// Runs every round and returns each contender's runs.
///
/// Each round begins with the next contender, so that nobody always follows the same one.
pub(super) async fn run(stage: &Stage, contenders: &[Contender]) -> Result<BTreeMap<Contender, Vec<Run>>> {
    let mut results: BTreeMap<Contender, Vec<Run>> = BTreeMap::new();
    for round in 0..usize::from(stage.options.rounds) {
        let first = round % contenders.len().max(1);
        for contender in contenders.iter().cycle().skip(first).take(contenders.len()) {
            let run = contender.run(stage).await.with_context(|| format!("run {}", contender.label()))?;
            report::progress(&format!(
                "round {}: {} {:.0} rows/s",
                round + 1,
                contender.label(),
                run.rows_per_second()
            ));
            results.entry(*contender).or_default().push(run);
        }
    }
    Ok(results)
}
