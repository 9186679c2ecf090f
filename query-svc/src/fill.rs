//! Buckets without a reading. Pure.
//!
//! A series is what rows are about: labels and a metric. One that has no reading within the range is in no
//! answer; of any other, gaps are told up to the bucket of now, because what has not been is no gap.

use crate::query::{Buckets, Cursor, Fill};
use schema::Timestamp;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What rows are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series {
    pub(crate) labels: Vec<String>,
    pub(crate) metric: String,
}

/// A number of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Absent,
    Value(f64),
    Count(i64),
}

/// A row of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) series: Arc<Series>,
    pub(crate) start: Timestamp,
    pub(crate) numbers: Vec<Number>,
    /// Start of the last bucket of the series that has readings, this one counted in.
    pub(crate) read: Option<Timestamp>,
}

impl Series {
    /// Returns a label by its number, or behind them the metric.
    pub(crate) fn text(&self, index: usize) -> &str {
        self.labels.get(index).unwrap_or(&self.metric)
    }
}

impl Bucket {
    /// Returns the cursor of the page that this row ends.
    pub(crate) fn cursor(&self) -> Cursor {
        let Series { labels, metric } = (*self.series).clone();
        Cursor { labels, metric, read: self.read, told: self.start }
    }
}

enum Piece {
    /// Buckets that are like the row but for their start and their count, by index.
    Gap(Range<usize>, Bucket),
    Row(Bucket),
}

/// Puts rows into the gaps of the series that pass through it, in order. It holds a few rows, however long a
/// gap is.
pub(crate) struct Filler {
    fill: Fill,
    buckets: Buckets,
    /// Index of the first bucket in which nothing can have been yet.
    open: usize,
    /// Rows up to this one were in an earlier page.
    told: Option<Cursor>,
    last: Option<Bucket>,
    pieces: VecDeque<Piece>,
}

impl Filler {
    /// Fills as the question says, for which it is now.
    pub(crate) fn new(fill: Fill, buckets: Buckets, told: Option<Cursor>, now: Timestamp) -> Self {
        let open = buckets.begun_by(now);
        Self { fill, buckets, open, told, last: None, pieces: VecDeque::new() }
    }

    /// Takes the next row of the database.
    pub(crate) fn push(&mut self, mut row: Bucket) {
        row.read = Some(row.start);
        if self.fill == Fill::None {
            self.pieces.push_back(Piece::Row(row));
            return;
        }
        let index = self.buckets.begun_by(row.start).saturating_sub(1);
        if self.last.as_ref().is_some_and(|last| last.series != row.series) {
            self.close();
        }
        match &self.last {
            Some(last) => {
                let next = self.buckets.begun_by(last.start);
                self.gap(next..index.min(self.open.max(next)), last.clone());
            }
            None => {
                // Before its first reading a series has nothing to carry on.
                let nothing = row.numbers.iter().map(|number| absent(*number)).collect();
                let nothing = Bucket { numbers: nothing, read: None, ..row.clone() };
                self.gap(0..index.min(self.open), nothing);
            }
        }
        self.last = Some(row.clone());
        self.pieces.push_back(Piece::Row(row));
    }

    /// Ends the last series, and says whether there was one.
    pub(crate) fn close(&mut self) -> bool {
        let Some(last) = self.last.take() else { return false };
        let next = self.buckets.begun_by(last.start);
        self.gap(next..self.open.max(next), last);
        true
    }

    fn gap(&mut self, indexes: Range<usize>, before: Bucket) {
        let number = |number: &Number| match (self.fill, *number) {
            (_, Number::Count(_)) => Number::Count(0),
            (Fill::Previous, number) => number,
            _ => Number::Absent,
        };
        let numbers = before.numbers.iter().map(number).collect();
        if !indexes.is_empty() {
            self.pieces.push_back(Piece::Gap(indexes, Bucket { numbers, ..before }));
        }
    }

    /// Returns the next row of the answer, when what has been taken is enough to know it.
    pub(crate) fn next(&mut self) -> Option<Bucket> {
        loop {
            let row = match self.pieces.front_mut()? {
                Piece::Gap(indexes, like) => match indexes.next() {
                    Some(index) => Some(Bucket { start: self.buckets.start(index), ..like.clone() }),
                    None => None,
                },
                Piece::Row(row) => {
                    let row = row.clone();
                    self.pieces.pop_front();
                    Some(row)
                }
            };
            match row {
                None => drop(self.pieces.pop_front()),
                Some(row) if self.was_told(&row) => {}
                Some(row) => return Some(row),
            }
        }
    }

