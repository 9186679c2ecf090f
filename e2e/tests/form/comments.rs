//! Comments are plain English sentences that end with their line.

use crate::hold::hold;
use crate::sources::{Comment, all, said};

/// Where a line ends, in characters; `max_width` of rustfmt.toml binds code alone.
const WIDTH_MAX: usize = 110;
/// Words that point at a number which stands somewhere else.
const POINTING: [&str; 6] = ["so long", "so many", "so often", "so soon", "so much", "so large"];
/// First words of a sentence whose subject is a relative clause, unless it is a question.
const RELATIVE: [&str; 5] = ["Who ", "Whose ", "Whoever ", "Whatever ", "Whichever "];
/// Words that a relative clause and the sentence around it each have one of.
const VERBS: [&str; 16] = [
    "is", "are", "was", "were", "has", "have", "comes", "goes", "stays", "waits", "must", "may", "can",
    "cannot", "ends", "needs",
];

/// Cuts a text into its sentences.
fn sentences(text: &str) -> Vec<&str> {
    let mut ends: Vec<usize> = text.match_indices(". ").map(|(at, _)| at + 2).collect();
    ends.extend(text.match_indices("? ").map(|(at, _)| at + 2));
    ends.sort_unstable();
    ends.push(text.len());
    let starts = [0].into_iter().chain(ends.clone());
    starts.zip(ends).map(|(start, end)| text[start..end].trim()).collect()
}

/// Says whether "What … is … is …" begins with a clause that is the subject.
fn begins_with_a_clause(sentence: &str) -> bool {
    let clause = sentence.split([',', ';', ':', '.']).next().unwrap_or_default();
    let verbs = clause.split(' ').filter(|word| VERBS.contains(word));
    sentence.starts_with("What ") && !sentence.ends_with('?') && verbs.count() > 1
}

#[test]
fn no_comment_line_is_wider_than_code_may_be() {
    let mut found = Vec::new();
    for source in all() {
        for (number, line) in source.lines() {
            // A table and an address cannot be broken.
            let is_whole = |said: &str| said.starts_with('|') || !said.contains(' ');
            if said(line).is_some_and(|said| !is_whole(said)) && line.chars().count() > WIDTH_MAX {
                found
                    .push((format!("{}:{number}", source.path), format!("{} columns", line.chars().count())));
            }
        }
    }
    hold("a comment line ends at 110 columns", found);
}

#[test]
fn no_comment_points_at_a_number_that_stands_elsewhere() {
    let points = |comment: &Comment| {
        let text = comment.text.to_lowercase();
        POINTING.iter().find(|words| {
            let at = |(at, _): (usize, &str)| {
                let after = text[at + words.len()..].chars().next();
                let before = text[..at].chars().next_back();
                !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
            };
            text.match_indices(**words).any(at)
        })
    };
    hold("no \"so long\" and its like", places(|comment| points(comment).map(|words| (*words).to_owned())));
}

#[test]
fn no_sentence_has_a_relative_clause_for_its_subject() {
    let clause = |comment: &Comment| {
        let wrong = |sentence: &&str| {
            let is_relative = RELATIVE.iter().any(|word| sentence.starts_with(word));
            is_relative && !sentence.ends_with('?') || begins_with_a_clause(sentence)
        };
        sentences(&comment.text).into_iter().find(wrong).map(str::to_owned)
    };
    hold("no relative clause as a subject", places(clause));
}

#[test]
fn documentation_of_a_function_begins_with_a_verb_in_the_third_person() {
    let verb = |comment: &Comment| {
        let is_function =
            ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "pub(crate) async fn "]
                .iter()
                .any(|start| comment.above.starts_with(start));
        let first = comment.text.split([' ', ',', '.', ':']).next().unwrap_or_default();
        (is_function && comment.is_first && !comment.is_test && !first.ends_with('s'))
            .then(|| comment.text.clone())
    };
    let mut found = places(verb);
    found.retain(|(place, _)| place.contains("/src/") && !place.contains("/tests"));
    hold("a function's documentation begins with a verb", found);
}

/// Returns where a comment breaks a rule, and how.
fn places(broken: impl Fn(&Comment) -> Option<String>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for source in all() {
        for comment in source.comments() {
            found.extend(broken(&comment).map(|how| (format!("{}:{}", source.path, comment.line), how)));
        }
    }
    found
}

#[test]
fn the_rules_know_good_sentences_from_bad_ones() {
    assert!(begins_with_a_clause("What is paused is resumed after an assignment."));
    for good in ["What is read, and what is kept.", "What is paused is what?", "It counts what is paused."] {
        assert!(!begins_with_a_clause(good), "{good}");
    }
    assert_eq!(sentences("One. Who? Two."), ["One.", "Who?", "Two."]);
}
