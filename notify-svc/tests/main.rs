//! The notification service on a real broker, and webhooks that fail in every way.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod consumer;
mod docs;
mod trouble;

use chassis::Chassis;
use chassis::config::Env;
use notify_svc::{Config, sign};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList, topic_partition_list::TopicPartitionListElem};
use schema::{Alert, EpisodeStep, Reason, Severity, Status, Timestamp, topics};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::kafka::{Kafka, SCALED_PARTITIONS};
use testkit::wait::until;
use testkit::webhook::{Request, Server};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// The alert number `number` of an episode.
fn alert(episode: u128, number: u128, step: EpisodeStep) -> Alert {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/tests/golden/alert.1.episode.json");
    let golden: Alert = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let is_closed = step == EpisodeStep::Closed;
    Alert {
        alert_id: Uuid::from_u128(episode * 1_000 + number),
        status: if is_closed { Status::Resolved } else { Status::Firing },
        episode_id: Some(Uuid::from_u128(episode)),
        episode: Some(step),
        reason: Some(if is_closed { Reason::Recovered } else { Reason::Above }),
        sensor_id: format!("s{}", episode % 5),
        detected_at: Timestamp::now(),
        silenced_by: None,
        ..golden
    }
}

async fn tell(kafka: &Kafka, alerts: &[Alert]) {
    for alert in alerts {
        let value = serde_json::to_vec(alert).unwrap();
        kafka.produce(topics::ALERTS, &alert.sensor_id, Some(&value)).await;
    }
}

/// Waits until the target's group has committed whatever there is.
async fn all_is_done(kafka: &Kafka, target: &str) {
    let group = format!("notify-svc-{target}");
    until("no lag of alerts", async || (lag(kafka, &group)? == 0).then_some(())).await;
}

/// Returns how many records the group has not committed; none while Kafka does not say.
fn lag(kafka: &Kafka, group: &str) -> Option<i64> {
    const ANSWER_WAIT: Duration = Duration::from_secs(10);
    let (settings, name) = (kafka.settings(), kafka.settings().topic(topics::ALERTS.name));
    let consumer: BaseConsumer = settings.consumer(group).create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(&name, 0, SCALED_PARTITIONS - 1);
    let committed = consumer.committed_offsets(asked, ANSWER_WAIT).ok()?;
    let lag = |one: &TopicPartitionListElem<'_>| {
        let (low, high) = consumer.fetch_watermarks(&name, one.partition(), ANSWER_WAIT).ok()?;
        Some(high - if let Offset::Offset(next) = one.offset() { next } else { low })
    };
    committed.elements().iter().map(lag).sum()
}

fn target(name: &str, server: &Server, rest: &Value) -> Value {
    let mut target = json!({"name": name, "url": server.url(), "format": "json", "timeoutMs": 1_000});
    target.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    target
}

struct Service {
    chassis: Chassis,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    fn start(kafka: &Kafka, targets: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("targets.json");
        std::fs::write(&file, json!({"targets": targets}).to_string()).unwrap();
        let variables = [
            ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap.clone()),
            ("KAFKA_TOPIC_PREFIX", kafka.prefix.clone()),
            ("TARGETS_FILE", file.display().to_string()),
        ];
        let mut env = Env::of(variables.map(|(name, value)| (name.to_owned(), value)));
        let config = Config::from_env(&mut env);
        env.finish().unwrap();
        chassis::install_tls_provider();
        let chassis = Chassis::new();
        let task = tokio::spawn(notify_svc::run(config, chassis.clone()));
        Self { chassis, task }
    }

    /// Waits until every latch is open.
    async fn ready(&self) {
        until("readiness", async || self.chassis.readiness.closed().is_empty().then_some(())).await;
    }

    /// Returns the sum of a counter over the labels that have this value.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let of = families.iter().filter(|family| family.name() == name);
        of.flat_map(|family| family.get_metric())
            .filter(|metric| metric.get_label().iter().any(|one| one.value() == label))
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }

    async fn stop(self) {
        self.chassis.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Stops in the middle of whatever it does.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_hears_what_opens_and_closes_signed_and_with_a_key_of_its_own() {
    let (kafka, server) = (Kafka::create().await, Server::start().await);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, "K3Y\n").unwrap();
    let service = Service::start(&kafka, &[target("ops", &server, &json!({"hmacKeyFile": key}))]);
    let silence = Some(Uuid::from_u128(7));
    let alerts = [
        alert(1, 1, EpisodeStep::Opened),
        alert(1, 2, EpisodeStep::Continuing),
        Alert { silenced_by: silence, ..alert(2, 1, EpisodeStep::Opened) },
        alert(1, 3, EpisodeStep::Closed),
    ];
    tell(&kafka, &alerts).await;
    kafka.produce(topics::ALERTS, "s1", Some(b"{")).await;
    kafka.produce(topics::ALERTS, "s1", None).await;
    all_is_done(&kafka, "ops").await;
    let taken = server.taken();
    assert_eq!(taken.len(), 2, "{taken:?}");
    for (request, alert) in taken.iter().zip([&alerts[0], &alerts[3]]) {
        assert_eq!(request.body, serde_json::to_vec(alert).unwrap(), "the record, byte for byte");
        assert_eq!(request.headers["idempotency-key"], alert.alert_id.to_string());
        assert_eq!(request.headers["content-type"], "application/json");
        let seconds: i64 = request.headers["fieldline-timestamp"].parse().unwrap();
        assert_eq!(request.headers["fieldline-signature"], sign(b"K3Y", seconds, &request.body));
        let age_s = Timestamp::now().as_micros() / 1_000_000 - seconds;
        assert!((0..60).contains(&age_s), "{age_s}");
    }
    assert_eq!(service.metric("notify_passed_over_total", "ops"), 2.0);
    assert_eq!(service.metric("notify_delivered_total", "ops"), 2.0);
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_target_hears_its_own_part_in_its_own_words() {
    let kafka = Kafka::create().await;
    let (critical, chat) = (Server::start().await, Server::start().await);
    let targets = [
        target("pager", &critical, &json!({"severities": ["critical"]})),
        target("chat", &chat, &json!({"format": "slack", "continuing": true, "silenced": true})),
    ];
    let service = Service::start(&kafka, &targets);
    let info = Alert { severity: Severity::Info, ..alert(1, 1, EpisodeStep::Opened) };
    tell(&kafka, &[info, alert(2, 1, EpisodeStep::Opened), alert(2, 2, EpisodeStep::Continuing)]).await;
    all_is_done(&kafka, "pager").await;
    all_is_done(&kafka, "chat").await;
    assert_eq!(critical.taken().len(), 1);
    let words: Vec<Value> = chat.taken().iter().map(Request::json).collect();
    assert_eq!(words.len(), 3);
    assert!(words.iter().all(|one| one["text"].as_str().unwrap().contains("Hall")), "{words:?}");
    service.stop().await;
}
