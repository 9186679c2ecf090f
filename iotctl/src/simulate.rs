//! Devices that are not there: they publish over mutual TLS as real ones do.
//!
//! In:         a profile per device, or the rows of a CSV file.
//! Out:        MQTT QoS 1 messages on `devices/{sensor_id}/readings`, one connection per device.
//! Guarantee:  every message is acknowledged at the end, or the command says how many are not and fails.
//! On failure: connection lost → connect again and send again what was not acknowledged; gone for long → error.

pub mod csv;
mod device;
mod profile;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

pub use device::{Broker, Counts, Device};
use device::{SILENCE_MAX, SILENCE_STOPPED_MAX};
pub use profile::{PROFILES, Profile};

use crate::api::{Api, NewDevice};
use crate::pki::Pki;

/// Most devices of one simulation: each is a connection and a certificate.
pub const DEVICES_MAX: u16 = 5_000;
/// Most sensors of one replayed file, for the same reason.
const REPLAYED_SENSORS_MAX: usize = 1_000;
/// Devices begin their handshakes this far apart: a herd at once would only queue at the gateway.
const START_APART: Duration = Duration::from_millis(5);

/// A simulation that makes its readings up.
#[derive(Debug, Clone)]
pub struct Invented {
    /// The devices, each with its profile.
    pub cast: Vec<(String, Profile)>,
    /// Time between two messages of a device.
    pub every: Duration,
    /// When to end; none means at Ctrl-C.
    pub duration: Option<Duration>,
}

/// A simulation that replays a file.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The file.
    pub file: PathBuf,
    /// How its columns are read.
    pub columns: csv::Columns,
    /// Device type of the sensors that have to be registered.
    pub device_type: String,
}

/// What every simulation needs.
pub struct Site<'a> {
    /// Signs the devices' certificates.
    pub pki: &'a Pki,
    /// Registers the devices.
    pub api: &'a Api,
    /// The gateway.
    pub broker: Broker,
}

/// Lists the devices of a simulation: those named, or `devices` of them as `thermostat-1`, `heart-rate-1`, `car-fuel-1`,
/// `thermostat-2` and so on. A named one has the given profile, or the one that its name begins with.
///
/// # Errors
/// A name begins with no profile and none is given.
pub fn cast(devices: u16, named: &[String], profile: Option<Profile>) -> Result<Vec<(String, Profile)>> {
    if !named.is_empty() {
        let begins = |name: &str| PROFILES.into_iter().find(|profile| name.starts_with(profile.name()));
        let choose = |name: &String| {
            let profile =
                profile.or_else(|| begins(name)).with_context(|| format!("{name} needs a profile"))?;
            Ok((name.clone(), profile))
        };
        return named.iter().map(choose).collect();
    }
    let mut counts: BTreeMap<&str, u16> = BTreeMap::new();
    let turns = match &profile {
        Some(profile) => std::slice::from_ref(profile),
        None => &PROFILES[..],
    };
    let number = |&profile: &Profile| {
        let count = counts.entry(profile.name()).or_default();
        *count += 1;
        (format!("{}-{count}", profile.name()), profile)
    };
    Ok(turns.iter().cycle().take(devices.into()).map(number).collect())
}

