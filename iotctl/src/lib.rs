//! The command line of a Fieldline installation: certificates, tokens, local servers, topics, audits.
//!
//! In:         the command line and the environment (`FIELDLINE_STATE`, `FIELDLINE_PORT_OFFSET`).
//! Out:        files below one state folder, and processes that end with it; nothing else on the machine
//!             changes.
//! Guarantee:  a command that is repeated keeps what the first run made; a killed one is cleaned up by the
//!             next.
//! On failure: one line that says which part failed and where its log is.
//!
//! It is a library too, so that the tests make their certificates, tokens and servers with this code and not
//! with a copy.

pub mod alerts;
pub mod api;
pub mod cli;
pub mod database;
pub mod files;
pub mod pki;
pub mod process;
pub mod progress;
pub mod servers;
pub mod services;
pub mod simulate;
pub mod state;
pub mod thresholds;
pub mod token;
pub mod topics;
pub mod up;
pub mod verify;
