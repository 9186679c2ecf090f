//! Audits: the hourly read model against the raw rows, and the raw rows against what Kafka holds.
//!
//! Findings go to standard output as they are found, one line each: text on a terminal, JSON in a pipe. Nothing is
//! written to the database or to Kafka.

pub mod aggregates;
pub mod ledger;

use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use schema::Timestamp;
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::Client;

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
        // Whoever reads may stop reading; the exit code still tells the outcome.
        let _ = if self.terminal { writeln!(out, "\r\x1b[K{line}") } else { writeln!(out, "{json}") };
    }
}

impl Default for Findings {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads from when on raw rows are kept; none when none was ever dropped.
async fn kept_from(client: &Client) -> Result<Option<Timestamp>> {
    let row = client.query_one("SELECT readings_kept_from FROM storage_contract", &[]).await;
    let kept: Option<OffsetDateTime> = row.context("read the storage contract")?.get(0);
    Ok(kept.map(Timestamp::from))
}
