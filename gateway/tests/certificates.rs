//! TLS files that change while devices are connected.

use crate::raw::{Client, PINGREQ, PINGRESP, disconnect_reason};
use crate::stack::Stack;
use gateway::device::identity::Fingerprint;
use iotctl::pki::DeviceCertificate;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use schema::DeviceStatus;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testkit::pki::TestPki;
use testkit::wait;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A loaded machine may be late; the design says one second, and the figure is printed.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);

/// A revocation list of the PKI's device authority, PEM.
fn revocation_list(pki: &TestPki, revoked: &[&DeviceCertificate]) -> String {
    revocation_list_until(pki, revoked, OffsetDateTime::now_utc() + time::Duration::days(1))
}

/// The same, with a time by which the next was to come.
fn revocation_list_until(
    pki: &TestPki,
    revoked: &[&DeviceCertificate],
    next_update: OffsetDateTime,
) -> String {
    let read = |name: &str| std::fs::read_to_string(pki.path(name)).unwrap();
    let key = KeyPair::from_pem(&read("device-ca.key")).unwrap();
    let authority = Issuer::from_ca_cert_pem(&read("device-ca.pem"), key).unwrap();
    let now = OffsetDateTime::now_utc();
    let revoked = revoked.iter().map(|device| {
        let der = CertificateDer::from_pem_slice(device.cert_pem.as_bytes()).unwrap();
        let serial = X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec();
        RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }
    });
    let list = CertificateRevocationListParams {
        this_update: next_update - time::Duration::days(1),
        next_update,
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority).unwrap().pem().unwrap()
}

/// A device's certificate that ends at a time of its own.
fn device_until(pki: &TestPki, sensor_id: &str, not_after: OffsetDateTime) -> DeviceCertificate {
    let read = |name: &str| std::fs::read_to_string(pki.path(name)).unwrap();
    let authority_key = KeyPair::from_pem(&read("device-ca.key")).unwrap();
    let authority = Issuer::from_ca_cert_pem(&read("device-ca.pem"), authority_key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, sensor_id);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_after = not_after;
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    DeviceCertificate {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
        fingerprint_sha256_hex: format!("{:?}", Fingerprint::of(certificate.der())),
    }
}

/// Replaces a file at once, as careful people do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A gateway with a revocation list, empty at first.
async fn stack_with_list() -> Stack {
    let pki = TestPki::create();
    let list = pki.path("crl.pem");
    replace(&list, &revocation_list(&pki, &[]));
    Stack::with_pki(pki, &[("TLS_CRL_FILE", list.to_str().unwrap())]).await
}

async fn assert_alive(client: &mut Client) {
    client.send(&PINGREQ).await;
    assert_eq!(client.frame().await.unwrap(), PINGRESP);
}

