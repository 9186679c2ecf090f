//! Settings from the environment: read everything, report every problem together, before any socket opens.
//!
//! What reads a variable also says what it means, so that `--help` and the documents need no list of their
//! own. Variables are therefore asked for whatever others say, and held against each other afterwards.

mod setting;

pub use setting::{Absent, Setting};

pub(crate) use setting::page;

use setting::{grouped, unit};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Reads variables and collects what is wrong with them. A getter that records a problem returns a
/// placeholder, which [`Env::finish`] makes sure nobody uses.
#[derive(Debug)]
pub struct Env {
    variables: BTreeMap<String, String>,
    problems: Vec<String>,
    settings: Vec<Setting>,
    about: String,
}

/// Declares a struct of settings with `from_env`, which reads them: the docstring of a field is what the
/// variables mean that its expression asks for.
///
/// The name after the struct's is that of the [`Env`] in the expressions, which may name the fields before
/// theirs. A field that is another struct of settings asks its `from_env`, whose own words then hold.
///
/// ```
/// use chassis::config::Env;
/// use std::time::Duration;
///
/// chassis::settings! {
///     /// Holds what a ferry is told.
///     pub struct Settings (env) {
///         /// Cars that fit.
///         pub cars_max: usize = env.number_in("CARS_MAX", 40, 1..=400),
///         /// Time in a harbour.
///         pub stay: Duration = env.duration_ms("STAY_MS", 60_000, 1_000..=3_600_000),
///     }
/// }
///
/// let mut env = Env::of([("CARS_MAX".to_owned(), "30".to_owned())]);
/// let settings = Settings::from_env(&mut env);
/// assert_eq!((settings.cars_max, settings.stay), (30, Duration::from_secs(60)));
/// assert_eq!(env.settings()[0].about, "Cars that fit.");
/// ```
#[macro_export]
macro_rules! settings {
    ($(#[$about:meta])* $vis:vis struct $Settings:ident ($env:ident) {$(
        $(#[doc = $help:literal])+
        $field_vis:vis $field:ident: $Type:ty = $value:expr
    ),+ $(,)?}) => {
        $(#[$about])*
        $vis struct $Settings {
            $($(#[doc = $help])+ $field_vis $field: $Type,)+
        }

        impl $Settings {
            /// Reads the environment; problems stay in `env`.
            $vis fn from_env($env: &mut $crate::config::Env) -> Self {
                $(
                    $env.about(concat!($($help),+));
                    let $field: $Type = $value;
                )+
                Self { $($field),+ }
            }
        }
    };
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
        Self {
            variables: variables.into_iter().collect(),
            problems: Vec::new(),
            settings: Vec::new(),
            about: String::new(),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Problems`] when any getter found one.
    pub fn finish(self) -> Result<(), Problems> {
        if self.problems.is_empty() { Ok(()) } else { Err(Problems(self.problems)) }
    }

    /// Lists the variables that were asked for, in the order of their first time.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Says what the variables mean that are asked for next.
    pub fn about(&mut self, about: &str) -> &mut Self {
        about.trim().clone_into(&mut self.about);
        self
    }

    /// Records a problem that a getter cannot see, such as two settings that contradict each other.
    pub fn problem(&mut self, clause: impl Into<String>) {
        self.problems.push(clause.into());
    }

    fn get(&mut self, name: &'static str, value: impl Into<String>, absent: Absent) -> Option<String> {
        let found = self.variables.get(name).filter(|value| !value.is_empty()).cloned();
        if found.is_none() && absent == Absent::Required {
            self.problem(format!("{name} is required"));
        }
        if self.settings.iter().all(|setting| setting.name != name) {
            let about = self.about.clone();
            self.settings.push(Setting { name, value: value.into(), absent, about });
        }
        found
    }

    /// Reads a required text.
    pub fn text(&mut self, name: &'static str) -> String {
        self.get(name, "text", Absent::Required).unwrap_or_default()
    }

    /// Reads a text that may be absent.
    pub fn text_optional(&mut self, name: &'static str) -> Option<String> {
        self.get(name, "text", Absent::Nothing)
    }

    /// Reads a text with a default.
    pub fn text_or(&mut self, name: &'static str, default: &str) -> String {
        let absent = Absent::Default(default.to_owned());
        self.get(name, "text", absent).unwrap_or_else(|| default.to_owned())
    }

    /// Reads yes or no, which is the default.
    pub fn is_yes(&mut self, name: &'static str) -> bool {
        match self.get(name, "yes or no", Absent::Default("no".to_owned())).as_deref() {
            None | Some("no") => false,
            Some("yes") => true,
            Some(_) => {
                self.problem(format!("{name} must be yes or no"));
                false
            }
        }
    }

    /// Reads a whole number within bounds, with a default.
    pub fn number_in<T>(&mut self, name: &'static str, default: T, bounds: RangeInclusive<T>) -> T
    where
        T: Copy + Display + FromStr + PartialOrd,
    {
        let value = format!("{} to {}{}", grouped(bounds.start()), grouped(bounds.end()), unit(name));
        let Some(value) = self.get(name, value, Absent::Default(grouped(default))) else { return default };
        match value.parse() {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                let (least, most) = (bounds.start(), bounds.end());
                self.problem(format!("{name} must be a whole number from {least} to {most}"));
                default
            }
        }
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
        self.socket_of(name, Absent::Required).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Reads an `address:port` to listen on that may be absent.
    pub fn socket_optional(&mut self, name: &'static str) -> Option<SocketAddr> {
        self.socket_of(name, Absent::Nothing)
    }

    fn socket_of(&mut self, name: &'static str, absent: Absent) -> Option<SocketAddr> {
        let what = "an address and port such as 0.0.0.0:8080";
        let parsed = self.get(name, what, absent)?.parse().ok();
        if parsed.is_none() {
            self.problem(format!("{name} must be {what}"));
        }
        parsed
    }

    /// Reads a required path to a file that exists.
    pub fn path(&mut self, name: &'static str) -> PathBuf {
        self.path_of(name, Absent::Required).unwrap_or_default()
    }

    /// Reads a path that may be absent; when given, the file must exist.
    pub fn path_optional(&mut self, name: &'static str) -> Option<PathBuf> {
        self.path_of(name, Absent::Nothing)
    }

    fn path_of(&mut self, name: &'static str, absent: Absent) -> Option<PathBuf> {
        let path = PathBuf::from(self.get(name, "a file", absent)?);
        if !path.is_file() {
            self.problem(format!("{name} names {}, which is not a file", path.display()));
        }
        Some(path)
    }

    /// Reads a secret from the file that the variable names, which may be absent; trailing line ends are cut.
    pub fn secret_file_optional(&mut self, name: &'static str) -> Option<Secret> {
        let path = self.path_of(name, Absent::Nothing)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(_) => {
                if path.is_file() {
                    self.problem(format!("{name} names {}, which cannot be read", path.display()));
                }
                Some(Secret::new(""))
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
        env.is_yes("MODE");
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
    fn variable_is_described_once_by_the_words_before_it() {
        let mut env = env(&[]);
        env.about(" Rows of a batch. ").number_in("ROWS", 1_500, 1..=10_000);
        env.about("Something else.").text_optional("ROWS");
        env.about("Listens there.").socket("LISTEN");
        let [rows, listen] = env.settings() else { panic!("{:?}", env.settings()) };
        assert_eq!(rows.about, "Rows of a batch.");
        assert_eq!(
            (rows.value.as_str(), &rows.absent),
            ("1 to 10,000", &Absent::Default("1,500".to_owned()))
        );
        assert_eq!(listen.absent, Absent::Required);
    }

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
