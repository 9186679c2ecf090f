//! `iotctl alerts --follow` on a real broker, in a pipe and on a terminal.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use schema::{Alert, topics};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::wait::{PATIENCE, until};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::time::timeout;
use uuid::Uuid;

const GOLDEN: &str = include_str!("../../schema/tests/golden/alert.1.episode.json");
/// Time in which a line is looked for before another alert is produced.
const LOOK: Duration = Duration::from_millis(500);

/// What follows alerts, and the lines that it prints.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(kafka: &Kafka, program: &str, arguments: &[&str]) -> Self {
        let mut command = tokio::process::Command::from(testkit::process::command(program));
        let mut child = command
            .args(arguments)
            .env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap)
            .env("KAFKA_TOPIC_PREFIX", &kafka.prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time");
        line.unwrap().expect("it goes on")
    }

    /// Produces alerts until one is shown: what came before it looked is not.
    async fn first_line(&mut self, kafka: &Kafka) -> String {
        until("an alert that is shown", async || {
            produce(kafka, "thermostat-1").await;
            timeout(LOOK, self.lines.next_line()).await.ok().map(|line| line.unwrap().expect("it goes on"))
        })
        .await
    }

    async fn end(mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap()
    }
}

/// Produces an alert, and returns its record.
async fn produce(kafka: &Kafka, sensor_id: &str) -> String {
    let golden: Alert = serde_json::from_str(GOLDEN).unwrap();
    let alert = Alert { alert_id: Uuid::new_v4(), sensor_id: sensor_id.to_owned(), ..golden };
    let record = serde_json::to_string(&alert).unwrap();
    kafka.produce(topics::ALERTS, sensor_id, Some(record.as_bytes())).await;
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_the_records_from_now_on_until_ctrl_c() {
    let kafka = Kafka::create().await;
    let before = produce(&kafka, "thermostat-1").await;
    let arguments = ["alerts", "--follow", "--sensor", "thermostat-1"];
    let mut following = Following::start(&kafka, env!("CARGO_BIN_EXE_iotctl"), &arguments);
    let first = following.first_line(&kafka).await;
    assert!(serde_json::from_str::<Alert>(&first).is_ok() && first != before, "{first}");
    produce(&kafka, "thermostat-2").await;
    let wanted = produce(&kafka, "thermostat-1").await;
    let mut line = first;
    while line != wanted {
        line = following.line().await;
        assert!(line.contains(r#""sensorId":"thermostat-1""#) && line != before, "{line}");
    }
    kill(Pid::from_raw(following.child.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(following.end().await.signal(), Some(Signal::SIGINT as i32));

    // The topic still has it, for those who ask.
    let arguments = ["alerts", "--follow", "--from-beginning", "--severity", "critical"];
    let mut following = Following::start(&kafka, env!("CARGO_BIN_EXE_iotctl"), &arguments);
    while following.line().await != before {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_a_line_for_each_alert_until_ctrl_c() {
    let kafka = Kafka::create().await;
    let follow = format!("exec {} alerts --follow", env!("CARGO_BIN_EXE_iotctl"));
    // It gives the program a terminal, whose keys are its standard input.
    let mut following = Following::start(&kafka, "script", &["-qec", &follow, "/dev/null"]);
    let line = following.first_line(&kafka).await;
    assert!(
        line.starts_with("2026-01-02T03:04:05.000006Z \u{1b}[31mcritical\u{1b}[0m continuing"),
        "{line:?}"
    );
    assert!(line.trim_end().ends_with("(silenced)") && !line.contains('{'), "{line:?}");
    let ctrl_c = b"\x03";
    following.child.stdin.as_mut().unwrap().write_all(ctrl_c).await.unwrap();
    while following.lines.next_line().await.unwrap().is_some() {}
    assert!(!following.end().await.success());
}
