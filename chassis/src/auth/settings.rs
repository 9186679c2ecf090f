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
    /// Reads `JWT_…`; there is no way to switch it off.
    pub fn from_env(env: &mut Env) -> Self {
        Self::read(env, true).unwrap_or_else(|| Self::new(PathBuf::new(), "", ""))
    }

    /// Reads the same where tokens may be left out: none without `JWT_JWKS_FILE` and `JWT_JWKS_URL`.
    pub fn optional_from_env(env: &mut Env) -> Option<Self> {
        Self::read(env, false)
    }

    fn read(env: &mut Env, is_required: bool) -> Option<Self> {
        env.about(
            "The keys that sign tokens, a JWKS; the file is followed. This or `JWT_JWKS_URL`, not both.",
        );
        let file = env.path_optional("JWT_JWKS_FILE");
        env.about("The same from a server: `https://…`, or `http://…` on this host.");
        let url = env.text_optional("JWT_JWKS_URL");
        env.about("Authorities of that server's certificate, PEM; the system's without it.");
        let ca = env.path_optional("JWT_JWKS_CA_FILE");
        env.about("Time between two looks at that server.");
        let refresh_interval = env.duration_ms("JWT_JWKS_REFRESH_MS", 300_000, 1_000..=REFRESH_MS_MAX);
        env.about("`iss` that a token must have. Required where tokens are.");
        let issuer = env.text_optional("JWT_ISSUER");
        env.about("`aud` that a token must have. Required where tokens are.");
        let audience = env.text_optional("JWT_AUDIENCE");
        if file.is_some() && url.is_some() {
            env.problem("JWT_JWKS_FILE and JWT_JWKS_URL exclude each other");
        }
        if url.as_deref().is_some_and(|url| !url.starts_with("https://") && !is_this_host(url)) {
            env.problem("JWT_JWKS_URL must begin with https:// unless its server is on this host");
        }
        let source = match url {
            Some(url) => Some(Source::Url { url, ca, refresh_interval }),
            None => file.map(Source::File),
        };
        if source.is_none() && !is_required {
            return None;
        }
        let is_given = [source.is_some(), issuer.is_some(), audience.is_some()];
        for (name, is_given) in ["JWT_JWKS_FILE", "JWT_ISSUER", "JWT_AUDIENCE"].into_iter().zip(is_given) {
            if !is_given {
                env.problem(format!("{name} is required"));
            }
        }
        Some(Self { source: source?, issuer: issuer?, audience: audience? })
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
