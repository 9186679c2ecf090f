//! Medians, spreads and percentiles. Pure.

/// Sums up the same measurement of several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Half of the rounds were below.
    pub median: f64,
    /// The lowest round.
    pub min: f64,
    /// The highest round.
    pub max: f64,
}

impl Spread {
    /// Sums up; none for no measurements.
    pub fn of(measured: &[f64]) -> Option<Self> {
        let mut sorted = measured.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }

    /// Returns how far the rounds lie from the median at most, in percent of it.
    pub fn percent(&self) -> f64 {
        100.0 * (self.max - self.median).max(self.median - self.min) / self.median
    }
}

/// Returns the value that `fraction` of the measurements do not pass (nearest rank); none for no
/// measurements.
pub fn percentile(measured: &[f64], fraction: f64) -> Option<f64> {
    let mut sorted = measured.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let passed =
        sorted.iter().zip(1_u32..).find(|(_, rank)| f64::from(*rank) >= fraction * sorted.len() as f64);
    passed.map(|(value, _)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_middle_of_an_even_count_is_between_its_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(spread.percent(), 60.0);
        assert_eq!(Spread::of(&[]), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_measured_and_passed_by_few(measured in prop::collection::vec(0.0..1e6_f64, 1..200)) {
            let found = percentile(&measured, 0.99).unwrap();
            prop_assert!(measured.contains(&found));
            let above = measured.iter().filter(|value| **value > found).count();
            prop_assert!(above as f64 <= 0.01 * measured.len() as f64);
        }
    }
}
