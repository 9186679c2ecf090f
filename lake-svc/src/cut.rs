//! Which offsets became which files, and what they are called. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::Date;

/// Width of an offset in a name: the names of a partition sort as its offsets do.
const OFFSET_DIGITS: usize = 20;

/// A run of offsets of one partition, both ends included, that becomes one file for each day.
///
/// Shape: the cuts of a partition follow each other without a gap and without an overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The partition of `iot-reading-topic`.
    pub partition: i32,
    /// The offset after the cut before.
    pub first: i64,
    /// The offset of its last record.
    pub last: i64,
}

impl Cut {
    /// Names the folder of a partition's manifests.
    pub fn folder(partition: i32) -> String {
        format!("cuts/part={partition}")
    }

    /// Names its manifest. Only the first offset is in the name, so two different cuts cannot both begin
    /// there.
    pub fn manifest_path(&self) -> String {
        format!("{}/{:0OFFSET_DIGITS$}.json", Self::folder(self.partition), self.first)
    }

    /// Reads the first offset out of a manifest's name; none for a name that is not ours.
    pub fn first_of(name: &str) -> Option<i64> {
        let digits = name.strip_suffix(".json")?;
        (digits.len() == OFFSET_DIGITS).then_some(())?;
        digits.parse().ok().filter(|first| *first >= 0)
    }

    /// Names its file of a day.
    pub fn file_path(&self, day: Date) -> String {
        let Self { partition, first, last } = self;
        format!(
            "readings/day={}/part={partition}/{first:0OFFSET_DIGITS$}-{last:0OFFSET_DIGITS$}.parquet",
            iso(day)
        )
    }
}

/// Holds the decisions about a cut, made before its first file is written and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// First offset.
    pub first: i64,
    /// Last offset.
    pub last: i64,
    /// Records of Kafka in the cut.
    pub records: u64,
    /// Those of them that are no readings; they are in no file.
    pub undecodable: u64,
    /// Rows of each day's file, by `YYYY-MM-DD`.
    pub rows: BTreeMap<String, u64>,
}

/// Writes a day as it stands in names: `YYYY-MM-DD`.
pub fn iso(day: Date) -> String {
    format!("{:04}-{:02}-{:02}", day.year(), u8::from(day.month()), day.day())
}

/// Names the file of a day as a manifest lists it.
pub fn file_path_of(cut: &Cut, iso_day: &str) -> Option<String> {
    let mut parts = iso_day.splitn(3, '-');
    let mut number = || parts.next()?.parse::<u16>().ok();
    let (year, month, day) = (number()?, number()?, number()?);
    let month = u8::try_from(month).ok().and_then(|month| time::Month::try_from(month).ok())?;
    let day = Date::from_calendar_date(year.into(), month, u8::try_from(day).ok()?).ok()?;
    Some(cut.file_path(day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::date;

    #[test]
    fn names_are_fixed_for_ever() {
        let cut = Cut { partition: 3, first: 1200, last: 4999 };
        assert_eq!(cut.manifest_path(), "cuts/part=3/00000000000000001200.json");
        let file =
            "readings/day=2026-11-21/part=3/00000000000000001200-00000000000000004999.parquet".to_owned();
        assert_eq!(cut.file_path(date!(2026 - 11 - 21)), file);
        assert_eq!(file_path_of(&cut, "2026-11-21"), Some(file));
        for no_day in ["", "2026-11", "2026-13-01", "2026-02-30", "x"] {
            assert_eq!(file_path_of(&cut, no_day), None);
        }
    }

    #[test]
    fn a_frozen_manifest_decodes_for_ever() {
        let text = r#"{"first":1200,"last":4999,"records":3800,"undecodable":1,"rows":{"2026-11-21":7598}}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!((manifest.first, manifest.rows["2026-11-21"]), (1200, 7598));
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
    }

    proptest! {
        #[test]
        fn any_first_offset_survives_its_name_and_names_sort_as_offsets(a in 0..i64::MAX, b in 0..i64::MAX) {
            let name = |first| {
                let path = Cut { partition: 7, first, last: first }.manifest_path();
                path.strip_prefix("cuts/part=7/").unwrap().to_owned()
            };
            prop_assert_eq!(Cut::first_of(&name(a)), Some(a));
            prop_assert_eq!(name(a).cmp(&name(b)), a.cmp(&b));
        }

        #[test]
        fn any_other_name_is_not_ours(name in "[0-9a-z.+-]{0,30}") {
            prop_assume!(name.len() != OFFSET_DIGITS + 5);
            prop_assert_eq!(Cut::first_of(&name), None);
        }
    }
}
