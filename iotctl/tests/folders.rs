//! Commands that need what `make up` has made, started where it was not.

use std::path::Path;
use std::process::{Command, Output};

fn iotctl(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iotctl"));
    command.args(arguments).current_dir(folder);
    for name in ["FIELDLINE_STATE", "DATABASE_URL", "DATABASE_URL_FILE", "KAFKA_BOOTSTRAP_SERVERS"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn commands_that_need_an_installation_refuse_to_begin_another_one() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["token", "--role", "admin"][..], &["pki", "device", "hall-1"], &["simulate"]] {
        let output = iotctl(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        assert!(errors(&output).contains("there is no .fieldline here or above"), "{}", errors(&output));
    }
    for arguments in [["down"], ["clean"]] {
        assert!(iotctl(folder.path(), &arguments).status.success(), "{arguments:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn folder_that_is_named_gets_a_key_once_and_says_who_takes_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--state", "mine", "token", "--role", "device", "--subject", "hall-1"];
    let first = iotctl(folder.path(), &arguments);
    assert!(first.status.success(), "{first:?}");
    let jwks = folder.path().join("mine/jwt/jwks.json");
    assert!(errors(&first).contains(&format!("JWT_JWKS_FILE={}", jwks.display())), "{}", errors(&first));
    assert!(jwks.is_file());
    let again = iotctl(folder.path(), &arguments);
    assert!(again.status.success() && errors(&again).is_empty(), "{again:?}");
}

#[test]
fn folder_above_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::create_dir(folder.path().join(".fieldline")).unwrap();
    assert!(iotctl(&below, &["pki", "device", "hall-1"]).status.success());
    assert!(folder.path().join(".fieldline/pki/devices/hall-1.pem").is_file());
}

#[test]
fn audit_without_an_installation_says_how_to_name_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = iotctl(folder.path(), &["verify", "ledger", "--from", "2026-01-01", "--to", "2026-01-02"]);
    let said = errors(&output);
    for part in ["where `make up` was run", "DATABASE_URL_FILE", "KAFKA_BOOTSTRAP_SERVERS"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
