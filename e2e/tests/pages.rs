//! What a reader of the documents pastes, and what they say it shows.
//!
//! A fenced block of kind `sh` is pasted. A block of kind `text` right after it is what it shows, `…`
//! standing for what differs each time; until it shows that, it is pasted again, as a reader would who was
//! too quick.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A block of shell.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) shows: Option<String>,
}

/// Reads a document of this repository.
pub(crate) fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// The repository's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Finds the steps of a document, in order.
pub(crate) fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut lines, mut follows) = (page.lines(), false);
    while let Some(line) = lines.next() {
        let Some((indent, kind)) = line.split_once("```") else {
            follows &= line.trim().is_empty();
            continue;
        };
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block: Vec<&str> = block.map(|line| line.strip_prefix(indent).unwrap_or(line)).collect();
        let block = block.join("\n");
        match (kind, steps.last_mut()) {
            ("sh", _) => steps.push(Step { command: block, shows: None }),
            ("text", Some(step)) if follows => step.shows = Some(block),
            _ => {}
        }
        follows = kind == "sh";
    }
    steps
}

/// Says whether `output` has what `shown` promises: its parts between `…`, in their order.
pub(crate) fn shows(output: &str, shown: &str) -> bool {
    let mut rest = output;
    shown.split(['…', '\n']).map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        let found = rest.split_once(part);
        rest = found.map_or("", |(_, after)| after);
        found.is_some()
    })
}

/// The `make` lines of a document: in blocks of shell and between backticks in the text.
fn make_lines(page: &str) -> Vec<String> {
    let quoted = page.split('`').skip(1).step_by(2).map(str::to_owned);
    let pasted = steps(page).into_iter().map(|step| step.command);
    let is_make = |line: &String| line.starts_with("make ") && !line.contains('\n');
    quoted.chain(pasted).filter(is_make).collect()
}

/// Says what `make` would run.
fn rehearse(line: &str) -> Output {
    let make = line.replacen("make", "make --dry-run --no-print-directory", 1);
    Command::new("sh").args(["-c", &make]).current_dir(root()).output().unwrap()
}

#[test]
fn every_make_line_of_the_readme_names_a_target_that_there_is() {
    let lines = make_lines(&page("README.md"));
    for known in ["make up", "make test", "make up ARGS=\"--with lake-svc\""] {
        assert!(lines.iter().any(|line| line == known), "{known} is not among {lines:?}");
    }
    for line in lines {
        let output = rehearse(&line);
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

#[test]
fn make_up_is_the_program_that_the_test_of_the_readme_starts() {
    let output = rehearse("make up ARGS=\"--with lake-svc\"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.trim().ends_with("/debug/iotctl up --with lake-svc"), "{said}");
}

#[test]
fn step_is_a_block_of_shell_and_what_is_said_to_follow() {
    let page = "1. Do:\n\n   ```sh\n   one \\\n     two\n   ```\n\n   ```text\n   a…b\n   ```\n\n```json\n{}\n```\n\
                ```sh\nthree\n```\nIt says nothing:\n```text\nc\n```\n";
    let step = |command: &str, shows: Option<&str>| Step {
        command: command.to_owned(),
        shows: shows.map(str::to_owned),
    };
    assert_eq!(steps(page), [step("one \\\n  two", Some("a…b")), step("three", None)]);
}

#[test]
fn what_is_shown_holds_the_parts_in_their_order() {
    assert!(shows("{\"id\":7,\"value\":35.5}\n", "{…\"value\":35.5…"));
    assert!(shows("one\ntwo\n", "one\ntwo"));
    assert!(!shows("two\none\n", "one\ntwo"));
    assert!(!shows("", "{…"));
}
