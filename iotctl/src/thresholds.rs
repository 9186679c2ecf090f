//! Thresholds as a file says them: plan, and apply in one transaction.
//!
//! A file has an owner, and each of its rules a name. Both together are the threshold's id, so that applying
//! a file again changes nothing; and the ids of one owner begin alike, so that what the file does not name
//! any more is known to be its own, and nothing else is ever pruned.

pub mod file;

use crate::api::Api;
use anyhow::{Context as _, Result};
use file::{Rule, Rules};
use reqwest_rustls::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Thresholds of one page when those of an owner are read.
const PAGE: usize = 1_000;
/// Fields that the service writes, which no file says.
const OF_THE_SERVICE: [&str; 5] = ["thresholdId", "version", "createdAt", "updatedAt", "updatedBy"];

/// What is to be done for one threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What.
    pub action: Action,
    /// The rule's name; none when the file has it no more.
    pub name: Option<String>,
    /// Which threshold.
    pub threshold_id: String,
    /// Each field that differs: as it is, and as it is to be.
    pub fields: BTreeMap<String, (Value, Value)>,
}

/// Names what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The threshold is not there.
    Create,
    /// It is there and says something else.
    Change,
    /// It is there and the file has it no more.
    Delete,
}

impl Step {
    /// Writes it for a person: a line, and one for each field of a change.
    #[must_use]
    pub fn text(&self) -> String {
        let mark = match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Delete => '-',
        };
        let name = self.name.as_deref().unwrap_or("(not in the file any more)");
        let mut text = format!("{mark} {name}  {}", self.threshold_id);
        if self.action == Action::Change {
            for (field, (old, new)) in &self.fields {
                // A text takes what is written.
                let _ = write!(text, "\n    {field}: {old} → {new}");
            }
        }
        text
    }
}

/// Compares what a file says with the thresholds of its owner that are there, in the order of the file; what
/// is there beyond it comes last.
#[must_use]
pub fn plan(rules: &Rules, there: &[Value], is_pruning: bool) -> Vec<Step> {
    let mut left: BTreeMap<&str, &Value> =
        there.iter().filter_map(|threshold| Some((threshold["thresholdId"].as_str()?, threshold))).collect();
    let mut steps = Vec::new();
    for rule in &rules.rules {
        let id = rules.id(rule).to_string();
        let known = left.remove(id.as_str());
        let fields = differing(&rule.fields, known);
        let action = if known.is_some() { Action::Change } else { Action::Create };
        if known.is_none() || !fields.is_empty() {
            steps.push(Step { action, name: Some(rule.name.clone()), threshold_id: id, fields });
        }
    }
    if is_pruning {
        steps.extend(left.into_iter().map(|(id, threshold)| Step {
            action: Action::Delete,
            name: None,
            threshold_id: id.to_owned(),
            fields: differing(&Map::new(), Some(threshold)),
        }));
    }
    steps
}

fn differing(wanted: &Map<String, Value>, known: Option<&Value>) -> BTreeMap<String, (Value, Value)> {
    let no_fields = Map::new();
    let known = known.and_then(Value::as_object).unwrap_or(&no_fields);
    let names = wanted.keys().chain(known.keys()).filter(|name| !OF_THE_SERVICE.contains(&name.as_str()));
    let pair = |name: &String| {
        let of = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or(Value::Null);
        (name.clone(), (of(known), of(wanted)))
    };
    names.map(pair).filter(|(_, (old, new))| !is_same(old, new)).collect()
}

/// Says whether two values are the same to the service: 30 is 30.0.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| other.as_f64() == Some(number))
}

/// Reads the thresholds of a file's owner.
///
/// # Errors
/// threshold-svc does not answer or refuses.
pub async fn owned(api: &Api, rules: &Rules) -> Result<Vec<Value>> {
    let list = format!("{}/api/v1/thresholds?limit={PAGE}", api.thresholds);
    let first = format!("{list}&thresholdIdPrefix={}", rules.prefix());
    let (mut thresholds, mut url) = (Vec::new(), first.clone());
    loop {
        let page = api.get(&url).await.context("read the thresholds of the file's owner")?;
        thresholds.extend(crate::api::resources(&page).iter().cloned());
        match page["next"].as_str() {
            Some(next) => url = format!("{first}&cursor={next}"),
            None => return Ok(thresholds),
        }
    }
}

