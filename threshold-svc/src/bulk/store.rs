//! Many thresholds in one transaction: all of them, or none.

use super::rows::{Line, ROWS_MAX, at_line};
use crate::store::{Refusal, add, find_twin, lock_all, remove, twin, update};
use crate::threshold::{Draft, Threshold, parse_id};
use chassis::http::{Change, FieldError, Problem};
use deadpool_postgres::{Pool, Transaction};
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Bad fields that one answer names; the rest is counted.
const ERRORS_MAX: usize = 100;

const RANGE: &str = "SELECT threshold_id FROM sensor_thresholds WHERE threshold_id BETWEEN $1 AND $2 \
     ORDER BY threshold_id LIMIT $3 FOR UPDATE";
const KNOWN_SENSORS: &str = "SELECT sensor_id FROM devices WHERE sensor_id = ANY($1)";

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Created,
    Changed,
    Unchanged,
    Deleted,
}

/// One line as it is answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Imported {
    /// None of a threshold that is not in the body and goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    threshold_id: Uuid,
    outcome: Outcome,
}

/// What an import answers.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    is_dry_run: bool,
    created: u64,
    changed: u64,
    unchanged: u64,
    deleted: u64,
    lines: Vec<Imported>,
}

/// Collects what is wrong with lines.
#[derive(Default)]
struct Errors {
    errors: Vec<FieldError>,
    lines: HashSet<u64>,
}

impl Errors {
    fn add(&mut self, line: u64, field: &str, detail: impl Into<String>) {
        self.lines.insert(line);
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError { field: at_line(line, field), detail: detail.into() });
        }
    }

    /// Adds what a single request would have been refused with.
    ///
    /// # Errors
    /// The problem is not the line's.
    fn add_problem(&mut self, line: u64, problem: Problem) -> Result<(), Problem> {
        match problem.status() {
            400 => problem.errors.iter().for_each(|error| self.add(line, &error.field, &error.detail)),
            409 | 412 => self.add(line, "version", &problem.detail),
            _ => return Err(problem),
        }
        Ok(())
    }

    fn into_problem(self, lines: usize) -> Problem {
        let detail = format!("{} of {lines} thresholds cannot be imported; none was", self.lines.len());
        let mut problem = Problem::fields(self.errors);
        problem.detail = detail;
        problem
    }
}

/// What is to be done for a line.
struct Plan {
    line: u64,
    id: Uuid,
    draft: Draft,
    /// The threshold that is there.
    there: Option<Threshold>,
}

/// What becomes of an import beside its lines.
#[derive(Debug)]
pub(super) struct Options {
    /// Does all of it and keeps nothing.
    pub(super) is_dry_run: bool,
    /// Thresholds from the first to the last of these ids go, unless a line is about them.
    pub(super) pruned: Option<(Uuid, Uuid)>,
}

/// Imports lines.
pub(super) async fn import(
    pool: &Pool,
    lines: Vec<Line>,
    options: &Options,
    by: &str,
) -> Result<Report, Problem> {
    let mut client = pool.get().await?;
    let mut transaction = client.transaction().await?;
    let (count, mut errors) = (lines.len(), Errors::default());
    let plans = plan(&transaction, lines, &mut errors).await?;
    check_sensors(&transaction, &plans, &mut errors).await?;
    if !errors.errors.is_empty() {
        return Err(errors.into_problem(count));
    }
    let mut report = Report { is_dry_run: options.is_dry_run, ..Report::default() };
    // First, so that what goes leaves its limits to what comes.
    if let Some(range) = options.pruned {
        prune(&transaction, range, &plans, &mut report, by).await?;
    }
    for Plan { line, id, draft, there } in plans {
        let outcome = match &there {
            Some(there) if there.draft == draft => Ok(Outcome::Unchanged),
            Some(_) => change(&mut transaction, id, &draft, by).await.map(|_| Outcome::Changed),
            None => match add(&transaction, id, &draft, by).await? {
                Some(_) => Ok(Outcome::Created),
                None => Err(twin(&transaction, id, &draft).await?),
            },
        };
        match outcome {
            Ok(outcome) => {
                report.add(Some(line), id, outcome);
            }
            Err(problem) => errors.add_problem(line, problem)?,
        }
    }
    if !errors.errors.is_empty() {
        return Err(errors.into_problem(count));
    }
    if options.is_dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await?;
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, line: Option<u64>, threshold_id: Uuid, outcome: Outcome) {
        *self.count(outcome) += 1;
        self.lines.push(Imported { line, threshold_id, outcome });
    }

    fn count(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Created => &mut self.created,
            Outcome::Changed => &mut self.changed,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Deleted => &mut self.deleted,
        }
    }
}

