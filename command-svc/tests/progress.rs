//! Nothing stops silently: paused partitions come back, and a partition that stands still is seen.

use crate::once::{all_are_stored_once, lock, produce_numbers, stage};
use crate::support::{Service, config, members};
use chassis::Chassis;
use chassis::kafka::{Assignment, Watch, WatchMetrics, Watched};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use schema::topics;
use std::time::Duration;
use testkit::kafka::SCALED_PARTITIONS;
use testkit::proxy::Proxy;
use testkit::wait::{PATIENCE, until};

/// Bounds the backlog; both lanes are full long before it.
const RECORDS_MAX: u32 = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_paused_when_a_second_instance_comes_and_goes_are_read_again() {
    let (kafka, database) = stage().await;
    let mut config = config(&kafka, database.url());
    config.limits.rows_max = 2_000;
    let first = Service::start_with(config.clone());
    produce_numbers(&kafka, 0..100).await;
    all_are_stored_once(&kafka, &database, 100).await;

    let holder = lock(&database).await;
    let mut produced = 100;
    while first.metric("command_partitions_paused") < Some(f64::from(SCALED_PARTITIONS)) {
        assert!(produced < RECORDS_MAX, "the lanes never fill");
        produce_numbers(&kafka, produced..produced + 500).await;
        produced += 500;
    }
    until("lag of paused partitions", async || (first.metric("command_lag_records")? > 0.0).then_some(()))
        .await;
    let second = Service::start_with(config);
    until("two members", async || (members(&kafka).len() == 2).then_some(())).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    all_are_stored_once(&kafka, &database, produced.into()).await;

    second.stop().await;
    until("one member", async || (members(&kafka).len() == 1).then_some(())).await;
    produce_numbers(&kafka, produced..produced + 200).await;
    all_are_stored_once(&kafka, &database, i64::from(produced) + 200).await;
    until("no lag, and nothing paused", async || {
        let is_idle = first.metric("command_lag_records")? == 0.0;
        (is_idle && first.metric("command_partitions_paused")? == 0.0).then_some(())
    })
    .await;
    assert_eq!(first.metric("command_stalls_total"), Some(0.0));
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_lag_that_nobody_moves_is_unready_then_not_live_and_recovers() {
    let (kafka, _) = stage().await;
    produce_numbers(&kafka, 0..100).await;
    let (chassis, settings) = (Chassis::new(), kafka.settings());
    let (topic, assignment) = (settings.topic(topics::READINGS.name), Assignment::default());
    let watched = Watched {
        latch: "progress",
        group: "stuck",
        topic: &topic,
        assignment: &assignment,
        stall_max: Duration::from_secs(3),
        metrics: WatchMetrics::register(&chassis.registry, "test").unwrap(),
    };
    let watch = Watch::open(&settings, &chassis, watched).unwrap();
    let watching = tokio::spawn(watch.run(|_| true));
    let lag = || {
        let families = chassis.registry.gather();
        let family = families.iter().find(|family| family.name() == "test_lag_records").unwrap();
        family.get_metric()[0].get_gauge().get_value()
    };
    assignment.assign(0..SCALED_PARTITIONS);
    until("lag of a group that has committed nothing", async || (lag() == 100.0).then_some(())).await;
    assert!(chassis.readiness.is_ready() && chassis.liveness.is_live());
    until("unready", async || (!chassis.readiness.is_ready()).then_some(())).await;
    assert!(chassis.liveness.is_live(), "at first only unready");
    until("not live", async || (!chassis.liveness.is_live()).then_some(())).await;

    // Somebody moves the group to the end.
    let consumer: BaseConsumer = settings.consumer("stuck").create().unwrap();
    let mut ends = TopicPartitionList::new();
    for partition in 0..SCALED_PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(&topic, partition, PATIENCE).unwrap();
        ends.add_partition_offset(&topic, partition, Offset::Offset(end)).unwrap();
    }
    consumer.commit(&ends, CommitMode::Sync).unwrap();
    until("ready and live", async || {
        (chassis.readiness.is_ready() && chassis.liveness.is_live() && lag() == 0.0).then_some(())
    })
    .await;
    watching.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_an_outage_with_a_batch_in_flight_is_a_clean_end() {
    let (kafka, database) = stage().await;
    let (proxy, url) = Proxy::before(database.url()).await;
    let service = Service::start(&kafka, &url);
    produce_numbers(&kafka, 0..10).await;
    all_are_stored_once(&kafka, &database, 10).await;
    proxy.cut();
    produce_numbers(&kafka, 10..2_000).await;
    until("tries in vain", async || (service.metric("command_retries_total")? >= 2.0).then_some(())).await;
    tokio::time::timeout(PATIENCE, service.stop()).await.expect("it ends, whatever the database does");
    // Nothing is lost by it.
    proxy.mend();
    let service = Service::start(&kafka, &url);
    all_are_stored_once(&kafka, &database, 2_000).await;
    service.stop().await;
}