/// Makes the thresholds of a file's owner what the file says, all or none; a dry run asks whether it could.
/// Returns what the service answers.
///
/// # Errors
/// threshold-svc does not answer or refuses; each line that it refuses is named by its rule.
pub async fn apply(api: &Api, rules: &Rules, is_pruning: bool, is_dry_run: bool) -> Result<Value> {
    let prune = if is_pruning { format!("&prune={}", rules.prefix()) } else { String::new() };
    let url = format!("{}/api/v1/thresholds/import?dryRun={is_dry_run}{prune}", api.thresholds);
    let body = rules.rules.iter().map(|rule| line(rules, rule)).collect();
    api.call(Method::POST, &url, Some(&Value::Array(body))).await.map_err(|error| named(error, rules))
}

fn line(rules: &Rules, rule: &Rule) -> Value {
    let mut line = rule.fields.clone();
    line.insert("thresholdId".to_owned(), json!(rules.id(rule)));
    Value::Object(line)
}

/// Names the rules of a refusal, which the service knows by their place.
fn named(error: anyhow::Error, rules: &Rules) -> anyhow::Error {
    let Some(refusal) = error.downcast_ref::<crate::api::Refusal>() else { return error };
    let mut text = refusal.detail();
    for (field, detail) in refusal.fields() {
        let place = field.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        let rule = place.and_then(|(number, field)| {
            Some((rules.rules.get(number.parse::<usize>().ok()?.checked_sub(1)?)?, field))
        });
        let _ = match rule {
            Some((rule, field)) => write!(text, "\n  {}: {field} {detail}", rule.name),
            None => write!(text, "\n  {field} {detail}"),
        };
    }
    anyhow::Error::msg(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::parse(text).unwrap()
    }

    const FILE: &str = "
owner: hall
rules:
  - {name: warm, zoneId: hall, metric: temperature, max: 30, severity: warning}
  - {name: silent, zoneId: hall, metric: temperature, noDataSeconds: 900, severity: critical, repeat: never}
";

    /// What the service answers once a file is applied.
    fn stored(rules: &Rules) -> Vec<Value> {
        let of = |rule: &Rule| {
            let mut threshold = line(rules, rule);
            threshold["version"] = json!(7);
            // The service leaves out parts of a scope that are not there, and writes numbers its own way.
            threshold
                .as_object_mut()
                .unwrap()
                .retain(|name, value| !value.is_null() || !name.ends_with("Id"));
            if let Some(max) = threshold["max"].as_f64() {
                threshold["max"] = json!(max);
            }
            threshold
        };
        rules.rules.iter().map(of).collect()
    }

    #[test]
    fn a_file_that_is_applied_has_nothing_to_do() {
        let rules = rules(FILE);
        assert_eq!(plan(&rules, &stored(&rules), true), []);
        let created = plan(&rules, &[], true);
        assert_eq!(created.iter().map(|step| step.action).collect::<Vec<_>>(), [Action::Create; 2]);
    }

    #[test]
    fn a_plan_names_what_differs_and_deletes_only_when_it_is_asked_to() {
        let old = rules(FILE);
        let new = rules(
            "
owner: hall
rules:
  - {name: warm, zoneId: hall, metric: temperature, max: 31, severity: warning}
  - {name: damp, zoneId: hall, metric: humidity, max: 80, severity: info}
",
        );
        let actions = |steps: &[Step]| {
            steps.iter().map(|step| (step.action, step.name.clone().unwrap_or_default())).collect::<Vec<_>>()
        };
        let steps = plan(&new, &stored(&old), false);
        let expected = [(Action::Change, "warm".to_owned()), (Action::Create, "damp".to_owned())];
        assert_eq!(actions(&steps), expected);
        let change: Vec<_> = steps[0].fields.iter().collect();
        assert_eq!(change, [(&"max".to_owned(), &(json!(30.0), json!(31)))]);
        assert!(steps[0].text().ends_with("\n    max: 30.0 → 31"), "{}", steps[0].text());
        let pruned = plan(&new, &stored(&old), true);
        assert_eq!(actions(&pruned)[2..], [(Action::Delete, String::new())]);
    }
}
