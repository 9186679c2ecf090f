//! Settings of the lake service.

use crate::buffer::Limits;
use crate::lake::{Location, S3};
use chassis::config::{Env, Secret};
use chassis::kafka;
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

chassis::settings! {
    /// Holds every setting.
    #[derive(Clone, Debug)]
    pub struct Config (env) {
        /// `KAFKA_…`.
        pub kafka: kafka::Settings = kafka::Settings::from_env(env),
        /// `LAKE_…`: the folder or the bucket.
        pub location: Location = location(env),
        /// `FILE_…`: what a file of a partition holds at most.
        pub limits: Limits = limits(env),
        /// Kafka values of all partitions of an instance that are in no file yet, at least `FILE_BYTES_MAX`;
        /// beyond it, partitions pause.
        pub buffer_bytes_max: usize = buffer_bytes_max(env, &limits),
        /// Timeout of one request to the store. A store that gives no answer within three times this, retries
        /// included, counts as unreachable: not ready, and asked again.
        pub store_answer_max: Duration = env.duration_ms("STORE_ANSWER_MS_MAX", 60_000, 100..=3_600_000),
        /// `STALL_MS_MAX`; see [`kafka::stall_max`].
        pub stall_max: Duration = kafka::stall_max(env),
    }
}

fn limits(env: &mut Env) -> Limits {
    env.about("Records of a file of a partition.");
    let records_max = env.number_in("FILE_RECORDS_MAX", 1_000_000, 1..=10_000_000);
    env.about("Kafka values of a file of a partition.");
    let bytes_max = env.number_in("FILE_BYTES_MAX", 64 << 20, 1_024..=1 << 30);
    env.about("Age of its first record at which a file is written; a small one makes many small files.");
    let age_max = env.duration_ms("FILE_AGE_MS_MAX", 3_600_000, 100..=86_400_000);
    Limits { records_max, bytes_max, age_max }
}

fn buffer_bytes_max(env: &mut Env, limits: &Limits) -> usize {
    let bytes_max = env.number_in("BUFFER_BYTES_MAX", 256 << 20, 1_024..=64 << 30);
    if bytes_max < limits.bytes_max {
        env.problem("BUFFER_BYTES_MAX must be at least FILE_BYTES_MAX");
    }
    bytes_max
}

fn location(env: &mut Env) -> Location {
    env.about("`file:///folder`, which must exist, `s3://bucket` or `s3://bucket/prefix`.");
    let text = env.text("LAKE_URL");
    let s3 = S3 {
        bucket: String::new(),
        prefix: String::new(),
        region: env.about("The bucket's region.").text_optional("LAKE_S3_REGION"),
        endpoint: env
            .about("Another server than AWS; plain `http` only to this host.")
            .text_optional("LAKE_S3_ENDPOINT"),
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
    env.about(
        "The key's id, and the file with the key; both or neither. Without them it is the role that AWS \
         gives the machine or the pod, by AWS's own `AWS_*` variables.",
    );
    let id = env.text_optional("LAKE_S3_ACCESS_KEY_ID");
    let secret = env.secret_file_optional("LAKE_S3_SECRET_ACCESS_KEY_FILE");
    match (id, secret) {
        (Some(id), Some(secret)) => Some((id, secret)),
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
