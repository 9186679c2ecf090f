//! Where a REST server listens, and behind what.

use crate::config::Env;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Says where a REST server listens and with which certificate.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<TlsFiles>,
}

/// A server's certificate and key, PEM.
#[derive(Clone, Debug)]
pub(super) struct TlsFiles {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

impl Settings {
    /// Reads `HTTP_…` and `TLS_…`.
    ///
    /// A bearer token is all that a caller has: without TLS only an address of this host is accepted, unless
    /// a proxy in front of the server is declared to speak TLS.
    pub fn from_env(env: &mut Env) -> Self {
        let listen = env.about("Serves the REST interface.").socket("HTTP_LISTEN");
        env.about(
            "The certificate with what leads from it to a root, and its key, PEM; both or neither. They are \
             followed while the service runs. Required unless `HTTP_LISTEN` is on this host alone or behind \
             a proxy.",
        );
        let tls = match (env.path_optional("TLS_CERT_FILE"), env.path_optional("TLS_KEY_FILE")) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => {
                env.problem("TLS_CERT_FILE and TLS_KEY_FILE belong together");
                None
            }
        };
        env.about("Whether a proxy in front speaks TLS, so that plain text is accepted beyond this host.");
        let is_behind_proxy = env.is_yes("HTTP_BEHIND_TLS_PROXY");
        // Port 0 of an unspecified address stands for one that could not be read.
        if tls.is_none() && !is_behind_proxy && !listen.ip().is_loopback() && listen.port() != 0 {
            env.problem(
                "TLS_CERT_FILE and TLS_KEY_FILE are required unless HTTP_LISTEN is on this host alone, or \
                 HTTP_BEHIND_TLS_PROXY is yes",
            );
        }
        Self { listen, tls }
    }

    /// Listens in plain text, as tests do.
    pub fn plain(listen: SocketAddr) -> Self {
        Self { listen, tls: None }
    }

    /// Listens with that certificate and key, as tests do.
    #[must_use]
    pub fn with_tls(self, cert: PathBuf, key: PathBuf) -> Self {
        Self { tls: Some(TlsFiles { cert, key }), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(pairs: &[(&str, &str)]) -> String {
        let mut env = Env::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Settings::from_env(&mut env);
        env.finish().map_or_else(|problems| problems.to_string(), |()| String::new())
    }

    #[test]
    fn plain_text_stays_on_this_host_unless_a_proxy_is_declared() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for good in [
            &[("HTTP_LISTEN", "127.0.0.1:80")][..],
            &[("HTTP_LISTEN", "[::1]:80")],
            &[("HTTP_LISTEN", "0.0.0.0:80"), ("HTTP_BEHIND_TLS_PROXY", "yes")],
            &[("HTTP_LISTEN", "0.0.0.0:80"), ("TLS_CERT_FILE", file), ("TLS_KEY_FILE", file)],
        ] {
            assert_eq!(problems(good), "", "{good:?}");
        }
        for (bad, word) in [
            (&[("HTTP_LISTEN", "0.0.0.0:80")][..], "are required unless"),
            (&[("HTTP_LISTEN", "[::]:80")], "are required unless"),
            (&[("HTTP_LISTEN", "10.0.0.1:80"), ("HTTP_BEHIND_TLS_PROXY", "no")], "are required unless"),
            (&[("HTTP_LISTEN", "127.0.0.1:80"), ("TLS_CERT_FILE", file)], "belong together"),
            (&[("HTTP_LISTEN", "127.0.0.1:80"), ("HTTP_BEHIND_TLS_PROXY", "true")], "must be yes or no"),
        ] {
            assert!(problems(bad).contains(word), "{bad:?}: {}", problems(bad));
        }
        assert_eq!(problems(&[]), "HTTP_LISTEN is required");
    }
}
