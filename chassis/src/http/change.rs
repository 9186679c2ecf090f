//! Changes of a resource that is there: PUT and PATCH, both read against what stands.
//!
//! A PUT names at least what a registration has to name; what else it does not name stays. A PATCH is a merge
//! patch and has to name nothing. In both, `null` takes a field away, and the answer to a GET, sent back,
//! changes nothing.
//!
//! Source: RFC 7396 (merge patch); RFC 9110, section 13.1.1, whose `If-Match` a `version` in the body is read
//! as.

use super::{Fields, Problem, stale};
use actix_web::http::Method;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{Map, Value};

/// Media type of a PATCH.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// A body that changes a resource.
#[derive(Debug)]
pub struct Change {
    members: Map<String, Value>,
    is_patch: bool,
}

/// Says what of a resource a change has to name and what it cannot change.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Fields that a PUT has to name.
    pub required: &'a [&'a str],
    /// Fields that only the service writes; they may be sent as they are.
    pub read_only: &'a [&'a str],
}

impl Change {
    /// Reads the body of a PUT or a PATCH.
    ///
    /// # Errors
    /// As [`Fields::of_body`].
    pub async fn of_body(request: &HttpRequest, payload: web::Payload) -> Result<Self, Problem> {
        let is_patch = request.method() == Method::PATCH;
        let members = Fields::of_body(request, payload).await?.into_members();
        Ok(Self { members, is_patch })
    }

    /// Makes a PUT of the members of a JSON object.
    pub fn put(members: Map<String, Value>) -> Self {
        Self { members, is_patch: false }
    }

    /// Returns a member of the body, also `null`.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// Drops a member that an answer carries beside the resource.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.members.remove(name);
        self
    }

    /// Applies the change to the resource as it is answered, and returns the fields of the whole resource as
    /// it is to be.
    ///
    /// # Errors
    /// 412 when the body names another `version` than the resource has.
    pub fn apply(self, current: &impl Serialize, rules: Rules<'_>) -> Result<Fields, Problem> {
        let Ok(Value::Object(mut current)) = serde_json::to_value(current) else {
            return Err(Problem::internal(&"a resource is no JSON object"));
        };
        if self
            .members
            .get("version")
            .is_some_and(|version| version.is_i64() && *version != current["version"])
        {
            return Err(stale());
        }
        let mut merged = current.clone();
        if self.is_patch {
            merge(&mut merged, self.members);
        } else {
            merged.retain(|name, _| !rules.required.contains(&name.as_str()));
            merged.extend(self.members);
        }
        let is_changed = |name: &str| merged.get(name) != current.get(name);
        let changed: Vec<_> = rules.read_only.iter().filter(|name| is_changed(name)).collect();
        for name in rules.read_only {
            merged.remove(*name);
            current.remove(*name);
        }
        let mut fields = Fields::of_members(merged);
        for name in changed {
            fields.problem(*name, "cannot be changed: send it as it is, or leave it out");
        }
        Ok(fields)
    }
}

/// Merges as RFC 7396 says: `null` removes, objects are merged member by member, anything else replaces.
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(members) => {
                let inner = target.entry(name).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, members);
                }
            }
            value => {
                target.insert(name, value);
            }
        }
    }
}

/// Refuses a body in another format than the route reads.
///
/// # Errors
/// 415, which names the format.
pub(super) fn check_format(request: &HttpRequest) -> Result<(), Problem> {
    let expected = if request.method() == Method::PATCH { MERGE_PATCH } else { "application/json" };
    media_type(request, &[expected]).map(|_| ())
}

/// Says in which of the formats that a route reads the body is; without a word of the caller's in the first.
///
/// # Errors
/// 415, which names the formats.
///
/// # Panics
/// There is no format to choose from.
pub fn media_type<'a>(request: &HttpRequest, formats: &[&'a str]) -> Result<&'a str, Problem> {
    use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
    let unsupported = |detail: String| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    if text(CONTENT_ENCODING).is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        return unsupported("send the body without Content-Encoding".to_owned());
    }
    let Some(kind) = text(CONTENT_TYPE) else { return Ok(formats[0]) };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    match formats.iter().find(|format| essence.eq_ignore_ascii_case(format)) {
        Some(format) => Ok(format),
        None => unsupported(format!("the body must be {}", formats.join(" or "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RULES: Rules<'_> = Rules { required: &["name"], read_only: &["version"] };

    fn change(is_patch: bool, body: Value) -> Change {
        let Value::Object(members) = body else { panic!("no object") };
        Change { members, is_patch }
    }

    fn applied(is_patch: bool, body: Value) -> Result<Value, u16> {
        let current = json!({"name": "a", "size": 3, "inner": {"x": 1, "y": 2}, "version": 7});
        let fields = change(is_patch, body).apply(&current, RULES).map_err(|problem| problem.status())?;
        if fields.is_bad("version") { Err(400) } else { Ok(Value::Object(fields.into_members())) }
    }

    #[test]
    fn a_put_keeps_what_it_does_not_name_but_has_to_name_what_is_required() {
        assert_eq!(
            applied(false, json!({"name": "b"})),
            Ok(json!({"name": "b", "size": 3, "inner": {"x": 1, "y": 2}}))
        );
        assert_eq!(
            applied(false, json!({"size": 4, "inner": {"z": 3}})),
            Ok(json!({"size": 4, "inner": {"z": 3}}))
        );
    }

    #[test]
    fn what_a_get_gave_changes_nothing_and_another_version_is_refused() {
        let same = json!({"name": "a", "size": 3, "inner": {"x": 1, "y": 2}});
        for is_patch in [false, true] {
            let mut body = same.clone();
            body["version"] = json!(7);
            assert_eq!(applied(is_patch, body.clone()), Ok(same.clone()));
            body["version"] = json!(6);
            assert_eq!(applied(is_patch, body.clone()), Err(412));
            for no_version in [json!("7"), json!(7.5), Value::Null] {
                body["version"] = no_version;
                assert_eq!(applied(is_patch, body.clone()), Err(400));
            }
        }
    }

    /// The examples of RFC 7396, appendix A, whose target and patch are both objects.
    #[test]
    fn a_patch_merges_as_its_rfc_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let (Value::Object(mut merged), Value::Object(patch)) = (target, patch) else {
                panic!("no objects")
            };
            merge(&mut merged, patch);
            assert_eq!(Value::Object(merged), result);
        }
    }
}
