//! The manifests of Kubernetes against the table of services.

use crate::hold::hold;
use crate::sources::root;
use iotctl::services::Service;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Lists every YAML file below `k8s/`.
fn manifests() -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root().join("k8s")], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files
}

/// Returns the manifests whose kind and name are these: documents of a file, as text.
fn documents(kind: &str, name: &str) -> Vec<String> {
    let texts = manifests().into_iter().map(|path| fs::read_to_string(path).unwrap());
    let documents = texts.flat_map(|text| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>());
    let has = |document: &String, line: String| document.lines().any(|found| found == line);
    documents
        .filter(|document| has(document, format!("kind: {kind}")) && has(document, format!("  name: {name}")))
        .collect()
}

#[test]
fn every_service_has_a_manifest_that_runs_its_program() {
    let is_run = |service: &Service| {
        let workloads = ["Deployment", "StatefulSet"].map(|kind| documents(kind, service.name)).concat();
        let command = format!("command: [/usr/local/bin/{}]", service.name);
        workloads.iter().any(|workload| workload.contains(&command))
    };
    let missing = Service::ALL.into_iter().filter(|service| !is_run(service));
    hold("a service is run in Kubernetes", missing.map(|service| (service.name.to_owned(), "")).collect());
}

#[test]
fn every_service_may_read_and_write_its_topics_and_write_no_other() {
    let mut broken = Vec::new();
    for service in Service::ALL.into_iter().filter(|service| service.has_kafka()) {
        let users = documents("KafkaUser", service.name).concat();
        let may = |operation: &str| -> BTreeSet<String> {
            let lines = users.lines().filter(|line| line.contains("type: topic,"));
            let granted = lines.filter(|line| {
                let (_, operations) = line.split_once("operations: [").unwrap();
                operations.trim_end_matches("]}").split(", ").any(|granted| granted == operation)
            });
            let name =
                |line: &str| line.split_once("name: ").unwrap().1.split(',').next().unwrap().to_owned();
            granted.map(name).collect()
        };
        let names = |topics: &[schema::topics::Topic]| -> BTreeSet<String> {
            topics.iter().map(|topic| topic.name.to_owned()).collect()
        };
        let (writes, produces) = (may("Write"), names(service.produces));
        if writes != produces {
            broken.push((service.name.to_owned(), format!("writes {writes:?}, produces {produces:?}")));
        }
        let (reads, consumes) = (may("Read"), names(service.consumes));
        if !reads.is_superset(&consumes) {
            broken.push((service.name.to_owned(), format!("reads {reads:?}, consumes {consumes:?}")));
        }
    }
    hold("an account on Kafka is what the table of services says", broken);
}
