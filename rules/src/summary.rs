//! One line for a person. Pure.

use schema::{Alert, EpisodeStep, Reason};
use std::fmt::Write as _;

/// Says in one line what an alert says.
pub(crate) fn summary(alert: &Alert) -> String {
    let mut line = alert.display_name.clone().unwrap_or_else(|| alert.sensor_id.clone());
    let Alert { metric, bound, .. } = alert;
    let unit = alert.unit.as_deref().map_or_else(String::new, |unit| format!(" {unit}"));
    let value = alert.value.map_or_else(String::new, |value| format!(" {value}{unit}"));
    let limit = bound.value;
    let said = match alert.reason {
        Some(Reason::Above) => format!("{metric}{value} is above {limit}{unit}"),
        Some(Reason::Below) => format!("{metric}{value} is below {limit}{unit}"),
        Some(Reason::NoData) => format!("no {metric} for {limit} s"),
        Some(Reason::Recovered) if alert.occurrences.is_none() => format!("{metric}{value} comes again"),
        Some(Reason::Recovered) => format!("{metric}{value} is inside its limits again"),
        Some(Reason::RuleChanged) => format!("{metric}: over, its rule has changed"),
        Some(Reason::RuleOff) => format!("{metric}: over, its rule is switched off"),
        Some(Reason::RuleDeleted) => format!("{metric}: over, its rule is deleted"),
        Some(Reason::DeviceGone) => format!("{metric}: over, the device is not in service"),
        None => format!("{metric}{value}"),
    };
    // Err is impossible: a string takes everything.
    let _ = write!(line, ": {said}");
    if alert.episode != Some(EpisodeStep::Opened)
        && let Some(opened_at) = alert.opened_at
    {
        let _ = write!(line, ", since {opened_at}");
        if let Some(occurrences) = alert.occurrences {
            let _ = write!(line, ", {occurrences} times");
        }
    }
    if let Some(description) = &alert.description {
        let _ = write!(line, " ({description})");
    }
    line
}
