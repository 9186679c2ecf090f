//! Certificates and tokens of one test's own, made by the code that makes them for the local stack.

use iotctl::pki::{DeviceCertificate, Pki};
use std::path::PathBuf;
use tempfile::TempDir;

/// A PKI in a folder that goes with this value.
pub struct TestPki {
    folder: TempDir,
    pki: Pki,
}

impl TestPki {
    /// Makes a root, both authorities and a server certificate for localhost.
    ///
    /// # Panics
    /// The folder cannot be written.
    pub fn create() -> Self {
        let folder = TempDir::new().unwrap();
        let pki = Pki::create(folder.path()).unwrap();
        let test = Self { folder, pki };
        let server = test.pki.issue_server(&["localhost", "127.0.0.1"]).unwrap();
        std::fs::write(test.path("server.pem"), server.cert_pem).unwrap();
        std::fs::write(test.path("server.key"), server.key_pem).unwrap();
        test
    }

    /// Returns the path of a file: `ca.pem`, `device-ca.pem`, `server.pem`, `server.key`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs a device certificate and writes it as `NAME.pem` and `NAME.key`, for clients that take files.
    ///
    /// # Panics
    /// The name is no sensor id.
    pub fn device(&self, sensor_id: &str) -> DeviceCertificate {
        let device = self.pki.issue_device(sensor_id).unwrap();
        std::fs::write(self.path(&format!("{sensor_id}.pem")), &device.cert_pem).unwrap();
        std::fs::write(self.path(&format!("{sensor_id}.key")), &device.key_pem).unwrap();
        device
    }

    /// Returns the root certificate, PEM.
    ///
    /// # Panics
    /// The file is gone.
    pub fn root_pem(&self) -> String {
        std::fs::read_to_string(self.path("ca.pem")).unwrap()
    }
}
