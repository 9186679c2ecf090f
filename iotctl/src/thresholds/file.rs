//! The file of rules. Pure.
//!
//! ```yaml
//! owner: hall
//! rules:
//!   - name: hall-too-warm
//!     zoneId: hall
//!     metric: temperature
//!     max: 30
//!     severity: warning
//! ```
//!
//! A rule is a threshold as REST takes it (docs/api.md) with a name. What it leaves out is as if it had never
//! been said.

use serde_json::{Map, Number, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use uuid::Uuid;
use yaml_rust2::{Yaml, YamlLoader};

/// Longest owner or name, in characters.
const NAME_CHARS_MAX: usize = 128;
/// Most rules of a file: as many as one import takes.
const RULES_MAX: usize = 5_000;
/// Bytes of an id that say whose it is.
const OWNER_BYTES: usize = 6;

/// What a threshold says when nobody has said anything; a file is the whole of it.
const DEFAULTS: [(&str, DefaultValue); 13] = [
    ("sensorId", DefaultValue::Null),
    ("deviceType", DefaultValue::Null),
    ("zoneId", DefaultValue::Null),
    ("min", DefaultValue::Null),
    ("max", DefaultValue::Null),
    ("noDataSeconds", DefaultValue::Null),
    ("hysteresis", DefaultValue::Zero),
    ("forSeconds", DefaultValue::Zero),
    ("keepFiringSeconds", DefaultValue::Zero),
    ("repeat", DefaultValue::Word("every")),
    ("alertAgeSecondsMax", DefaultValue::Null),
    ("mode", DefaultValue::Word("live")),
    ("description", DefaultValue::Name),
];

#[derive(Clone, Copy, Debug)]
enum DefaultValue {
    Null,
    Zero,
    Word(&'static str),
    /// The rule's name: an alert says something then.
    Name,
}

/// The rules of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The name of their owner: a site, a team, a file.
    pub owner: String,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
}

/// A threshold with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, which is there once in the file.
    pub name: String,
    /// Its fields, each one, as REST takes them.
    pub fields: Map<String, Value>,
}

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem of it, one in each line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let documents = YamlLoader::load_from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
        let [document] = documents.as_slice() else {
            return Err("must be one YAML document".to_owned());
        };
        let mut problems = Vec::new();
        let owner = name_of(&document["owner"]).unwrap_or_else(|| {
            problems.push(format!("owner: must be a text of 1 to {NAME_CHARS_MAX} characters"));
            String::new()
        });
        let members = document.as_hash().map(|members| members.keys()).into_iter().flatten();
        let unknown = members.filter_map(Yaml::as_str).filter(|name| !["owner", "rules"].contains(name));
        problems.extend(unknown.map(|name| format!("{name}: is unknown")));
        let (mut rules, mut names) = (Vec::new(), BTreeSet::new());
        match document["rules"].as_vec() {
            Some(list) if list.len() <= RULES_MAX => {
                for (number, rule) in (1..).zip(list) {
                    match Rule::read(rule) {
                        Ok(rule) if names.insert(rule.name.clone()) => rules.push(rule),
                        Ok(rule) => {
                            problems.push(format!("rule {number}: the name {} is given twice", rule.name));
                        }
                        Err(problem) => problems.push(format!("rule {number}: {problem}")),
                    }
                }
            }
            Some(_) => problems.push(format!("rules: must be at most {RULES_MAX}")),
            None => problems.push("rules: must be a list".to_owned()),
        }
        if problems.is_empty() { Ok(Self { owner, rules }) } else { Err(problems.join("\n")) }
    }

    /// Returns what the ids of the owner's thresholds begin with, in hex.
    #[must_use]
    pub fn prefix(&self) -> String {
        hex::encode(&Sha256::digest(&self.owner)[..OWNER_BYTES])
    }

    /// Returns the id of a rule's threshold.
    ///
    /// Guarantee: the same for the same owner and name, in every release. Source: RFC 9562, section 5.8.
    #[must_use]
    pub fn id(&self, rule: &Rule) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..OWNER_BYTES].copy_from_slice(&Sha256::digest(&self.owner)[..OWNER_BYTES]);
        let named = Sha256::digest(format!("{}\0{}", self.owner, rule.name));
        bytes[OWNER_BYTES..].copy_from_slice(&named[..16 - OWNER_BYTES]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

impl Rule {
    fn read(yaml: &Yaml) -> Result<Self, String> {
        let members = yaml.as_hash().ok_or("must be a mapping")?;
        let name = name_of(&yaml["name"])
            .ok_or_else(|| format!("name: must be a text of 1 to {NAME_CHARS_MAX} characters"))?;
        let mut fields = Map::new();
        for (default, value) in DEFAULTS {
            let value = match value {
                DefaultValue::Null => Value::Null,
                DefaultValue::Zero => json!(0),
                DefaultValue::Word(word) => json!(word),
                DefaultValue::Name => json!(name),
            };
            fields.insert(default.to_owned(), value);
        }
        for (field, value) in members {
            let field = field.as_str().ok_or_else(|| format!("{name}: a field must be a text"))?;
            if field != "name" {
                let value = to_json(value).ok_or_else(|| {
                    format!("{name}: {field} must be a text, a number, true, false or nothing")
                })?;
                if !value.is_null() {
                    fields.insert(field.to_owned(), value);
                }
            }
        }
        Ok(Self { name, fields })
    }
}

fn name_of(yaml: &Yaml) -> Option<String> {
    let text = yaml.as_str()?.trim();
    let is_good = !text.is_empty() && text.chars().count() <= NAME_CHARS_MAX && !text.contains('\0');
    is_good.then(|| text.to_owned())
}

fn to_json(yaml: &Yaml) -> Option<Value> {
    match yaml {
        Yaml::Null => Some(Value::Null),
        Yaml::Boolean(flag) => Some(json!(flag)),
        Yaml::Integer(number) => Some(json!(number)),
        Yaml::Real(text) => {
            let number: f64 = text.parse().ok()?;
            Number::from_f64(number).map(Value::Number)
        }
        Yaml::String(text) => Some(json!(text)),
        Yaml::Array(_) | Yaml::Hash(_) | Yaml::Alias(_) | Yaml::BadValue => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
owner: hall
rules:
  - name: warm
    zoneId: hall
    metric: temperature
    max: 30.5
    repeat: 600
    severity: warning
";

    #[test]
    fn a_rule_says_all_that_a_threshold_can_say() {
        let rules = Rules::parse(FILE).unwrap();
        let fields = &rules.rules[0].fields;
        for (field, value) in [
            ("zoneId", json!("hall")),
            ("max", json!(30.5)),
            ("min", Value::Null),
            ("repeat", json!(600)),
            ("mode", json!("live")),
            ("hysteresis", json!(0)),
            ("description", json!("warm")),
        ] {
            assert_eq!(fields[field], value, "{field}");
        }
    }

    #[test]
    fn ids_are_fixed_for_ever_and_those_of_an_owner_begin_alike() {
        let rules = Rules::parse(FILE).unwrap();
        let id = rules.id(&rules.rules[0]);
        // Computed independently with Python's hashlib.
        assert_eq!(id.to_string(), "3cbaeb57-c640-858a-8e16-8cf8155648fb");
        assert_eq!(id.get_version_num(), 8);
        assert_eq!(rules.prefix(), "3cbaeb57c640");
        assert!(id.simple().to_string().starts_with(&rules.prefix()));
        let other = Rules { owner: "cellar".to_owned(), ..rules.clone() };
        assert_ne!(other.prefix(), rules.prefix());
        assert_ne!(other.id(&other.rules[0]), id);
    }

    #[test]
    fn every_problem_of_a_file_is_named() {
        let problems = |text: &str| Rules::parse(text).unwrap_err();
        let worst = "
colour: red
rules:
  - {metric: t}
  - {name: a, metric: [t]}
  - {name: b, metric: t}
  - {name: b, metric: u}
  - 7
";
        let all = problems(worst);
        for part in
            ["owner:", "colour: is unknown", "rule 1: name:", "rule 2: a: metric", "rule 4:", "rule 5:"]
        {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert_eq!(all.lines().count(), 6, "{all}");
        for bad in [
            "",
            "- 1",
            "owner: a\nrules: []\n---\nowner: b\nrules: []\n",
            "{",
            "owner: a\nowner: b\nrules: []",
        ] {
            assert!(!problems(bad).is_empty(), "{bad}");
        }
    }
}
