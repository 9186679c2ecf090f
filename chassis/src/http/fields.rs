//! Reads the fields of a request, JSON body or query string, and reports every bad one together.

use super::change::check_format;
use super::{BODY_BYTES_MAX, FieldError, Problem, json};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Time after which a body that is not whole is given up, so that a slow sender holds no memory.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// Most bad fields that one answer names; the rest of a hostile request is not echoed.
const ERRORS_MAX: usize = 50;
/// Longest echo of a field's name, in characters, for the same reason.
const NAME_CHARS_MAX: usize = 64;
/// Farthest row that a page may start at: the database walks over every row before it.
const OFFSET_MAX: i64 = 1_000_000;

/// Takes fields one by one and collects what is wrong with them. A getter that records a problem returns a
/// placeholder, which [`Fields::finish`] makes sure nobody uses. `null` counts as absent.
#[derive(Debug)]
pub struct Fields {
    values: Map<String, Value>,
    errors: Vec<FieldError>,
}

/// Says which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// Most resources in the answer.
    pub limit: i64,
    /// How many come before them.
    pub offset: i64,
}

/// One page of a list, as every list endpoint answers.
#[derive(Debug, Serialize)]
pub struct Listing<T> {
    /// The resources of this page, in the order that the endpoint documents.
    pub resources: Vec<T>,
    /// How many there are in all pages.
    pub total: i64,
    /// How many there are in this page.
    pub count: usize,
    /// How many come before this page.
    pub offset: i64,
}

impl<T> Listing<T> {
    /// Describes one page of `total` resources.
    pub fn new(resources: Vec<T>, total: i64, page: Page) -> Self {
        Self { count: resources.len(), resources, total, offset: page.offset }
    }
}

impl Fields {
    /// Reads the whole body, bounded in size and time, as one JSON object.
    ///
    /// # Errors
    /// 400 when it is no JSON object, 408 when it does not come in time, 413 when it is too long, 415 when it
    /// says that it is something else.
    pub async fn of_body(request: &HttpRequest, payload: web::Payload) -> Result<Self, Problem> {
        check_format(request)?;
        Self::of_json(&read_body(payload, BODY_BYTES_MAX).await?)
    }

    /// Reads bytes as one JSON object.
    ///
    /// # Errors
    /// 400 that says where the JSON breaks, or which name is given twice.
    pub fn of_json(bytes: &[u8]) -> Result<Self, Problem> {
        match read_json(bytes)? {
            Value::Object(values) => Ok(Self::of_members(values)),
            _ => Err(Problem::field("body", "must be a JSON object")),
        }
    }

    /// Takes the members of a JSON object that was read before.
    pub fn of_members(values: Map<String, Value>) -> Self {
        Self { values, errors: Vec::new() }
    }

    pub(super) fn into_members(self) -> Map<String, Value> {
        self.values
    }

    /// Puts a default in the place of a field that is absent.
    pub fn or(&mut self, name: &str, default: impl Into<Value>) {
        let value = self.values.entry(name).or_insert(Value::Null);
        if value.is_null() {
            *value = default.into();
        }
    }

