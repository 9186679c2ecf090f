//! An episode as its readers see it, from the reading to whoever is told: topic, read model, webhook.

use e2e::{Publisher, Service, System, complaints};
use schema::{Alert, EpisodeStep, Reason, Timestamp, topics};
use serde_json::{Value, json};
use testkit::kafka::Reader;
use testkit::wait::until;
use testkit::webhook::Server;

/// Readings of an episode that violate.
const VIOLATIONS: u64 = 3;

async fn create(system: &System, service: &Service, path: &str, body: &Value) -> Value {
    let (status, answer) = system.rest(service, "POST", path, Some(body)).await;
    assert_eq!(status, 201, "{answer}");
    answer
}

/// Waits until alerting-svc shows a gauge at that value.
async fn alerting_shows(system: &System, gauge: &str, value: u64) {
    let line = format!("{gauge} {value}");
    until(&line, async || {
        system.metrics(Service::ALERTING).await.lines().any(|one| one == line).then_some(())
    })
    .await;
}

/// Publishes violations, and returns the one alert of them.
async fn opened(publisher: &mut Publisher, alerts: &Reader) -> Alert {
    for number in 1..=VIOLATIONS {
        let reading = json!({"temperature": 30 + number, "units": {"temperature": "Cel"}});
        publisher.publish(&reading.to_string()).await;
    }
    next(alerts, EpisodeStep::Opened).await
}

