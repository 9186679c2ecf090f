//! The consumer of docs/notifications.md, in Python, as a reader pastes it.

use crate::{alert, lag};
use schema::{Alert, EpisodeStep, topics};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::wait::{PATIENCE, until};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use uuid::Uuid;

const REQUIREMENTS: &str = include_str!("consumer/requirements.txt");
const PAGE: &str = include_str!("../../docs/notifications.md");
/// The group that the page names.
const GROUP: &str = "my-notifications";
/// Time in which a line is looked for before another alert is produced.
const LOOK: Duration = Duration::from_millis(500);

/// Returns a Python that has the Kafka client, installed once and checked by hash.
///
/// # Panics
/// There is no Python to make it with, or the package index is out of reach: the test does not pass without.
async fn python() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("notify-python");
    let (python, marker) = (folder.join("bin/python"), folder.join("requirements.txt"));
    // Written last, so it marks a complete installation.
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == REQUIREMENTS) {
        return python;
    }
    let _ = std::fs::remove_dir_all(&folder);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let venv = Command::new("python3").args(["-m", "venv"]).arg(&folder).output().await.unwrap();
    assert!(venv.status.success(), "python3 -m venv (Debian: python3-venv): {}", said(&venv));
    let listed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumer/requirements.txt");
    let pip = Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
        .args(["--require-hashes", "--only-binary", ":all:", "--requirement"])
        .arg(&listed)
        .output()
        .await
        .unwrap();
    assert!(pip.status.success(), "pip: {}", said(&pip));
    std::fs::write(&marker, REQUIREMENTS).unwrap();
    python
}

/// Returns the consumer, with the names of this test's broker and topic in place of the page's.
fn script(kafka: &Kafka) -> String {
    let blocks = PAGE.split("```python\n").skip(1).map(|block| block.split("\n```").next().unwrap());
    let script = blocks.into_iter().find(|block| block.contains("confluent_kafka")).expect("the consumer");
    let names = [
        ("127.0.0.1:19092", kafka.bootstrap.clone()),
        (GROUP, format!("{}{GROUP}", kafka.prefix)),
        ("iot-alerts", kafka.settings().topic(topics::ALERTS.name)),
    ];
    names.into_iter().fold(script.to_owned(), |script, (name, own)| {
        assert_eq!(script.matches(name).count(), 1, "{name}");
        script.replace(name, &own)
    })
}

fn start(python: &Path, script: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::from(testkit::process::command(python));
    let mut child = command.args(["-u", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn produce(kafka: &Kafka, alert: &Alert) {
    kafka.produce(topics::ALERTS, "s", Some(&serde_json::to_vec(alert).unwrap())).await;
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap().expect("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_consumer_prints_what_opens_and_closes_and_goes_on_where_it_was() {
    let kafka = Kafka::create().await;
    let (python, script) = (python().await, script(&kafka));
    let (mut child, mut lines) = start(&python, &script);
    let said = |summary: &str, alert: Alert| Alert { summary: Some(summary.to_owned()), ..alert };
    // It hears what comes after it has joined.
    let mut first = until("a first alert", async || {
        produce(&kafka, &said("warm-up", alert(1, 1, EpisodeStep::Opened))).await;
        timeout(LOOK, lines.next_line()).await.ok().map(|line| line.unwrap().expect("it goes on"))
    })
    .await;
    let silenced = Alert { silenced_by: Some(Uuid::from_u128(7)), ..alert(3, 1, EpisodeStep::Opened) };
    let alerts = [
        said("opens", alert(2, 1, EpisodeStep::Opened)),
        said("continues", alert(2, 2, EpisodeStep::Continuing)),
        said("silenced", silenced),
        said("closes", alert(2, 3, EpisodeStep::Closed)),
    ];
    for alert in &alerts {
        produce(&kafka, alert).await;
    }
    while first == "critical firing warm-up" {
        first = line(&mut lines).await;
    }
    assert_eq!([first, line(&mut lines).await], ["critical firing opens", "critical resolved closes"]);
    until("its offsets", async || (lag(&kafka, GROUP)? == 0).then_some(())).await;
    child.kill().await.unwrap();

    produce(&kafka, &said("afterwards", alert(4, 1, EpisodeStep::Opened))).await;
    let (_child, mut lines) = start(&python, &script);
    assert_eq!(line(&mut lines).await, "critical firing afterwards", "nothing again, nothing left out");
}
