//! From a device's PUBLISH to an analyst's hour and a consumer's alert.

use e2e::{Service, System, complaints};
use schema::{Alert, Limit, Status, topics};
use serde_json::{Value, json};

/// Takes a message off a live topic and holds it against the schema that consumers are given.
async fn keeps_its_schema(system: &System, topic: topics::Topic, schema: &str) {
    let record = system.kafka.read(topic).next().await;
    let message: Value = serde_json::from_str(record.text()).unwrap();
    let complaints = complaints(schema, &message);
    assert!(complaints.is_empty(), "{}: {complaints:?} in {message}", topic.name);
}

async fn hours(system: &System, sensor_id: &str) -> Vec<Value> {
    let path = format!(
        "/api/v1/sensors/{sensor_id}/aggregates/hourly?metric=temperature&from=2026-01-02T00:00:00Z&to=2026-01-03T00:00:00Z"
    );
    let (status, answer) = system.rest(Service::QUERY, "GET", &path, None).await;
    if status == 404 {
        // An alert may be faster than the first row, and until then nobody knows the sensor.
        return Vec::new();
    }
    assert_eq!(status, 200, "{answer}");
    answer["resources"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_reading_becomes_a_row_an_hour_a_latest_value_and_an_alert() {
    let system = System::start().await;
    let certificate = system.register("thermostat-1").await;
    let threshold = system.create_threshold("thermostat-1", "temperature", 30.0).await;
    let alerts = system.kafka.read(topics::ALERTS);
    let mut device = system.publisher("thermostat-1", certificate);

    // The threshold travels by change data capture: publish until it is in force.
    // A reading from before the threshold would be evaluated by none.
    let alert: Alert = testkit::wait::until("an alert", async || {
        device.publish(r#"{"temperature": 31.5}"#).await;
        let record = alerts.next_within(std::time::Duration::from_millis(500)).await?;
        assert_eq!(record.key, b"thermostat-1");
        Some(serde_json::from_str(record.text()).unwrap())
    })
    .await;
    assert_eq!((alert.status, alert.bound.limit, alert.bound.value), (Status::Firing, Limit::Max, 30.0));
    assert_eq!((alert.value, alert.zone_id.as_str(), alert.threshold_version), (Some(31.5), "kitchen", 1));
    assert_eq!(alert.threshold_id.to_string(), threshold["thresholdId"].as_str().unwrap());

    device.publish(r#"{"temperature": 10, "timestamp": "2026-01-02T04:00:00Z"}"#).await;
    device.publish(r#"{"temperature": 20, "timestamp": "2026-01-02T04:30:00Z"}"#).await;
    device.publish(r#"{"temperature": 20, "timestamp": "2026-01-02T04:30:00Z"}"#).await; // sent again: the same event
    let hour = testkit::wait::until("the hour of two readings", async || {
        // The readings that waited for their alert are in another hour, perhaps two of them.
        let bucket = |hour: &Value| hour["bucket"].as_str().unwrap().starts_with("2026-01-02T04:00:00");
        hours(&system, "thermostat-1").await.into_iter().find(|hour| bucket(hour) && hour["count"] == 2)
    })
    .await;
    assert_eq!((&hour["avg"], &hour["min"], &hour["max"]), (&json!(15.0), &json!(10.0), &json!(20.0)));
    let (status, latest) =
        system.rest(Service::QUERY, "GET", "/api/v1/readings/latest?sensorId=thermostat-1", None).await;
    assert_eq!(status, 200);
    assert_eq!((&latest["total"], &latest["resources"][0]["value"]), (&json!(1), &json!(31.5)));

    keeps_its_schema(&system, topics::READINGS, "reading-created.1").await;
    keeps_its_schema(&system, topics::ALERTS, "alert.1").await;
    keeps_its_schema(&system, topics::DEVICE_UPDATES, "device-change.1").await;
    keeps_its_schema(&system, topics::THRESHOLD_UPDATES, "threshold-change.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_changed_by_rest_changes_the_next_readings_outcome() {
    let system = System::start().await;
    let certificate = system.register("thermostat-1").await;
    let created = system.create_threshold("thermostat-1", "temperature", 100.0).await;
    let alerts = system.kafka.read(topics::ALERTS);
    let mut device = system.publisher("thermostat-1", certificate);
    device.publish(r#"{"temperature": 50}"#).await;

    let id = created["thresholdId"].as_str().unwrap();
    let path = format!("/api/v1/thresholds/{id}");
    let changed =
        json!({"sensorId": "thermostat-1", "metric": "temperature", "max": 40.0, "severity": "info"});
    let (status, answer) = system.rest(Service::THRESHOLD, "PUT", &path, Some(&changed)).await;
    assert_eq!((status, &answer["version"]), (200, &json!(2)), "{answer}");
    let alert: Alert = testkit::wait::until("an alert of the changed threshold", async || {
        device.publish(r#"{"temperature": 51}"#).await;
        let record = alerts.next_within(std::time::Duration::from_millis(500)).await?;
        Some(serde_json::from_str(record.text()).unwrap())
    })
    .await;
    assert_eq!(
        (alert.value, alert.threshold_version),
        (Some(51.0), 2),
        "the reading before the change made no alert"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_payload_is_acknowledged_and_kept_with_its_reason() {
    let system = System::start().await;
    let certificate = system.register("thermostat-1").await;
    let mut device = system.publisher("thermostat-1", certificate);
    device.publish("21.5 degrees").await;
    let letter = system.kafka.read(topics::PRODUCER_DLQ).next().await;
    assert_eq!((letter.key.as_slice(), letter.text()), (&b"thermostat-1"[..], "21.5 degrees"));
    assert!(letter.header("reason").is_some_and(|reason| !reason.is_empty()), "{:?}", letter.headers);
}
