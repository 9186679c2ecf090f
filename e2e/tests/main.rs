//! The system as its users meet it: devices, operators, analysts, consumers of alerts, and the engineer who
//! reads it.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod abuse;
mod alerts;
mod capture;
mod faults;
mod loss;
mod pages;
mod pipeline;
mod revocation;
mod scaling;
mod settings;
mod strangers;
mod up;
