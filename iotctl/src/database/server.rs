//! The server on which the local installation keeps its database.

use anyhow::{Context as _, Result};
use chassis::config::{Env, Secret};
use chassis::postgres::Settings;
use std::path::PathBuf;
use tokio_postgres::Client;

/// A PostgreSQL server and the login that may prepare it.
#[derive(Debug, Clone)]
pub struct Server {
    scheme: String,
    login: Secret,
    hosts: String,
    database: String,
    /// What follows the database's name, with its question mark.
    options: String,
    ca: Option<PathBuf>,
}

impl Server {
    /// Reads an administrator's URL, such as `postgres://postgres:…@127.0.0.1:5432/postgres`; its database is
    /// any that is there. The CA is the one of the server's certificate; none means plain text on this host.
    ///
    /// # Errors
    /// The text is no such URL, or the server is on another host and no CA is given.
    pub fn new(url: &str, ca: Option<PathBuf>) -> Result<Self> {
        let server = Self::split(url.trim(), ca);
        let server = server.context("the database URL must be postgres://USER:PASSWORD@HOST/DATABASE")?;
        server.settings(&server.database)?;
        Ok(server)
    }

    fn split(url: &str, ca: Option<PathBuf>) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_once('/')?;
        let (login, hosts) = authority.rsplit_once('@')?;
        let (database, options) = path.split_at(path.find('?').unwrap_or(path.len()));
        ["postgres", "postgresql"].contains(&scheme).then(|| Self {
            scheme: scheme.to_owned(),
            login: Secret::new(login),
            hosts: hosts.to_owned(),
            database: database.to_owned(),
            options: options.to_owned(),
            ca,
        })
    }

    /// Connects as the administrator.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn connect(&self) -> Result<Client> {
        self.connect_to(&self.database).await
    }

    /// Connects to a database as the administrator.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub async fn connect_to(&self, database: &str) -> Result<Client> {
        self.settings(database)?.connect().await
    }

    /// Returns the URL of a database for a role, whose name and password need no escapes. A secret.
    #[must_use]
    pub fn url_of(&self, role: &str, password: &str, database: &str) -> String {
        self.url(&format!("{role}:{password}"), database)
    }

    /// Names the CA for services (`DATABASE_CA_FILE`).
    #[must_use]
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    fn url(&self, login: &str, database: &str) -> String {
        format!("{}://{login}@{}/{database}{}", self.scheme, self.hosts, self.options)
    }

    /// Returns the settings as a service would read them, so that the same is refused.
    fn settings(&self, database: &str) -> Result<Settings> {
        let ca = self.ca.iter().map(|ca| ("DATABASE_CA_FILE".to_owned(), ca.display().to_string()));
        let url = ("DATABASE_URL".to_owned(), self.url(self.login.expose(), database));
        let mut env = Env::of([url].into_iter().chain(ca));
        let settings = Settings::from_env(&mut env);
        env.finish()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_role_keeps_the_hosts_and_the_options_of_the_administrator() {
        let url = "postgresql://a:b%40c@127.0.0.1:1,localhost:2/any?connect_timeout=3\n";
        let server = Server::new(url, None).unwrap();
        assert_eq!(
            server.url_of("query_svc", "secret", "own"),
            "postgresql://query_svc:secret@127.0.0.1:1,localhost:2/own?connect_timeout=3"
        );
        assert_eq!(server.url(server.login.expose(), &server.database), url.trim());
    }

    #[test]
    fn server_that_is_named_in_another_way_or_lies_elsewhere_without_a_ca_is_refused() {
        for url in ["host=127.0.0.1 user=a", "postgres://127.0.0.1/any", "http://a@127.0.0.1/any"] {
            let error = Server::new(url, None).unwrap_err();
            assert!(format!("{error:#}").contains("postgres://USER"), "{url}: {error:#}");
        }
        let elsewhere = Server::new("postgres://a:b@db.example/any", None).unwrap_err();
        assert!(format!("{elsewhere:#}").contains("DATABASE_CA_FILE"), "{elsewhere:#}");
    }
}
