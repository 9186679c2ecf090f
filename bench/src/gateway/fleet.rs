//! Devices with certificates of their own, as the registry's topic tells the gateway of them.

use crate::readings::DEVICE_TYPE;
use anyhow::{Context as _, Result};
use chassis::kafka::Settings;
use iotctl::pki::Pki;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schema::{Change, DeviceKey, DeviceRow, DeviceStatus, Op, Source, Timestamp, topics};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Fewer than the producer's queue holds.
const FLUSH_EVERY: usize = 10_000;
/// A broker on this machine that takes longer is broken.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A registered device.
#[derive(Clone)]
pub(super) struct Device {
    /// Its certificate's subject.
    pub(super) sensor_id: String,
    /// Its certificate and key, and the root it trusts.
    pub(super) tls: Arc<ClientConfig>,
    fingerprint: String,
}

/// Issues a certificate for each of `count` devices.
pub(super) fn issue(pki: &Pki, count: u32) -> Result<Vec<Device>> {
    let mut roots = RootCertStore::empty();
    for root in certificates(&std::fs::read(pki.ca_file())?)? {
        roots.add(root)?;
    }
    let roots = Arc::new(roots);
    let device = |number: u32| {
        let sensor_id = format!("thermostat-{number:05}");
        let issued = pki.issue_device(&sensor_id)?;
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).context("read a device's key")?;
        let tls = ClientConfig::builder()
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(certificates(issued.cert_pem.as_bytes())?, key)
            .context("use a device's certificate")?;
        Ok(Device { sensor_id, tls: Arc::new(tls), fingerprint: issued.fingerprint_sha256_hex })
    };
    (0..count).map(device).collect()
}

/// Makes the folder of certificates anew, with one for the gateway.
pub(super) fn authority(folder: &Path) -> Result<Pki> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).context("remove the certificates of the run before")?;
    }
    let pki = Pki::create(folder)?;
    pki.server_files(&["localhost", "127.0.0.1"])?;
    Ok(pki)
}

/// Publishes all devices as change data capture does.
pub(super) fn register(devices: &[Device], kafka: &Settings) -> Result<()> {
    let producer: BaseProducer = kafka.producer().create().context("create a producer")?;
    let topic = kafka.topic(topics::DEVICE_UPDATES.name);
    for devices in devices.chunks(FLUSH_EVERY) {
        for device in devices {
            let key = serde_json::to_string(&DeviceKey { sensor_id: device.sensor_id.clone() })?;
            let value = serde_json::to_string(&change(device))?;
            producer.send(BaseRecord::to(&topic).key(&key).payload(&value)).map_err(|(error, _)| error)?;
        }
        producer.flush(ANSWER_MAX).context("wait for the broker to take every device")?;
    }
    Ok(())
}

fn change(device: &Device) -> Change<DeviceRow> {
    let now = Timestamp::now();
    let row = DeviceRow {
        sensor_id: device.sensor_id.clone(),
        display_name: device.sensor_id.clone(),
        device_type: DEVICE_TYPE.to_owned(),
        zone_id: "zone-07".to_owned(),
        codec: "json".to_owned(),
        codec_layout: None,
        status: DeviceStatus::Active,
        fingerprints: vec![device.fingerprint.clone()],
        version: 1,
        created_at: now,
        updated_at: now,
    };
    Change { op: Op::Create, before: None, after: Some(row), source: Source::default(), ts_ms: 0 }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().context("read certificates")
}
