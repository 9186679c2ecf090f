//! Benches must not rot: each runs once, as small as it goes. What it measures here means nothing.

use std::process::Command;

#[test]
fn a_short_run_of_the_gateway_prints_every_line() {
    let folder = tempfile::tempdir().unwrap();
    // The broker is the one that the environment names; the gateway is beside the program, as `make build`
    // leaves it.
    let output = Command::new(env!("CARGO_BIN_EXE_bench-gateway"))
        .args([
            "--connections",
            "5",
            "--messages",
            "2000",
            "--rounds",
            "1",
            "--latency-seconds",
            "1",
            "--idle",
            "10",
        ])
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}\n{said}");
    for line in [
        "gateway, with a spool",
        "bare librdkafka producer",
        "gateway ÷ bare, msg/CPU-s",
        "PUBACK at",
        "10 idle connections, MQTT 3.1.1",
        "10 idle connections, MQTT 5",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
}

#[test]
fn a_short_rolling_restart_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench-rebalance"))
        .args([
            "--rate",
            "500",
            "--sensors",
            "60",
            "--partitions",
            "4",
            "--instances",
            "2",
            "--steady-seconds",
            "1",
        ])
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}\n{said}");
    let line: Vec<_> = said.lines().last().unwrap().split('|').map(str::trim).collect();
    assert_eq!((line[1], line[6], line[10], line[11]), ("this build", "0", "0", "0"), "{said}");
}

#[test]
fn a_short_evaluation_makes_the_same_alerts_as_kafka_streams() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench-alerts"))
        .args(["--sensors", "500", "--readings", "20000", "--rounds", "1", "--partitions", "2"])
        .args(["--rate", "500", "--seconds", "2", "--changes", "2", "--rules", "1000", "--episodes", "50"])
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}\n{said}");
    let rows: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|row: &Vec<_>| row.len() > 9)
        .collect();
    for rules in ["500 of sensors", "10 of the fleet"] {
        let alerts = |contender: &str| {
            let row = rows.iter().find(|row| row[1] == rules && row[2] == contender).expect("its row");
            [row[7], row[8]].map(|count| count.parse::<u32>().unwrap())
        };
        let (ours, streams) = (alerts("alerting-svc"), alerts("Kafka Streams"));
        assert!(ours[0] > 0 && ours[1] > 0, "{said}");
        assert_eq!(ours, streams, "firing and resolved: {said}");
    }
    for line in [
        "reading sent → alert visible",
        "rule written → first alert visible",
        "start → first alert visible, 1000 rules",
        "50 open episodes in each of 2",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
}
