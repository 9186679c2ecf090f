//! What a batch of new rows adds to the read models. Pure.

use crate::columns::Columns;
use schema::Timestamp;

/// Sums up the rows of one key of `sensor_reading_hourly_aggregates`.
#[derive(Clone, Debug, PartialEq)]
pub struct Hour<'a> {
    pub(crate) sensor_id: &'a str,
    pub(crate) metric: &'a str,
    pub(crate) bucket: Timestamp,
    pub(crate) device_type: &'a str,
    pub(crate) zone_id: &'a str,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) count: i64,
    pub(crate) sum: f64,
}

/// Sums the rows up by UTC hour.
///
/// Shape: one element for each key, ordered by key. Rows may come in any order; those of a series together
/// cost least.
pub fn hours<'a>(columns: &Columns<'a>) -> Vec<Hour<'a>> {
    let mut hours: Vec<Hour<'a>> = Vec::new();
    for row in 0..columns.row_count() {
        let value = columns.value[row];
        let hour = Hour {
            sensor_id: columns.sensor_id[row],
            metric: columns.metric[row],
            bucket: columns.reading_at[row].hour(),
            device_type: columns.device_type[row],
            zone_id: columns.zone_id[row],
            min: value,
            max: value,
            count: 1,
            sum: value,
        };
        match hours.last_mut() {
            Some(last) if key(last) == key(&hour) => last.add(&hour),
            _ => hours.push(hour),
        }
    }
    // Stable, so that a sum does not depend on how equal keys are shuffled.
    hours.sort_by(|one, other| key(one).cmp(&key(other)));
    hours.dedup_by(|next, first| {
        let is_same = key(next) == key(first);
        if is_same {
            first.add(next);
        }
        is_same
    });
    hours
}

impl Hour<'_> {
    fn add(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }
}

fn key<'a>(hour: &Hour<'a>) -> (&'a str, &'a str, Timestamp, &'a str, &'a str) {
    (hour.sensor_id, hour.metric, hour.bucket, hour.device_type, hour.zone_id)
}

/// Finds the newest row of each sensor and metric, as the table keeps it: latest by the device's clock, but
/// not later than it came, then by that clock, then by event id.
///
/// Shape: row numbers, one for each (sensor id, metric), ordered by that key.
pub fn latest(columns: &Columns<'_>) -> Vec<usize> {
    let series = |row: usize| (columns.sensor_id[row], columns.metric[row]);
    let age = |row: usize| {
        let (reading_at, received_at) = (columns.reading_at[row], columns.received_at[row]);
        (reading_at.min(received_at), reading_at, columns.event_id[row])
    };
    let mut newest: Vec<usize> = Vec::new();
    for row in 0..columns.row_count() {
        match newest.last_mut() {
            Some(last) if series(*last) == series(row) => {
                if age(row) > age(*last) {
                    *last = row;
                }
            }
            _ => newest.push(row),
        }
    }
    newest.sort_by(|one, other| (series(*one), age(*other)).cmp(&(series(*other), age(*one))));
    newest.dedup_by_key(|row| series(*row));
    newest
}

/// Finds the first row of each key.
///
/// Shape: row numbers, ordered by key, so that two writers lock rows in the same order.
pub fn distinct(columns: &Columns<'_>) -> Vec<usize> {
    let mut rows: Vec<_> = (0..columns.row_count()).collect();
    rows.sort_by_key(|row| columns.key(*row)); // stable: the first stays first
    rows.dedup_by_key(|row| columns.key(*row));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const SENSORS: [&str; 3] = ["a", "b", "c"];

    fn columns(rows: &[(usize, i64, i32)]) -> Columns<'static> {
        let mut columns = Columns::default();
        for (number, (sensor, second, value)) in rows.iter().enumerate() {
            let at = Timestamp::from_micros(*second * 1_000_000).unwrap();
            columns.sensor_id.push(SENSORS[*sensor]);
            columns.metric.push("m");
            columns.reading_at.push(at);
            columns.value.push(f64::from(*value));
            columns.event_id.push(Uuid::from_u128(number as u128));
            // Half of the clocks are ahead.
            let ahead_s = i64::from(*value % 2) * 5;
            columns.received_at.push(Timestamp::from_micros((*second - ahead_s) * 1_000_000).unwrap());
            columns.device_type.push("T");
            columns.zone_id.push("z");
            columns.attributes.push(None);
        }
        columns
    }

    #[test]
    fn of_a_key_that_comes_twice_the_first_row_stays() {
        let mut rows = columns(&[(1, 5, 1), (0, 5, 2), (1, 5, 3)]);
        rows.event_id[2] = rows.event_id[0];
        assert_eq!(distinct(&rows), [1, 0]);
        assert_eq!(rows.only(&distinct(&rows)).value, [2.0, 1.0]);
    }

    proptest! {
        #[test]
        fn any_rows_sum_up_to_what_a_direct_computation_gives(
            rows in prop::collection::vec((0..3_usize, -10_000..10_000_i64, -100..100_i32), 0..200),
        ) {
            let columns = columns(&rows);
            let summed = hours(&columns);
            prop_assert!(summed.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
            prop_assert_eq!(summed.iter().map(|hour| hour.count).sum::<i64>(), i64::try_from(rows.len()).unwrap());
            for hour in &summed {
                let own: Vec<f64> = rows
                    .iter()
                    .filter(|(sensor, second, _)| {
                        SENSORS[*sensor] == hour.sensor_id
                            && second.div_euclid(3_600) * 3_600 == hour.bucket.as_micros() / 1_000_000
                    })
                    .map(|(_, _, value)| f64::from(*value))
                    .collect();
                prop_assert_eq!(hour.count, i64::try_from(own.len()).unwrap());
                prop_assert_eq!(hour.sum, own.iter().sum::<f64>());
                prop_assert_eq!(hour.min, own.iter().copied().fold(f64::INFINITY, f64::min));
                prop_assert_eq!(hour.max, own.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            }
        }

        #[test]
        fn the_latest_row_is_the_newest_of_its_sensor_whatever_the_order(
            rows in prop::collection::vec((0..3_usize, 0..20_i64, 0..9_i32), 1..60),
        ) {
            let columns = columns(&rows);
            for row in latest(&columns) {
                let own = (0..rows.len()).filter(|other| columns.sensor_id[*other] == columns.sensor_id[row]);
                let newest = own.max_by_key(|other| {
                    let (reading_at, received_at) = (columns.reading_at[*other], columns.received_at[*other]);
                    (reading_at.min(received_at), reading_at, columns.event_id[*other])
                });
                prop_assert_eq!(newest, Some(row));
            }
        }
    }
}
