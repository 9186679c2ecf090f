//! A process that is killed while it appends.

use super::super::{Record, Seq, Spool};
use super::{ROOMY, read_all, record};
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// The directory that a child of this test uses.
const CHILD_DIR: &str = "SPOOL_TEST_KILLED_DIR";
/// Times that the child is killed, on the same files.
const ROUNDS: u32 = 6;
/// Lines that a child says at most before it is killed.
const LINES_MAX: u128 = 600;
/// Those who append at once.
const SENSORS: u32 = 8;

/// Appends and removes for ever; says each acknowledged payload after, each removed one before.
async fn append_for_ever(dir: &Path) {
    let spool = Spool::open(dir, ROOMY).await.unwrap();
    // Numbers go on from the last run.
    let start =
        read_all(&spool).await.iter().map(|(_, record)| number(record)).max().map_or(0, |last| last + 1);
    let sensors = (0..SENSORS).map(|sensor| {
        let spool = spool.clone();
        async move {
            for n in start.. {
                let mut one = record(&sensor.to_string(), n.to_le_bytes());
                one.headers.push(("filler".into(), vec![0; 400]));
                spool.append(vec![one]).await.unwrap();
                say(&format!("acknowledged {sensor} {n}"));
                if n % 50 == 49 && sensor == 0 {
                    remove_some(&spool).await;
                }
            }
        }
    });
    join_all(sensors).await;
}

async fn remove_some(spool: &Spool) {
    let some = spool.read(1, 100).await.unwrap();
    for (_, record) in &some {
        say(&format!("removed {} {}", record.sensor_id, number(record)));
    }
    spool.remove_through(some.last().map_or(0, |(seq, _)| *seq));
}

fn say(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn number(record: &Record) -> u32 {
    u32::from_le_bytes(record.payload[..].try_into().unwrap())
}

/// Runs the child until it has said `lines`, kills it, and returns all that it said.
fn run_and_kill(dir: &Path, lines: usize) -> String {
    let test = "durable::spool::tests::killed::kill_9_at_any_moment_loses_nothing_acknowledged";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    for _ in 0..lines {
        assert!(output.read_line(&mut said).unwrap() > 0, "the child ended: {said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    output.read_to_string(&mut said).unwrap();
    // What follows the last line's end was cut.
    said.truncate(said.rfind('\n').map_or(0, |at| at + 1));
    said
}

/// Checks what is stored against what was said: all acknowledged but the removed, each sensor in order.
fn check(all: &[(Seq, Record)], acknowledged: &BTreeSet<(u32, u32)>, removed: &BTreeSet<(u32, u32)>) {
    let mut of_sensor: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (_, record) in all {
        of_sensor.entry(record.sensor_id.parse().unwrap()).or_default().push(number(record));
    }
    assert!(of_sensor.values().all(|numbers| numbers.is_sorted_by(|a, b| a < b)), "out of order");
    let found: BTreeSet<_> =
        of_sensor.iter().flat_map(|(sensor, numbers)| numbers.iter().map(|n| (*sensor, *n))).collect();
    let lost: Vec<_> = acknowledged.difference(removed).filter(|one| !found.contains(one)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn kill_9_at_any_moment_loses_nothing_acknowledged() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return append_for_ever(Path::new(&dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..ROUNDS {
        let lines = usize::try_from(uuid::Uuid::new_v4().as_u128() % LINES_MAX).unwrap();
        for line in run_and_kill(dir.path(), lines).lines() {
            // libtest says things too.
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["acknowledged", sensor, n] => {
                    acknowledged.insert((sensor.parse().unwrap(), n.parse().unwrap()));
                }
                ["removed", sensor, n] => {
                    removed.insert((sensor.parse().unwrap(), n.parse().unwrap()));
                }
                _ => {}
            }
        }
        let spool = Spool::open(dir.path(), ROOMY).await.unwrap();
        check(&read_all(&spool).await, &acknowledged, &removed);
        spool.close().await;
    }
    assert!(acknowledged.len() > removed.len(), "nothing was checked");
}
