use crate::own_postgres;
use chassis::postgres::Settings;
use iotctl::servers::kafka;
use iotctl::state::State;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use testkit::setting;

/// `iotctl servers run` with a PostgreSQL server of its own and the test run's Kafka.
fn run(state: &Path, script: &str) -> Command {
    let mut command = testkit::process::command(env!("CARGO_BIN_EXE_iotctl"));
    command.args(["servers", "run", "--", "sh", "-c", script]);
    command.env("FIELDLINE_STATE", state).env_remove("TEST_DATABASE_URL");
    command.env("TEST_KAFKA_BOOTSTRAP", setting("TEST_KAFKA_BOOTSTRAP"));
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// How long a state may take: two servers that start, one after the other, on a machine that is busy with
/// other tests.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits for a state with a deadline.
async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn postgres_decodes_its_wal_and_keeps_its_data_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = own_postgres(folder.path()).await;
    let client = Settings::local(server.url("postgres")).connect().await.unwrap();
    assert_eq!(client.query_one("SHOW wal_level", &[]).await.unwrap().get::<_, &str>(0), "logical");
    client.batch_execute("CREATE TABLE kept AS SELECT 7 AS number").await.unwrap();
    drop(client);
    server.stop().await.unwrap();

    let (server, _) = own_postgres(folder.path()).await;
    let client = Settings::local(server.url("postgres")).connect().await.unwrap();
    assert_eq!(client.query_one("SELECT number FROM kept", &[]).await.unwrap().get::<_, i32>(0), 7);
    server.stop().await.unwrap();
}

#[test]
fn command_finds_its_servers_and_its_exit_code_is_returned() {
    let state = tempfile::tempdir().unwrap();
    let output = run(state.path(), "echo $TEST_DATABASE_URL $TEST_KAFKA_BOOTSTRAP; exit 7").output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("postgres://postgres:"), "{said}");
    assert!(said.contains(&setting("TEST_KAFKA_BOOTSTRAP")), "{said}");
}

#[tokio::test]
async fn servers_end_with_a_run_that_is_killed_and_the_next_one_removes_their_folder() {
    let state = tempfile::tempdir().unwrap();
    let jars = State::open(None).unwrap().kafka_jars();
    kafka::resolve_jars(&jars).await.unwrap();
    std::os::unix::fs::symlink(jars, state.path().join("kafka-jars")).unwrap();
    let marker = state.path().join("runs");
    let mut killed =
        run(state.path(), &format!("echo $$ > {0}.draft; mv {0}.draft {0}; exec sleep 60", marker.display()));
    killed.env_remove("TEST_KAFKA_BOOTSTRAP");
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the command runs", || marker.exists()).await;
    let folders = || std::fs::read_dir(state.path().join("test")).unwrap().map(|entry| entry.unwrap().path());
    let folder = folders().next().unwrap();
    let servers = ["postgres/postgres.pid", "kafka/kafka.pid"]
        .map(|pid_file| iotctl::process::recorded(&folder.join(pid_file)).expect("the server runs"));
    // A stopped broker takes no signal but one.
    kill(servers[1], Signal::SIGSTOP).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    // Not a server: the command itself outlives a killed run.
    let command = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    for server in servers {
        wait_until("the server has ended", || kill(server, None).is_err() || is_zombie(server)).await;
    }

    let output = run(state.path(), "true").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(folders().count(), 0, "both folders are removed");
}

#[tokio::test]
async fn terminated_run_ends_its_command_and_its_servers() {
    let state = tempfile::tempdir().unwrap();
    let marker = state.path().join("runs");
    let mut running =
        run(state.path(), &format!("echo $$ > {0}.draft; mv {0}.draft {0}; exec sleep 60", marker.display()))
            .spawn()
            .unwrap();
    wait_until("the command runs", || marker.exists()).await;
    kill(Pid::from_raw(running.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(128 + 15));
    let folder = std::fs::read_dir(state.path().join("test")).unwrap().next().unwrap().unwrap().path();
    assert!(iotctl::process::recorded(&folder.join("postgres/postgres.pid")).is_none());
}

/// An orphan that nobody has reaped yet has ended all the same.
fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