impl Site<'_> {
    /// Publishes invented readings until the time is up or `stop` completes.
    ///
    /// # Errors
    /// A device cannot be registered or connected, or a message was not acknowledged.
    pub async fn invent(&self, plan: &Invented, stop: impl Future<Output = Result<()>>) -> Result<Counts> {
        let mut running = JoinSet::new();
        let (ended, end) = tokio::sync::watch::channel(false);
        let started = Instant::now();
        for (place, (sensor_id, profile)) in (0u16..).zip(&plan.cast) {
            let profile = *profile;
            let device = self.enrol(sensor_id, profile.device_type(), profile.zone_id()).await?;
            let begin = started + START_APART * u32::from(place);
            running.spawn(publish_invented(device, profile, place, begin, plan.every, end.clone()));
        }
        let finished = async {
            let mut total = Counts::default();
            while let Some(counts) = running.join_next().await {
                total += counts.context("run a device")??;
            }
            Ok(total)
        };
        tokio::pin!(finished, stop);
        let time_up = async {
            match plan.duration {
                Some(duration) => sleep_until(started + duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            total = &mut finished => return total,
            () = time_up => {}
            stopped = &mut stop => stopped?,
        }
        ended.send_replace(true);
        finished.await
    }

    /// Publishes the rows of a file with their own timestamps, as fast as they are acknowledged.
    ///
    /// # Errors
    /// The file cannot be read as described, a device cannot be registered or connected, or a message was not acknowledged.
    pub async fn replay(&self, plan: &Replayed) -> Result<Counts> {
        let mut rows = csv::Rows::open(&plan.file, &plan.columns)?;
        let mut devices: BTreeMap<String, Device> = BTreeMap::new();
        let mut total = Counts::default();
        while let Some(row) = rows.next_row()? {
            if row.values.is_empty() {
                total.skipped += 1;
                continue;
            }
            if !devices.contains_key(&row.sensor_id) {
                ensure!(
                    devices.len() < REPLAYED_SENSORS_MAX,
                    "the file has more than {REPLAYED_SENSORS_MAX} sensors"
                );
                let device = self.enrol(&row.sensor_id, &plan.device_type, "replay").await?;
                devices.insert(row.sensor_id.clone(), device);
            }
            let device = devices.get(&row.sensor_id).context("the device was just inserted")?;
            device.publish(encode(row.reading_at, row.values)?).await?;
        }
        for device in devices.into_values() {
            total += device.finish(SILENCE_MAX).await?;
        }
        Ok(total)
    }

    async fn enrol(&self, sensor_id: &str, device_type: &str, zone_id: &str) -> Result<Device> {
        let files = self.pki.device_files(sensor_id)?;
        let fingerprints = vec![files.fingerprint_sha256_hex.clone()];
        let device = NewDevice {
            sensor_id,
            display_name: sensor_id,
            device_type,
            zone_id,
            codec: "json",
            fingerprints,
        };
        self.api.register(&device).await?;
        Device::connect(sensor_id, &self.pki.ca_file(), &files, &self.broker).await
    }
}

async fn publish_invented(
    device: Device,
    profile: Profile,
    place: u16,
    begin: Instant,
    every: Duration,
    mut end: tokio::sync::watch::Receiver<bool>,
) -> Result<Counts> {
    sleep_until(begin).await;
    let mut ticks = interval(every);
    // A device that was held up measures again when it can, and does not make up readings it never took.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for nth in 0u64.. {
        tokio::select! {
            _ = end.wait_for(|&ended| ended) => break,
            _ = ticks.tick() => {}
        }
        let now = OffsetDateTime::now_utc();
        let sample = profile.sample(now, place, nth);
        let values = sample.map(|(metric, value)| (metric.to_owned(), value)).to_vec();
        tokio::select! {
            _ = end.wait_for(|&ended| ended) => break,
            published = device.publish(encode(now, values)?) => published?,
        }
    }
    device.finish(SILENCE_STOPPED_MAX).await
}

/// Writes a reading as the codec `json` reads it.
fn encode(reading_at: OffsetDateTime, values: Vec<(String, f64)>) -> Result<Vec<u8>> {
    let timestamp = reading_at.format(&Rfc3339).context("write a timestamp")?;
    let mut message = Map::new();
    message.insert("timestamp".to_owned(), timestamp.into());
    message.extend(values.into_iter().map(|(metric, value)| (metric, Value::from(value))));
    serde_json::to_vec(&message).context("encode a reading")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_cast_in_turn_and_numbered_within_their_profile() {
        let names = |devices, profile| {
            let cast = cast(devices, &[], profile).unwrap();
            cast.into_iter().map(|device| device.0).collect::<Vec<_>>()
        };
        assert_eq!(names(4, None), ["thermostat-1", "heart-rate-1", "car-fuel-1", "thermostat-2"]);
        assert_eq!(names(2, Some(Profile::CarFuel)), ["car-fuel-1", "car-fuel-2"]);
    }

    #[test]
    fn named_device_has_the_profile_its_name_begins_with() {
        let named = ["heart-rate-7".to_owned(), "kitchen".to_owned()];
        assert!(cast(1, &named, None).is_err());
        assert_eq!(cast(1, &named[..1], None).unwrap(), [(named[0].clone(), Profile::HeartRate)]);
        assert_eq!(
            cast(1, &named[1..], Some(Profile::CarFuel)).unwrap(),
            [(named[1].clone(), Profile::CarFuel)]
        );
    }
}
