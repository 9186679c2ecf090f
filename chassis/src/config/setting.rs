//! What a variable is, for those who set it: `--help` of each service and docs/settings.md come from here.

use serde::Serialize;
use std::fmt::{Display, Write as _};

/// Describes one variable, as the code that reads it declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What it may be, bounds and unit included.
    pub value: String,
    /// What holds when it is absent or empty.
    pub absent: Absent,
    /// What it means.
    pub about: String,
}

/// Says what holds without a variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Absent {
    /// The service does not start.
    Required,
    /// There is none; what the variable means says what follows.
    Nothing,
    /// This value.
    Default(String),
}

/// Wraps text at this many columns.
const COLUMNS: usize = 100;

/// Writes the page that `--help` shows.
pub(crate) fn page(service: &str, settings: &[Setting]) -> String {
    let mut page = format!(
        "{service} {}\n\nSettings are variables of the environment.\n\
         `{service} --check` says whether they can be used, `{service} --help=json` is this list for programs.\n",
        env!("CARGO_PKG_VERSION"),
    );
    for setting in settings {
        let absent = match &setting.absent {
            Absent::Required => ", required".to_owned(),
            Absent::Nothing => String::new(),
            Absent::Default(text) if text.is_empty() => ", default empty".to_owned(),
            Absent::Default(text) => format!(", default {text}"),
        };
        let _ = write!(page, "\n{}  ({}{absent})\n{}", setting.name, setting.value, wrapped(&setting.about));
    }
    page
}

/// Breaks a text into lines with a margin.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let wanted = word.chars().count() + 1;
        if width == 0 || width + wanted > COLUMNS {
            lines.push_str(if width == 0 { "   " } else { "\n   " });
            width = 3;
        }
        lines.push(' ');
        lines.push_str(word);
        width += wanted;
    }
    lines.push('\n');
    lines
}

/// Writes a number with a comma before each group of three digits.
pub(crate) fn grouped(number: impl Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns what a number counts, which the name of its variable tells.
pub(crate) fn unit(name: &str) -> &'static str {
    let units = [
        ("MS", " ms"),
        ("BYTES", " bytes"),
        ("MIB", " MiB"),
        ("SECONDS", " s"),
        ("S", " s"),
        ("DAYS", " days"),
    ];
    let mut words = name.split('_');
    words.find_map(|word| units.iter().find(|(unit, _)| *unit == word)).map_or("", |(_, unit)| unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_units_and_commas() {
        assert_eq!([1, 999, 1_000, 1_048_576].map(grouped), ["1", "999", "1,000", "1,048,576"]);
        for (name, expected) in [
            ("DRAIN_MS_MAX", " ms"),
            ("IN_FLIGHT_BYTES_MAX", " bytes"),
            ("READING_FUTURE_S_MAX", " s"),
            ("EPISODE_DAYS", " days"),
            ("WRITERS", ""),
        ] {
            assert_eq!(unit(name), expected, "{name}");
        }
    }

    #[test]
    fn page_says_of_each_variable_what_it_may_be_and_what_holds_without_it() {
        let setting = |name, absent| Setting {
            name,
            value: "1 to 64".to_owned(),
            absent,
            about: "word ".repeat(30).trim().to_owned(),
        };
        let page = page(
            "ferry",
            &[
                setting("DECKS", Absent::Default("2".to_owned())),
                setting("NAME", Absent::Required),
                setting("FLAG", Absent::Nothing),
            ],
        );
        for line in ["DECKS  (1 to 64, default 2)", "NAME  (1 to 64, required)", "FLAG  (1 to 64)"] {
            assert!(page.lines().any(|found| found == line), "{line}:\n{page}");
        }
        assert!(page.lines().all(|line| line.len() <= COLUMNS + 4), "{page}");
    }
}