    /// Takes the parameters of the query string; one that is given twice is a problem.
    pub fn of_query(request: &HttpRequest) -> Self {
        let mut fields = Self::of_members(Map::new());
        // Pairs of texts can be made of any query string: bytes that are no UTF-8 are replaced, and then
        // refused by a check.
        let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string());
        for (name, value) in pairs.map(web::Query::into_inner).unwrap_or_default() {
            if fields.values.contains_key(&name) {
                fields.problem(name, "is given twice");
            } else {
                fields.values.insert(name, Value::String(value));
            }
        }
        fields
    }

    /// Ends the reading; what was not asked for is unknown.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub fn finish(mut self) -> Result<(), Problem> {
        for name in std::mem::take(&mut self.values).into_iter().map(|(name, _)| name) {
            self.problem(name, "is unknown");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }

    /// Records a problem that a getter cannot see, such as two fields that contradict each other.
    pub fn problem(&mut self, name: impl Into<String>, detail: impl Display) {
        if self.errors.len() == ERRORS_MAX {
            return;
        }
        let mut field: String = name.into();
        if let Some((cut, _)) = field.char_indices().nth(NAME_CHARS_MAX) {
            field.truncate(cut);
        }
        self.errors.push(FieldError { field, detail: detail.to_string() });
    }

    /// Says whether a problem with that field is recorded.
    pub fn is_bad(&self, name: &str) -> bool {
        self.errors.iter().any(|error| error.field == name)
    }

    /// Records a problem when the field is there at all.
    pub fn refuse(&mut self, name: &str, detail: impl Display) {
        if self.values.remove(name).is_some() {
            self.problem(name, detail);
        }
    }

    /// Takes a field as it is, for a shape that no other getter reads.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.values.remove(name).filter(|value| !value.is_null())
    }

    fn require<T: Default>(&mut self, name: &str, value: Option<T>, before: usize) -> T {
        if value.is_none() && self.errors.len() == before {
            self.problem(name, "is required");
        }
        value.unwrap_or_default()
    }

    /// Takes a required text that passes the check.
    pub fn text<E: Display>(&mut self, name: &str, check: impl FnOnce(&str) -> Result<(), E>) -> String {
        let before = self.errors.len();
        let value = self.text_optional(name, check);
        self.require(name, value, before)
    }

    /// Takes a text that may be absent, and passes the check when it is there.
    pub fn text_optional<E: Display>(
        &mut self,
        name: &str,
        check: impl FnOnce(&str) -> Result<(), E>,
    ) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => match check(&text) {
                Ok(()) => Some(text),
                Err(error) => {
                    self.problem(name, error);
                    None
                }
            },
            _ => {
                self.problem(name, "must be a text");
                None
            }
        }
    }

    /// Takes a required text and parses it; `None` is a recorded problem.
    pub fn parsed<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let mut parsed = None;
        self.text(name, |text| parse(text).map(|value| parsed = Some(value)));
        parsed
    }

    /// Takes a required word of a few.
    ///
    /// # Panics
    /// There is no word to choose from.
    pub fn one_of<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> T {
        let before = self.errors.len();
        let value = self.one_of_optional(name, words);
        self.require(name, value.map(|_| ()), before);
        value.unwrap_or(words[0].1)
    }

    /// Takes a word of a few that may be absent.
    pub fn one_of_optional<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text_optional(name, |_| Ok::<_, Infallible>(()))?;
        let chosen = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.problem(name, format!("must be one of {}", known.join(", ")));
        }
        chosen
    }

    /// Takes a number that may be absent. JSON knows finite numbers only, so what is returned is finite.
    pub fn number_optional(&mut self, name: &str) -> Option<f64> {
        let number = self.take(name)?.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.problem(name, "must be a finite number");
        }
        number
    }

    /// Takes a whole number within bounds that may be absent. `300.0` is one, too: JSON has one kind of
    /// number.
    pub fn whole_optional(&mut self, name: &str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let value = self.take(name)?;
        let whole = value.as_f64().filter(|number| number.fract() == 0.0);
        // Every whole number of 32 bits is an f64 with the same text, once 0 has no sign.
        let whole = whole.and_then(|number| format!("{}", number + 0.0).parse().ok());
        let bounded = whole.filter(|number| bounds.contains(number));
        if bounded.is_none() {
            let (least, most) = (bounds.start(), bounds.end());
            self.problem(name, format!("must be a whole number from {least} to {most}"));
        }
        bounded
    }

    /// Takes true or false; it is required.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.errors.len();
        let flag = match self.take(name) {
            None => None,
            Some(Value::Bool(flag)) => Some(flag),
            Some(_) => {
                self.problem(name, "must be true or false");
                None
            }
        };
        self.require(name, flag, before)
    }

    /// Takes `offset` and the size of a page, whose default and maximum the endpoint chooses. The size is
    /// called `limit`, or `count`; both at once contradict each other.
    pub fn page(&mut self, size_default: i64, size_max: i64) -> Page {
        let is_count = self.values.contains_key("count");
        if is_count {
            self.refuse("limit", "is another name for count: give one of them");
        }
        let size_name = if is_count { "count" } else { "limit" };
        Page {
            limit: self.count_in(size_name, size_default, 1..=size_max),
            offset: self.count_in("offset", 0, 0..=OFFSET_MAX),
        }
    }

    /// Takes a whole number within bounds, with a default, from a query string or a body that asks the same.
    pub(super) fn count_in(&mut self, name: &str, default: i64, bounds: RangeInclusive<i64>) -> i64 {
        let number = match self.take(name) {
            None => return default,
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_i64(),
        };
        match number {
            Some(number) if bounds.contains(&number) => number,
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                self.problem(name, format!("must be a whole number from {least} to {most}"));
                default
            }
        }
    }
}

