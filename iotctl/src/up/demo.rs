//! The demo devices of a local platform, the proof that their readings come through, and what a newcomer can
//! try.

use crate::api::{Api, NewDevice, NewThreshold, resources};
use crate::pki::Pki;
use crate::progress::Progress;
use crate::services::{Protocol, Service};
use crate::simulate::Profile;
use crate::state::{KAFKA_PORT, Ports, State};
use anyhow::{Context as _, Result, bail};
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use schema::{Alert, topics};
use serde_json::Value;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout};

/// Longest time for a reading to every place where it is waited for; seconds are usual.
const THROUGH_WITHIN: Duration = Duration::from_secs(60);
/// Interval between looks at a REST resource meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The devices that are registered, each with its profile. Nobody simulates the first: it is the newcomer's.
const DEVICES: [(&str, Profile); 3] = [
    ("thermostat-1", Profile::Thermostat),
    ("heart-rate-1", Profile::HeartRate),
    ("car-fuel-1", Profile::CarFuel),
];
/// The devices that the simulator plays; it registers the one that is not of the three.
pub(super) const SIMULATED: [&str; 3] = ["heart-rate-1", "car-fuel-1", "thermostat-2"];
/// The simulated device that is watched, and its metric.
const WATCHED: (&str, &str) = ("heart-rate-1", "heart_rate");

/// Registers the devices with their certificates, and the thresholds, as far as they are not there.
pub(super) async fn register(api: &Api, pki: &Pki) -> Result<String> {
    for (sensor_id, profile) in DEVICES {
        let device = NewDevice {
            sensor_id,
            display_name: sensor_id,
            device_type: profile.device_type(),
            zone_id: profile.zone_id(),
            codec: "json",
            fingerprints: vec![pki.device_files(sensor_id)?.fingerprint_sha256_hex],
        };
        api.register(&device).await?;
    }
    let thresholds = [
        NewThreshold {
            sensor_id: "thermostat-1",
            metric: "temperature",
            min: 10.0,
            max: 30.0,
            severity: "warning",
            description: "a hall is neither that cold nor that warm",
        },
        NewThreshold {
            sensor_id: WATCHED.0,
            metric: WATCHED.1,
            min: 40.0,
            max: 150.0,
            severity: "critical",
            description: "somebody should look after the patient",
        },
    ];
    for threshold in &thresholds {
        api.watch(threshold).await?;
    }
    Ok(DEVICES.map(|device| device.0).join(", "))
}

/// The alerts that come from a moment on.
pub(super) struct Alerts {
    consumer: StreamConsumer,
}

impl Alerts {
    /// Begins at the present end of every partition.
    pub(super) async fn from_now_on(bootstrap: &str) -> Result<Self> {
        let settings = chassis::kafka::Settings::local(bootstrap, "");
        let consumer: StreamConsumer =
            settings.consumer("iotctl-up").create().context("make a consumer of the alerts")?;
        // librdkafka asks the broker on the calling thread.
        let consumer = tokio::task::spawn_blocking(move || assign_end(&consumer).map(|()| consumer));
        Ok(Self { consumer: consumer.await?? })
    }

    async fn next(&self) -> Result<String> {
        loop {
            let record = self.consumer.recv().await.context("consume alerts")?;
            let Some(value) = record.payload() else { continue };
            let alert: Alert = serde_json::from_slice(value).context("decode an alert")?;
            let value = alert.value.map_or_else(String::new, |value| value.to_string());
            return Ok(format!("{} {} {value}", alert.sensor_id, alert.metric));
        }
    }
}

fn assign_end(consumer: &StreamConsumer) -> Result<()> {
    let topic = topics::ALERTS.name;
    let metadata =
        consumer.fetch_metadata(Some(topic), THROUGH_WITHIN).context("ask for the alerts' partitions")?;
    let mut ends = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        // An explicit offset: the symbolic end would be looked up later, and skip what came until then.
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), THROUGH_WITHIN)?;
        ends.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    consumer.assign(&ends).context("consume alerts")
}

