//! Says what a command is doing: one line per step with its elapsed time on a terminal, JSON lines in a pipe.
//!
//! Written to standard error; standard output belongs to what a command was asked for. A reader that went
//! away is no reason to stop the work it watched, so a failed write is ignored.

use anyhow::{Context as _, Result};
use serde_json::json;
use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Interval at which a running step's elapsed time is drawn on a terminal.
const REDRAW_EVERY: Duration = Duration::from_millis(500);

/// Where steps are reported.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    terminal: bool,
}

impl Progress {
    /// Reports on standard error, in the form that suits what is behind it.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Runs one step and reports its end; the text that `work` returns is shown beside the step's name.
    ///
    /// # Errors
    /// The error of `work`, with the step's name as context.
    pub async fn step<T: AsRef<str>>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        if !self.terminal {
            report(&json!({"at": now(), "step": name, "state": "begun"}));
        }
        tokio::pin!(work);
        let mut redraw = tokio::time::interval(REDRAW_EVERY);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                _ = redraw.tick() => self.draw("…", name, started, "", ""),
            }
        };
        let (state, mark, detail) = match &outcome {
            Ok(detail) => ("done", "✓", detail.as_ref().to_owned()),
            Err(error) => ("failed", "✗", format!("{error:#}")),
        };
        if self.terminal {
            let shown = if outcome.is_ok() { detail.as_str() } else { "" };
            self.draw(mark, name, started, shown, "\n");
        } else {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            report(
                &json!({"at": now(), "step": name, "state": state, "elapsed_ms": elapsed_ms, "detail": detail}),
            );
        }
        outcome.with_context(|| name.to_owned())
    }

    /// Reports something that is not a step, such as a service that died.
    pub fn note(&self, text: &str) {
        if self.terminal {
            let _ = writeln!(std::io::stderr().lock(), "\r\x1b[K{text}");
        } else {
            report(&json!({"at": now(), "note": text}));
        }
    }

    fn draw(&self, mark: &str, name: &str, started: Instant, detail: &str, end: &str) {
        if self.terminal {
            let elapsed = started.elapsed().as_secs_f64();
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{mark} {elapsed:5.1} s  {name}  {detail}{end}");
            let _ = out.flush();
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn report(line: &serde_json::Value) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}
