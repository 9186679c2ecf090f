//! What this instance knows about one of its partitions.

use crate::buffer::{Buffer, Limits, Offered, Record};
use crate::work::Start;
use std::time::Instant;
use tokio::task::AbortHandle;

/// One assigned partition. Dropping it ends the work on it.
pub(crate) struct Partition {
    /// Tells this ownership from an earlier one of the same partition.
    pub(crate) generation: u64,
    /// The version of the assignment under which it was begun.
    pub(crate) version: u64,
    pub(crate) phase: Phase,
    /// Whether the consumer was told to pause it.
    pub(crate) is_paused: bool,
    /// Bytes of the cut that is being written.
    pub(crate) writing_bytes: Option<usize>,
    /// The offset before which the store has everything; none while the store is asked.
    pub(crate) stored: Option<i64>,
    work: Vec<AbortHandle>,
}

pub(crate) enum Phase {
    /// The store is asked where it goes on; what comes meanwhile is dropped.
    Starting,
    /// Records are gathered. `looked_again` is the offset behind a gap that was looked at a second time.
    Gathering { buffer: Buffer, looked_again: Option<i64> },
}

/// What the loop has to do after a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Go,
    /// Read again from this offset: something is missing before the record.
    Seek(i64),
}

impl Partition {
    pub(crate) fn new(generation: u64, version: u64) -> Self {
        Self {
            generation,
            version,
            phase: Phase::Starting,
            is_paused: false,
            writing_bytes: None,
            stored: None,
            work: Vec::new(),
        }
    }

    /// Ends this work with the partition.
    pub(crate) fn own(&mut self, work: AbortHandle) {
        self.work.retain(|work| !work.is_finished());
        self.work.push(work);
    }

    pub(crate) fn begin(&mut self, start: Start) {
        self.stored = Some(start.first);
        let buffer = Buffer::new(start.first, start.pinned_last);
        self.phase = Phase::Gathering { buffer, looked_again: None };
    }

    pub(crate) fn buffer(&self) -> Option<&Buffer> {
        match &self.phase {
            Phase::Starting => None,
            Phase::Gathering { buffer, .. } => Some(buffer),
        }
    }

    pub(crate) fn buffer_mut(&mut self) -> Option<&mut Buffer> {
        match &mut self.phase {
            Phase::Starting => None,
            Phase::Gathering { buffer, .. } => Some(buffer),
        }
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffer().map_or(0, Buffer::byte_count) + self.writing_bytes.unwrap_or(0)
    }

    /// Says whether its records are worth files and no cut is being written.
    pub(crate) fn is_due(&self, limits: &Limits, now: Instant) -> bool {
        self.writing_bytes.is_none() && self.buffer().is_some_and(|buffer| buffer.is_due(limits, now))
    }

    /// Says whether it has to wait for its own write. One whose end was decided before never waits: others
    /// may wait for the memory that it holds.
    pub(crate) fn must_pause(&self, limits: &Limits, is_memory_full: bool) -> bool {
        match self.buffer() {
            None => true,
            Some(buffer) if buffer.is_pinned() => false,
            Some(buffer) => is_memory_full || (self.writing_bytes.is_some() && buffer.is_full(limits)),
        }
    }

    /// Gathers a record. A gap is believed when it is there at the second look: a seek may still be under way
    /// at the first.
    pub(crate) fn push(&mut self, record: Record, now: Instant) -> (Next, u64) {
        let Phase::Gathering { buffer, looked_again } = &mut self.phase else { return (Next::Go, 0) };
        let (offset, expected) = (record.offset, buffer.next());
        match buffer.offer(record, now) {
            Offered::Taken | Offered::Known => (Next::Go, 0),
            Offered::Beyond if *looked_again == Some(offset) => {
                *looked_again = None;
                buffer.skip_to(offset);
                // Read once more from here: the record itself may belong to the cut after a pinned one.
                (Next::Seek(offset), offset.abs_diff(expected))
            }
            Offered::Beyond => {
                *looked_again = Some(offset);
                (Next::Seek(expected), 0)
            }
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.work.iter().for_each(AbortHandle::abort);
    }
}
