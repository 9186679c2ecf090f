//! Settings from the environment: read everything, report every problem together, before any socket opens.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Reads variables and collects what is wrong with them. A getter that records a problem returns a
/// placeholder, which [`Env::finish`] makes sure nobody uses.
#[derive(Debug)]
pub struct Env {
    variables: BTreeMap<String, String>,
    problems: Vec<String>,
    names: Vec<&'static str>,
}

/// Lists every unusable setting, one clause each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Problems(pub Vec<String>);

/// Keeps a secret out of logs: its `Debug` prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret for its one use.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Env {
    /// Takes the variables of this process.
    pub fn process() -> Self {
        Self::of(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// Takes the given variables, as tests do.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { variables: variables.into_iter().collect(), problems: Vec::new(), names: Vec::new() }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Problems`] when any getter found one.
    pub fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    /// Lists the variables that were asked for, as documentation tests need them.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }

    /// Records a problem that a getter cannot see, such as two settings that contradict each other.
    pub fn problem(&mut self, clause: impl Into<String>) {
        self.problems.push(clause.into());
    }

    fn get(&mut self, name: &'static str) -> Option<String> {
        self.names.push(name);
        self.variables.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn required(&mut self, name: &'static str) -> Option<String> {
        let value = self.get(name);
        if value.is_none() {
            self.problem(format!("{name} is required"));
        }
        value
    }

    fn parse<T: FromStr>(&mut self, name: &'static str, value: &str, what: &str) -> Option<T> {
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.problem(format!("{name} must be {what}"));
        }
        parsed
    }

    /// Reads a required text.
    pub fn text(&mut self, name: &'static str) -> String {
        self.required(name).unwrap_or_default()
    }

    /// Reads a text that may be absent.
    pub fn text_optional(&mut self, name: &'static str) -> Option<String> {
        self.get(name)
    }

    /// Reads a text with a default.
    pub fn text_or(&mut self, name: &'static str, default: &str) -> String {
        self.get(name).unwrap_or_else(|| default.to_owned())
    }

    /// Reads one of a few words, with a default.
    pub fn one_of<T: Copy>(&mut self, name: &'static str, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = self.get(name) else { return default };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, chosen)) => *chosen,
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                self.problem(format!("{name} must be one of {}", known.join(", ")));
                default
            }
        }
    }

    /// Reads a whole number within bounds, with a default.
    pub fn number_in(&mut self, name: &'static str, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.get(name) else { return default };
        let what = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        match value.parse::<u64>() {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                self.problem(format!("{name} must be {what}"));
                default
            }
        }
    }

    /// Reads a count within bounds, with a default.
    pub fn count_in(&mut self, name: &'static str, default: usize, bounds: RangeInclusive<usize>) -> usize {
        let bounds = *bounds.start() as u64..=*bounds.end() as u64;
        usize::try_from(self.number_in(name, default as u64, bounds)).unwrap_or(default)
    }

    /// Reads milliseconds within bounds, with a default.
    pub fn duration_ms(
        &mut self,
        name: &'static str,
        default_ms: u64,
        bounds: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number_in(name, default_ms, bounds))
    }

    /// Reads a required `address:port` to listen on.
    pub fn socket(&mut self, name: &'static str) -> SocketAddr {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(value) = self.required(name) else { return unspecified };
        self.parse(name, &value, "an address and port such as 0.0.0.0:8080").unwrap_or(unspecified)
    }

    /// Reads a required path to a file that exists.
    pub fn path(&mut self, name: &'static str) -> PathBuf {
        let value = PathBuf::from(self.text(name));
        self.check_file(name, &value);
        value
    }

    /// Reads a path that may be absent; when given, the file must exist.
    pub fn path_optional(&mut self, name: &'static str) -> Option<PathBuf> {
        let value = PathBuf::from(self.get(name)?);
        self.check_file(name, &value);
        Some(value)
    }

    fn check_file(&mut self, name: &'static str, path: &Path) {
        if !path.as_os_str().is_empty() && !path.is_file() {
            self.problem(format!("{name} names {}, which is not a file", path.display()));
        }
    }

    /// Reads a required secret from the file that the variable names; trailing line ends are cut.
    pub fn secret_file(&mut self, name: &'static str) -> Secret {
        let path = self.path(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Secret::new(text.trim_end_matches(['\r', '\n'])),
            Err(_) => {
                if path.is_file() {
                    self.problem(format!("{name} names {}, which cannot be read", path.display()));
                }
                Secret::new("")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn every_problem_is_reported_together() {
        let mut env = env(&[("PORT", "99999"), ("LISTEN", "here"), ("CA", "/nowhere"), ("MODE", "fast")]);
        env.text("NAME");
        env.number_in("PORT", 1, 1..=65_535);
        env.socket("LISTEN");
        env.path("CA");
        env.one_of("MODE", 1, &[("slow", 1), ("quick", 2)]);
        let problems = env.finish().unwrap_err().0;
        assert_eq!(problems.len(), 5, "{problems:?}");
        for (problem, name) in problems.iter().zip(["NAME", "PORT", "LISTEN", "CA", "MODE"]) {
            assert!(problem.starts_with(name), "{problem}");
        }
    }

    #[test]
    fn absent_variables_take_their_defaults() {
        let mut env = env(&[("EMPTY", "")]);
        assert_eq!(env.number_in("ROWS", 500, 1..=10_000), 500);
        assert_eq!(env.text_or("EMPTY", "x"), "x");
        assert_eq!(env.path_optional("CRL"), None);
        assert_eq!(env.duration_ms("AGE", 20, 1..=1_000), Duration::from_millis(20));
        assert!(env.finish().is_ok());
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