/// Reads the whole body, bounded in size and time.
///
/// # Errors
/// 400 when it is broken off, 408 when it does not come in time, 413 when it is too long.
pub async fn read_body(payload: web::Payload, bytes_max: usize) -> Result<web::Bytes, Problem> {
    match tokio::time::timeout(BODY_WAIT, payload.to_bytes_limited(bytes_max)).await {
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
        Ok(Err(_)) => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over {bytes_max} bytes")))
        }
        Ok(Ok(Err(_))) => Err(Problem::field("body", "is broken off")),
        Ok(Ok(Ok(bytes))) => Ok(bytes),
    }
}

/// Reads bytes as one JSON array, strictly as [`Fields::of_json`] does.
///
/// # Errors
/// 400 that says where the JSON breaks, or which name is given twice.
pub fn read_array(bytes: &[u8]) -> Result<Vec<Value>, Problem> {
    match read_json(bytes)? {
        Value::Array(values) => Ok(values),
        _ => Err(Problem::field("body", "must be a JSON array")),
    }
}

fn read_json(bytes: &[u8]) -> Result<Value, Problem> {
    json::read(bytes).map_err(|error| match error.is_data() {
        true => Problem::field("body", error.to_string()),
        false => Problem::field("body", format!("is not JSON: {error}")),
    })
}

