//! Audits: the hourly read model against the raw rows, and the raw rows against what Kafka holds.
//!
//! Findings go to standard output as they are found, one line each: text on a terminal, JSON in a pipe.
//! Nothing is written to the database or to Kafka.

pub mod aggregates;
pub mod ledger;

use crate::database;
use crate::progress::Progress;
use crate::state::{KAFKA_PORT, State};
use crate::up;
use anyhow::{Context as _, Result, ensure};
use chassis::config::Env;
use schema::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use time::OffsetDateTime;
use tokio_postgres::Client;

/// Variables that name what to audit. Where one is given, none is made up: an audit of one installation's
/// database against another's broker would find losses that there are not.
const NAMED_BY: [&str; 3] = ["DATABASE_URL", "DATABASE_URL_FILE", "KAFKA_BOOTSTRAP_SERVERS"];
/// The service as whose user the local database is audited: it may read all that is compared, and write
/// nothing.
const AUDITED_AS: &str = "query-svc";

/// The time to audit: from the first instant on, up to the second and without it.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first instant.
    pub from: Timestamp,
    /// The first instant after it.
    pub to: Timestamp,
}

impl Window {
    /// Makes a window that is not empty.
    ///
    /// # Errors
    /// It ends before it begins.
    pub fn new(from: Timestamp, to: Timestamp) -> Result<Self> {
        ensure!(from < to, "--from must be before --to");
        Ok(Self { from, to })
    }
}

/// Prints findings on standard output in the form that suits what is behind it.
#[derive(Debug)]
pub struct Findings {
    terminal: bool,
}

impl Findings {
    /// Looks at what is behind standard output.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal() }
    }

    /// Prints one finding: a line for people, the same for programs.
    pub fn found(&self, line: &str, json: &Value) {
        let mut out = std::io::stdout().lock();
        // The reader may stop reading; the exit code still tells the outcome.
        let _ = if self.terminal { writeln!(out, "\r\x1b[K{line}") } else { writeln!(out, "{json}") };
    }
}

impl Default for Findings {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns this process's environment; where it names neither database nor broker, those of the local
/// installation.
///
/// # Errors
/// The port offset is too large.
pub fn environment(state: Option<&State>, offset: Option<u16>, progress: &Progress) -> Result<Env> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let mut variables: BTreeMap<String, String> = std::env::vars_os().filter_map(text).collect();
    let is_given = |name: &str| variables.get(name).is_some_and(|value| !value.is_empty());
    let url_file = state.map(|state| (state, database::url_file(state, AUDITED_AS)));
    if let Some((state, url_file)) = url_file.filter(|(_, file)| file.exists())
        && !NAMED_BY.into_iter().any(is_given)
    {
        let broker = format!("127.0.0.1:{}", up::ports(state, offset)?.at(KAFKA_PORT));
        progress.note(&format!("audits the installation in {}", state.path("").display()));
        variables.insert("DATABASE_URL_FILE".to_owned(), url_file.display().to_string());
        variables.insert("KAFKA_BOOTSTRAP_SERVERS".to_owned(), broker);
    }
    Ok(Env::of(variables))
}

/// Reads from when on raw rows are kept; none when none was ever dropped.
async fn kept_from(client: &Client) -> Result<Option<Timestamp>> {
    let row = client.query_one("SELECT readings_kept_from FROM storage_contract", &[]).await;
    let kept: Option<OffsetDateTime> = row.context("read the storage contract")?.get(0);
    Ok(kept.map(Timestamp::from))
}
