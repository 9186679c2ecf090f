use super::*;
use proptest::prelude::*;

const CONTINUING: &str = include_str!("../../../../schema/tests/golden/alert.1.episode.json");
const CLOSED: &str = include_str!("../../../../schema/tests/golden/alert.1.closed.json");
const WITHOUT_EPISODE: &str = include_str!("../../../../schema/tests/golden/alert.1.json");

fn golden(text: &str) -> Alert {
    serde_json::from_str(text).unwrap()
}

/// Alerts of one episode as the alerting service may tell them: any number, any clocks, closed at most once.
fn alerts() -> impl Strategy<Value = Vec<Alert>> {
    type Told = (u64, i64, i64, Option<i8>, bool);
    let told = (1_u64..5, 0_i64..5, 0_i64..5, prop::option::of(-3_i8..3), any::<bool>());
    (prop::collection::vec(told, 1..8), any::<bool>(), any::<bool>()).prop_map(|(told, is_min, ends)| {
        let count = told.len();
        let limit = if is_min { Limit::Min } else { Limit::Max };
        let alert = |(number, (occurrences, reading, detected, value, is_silent)): (usize, Told)| {
            let is_last = ends && number + 1 == count;
            let first = golden(if is_last { CLOSED } else { CONTINUING });
            let step = if number == 0 { EpisodeStep::Opened } else { EpisodeStep::Continuing };
            Alert {
                alert_id: Uuid::from_u128(number as u128 + 1),
                episode: Some(if is_last { EpisodeStep::Closed } else { step }),
                bound: Bound { limit, ..first.bound },
                occurrences: Some(occurrences),
                reading_at: Timestamp::from_micros(reading).unwrap(),
                detected_at: Timestamp::from_micros(detected).unwrap(),
                value: value.map(f64::from),
                silenced_by: first.silenced_by.filter(|_| is_silent),
                ..first
            }
        };
        told.into_iter().enumerate().map(alert).collect()
    })
}

fn joined(alerts: &[Alert]) -> Row {
    alerts.iter().cloned().filter_map(Row::of).reduce(Row::join).unwrap()
}

proptest! {
    #[test]
    fn any_order_any_repetition_and_any_grouping_make_the_same_row(
        (alerts, told) in alerts().prop_flat_map(|alerts| {
            let twice: Vec<Alert> = alerts.iter().chain(&alerts).cloned().collect();
            (Just(alerts), Just(twice).prop_shuffle())
        }),
        cut in any::<prop::sample::Index>(),
    ) {
        let row = joined(&alerts);
        prop_assert_eq!(&joined(&told), &row);
        let (one, two) = told.split_at(cut.index(told.len() - 1) + 1);
        if !two.is_empty() {
            prop_assert_eq!(&joined(two).join(joined(one)), &row);
        }
        let closes = alerts.iter().any(|alert| alert.status == Status::Resolved);
        prop_assert_eq!(row.newest.is_closed, closes);
    }

    #[test]
    fn any_bytes_make_a_row_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(Some(&bytes)).is_err());
    }
}

#[test]
fn row_tells_the_first_the_newest_and_the_extreme_values() {
    let told = |step, occurrences, value| Alert {
        episode: Some(step),
        occurrences: Some(occurrences),
        value: Some(value),
        ..golden(CONTINUING)
    };
    let opened = told(EpisodeStep::Opened, 1, 31.0);
    let row =
        joined(&[opened, told(EpisodeStep::Continuing, 2, 35.0), told(EpisodeStep::Continuing, 3, 33.0)]);
    assert_eq!((row.value_first, row.newest.value), (Some(31.0), Some(33.0)));
    assert_eq!((row.value_min, row.value_max), (Some(31.0), Some(35.0)));
    let recovered = Alert {
        status: Status::Resolved,
        reason: Some(schema::Reason::Recovered),
        ..told(EpisodeStep::Closed, 3, 29.0)
    };
    let closed = row.join(Row::of(recovered.clone()).unwrap());
    assert_eq!((closed.newest.value, closed.value_min), (Some(29.0), Some(31.0)), "of those that violated");
    assert_eq!(closed.newest.closed_at, Some(recovered.reading_at), "when the value was inside again");
    let gone = Alert { reason: Some(schema::Reason::RuleDeleted), ..recovered };
    assert_eq!(
        Row::of(gone.clone()).unwrap().newest.closed_at,
        Some(gone.detected_at),
        "no reading ended it"
    );
}

#[test]
fn what_is_no_alert_of_an_episode_says_why() {
    let reason = |value: Option<&[u8]>| decode(value).unwrap_err().reason();
    assert_eq!(reason(Some(WITHOUT_EPISODE.as_bytes())), None);
    assert_eq!(reason(None), Some(Reason::NotAnAlert));
    assert_eq!(reason(Some(b"{}")), Some(Reason::NotAnAlert));
    let with = |field: &str, text: &str| {
        let mut alert: serde_json::Value = serde_json::from_str(CONTINUING).unwrap();
        alert[field] = text.into();
        reason(Some(&serde_json::to_vec(&alert).unwrap()))
    };
    assert_eq!(with("sensorId", "a/b"), Some(Reason::NotAnAlert));
    assert_eq!(with("summary", "a\0b"), Some(Reason::Unstorable));
    assert_eq!(with("zoneId", "\0"), Some(Reason::Unstorable));
}