/// Checks a text for people: bounded, and without control characters but line ends and tabs. A NUL in
/// particular is valid JSON that PostgreSQL cannot store.
///
/// # Errors
/// What it must be.
pub fn check_prose(text: &str, chars_max: usize) -> Result<(), String> {
    let strange = text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    if strange || text.chars().count() > chars_max {
        return Err(format!(
            "must have at most {chars_max} characters, and no control character but line ends and tabs"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    fn names(problem: &Problem) -> Vec<&str> {
        problem.errors.iter().map(|error| error.field.as_str()).collect()
    }

    fn short(text: &str) -> Result<(), &'static str> {
        if text.len() < 5 { Ok(()) } else { Err("must be short") }
    }

    fn query(text: &str) -> Fields {
        Fields::of_query(&TestRequest::with_uri(&format!("/x?{text}")).to_http_request())
    }

    #[test]
    fn every_bad_field_of_a_body_is_reported_together() {
        let body = br#"{"a":"much too long","b":7,"c":"x","d":"hot","e":"yes","f":null,"more":1}"#;
        let mut fields = Fields::of_json(body).unwrap();
        fields.text("a", short);
        fields.text("b", short);
        fields.one_of("c", &[("y", 1), ("z", 2)]);
        fields.number_optional("d");
        fields.flag("e");
        assert_eq!(fields.parsed("f", str::parse::<i32>), None);
        fields.one_of("g", &[("y", 1)]);
        let problem = fields.finish().unwrap_err();
        assert_eq!(names(&problem), ["a", "b", "c", "d", "e", "f", "g", "more"]);
        let details: Vec<_> = problem.errors.iter().map(|error| error.detail.as_str()).collect();
        assert_eq!(details[5..], ["is required", "is required", "is unknown"]);
        assert_eq!(details[2], "must be one of y, z");
    }

    #[test]
    fn good_fields_are_returned_and_null_is_absent() {
        let mut fields = Fields::of_json(br#"{"a":"abc","n":-1.5,"w":"z","e":false,"m":null}"#).unwrap();
        assert_eq!(fields.text("a", short), "abc");
        assert_eq!(fields.number_optional("n"), Some(-1.5));
        assert_eq!(fields.number_optional("m"), None);
        assert_eq!(fields.one_of("w", &[("y", 1), ("z", 2)]), 2);
        assert!(!fields.flag("e"));
        fields.finish().unwrap();
    }

    #[test]
    fn whole_numbers_keep_to_their_bounds() {
        let whole = |json: &str| {
            let mut fields = Fields::of_json(format!(r#"{{"n":{json}}}"#).as_bytes()).unwrap();
            let number = fields.whole_optional("n", 0..=u32::MAX - 1);
            fields.finish().map(|()| number).map_err(|problem| problem.errors.len())
        };
        for (json, number) in
            [("0", 0), ("-0", 0), ("300", 300), ("300.0", 300), ("3e2", 300), ("4294967294", u32::MAX - 1)]
        {
            assert_eq!(whole(json), Ok(Some(number)), "{json}");
        }
        assert_eq!(whole("null"), Ok(None));
        for bad in ["-1", "0.5", "4294967295", "1e30", "\"1\"", "true", "[]"] {
            assert_eq!(whole(bad), Err(1), "{bad}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_is_one_problem() {
        for body in [&b""[..], b"{", b"[]", b"1e999", b"\xff", b"{\"a\":1}{", &b"[".repeat(100_000)] {
            assert_eq!(names(&Fields::of_json(body).unwrap_err()), ["body"]);
        }
    }

    #[test]
    fn pages_keep_to_their_bounds() {
        let page = |text: &str| {
            let mut fields = query(text);
            let page = fields.page(100, 1_000);
            fields.finish().map(|()| (page.limit, page.offset)).map_err(|problem| problem.errors)
        };
        assert_eq!(page(""), Ok((100, 0)));
        assert_eq!(page("limit=1000&offset=1000000"), Ok((1_000, 1_000_000)));
        for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "limit=99999999999999999999"] {
            assert_eq!(page(bad).unwrap_err()[0].field, "limit", "{bad}");
        }
        assert_eq!(page("limit=1&limit=2").unwrap_err()[0].detail, "is given twice");
        assert_eq!(page("count=7&offset=1"), Ok((7, 1)));
        assert_eq!(page("count=7&limit=7").unwrap_err()[0].field, "limit");
        assert_eq!(page("offset=1000001&x=%00").unwrap_err().len(), 2);
    }

    #[test]
    fn a_hostile_request_is_not_echoed_at_length() {
        let many: Vec<_> = (0..100).map(|n| format!("{n}{}=", "%C3%A9".repeat(80))).collect();
        let errors = query(&many.join("&")).finish().unwrap_err().errors;
        assert_eq!(errors.len(), ERRORS_MAX);
        assert!(errors.iter().all(|error| error.field.chars().count() <= NAME_CHARS_MAX));
    }

    #[test]
    fn prose_has_line_ends_but_no_nul() {
        assert!(check_prose("two\nlines\tand é", 20).is_ok());
        assert!(check_prose("a\0b", 20).is_err());
        assert!(check_prose(&"é".repeat(20), 20).is_ok());
        assert!(check_prose(&"é".repeat(21), 20).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_as_a_body_never_panic(bytes: Vec<u8>) {
            if let Ok(mut fields) = Fields::of_json(&bytes) {
                fields.text("a", short);
                let _ = fields.finish();
            }
        }
    }
}
