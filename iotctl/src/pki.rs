//! The certificates of an installation: a root, one authority for devices, one for servers, and what those
//! two sign.
//!
//! Two authorities, so that the gateway can trust device certificates alone: a server's certificate is no
//! device. Every key is ECDSA P-256, the curve that small TLS stacks in firmware have.
//!
//! | file | holds | who uses it |
//! |---|---|---|
//! | `ca.pem` | the root | every client: `--cafile ca.pem` |
//! | `device-ca.pem` | the device authority | the gateway, to verify clients |
//! | `server.pem`, `server.key` | server certificate and its authority; its key | the gateway |
//! | `devices/NAME.pem`, `devices/NAME.key` | device certificate and its authority; its key | the device |

use crate::files::{self, Readers};
use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};

/// Validity of an authority: longer than a local stack lives.
const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// Validity of a server or device certificate: what public authorities allowed before 2026.
const LEAF_VALIDITY: Duration = Duration::days(397);
/// Remaining validity below which a certificate is issued anew at the next start.
const RENEWAL_BEFORE: Duration = Duration::days(30);
/// Age that a new certificate claims, for devices whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// The folder of an installation's certificates, opened for signing.
pub struct Pki {
    folder: PathBuf,
    devices: Authority,
    servers: Authority,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A device's certificate and key, as a device needs them.
#[derive(Clone)]
pub struct DeviceCertificate {
    /// The certificate followed by the device authority's, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS #8 PEM.
    pub key_pem: String,
    /// SHA-256 of the certificate's DER in lower-case hex: what the registry stores.
    pub fingerprint_sha256_hex: String,
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct ServerCertificate {
    /// The certificate followed by the server authority's, PEM.
    pub cert_pem: String,
    /// Its private key, PKCS #8 PEM.
    pub key_pem: String,
}

/// A device's certificate and where its files are.
pub struct DeviceFiles {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// The private key, PEM, readable by its owner only.
    pub key: PathBuf,
    /// SHA-256 of the certificate's DER in lower-case hex.
    pub fingerprint_sha256_hex: String,
}

impl Pki {
    /// Says whether there is a PKI in `folder`.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join("ca.pem").exists()
    }

    /// Makes a root and both authorities in `folder`, which must not hold a PKI yet.
    ///
    /// # Errors
    /// The folder holds a PKI already, or cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        ensure!(!Self::exists(folder), "{} holds a PKI already", folder.display());
        let root_key = new_key()?;
        let root_params = authority_params("Fieldline local root CA", BasicConstraints::Constrained(1));
        let root_pem = root_params.self_signed(&root_key).context("sign the root certificate")?.pem();
        let root_key_pem = root_key.serialize_pem();
        let root = Issuer::new(root_params, root_key);
        let intermediate = |file: &str, common_name: &str| -> Result<()> {
            let key = new_key()?;
            let params = authority_params(common_name, BasicConstraints::Constrained(0));
            let cert = params.signed_by(&key, &root).with_context(|| format!("sign {common_name}"))?;
            files::write(
                &folder.join(format!("{file}.key")),
                key.serialize_pem().as_bytes(),
                Readers::Owner,
            )?;
            files::write(&folder.join(format!("{file}.pem")), cert.pem().as_bytes(), Readers::Everyone)
        };
        intermediate("device-ca", "Fieldline local device CA")?;
        intermediate("server-ca", "Fieldline local server CA")?;
        files::write(&folder.join("ca.key"), root_key_pem.as_bytes(), Readers::Owner)?;
        // Last: `ca.pem` says that the folder is complete, so a run killed before here starts over.
        files::write(&folder.join("ca.pem"), root_pem.as_bytes(), Readers::Everyone)?;
        Self::open(folder)
    }

    /// Opens a folder that [`Pki::create`] made.
    ///
    /// # Errors
    /// A file is absent, or is not what its name says.
    pub fn open(folder: &Path) -> Result<Self> {
        files::read(&folder.join("ca.pem"))?;
        let authority = |file: &str| -> Result<Authority> {
            let pem = files::read(&folder.join(format!("{file}.pem")))?;
            let key = KeyPair::from_pem(&files::read(&folder.join(format!("{file}.key")))?)
                .with_context(|| format!("read the key of {file}"))?;
            let issuer = Issuer::from_ca_cert_pem(&pem, key)
                .with_context(|| format!("read the certificate of {file}"))?;
            Ok(Authority { pem, issuer })
        };
        Ok(Self {
            folder: folder.to_owned(),
            devices: authority("device-ca")?,
            servers: authority("server-ca")?,
        })
    }

