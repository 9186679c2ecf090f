//! Devices that are not there: they publish over mutual TLS as real ones do.
//!
//! In:         a profile per device, or the rows of a CSV file.
//! Out:        MQTT QoS 1 messages on `devices/{sensor_id}/readings`, one connection per device.
//! Guarantee:  every message is acknowledged at the end, or the command says how many are not and fails.
//!             Readings that were due and not published, because a device could not keep its rate, are
//!             counted.
//! On failure: connection lost → connect again and send again what was not acknowledged; gone for long →
//!             error.

pub mod csv;
mod device;
mod outcome;
mod profile;
mod schedule;

use crate::api::{Api, NewDevice};
use crate::pki::Pki;
use crate::progress::Progress;
use anyhow::{Context as _, Result, ensure};
pub use device::{Broker, Device};
use device::{SILENCE_MAX, SILENCE_STOPPED_MAX};
use futures::{StreamExt as _, TryStreamExt as _, stream};
pub use outcome::Outcome;
pub use profile::{PROFILES, Profile};
use schedule::Schedule;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Most devices of one simulation: each is a connection and a certificate.
pub const DEVICES_MAX: u16 = 5_000;
/// Most sensors of one replayed file, for the same reason.
const REPLAYED_SENSORS_MAX: usize = 1_000;
/// Devices that are registered and connected at a time: more would only queue at the gateway's handshakes.
const ENROLLED_AT_A_TIME: usize = 16;
/// Longest time over which the first readings of all devices are spread: a newcomer looks at the first one.
const SPREAD_MAX: Duration = Duration::from_secs(1);

/// A simulation that makes its readings up.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The devices, each with its profile.
    pub devices: Vec<(String, Profile)>,
    /// Time between two messages of a device.
    pub every: Duration,
    /// How long to publish, once all devices are connected; none means until Ctrl-C.
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

/// The surroundings of a simulation.
pub struct Environment<'a> {
    /// Signs the devices' certificates.
    pub pki: &'a Pki,
    /// Registers the devices.
    pub api: &'a Api,
    /// The gateway.
    pub broker: Broker,
    /// Where its steps are reported.
    pub progress: &'a Progress,
}

