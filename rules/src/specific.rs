//! Which thresholds speak for a sensor: of those with one purpose the most specific. ADR 0022. Pure.

use crate::table::{Rules, rank};
use crate::versions::is_on;
use schema::{Mode, ReadingView, ThresholdRow, Timestamp};

impl Rules {
    /// Says whether a reading may begin anything where no episode of its sensor goes on, or be counted. It
    /// asks each threshold alone, so it costs little, and says no of nearly all readings.
    pub(crate) fn may_begin(&self, reading: &ReadingView<'_>) -> bool {
        let scopes = self.by_scope(&reading.sensor_id, &reading.zone_id, &reading.device_type);
        scopes.into_iter().flatten().any(|listed| listed.may_begin(reading))
    }

    /// Returns the thresholds that speak for a sensor at an instant of event time, among those whose metric
    /// is asked for, each in its version of that instant.
    ///
    /// Shape: the most specific first, and within a scope in the order of their ids.
    pub fn speaking(
        &self,
        (sensor_id, zone_id, device_type): (&str, &str, &str),
        at: Timestamp,
        is_asked: impl Fn(&str) -> bool,
    ) -> Vec<&ThresholdRow> {
        let mut rows: Vec<&ThresholdRow> = Vec::new();
        for (scope, thresholds) in self.by_scope(sensor_id, zone_id, device_type).into_iter().enumerate() {
            let in_force = thresholds.iter().filter_map(|listed| listed.versions.at(at));
            let here = in_force.filter(|row| {
                // One may be listed for another version that covers other sensors.
                let covers = rank(row) == scope && row.scope.covers(sensor_id, zone_id, device_type);
                covers && is_on(row) && is_asked(&row.metric)
            });
            for row in here {
                if !rows.iter().any(|other| hides(other, row)) {
                    rows.push(row);
                }
            }
        }
        rows
    }
}

/// Says whether a threshold speaks in the place of another, both of which cover the sensor.
///
/// One in shadow is looked at as if it were live: it gives way to a more specific one in either mode. It
/// never takes the word of a live one.
fn hides(one: &ThresholdRow, other: &ThresholdRow) -> bool {
    rank(one) < rank(other)
        && one.metric == other.metric
        && one.severity == other.severity
        && one.no_data_seconds.is_some() == other.no_data_seconds.is_some()
        && (one.mode == Mode::Live || other.mode == Mode::Shadow)
}
