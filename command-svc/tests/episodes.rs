//! Alerts as rows of their episodes: whatever comes twice, late or broken.

use crate::support::{Service, config, produce, reading, rows_reach};
use command_svc::episodes::row::Row;
use command_svc::episodes::store::EpisodeStore;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rdkafka::message::OwnedHeaders;
use schema::dead_letter::{DeadLetter, Origin};
use schema::{Alert, Bound, EpisodeStep, Limit, Reason, Status, Timestamp, topics};
use std::collections::BTreeMap;
use std::time::Duration;
use testkit::kafka::{Kafka, SCALED_PARTITIONS};
use testkit::postgres::{Database, dialects};
use testkit::proxy::Proxy;
use testkit::wait::until;
use uuid::Uuid;

const GROUP: &str = "command-svc-episodes";
/// Everything that is known of every episode, in one text.
const FINGERPRINT: &str = "SELECT string_agg(e::text, '|' ORDER BY episode_id) FROM alert_episodes e";

fn golden(name: &str) -> Alert {
    let path = format!("{}/../schema/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The alert number `number` of an episode, a second after the one before.
fn alert(episode: u128, number: u64, step: EpisodeStep, value: f64) -> Alert {
    let at = |micros| {
        let start = Timestamp::parse("2026-01-02T03:00:00Z").unwrap();
        Timestamp::from_micros(start.as_micros() + micros).unwrap()
    };
    let seconds = i64::try_from(number).unwrap() * 1_000_000;
    let is_closed = step == EpisodeStep::Closed;
    Alert {
        alert_id: Uuid::from_u128(episode * 1_000 + u128::from(number)),
        status: if is_closed { Status::Resolved } else { Status::Firing },
        episode_id: Some(Uuid::from_u128(episode)),
        episode: Some(step),
        reason: Some(if is_closed { Reason::Recovered } else { Reason::Above }),
        sensor_id: format!("s{}", episode % 7),
        value: Some(value),
        occurrences: Some(if is_closed { number - 1 } else { number }),
        reading_at: at(seconds),
        detected_at: at(seconds + 100_000),
        opened_at: Some(at(1_000_000)),
        silenced_by: None,
        summary: Some(format!("{value} for the time number {number}")),
        ..golden("alert.1.episode")
    }
}

/// An episode of `count` violating readings, which is over unless it is a multiple of five.
fn story(episode: u128, count: u64) -> Vec<Alert> {
    let step = |number| if number == 1 { EpisodeStep::Opened } else { EpisodeStep::Continuing };
    let value = |number: u64| 30.0 + (number * 7 % 5) as f64;
    let mut story: Vec<_> =
        (1..=count).map(|number| alert(episode, number, step(number), value(number))).collect();
    if !episode.is_multiple_of(5) {
        story.push(alert(episode, count + 1, EpisodeStep::Closed, 28.0));
    }
    story
}

async fn tell(kafka: &Kafka, alerts: &[Alert]) {
    for alert in alerts {
        let value = serde_json::to_vec(alert).unwrap();
        kafka.produce(topics::ALERTS, &alert.sensor_id, Some(&value)).await;
    }
}

/// Waits until the group has committed whatever there is.
async fn all_is_done(kafka: &Kafka) {
    until("no lag of alerts", async || (kafka.lag(GROUP, topics::ALERTS) == 0).then_some(())).await;
}

async fn fingerprint(database: &Database) -> String {
    database.client().await.query_one(FINGERPRINT, &[]).await.unwrap().get(0)
}

fn joined(alerts: &[Alert]) -> BTreeMap<Uuid, Row> {
    let mut rows = BTreeMap::new();
    for alert in alerts {
        let (id, row) = (alert.episode_id.unwrap(), Row::of(alert.clone()).unwrap());
        let row = match rows.remove(&id) {
            Some(there) => Row::join(there, row),
            None => row,
        };
        rows.insert(id, row);
    }
    rows
}

fn store(database: &Database) -> EpisodeStore {
    EpisodeStore::new(database.settings().pool().unwrap(), Duration::from_secs(60))
}

/// Writes what the rows of these alerts are when they come all at once.
async fn expected(database: &Database, alerts: &[Alert]) -> String {
    let twin = Database::create_with(database.dialect).await;
    store(&twin).write(joined(alerts).values()).await.unwrap();
    fingerprint(&twin).await
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_are_told_as_one_row_of_their_episode() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let service = Service::start(&kafka, database.url());
    let mut story = story(1, 3);
    story[1].silenced_by = golden("alert.1.episode").silenced_by;
    tell(&kafka, &story[..3]).await;
    all_is_done(&kafka).await;
    let open = "SELECT count(*) FROM alert_episodes WHERE status = 'open' AND reason = 'above' \
                AND bound_limit = 'max' AND bound_value = 30 AND value_first = 32 AND value_last = 31 \
                AND value_min = 31 AND value_max = 34 AND occurrences = 3 AND closed_at IS NULL \
                AND opened_at = '2026-01-02T03:00:01Z' AND last_at = '2026-01-02T03:00:03Z' \
                AND silenced_by IS NULL AND display_name = 'Hall, north wall' AND unit = 'Cel' \
                AND summary = '31 for the time number 3' AND closing_reason IS NULL";
    assert_eq!(database.count(open).await, 1, "{}", fingerprint(&database).await);
    tell(&kafka, &story[3..]).await;
    all_is_done(&kafka).await;
    let closed = "SELECT count(*) FROM alert_episodes WHERE status = 'closed' AND closing_reason = 'recovered' \
                  AND closed_at = '2026-01-02T03:00:04Z' AND value_last = 28 AND value_min = 31 \
                  AND occurrences = 3 AND reason = 'above'";
    assert_eq!(database.count(closed).await, 1, "{}", fingerprint(&database).await);
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_alerts_and_any_repetition_leave_the_same_rows_in_every_dialect() {
    let mut alerts: Vec<Alert> =
        (1..=6_u32).flat_map(|episode| story(episode.into(), 1 + u64::from(episode) % 4)).collect();
    for (number, alert) in alerts.iter_mut().enumerate() {
        // Limits below, and alerts that no reading caused.
        if alert.episode_id == Some(Uuid::from_u128(2)) {
            alert.bound = Bound { limit: Limit::Min, value: 40.0 };
        }
        alert.value = alert.value.filter(|_| number % 5 != 0);
    }
    let twice: Vec<Alert> = alerts.iter().chain(&alerts).cloned().collect();
    let mut runner = TestRunner::deterministic();
    for dialect in dialects().await {
        let database = Database::create_with(dialect).await;
        let (store, expected) = (store(&database), expected(&database, &alerts).await);
        let client = database.client().await;
        for _ in 0..25 {
            client.batch_execute("DELETE FROM alert_episodes").await.unwrap();
            let told = Just(twice.clone()).prop_shuffle().new_tree(&mut runner).unwrap().current();
            let size = (1..7_usize).new_tree(&mut runner).unwrap().current();
            for batch in told.chunks(size) {
                store.write(joined(batch).values()).await.unwrap();
            }
            assert_eq!(fingerprint(&database).await, expected, "{dialect:?}, by {size}");
            let again = store.write(joined(&twice).values()).await.unwrap();
            assert_eq!(again, 0, "{dialect:?}: what changes nothing is not written");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_alert_of_an_episode_hold_nobody_up() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let refuse = "ALTER TABLE alert_episodes ADD CONSTRAINT thirteen CHECK (value_last <> 13)";
    database.client().await.batch_execute(refuse).await.unwrap();
    let good = story(1, 2);
    tell(&kafka, &good[..1]).await;
    kafka.produce_with_headers(topics::ALERTS, "s1", Some(b"{"), OwnedHeaders::new()).await;
    kafka.produce(topics::ALERTS, "s1", None).await;
    tell(&kafka, &[golden("alert.1"), alert(2, 1, EpisodeStep::Opened, 13.0)]).await;
    tell(&kafka, &good[1..]).await;
    let service = Service::start(&kafka, database.url());
    all_is_done(&kafka).await;
    assert_eq!(fingerprint(&database).await, expected(&database, &good).await);
    assert_eq!(service.metric("command_alerts_without_episode_total"), Some(1.0));
    assert_eq!(service.metric("command_dead_letters_total"), Some(3.0));
    let mut reasons = Vec::new();
    for record in kafka.read_all(topics::READING_DLQ).await {
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
        let letter = DeadLetter::read(headers).unwrap();
        let Some(Origin { topic, place: Some(_) }) = letter.origin else { panic!("{record:?}") };
        assert_eq!(topic, kafka.settings().topic(topics::ALERTS.name));
        reasons.push(letter.reason);
    }
    reasons.sort();
    assert_eq!(reasons, ["database-refused", "not-an-alert", "not-an-alert"]);
    service.ready().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_wait_while_the_database_is_away_and_an_outage_costs_no_membership() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let (proxy, url) = Proxy::before(database.url()).await;
    let service = Service::start(&kafka, &url);
    tell(&kafka, &story(1, 2)).await;
    all_is_done(&kafka).await;
    service.ready().await;
    proxy.cut();
    let alerts: Vec<Alert> = (2..60).flat_map(|episode| story(episode, 20)).collect();
    tell(&kafka, &alerts).await;
    until("not ready", async || service.chassis.readiness.closed().contains(&"episodes").then_some(())).await;
    until("several tries", async || (service.metric("command_episodes_retries_total")? >= 3.0).then_some(()))
        .await;
    until("every partition paused", async || {
        let paused = service.metric("command_episodes_partitions_paused")?;
        (paused == f64::from(SCALED_PARTITIONS)).then_some(())
    })
    .await;
    proxy.mend();
    all_is_done(&kafka).await;
    let all: Vec<Alert> = story(1, 2).into_iter().chain(alerts).collect();
    assert_eq!(fingerprint(&database).await, expected(&database, &all).await);
    service.ready().await;
    assert_eq!(service.metric("command_episodes_stalls_total"), Some(0.0));
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_are_killed_leave_every_episode_as_it_was_told() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let alerts: Vec<Alert> = (1..=80).flat_map(|episode| story(episode, 9)).collect();
    let mut older = Service::start(&kafka, database.url());
    for part in alerts.chunks(alerts.len() / 6) {
        tell(&kafka, part).await;
        let younger = Service::start(&kafka, database.url());
        until("a part of it", async || {
            (kafka.lag(GROUP, topics::ALERTS) < i64::try_from(part.len()).unwrap()).then_some(())
        })
        .await;
        std::mem::replace(&mut older, younger).kill().await;
    }
    all_is_done(&kafka).await;
    assert_eq!(fingerprint(&database).await, expected(&database, &alerts).await);
    older.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_of_episodes_does_not_hold_up_readings() {
    let (kafka, database) = (Kafka::create().await, Database::create().await);
    let holder = database.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE alert_episodes IN EXCLUSIVE MODE").await.unwrap();
    tell(&kafka, &story(1, 2)).await;
    let service = Service::start(&kafka, database.url());
    for number in 0..50 {
        produce(&kafka, &reading("s", number, "2026-01-02T03:04:05Z", 1.0)).await;
    }
    rows_reach(&database, 50).await;
    assert_eq!(database.count("SELECT count(*) FROM alert_episodes").await, 0, "nobody holds it");
    holder.batch_execute("ROLLBACK").await.unwrap();
    all_is_done(&kafka).await;
    assert_eq!(database.count("SELECT count(*) FROM alert_episodes").await, 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn episodes_closed_long_ago_are_deleted_and_open_ones_are_not() {
    for dialect in dialects().await {
        let (kafka, database) = (Kafka::create().await, Database::create_with(dialect).await);
        let alerts: Vec<Alert> = (1..=12).flat_map(|episode| story(episode, 1)).collect();
        store(&database).write(joined(&alerts).values()).await.unwrap();
        let recent = "UPDATE alert_episodes SET closed_at = now() - interval '40 days' \
                      WHERE episode_id = '00000000-0000-0000-0000-000000000001'";
        database.client().await.batch_execute(recent).await.unwrap();
        let mut config = config(&kafka, database.url());
        config.episode_days = 41;
        let service = Service::start_with(config);
        until("old episodes are gone", async || {
            (database.count("SELECT count(*) FROM alert_episodes").await == 3).then_some(())
        })
        .await;
        let open = database.count("SELECT count(*) FROM alert_episodes WHERE status = 'open'").await;
        assert_eq!((open, service.metric("command_episodes_deleted_total")), (2, Some(9.0)), "{dialect:?}");
        service.stop().await;
    }
}
