//! The topic of dead letters is away, and nothing else: a cluster in this process, whose brokers go down one
//! by one.

use crate::support::{Service, config_at, reading, rows_reach};
use chassis::kafka::Settings;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{FutureProducer, FutureRecord};
use schema::topics;
use std::time::Duration;
use testkit::postgres::Database;
use testkit::wait::{PATIENCE, until};
use tokio::time::timeout;

const AT: &str = "2026-01-02T03:04:05Z";
/// The broker that has everything but the dead letters.
const MOST: i32 = 1;
/// The broker that has the dead letters.
const LETTERS: i32 = 2;
/// Longer than the wait for a letter's acknowledgement, so that the outage is known before a stall would be.
const STALL_MAX: Duration = Duration::from_secs(8);

async fn produce(kafka: &Settings, value: &[u8]) {
    let producer: FutureProducer = kafka.producer().create().unwrap();
    let record = FutureRecord::<str, [u8]>::to(topics::READINGS.name).key("s").payload(value);
    producer.send(record, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_dead_letter_topic_alone_is_unready_and_no_stall() {
    let (cluster, database) = (MockCluster::new(2).unwrap(), Database::create().await);
    for (topic, broker) in [(topics::READINGS, MOST), (topics::READING_DLQ, LETTERS)] {
        cluster.create_topic(topic.name, 1, 1).unwrap();
        cluster.partition_leader(topic.name, 0, Some(broker)).unwrap();
    }
    cluster.coordinator(MockCoordinator::Group("command-svc".to_owned()), MOST).unwrap();
    let kafka = Settings::local(cluster.bootstrap_servers(), "");
    let mut config = config_at(kafka.clone(), database.url());
    config.stall_max = STALL_MAX;
    let service = Service::start_with(config);
    produce(&kafka, &serde_json::to_vec(&reading("s", 0, AT, 1.0)).unwrap()).await;
    rows_reach(&database, 1).await;
    service.ready().await;

    cluster.broker_down(LETTERS).unwrap();
    produce(&kafka, b"no reading").await;
    until("the outage to be seen", async || {
        (service.chassis.readiness.closed() == ["dead-letters"]).then_some(())
    })
    .await;
    let stall = until("a stall", async || (service.metric("command_stalls_total")? > 0.0).then_some(()));
    assert!(timeout(STALL_MAX * 2, stall).await.is_err(), "a restart would help nobody");
    assert!(service.chassis.liveness.is_live());

    cluster.broker_up(LETTERS).unwrap();
    service.ready().await;
    until("the letter", async || (service.metric("command_dead_letters_total")? == 1.0).then_some(())).await;
    produce(&kafka, &serde_json::to_vec(&reading("s", 1, AT, 1.0)).unwrap()).await;
    rows_reach(&database, 2).await;
    service.stop().await;
}
