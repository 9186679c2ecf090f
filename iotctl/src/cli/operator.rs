//! Options by which a command finds the service that it asks, and is believed there.

use crate::alerts::clean;
use crate::api::{Api, Refusal};
use crate::state::State;
use crate::token::Signer;
use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Validity of the token that a command makes for itself; longer than any command.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);
/// Resources of the largest page of a list.
const PAGE_MAX: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct OperatorOptions {
    /// Where threshold-svc answers [default: in the local installation].
    #[arg(long, env = "FIELDLINE_THRESHOLDS_URL", requires = "token_file", global = true)]
    url: Option<String>,
    /// Authorities that its certificate must chain to, PEM [default: the system's].
    #[arg(long, env = "FIELDLINE_CA_FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// File with a token of the role operator [default: one is made with the local installation's key].
    #[arg(long, env = "FIELDLINE_TOKEN_FILE", global = true)]
    token_file: Option<PathBuf>,
}

impl OperatorOptions {
    /// Describes the service. Nothing is sent yet.
    pub(super) fn api(&self, state: Option<&Path>, offset: Option<u16>) -> Result<Api> {
        let url = self.url.as_deref().map(|url| (url, self.ca_file.as_deref()));
        api(url, self.token_file.as_deref(), state, offset)
    }
}

#[derive(Debug, Args)]
pub(super) struct ReaderOptions {
    /// Where query-svc answers [default: in the local installation].
    #[arg(long, env = "FIELDLINE_QUERIES_URL", requires = "token_file")]
    url: Option<String>,
    /// Authorities that its certificate must chain to, PEM [default: the system's].
    #[arg(long, env = "FIELDLINE_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// File with a token of the role operator or analyst [default: one is made with the local installation's
    /// key].
    #[arg(long, env = "FIELDLINE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl ReaderOptions {
    /// Describes the service. Nothing is sent yet.
    pub(super) fn api(&self, state: Option<&Path>, offset: Option<u16>) -> Result<Api> {
        let url = self.url.as_deref().map(|url| (url, self.ca_file.as_deref()));
        api(url, self.token_file.as_deref(), state, offset)
    }
}

fn api(
    url: Option<(&str, Option<&Path>)>,
    token_file: Option<&Path>,
    state: Option<&Path>,
    offset: Option<u16>,
) -> Result<Api> {
    let token = match token_file {
        Some(file) => Some(crate::files::read(file)?.trim().to_owned()),
        None => None,
    };
    if let (Some((url, ca_file)), Some(token)) = (url, &token) {
        return Api::at(url, ca_file, token.clone());
    }
    let state = State::open_installed(state)?;
    let ports = crate::up::ports(&state, offset)?;
    let token = match token {
        Some(token) => token,
        None => {
            let signer = Signer::open_or_create(&state.jwt()).context("make a token")?;
            signer.mint("local-user", &["operator"], TOKEN_TTL)?
        }
    };
    Api::local(ports, token)
}

/// Prints resources: a table for people, a line of JSON each for programs. A column is a field, or with
/// slashes the path to one.
pub(super) fn print(resources: &[Value], columns: &[&str]) {
    if std::io::stdout().is_terminal() {
        print_table(resources, columns);
        return;
    }
    let mut out = std::io::stdout().lock();
    for resource in resources {
        // The reader may stop reading.
        let _ = writeln!(out, "{resource}");
    }
}

/// Prints resources for people, as [`print()`] does.
pub(super) fn print_table(resources: &[Value], columns: &[&str]) {
    let mut out = std::io::stdout().lock();
    let cell = |resource: &Value, column: &str| match resource.pointer(&format!("/{column}")) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => clean(text.lines().next().unwrap_or_default()),
        Some(other) => other.to_string(),
    };
    let title = |column: &&str| column.rsplit('/').next().unwrap_or_default().to_owned();
    let mut rows = vec![columns.iter().map(title).collect::<Vec<_>>()];
    rows.extend(resources.iter().map(|one| columns.iter().map(|column| cell(one, column)).collect()));
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// Says of a refusal what its service says, and of each bad field.
pub(super) fn explained(error: anyhow::Error) -> anyhow::Error {
    let Some(refusal) = error.downcast_ref::<Refusal>() else { return error };
    let mut text = refusal.detail();
    for (field, detail) in refusal.fields() {
        let _ = write!(text, "\n  {field} {detail}");
    }
    anyhow::Error::msg(text)
}

/// Writes the query string of the filters that are given.
pub(super) fn query(filters: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in filters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// Returns the address of one resource of a list.
pub(super) fn one(api: &Api, path: &str, id: &str) -> String {
    let id: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("{}{path}/{id}", api.thresholds)
}

/// Reads every page of a list of threshold-svc.
pub(super) async fn all(api: &Api, path: &str, query: &str) -> Result<Vec<Value>> {
    some(api, &format!("{}{path}", api.thresholds), query, usize::MAX).await
}

/// Reads the pages of a list until there are `count_max` resources.
pub(super) async fn some(api: &Api, list: &str, query: &str, count_max: usize) -> Result<Vec<Value>> {
    let first = format!("{list}?limit={}&{query}", count_max.clamp(1, PAGE_MAX));
    let (mut found, mut url) = (Vec::new(), first.clone());
    loop {
        let page = api.get(&url).await.map_err(explained)?;
        found.extend(crate::api::resources(&page).iter().cloned());
        match page["next"].as_str() {
            Some(next) if found.len() < count_max => url = format!("{first}&cursor={next}"),
            _ => break,
        }
    }
    found.truncate(count_max);
    Ok(found)
}
