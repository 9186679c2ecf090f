//! Which change of a key is in force when changes come again or late. Pure.
//!
//! A capturer that was stopped sends everything again that it had not confirmed, and stops wherever its
//! database goes away: the last record of a key may be an old one. Records of one key may also lie in two
//! partitions, between which there is no order. A reader that holds an update topic as a table asks
//! [`Order::check`] about each record, and applies it unless it is stale.
//!
//! * *A streamed change* is stale when its LSN or its version is lower than that of what is in force, and
//!   neither is higher. Both rise with every change of a row: the second needs its lock, which the first
//!   holds until its commit is in the WAL. Either alone can fall: the LSN when an asynchronous standby takes
//!   over, the version when somebody writes the table by hand.
//! * *A row that a snapshot read* is what the database holds now, also after it was restored to an earlier
//!   LSN and version. It is stale only when its LSN is not higher and it was captured earlier.
//! * *A delete* needs its key and its envelope, not the row that it deletes. Its position is remembered, or a
//!   replay would bring the row back.
//! * *A tombstone* has no position. The one that follows a delete says nothing new, however late it comes;
//!   any other, which is all that compaction left of a delete, deletes.

use crate::change::{ChangeError, Op, unwrap};
use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Deleted keys whose positions are kept: about 15 MiB, and far more than a capturer sends again.
pub const DELETED_KEYS_MAX: usize = 100_000;

/// Says where a change stands among the changes of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Position in the WAL.
    pub lsn: Option<u64>,
    /// Version of the row, from a sequence of the database: it also rises when a key is created anew.
    pub version: Option<i64>,
    /// When the capturer handled it, in milliseconds since the Unix epoch.
    pub captured_ms: i64,
    /// Whether a snapshot read it.
    pub is_snapshot: bool,
    /// Whether it leaves no row.
    pub is_deletion: bool,
}

/// The parts of an envelope that say what a change is, whatever its row looks like.
#[derive(Deserialize)]
struct Headline {
    op: Op,
    #[serde(default)]
    before: Option<Versioned>,
    #[serde(default)]
    after: Option<Versioned>,
    #[serde(default)]
    source: Place,
    #[serde(default)]
    ts_ms: i64,
}

/// The parts of a [`crate::change::Source`] that say where a change stands.
#[derive(Default, Deserialize)]
struct Place {
    #[serde(default)]
    lsn: Option<u64>,
    #[serde(default)]
    snapshot: Option<String>,
}

#[derive(Deserialize)]
struct Versioned {
    #[serde(default)]
    version: Option<i64>,
}

impl Position {
    /// Reads the position of a change, wrapped or plain. The row itself may be unreadable.
    ///
    /// # Errors
    /// [`ChangeError`] when the value is no envelope.
    pub fn read(value: &[u8]) -> Result<Self, ChangeError> {
        let Headline { op, before, after, source, ts_ms } = unwrap(value)?;
        let is_deletion = op == Op::Delete;
        let row = if is_deletion { before } else { after };
        Ok(Self {
            lsn: source.lsn,
            version: row.and_then(|row| row.version),
            captured_ms: ts_ms,
            is_snapshot: op == Op::Read || source.snapshot.is_some_and(|snapshot| snapshot != "false"),
            is_deletion,
        })
    }

    /// Says whether this change takes the place of the one that is in force. The module says by which rules.
    pub fn supersedes(&self, in_force: &Self) -> bool {
        let lsn = self.lsn.zip(in_force.lsn).map(|(own, other)| own.cmp(&other));
        let version = self.version.zip(in_force.version).map(|(own, other)| own.cmp(&other));
        // A row that its own delete has removed does not come back; two equal rows are one.
        let is_later_step = self.is_deletion || !in_force.is_deletion;
        match (lsn, version) {
            // One snapshot both deletes and reads a key that the topic also has in another form: the row is
            // there.
            (Some(Ordering::Equal), _) if self.is_snapshot && in_force.is_snapshot => {
                in_force.is_deletion || !self.is_deletion
            }
            _ if self.is_snapshot => {
                lsn == Some(Ordering::Greater) || self.captured_ms >= in_force.captured_ms
            }
            (Some(Ordering::Greater), _) | (_, Some(Ordering::Greater)) => true,
            (Some(Ordering::Less), _) | (_, Some(Ordering::Less)) => false,
            (Some(Ordering::Equal), _) | (_, Some(Ordering::Equal)) => is_later_step,
            // Nothing is known of either, so the last one counts.
            (None, None) => true,
        }
    }
}

