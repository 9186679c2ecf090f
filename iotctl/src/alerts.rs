//! Alerts as they come, for a person or a program.

use anyhow::{Context as _, Result};
use chassis::kafka::{Settings, partitions};
use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use schema::{Alert, EpisodeStep, Severity, Status, topics};
use std::io::{IsTerminal as _, Write};

/// Says which alerts are shown.
#[derive(Debug, Default)]
pub struct Filter {
    /// Of one sensor.
    pub sensor_id: Option<String>,
    /// Of one severity.
    pub severity: Option<Severity>,
}

impl Filter {
    fn has(&self, alert: &Alert) -> bool {
        self.sensor_id.as_ref().is_none_or(|wanted| *wanted == alert.sensor_id)
            && self.severity.is_none_or(|wanted| wanted == alert.severity)
    }
}

/// Shows alerts from now on, or from the beginning of the topic, until it is dropped: lines with colours on a
/// terminal, the records as they are in a pipe. Reads no transaction that is open or was aborted, and is in
/// no group.
///
/// # Errors
/// The broker or the topic is not there, or nobody reads what is written.
pub async fn follow(broker: &Settings, filter: &Filter, from_beginning: bool) -> Result<()> {
    let topic = broker.topic(topics::ALERTS.name);
    let asking: BaseConsumer = broker.consumer("iotctl-alerts").create().context("make a Kafka client")?;
    // The calls block their thread.
    let (name, begin) = (topic.clone(), if from_beginning { Offset::Beginning } else { Offset::End });
    let assigned = tokio::task::spawn_blocking(move || -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions(&asking, &name).with_context(|| format!("ask for {name}"))? {
            list.add_partition_offset(&name, partition, begin)?;
        }
        Ok(list)
    });
    let assigned = assigned.await??;
    anyhow::ensure!(assigned.count() > 0, "there is no topic {topic}");
    let consumer: StreamConsumer =
        broker.consumer("iotctl-alerts").create().context("make a Kafka client")?;
    consumer.assign(&assigned).context("read the partitions")?;
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        match consumer.recv().await {
            Ok(record) => show(&mut std::io::stdout(), record.payload(), filter, is_terminal)?,
            // librdkafka reconnects by itself.
            Err(error) => eprintln!("iotctl: alerts cannot be read now: {error}"),
        }
    }
}

/// Writes one record, if it is an alert that the filter has.
fn show(out: &mut impl Write, record: Option<&[u8]>, filter: &Filter, is_terminal: bool) -> Result<()> {
    let Some(record) = record else { return Ok(()) };
    let Ok(alert) = serde_json::from_slice::<Alert>(record) else {
        eprintln!("iotctl: a record of the topic is no alert");
        return Ok(());
    };
    if !filter.has(&alert) {
        return Ok(());
    }
    if is_terminal {
        writeln!(out, "{}", line(&alert))?;
    } else {
        out.write_all(record)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes an alert as a line for a person.
fn line(alert: &Alert) -> String {
    let is_closed = alert.status == Status::Resolved;
    let (word, colour) = match (is_closed, alert.severity) {
        (true, _) => ("resolved", 32),
        (false, Severity::Critical) => ("critical", 31),
        (false, Severity::Warning) => ("warning", 33),
        (false, Severity::Info) => ("info", 36),
    };
    let step = match alert.episode {
        Some(EpisodeStep::Opened) => "opened",
        Some(EpisodeStep::Continuing) => "continuing",
        Some(EpisodeStep::Closed) => "closed",
        None => "",
    };
    let value = alert.value.map(|value| format!(" is {value}")).unwrap_or_default();
    let unit = alert.unit.as_deref().filter(|_| alert.value.is_some()).map(|unit| format!(" {unit}"));
    let otherwise = || format!("{}: {}{value}{}", alert.sensor_id, alert.metric, unit.unwrap_or_default());
    let summary = clean(&alert.summary.clone().unwrap_or_else(otherwise));
    let silenced = if alert.silenced_by.is_some() { " (silenced)" } else { "" };
    format!("{} \u{1b}[{colour}m{word:8}\u{1b}[0m {step:10} {summary}{silenced}", alert.reading_at)
}

/// Takes out characters that steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|one| !one.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTINUING: &str = include_str!("../../schema/tests/golden/alert.1.episode.json");
    const BARE: &str = include_str!("../../schema/tests/golden/alert.1.json");

    fn shown(record: &str, filter: &Filter, is_terminal: bool) -> String {
        let mut out = Vec::new();
        show(&mut out, Some(record.as_bytes()), filter, is_terminal).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_pipe_gets_the_record_and_a_terminal_a_line() {
        let all = Filter::default();
        assert_eq!(shown("{}", &all, false), "", "no alert");
        assert_eq!(shown(BARE, &all, false), format!("{BARE}\n"));
        let line = shown(CONTINUING, &all, true);
        assert!(line.starts_with("2026-01-02T03:04:05.000006Z \u{1b}[31mcritical"), "{line:?}");
        assert!(line.ends_with("for the third time since 03:05 (silenced)\n"), "{line:?}");
        assert!(shown(BARE, &all, true).contains("thermostat-1: temperature is 31.5"));
    }

    #[test]
    fn a_filter_is_kept_and_no_device_steers_a_terminal() {
        let of = |sensor_id: Option<&str>, severity| {
            let filter = Filter { sensor_id: sensor_id.map(str::to_owned), severity };
            !shown(CONTINUING, &filter, false).is_empty()
        };
        assert!(of(Some("thermostat-1"), Some(Severity::Critical)));
        assert!(!of(Some("thermostat-2"), None) && !of(None, Some(Severity::Info)));
        let hostile = CONTINUING.replace("\"summary\": \"Hall", "\"summary\": \"\\u001b[2J\\rHall");
        let line = shown(&hostile, &Filter::default(), true);
        assert_eq!(line.matches('\u{1b}').count(), 2, "{line:?}");
    }
}
