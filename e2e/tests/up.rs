//! The newcomer's path: `iotctl up`, the lines it prints, Ctrl-C, a second start, every line of the
//! documents, `iotctl down`.

use crate::pages;
use iotctl::state::Ports;
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
/// The documents whose lines need a running platform.
const PAGES: [&str; 3] = ["README.md", "docs/devices.md", "docs/runbook.md"];
/// The ports that the documents name.
const PORTS: [u16; 6] = [8080, 8081, 8082, 8443, 8883, 19092];

fn iotctl() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().and_then(Path::parent).unwrap().join("iotctl");
    assert!(program.is_file(), "{} is not built: run `make test`", program.display());
    program
}

/// A newcomer's folder: what a clone has after `make build`, with ports of its own.
struct Checkout {
    folder: TempDir,
    offset: u16,
}

impl Checkout {
    fn create() -> Self {
        let folder = TempDir::new().unwrap();
        let checkout = Self { folder, offset: free_offset() };
        std::fs::create_dir(checkout.state()).unwrap();
        let programs = checkout.path().join("target/debug");
        std::fs::create_dir_all(&programs).unwrap();
        std::os::unix::fs::symlink(iotctl(), programs.join("iotctl")).unwrap();
        // The jars that this test run uses already: the same download twice would prove nothing.
        let jars = pages::root().join(".fieldline/kafka-jars");
        if jars.is_dir() {
            std::os::unix::fs::symlink(jars, checkout.state().join("kafka-jars")).unwrap();
        }
        checkout
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.path().join(".fieldline")
    }

    fn up(&self) -> Child {
        tokio::process::Command::from(testkit::process::command(iotctl()))
            .args(["up", "--with", "lake-svc"])
            .current_dir(self.path())
            .env("FIELDLINE_PORT_OFFSET", self.offset.to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Runs lines as they were printed or as a document has them, but for the ports.
    fn paste(&self, lines: &str) -> Output {
        self.shell(lines).output().unwrap()
    }

    fn shell(&self, lines: &str) -> Command {
        let programs = self.path().join("target/debug").display().to_string();
        let path = std::env::var_os("PATH").unwrap().into_string().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-ec", lines]).current_dir(self.path()).stdin(Stdio::null());
        shell.env("PATH", format!("{programs}:{path}"));
        shell
    }

    /// Runs a line until it shows what it is to show.
    async fn shows(&self, line: &str, shown: &str) {
        let mut said = String::new();
        testkit::wait::until(&format!("`{line}` to show {shown}; it said what is above"), async || {
            let output = self.paste(line);
            let now = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            if now != said {
                eprintln!("{now}");
                said = now;
            }
            pages::shows(&said, shown).then_some(())
        })
        .await;
    }

    /// Follows a document from its beginning to its end, and counts its steps.
    async fn follow(&self, page: &str) -> usize {
        let steps = pages::steps(&pages::page(page));
        let steps: Vec<_> = steps.iter().filter(|step| !step.command.starts_with("make ")).collect();
        for step in &steps {
            let lines = PORTS.iter().fold(step.command.clone(), |lines, port| {
                lines.replace(&port.to_string(), &(port + self.offset).to_string())
            });
            if let Some(shown) = &step.shows {
                self.shows(&lines, shown).await;
            } else {
                let output = self.paste(&lines);
                assert!(output.status.success(), "{page}: {lines}\n{output:?}");
            }
        }
        steps.len()
    }
}

/// Takes the platform down, also when the test fails in the middle.
impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = Command::new(iotctl()).arg("down").current_dir(self.path()).output();
    }
}

/// An offset whose ports are free, and below those that the system hands out.
fn free_offset() -> u16 {
    let from = u16::try_from(std::process::id() % 12_000).unwrap();
    let is_free = |offset: &u16| Ports::new(*offset).unwrap().ensure_free().is_ok();
    (0..100).map(|n| 1_000 + (from + n * 37) % 12_000).find(is_free).expect("an offset with free ports")
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

fn find<'a>(lines: &'a [String], start: &str, part: &str) -> &'a str {
    lines.iter().find(|line| line.starts_with(start) && line.contains(part)).expect(part)
}

