//! The laws of the workspace, held by a test instead of by reviewers.

use iotctl::services::Service;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The `[dependencies]` of a member, by name.
fn dependencies(member: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names = lines.take_while(|line| !line.starts_with('['));
    names
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_service_depends_on_a_service_nor_on_the_test_tools() {
    for service in Service::ALL.map(|service| service.name) {
        let found = dependencies(service);
        assert!(found.contains(&"chassis".to_owned()), "{service}: {found:?}");
        let services = Service::ALL.into_iter().map(|service| service.name);
        for forbidden in services.chain(["iotctl", "testkit", "e2e"]) {
            assert!(!found.iter().any(|name| name == forbidden), "{service} depends on {forbidden}");
        }
    }
}

#[test]
fn the_contract_and_the_plumbing_do_not_know_each_other() {
    assert!(!dependencies("schema").contains(&"chassis".to_owned()));
    assert!(!dependencies("chassis").contains(&"schema".to_owned()));
    for io in ["tokio", "rdkafka", "tokio-postgres", "actix-web"] {
        assert!(!dependencies("schema").contains(&io.to_owned()), "schema does I/O by {io}");
    }
    for shared in ["schema", "chassis"] {
        assert!(!dependencies(shared).contains(&"rules".to_owned()), "{shared} knows the evaluator");
    }
}

/// ADR 0019 names the crates that may stand there, and the two programs that run each.
#[test]
fn a_crate_between_the_contract_and_the_services_knows_the_contract_alone() {
    assert_eq!(dependencies("rules"), ["schema", "uuid"]);
}

/// A service is a member whose `main.rs` starts as every service does.
#[test]
fn the_table_of_services_has_every_service_and_so_has_the_map() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let is_service = |member: &&str| {
        let main = std::fs::read_to_string(root().join(member).join("src/main.rs")).unwrap_or_default();
        main.contains("chassis::main(")
    };
    let found: BTreeSet<&str> = members.filter(is_service).collect();
    assert_eq!(found, Service::ALL.map(|service| service.name).into_iter().collect());
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for service in Service::ALL {
        assert!(map.contains(&format!("| `{}/` |", service.name)), "ARCHITECTURE.md lacks {}", service.name);
    }
}

#[test]
fn every_service_says_what_goes_in_and_out_and_what_it_guarantees() {
    for service in Service::ALL.map(|service| service.name) {
        let lib = std::fs::read_to_string(root().join(service).join("src/lib.rs")).unwrap();
        for word in ["//! In: ", "//! Out: ", "//! Guarantee: ", "//! On failure: "] {
            assert!(lib.contains(word), "{service}/src/lib.rs lacks `{word}`");
        }
        let main = std::fs::read_to_string(root().join(service).join("src/main.rs")).unwrap();
        // An allocator is the program's choice, not the library's, so it stands beside the expression.
        let beside = ["//", "#[global_allocator]", "static ALLOCATOR"];
        let is_code = |line: &&str| {
            !line.trim().is_empty() && !beside.iter().any(|beginning| line.trim().starts_with(beginning))
        };
        let code = main.lines().filter(is_code).count();
        assert!(code <= 4, "{service}/src/main.rs is more than one expression");
    }
}

#[test]
fn no_test_is_switched_off() {
    let mut folders = vec![root()];
    let switched_off = concat!("#[", "ignore");
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(switched_off), "{} has a test switched off", path.display());
            }
        }
    }
}
