//! How our code reads, held by tests instead of by reviewers. No servers: `cargo test --test form`.
#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod comments;
mod hold;
mod imports;
mod laws;
mod manifests;
mod pure;
mod sources;
mod words;