/// Waits until a reading of this run, an alert about it and its hour have come through.
pub(super) async fn wait(api: &Api, alerts: Alerts, progress: &Progress) -> Result<()> {
    let since = OffsetDateTime::now_utc();
    let (sensor_id, metric) = WATCHED;
    let latest = latest_url(&api.queries, sensor_id);
    let reading = look(api, &latest, |reading| instant(&reading["readingAt"]).is_some_and(|at| at >= since));
    progress.step("a reading is in the database", reading).await?;
    let alert = async {
        let alert = timeout(THROUGH_WITHIN, alerts.next()).await;
        alert.with_context(|| format!("no record on {} in time", topics::ALERTS.name))?
    };
    progress.step("an alert is on its topic", alert).await?;
    let hour = since - Duration::from_secs(3600);
    let hourly = hourly_url(&api.queries, sensor_id, metric, hour, since + Duration::from_secs(3600))?;
    let bucket = look(api, &hourly, |hour| {
        instant(&hour["bucket"]).is_some_and(|at| at > since - Duration::from_secs(3600))
    });
    progress.step("an hour is in the read model", bucket).await.map(|_| ())
}

/// Reads `url` until one of its resources passes.
async fn look(api: &Api, url: &str, passes: impl Fn(&Value) -> bool) -> Result<String> {
    let deadline = Instant::now() + THROUGH_WITHIN;
    loop {
        let answer = api.get(url).await;
        match &answer {
            Ok(page) if resources(page).iter().any(&passes) => return Ok(String::new()),
            _ if Instant::now() < deadline => sleep(LOOK_EVERY).await,
            Ok(_) => bail!("nothing in time at {url}"),
            Err(error) => bail!("nothing in time at {url}: {error:#}"),
        }
    }
}

fn instant(text: &Value) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text.as_str()?, &Rfc3339).ok()
}

fn latest_url(base: &str, sensor_id: &str) -> String {
    format!("{base}/api/v1/readings/latest?sensorId={sensor_id}")
}

fn hourly_url(
    base: &str,
    sensor_id: &str,
    metric: &str,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Result<String> {
    let write = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at).format(&Rfc3339);
    let (from, to) = (write(from)?, write(to)?);
    Ok(format!("{base}/api/v1/sensors/{sensor_id}/aggregates/hourly?metric={metric}&from={from}&to={to}"))
}

/// Writes what to try next, each line ready to be pasted.
pub(super) fn what_to_try(state: &State, ports: Ports, pki: &Pki, token: &str) -> Result<String> {
    let yours = DEVICES[0].0;
    let files = pki.device_files(yours)?;
    let (ca, cert, key) = (pki.ca_file(), files.cert, files.key);
    let (ca, cert, key) = (ca.display(), cert.display(), key.display());
    let bearer = format!("-H \"Authorization: Bearer $(cat {})\"", state.path("token").display());
    let queries = ports.rest(Service::QUERY);
    let latest = latest_url(&queries, yours);
    let now = OffsetDateTime::now_utc();
    let hourly = hourly_url(
        &queries,
        WATCHED.0,
        WATCHED.1,
        now - Duration::from_secs(24 * 3600),
        now + Duration::from_secs(24 * 3600),
    )?;
    let publish = |message: &str| {
        let mqtt = ports.of(Service::GATEWAY, Protocol::Mqtt);
        format!(
            "mosquitto_pub -h 127.0.0.1 -p {mqtt} --cafile {ca} --cert {cert} --key {key} -q 1 -t devices/{yours}/readings -m '{message}'"
        )
    };
    let (mild, hot) = (publish(r#"{"temperature": 21.5}"#), publish(r#"{"temperature": 35.5}"#));
    let post = format!(
        "curl -s --cacert {ca} --cert {cert} --key {key} -H 'Content-Type: application/json' -d '{{\"temperature\": 22.5}}' https://127.0.0.1:{}/api/v1/readings",
        ports.of(Service::GATEWAY, Protocol::Https)
    );
    let (devices, thresholds) = (ports.rest(Service::DEVICE), ports.rest(Service::THRESHOLD));
    let (kafka, alerts, simulated) = (ports.at(KAFKA_PORT), topics::ALERTS.name, SIMULATED.join(", "));
    let logs = state.path("logs");
    let logs = logs.display();
    Ok(format!(
        "
Fieldline runs. The simulator plays {simulated}; {yours} is yours.

  Publish a reading:
    {mild}
  Or over HTTPS:
    {post}
  See it:
    curl -s {bearer} '{latest}'
  Watch alerts in another terminal, and raise one:
    kcat -C -q -b 127.0.0.1:{kafka} -t {alerts} -o end
    {hot}
  See the hours of a simulated device:
    curl -s {bearer} '{hourly}'

  REST   queries {queries}/api/v1, devices {devices}/api/v1/devices, thresholds {thresholds}/api/v1/thresholds
  Token  {token}
  Logs   {logs}

Ctrl-C stops it, or `make down` in another terminal; its data stays for the next start."
    ))
}
