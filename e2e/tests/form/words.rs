//! The field's words: a private noun stands in ARCHITECTURE.md's "Words", or goes.

use crate::hold::hold;
use crate::sources::{all, root};
use std::fs;

/// Private words, what the field says instead, and the member that the word is banned in; none is every
/// member.
const BANNED: [(&str, &str, Option<&str>); 37] = [
    ("bury", "dead_letter", None),
    ("buried", "dead letter", None),
    ("obey", "check_stop", None),
    ("recall", "restore", None),
    ("recalled", "restored", None),
    ("Recaller", "Restore", None),
    ("Trouble", "Disposition", None),
    ("Handover", "Rebalance", None),
    ("Ownership", "Assignment", None),
    ("Inlet", "LaneSender", None),
    ("Filling", "Accumulator", None),
    ("Flight", "InFlight", None),
    ("Flights", "InFlight", None),
    ("flights", "unacked", None),
    ("Ticket", "Seq", None),
    ("Promise", "AckKind", None),
    ("Entrance", "Admission", None),
    ("Places", "ConnectionLimit", None),
    ("Share", "Permit", None),
    ("Moment", "ReadingBuilder", None),
    ("Moments", "ReadingsByTime", None),
    ("Opaque", "what the report is for", None),
    ("Cause", "DedupKey", None),
    ("Invented", "Generated", None),
    ("hand_over", "begin_return, or send", None),
    ("Site", "Environment", None),
    ("judge", "evaluate", None),
    ("judged", "evaluated", None),
    ("judges", "evaluates", None),
    ("Publisher", "Producer", Some("gateway")),
    ("Delivery", "Failover", Some("gateway")),
    ("Window", "InFlight", Some("gateway")),
    ("Slot", "AckHandle", Some("gateway")),
    ("Sessions", "Connections", Some("gateway")),
    ("Memory", "Dedup", Some("alerting-svc")),
    ("Names", "Interner", Some("command-svc")),
    ("cast", "devices", Some("e2e")),
];

/// Returns the words of a line, by the characters of an identifier.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}

#[test]
fn private_nouns_are_explained_or_gone() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, explained) = architecture.split_once("\n## Words\n").unwrap();
    let is_explained = |word: &str| explained.contains(&format!("*{word}*"));
    let mut found = Vec::new();
    for source in all().iter().filter(|source| !source.path.starts_with("e2e/tests/form/")) {
        for (number, line) in source.lines() {
            for (word, instead, member) in BANNED {
                let is_here = member.is_none_or(|member| member == source.member());
                if is_here && words(line).any(|one| one == word) && !is_explained(word) {
                    found.push((format!("{}:{number}", source.path), format!("{word}: say {instead}")));
                }
            }
        }
    }
    hold("the field's words", found);
}