/// Says what a record means for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The change's row is in force from now on.
    Row,
    /// The key has no row from now on.
    Deleted,
    /// A later change is in force already: nothing changes.
    Stale,
}

/// Keeps, for each key of an update topic, the position of the change that is in force.
///
/// Units: memory grows with the keys that have a row, and with [`DELETED_KEYS_MAX`] that have none.
#[derive(Debug)]
pub struct Order<K> {
    in_force: HashMap<K, InForce>,
    /// Keys in the order of their deletion; some may have a row again.
    deleted: VecDeque<K>,
}

#[derive(Clone, Copy, Debug)]
struct InForce {
    position: Position,
    /// Deletes, stale ones too, whose tombstone has not come yet.
    tombstones_owed: u8,
}

impl<K> Default for Order<K> {
    fn default() -> Self {
        Self { in_force: HashMap::new(), deleted: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash> Order<K> {
    /// Checks the next record of a key, and remembers it when it is in force. No value is a tombstone.
    ///
    /// # Errors
    /// [`ChangeError`] when the value is no envelope. Nobody knows then how new it is; an older row that
    /// comes again is stale.
    pub fn check(&mut self, key: &K, value: Option<&[u8]>) -> Result<Verdict, ChangeError> {
        let Some(value) = value else { return Ok(self.check_tombstone(key)) };
        let mut position = match Position::read(value) {
            Ok(position) => position,
            Err(error) => {
                self.delete(key);
                return Err(error);
            }
        };
        let Some(in_force) = self.in_force.get_mut(key) else {
            self.take(key, InForce { position, tombstones_owed: u8::from(position.is_deletion) });
            return Ok(verdict(position));
        };
        if position.is_deletion {
            in_force.tombstones_owed = in_force.tombstones_owed.saturating_add(1);
        }
        if !position.supersedes(&in_force.position) {
            return Ok(Verdict::Stale);
        }
        // One capturer may leave out a position that the one before has given.
        position.lsn = position.lsn.or(in_force.position.lsn);
        position.version = position.version.or(in_force.position.version);
        let taken = InForce { position, ..*in_force };
        self.take(key, taken);
        Ok(verdict(position))
    }

    /// Counts the keys whose position is known, those without a row too.
    pub fn len(&self) -> usize {
        self.in_force.len()
    }

    /// Says whether no key is known.
    pub fn is_empty(&self) -> bool {
        self.in_force.is_empty()
    }

    fn check_tombstone(&mut self, key: &K) -> Verdict {
        match self.in_force.get_mut(key) {
            Some(in_force) if in_force.tombstones_owed > 0 => {
                in_force.tombstones_owed -= 1;
                Verdict::Stale
            }
            _ => {
                self.delete(key);
                Verdict::Deleted
            }
        }
    }

    /// Notes that the key has no row any more, at the position of the one that it had.
    fn delete(&mut self, key: &K) {
        let Some(in_force) = self.in_force.get(key) else { return };
        let position = Position { is_deletion: true, ..in_force.position };
        let taken = InForce { position, ..*in_force };
        self.take(key, taken);
    }

    fn take(&mut self, key: &K, taken: InForce) {
        let before = self.in_force.insert(key.clone(), taken);
        let was_deleted = before.is_some_and(|before| before.position.is_deletion);
        if !taken.position.is_deletion || was_deleted {
            return;
        }
        self.deleted.push_back(key.clone());
        if self.deleted.len() > DELETED_KEYS_MAX
            && let Some(oldest) = self.deleted.pop_front()
            && self.in_force.get(&oldest).is_some_and(|in_force| in_force.position.is_deletion)
        {
            self.in_force.remove(&oldest);
        }
    }
}

fn verdict(position: Position) -> Verdict {
    if position.is_deletion { Verdict::Deleted } else { Verdict::Row }
}

#[cfg(test)]
mod tests;
