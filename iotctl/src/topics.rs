//! The topics of `schema::topics`, made on a broker.

use anyhow::{Context as _, Result, bail};
use chassis::kafka::Settings as Broker;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use schema::topics::{ALL, Partitions, Topic};
use std::time::Duration;

/// Longest time for the broker to make all topics.
const CREATE_WITHIN: Duration = Duration::from_secs(60);

/// How topics are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where Kafka is, and what is put before every name.
    pub broker: Broker,
    /// Partitions of the topics that scale with the readings, all with the same count.
    pub partitions: i32,
    /// Copies of each partition; from three on, two must be in sync for a write.
    pub replication: i32,
}

/// Makes every topic that is not there yet and returns how many were made. Topics that exist are not changed.
///
/// # Errors
/// The broker is not reached or refuses; every refused topic is named.
pub async fn create(settings: &Settings) -> Result<usize> {
    let names: Vec<String> = ALL.iter().map(|topic| settings.broker.topic(topic.name)).collect();
    let configs: Vec<_> = ALL.iter().map(Topic::settings).collect();
    let wanted: Vec<NewTopic<'_>> = ALL
        .iter()
        .zip(names.iter().zip(&configs))
        .map(|(topic, (name, config))| describe(topic, name, config, settings))
        .collect();
    let options =
        AdminOptions::new().operation_timeout(Some(CREATE_WITHIN)).request_timeout(Some(CREATE_WITHIN));
    let client = settings.broker.client().create::<AdminClient<DefaultClientContext>>();
    let client = client.context("make a Kafka admin client")?;
    let outcomes = client.create_topics(&wanted, &options).await.context("create topics")?;
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused: Vec<String> = outcomes
        .into_iter()
        .filter_map(Result::err)
        .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
        .map(|(topic, code)| format!("{topic}: {code}"))
        .collect();
    if !refused.is_empty() {
        bail!("the broker refuses topics: {}", refused.join("; "));
    }
    Ok(made)
}

fn describe<'a>(
    topic: &Topic,
    name: &'a str,
    config: &'a [(&'static str, String)],
    settings: &Settings,
) -> NewTopic<'a> {
    let partitions = match topic.partitions {
        Partitions::Scaled => settings.partitions,
        Partitions::Single => 1,
    };
    let described = NewTopic::new(name, partitions, TopicReplication::Fixed(settings.replication))
        .set("min.insync.replicas", if settings.replication >= 3 { "2" } else { "1" });
    config.iter().fold(described, |described, (key, value)| described.set(key, value))
}
