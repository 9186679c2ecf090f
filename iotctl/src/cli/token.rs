//! `iotctl token`.

use super::parse_duration;
use crate::progress::Progress;
use crate::state::State;
use crate::token::Signer;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct TokenOptions {
    /// What its user may do; several roles by repeating the option.
    #[arg(long = "role", value_enum, required = true)]
    roles: Vec<Role>,
    /// How long it is valid: a number and `s`, `m`, `h` or `d`.
    #[arg(long, default_value = "12h", value_parser = parse_duration)]
    ttl: Duration,
    /// The user that it names.
    #[arg(long, default_value = "local-user")]
    subject: String,
}

/// A role that a token gives its user.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Publishes readings over HTTP.
    Device,
    /// Reads aggregates and latest values.
    Analyst,
    /// Manages devices and thresholds.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Analyst => "analyst",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Prints a token.
pub(super) fn run(state: &State, options: TokenOptions, progress: &Progress) -> Result<()> {
    let roles: Vec<&str> = options.roles.into_iter().map(Role::as_str).collect();
    let signer = open_signer(state, progress)?;
    println!("{}", signer.mint(&options.subject, &roles, options.ttl)?);
    Ok(())
}

/// Opens the key that tokens are signed with. For a new one it says how services are told to take its tokens.
fn open_signer(state: &State, progress: &Progress) -> Result<Signer> {
    let is_new = !Signer::exists(&state.jwt());
    let signer = Signer::open_or_create(&state.jwt())?;
    if is_new {
        let jwks = signer.jwks_file();
        progress.note(&format!(
            "made a signing key; services take its tokens with JWT_JWKS_FILE={}",
            jwks.display()
        ));
    }
    Ok(signer)
}
