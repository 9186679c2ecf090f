//! A device that does not give up: it sends a message again until it is acknowledged, as firmware does.

use iotctl::pki::DeviceCertificate;
use std::time::Duration;
use testkit::device::Device;
use testkit::wait::PATIENCE;
use tokio::time::{Instant, timeout};

/// How long a device waits for a PUBACK before it connects again.
const PUBACK_WAIT: Duration = Duration::from_secs(5);
/// How long it waits before it connects again.
const RECONNECT_WAIT: Duration = Duration::from_millis(100);

/// Publishes as one device.
pub struct Publisher {
    port: u16,
    root_pem: String,
    sensor_id: String,
    certificate: DeviceCertificate,
    connected: Option<Device>,
}

impl Publisher {
    pub(crate) fn new(port: u16, root_pem: String, sensor_id: &str, certificate: DeviceCertificate) -> Self {
        Self { port, root_pem, sensor_id: sensor_id.to_owned(), certificate, connected: None }
    }

    /// Publishes until there is a PUBACK, over as many connections as that takes.
    ///
    /// # Panics
    /// There is none within [`testkit::wait::PATIENCE`].
    pub async fn publish(&mut self, payload: &str) {
        let started = Instant::now();
        while !matches!(timeout(PUBACK_WAIT, self.publish_once(payload)).await, Ok(Some(()))) {
            assert!(
                started.elapsed() < PATIENCE,
                "{} waited {PATIENCE:?} in vain for a PUBACK",
                self.sensor_id
            );
            self.connected = None;
            tokio::time::sleep(RECONNECT_WAIT).await;
        }
    }

    async fn publish_once(&mut self, payload: &str) -> Option<()> {
        if self.connected.is_none() {
            let connecting =
                Device::connect(self.port, &self.root_pem, &self.sensor_id, Some(&self.certificate));
            self.connected = Some(connecting.await.ok()?);
        }
        self.connected.as_mut()?.publish(payload).await.ok()
    }
}