async fn assert_refused(stack: &Stack, device: &DeviceCertificate) {
    let client = Client::dial(stack.port, &stack.pki.root_pem(), Some(device)).await;
    // In TLS 1.3 a client hears of its refused certificate only after its own handshake.
    if let Ok(mut client) = client {
        assert_eq!(client.try_connect().await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newly_revoked_certificate_closes_its_live_connections_within_a_second() {
    let stack = stack_with_list().await;
    let (revoked, bystander) = (stack.register("revoked-1").await, stack.register("bystander-1").await);
    let (mut v5, mut v4) = (stack.dial(&revoked).await, stack.dial(&revoked).await);
    v5.enter(5, "v5").await;
    v4.enter(4, "v4").await;
    let mut other = stack.dial(&bystander).await;
    other.enter(5, "c").await;
    let list = stack.pki.path("crl.pem");
    replace(&list, &revocation_list(&stack.pki, &[&revoked.certificate]));
    let started = Instant::now();
    assert_eq!(disconnect_reason(&v5.frame().await.unwrap()), 0x87);
    assert_eq!((v5.frame().await, v4.frame().await), (None, None));
    let took = started.elapsed();
    println!("from the new revocation list to the closed connections: {took:?}");
    assert!(took < CLOSED_WITHIN, "{took:?}");
    assert_alive(&mut other).await;
    assert_refused(&stack, &revoked.certificate).await;
    replace(&list, &revocation_list(&stack.pki, &[]));
    wait::until("the device comes in again", async || {
        let client = Client::dial(stack.port, &stack.pki.root_pem(), Some(&revoked.certificate)).await;
        client.ok()?.try_connect().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_certificate_ends_its_connections_and_nobody_elses() {
    let stack = Stack::with(&[("HTTP_LISTEN", "127.0.0.1:0")]).await;
    // Long enough to connect on a busy machine; the clock of the host is what this is about.
    let not_after = OffsetDateTime::now_utc() + time::Duration::seconds(8);
    let certificate = device_until(&stack.pki, "brief-1", not_after);
    let brief = stack.register_with("brief-1", DeviceStatus::Active, certificate).await;
    let lasting = stack.register("lasting-1").await;
    let (mut v5, mut v4, mut other) =
        (stack.dial(&brief).await, stack.dial(&brief).await, stack.dial(&lasting).await);
    v5.enter(5, "v5").await;
    v4.enter(4, "v4").await;
    other.enter(5, "c").await;
    let root = stack.pki.root_pem();
    let mut https = Client::dial(stack.http_port.unwrap(), &root, Some(&brief.certificate)).await.unwrap();
    let request = "POST /api/v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 7\r\n\r\n{\"t\":1}";
    assert_eq!(https.ask(request.as_bytes()).await.0, 202, "while it is good");
    assert_eq!(disconnect_reason(&v5.frame().await.unwrap()), 0x87);
    assert!(OffsetDateTime::now_utc() > not_after, "not before its end");
    assert_eq!((v5.frame().await, v4.frame().await), (None, None));
    let (status, _, body) = https.ask(request.as_bytes()).await;
    assert!(
        status == 403 && body.contains("expired"),
        "on a connection that was kept alive: {status} {body}"
    );
    assert_alive(&mut other).await;
    assert_refused(&stack, &brief.certificate).await;
    wait::until("the refusal is counted as what it is", async || {
        (stack.metric_of("gateway_refusals_total", "tls-expired") >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_of_the_tls_files_are_shown() {
    let stack = stack_with_list().await;
    let shown = |file: &str| stack.gauge_of("gateway_tls_ends_timestamp_seconds", file);
    let now_s = f64::from(u32::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap());
    let day_s = 86_400.0;
    assert!((shown("lists") - now_s - day_s).abs() < 600.0, "nextUpdate in a day: {}", shown("lists"));
    assert!(shown("certificate") > now_s && shown("authorities") > now_s);
    // A list that is past its nextUpdate stays in force, and the metric says so.
    let stale = revocation_list_until(&stack.pki, &[], OffsetDateTime::now_utc() - time::Duration::days(2));
    replace(&stack.pki.path("crl.pem"), &stale);
    wait::until("the end of the new list is shown", async || (shown("lists") < now_s).then_some(())).await;
    let device = stack.register("a-1").await;
    stack.dial(&device).await.enter(5, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_cannot_be_used_changes_nothing_and_is_counted_once() {
    let stack = stack_with_list().await;
    let device = stack.register("a-1").await;
    let mut client = stack.dial(&device).await;
    client.enter(5, "live").await;
    let list = stack.pki.path("crl.pem");
    // All of our authorities have the same name: only the signature tells that this list is another's.
    let forged = revocation_list(&TestPki::create(), &[&device.certificate]);
    let cut = revocation_list(&stack.pki, &[&device.certificate]).replace("-----END", "");
    for (number, broken) in (1..).zip([forged.as_str(), "nothing of the kind", &cut, ""]) {
        if broken.is_empty() {
            std::fs::remove_file(&list).unwrap();
        } else {
            replace(&list, broken);
        }
        wait::until("the broken file is noticed", async || {
            (stack.metric("gateway_tls_reloads_total") == f64::from(number)).then_some(())
        })
        .await;
        assert_eq!(stack.metric("gateway_tls_files_stale"), 1.0, "broken file {number}");
        assert_alive(&mut client).await;
        stack.dial(&device).await.enter(5, "another").await;
    }
    replace(&list, &revocation_list(&stack.pki, &[]));
    wait::until("the good file is in force", async || {
        (stack.metric("gateway_tls_files_stale") == 0.0).then_some(())
    })
    .await;
    assert_eq!(stack.metric("gateway_tls_reloads_total"), 5.0, "four complaints in all, and one success");
    assert_alive(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_authority_and_new_server_certificate_drop_nobody() {
    let stack = Stack::start().await;
    let old = stack.register("old-1").await;
    let mut client = stack.dial(&old).await;
    client.enter(5, "live").await;
    let other = TestPki::create();
    let new = stack.register_with("new-1", DeviceStatus::Active, other.device("new-1")).await;
    assert_refused(&stack, &new.certificate).await;
    let read = |pki: &TestPki, name: &str| std::fs::read_to_string(pki.path(name)).unwrap();
    let both = read(&stack.pki, "device-ca.pem") + &read(&other, "device-ca.pem");
    replace(&stack.pki.path("device-ca.pem"), &both);
    for name in ["server.key", "server.pem"] {
        replace(&stack.pki.path(name), &read(&other, name));
    }
    for device in [&new, &old] {
        wait::until("the device comes in under the new server certificate", async || {
            let dialled = Client::dial(stack.port, &other.root_pem(), Some(&device.certificate)).await;
            dialled.ok()?.try_connect().await
        })
        .await;
    }
    assert_alive(&mut client).await;
}

/// A file that nobody writes: to read it waits, until this is dropped.
struct Hanging(PathBuf);

impl Hanging {
    fn make(path: PathBuf) -> Self {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(path)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Opened for both, it waits for nobody.
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
        assert!(opened.is_ok() || std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_of_the_files_that_hangs_is_seen() {
    let stack = Stack::with(&[("STALL_MS_MAX", "1000")]).await;
    let (path, aside) = (stack.pki.path("device-ca.pem"), stack.pki.path("aside"));
    let good = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    // The same file under both names: the one that is read can be replaced while it is held.
    let hanging = Hanging::make(aside.clone());
    std::fs::hard_link(&aside, &path).unwrap();
    wait::until("it is not ready", async || (stack.chassis.readiness.closed() == ["progress"]).then_some(()))
        .await;
    assert_eq!(stack.gauge_of("gateway_stalled", "tls-files"), 1.0);
    wait::until("it is not live", async || (!stack.chassis.liveness.is_live()).then_some(())).await;
    let draft = stack.pki.path("draft");
    std::fs::write(&draft, good).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    drop(hanging);
    wait::until("it is ready and live", async || {
        (stack.chassis.readiness.is_ready() && stack.chassis.liveness.is_live()).then_some(())
    })
    .await;
}
