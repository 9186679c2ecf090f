//! What services say of their settings, and the page that is made of it.

use e2e::{Service, program};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

/// Exit code for settings and arguments that cannot be used.
const USAGE: Option<i32> = Some(64);

/// Runs a service with one argument and these variables alone.
fn ask(service: &Service, argument: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program(service.name));
    command.arg(argument).env_clear().envs(variables.iter().copied()).output().unwrap()
}

/// Returns what a service says of its settings.
fn settings_of(service: &Service) -> Vec<Value> {
    let output = ask(service, "--help=json", &[]);
    assert!(output.status.success(), "{}", service.name);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Writes a setting as the cells of a row.
fn row(setting: &Value) -> String {
    let text = |field: &str| setting[field].as_str().unwrap().to_owned();
    let absent = match &setting["absent"] {
        Value::String(word) if word == "required" => "**required**".to_owned(),
        Value::String(_) => String::new(),
        default => format!("`{}`", default["default"].as_str().unwrap()).replace("``", "empty"),
    };
    let about = text("about").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!about.is_empty(), "{} says nothing of itself", text("name"));
    format!("| `{}` | {} | {absent} | {about} |", text("name"), text("value"))
}

/// Writes the page: what several services read once, then each service's own.
fn page() -> String {
    let said: Vec<(&str, Vec<Value>)> =
        Service::ALL.iter().map(|service| (service.name, settings_of(service))).collect();
    let mut readers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (service, settings) in &said {
        for setting in settings {
            readers.entry(setting.to_string()).or_default().push(service);
        }
    }
    let is_shared = |setting: &Value| readers[&setting.to_string()].len() > 1;

    let mut page = "# Settings\n\nEvery setting is a variable of the environment. A service reads all of them before it opens a \
                    socket and names every one that it cannot use;\n`SERVICE --check` does that alone, and `SERVICE --help` \
                    prints its own list. This page is made of the same list by `make settings`.\nNumbers are written \
                    without their commas.\n\n## What several services read\n\n\
                    | variable | value | default | meaning | read by |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut written = Vec::new();
    for setting in said.iter().flat_map(|(_, settings)| settings).filter(|setting| is_shared(setting)) {
        let row = row(setting);
        if !written.contains(&row) {
            let by = &readers[&setting.to_string()];
            let by = if by.len() == said.len() { "all".to_owned() } else { by.join(", ") };
            let _ = writeln!(page, "{row} {by} |");
            written.push(row);
        }
    }
    for (service, settings) in &said {
        let own: Vec<String> = settings.iter().filter(|setting| !is_shared(setting)).map(row).collect();
        if !own.is_empty() {
            let head = "| variable | value | default | meaning |\n|---|---|---|---|";
            let _ = write!(page, "\n## {service}\n\n{head}\n{}\n", own.join("\n"));
        }
    }
    page
}

#[test]
fn page_of_settings_is_what_the_services_say() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let page = page();
    if std::env::vars_os().any(|(name, _)| name == "WRITE_DOCS") {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == page, "docs/settings.md is not what the services say: run `make settings`");
}

#[test]
fn service_that_is_asked_to_check_names_every_problem_and_starts_nothing() {
    for service in Service::ALL {
        let listen = ("ADMIN_LISTEN", "nowhere");
        let output = ask(service, "--check", &[listen]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), USAGE, "{}: {said}", service.name);
        assert!(said.contains("ADMIN_LISTEN must be an address and port"), "{}: {said}", service.name);
        let required = settings_of(service).into_iter().filter(|setting| setting["absent"] == "required");
        for name in required.map(|setting| setting["name"].as_str().unwrap().to_owned()) {
            assert!(said.contains(&name), "{} does not miss {name}: {said}", service.name);
        }
        let output = ask(service, "--chek", &[listen]);
        assert_eq!(output.status.code(), USAGE, "{}", service.name);
        assert!(String::from_utf8_lossy(&output.stderr).contains("--chek"), "{}", service.name);
    }
}

#[test]
fn environment_that_can_be_used_passes_the_check() {
    let variables =
        [("ADMIN_LISTEN", "127.0.0.1:1"), ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), ("INSTANCE_ID", "one")];
    let output = ask(Service::ALERTING, "--check", &variables);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
