//! What the documentation says of names that the code has.

use std::collections::BTreeSet;
use std::path::Path;

/// Endings that a histogram's series add to its name.
const SERIES: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Asserts that the pages of `docs/` and the README name only metrics that exist, of those that begin with
/// the prefix, and that they name at least one.
///
/// # Panics
/// They do not, or cannot be read.
pub fn assert_metrics_exist(prefix: &str, names: &[String]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let texts = pages.chain([root.join("README.md")]).map(|page| std::fs::read_to_string(page).unwrap());
    let named: BTreeSet<String> = texts.flat_map(|text| metrics_in(&text, prefix)).collect();
    assert!(!named.is_empty(), "no page names a metric that begins with {prefix}");
    let base = |name: &str| SERIES.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
    let exists = |name: &&String| names.contains(name) || names.contains(&base(name));
    let invented: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
    assert!(invented.is_empty(), "the documentation names metrics that do not exist: {invented:?}");
}

/// Returns the words of snake case that begin with the prefix.
fn metrics_in(text: &str, prefix: &str) -> Vec<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = |word: &&str| word.starts_with(prefix) && !word.ends_with("_svc");
    words.filter(ours).map(str::to_owned).collect()
}
