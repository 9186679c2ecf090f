//! The versions of one threshold, by the time from which each is in force. Pure.

use schema::{Mode, ThresholdRow, Timestamp};

/// Most versions of a threshold that are kept; a reading that is older than all of them is evaluated by none.
pub const VERSIONS_MAX: usize = 16;

/// Holds the last versions of a threshold, the oldest first; there is at least one.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    rows: Vec<ThresholdRow>,
}

impl Versions {
    /// Begins with one version.
    pub(crate) fn new(row: ThresholdRow) -> Self {
        Self { rows: vec![row] }
    }

    /// Adds the version that is in force from now on. Versions that say that they came after it are not: the
    /// database was restored to an earlier state.
    pub(crate) fn add(&mut self, row: ThresholdRow) {
        self.rows.retain(|kept| kept.version < row.version && kept.updated_at <= row.updated_at);
        if self.rows.len() == VERSIONS_MAX {
            self.rows.remove(0);
        }
        self.rows.push(row);
    }

    /// Returns the version that is in force now.
    pub(crate) fn current(&self) -> &ThresholdRow {
        self.rows.last().expect("there is at least one version")
    }

    /// Returns the version that was in force at an instant of event time, if one is known.
    pub(crate) fn at(&self, instant: Timestamp) -> Option<&ThresholdRow> {
        self.rows.iter().rev().find(|row| row.updated_at <= instant)
    }

    /// Lists the versions.
    pub(crate) fn rows(&self) -> &[ThresholdRow] {
        &self.rows
    }

    /// Returns a version by its number, or the current one.
    pub(crate) fn numbered(&self, version: i64) -> &ThresholdRow {
        self.rows.iter().find(|row| row.version == version).unwrap_or_else(|| self.current())
    }

    /// Says whether every version between two evaluates readings alike, both included. A version that is not
    /// known any more is unlike all others.
    pub(crate) fn is_alike(&self, one: i64, other: i64) -> bool {
        if one == other {
            return true;
        }
        let (first, last) = (one.min(other), one.max(other));
        let between: Vec<_> = self.rows.iter().filter(|row| (first..=last).contains(&row.version)).collect();
        let has_both = between.first().is_some_and(|row| row.version == first)
            && between.last().is_some_and(|row| row.version == last);
        has_both && between.windows(2).all(|two| evaluate_alike(two[0], two[1]))
    }
}

/// Says whether two versions have the same episodes: they differ in words, in how often an episode speaks,
/// and in whom they cover at most.
fn evaluate_alike(one: &ThresholdRow, other: &ThresholdRow) -> bool {
    let parts = |row: &ThresholdRow| {
        (
            (row.min_value, row.max_value, row.no_data_seconds, row.hysteresis),
            (row.for_seconds, row.keep_firing_seconds, row.severity, row.mode),
        )
    };
    one.metric == other.metric && parts(one) == parts(other)
}

/// Says whether a version evaluates anything.
pub(crate) fn is_on(row: &ThresholdRow) -> bool {
    row.mode != Mode::Off
}
