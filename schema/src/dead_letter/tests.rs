use super::*;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

fn read(headers: &[Header]) -> Result<DeadLetter, NotADeadLetter> {
    DeadLetter::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())))
}

/// Names as another dead letter has them, so that a record may itself be one.
fn any_header() -> impl Strategy<Value = Header> {
    let name = prop_oneof![
        Just(SCHEMA.to_owned()),
        Just(REASON.to_owned()),
        Just(SOURCE_OFFSET.to_owned()),
        Just(SOURCE_HEADERS.to_owned()),
        ".{0,8}",
    ];
    (name, of(vec(any::<u8>(), 0..8)))
}

fn any_letter() -> impl Strategy<Value = DeadLetter> {
    let origin =
        (".{0,20}", of((any::<i32>(), any::<i64>()))).prop_map(|(topic, place)| Origin { topic, place });
    let received_at =
        (0_i64..4_000_000_000_000_000).prop_map(|micros| Timestamp::from_micros(micros).unwrap());
    let said = (("[a-z][a-z-]{0,20}", of(".{1,20}"), of(".{0,20}"), of(".{0,20}")), of(received_at));
    let counted = (of(any::<u128>().prop_map(Uuid::from_u128)), of(any::<u32>()), of(any::<u64>()));
    (said, of(origin), counted, vec(any_header(), 0..5)).prop_map(
        |(((reason, detail, codec, mqtt_topic), received_at), origin, counted, source_headers)| DeadLetter {
            reason,
            detail,
            origin,
            codec,
            mqtt_topic,
            received_at,
            event_id: counted.0,
            tries: counted.1,
            truncated_from_bytes: counted.2,
            source_headers,
        },
    )
}

proptest! {
    #[test]
    fn any_letter_is_read_as_it_was_written(letter in any_letter()) {
        prop_assert_eq!(read(&letter.headers()), Ok(letter));
    }

    #[test]
    fn any_letter_comes_back_from_a_file(
        letter in any_letter(),
        key in ".{0,20}",
        value in vec(any::<u8>(), 0..40),
    ) {
        let content = serde_json::to_vec(&RefusedFile::new(&key, &letter, &value)).unwrap();
        prop_assert_eq!(RefusedFile::read(&content).unwrap(), Refused { key, letter, value });
    }

    #[test]
    fn any_letter_of_a_letter_has_the_first_one_whole(inner in any_letter(), outer in any_letter()) {
        let outer = DeadLetter { source_headers: inner.headers(), ..outer };
        let outer = read(&outer.headers()).unwrap();
        prop_assert_eq!(read(&outer.source_headers), Ok(inner));
    }

    #[test]
    fn any_headers_are_a_letter_or_an_error(headers in vec(any_header(), 0..8)) {
        let _ = read(&headers);
    }
}

#[test]
fn letter_that_lacks_a_part_is_refused_with_its_name() {
    let letter = DeadLetter {
        origin: Some(Origin { topic: "t".to_owned(), place: Some((3, 4)) }),
        source_headers: vec![("a".to_owned(), None)],
        ..DeadLetter::new("not-json", "it ends")
    };
    let without = |name: &str| {
        let headers: Vec<_> = letter.headers().into_iter().filter(|(found, _)| found != name).collect();
        read(&headers)
    };
    for name in [SCHEMA, REASON, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_HEADERS] {
        assert_eq!(without(name), Err(NotADeadLetter::Missing(name)));
    }
    assert_eq!(without("a"), Err(NotADeadLetter::Malformed(SOURCE_HEADERS)));
    assert_eq!(without(DETAIL), Ok(DeadLetter { detail: None, ..letter.clone() }));
}

#[test]
fn header_that_comes_twice_or_of_another_version_is_refused() {
    let headers = DeadLetter::new("not-json", "").headers();
    let twice = [headers[1].clone()].into_iter().chain(headers.clone()).collect::<Vec<_>>();
    assert_eq!(read(&twice), Err(NotADeadLetter::Malformed(REASON)));
    let mut next = headers;
    next[0].1 = Some(b"dead-letter/2".to_vec());
    assert_eq!(read(&next), Err(NotADeadLetter::Malformed(SCHEMA)));
}

#[test]
fn detail_is_cut_off_at_a_character() {
    let letter = DeadLetter::new("r", format!("a{}", "é".repeat(DETAIL_BYTES_MAX)));
    assert_eq!(letter.detail.unwrap().len(), DETAIL_BYTES_MAX - 1);
    assert_eq!(DeadLetter::new("r", "").detail, None);
}
