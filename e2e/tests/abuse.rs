//! One hostile device of each kind beside good ones, which must not notice.
//!
//! Each kind comes in rounds: quiet, hostile, quiet, hostile, … quiet. What stands in the table is the median
//! of the rounds' p99, before and after alike, with the least and the most of the quiet ones: a machine that
//! is busy with something else shows there. Each round has a hostile device of its own, whose account is full
//! at first.
//!
//! `make abuse` takes 200 good devices and three rounds of ten seconds and prints a table; `make test` takes
//! fewer of all.

mod hostile;

use e2e::{Acknowledged, Fleet, Member, Service, System};
use futures::future::join_all;
use hostile::Kind;
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, sleep};

/// Time between two messages of a good device.
const PACE: Duration = Duration::from_millis(500);
/// How often rows are looked for: the error of a row's time.
const LOOK: Duration = Duration::from_millis(20);

/// The extent of a run.
struct Extent {
    good: usize,
    each: Duration,
    rounds: usize,
    /// A part of a kind's name; all kinds unless it is set.
    only: Option<String>,
}

impl Extent {
    fn of_environment() -> Self {
        let set = |name: &str| std::env::vars().find_map(|(key, value)| (key == name).then_some(value));
        let number = |name: &str, default: usize| set(name).map_or(default, |text| text.parse().unwrap());
        Self {
            good: number("ABUSE_DEVICES", 40),
            each: Duration::from_secs(number("ABUSE_SECONDS", 2) as u64),
            rounds: number("ABUSE_ROUNDS", 1),
            only: set("ABUSE_ONLY"),
        }
    }
}

/// When each reading of a good device could first be seen as a row.
struct Rows {
    looking: JoinHandle<()>,
    seen: std::sync::Arc<std::sync::Mutex<HashMap<(usize, i64), Instant>>>,
}