/// Lists the devices of a simulation: those named, or `devices` of them as `thermostat-1`, `heart-rate-1`,
/// `car-fuel-1`, `thermostat-2` and so on. A named one has the given profile, or the one that its name begins
/// with.
///
/// # Errors
/// A name begins with no profile and none is given.
pub fn list_devices(
    devices: u16,
    named: &[String],
    profile: Option<Profile>,
) -> Result<Vec<(String, Profile)>> {
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

impl Environment<'_> {
    /// Publishes generated readings until the time is up or `stop` completes.
    ///
    /// # Errors
    /// A device cannot be registered or connected, or a message was not acknowledged.
    pub async fn generate(
        &self,
        plan: &Generated,
        stop: impl Future<Output = Result<()>>,
    ) -> Result<Outcome> {
        tokio::pin!(stop);
        let mut devices = None;
        let enrol = async {
            devices = Some(self.enrol_all(&plan.devices).await?);
            Ok(plan.devices.len().to_string())
        };
        tokio::select! {
            enrolled = self.progress.step("devices are registered and connected", enrol) => enrolled.map(drop)?,
            stopped = &mut stop => return stopped.map(|()| Outcome::default()),
        }
        let (ended, end) = watch::channel(false);
        let mut running = JoinSet::new();
        let started = Instant::now();
        let spread =
            plan.every.min(SPREAD_MAX) / u32::try_from(plan.devices.len()).unwrap_or(u32::MAX).max(1);
        let parts = (0u16..).zip(devices.into_iter().flatten()).zip(&plan.devices);
        for ((place, device), &(_, profile)) in parts {
            let begin = started + spread * u32::from(place);
            let schedule = Schedule::new(plan.every, plan.duration);
            let part = Part { profile, place, begin, schedule };
            running.spawn(part.publish(device, end.clone()));
        }
        let finished = async {
            let mut total = Outcome::default();
            while let Some(outcome) = running.join_next().await {
                total += outcome.context("run a device")??;
            }
            Ok(total)
        };
        tokio::pin!(finished);
        tokio::select! {
            total = &mut finished => return total,
            stopped = &mut stop => stopped?,
        }
        ended.send_replace(true);
        finished.await
    }

    /// Publishes the rows of a file with their own timestamps, as fast as they are acknowledged.
    ///
    /// # Errors
    /// The file cannot be read as described, a device cannot be registered or connected, or a message was not
    /// acknowledged. Readings published before a row that cannot be read are acknowledged, and the message
    /// says how much that is.
    pub async fn replay(&self, plan: &Replayed) -> Result<Outcome> {
        let mut devices = BTreeMap::new();
        let mut outcome = Outcome::default();
        let read = self.publish_rows(plan, &mut devices, &mut outcome.due).await;
        for device in devices.into_values() {
            let published = device.finish(SILENCE_MAX).await?;
            outcome += Outcome { published, acked: published, ..Outcome::default() };
        }
        let stored = outcome.acked;
        read.with_context(|| {
            format!(
                "stopped after {stored} readings, which are stored; a replay of the whole file repeats none"
            )
        })?;
        Ok(outcome)
    }

    async fn publish_rows(
        &self,
        plan: &Replayed,
        devices: &mut BTreeMap<String, Device>,
        rows_read: &mut u64,
    ) -> Result<()> {
        let mut rows = csv::Rows::open(&plan.file, &plan.columns)?;
        while let Some(row) = rows.next_row()? {
            *rows_read += 1;
            if row.values.is_empty() {
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
        Ok(())
    }

    /// Registers and connects the listed devices, in the order of the list.
    async fn enrol_all(&self, listed: &[(String, Profile)]) -> Result<Vec<Device>> {
        let enrolments = listed
            .iter()
            .map(|(sensor_id, profile)| self.enrol(sensor_id, profile.device_type(), profile.zone_id()));
        stream::iter(enrolments).buffered(ENROLLED_AT_A_TIME).try_collect().await
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

/// One device's part of a simulation.
struct Part {
    profile: Profile,
    /// Its place among all devices, which its noise depends on.
    place: u16,
    begin: Instant,
    schedule: Schedule,
}

impl Part {
    /// Publishes what is due when it is due, until all of it is done, it is too late for the rest, or `end`
    /// says so.
    async fn publish(mut self, device: Device, end: watch::Receiver<bool>) -> Result<Outcome> {
        let begin = self.begin;
        let too_late = self.schedule.end().map(|end| begin + end);
        let mut told_to_end = end.clone();
        let over = async {
            let told = told_to_end.wait_for(|&ended| ended);
            match too_late {
                Some(too_late) => tokio::select! { _ = told => {}, () = sleep_until(too_late) => {} },
                None => drop(told.await),
            }
        };
        tokio::pin!(over);
        while let Some(due) = self.schedule.next_due() {
            tokio::select! {
                () = &mut over => break,
                () = sleep_until(begin + due) => {}
            }
            let nth = self.schedule.begin(begin.elapsed());
            let now = OffsetDateTime::now_utc();
            let sample = self.profile.sample(now, self.place, nth);
            let values = sample.map(|(metric, value)| (metric.to_owned(), value)).to_vec();
            tokio::select! {
                () = &mut over => break,
                published = device.publish(encode(now, values)?) => published?,
            }
            self.schedule.published(begin.elapsed());
        }
        let kept = self.schedule.kept(begin.elapsed());
        let is_stopped = *end.borrow();
        let silence_max = if is_stopped { SILENCE_STOPPED_MAX } else { SILENCE_MAX };
        Ok(Outcome::of_device(kept, device.finish(silence_max).await?))
    }
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
    fn devices_take_profiles_in_turn_and_are_numbered_within_their_profile() {
        let names = |devices, profile| {
            let listed = list_devices(devices, &[], profile).unwrap();
            listed.into_iter().map(|device| device.0).collect::<Vec<_>>()
        };
        assert_eq!(names(4, None), ["thermostat-1", "heart-rate-1", "car-fuel-1", "thermostat-2"]);
        assert_eq!(names(2, Some(Profile::CarFuel)), ["car-fuel-1", "car-fuel-2"]);
    }

    #[test]
    fn named_device_has_the_profile_its_name_begins_with() {
        let named = ["heart-rate-7".to_owned(), "kitchen".to_owned()];
        assert!(list_devices(1, &named, None).is_err());
        assert_eq!(list_devices(1, &named[..1], None).unwrap(), [(named[0].clone(), Profile::HeartRate)]);
        assert_eq!(
            list_devices(1, &named[1..], Some(Profile::CarFuel)).unwrap(),
            [(named[1].clone(), Profile::CarFuel)]
        );
    }
}
