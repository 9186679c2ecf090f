//! The Rust files of the workspace, and their comments.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no source of ours.
const FOREIGN: [&str; 3] = ["target", "node_modules", "venv"];

/// A Rust file.
pub(crate) struct Source {
    /// Its path from the root of the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The comments of neighbouring lines, as one text.
pub(crate) struct Comment {
    /// The number of its first line.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// The code that it stands above.
    pub(crate) above: String,
    /// Whether it is the first paragraph of what is documented.
    pub(crate) is_first: bool,
    /// Whether it belongs to the unit tests of its file.
    pub(crate) is_test: bool,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Reads every Rust file of the workspace.
pub(crate) fn all() -> Vec<Source> {
    let (mut folders, mut sources) = (vec![root()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            if path.is_dir() {
                if !name.starts_with('.') && !FOREIGN.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 200, "the workspace has more files than {}", sources.len());
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

impl Source {
    /// Names the member of the workspace that it belongs to.
    pub(crate) fn member(&self) -> &str {
        self.path.split('/').next().unwrap()
    }

    /// Numbers its lines, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// Returns what comes before its unit tests.
    pub(crate) fn product(&self) -> &str {
        self.text.split("\n#[cfg(test)]").next().unwrap()
    }

    /// Gathers its comments: those that fill their lines, without code examples and tables.
    pub(crate) fn comments(&self) -> Vec<Comment> {
        let mut comments: Vec<Comment> = Vec::new();
        let (mut is_open, mut is_example) = (false, false);
        let product_lines = self.product().lines().count();
        for (line, code) in self.lines() {
            let Some(said) = said(code) else {
                // Attributes stand between the documentation and what it documents.
                if !code.trim().starts_with("#[") {
                    let open = comments.iter_mut().rev().take_while(|comment| comment.above.is_empty());
                    open.for_each(|comment| comment.above = format!("{} ", code.trim()));
                }
                (is_open, is_example) = (false, false);
                continue;
            };
            is_example ^= said.starts_with("```");
            if is_example || said.starts_with("```") || said.starts_with('|') {
                continue;
            }
            // An empty line ends a paragraph, and a star begins one.
            if !is_open || said.is_empty() || said.starts_with(['*', '#', '-']) {
                comments.push(Comment {
                    line,
                    text: String::new(),
                    above: String::new(),
                    is_first: !is_open,
                    is_test: line > product_lines,
                });
            }
            is_open = true;
            let comment = comments.last_mut().unwrap();
            comment.text.push(' ');
            comment.text.push_str(said);
        }
        comments.iter_mut().for_each(|comment| comment.text = comment.text.trim().to_owned());
        comments.retain(|comment| !comment.text.is_empty());
        comments
    }
}

/// Returns what a line that is a comment says.
pub(crate) fn said(line: &str) -> Option<&str> {
    let said = line.trim().strip_prefix("//")?;
    Some(said.strip_prefix(['/', '!']).unwrap_or(said).trim())
}
