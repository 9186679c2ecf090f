//! The records of one partition that are in no file yet, and when they are worth one. Pure: the clock is
//! handed in.

use crate::cut::Cut;
use std::time::{Duration, Instant};

/// What a record costs beside its value.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Says when a partition's records become files. The first that is reached counts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most records.
    pub records_max: usize,
    /// Most bytes of Kafka values; the last record may pass it.
    pub bytes_max: usize,
    /// Age of the oldest record, since it was read.
    pub age_max: Duration,
}

/// One record of Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its value; none for a tombstone.
    pub value: Option<Vec<u8>>,
}

/// What becomes of a record that is offered to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in.
    Taken,
    /// It is in files already.
    Known,
    /// Records before it are missing; it was not taken.
    Beyond,
}

/// Gathers the records of a partition from one offset on.
#[derive(Debug)]
pub struct Buffer {
    first: i64,
    next: i64,
    pinned_last: Option<i64>,
    records: Vec<Record>,
    byte_count: usize,
    oldest: Option<Instant>,
}

impl Buffer {
    /// Starts at `first`. A pinned last offset is that of a cut that was decided before: it ends there and
    /// nowhere else.
    pub fn new(first: i64, pinned_last: Option<i64>) -> Self {
        Self { first, next: first, pinned_last, records: Vec::new(), byte_count: 0, oldest: None }
    }

    /// Takes the record that comes next.
    pub fn offer(&mut self, record: Record, now: Instant) -> Offered {
        match record.offset.cmp(&self.next) {
            std::cmp::Ordering::Less => Offered::Known,
            std::cmp::Ordering::Greater => Offered::Beyond,
            std::cmp::Ordering::Equal => {
                self.next += 1;
                self.byte_count += record.value.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD_BYTES;
                self.records.push(record);
                self.oldest.get_or_insert(now);
                Offered::Taken
            }
        }
    }

    /// Goes on at an offset that is known to be the next that Kafka has.
    pub fn skip_to(&mut self, offset: i64) {
        self.next = self.next.max(offset);
    }

    /// Returns the offset that comes next.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Says whether its end was decided before.
    pub fn is_pinned(&self) -> bool {
        self.pinned_last.is_some()
    }

    /// Returns what it holds, in bytes of memory.
    pub fn byte_count(&self) -> usize {
        self.byte_count
    }

    /// Says whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Says whether it may not grow any more.
    pub fn is_full(&self, limits: &Limits) -> bool {
        match self.pinned_last {
            Some(last) => self.next > last,
            None => self.records.len() >= limits.records_max || self.byte_count >= limits.bytes_max,
        }
    }

    /// Says whether it is worth a file now.
    pub fn is_due(&self, limits: &Limits, now: Instant) -> bool {
        let is_old = |oldest| now.saturating_duration_since(oldest) >= limits.age_max;
        self.is_full(limits) || (!self.is_pinned() && self.oldest.is_some_and(is_old))
    }

    /// Returns the cut and its records and goes on behind it; none when nothing may be cut now.
    pub fn cut(&mut self, partition: i32) -> Option<(Cut, Vec<Record>)> {
        let last = match self.pinned_last {
            Some(last) if self.next > last => last,
            None if !self.records.is_empty() => self.next - 1,
            _ => return None,
        };
        let begun = Self { next: self.next, ..Self::new(last + 1, None) };
        let ended = std::mem::replace(self, begun);
        Some((Cut { partition, first: ended.first, last }, ended.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { records_max: 3, bytes_max: 1_000, age_max: Duration::from_secs(60) };

    fn record(offset: i64) -> Record {
        Record { offset, value: Some(vec![b'x'; 10]) }
    }

    fn offer(buffer: &mut Buffer, offset: i64) -> Offered {
        buffer.offer(record(offset), Instant::now())
    }

    #[test]
    fn a_buffer_takes_what_comes_next_and_nothing_else() {
        let mut buffer = Buffer::new(5, None);
        assert_eq!(offer(&mut buffer, 4), Offered::Known);
        assert_eq!(offer(&mut buffer, 6), Offered::Beyond);
        assert!(buffer.cut(0).is_none());
        assert_eq!(offer(&mut buffer, 5), Offered::Taken);
        assert_eq!(offer(&mut buffer, 5), Offered::Known);
        let (cut, records) = buffer.cut(7).unwrap();
        assert_eq!(cut, Cut { partition: 7, first: 5, last: 5 });
        assert_eq!(records, [record(5)]);
        assert!(buffer.cut(7).is_none());
        assert_eq!(offer(&mut buffer, 6), Offered::Taken);
    }

    #[test]
    fn records_bytes_or_age_make_it_due() {
        let (begin, mut buffer) = (Instant::now(), Buffer::new(0, None));
        assert!(!buffer.is_due(&LIMITS, begin + LIMITS.age_max));
        buffer.offer(record(0), begin);
        assert!(!buffer.is_due(&LIMITS, begin));
        assert!(buffer.is_due(&LIMITS, begin + LIMITS.age_max));
        buffer.offer(Record { offset: 1, value: Some(vec![0; 1_000]) }, begin);
        assert!(buffer.is_full(&LIMITS), "bytes");
        buffer.cut(0);
        assert!(!buffer.is_due(&LIMITS, begin + LIMITS.age_max), "its age begins anew");
        (2..5).for_each(|offset| assert_eq!(offer(&mut buffer, offset), Offered::Taken));
        assert!(buffer.is_full(&LIMITS), "records");
    }

    #[test]
    fn a_pinned_cut_ends_where_it_was_decided_however_much_there_is() {
        let mut buffer = Buffer::new(10, Some(14));
        (10..14).for_each(|offset| assert_eq!(offer(&mut buffer, offset), Offered::Taken));
        assert!(!buffer.is_due(&LIMITS, Instant::now() + LIMITS.age_max) && buffer.cut(0).is_none());
        offer(&mut buffer, 14);
        assert!(buffer.is_full(&LIMITS));
        let (cut, records) = buffer.cut(0).unwrap();
        assert_eq!((cut.first, cut.last, records.len()), (10, 14, 5));
        assert!(!buffer.is_pinned());
    }

    #[test]
    fn a_gap_that_is_believed_belongs_to_the_cuts_around_it() {
        let mut buffer = Buffer::new(10, Some(14));
        offer(&mut buffer, 10);
        buffer.skip_to(20);
        let (cut, records) = buffer.cut(0).unwrap();
        assert_eq!((cut.first, cut.last, records.len()), (10, 14, 1));
        assert_eq!(offer(&mut buffer, 20), Offered::Taken);
        assert_eq!(buffer.cut(0).unwrap().0, Cut { partition: 0, first: 15, last: 20 });
    }

    proptest! {
        #[test]
        fn any_cutting_leaves_neither_gap_nor_overlap(cut_after in prop::collection::vec(any::<bool>(), 1..200)) {
            let (mut buffer, mut next, mut seen) = (Buffer::new(0, None), 0, 0);
            for (offset, is_cut) in cut_after.iter().enumerate() {
                prop_assert_eq!(offer(&mut buffer, i64::try_from(offset).unwrap()), Offered::Taken);
                if *is_cut {
                    let (cut, records) = buffer.cut(0).unwrap();
                    prop_assert_eq!(cut.first, next);
                    prop_assert_eq!(i64::try_from(records.len()).unwrap(), cut.last - cut.first + 1);
                    seen += records.len();
                    next = cut.last + 1;
                }
            }
            seen += buffer.cut(0).map_or(0, |(_, records)| records.len());
            prop_assert_eq!(seen, cut_after.len());
        }
    }
}
