//! One style of imports, one of module files, one of sizes.

use crate::hold::hold;
use crate::sources::{Source, all};

/// Lines beyond which a file is cut.
const LINES_MAX: usize = 500;

/// Returns the first line of a block of imports that follows another one.
fn second_block(source: &Source) -> Option<usize> {
    let (mut last, mut is_open, mut is_apart) = (None, false, false);
    for (number, line) in source.lines() {
        let indent = line.len() - line.trim_start().len();
        if is_open {
            is_open = !line.trim_end().ends_with(';');
        } else if line.trim_start().starts_with("use ") {
            if is_apart && last == Some(indent) {
                return Some(number);
            }
            (last, is_open, is_apart) = (Some(indent), !line.trim_end().ends_with(';'), false);
        } else if line.trim().is_empty() {
            is_apart = true;
        } else if !line.trim_start().starts_with("#[") {
            last = None;
        }
    }
    None
}

#[test]
fn imports_of_a_file_are_one_block() {
    let places =
        |source: &Source| Some((format!("{}:{}", source.path, second_block(source)?), "a second block"));
    hold("imports are one block", all().iter().filter_map(places).collect());
}

#[test]
fn a_module_with_children_is_a_file_beside_their_folder() {
    let is_mod = |source: &Source| source.path.ends_with("/mod.rs");
    let found = all().into_iter().filter(is_mod).map(|source| (source.path, "name it after its folder"));
    hold("no mod.rs", found.collect());
}

#[test]
fn no_file_is_too_long_to_read_at_once() {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| (source.path.clone(), format!("{lines} lines")))
    };
    hold("a file has 500 lines at most", all().iter().filter_map(long).collect());
}