/// Reads every line against the threshold that it is about: that of its id, or without one that of its
/// limits.
async fn plan(
    transaction: &Transaction<'_>,
    lines: Vec<Line>,
    errors: &mut Errors,
) -> Result<Vec<Plan>, Problem> {
    let id_of = |line: &Line| match line.members.get("thresholdId") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => parse_id(text).map(Some),
        Some(_) => Err("must be a text"),
    };
    let ids: Vec<Uuid> = lines.iter().filter_map(|line| id_of(line).ok().flatten()).collect();
    let mut there: HashMap<Uuid, Threshold> = HashMap::new();
    for threshold in lock_all(transaction, &ids).await? {
        there.insert(threshold.threshold_id, threshold);
    }
    let (mut plans, mut lines_of) = (Vec::with_capacity(lines.len()), HashMap::new());
    for line in lines {
        let number = line.number;
        let mut id = match id_of(&line) {
            Ok(id) => id,
            Err(detail) => {
                errors.add(number, "thresholdId", detail);
                continue;
            }
        };
        let mut known = id.and_then(|id| there.remove(&id));
        let draft = match &known {
            Some(known) => Draft::changed(known, Change::put(line.members.clone())),
            None => Draft::of_answer(line.members.clone()),
        };
        let mut draft = match draft {
            Ok(draft) => draft,
            Err(problem) => {
                errors.add_problem(number, problem)?;
                continue;
            }
        };
        if id.is_none()
            && let Some(twin) = find_twin(transaction, Uuid::nil(), &draft).await?
        {
            id = Some(twin.threshold_id);
            let mut members = line.members;
            members.remove("thresholdId");
            draft = match Draft::changed(&twin, Change::put(members)) {
                Ok(draft) => draft,
                Err(problem) => {
                    errors.add_problem(number, problem)?;
                    continue;
                }
            };
            known = Some(twin);
        }
        let id = id.unwrap_or_else(Uuid::new_v4);
        if let Some(first) = lines_of.insert(id, number) {
            errors.add(number, "thresholdId", format!("is the threshold of line {first}, too"));
            continue;
        }
        plans.push(Plan { line: number, id, draft, there: known });
    }
    Ok(plans)
}

/// Finds the sensors that are not registered, before the database refuses the first of them.
async fn check_sensors(
    transaction: &Transaction<'_>,
    plans: &[Plan],
    errors: &mut Errors,
) -> Result<(), Problem> {
    let named: Vec<&str> = plans.iter().filter_map(|plan| plan.draft.sensor_id.as_deref()).collect();
    let statement = transaction.prepare_cached(KNOWN_SENSORS).await?;
    let rows = transaction.query(&statement, &[&named]).await?;
    let known = rows.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<&str>, _>>()?;
    for plan in plans {
        if plan.draft.sensor_id.as_deref().is_some_and(|sensor_id| !known.contains(sensor_id)) {
            errors.add(plan.line, "sensorId", "is no registered device");
        }
    }
    Ok(())
}

/// Deletes the thresholds of a range of ids that no line is about.
async fn prune(
    transaction: &Transaction<'_>,
    (first, last): (Uuid, Uuid),
    plans: &[Plan],
    report: &mut Report,
    by: &str,
) -> Result<(), Problem> {
    let statement = transaction.prepare_cached(RANGE).await?;
    let most = i64::try_from(ROWS_MAX).unwrap_or(i64::MAX) + 1;
    let rows = transaction.query(&statement, &[&first, &last, &most]).await?;
    if rows.len() > ROWS_MAX {
        return Err(Problem::field("prune", format!("is about over {ROWS_MAX} thresholds")));
    }
    let kept: HashSet<Uuid> = plans.iter().map(|plan| plan.id).collect();
    for row in rows {
        let id: Uuid = row.try_get(0)?;
        if !kept.contains(&id) {
            remove(transaction, id, by).await?;
            report.add(None, id, Outcome::Deleted);
        }
    }
    Ok(())
}

/// Changes a row; limits that another threshold has undo this change alone.
async fn change(
    transaction: &mut Transaction<'_>,
    id: Uuid,
    draft: &Draft,
    by: &str,
) -> Result<Threshold, Problem> {
    let savepoint = transaction.savepoint("line").await?;
    match update(&savepoint, id, draft, by).await {
        Ok(threshold) => {
            savepoint.commit().await?;
            Ok(threshold)
        }
        Err(Refusal::Taken) => {
            savepoint.rollback().await?;
            Err(twin(transaction, id, draft).await?)
        }
        Err(Refusal::Other(problem)) => Err(problem),
    }
}
