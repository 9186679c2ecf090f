//! When a target may be called: its rate, and a circuit that opens while it fails. Pure: the caller brings
//! the time and the chance.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
const FAILURES_MAX: u32 = 3;
/// Waits of an open circuit: the first, and the longest that doubling leads to.
const OPEN_FIRST: Duration = Duration::from_secs(1);
const OPEN_LONGEST: Duration = Duration::from_secs(300);
/// Longest wait that a target may ask for (`Retry-After`).
const ASKED_LONGEST: Duration = Duration::from_secs(3_600);
/// Wait while another call looks whether the target is back.
const PROBE_WAIT: Duration = Duration::from_millis(100);

/// Decides when the next call may be made.
///
/// Guarantee: in any minute at most twice `per_minute` calls, the burst after a pause included; while the
/// circuit is open none, and then one at a time until one succeeds.
#[derive(Debug)]
pub(crate) struct Gate {
    per_second: f64,
    tokens_max: f64,
    tokens: f64,
    filled: Instant,
    circuit: Circuit,
    /// In a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    Closed,
    OpenUntil(Instant),
    /// One call looks whether the target is back; it ends at the latest then.
    ProbedUntil(Instant),
}

impl Gate {
    /// Begins closed, with a minute's calls at hand.
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let tokens_max = f64::from(per_minute.max(1));
        Self {
            per_second: tokens_max / 60.0,
            tokens_max,
            tokens: tokens_max,
            filled: now,
            circuit: Circuit::Closed,
            failures: 0,
        }
    }

    /// Allows a call that ends within `call_max`, or says how long to wait before asking again.
    pub(crate) fn ask(&mut self, now: Instant, call_max: Duration) -> Result<(), Duration> {
        match self.circuit {
            Circuit::OpenUntil(until) if now < until => return Err(until - now),
            // A probe that was dropped reports nothing.
            Circuit::ProbedUntil(until) if now < until => return Err(PROBE_WAIT),
            Circuit::Closed | Circuit::OpenUntil(_) | Circuit::ProbedUntil(_) => {}
        }
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.tokens_max);
        self.filled = now.max(self.filled);
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second));
        }
        self.tokens -= 1.0;
        if self.circuit != Circuit::Closed {
            self.circuit = Circuit::ProbedUntil(now + call_max);
        }
        Ok(())
    }

    /// Notes that the target has answered.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        self.circuit = Circuit::Closed;
    }

    /// Notes that it has not, or has asked for a pause. `chance` is anything from 0 to 1: it spreads the
    /// calls of several instances.
    pub(crate) fn failed(&mut self, now: Instant, chance: f64, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        if asked.is_none() && self.failures < FAILURES_MAX && self.circuit == Circuit::Closed {
            return;
        }
        let doublings = self.failures.saturating_sub(FAILURES_MAX).min(16);
        let ceiling = OPEN_FIRST.saturating_mul(1 << doublings).min(OPEN_LONGEST);
        let wait = ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        let until = now + wait.max(asked.unwrap_or_default().min(ASKED_LONGEST));
        self.circuit = match self.circuit {
            // A call that began before it opened does not bring it closer.
            Circuit::OpenUntil(earlier) => Circuit::OpenUntil(until.max(earlier)),
            Circuit::Closed | Circuit::ProbedUntil(_) => Circuit::OpenUntil(until),
        };
    }

    /// Says whether calls are held back because the target fails.
    pub(crate) fn is_open(&self) -> bool {
        self.circuit != Circuit::Closed
    }
}

#[cfg(test)]
mod tests;
