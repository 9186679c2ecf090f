//! A PostgreSQL server of one test's own: one that has settings, roles and rules of access of its own.

use crate::pki::TestPki;
use chassis::postgres::Settings;
use iotctl::servers::postgres::{self, Postgres};
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

/// A server that ends with this value.
pub struct Server {
    server: Postgres,
    port: u16,
    folder: TempDir,
}

impl Server {
    /// Starts a server with these `name=value` settings and waits until it answers.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start(further: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), further.iter().map(|&one| one.to_owned()).collect())
            .await
    }

    /// Starts a server with the certificate of `localhost` and `127.0.0.1` that the PKI has made.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start_with_tls(pki: &TestPki) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("server.key");
        // The server refuses a key that others may read.
        std::fs::copy(pki.path("server.key"), &key).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let cert = pki.path("server.pem");
        let further = vec![
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", cert.display()),
            format!("ssl_key_file={}", key.display()),
        ];
        Self::start_in(folder, further).await
    }

    async fn start_in(folder: TempDir, further: Vec<String>) -> Self {
        let port = crate::free_port();
        let settings = postgres::Settings {
            folder: folder.path().join("postgres"),
            log: folder.path().join("postgres.log"),
            port,
            durable: false,
            further,
        };
        Self { server: Postgres::start(&settings).await.unwrap(), port, folder }
    }

    /// Returns the superuser's URL.
    pub fn url(&self) -> String {
        self.server.url("postgres")
    }

    /// Returns its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets in those whom these lines of `pg_hba.conf` name, and nobody else.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn admit(&self, rules: &[&str]) {
        let file = self.folder.path().join("postgres/data/pg_hba.conf");
        std::fs::write(file, rules.join("\n") + "\n").unwrap();
        let client = Settings::local(self.url()).connect().await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
}
