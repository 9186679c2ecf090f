//! How a rule ends: with every place that breaks it, or in silence.

use std::fmt::Display;

/// Fails for what breaks a rule.
pub(crate) fn hold(rule: &str, found: Vec<(String, impl Display)>) {
    let broken: Vec<String> = found.into_iter().map(|(place, what)| format!("{place}: {what}")).collect();
    assert!(broken.is_empty(), "{rule}; {} places:\n{}", broken.len(), broken.join("\n"));
}
