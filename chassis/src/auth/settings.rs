//! Which tokens are accepted.

use crate::config::Env;
use std::path::PathBuf;
use std::time::Duration;

/// Longest time between two looks at a JWKS URL, in milliseconds: a day, after which a stolen key is past
/// help.
const REFRESH_MS_MAX: u64 = 86_400_000;

/// Says which tokens are accepted.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) source: Source,
    pub(super) issuer: String,
    pub(super) audience: String,
}

/// Where the JWKS is.
#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    Url {
        url: String,
        /// The authority of the server's certificate; none means those of the system.
        ca: Option<PathBuf>,
        refresh_interval: Duration,
    },
}

impl Settings {
    /// Reads `JWT_JWKS_FILE` or `JWT_JWKS_URL`, `JWT_ISSUER` and `JWT_AUDIENCE`; all are required, there is
    /// no way to switch it off. With a URL, `JWT_JWKS_CA_FILE` names the authority of its server (default:
    /// those of the system) and `JWT_JWKS_REFRESH_MS` the time between two looks (default 300,000; 1,000 to
    /// 86,400,000).
    pub fn from_env(env: &mut Env) -> Self {
        let source = match env.text_optional("JWT_JWKS_URL") {
            Some(url) => Self::url_from_env(url, env),
            None => Source::File(env.path("JWT_JWKS_FILE")),
        };
        Self { source, issuer: env.text("JWT_ISSUER"), audience: env.text("JWT_AUDIENCE") }
    }

    /// Reads the same where tokens may be left out: none without `JWT_JWKS_FILE` and `JWT_JWKS_URL`.
    pub fn optional_from_env(env: &mut Env) -> Option<Self> {
        let is_given = ["JWT_JWKS_FILE", "JWT_JWKS_URL"].map(|name| env.text_optional(name).is_some());
        is_given.contains(&true).then(|| Self::from_env(env))
    }

    fn url_from_env(url: String, env: &mut Env) -> Source {
        if env.text_optional("JWT_JWKS_FILE").is_some() {
            env.problem("JWT_JWKS_FILE and JWT_JWKS_URL exclude each other");
        }
        if !url.starts_with("https://") && !is_this_host(&url) {
            env.problem("JWT_JWKS_URL must begin with https:// unless its server is on this host");
        }
        let refresh_interval = env.duration_ms("JWT_JWKS_REFRESH_MS", 300_000, 1_000..=REFRESH_MS_MAX);
        Source::Url { url, ca: env.path_optional("JWT_JWKS_CA_FILE"), refresh_interval }
    }

    /// Takes a file and the two names as they are, as tests do.
    pub fn new(jwks: PathBuf, issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        Self { source: Source::File(jwks), issuer: issuer.into(), audience: audience.into() }
    }

    /// Takes the keys from a URL instead, as tests do.
    #[must_use]
    pub fn with_url(self, url: impl Into<String>, refresh_interval: Duration) -> Self {
        Self { source: Source::Url { url: url.into(), ca: None, refresh_interval }, ..self }
    }
}

/// Says whether the URL is plain HTTP to this host.
fn is_this_host(url: &str) -> bool {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next());
    let host = authority.map(|authority| authority.rsplit_once(':').map_or(authority, |(host, _)| host));
    matches!(host, Some("127.0.0.1" | "[::1]" | "localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> String {
        let both = [("JWT_ISSUER", "i"), ("JWT_AUDIENCE", "a")];
        let pairs = pairs.iter().chain(&both).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut env = Env::of(pairs);
        Settings::from_env(&mut env);
        env.finish().map_or_else(|problems| problems.to_string(), |()| String::new())
    }

    #[test]
    fn keys_come_from_a_file_or_over_tls() {
        for good in
            ["https://idp.example/jwks", "http://127.0.0.1:1/jwks", "http://[::1]:1", "http://localhost"]
        {
            assert_eq!(problems(&[("JWT_JWKS_URL", good)]), "", "{good}");
        }
        for bad in [
            "http://idp.example/jwks",
            "http://127.0.0.1.example/jwks",
            "http://127.0.0.1@idp.example/",
            "ftp://localhost",
            "jwks.json",
        ] {
            assert!(problems(&[("JWT_JWKS_URL", bad)]).contains("must begin with https://"), "{bad}");
        }
        assert!(problems(&[]).contains("JWT_JWKS_FILE is required"));
        let both = [("JWT_JWKS_URL", "https://idp.example"), ("JWT_JWKS_FILE", "/etc/hostname")];
        assert!(problems(&both).contains("exclude each other"));
        assert!(Settings::optional_from_env(&mut Env::of([])).is_none());
    }
}