impl Rows {
    /// Looks at the last value of each device: what is numbered below it has come before it.
    async fn watch(system: &System, names: &[String]) -> Self {
        let client = system.database.client().await;
        let members: HashMap<String, usize> = names.iter().cloned().zip(0..).collect();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(HashMap::new()));
        let found = seen.clone();
        let looking = tokio::spawn(async move {
            let (mut last, mut pace) = (HashMap::new(), interval(LOOK));
            let query = "SELECT sensor_id, value FROM sensor_latest WHERE metric = 'number'";
            loop {
                pace.tick().await;
                let Ok(rows) = client.query(query, &[]).await else { return };
                let now = Instant::now();
                for row in rows {
                    let Some(member) = members.get(row.get::<_, &str>(0)) else { continue };
                    #[expect(clippy::cast_possible_truncation, reason = "a count of messages")]
                    let number = row.get::<_, f64>(1) as i64;
                    let before = last.insert(*member, number).unwrap_or(0);
                    found
                        .lock()
                        .unwrap()
                        .extend((before + 1..=number).map(|number| ((*member, number), now)));
                }
            }
        });
        Self { looking, seen }
    }

    /// Says how long after its PUBLISH each reading was a row; none while it is not.
    fn took(&self, all: &[Acknowledged]) -> Vec<Option<Duration>> {
        let seen = self.seen.lock().unwrap();
        let took = |one: &Acknowledged| Some(*seen.get(&(one.member, one.number))? - (one.at - one.took));
        all.iter().map(took).collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// What the good devices saw during a time.
struct Seen {
    readings: usize,
    puback_p99: Duration,
    row_p99: Duration,
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
}

struct Run {
    system: System,
    fleet: Fleet,
    rows: Rows,
    extent: Extent,
}

impl Run {
    async fn start() -> Self {
        let (system, extent) = (System::start().await, Extent::of_environment());
        let names: Vec<_> = (0..extent.good).map(|number| format!("good-{number}")).collect();
        let register = async |name: &String| {
            let certificate = system.register(name).await;
            Member { sensor_id: name.clone(), certificate }
        };
        let members = join_all(names.iter().map(register)).await;
        let rows = Rows::watch(&system, &names).await;
        let fleet = Fleet::start(&system, members, PACE);
        fleet.set_publishing(true);
        Self { system, fleet, rows, extent }
    }

    /// Has the good devices publish for a time, and longer until `is_enough`; waits for all that they
    /// published.
    async fn observe(&self, mut is_enough: impl AsyncFnMut() -> bool) -> Seen {
        let from = self.fleet.acknowledged(0).len();
        sleep(self.extent.each).await;
        testkit::wait::until("the hostile device is held back", async || is_enough().await.then_some(()))
            .await;
        let to = self.fleet.acknowledged(0).len();
        testkit::wait::until("good devices are acknowledged meanwhile", async || {
            (self.fleet.acknowledged(0).len() >= to + self.extent.good).then_some(())
        })
        .await;
        let all = self.fleet.acknowledged(from);
        let rows = testkit::wait::until("a row for every acknowledged reading", async || {
            self.rows.took(&all).into_iter().collect::<Option<Vec<_>>>()
        })
        .await;
        let pubacks = all.iter().map(|one| one.took).collect();
        Seen { readings: all.len(), puback_p99: p99(pubacks), row_p99: p99(rows) }
    }
}

fn ratio(during: Duration, before: Duration) -> f64 {
    during.as_secs_f64() / before.as_secs_f64().max(f64::EPSILON)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// What the good devices saw while nobody was hostile, and while somebody was.
#[derive(Default)]
struct Rounds {
    quiet: Vec<Seen>,
    hostile: Vec<Seen>,
}

impl Rounds {
    /// Prints a line of the table.
    fn print(&self, kind: Kind, label: &str, held_back: f64) {
        let of = |seen: &[Seen], time: fn(&Seen) -> Duration| seen.iter().map(time).collect::<Vec<_>>();
        let count = |seen: &[Seen]| seen.iter().map(|seen| seen.readings).sum::<usize>();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let columns = [|seen: &Seen| seen.puback_p99, |seen: &Seen| seen.row_p99].map(|time| {
            let quiet = of(&self.quiet, time);
            let (least, most) = (*quiet.iter().min().unwrap(), *quiet.iter().max().unwrap());
            let (quiet, hostile) = (median(quiet), median(of(&self.hostile, time)));
            format!(
                "{:.0} ms ({:.0}–{:.0}) | {:.0} ms | {:.1}",
                ms(quiet),
                ms(least),
                ms(most),
                ms(hostile),
                ratio(hostile, quiet)
            )
        });
        println!(
            "| {} | {}, {} | {} | {} | {label}: {held_back} |",
            kind.name(),
            count(&self.quiet),
            count(&self.hostile),
            columns[0],
            columns[1],
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_device_takes_from_good_ones_what_is_theirs() {
    let run = Run::start().await;
    println!(
        "| hostile | good readings, quiet and hostile | PUBACK p99 quiet (least–most) | hostile | × | row p99 quiet (least–most) | hostile | × | held back by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let is_wanted = |kind: &Kind| run.extent.only.as_ref().is_none_or(|only| kind.name().contains(only));
    for kind in Kind::ALL.into_iter().filter(is_wanted) {
        let (metric, label) = kind.held_back_by();
        let count = async || run.system.metric(Service::GATEWAY, metric, label).await;
        let (mut rounds, first) = (Rounds::default(), count().await);
        rounds.quiet.push(run.observe(async || true).await);
        for round in 0..run.extent.rounds {
            let from = count().await;
            let hostile = hostile::start(&run.system, kind, round).await;
            rounds.hostile.push(run.observe(async || count().await > from).await);
            drop(hostile);
            rounds.quiet.push(run.observe(async || true).await);
        }
        rounds.print(kind, label, count().await - first);
    }
    run.fleet.set_publishing(false);
    testkit::wait::until("a PUBACK for every message of the good devices", async || {
        (run.fleet.published() == run.fleet.acknowledged(0).len() as u64).then_some(())
    })
    .await;
}
