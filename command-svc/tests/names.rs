//! Instances that have a name in the group.

use crate::once::{all_are_stored_once, produce_numbers, stage};
use crate::support::{Service, config, members};
use command_svc::Config;
use testkit::kafka::Kafka;
use testkit::wait::until;

fn named(kafka: &Kafka, database_url: &str, name: &str) -> Config {
    Config { instance_id: Some(name.to_owned()), ..config(kafka, database_url) }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_of_one_name_the_older_ends_and_nothing_is_lost_or_doubled() {
    let (kafka, database) = stage().await;
    let config = named(&kafka, database.url(), "a");
    let older = Service::start_with(config.clone());
    produce_numbers(&kafka, 0..100).await;
    all_are_stored_once(&kafka, &database, 100).await;
    let younger = Service::start_with(config);
    let ended = format!("{:#}", older.ended().await);
    assert!(ended.contains("fenced"), "{ended}");
    produce_numbers(&kafka, 100..300).await;
    all_are_stored_once(&kafka, &database, 300).await;
    younger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_back_under_its_name_finds_its_place_kept() {
    let (kafka, database) = stage().await;
    let (stays, goes) = (named(&kafka, database.url(), "a"), named(&kafka, database.url(), "b"));
    let first = Service::start_with(stays);
    let second = Service::start_with(goes.clone());
    until("two members", async || (members(&kafka).len() == 2).then_some(())).await;
    produce_numbers(&kafka, 0..100).await;
    all_are_stored_once(&kafka, &database, 100).await;
    second.stop().await;
    assert_eq!(members(&kafka).len(), 2, "its partitions wait for it");
    produce_numbers(&kafka, 100..200).await;
    let second = Service::start_with(goes);
    all_are_stored_once(&kafka, &database, 200).await;
    assert!(second.metric("command_rows_inserted_total") > Some(0.0), "its partitions have moved");
    first.stop().await;
    second.stop().await;
}
