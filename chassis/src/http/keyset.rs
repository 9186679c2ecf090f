//! Lists that are paged by key: a page says where the next one begins, and no row before it is walked over.
//!
//! Nothing is counted unless it is asked for. A row that is there all the time is in exactly one page,
//! whatever is written in between.

use super::Fields;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest cursor, in bytes: a few columns of a key.
const CURSOR_BYTES_MAX: usize = 2_048;

/// Says which part of a list is wanted, by the key of the row before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysetPage<K> {
    /// Most resources in the answer.
    pub limit: i64,
    /// Key of the last row of the page before; none asks for the first page.
    pub after: Option<K>,
    /// Whether the answer says how many there are in all pages, which walks over all of them.
    pub is_total_wanted: bool,
}

/// One page of a list, as every list that is paged by key answers.
#[derive(Debug, Serialize)]
pub struct KeysetListing<T> {
    /// The resources of this page, in the order that the endpoint documents.
    pub resources: Vec<T>,
    /// How many there are in this page.
    pub count: usize,
    /// What `cursor` must be to get the next page; none when this one is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many there are in all pages, when that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
}

impl<K> KeysetPage<K> {
    /// Returns how many rows to read: one more than the page has says whether there is a next one.
    pub const fn rows(&self) -> i64 {
        self.limit + 1
    }
}

impl<T> KeysetListing<T> {
    /// Makes a page of up to [`KeysetPage::rows`] resources, each of which has a key.
    pub fn new<K: Serialize>(
        mut resources: Vec<T>,
        page: &KeysetPage<K>,
        key: impl FnOnce(&T) -> K,
        total: Option<i64>,
    ) -> Self {
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let has_next = resources.len() > limit;
        resources.truncate(limit);
        let next = resources.last().filter(|_| has_next).map(|last| cursor(&key(last)));
        Self { count: resources.len(), resources, next, total }
    }
}

impl Fields {
    /// Takes `limit`, `cursor` and `total=true`; default and maximum of the limit are the endpoint's choice.
    /// A cursor is what [`KeysetListing`] has made of a key of the same type.
    pub fn keyset<K: DeserializeOwned>(&mut self, limit_default: i64, limit_max: i64) -> KeysetPage<K> {
        let limit = self.count_in("limit", limit_default, 1..=limit_max);
        let mut after = None;
        self.text_optional("cursor", |text| {
            after = Some(read(text).ok_or("must be the next of another page of this list")?);
            Ok::<_, &str>(())
        });
        let is_total_wanted = self.one_of_optional("total", &[("true", true), ("false", false)]);
        KeysetPage { limit, after, is_total_wanted: is_total_wanted.unwrap_or(false) }
    }
}

/// Writes the key of a row as the `cursor` that asks for what comes after it.
pub fn cursor(key: &impl Serialize) -> String {
    let json = serde_json::to_vec(key).expect("a key is made of texts and numbers");
    URL_SAFE_NO_PAD.encode(json)
}

fn read<K: DeserializeOwned>(cursor: &str) -> Option<K> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let key = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    // PostgreSQL cannot store a NUL, and refuses one in a parameter, too.
    (!holds_nul(&key)).then(|| serde_json::from_value(key).ok())?
}

fn holds_nul(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(holds_nul),
        serde_json::Value::Object(members) => members.values().any(holds_nul),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;
    use proptest::prelude::*;

    type Key = (String, i64);

    fn taken(query: &str) -> Result<KeysetPage<Key>, Vec<String>> {
        let mut fields = Fields::of_query(&TestRequest::with_uri(&format!("/x?{query}")).to_http_request());
        let page = fields.keyset(2, 10);
        let bad = |error: super::super::FieldError| error.field;
        fields.finish().map(|()| page).map_err(|problem| problem.errors.into_iter().map(bad).collect())
    }

    #[test]
    fn walking_by_cursor_shows_every_row_once_in_its_order() {
        let rows: Vec<Key> = (0..7).map(|n| (format!("é{}", n / 3), n)).collect();
        for limit in 1..=8 {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = taken(&format!("limit={limit}{cursor}")).unwrap();
                let left = rows.iter().filter(|row| page.after.as_ref().is_none_or(|after| *row > after));
                let left = left.take(usize::try_from(page.rows()).unwrap()).cloned().collect();
                let listing = KeysetListing::new(left, &page, Key::clone, None);
                assert_eq!(listing.count, listing.resources.len());
                seen.extend(listing.resources);
                let Some(next) = listing.next else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(seen, rows, "pages of {limit}");
        }
    }

    #[test]
    fn what_is_no_cursor_of_the_list_is_a_bad_field() {
        assert_eq!(taken(""), Ok(KeysetPage { limit: 2, after: None, is_total_wanted: false }));
        assert!(taken("total=true").unwrap().is_total_wanted);
        let nul = cursor(&("\0", 1));
        let other = cursor(&(1, 1));
        let long = cursor(&("x".repeat(3_000), 1));
        for bad in ["", "x", "%00", "e30", &nul, &other, &long] {
            assert_eq!(taken(&format!("cursor={bad}")), Err(vec!["cursor".to_owned()]), "{bad}");
        }
        assert_eq!(taken("limit=11&total=1&cursor=x").unwrap_err(), ["limit", "cursor", "total"]);
    }

    proptest! {
        #[test]
        fn any_key_without_a_nul_comes_back(text in "[^\0]{0,128}", number: i64) {
            prop_assert_eq!(read::<Key>(&cursor(&(&text, number))), Some((text, number)));
        }

        #[test]
        fn any_text_as_a_cursor_never_panics(text: String) {
            let _ = read::<Key>(&text);
        }
    }
}