    /// Opens the PKI in `folder`, and makes it first when there is none.
    ///
    /// # Errors
    /// As [`Pki::create`] and [`Pki::open`].
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        if Self::exists(folder) { Self::open(folder) } else { Self::create(folder) }
    }

    /// Signs a certificate for a device: CN is `sensor_id`, usable as a TLS client only. Nothing is written.
    ///
    /// # Errors
    /// `sensor_id` is not one (see [`schema::check_sensor_id`]).
    pub fn issue_device(&self, sensor_id: &str) -> Result<DeviceCertificate> {
        check_name(sensor_id)?;
        let mut params = leaf_params(sensor_id, Vec::new())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = new_key()?;
        let cert = params.signed_by(&key, &self.devices.issuer).context("sign the device's certificate")?;
        Ok(DeviceCertificate {
            cert_pem: cert.pem() + &self.devices.pem,
            key_pem: key.serialize_pem(),
            fingerprint_sha256_hex: fingerprint(cert.der()),
        })
    }

    /// Signs a certificate for a server known by `names` (DNS names or addresses). Nothing is written.
    ///
    /// # Errors
    /// `names` is empty, or one of them is neither a DNS name nor an address.
    pub fn issue_server(&self, names: &[&str]) -> Result<ServerCertificate> {
        let Some(first) = names.first() else { bail!("a server certificate needs a name") };
        let mut params = leaf_params(first, names.iter().map(|&name| name.to_owned()).collect())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = new_key()?;
        let cert = params.signed_by(&key, &self.servers.issuer).context("sign the server's certificate")?;
        Ok(ServerCertificate { cert_pem: cert.pem() + &self.servers.pem, key_pem: key.serialize_pem() })
    }

    /// Returns the files of a device's certificate; issues it when there is none or it is about to expire.
    ///
    /// # Errors
    /// As [`Pki::issue_device`], or a file cannot be written.
    pub fn device_files(&self, sensor_id: &str) -> Result<DeviceFiles> {
        check_name(sensor_id)?;
        let cert = self.folder.join("devices").join(format!("{sensor_id}.pem"));
        let key = cert.with_file_name(format!("{sensor_id}.key"));
        if let Some(leaf) = current_leaf(&cert, &key) {
            return Ok(DeviceFiles { cert, key, fingerprint_sha256_hex: fingerprint(&leaf) });
        }
        let issued = self.issue_device(sensor_id)?;
        files::write(&key, issued.key_pem.as_bytes(), Readers::Owner)?;
        files::write(&cert, issued.cert_pem.as_bytes(), Readers::Everyone)?;
        Ok(DeviceFiles { cert, key, fingerprint_sha256_hex: issued.fingerprint_sha256_hex })
    }

    /// Returns the certificate and key file of the local servers, known by `names`; issues them as
    /// [`Pki::device_files`] does.
    ///
    /// # Errors
    /// As [`Pki::issue_server`], or a file cannot be written.
    pub fn server_files(&self, names: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let (cert, key) = (self.folder.join("server.pem"), self.folder.join("server.key"));
        if current_leaf(&cert, &key).is_none() {
            let issued = self.issue_server(names)?;
            files::write(&key, issued.key_pem.as_bytes(), Readers::Owner)?;
            files::write(&cert, issued.cert_pem.as_bytes(), Readers::Everyone)?;
        }
        Ok((cert, key))
    }

    /// Names the root certificate's file, which every client trusts.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Names the device authority's file, by which the gateway verifies its clients.
    #[must_use]
    pub fn device_ca_file(&self) -> PathBuf {
        self.folder.join("device-ca.pem")
    }
}

/// Returns the lower-case hex SHA-256 of a certificate's DER.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

/// Checks a name before anything else: it becomes a file name here.
fn check_name(sensor_id: &str) -> Result<()> {
    schema::check_sensor_id(sensor_id).with_context(|| format!("{sensor_id:?} is no sensor id"))
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("generate a P-256 key")
}

fn authority_params(common_name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + AUTHORITY_VALIDITY;
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf_params(common_name: &str, alt_names: Vec<String>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(alt_names).context("read the server's names")?;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + LEAF_VALIDITY;
    params.distinguished_name = named(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Returns the DER of the first certificate in `cert` if it and its key are there and it is not about to
/// expire.
fn current_leaf(cert: &Path, key: &Path) -> Option<Vec<u8>> {
    let chain = std::fs::read(cert).ok().filter(|_| key.exists())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&chain).ok()?;
    let expires_at = pem.parse_x509().ok()?.validity().not_after.to_datetime();
    (expires_at > OffsetDateTime::now_utc() + RENEWAL_BEFORE).then_some(pem.contents)
}

#[cfg(test)]
mod tests;
