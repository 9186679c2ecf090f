use super::*;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn trust(file: &Path) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    for cert in chain(&files::read(file).unwrap()) {
        store.add(cert).unwrap();
    }
    Arc::new(store)
}

/// Runs a TLS handshake in memory and returns the client certificate's fingerprint as the server sees it.
fn handshake(pki: &Pki, client_cert: &str, client_key: &str) -> Result<String, rustls::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = pki.issue_server(&["localhost", "127.0.0.1"]).unwrap();
    let verifier = WebPkiClientVerifier::builder(trust(&pki.device_ca_file())).build().unwrap();
    let server = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            chain(&server.cert_pem),
            PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(trust(&pki.ca_file()))
        .with_client_auth_cert(
            chain(client_cert),
            PrivateKeyDer::from_pem_slice(client_key.as_bytes()).unwrap(),
        )
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(fingerprint(server.peer_certificates().unwrap().first().unwrap()))
}

#[test]
fn device_certificate_opens_a_mutual_tls_connection_and_shows_its_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::create(folder.path()).unwrap();
    let device = pki.issue_device("thermostat-1").unwrap();
    assert_eq!(handshake(&pki, &device.cert_pem, &device.key_pem).unwrap(), device.fingerprint_sha256_hex);
}

#[test]
fn server_certificate_and_foreign_certificate_are_no_device() {
    let (folder, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pki = Pki::create(folder.path()).unwrap();
    let server = pki.issue_server(&["localhost"]).unwrap();
    handshake(&pki, &server.cert_pem, &server.key_pem).unwrap_err();
    let device = Pki::create(foreign.path()).unwrap().issue_device("thermostat-1").unwrap();
    handshake(&pki, &device.cert_pem, &device.key_pem).unwrap_err();
}

#[test]
fn opening_again_keeps_every_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let first = Pki::open_or_create(folder.path()).unwrap();
    let issued = first.device_files("car-fuel-1").unwrap();
    let (server, _) = first.server_files(&["localhost"]).unwrap();
    let before = (files::read(&first.ca_file()).unwrap(), files::read(&server).unwrap());
    let again = Pki::open_or_create(folder.path()).unwrap();
    assert_eq!(
        again.device_files("car-fuel-1").unwrap().fingerprint_sha256_hex,
        issued.fingerprint_sha256_hex
    );
    again.server_files(&["localhost"]).unwrap();
    assert_eq!((files::read(&again.ca_file()).unwrap(), files::read(&server).unwrap()), before);
    assert!(Pki::create(folder.path()).is_err());
}

#[test]
fn only_the_owner_reads_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::create(folder.path()).unwrap();
    pki.device_files("a").unwrap();
    pki.server_files(&["localhost"]).unwrap();
    for key in ["ca.key", "device-ca.key", "server-ca.key", "server.key", "devices/a.key"] {
        let mode = std::fs::metadata(folder.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn name_that_is_no_sensor_id_gets_no_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::create(folder.path()).unwrap();
    let longest = "a".repeat(schema::SENSOR_ID_BYTES_MAX);
    pki.issue_device(&longest).unwrap();
    for name in ["", ".hidden", "../up", "a/b", "é", "a b", &format!("{longest}a")] {
        assert!(pki.device_files(name).is_err(), "{name}");
    }
}