/// Runs the line that waits for alerts, as a reader does in another terminal, and raises one until it is
/// shown.
async fn see_alert(checkout: &Checkout, watch: &str, publish: &str) {
    let mut watching = tokio::process::Command::from(checkout.shell(&format!("exec {watch}")))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut alerts = BufReader::new(watching.stdout.take().unwrap()).lines();
    testkit::wait::until("the alert in the other terminal", async || {
        assert!(checkout.paste(publish).status.success());
        let shown = async {
            while let Some(line) = alerts.next_line().await.unwrap() {
                if pages::shows(&line, r#""sensorId":"thermostat-1"…"value":35.5"#) {
                    return;
                }
            }
            panic!("`{watch}` ended");
        };
        timeout(Duration::from_secs(1), shown).await.ok()
    })
    .await;
    watching.kill().await.unwrap();
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
async fn a_newcomer_pastes_what_up_prints_stops_it_and_follows_the_documents() {
    let checkout = Checkout::create();
    let mut up = checkout.up();
    let lines = wait_for_final_message(&mut up).await;
    let (mild, hot) = (find(&lines, "mosquitto_pub", "21.5"), find(&lines, "mosquitto_pub", "35.5"));
    let latest = find(&lines, "curl", "sensorId=thermostat-1");
    assert!(checkout.paste(mild).status.success());
    checkout.shows(latest, r#""value":21.5"#).await;
    checkout.shows(find(&lines, "curl", "--cacert"), r#""readings":1"#).await;
    checkout.shows(latest, r#""value":22.5"#).await;
    see_alert(&checkout, find(&lines, "kcat", "iot-alerts"), hot).await;
    checkout.shows(find(&lines, "curl", "aggregates/hourly"), r#""resources":[{"#).await;
    testkit::wait::until("a day in the lake", async || {
        std::fs::read_dir(checkout.state().join("lake/readings")).ok()?.next()?.ok()
    })
    .await;

    let pid = up.id().unwrap();
    assert!(checkout.paste(&format!("kill -INT {pid}")).status.success()); // Ctrl-C
    assert!(timeout(STOP_MAX, up.wait()).await.unwrap().unwrap().success());

    let mut up = checkout.up();
    let lines = wait_for_final_message(&mut up).await;
    checkout.shows(find(&lines, "curl", "sensorId=thermostat-1"), r#""value":35.5"#).await;
    for page in PAGES {
        assert!(checkout.follow(page).await > 0, "{page} has nothing to paste");
    }
    // A newcomer tries it again: what was there before changes nothing.
    checkout.follow("README.md").await;
    impossible_rate_is_admitted(&checkout);
    file_with_a_bad_line_says_what_is_stored(&checkout);
    let down = checkout.paste("iotctl down");
    assert!(down.status.success(), "{down:?}");
    assert!(timeout(STOP_MAX, up.wait()).await.unwrap().unwrap().success());
    let left = commands_that_name(checkout.path());
    assert!(left.is_empty(), "still running: {left:?}");
}

/// The gateway takes 1,000 messages of a device in a second, after 5,000 at once: of 30,000 in three seconds
/// most are skipped.
fn impossible_rate_is_admitted(checkout: &Checkout) {
    let output = checkout.paste("iotctl simulate --devices 1 --rate 10000 --duration 3s");
    assert!(output.status.success(), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |name: &str| said[name].as_u64().unwrap();
    assert_eq!(count("due"), 30_000, "{said}");
    assert_eq!(count("published") + count("skipped"), 30_000, "{said}");
    assert_eq!(count("acked"), count("published"), "{said}");
    assert!(count("skipped") > 10_000 && count("late") > 0, "{said}");
}

fn file_with_a_bad_line_says_what_is_stored(checkout: &Checkout) {
    let file = "sensor;timestamp;temperature\nhall-2;1767225600;19,5\nhall-2;1767229200;19\nhall-2;noon;20\n";
    std::fs::write(checkout.path().join("bad.csv"), file).unwrap();
    let output = checkout.paste("iotctl simulate --csv bad.csv");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(pages::shows(&said, "stopped after 2 readings…line 4: \"noon\" is no timestamp"), "{said}");
}