/// Publishes a value inside the limits, and returns the alert of it.
async fn closed(publisher: &mut Publisher, alerts: &Reader) -> Alert {
    publisher.publish(r#"{"temperature": 20}"#).await;
    let alert = next(alerts, EpisodeStep::Closed).await;
    assert_eq!((alert.reason, alert.occurrences), (Some(Reason::Recovered), Some(VIOLATIONS)));
    alert
}

async fn next(alerts: &Reader, step: EpisodeStep) -> Alert {
    let record = alerts.next().await;
    let complaints = complaints("alert.1", &serde_json::from_str(record.text()).unwrap());
    assert!(complaints.is_empty(), "{complaints:?} in {}", record.text());
    let alert: Alert = serde_json::from_str(record.text()).unwrap();
    assert_eq!(alert.episode, Some(step), "{alert:?}");
    alert
}

/// Waits until query-svc lists one episode with these filters, and returns it.
async fn listed(system: &System, filters: &str) -> Value {
    let path = format!("/api/v1/alerts?{filters}");
    until(&path, async || {
        let (status, page) = system.rest(Service::QUERY, "GET", &path, None).await;
        assert_eq!(status, 200, "{page}");
        let episodes = page["resources"].as_array().unwrap();
        assert!(episodes.len() <= 1, "{page}");
        episodes.first().cloned()
    })
    .await
}

/// Runs `iotctl`, and returns the lines of JSON that it prints.
async fn iotctl(system: &System, arguments: &[&str]) -> Vec<Value> {
    let output = system.iotctl(arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a webhook has taken that number of calls, and returns the alerts in them.
async fn told(webhook: &Server, count: usize) -> Vec<Alert> {
    until(&format!("{count} calls"), async || (webhook.taken().len() >= count).then_some(())).await;
    webhook.taken().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_episode_is_one_alert_for_each_of_its_readers_and_a_silenced_one_wakes_nobody() {
    let (mut system, webhook) = (System::start().await, Server::start().await);
    system.start_notify(&json!([{"name": "ops", "format": "json", "url": webhook.url()}])).await;
    let mut devices = Vec::new();
    for sensor_id in ["thermostat-1", "thermostat-2"] {
        let certificate = system.register(sensor_id).await;
        devices.push(system.publisher(sensor_id, certificate));
    }
    let alerts = system.kafka.read(topics::ALERTS);
    let rule = json!({
        "deviceType": "THERMOSTAT", "metric": "temperature", "max": 30, "severity": "critical", "repeat": "never",
        "description": "too hot",
    });
    let rule = create(&system, Service::THRESHOLD, "/api/v1/thresholds", &rule).await;
    alerting_shows(&system, "alerting_thresholds_records", 1).await;

    // Opened.
    let first = opened(&mut devices[0], &alerts).await;
    assert_eq!(json!(first.threshold_id), rule["thresholdId"]);
    let summary = "thermostat-1: temperature 31 Cel is above 30 Cel (too hot)";
    assert_eq!((first.summary.as_deref(), first.silenced_by), (Some(summary), None));
    let episode = listed(&system, "state=open&sensorId=thermostat-1").await;
    assert_eq!(episode["episodeId"], json!(first.episode_id));
    assert_eq!((&episode["unit"], &episode["summary"]), (&json!("Cel"), &json!(summary)));
    assert_eq!(told(&webhook, 1).await, std::slice::from_ref(&first));

    // Acknowledged.
    let episode_id = first.episode_id.unwrap().to_string();
    assert_eq!(iotctl(&system, &["alerts", "list", "--acknowledged", "true"]).await, Vec::<Value>::new());
    iotctl(&system, &["alerts", "ack", &episode_id, "--note", "on my way"]).await;
    let episode = listed(&system, "acknowledged=true").await;
    assert_eq!(episode["acknowledgement"]["note"], "on my way");
    assert_eq!(episode["acknowledgement"]["acknowledgedBy"], "e2e");

    // Closed, in all places.
    let last = closed(&mut devices[0], &alerts).await;
    assert_eq!(last.episode_id, first.episode_id);
    let episode = listed(&system, "state=closed&sensorId=thermostat-1").await;
    assert_eq!(
        (&episode["closingReason"], &episode["occurrences"]),
        (&json!("recovered"), &json!(VIOLATIONS))
    );
    assert_eq!(told(&webhook, 2).await, [first.clone(), last.clone()]);
    alerting_shows(&system, "alerting_open_episodes", 0).await;

    // Silenced.
    let ends_at = Timestamp::from_micros(Timestamp::now().as_micros() + 3_600_000_000).unwrap();
    let silence = json!({"sensorId": "thermostat-2", "endsAt": ends_at, "comment": "painters"});
    let silence = create(&system, Service::THRESHOLD, "/api/v1/silences", &silence).await;
    alerting_shows(&system, "alerting_silences_records", 1).await;
    let silenced = opened(&mut devices[1], &alerts).await;
    assert_eq!(json!(silenced.silenced_by), silence["silenceId"], "marked, and on the topic");
    let episode = listed(&system, "state=open&silenced=true").await;
    assert_eq!(
        (&episode["sensorId"], &episode["silence"]["comment"]),
        (&json!("thermostat-2"), &json!("painters"))
    );
    let end = closed(&mut devices[1], &alerts).await;
    assert_eq!(json!(end.silenced_by), silence["silenceId"]);
    listed(&system, "state=closed&silenced=true").await;
    let ids = async |options: &[&str]| {
        let listed = iotctl(&system, &[&["alerts", "list"], options].concat()).await;
        listed.iter().map(|one| one["episodeId"].clone()).collect::<Vec<_>>()
    };
    let (newer, older) = (json!(silenced.episode_id), json!(first.episode_id));
    assert_eq!(ids(&["--only", "closed", "--metric", "temperature"]).await, [newer.clone(), older.clone()]);
    assert_eq!(ids(&["--silenced", "false", "--acknowledged", "true"]).await, [older]);
    assert_eq!(ids(&["--limit", "1"]).await, [newer]);
    assert_eq!(ids(&["--only", "open"]).await, Vec::<Value>::new());
    until("notify-svc to have passed over what is silenced", async || {
        (system.metric(Service::NOTIFY, "notify_passed_over_total", "ops").await >= 2.0).then_some(())
    })
    .await;
    assert_eq!(told(&webhook, 2).await, [first, last]);
    assert_eq!(system.kafka.read_all(topics::ALERTS).await.len(), 4);
}
