//! Each record once: killed, doubled, moved, told lies about offsets.

use crate::support::{Stage, readings};
use lake_svc::buffer::Record;
use lake_svc::cut::Cut;
use lake_svc::file::files_of;
use lake_svc::lake::{Error, Lake, Location};
use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use schema::topics;
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::wait::{PATIENCE, until};

/// Points at which a process is killed.
const KILLS: u32 = 6;
const READINGS: u32 = 9_000;

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_lake_holds_every_reading_once() {
    let stage = Stage::set().await;
    let all = readings(0..READINGS);
    let publishing = async {
        for some in all.chunks(200) {
            stage.publish(some).await;
            tokio::time::sleep(Duration::from_millis(50)).await; // a pace, so that they are killed at work
        }
    };
    let killing = async {
        for kill in 1..=KILLS {
            let (process, before) = (stage.spawn(&[]), stage.files().len());
            // Further on each time, at a point that only the scheduler knows.
            until("new files", async || (stage.files().len() > before + 1).then_some(())).await;
            tokio::time::sleep(Duration::from_millis(u64::from(kill * 7_919 % 97))).await;
            process.kill();
        }
    };
    tokio::join!(publishing, killing);
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_was_begun_is_completed_as_it_was_decided() {
    let stage = Stage::set().await;
    let first = readings(0..700);
    stage.publish(&first).await;
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    // As a crash behind the manifest leaves it: for one partition no file of the last cut, for the next not
    // all of them.
    let before = stage.rows();
    let mut removed = 0;
    for partition in 0..testkit::kafka::SCALED_PARTITIONS {
        let Some((first, _)) = stage.cuts(partition).pop_last() else { continue };
        let files = stage.files().into_iter().filter(|path| {
            let path = path.to_str().unwrap();
            path.contains(&format!("/part={partition}/{first:020}-"))
        });
        for path in files.take(if partition % 2 == 0 { 9 } else { 1 }) {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 2, "{removed}");
    assert!(stage.rows().len() < before.len());

    // More has come, and another size was set: neither may change what was decided.
    let second = readings(700..1_500);
    stage.publish(&second).await;
    let process = stage.spawn(&[("FILE_RECORDS_MAX", "37")]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    let after = stage.rows();
    assert!(before.iter().all(|(origin, row)| after.get(origin) == Some(row)));
    stage.holds_exactly(&[first, second].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_go_share_the_partitions_and_double_nothing() {
    let stage = Stage::set().await;
    let all = readings(0..6_000);
    let publishing = async {
        for some in all.chunks(100) {
            stage.publish(some).await;
            tokio::time::sleep(Duration::from_millis(50)).await; // a pace, so that they come and go meanwhile
        }
    };
    let grows = async || {
        let before = stage.files().len();
        until("new files", async || (stage.files().len() > before + 2).then_some(())).await;
    };
    let coming_and_going = async {
        let one = stage.spawn(&[]);
        grows().await;
        let two = stage.spawn(&[]);
        two.is_ready(true).await;
        grows().await;
        let three = stage.spawn(&[]);
        three.is_ready(true).await;
        grows().await;
        assert_eq!(two.stop().await, Some(0));
        grows().await;
        one.kill();
        three
    };
    let (last, ()) = tokio::join!(coming_and_going, publishing);
    stage.holds_all().await;
    until("the group knows it, also of partitions without a further record", async || {
        (last.metric("lake_lag_records").await? == 0.0).then_some(())
    })
    .await;
    assert_eq!(last.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_frozen_and_replaced_adds_nothing_when_it_wakes() {
    let stage = Stage::set().await;
    // It gathers until it is frozen with records in its memory, and cuts by number.
    let frozen = stage.spawn(&[("FILE_AGE_MS_MAX", "3000"), ("FILE_RECORDS_MAX", "1000")]);
    frozen.is_ready(true).await;
    let first = readings(0..500);
    stage.publish(&first).await;
    until("records in memory", async || (frozen.metric("lake_buffered_bytes").await? > 0.0).then_some(()))
        .await;
    frozen.signal(Signal::SIGSTOP);
    let second = stage.spawn(&[]);
    let more = readings(500..1_500);
    stage.publish(&more).await;
    stage.holds_all().await; // the group has given its partitions away
    frozen.signal(Signal::SIGCONT);
    until("the woken one to see that it was outrun or replaced", async || {
        (frozen.metric("lake_buffered_bytes").await? == 0.0).then_some(())
    })
    .await;
    let all = [first, more, readings(1_500..2_000)].concat();
    stage.publish(&all[1_500..]).await;
    stage.holds_all().await;
    assert_eq!(second.stop().await, Some(0));
    assert_eq!(frozen.stop().await, Some(0));
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_cuts_that_begin_at_one_offset_the_first_stands() {
    let stage = Stage::set().await;
    let process = stage.spawn(&[("FILE_AGE_MS_MAX", "3600000")]);
    process.is_ready(true).await;
    let first = readings(0..40);
    stage.publish(&first).await;
    until("records in memory", async || (process.metric("lake_buffered_bytes").await? > 0.0).then_some(()))
        .await;

    // What another instance does that holds the partitions for its own: it cuts elsewhere.
    let lake = Lake::open(&Location::Folder(stage.folder.path().to_owned()), PATIENCE).unwrap();
    let reader = stage.kafka.read(topics::READINGS);
    let mut partitions: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for _ in 0..first.len() {
        let testkit::kafka::Record { partition, offset, value, .. } = reader.next().await;
        partitions.entry(partition).or_default().push(Record { offset, value });
    }
    for (partition, records) in &partitions {
        let cut = Cut { partition: *partition, first: 0, last: 2 };
        let files = files_of(cut, &records[..3]).unwrap();
        lake.write(&cut, &files).await.unwrap();
        lake.write(&cut, &files).await.unwrap(); // again, as after an answer that was lost
        let other = Cut { last: 3, ..cut };
        let outrun = lake.write(&other, &files_of(other, &records[..4]).unwrap()).await.unwrap_err();
        assert!(matches!(outrun, Error::Outrun), "{outrun:?}");
    }

    let more = readings(40..1_500);
    stage.publish(&more).await;
    until("the one that came second to see it", async || {
        let outrun = process.metric("lake_cuts_outrun_total").await?;
        (outrun >= partitions.len() as f64).then_some(())
    })
    .await;
    assert_eq!(process.stop().await, Some(0));
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    stage.holds_exactly(&[first, more].concat());
}

/// Moves the group's offset of every partition.
fn commit(stage: &Stage, to: Offset) {
    let settings = stage.kafka.settings();
    let consumer: BaseConsumer = settings.consumer("lake-svc").create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in 0..testkit::kafka::SCALED_PARTITIONS {
        offsets.add_partition_offset(&settings.topic(topics::READINGS.name), partition, to).unwrap();
    }
    consumer.commit(&offsets, CommitMode::Sync).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_offsets_may_be_lost_or_wrong() {
    let stage = Stage::set().await;
    let mut all = readings(0..800);
    stage.publish(&all).await;
    let process = stage.spawn(&[]);
    stage.holds_all().await;
    assert_eq!(process.stop().await, Some(0));
    // Back at the beginning, as after a loss; in the middle of a cut; beyond what was read, as after a
    // mistake.
    for (to, numbers) in [(0, 800..1_000), (150, 1_000..1_200), (400, 1_200..2_400)] {
        commit(&stage, Offset::Offset(to));
        let more = readings(numbers);
        stage.publish(&more).await;
        all.extend(more);
        let process = stage.spawn(&[]);
        stage.holds_all().await;
        assert_eq!(process.stop().await, Some(0));
    }
    stage.holds_exactly(&all);
}
