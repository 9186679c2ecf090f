//! What the service says and does when something is wrong, and how it ends.

use crate::support::{Stage, reading, readings};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use schema::topics;
use testkit::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_hand_at_sigterm_is_in_files_before_it_ends() {
    let stage = Stage::set().await;
    let all = readings(0..50);
    // Neither number nor age would cut.
    let process = stage.spawn(&[("FILE_RECORDS_MAX", "100000"), ("FILE_AGE_MS_MAX", "3600000")]);
    process.is_ready(true).await;
    stage.publish(&all).await;
    let held = 50 * serde_json::to_vec(&all[0]).unwrap().len();
    until("all in memory", async || {
        (process.metric("lake_buffered_bytes").await? >= held as f64).then_some(())
    })
    .await;
    assert!(stage.files().is_empty());
    assert_eq!(process.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_however_many_partitions_there_are() {
    let stage = Stage::set().await;
    let all = readings(0..2_000);
    stage.publish(&all).await;
    // No partition comes to its own limit before all of them come to theirs.
    let bounds = [
        ("FILE_RECORDS_MAX", "100000"),
        ("FILE_AGE_MS_MAX", "3600000"),
        ("FILE_BYTES_MAX", "40000"),
        ("BUFFER_BYTES_MAX", "60000"),
    ];
    let process = stage.spawn(&bounds);
    until("most of it in files", async || {
        assert!(process.metric("lake_buffered_bytes").await? < 62_000.0);
        (process.metric("lake_rows_total").await? > 3_000.0).then_some(())
    })
    .await;
    assert_eq!(process.stop().await, Some(0));
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_readings_go_to_their_own_day_and_no_reading_to_none() {
    let stage = Stage::set().await;
    let days = [
        "2026-01-02T00:00:00Z",
        "2026-01-01T23:59:59.999999Z",
        "2020-02-29T12:00:00Z",
        "1969-12-31T23:59:59Z",
    ];
    let all: Vec<_> = (0..).zip(days).map(|(number, at)| reading(number, at)).collect();
    let process = stage.spawn(&[]);
    process.is_ready(true).await;
    stage.publish(&all[..2]).await;
    stage.holds_all().await;
    stage.kafka.produce(topics::READINGS, "s0", Some(b"no reading")).await;
    stage.kafka.produce(topics::READINGS, "s0", None).await;
    stage.publish(&all[2..]).await;
    stage.holds_all().await;
    until("two records that are no readings", async || {
        (process.metric("lake_undecodable_records_total").await? == 2.0).then_some(())
    })
    .await;
    assert_eq!(process.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_not_mixed_with_the_one_before() {
    let stage = Stage::set().await;
    stage.publish(&readings(0..300)).await;
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));

    let settings = stage.kafka.settings();
    let topic = settings.topic(topics::READINGS.name);
    let admin: AdminClient<DefaultClientContext> = settings.client().create().unwrap();
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    until("the topic made anew", async || {
        // Refused while the one before is still being deleted.
        let new = NewTopic::new(&topic, testkit::kafka::SCALED_PARTITIONS, TopicReplication::Fixed(1));
        admin.create_topics([&new], &AdminOptions::new()).await.unwrap()[0].as_ref().ok().map(|_| ())
    })
    .await;
    let before = stage.files();
    let mut process = stage.spawn(&[]);
    assert_eq!(process.ended().await, Some(1));
    assert_eq!(stage.files(), before);
}
