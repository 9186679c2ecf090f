//! The newcomer's path: `iotctl up`, the lines it prints, Ctrl-C, a second start, `iotctl down`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

/// A first start downloads Kafka and makes a database; minutes on a slow machine.
const START_MAX: Duration = Duration::from_secs(300);
const STOP_MAX: Duration = Duration::from_secs(120);
/// Away from a stack that the engineer runs, and below the ports that the system hands out.
const PORT_OFFSET: &str = "3000";

fn iotctl() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(Path::parent).unwrap().join("iotctl");
    assert!(program.is_file(), "{} is not built: run `make test`", program.display());
    program
}

fn start(state: &Path) -> Child {
    tokio::process::Command::new(iotctl())
        .args(["up", "--lake"])
        .env("FIELDLINE_STATE", state)
        .env("FIELDLINE_PORT_OFFSET", PORT_OFFSET)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Takes the platform down, also when the test fails in the middle.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _ = Command::new(iotctl()).arg("down").env("FIELDLINE_STATE", self.0).output();
    }
}

/// Reads what `up` prints until its last line, and returns the lines to paste.
async fn wait_for_final_message(up: &mut Child) -> Vec<String> {
    let mut output = BufReader::new(up.stdout.as_mut().unwrap()).lines();
    let mut seen = Vec::new();
    let complete = timeout(START_MAX, async {
        while let Some(line) = output.next_line().await.unwrap() {
            let is_last = line.starts_with("Ctrl-C stops it");
            seen.push(line.trim().to_owned());
            if is_last {
                return true;
            }
        }
        false
    });
    assert!(matches!(complete.await, Ok(true)), "no final message:\n{}", seen.join("\n"));
    seen
}

/// Runs a line as it was printed.
fn paste(line: &str) -> Output {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

fn find<'a>(lines: &'a [String], start: &str, part: &str) -> &'a str {
    lines.iter().find(|line| line.starts_with(start) && line.contains(part)).expect(part)
}

async fn shows(line: &str, part: &str) {
    testkit::wait::until(&format!("`{line}` to show {part}"), async || {
        let output = paste(line);
        String::from_utf8_lossy(&output.stdout).contains(part).then_some(())
    })
    .await;
}

/// The README's commands that need a running platform, as they would be pasted, for this test's folder and ports.
fn readme_commands(state: &Path) -> Vec<String> {
    let offset: u16 = PORT_OFFSET.parse().unwrap();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let blocks = readme.split("```sh").skip(1).map(|block| block.split("```").next().unwrap());
    blocks
        .filter(|block| !block.contains("make "))
        .map(|block| {
            let mut block = block.replace(".fieldline", &state.display().to_string());
            for port in [8080_u16, 8081, 8082, 8443, 8883, 19092] {
                block = block.replace(&port.to_string(), &(port + offset).to_string());
            }
            block.replace("target/debug/iotctl", &iotctl().display().to_string())
        })
        .collect()
}

/// Runs a block of shell as it is, in a folder of its own; REST answers of an error count as failure.
fn run_block(block: &str, folder: &Path, state: &Path) -> Output {
    let strict = block.replace("curl -s ", "curl -s --fail-with-body ");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &strict]).current_dir(folder).env("FIELDLINE_STATE", state);
    shell.output().unwrap()
}

/// The command lines of all processes that name the folder, this test's own aside.
fn commands_that_name(folder: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().map(Result::unwrap);
    let others = processes.filter(|process| process.file_name().to_string_lossy() != own);
    others
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|command| String::from_utf8_lossy(&command).replace('\0', " "))
        .filter(|command| command.contains(&*folder.to_string_lossy()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_pastes_what_up_prints_stops_it_and_finds_the_data_again() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    // The jars that this test run uses already: the same download twice would prove nothing.
    let jars = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".fieldline/kafka-jars");
    if jars.is_dir() {
        std::fs::create_dir(&state).unwrap();
        std::os::unix::fs::symlink(jars, state.join("kafka-jars")).unwrap();
    }

    let _down = Down(&state);
    let mut up = start(&state);
    let lines = wait_for_final_message(&mut up).await;
    let (mild, hot) = (find(&lines, "mosquitto_pub", "21.5"), find(&lines, "mosquitto_pub", "35.5"));
    let (latest, hours) =
        (find(&lines, "curl", "sensorId=thermostat-1"), find(&lines, "curl", "aggregates/hourly"));
    let alerts = find(&lines, "kcat", "iot-alerts").replace("-o end", "-o beginning -e");
    let published = paste(mild);
    assert!(published.status.success(), "{published:?}");
    shows(latest, r#""value":21.5"#).await;
    let posted = paste(find(&lines, "curl", "--cacert"));
    assert!(String::from_utf8_lossy(&posted.stdout).contains(r#""readings":1"#), "{posted:?}");
    shows(latest, r#""value":22.5"#).await;
    assert!(paste(hot).status.success());
    shows(&alerts, r#""value":35.5"#).await;
    shows(hours, r#""resources":[{"#).await;
    testkit::wait::until("a day in the lake", async || {
        std::fs::read_dir(state.join("lake/readings")).ok()?.next()?.ok()
    })
    .await;

    let pid = up.id().unwrap();
    assert!(paste(&format!("kill -INT {pid}")).status.success()); // Ctrl-C
    assert!(timeout(STOP_MAX, up.wait()).await.unwrap().unwrap().success());

    let mut up = start(&state);
    let lines = wait_for_final_message(&mut up).await;
    shows(find(&lines, "curl", "sensorId=thermostat-1"), r#""value":35.5"#).await;
    let commands = readme_commands(&state);
    assert!(commands.len() >= 5, "{commands:?}");
    for block in &commands {
        let output = run_block(block, folder.path(), &state);
        assert!(output.status.success(), "{block}\n{output:?}");
    }
    assert!(!paste(mild).status.success(), "the README's fourth step has suspended the device");
    let down = Command::new(iotctl()).arg("down").env("FIELDLINE_STATE", &state).output().unwrap();
    assert!(down.status.success(), "{down:?}");
    assert!(timeout(STOP_MAX, up.wait()).await.unwrap().unwrap().success());
    let left = commands_that_name(&state);
    assert!(left.is_empty(), "still running: {left:?}");
}
