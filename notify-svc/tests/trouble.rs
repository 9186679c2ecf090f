//! Targets that fail, and a service that is killed: nothing is lost, and nobody waits for another.

use crate::{Service, alert, all_is_done, lag, target, tell};
use schema::dead_letter::DeadLetter;
use schema::{Alert, EpisodeStep, Timestamp, topics};
use serde_json::json;
use std::collections::BTreeSet;
use testkit::kafka::Kafka;
use testkit::wait::until;
use testkit::webhook::{Answer, Request, Server};

fn ids(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| request.headers["idempotency-key"].clone()).collect()
}

async fn letters(kafka: &Kafka) -> Vec<(String, String)> {
    let mut letters = Vec::new();
    for record in kafka.read_all(topics::NOTIFY_DLQ).await {
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_bytes())));
        let letter = DeadLetter::read(headers).unwrap();
        letters.push((letter.reason, letter.detail.unwrap()));
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_fails_in_every_way_gets_every_alert_in_the_order_of_its_episode() {
    let (kafka, server) = (Kafka::create().await, Server::start().await);
    server.answer_next([
        Answer::Reset,
        Answer::Hang,
        Answer::Status(429, "Retry-After: 1\r\n"),
        Answer::Status(200, ""),
        Answer::Status(500, ""),
        Answer::Garbage,
        Answer::Slow,
        Answer::Status(204, ""),
        Answer::Status(302, "Location: http://127.0.0.1:1/\r\n"),
        Answer::Status(401, ""),
        Answer::Status(503, ""),
    ]);
    let alerts = [
        alert(1, 1, EpisodeStep::Opened),
        alert(1, 2, EpisodeStep::Continuing),
        alert(1, 3, EpisodeStep::Closed),
    ];
    tell(&kafka, &alerts).await;
    let service = Service::start(&kafka, &[target("ops", &server, &json!({"continuing": true}))]);
    all_is_done(&kafka, "ops").await;
    let expected: Vec<String> = alerts.iter().map(|alert| alert.alert_id.to_string()).collect();
    assert_eq!(ids(&server.taken()), expected, "each once, in order");
    assert_eq!(server.requests().len(), 12, "nine calls in vain");
    assert_eq!(letters(&kafka).await, []);
    assert!(service.metric("notify_retries_total", "ops") >= 9.0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_body_breaks_off_is_an_answer() {
    let (kafka, server) = (Kafka::create().await, Server::start().await);
    server.answer_next([Answer::HalfBody]);
    tell(&kafka, &[alert(1, 1, EpisodeStep::Opened)]).await;
    let service = Service::start(&kafka, &[target("ops", &server, &json!({}))]);
    all_is_done(&kafka, "ops").await;
    assert_eq!(server.requests().len(), 1);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_target_will_never_take_is_a_dead_letter_and_the_rest_goes_on() {
    let (kafka, server) = (Kafka::create().await, Server::start().await);
    server.answer_next([Answer::Status(422, "")]);
    let old = Alert {
        detected_at: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(),
        ..alert(2, 1, EpisodeStep::Opened)
    };
    tell(&kafka, &[alert(1, 1, EpisodeStep::Opened), old, alert(1, 2, EpisodeStep::Closed)]).await;
    let service = Service::start(&kafka, &[target("ops", &server, &json!({}))]);
    all_is_done(&kafka, "ops").await;
    assert_eq!(ids(&server.taken()), [alert(1, 2, EpisodeStep::Closed).alert_id.to_string()]);
    // One over which the target fails, whatever else it takes.
    server.answer_all(Some(Answer::Status(500, "")));
    tell(&kafka, &[alert(3, 1, EpisodeStep::Opened)]).await;
    all_is_done(&kafka, "ops").await;
    let mut letters = letters(&kafka).await;
    letters.sort();
    let reasons: Vec<&str> = letters.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(reasons, ["target-failed", "target-refused", "too-old"]);
    assert!(letters[1].1.contains("target ops: answered 422"), "{letters:?}");
    assert_eq!(service.metric("notify_dead_letters_total", "ops"), 3.0);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_holds_up_nobody_else_and_gets_everything_when_it_is_back() {
    let kafka = Kafka::create().await;
    let (away, other) = (Server::start().await, Server::start().await);
    away.answer_all(Some(Answer::Reset));
    let targets = [target("away", &away, &json!({})), target("other", &other, &json!({}))];
    let service = Service::start(&kafka, &targets);
    let alerts: Vec<Alert> = (1..=100).map(|episode| alert(episode, 1, EpisodeStep::Opened)).collect();
    tell(&kafka, &alerts).await;
    all_is_done(&kafka, "other").await;
    assert_eq!(other.taken().len(), 100);
    until("circuit open", async || (service.metric("notify_circuit_open", "away") == 1.0).then_some(()))
        .await;
    assert!(lag(&kafka, "notify-svc-away") > Some(0));
    service.ready().await;
    away.answer_all(None);
    all_is_done(&kafka, "away").await;
    let told: BTreeSet<String> = ids(&away.taken()).into_iter().collect();
    assert_eq!(told.len(), 100);
    assert_eq!(service.metric("notify_circuit_open", "away"), 0.0);
    assert_eq!(letters(&kafka).await, []);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_at_any_point_loses_no_alert() {
    let (kafka, server) = (Kafka::create().await, Server::start().await);
    let targets = [target("ops", &server, &json!({"continuing": true}))];
    let steps = [EpisodeStep::Opened, EpisodeStep::Continuing, EpisodeStep::Closed];
    let story = |episode| (1..=3).zip(steps).map(move |(number, step)| alert(episode, number, step));
    let alerts: Vec<Alert> = (1..=60).flat_map(story).collect();
    for part in alerts.chunks(60) {
        tell(&kafka, part).await;
        let service = Service::start(&kafka, &targets);
        let before = server.taken().len();
        until("a part of it", async || (server.taken().len() > before + 10).then_some(())).await;
        service.kill().await;
    }
    let service = Service::start(&kafka, &targets);
    all_is_done(&kafka, "ops").await;
    let taken = ids(&server.taken());
    for episode in 1..=60 {
        let expected: Vec<String> = story(episode).map(|alert| alert.alert_id.to_string()).collect();
        let mut first_times: Vec<&String> = Vec::new();
        for id in taken.iter().filter(|id| expected.contains(id)) {
            if !first_times.contains(&id) {
                first_times.push(id);
            }
        }
        assert_eq!(
            first_times,
            expected.iter().collect::<Vec<_>>(),
            "all of it, for the first time in order"
        );
    }
    service.stop().await;
}
