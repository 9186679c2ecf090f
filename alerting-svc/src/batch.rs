//! What the open transaction holds, and when it is to be committed. Pure: the caller brings the time.

use rules::Outputs;
use schema::{Alert, EpisodeStep, Timestamp};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Age of its first alert at which a batch ends: a burst shares one commit, a single alert waits for no more
/// than this.
const ALERT_LINGER: Duration = Duration::from_millis(5);
/// Age of its first reading at which any other batch ends: one without an alert, for which only offsets wait,
/// and one behind which readings wait already. Their alerts are late by more than this, and each commit would
/// make them later.
const BATCH_AGE_MAX: Duration = Duration::from_millis(100);
/// Most readings of a batch; bounds what an abort repeats.
const BATCH_READINGS_MAX: usize = 100_000;
/// Most alerts of a batch; bounds the memory that they and their episodes take in the producer, about 2 kB
/// each.
const BATCH_ALERTS_MAX: u64 = 4_000;
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
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) opened: Option<Instant>,
    /// Whether readings wait already that are not in it.
    pub(crate) is_behind: bool,
    pub(crate) first_alert: Option<Instant>,
    pub(crate) readings: usize,
    pub(crate) undecodable: u64,
    /// What its steps counted; their alerts are taken out.
    pub(crate) out: Outputs,
    pub(crate) episodes_opened: u64,
    pub(crate) episodes_closed: u64,
    pub(crate) silenced: u64,
    pub(crate) alerts: u64,
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

    /// Counts a partition in that no reading came from: what is committed of it is where it stands.
    pub(crate) fn add_standing(&mut self, partition: i32, next: i64) {
        self.spans.entry(partition).or_insert(Span { first: next, next });
    }

    /// Counts an alert in; of a reading, when that was received.
    pub(crate) fn add_alert(&mut self, alert: &Alert, received_at: Option<Timestamp>, now: Instant) {
        self.first_alert.get_or_insert(now);
        self.received.extend(received_at);
        self.alerts += 1;
        self.episodes_opened += u64::from(alert.episode == Some(EpisodeStep::Opened));
        self.episodes_closed += u64::from(alert.episode == Some(EpisodeStep::Closed));
        self.silenced += u64::from(alert.silenced_by.is_some());
    }

    /// Returns how long it may wait for another reading.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let due = match (self.opened, self.first_alert) {
            (_, Some(first)) if !self.is_behind => first + ALERT_LINGER,
            (Some(opened), _) => opened + BATCH_AGE_MAX,
            (None, _) => return IDLE_WAIT,
        };
        due.saturating_duration_since(now)
    }

    /// Says whether it is to be committed now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let is_full = self.readings >= BATCH_READINGS_MAX || self.alerts >= BATCH_ALERTS_MAX;
        self.is_open() && (is_full || self.wait(now).is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alert_is_committed_soon_and_offsets_alone_later() {
        let begin = Instant::now();
        let mut batch = Batch::default();
        assert_eq!((batch.wait(begin), batch.is_due(begin)), (IDLE_WAIT, false));
        batch.opened = Some(begin);
        assert_eq!(batch.wait(begin), BATCH_AGE_MAX);
        assert!(!batch.is_due(begin) && batch.is_due(begin + BATCH_AGE_MAX));
        let alert = begin + Duration::from_millis(1);
        let golden: Alert =
            serde_json::from_str(include_str!("../../schema/tests/golden/alert.1.json")).unwrap();
        batch.add_alert(&golden, Some(golden.detected_at), alert);
        batch.add_alert(&golden, None, alert + ALERT_LINGER / 2);
        assert_eq!((batch.alerts, batch.received.len()), (2, 1));
        assert!(!batch.is_due(alert) && batch.is_due(alert + ALERT_LINGER), "the first alert counts");
    }

    #[test]
    fn batch_with_readings_behind_it_ends_by_its_age_or_its_alerts() {
        let begin = Instant::now();
        let mut batch =
            Batch { opened: Some(begin), first_alert: Some(begin), is_behind: true, ..Batch::default() };
        assert!(!batch.is_due(begin + ALERT_LINGER) && batch.is_due(begin + BATCH_AGE_MAX));
        batch.alerts = BATCH_ALERTS_MAX;
        assert!(batch.is_due(begin));
    }

    #[test]
    fn full_batch_is_due_at_once_and_knows_its_spans() {
        let begin = Instant::now();
        let mut batch = Batch { opened: Some(begin), ..Batch::default() };
        batch.add(3, 7);
        for offset in 1..BATCH_READINGS_MAX as i64 {
            assert!(!batch.is_due(begin));
            batch.add(0, offset);
        }
        assert!(batch.is_due(begin));
        let last = BATCH_READINGS_MAX as i64;
        assert_eq!(batch.spans[&3], Span { first: 7, next: 8 });
        assert_eq!(batch.spans[&0], Span { first: 1, next: last });
    }
}
