//! A device as a stranger writes it: rumqttc over mutual TLS.

use iotctl::pki::DeviceCertificate;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::sync::Arc;
use std::time::Duration;

/// A connected MQTT 3.1.1 client with the certificate of one device.
pub struct Device {
    sensor_id: String,
    client: AsyncClient,
    events: EventLoop,
}

/// Returns the TLS settings of a device.
///
/// # Panics
/// The certificates cannot be used.
pub fn tls(root_pem: &str, device: Option<&DeviceCertificate>) -> ClientConfig {
    chassis::install_tls_provider();
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root_pem.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    match device {
        None => config.with_no_client_auth(),
        Some(device) => {
            let chain =
                CertificateDer::pem_slice_iter(device.cert_pem.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(device.key_pem.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

impl Device {
    /// Connects and waits for the CONNACK.
    ///
    /// # Errors
    /// What the gateway or the network says against it.
    pub async fn connect(
        port: u16,
        root_pem: &str,
        sensor_id: &str,
        certificate: Option<&DeviceCertificate>,
    ) -> Result<Self, rumqttc::ConnectionError> {
        let mut options = MqttOptions::new(sensor_id, "localhost", port);
        options.set_keep_alive(Duration::from_secs(30));
        let tls = TlsConfiguration::Rustls(Arc::new(tls(root_pem, certificate)));
        options.set_transport(Transport::Tls(tls));
        let (client, mut events) = AsyncClient::new(options, 100);
        loop {
            if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await? {
                return Ok(Self { sensor_id: sensor_id.to_owned(), client, events });
            }
        }
    }

    /// Publishes a QoS 1 message on the device's own topic and waits for its PUBACK.
    ///
    /// # Errors
    /// The connection ended before the PUBACK.
    ///
    /// # Panics
    /// The client's queue is closed.
    pub async fn publish(&mut self, payload: &str) -> Result<(), rumqttc::ConnectionError> {
        let topic = format!("devices/{}/readings", self.sensor_id);
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        loop {
            if let Event::Incoming(Packet::PubAck(_)) = self.events.poll().await? {
                return Ok(());
            }
        }
    }

    /// Returns the client and its events, for tests that need more than [`Device::publish`].
    pub fn into_parts(self) -> (AsyncClient, EventLoop) {
        (self.client, self.events)
    }
}