    fn was_told(&self, row: &Bucket) -> bool {
        self.told.as_ref().is_some_and(|told| {
            told.metric == row.series.metric && told.labels == row.series.labels && row.start <= told.told
        })
    }
}

const fn absent(number: Number) -> Number {
    match number {
        Number::Count(_) => Number::Count(0),
        _ => Number::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Width;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    const HOUR_MICROS: i64 = 3_600_000_000;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_micros(hour * HOUR_MICROS).unwrap()
    }

    fn row(sensor: &str, hour: i64) -> Bucket {
        let series = Arc::new(Series { labels: vec![sensor.to_owned()], metric: "t".to_owned() });
        let value = f64::from(i32::try_from(hour).unwrap());
        let numbers = vec![Number::Value(value), Number::Count(2)];
        Bucket { series, start: at(hour), numbers, read: None }
    }

    /// Fills rows of hours 0 to 9 when it is `now` o'clock.
    fn filled(fill: Fill, rows: &[Bucket], told: Option<Cursor>, now: i64) -> Vec<Bucket> {
        let buckets = Buckets::within(Width::Hour, &TimeZone::UTC, at(0), at(10));
        let mut filler = Filler::new(fill, buckets, told, at(now));
        let mut out = Vec::new();
        for row in rows {
            filler.push(row.clone());
            out.extend(std::iter::from_fn(|| filler.next()));
        }
        filler.close();
        out.extend(std::iter::from_fn(|| filler.next()));
        out
    }

    fn written(rows: &[Bucket]) -> String {
        let text = |row: &Bucket| {
            let hour = row.start.as_micros() / HOUR_MICROS;
            match row.numbers[..] {
                [Number::Value(value), Number::Count(count)] => {
                    format!("{}{hour}={value}x{count}", row.series.labels[0])
                }
                _ => format!("{}{hour}", row.series.labels[0]),
            }
        };
        rows.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn gaps_of_each_series_are_told_up_to_now() {
        let rows = [row("a", 1), row("a", 3), row("b", 0)];
        assert_eq!(written(&filled(Fill::None, &rows, None, 4)), "a1=1x2 a3=3x2 b0=0x2");
        let nulls = "a0 a1=1x2 a2 a3=3x2 a4 b0=0x2 b1 b2 b3 b4";
        assert_eq!(written(&filled(Fill::Null, &rows, None, 4)), nulls);
        let carried = "a0 a1=1x2 a2=1x0 a3=3x2 a4=3x0 b0=0x2 b1=0x0 b2=0x0 b3=0x0 b4=0x0";
        assert_eq!(written(&filled(Fill::Previous, &rows, None, 4)), carried);
    }

    #[test]
    fn readings_of_the_future_stand_alone() {
        let rows = [row("a", 1), row("a", 6), row("b", 8)];
        assert_eq!(written(&filled(Fill::Null, &rows, None, 2)), "a0 a1=1x2 a2 a6=6x2 b0 b1 b2 b8=8x2");
        assert_eq!(written(&filled(Fill::Null, &rows, None, -5)), "a1=1x2 a6=6x2 b8=8x2");
    }

    proptest! {
        #[test]
        fn pages_of_any_size_are_the_whole(
            hours in proptest::collection::btree_set((0..3_usize, 0..10_i64), 0..12), limit in 1..7_usize,
            fill in prop_oneof![Just(Fill::None), Just(Fill::Null), Just(Fill::Previous)], now in -1..12_i64,
        ) {
            let rows: Vec<_> = hours.iter().map(|(sensor, hour)| row(["a", "b", "c"][*sensor], *hour)).collect();
            let whole = filled(fill, &rows, None, now);
            let (mut paged, mut told) = (Vec::new(), None::<Cursor>);
            loop {
                // What the statement of a page reads: the series from its last bucket that was read.
                let after = |row: &&Bucket| told.as_ref().is_none_or(|told: &Cursor| {
                    let from = told.read.unwrap_or(at(0));
                    (&row.series.labels, row.start) >= (&told.labels, from)
                });
                let rest: Vec<_> = rows.iter().filter(after).cloned().collect();
                let mut page = filled(fill, &rest, told.clone(), now);
                page.truncate(limit);
                let Some(last) = page.last() else { break };
                told = Some(last.cursor());
                paged.append(&mut page);
            }
            prop_assert_eq!(paged, whole);
        }
    }
}
