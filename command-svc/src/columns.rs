//! Readings laid out as the columns that a statement or a COPY takes. Pure.

use crate::batch::{Entry, Readings};
use schema::Timestamp;
use std::collections::BTreeSet;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

const DAY_MICROS: i64 = 86_400_000_000;

/// Holds rows as the columns that one statement takes, one element per metric value.
#[derive(Debug, Default, PartialEq)]
pub struct Columns<'a> {
    pub(crate) sensor_id: Vec<&'a str>,
    pub(crate) metric: Vec<&'a str>,
    pub(crate) reading_at: Vec<Timestamp>,
    pub(crate) value: Vec<f64>,
    pub(crate) event_id: Vec<Uuid>,
    pub(crate) received_at: Vec<Timestamp>,
    pub(crate) device_type: Vec<&'a str>,
    pub(crate) zone_id: Vec<&'a str>,
    /// As JSON; the rows of a reading share the text.
    pub(crate) attributes: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    /// Lays the readings out in rows: those of a sensor's metric together, in the order in which they were
    /// pushed, and these series in the order of the table's key. An index takes neighbours together much
    /// faster than scattered rows.
    pub fn of(readings: Readings<'a>) -> Self {
        let Readings { batch, entries } = readings;
        let (sensors, metrics) = (batch.sensors.ranks(), batch.metrics.ranks());
        let mut rows: Vec<(u32, u32, usize, &Entry)> = Vec::with_capacity(readings.row_count());
        for entry in entries {
            for value in entry.values.clone() {
                let (metric, _) = batch.values[value];
                rows.push((sensors[entry.sensor as usize], metrics[metric as usize], value, entry));
            }
        }
        // A value's place in the batch is the order in which it was pushed.
        rows.sort_unstable_by_key(|(sensor, metric, value, _)| (*sensor, *metric, *value));
        let mut columns = Self::with_capacity(rows.len());
        for (_, _, value, entry) in rows {
            let (metric, value) = batch.values[value];
            columns.sensor_id.push(batch.sensors.text(entry.sensor));
            columns.metric.push(batch.metrics.text(metric));
            columns.reading_at.push(entry.reading_at);
            columns.value.push(value);
            columns.event_id.push(entry.event_id);
            columns.received_at.push(entry.received_at);
            columns.device_type.push(batch.labels.text(entry.device_type));
            columns.zone_id.push(batch.labels.text(entry.zone));
            columns.attributes.push(entry.attributes.as_deref());
        }
        columns
    }

    fn with_capacity(rows: usize) -> Self {
        Self {
            sensor_id: Vec::with_capacity(rows),
            metric: Vec::with_capacity(rows),
            reading_at: Vec::with_capacity(rows),
            value: Vec::with_capacity(rows),
            event_id: Vec::with_capacity(rows),
            received_at: Vec::with_capacity(rows),
            device_type: Vec::with_capacity(rows),
            zone_id: Vec::with_capacity(rows),
            attributes: Vec::with_capacity(rows),
        }
    }

    /// Returns the columns of some rows, in the given order.
    pub fn only(&self, rows: &[usize]) -> Self {
        fn pick<T: Copy>(column: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|row| column[*row]).collect()
        }
        Self {
            sensor_id: pick(&self.sensor_id, rows),
            metric: pick(&self.metric, rows),
            reading_at: pick(&self.reading_at, rows),
            value: pick(&self.value, rows),
            event_id: pick(&self.event_id, rows),
            received_at: pick(&self.received_at, rows),
            device_type: pick(&self.device_type, rows),
            zone_id: pick(&self.zone_id, rows),
            attributes: pick(&self.attributes, rows),
        }
    }

    /// Returns what makes a row unique.
    pub(crate) fn key(&self, row: usize) -> (&'a str, &'a str, Timestamp, Uuid) {
        (self.sensor_id[row], self.metric[row], self.reading_at[row], self.event_id[row])
    }

    /// Returns the number of rows.
    pub fn row_count(&self) -> usize {
        self.value.len()
    }

    /// Returns the UTC days that the rows fall on.
    pub fn days(&self) -> BTreeSet<Date> {
        // Neighbours mostly share their day, and a day is dearer to name than to compare.
        let day = |at: &Timestamp| at.as_micros().div_euclid(DAY_MICROS);
        let firsts = self.reading_at.chunk_by(|one, other| day(one) == day(other)).filter_map(<[_]>::first);
        firsts.map(|at| OffsetDateTime::from(*at).date()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Batch;
    use crate::batch::tests::{parcel, parcel_of};

    #[test]
    fn a_reading_becomes_one_row_per_metric() {
        let mut batch = Batch::default();
        batch.push(parcel(0, 1, &[("humidity", 40.0), ("temperature", 21.5)]));
        batch.push(parcel(0, 2, &[("x", 1.0)]));
        let columns = Columns::of(batch.readings());
        assert_eq!(columns.row_count(), 3);
        assert_eq!(columns.metric, ["humidity", "temperature", "x"]);
        assert_eq!(columns.event_id[0], columns.event_id[1]);
        assert_eq!(columns.days().len(), 1);
    }

    #[test]
    fn rows_of_a_series_lie_together_and_keep_their_order() {
        let mut batch = Batch::default();
        for offset in 0..6 {
            let sensor_id = if offset % 2 == 0 { "r" } else { "q" };
            batch.push(parcel_of(sensor_id, 0, offset, &[("b", 2.0), ("a", 1.0)]));
        }
        let columns = Columns::of(batch.readings());
        assert_eq!(columns.sensor_id, ["q", "q", "q", "q", "q", "q", "r", "r", "r", "r", "r", "r"]);
        assert_eq!(columns.metric, ["a", "a", "a", "b", "b", "b", "a", "a", "a", "b", "b", "b"]);
        let offsets: Vec<_> = columns.event_id.iter().map(Uuid::as_u128).collect();
        assert_eq!(offsets, [1, 3, 5, 1, 3, 5, 0, 2, 4, 0, 2, 4]);
    }
}
