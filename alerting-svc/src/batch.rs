//! What the open transaction holds, and when it is to be committed.

use schema::Timestamp;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Age of its first alert at which a batch ends: a burst shares one commit, a single alert waits for no more
/// than this.
const ALERT_LINGER: Duration = Duration::from_millis(5);
/// Age of its first reading at which a batch without any alert ends: only offsets wait, so there is no hurry.
const OFFSETS_LINGER: Duration = Duration::from_millis(100);
/// Most readings of a batch; bounds what an abort repeats.
const BATCH_READINGS_MAX: usize = 2_000;
/// Longest wait for a reading when no batch is open; also how late a shutdown is seen.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// Where a batch begins and ends in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Offset of its first record.
    pub(crate) first: i64,
    /// Offset after its last record.
    pub(crate) next: i64,
}

/// Holds what the open transaction is made of.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) opened: Option<Instant>,
    pub(crate) first_alert: Option<Instant>,
    pub(crate) readings: usize,
    pub(crate) undecodable: u64,
    pub(crate) repeats: u64,
    pub(crate) shadow_violations: u64,
    /// When the readings of the alerts were received.
    pub(crate) received: Vec<Timestamp>,
    pub(crate) spans: BTreeMap<i32, Span>,
}

impl Batch {
    /// Says whether there is a transaction.
    pub(crate) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Counts a record in.
    pub(crate) fn add(&mut self, partition: i32, offset: i64) {
        self.readings += 1;
        self.spans.entry(partition).or_insert(Span { first: offset, next: offset }).next = offset + 1;
    }

    /// Returns how long it may wait for another reading.
    pub(crate) fn wait(&self) -> Duration {
        let due = match (self.opened, self.first_alert) {
            (_, Some(first)) => first + ALERT_LINGER,
            (Some(opened), None) => opened + OFFSETS_LINGER,
            (None, None) => return IDLE_WAIT,
        };
        due.saturating_duration_since(Instant::now())
    }

    /// Says whether it is to be committed now.
    pub(crate) fn is_due(&self) -> bool {
        self.is_open() && (self.readings >= BATCH_READINGS_MAX || self.wait().is_zero())
    }
}
