//! Logs: JSON lines in a pipe, pretty on a terminal. `LOG` filters them (`info` when absent).
//!
//! A line says what happened and never where it was built: what a library logs by the `log` crate carries the
//! path of its source on the machine that compiled it, which no operator can use.

use serde::Serializer as _;
use serde::ser::SerializeMap;
use serde_json::Value;
use std::fmt;
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt::layer, prelude::*};

/// Directives that stand before those of `LOG`, which may overrule them: rustls warns once for each client
/// that dials an IP address, and a server that refuses a connection logs it itself.
const QUIET: &str = "rustls=error";

/// Installs the subscriber of the process. A second call changes nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "what is wrong with the settings is logged, so this comes before them"
)]
pub fn init() {
    let registry = tracing_subscriber::registry().with(filter(std::env::var("LOG").ok().as_deref()));
    // Err means that a subscriber is installed already, as in tests.
    let _ = if std::io::stderr().is_terminal() {
        registry.with(layer().compact().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(layer().event_format(JsonLine).with_writer(std::io::stderr)).try_init()
    };
}

/// Logs panics as other failures are logged, on one line.
pub(crate) fn log_panics() {
    panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let at = info
            .location()
            .map_or_else(String::new, |location| format!("{}:{}", source(location.file()), location.line()));
        let thread = std::thread::current();
        tracing::error!(
            panic = info.payload_as_str().unwrap_or("without a text"),
            at,
            thread = thread.name(),
            "panicked"
        );
    }));
}

fn filter(log: Option<&str>) -> EnvFilter {
    let wanted = log.unwrap_or("info");
    EnvFilter::try_new(format!("{QUIET},{wanted}"))
        .unwrap_or_else(|_| EnvFilter::new(format!("{QUIET},info")))
}

/// Returns the path of a source file from its crate on, as far as it is known how it was built.
fn source(path: &str) -> &str {
    let of_registry = path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    of_registry.map_or(path, |(_, of_crate)| of_crate)
}

/// One event as one line: timestamp, level, message, fields, target.
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = fields.target.as_deref().unwrap_or_else(|| event.metadata().target());
        let mut line = Vec::with_capacity(256);
        let write = |line: &mut Vec<u8>| -> Result<(), serde_json::Error> {
            let mut json = serde_json::Serializer::new(line);
            let mut map = json.serialize_map(None)?;
            map.serialize_entry("timestamp", &timestamp)?;
            map.serialize_entry("level", event.metadata().level().as_str())?;
            for (name, value) in &fields.named {
                map.serialize_entry(name, value)?;
            }
            map.serialize_entry("target", target)?;
            map.end()
        };
        write(&mut line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{}", String::from_utf8_lossy(&line))
    }
}

/// The fields of an event, but for those by which the `log` crate says where a line comes from.
#[derive(Default)]
struct Fields {
    named: Vec<(&'static str, Value)>,
    /// What a library names as its target, in the place of the bridge's own.
    target: Option<String>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("log.target", Value::String(target)) => self.target = Some(target),
            (name, _) if name.starts_with("log.") => {}
            ("message", value) => self.named.insert(0, ("message", value)),
            (name, value) => self.named.push((name.trim_start_matches("r#"), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    /// What was logged, line by line.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that `log` writes under the filter of this `LOG`.
    fn lines(filter_text: Option<&str>, log: impl FnOnce()) -> Vec<Value> {
        let written = Log::default();
        let writer = written.clone();
        let layer = layer().event_format(JsonLine).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter(filter_text)).with(layer);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn line_has_its_message_and_fields_as_json() {
        let logged = lines(None, || {
            let (error, none) = ("no \"room\"", None::<&str>);
            tracing::info!(count = 3, is_ready = true, share = 0.5, %error, none, "it goes\non");
        });
        assert_eq!(logged.len(), 1);
        let line = &logged[0];
        assert_eq!((&line["message"], &line["level"]), (&Value::from("it goes\non"), &Value::from("INFO")));
        assert_eq!(
            (&line["count"], &line["is_ready"], &line["share"]),
            (&3.into(), &true.into(), &0.5.into())
        );
        assert_eq!((&line["error"], line.get("none")), (&Value::from("no \"room\""), None));
        assert_eq!(line["target"], "chassis::telemetry::tests");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn librarys_line_has_no_path_of_the_machine_that_built_it() {
        let logged = lines(None, || {
            // As the bridge from the `log` crate writes it.
            tracing::warn!(
                target: "log",
                {
                    log.target = "rumqttd::link",
                    log.module_path = "rumqttd::link",
                    log.file = "/root/.cargo/registry/src/index/rumqttd-0.20.0/src/link.rs",
                    log.line = 7
                },
                "a library's words"
            );
        });
        let line = logged[0].as_object().unwrap();
        let mut names: Vec<_> = line.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["level", "message", "target", "timestamp"]);
        assert_eq!(line["target"], "rumqttd::link");
    }

    #[test]
    fn rustls_warns_only_whoever_asks_for_it() {
        let warn = || tracing::warn!(target: "rustls::msgs::handshake", "Illegal SNI extension");
        assert!(lines(None, warn).is_empty());
        assert!(lines(Some("debug"), warn).is_empty());
        assert_eq!(lines(Some("info,rustls=warn"), warn).len(), 1);
        assert_eq!(lines(Some("gateway=loud"), || tracing::info!("here")).len(), 1, "a bad filter");
    }

    #[test]
    fn source_of_a_crate_is_named_from_the_crate_on() {
        let of_registry = "/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/redb-4.4.0/src/db.rs";
        assert_eq!(source(of_registry), "redb-4.4.0/src/db.rs");
        assert_eq!(source("gateway/src/lib.rs"), "gateway/src/lib.rs");
    }
}
