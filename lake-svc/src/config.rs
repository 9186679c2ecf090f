//! Settings of the lake service.

use crate::buffer::Limits;
use crate::lake::{Location, S3};
use chassis::config::{Env, Secret};
use chassis::kafka;
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

/// Holds every setting; each field names its variable.
#[derive(Clone, Debug)]
pub struct Config {
    /// `KAFKA_*`.
    pub kafka: kafka::Settings,
    /// `LAKE_URL`: `file:///folder`, which must exist, or `s3://bucket` or `s3://bucket/prefix`. For S3 also
    /// `LAKE_S3_REGION`, `LAKE_S3_ENDPOINT` (for another server than AWS; plain `http` only to this host),
    /// and `LAKE_S3_ACCESS_KEY_ID` with `LAKE_S3_SECRET_ACCESS_KEY_FILE`; without these two the role that AWS
    /// gives the machine or the pod, by AWS's own `AWS_*` variables.
    pub location: Location,
    /// `FILE_RECORDS_MAX` (default 1,000,000), `FILE_BYTES_MAX` (default 64 MiB of Kafka values) or
    /// `FILE_AGE_MS_MAX` (default an hour): what a file of a partition holds at most. A small age makes many
    /// small files.
    pub limits: Limits,
    /// `BUFFER_BYTES_MAX`, default 256 MiB, at least `FILE_BYTES_MAX`: what all partitions of an instance may
    /// hold that is in no file yet; beyond it, partitions pause.
    pub buffer_bytes_max: usize,
    /// `STORE_ANSWER_MS_MAX`, default 60,000: timeout of one request to the store. A store that gives no
    /// answer within three times this, retries included, counts as unreachable: not ready, and asked again.
    pub store_answer_max: Duration,
    /// `STALL_MS_MAX`, default 120,000: see [`kafka::stall_max`].
    pub stall_max: Duration,
}

impl Config {
    /// Reads the environment.
    pub fn from_env(env: &mut Env) -> Self {
        let kafka = kafka::Settings::from_env(env);
        let location = location(env);
        let limits = Limits {
            records_max: env.count_in("FILE_RECORDS_MAX", 1_000_000, 1..=10_000_000),
            bytes_max: env.count_in("FILE_BYTES_MAX", 64 << 20, 1_024..=1 << 30),
            age_max: env.duration_ms("FILE_AGE_MS_MAX", 3_600_000, 100..=86_400_000),
        };
        let buffer_bytes_max = env.count_in("BUFFER_BYTES_MAX", 256 << 20, 1_024..=64 << 30);
        if buffer_bytes_max < limits.bytes_max {
            env.problem("BUFFER_BYTES_MAX must be at least FILE_BYTES_MAX");
        }
        Self {
            kafka,
            location,
            limits,
            buffer_bytes_max,
            store_answer_max: env.duration_ms("STORE_ANSWER_MS_MAX", 60_000, 100..=3_600_000),
            stall_max: kafka::stall_max(env),
        }
    }
}

fn location(env: &mut Env) -> Location {
    let text = env.text("LAKE_URL");
    let s3 = S3 {
        bucket: String::new(),
        prefix: String::new(),
        region: env.text_optional("LAKE_S3_REGION"),
        endpoint: env.text_optional("LAKE_S3_ENDPOINT"),
        credentials: credentials(env),
    };
    if s3.endpoint.as_deref().is_some_and(|endpoint| !is_safe(endpoint)) {
        env.problem("LAKE_S3_ENDPOINT must be an https URL, or an http URL of this host");
    }
    let wrong = "LAKE_URL must be file:///folder or s3://bucket/prefix";
    let Ok(url) = Url::parse(&text) else {
        if !text.is_empty() {
            env.problem(wrong);
        }
        return Location::Folder(PathBuf::new());
    };
    match (url.scheme(), url.to_file_path(), url.host_str()) {
        ("file", Ok(folder), _) => {
            // Not made here: a volume that is not mounted would be a second, empty lake.
            if !folder.is_dir() {
                env.problem(format!("LAKE_URL names {}, which is not a folder", folder.display()));
            }
            Location::Folder(folder)
        }
        ("s3", _, Some(bucket)) => Location::S3(S3 {
            bucket: bucket.to_owned(),
            prefix: url.path().trim_matches('/').to_owned(),
            ..s3
        }),
        _ => {
            env.problem(wrong);
            Location::Folder(PathBuf::new())
        }
    }
}

fn credentials(env: &mut Env) -> Option<(String, Secret)> {
    let id = env.text_optional("LAKE_S3_ACCESS_KEY_ID");
    let file = env.path_optional("LAKE_S3_SECRET_ACCESS_KEY_FILE");
    match (id, file) {
        (Some(id), Some(_)) => Some((id, env.secret_file("LAKE_S3_SECRET_ACCESS_KEY_FILE"))),
        (None, None) => None,
        _ => {
            env.problem("LAKE_S3_ACCESS_KEY_ID and LAKE_S3_SECRET_ACCESS_KEY_FILE belong together");
            None
        }
    }
}

/// Says whether nobody on the way can read what goes there.
fn is_safe(endpoint: &str) -> bool {
    let Ok(url) = Url::parse(endpoint) else { return false };
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(Host::Ipv6(ip))) => ip.is_loopback(),
        ("http", Some(Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let kafka = [("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")];
        let all = kafka.iter().chain(pairs);
        let mut env = Env::of(all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config = Config::from_env(&mut env);
        env.finish().map(|()| config).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_lake_is_a_folder_that_exists_or_a_bucket() {
        assert!(matches!(read(&[("LAKE_URL", "file:///tmp")]).unwrap().location, Location::Folder(_)));
        let bucket = read(&[("LAKE_URL", "s3://readings/site/a/")]).unwrap().location;
        let Location::S3(bucket) = bucket else { panic!("{bucket:?}") };
        assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str()), ("readings", "site/a"));
        for (wrong, word) in [
            ("", "LAKE_URL is required"),
            ("file:///nowhere/at/all", "not a folder"),
            ("gs://bucket", "LAKE_URL must be"),
            ("lake", "LAKE_URL must be"),
        ] {
            let problem = read(&[("LAKE_URL", wrong)]).unwrap_err();
            assert!(problem.contains(word), "{wrong}: {problem}");
        }
    }

    #[test]
    fn plain_text_is_refused_to_another_host_and_half_a_credential_everywhere() {
        let with = |name, value| read(&[("LAKE_URL", "s3://b"), (name, value)]);
        assert!(with("LAKE_S3_ENDPOINT", "http://127.0.0.1:9000").is_ok());
        assert!(with("LAKE_S3_ENDPOINT", "https://s3.example.org").is_ok());
        assert!(with("LAKE_S3_ENDPOINT", "http://s3.example.org").unwrap_err().contains("https"));
        assert!(with("LAKE_S3_ACCESS_KEY_ID", "me").unwrap_err().contains("belong together"));
    }

    #[test]
    fn a_file_fits_into_the_buffer() {
        let problem = read(&[("LAKE_URL", "file:///tmp"), ("BUFFER_BYTES_MAX", "2048")]).unwrap_err();
        assert!(problem.contains("at least FILE_BYTES_MAX"), "{problem}");
    }
}
