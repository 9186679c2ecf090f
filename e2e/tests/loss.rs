//! The loss run: 200 devices publish through each fault of the way in, and every PUBACK turns out to have
//! been a promise.

use e2e::{Acknowledged, Fleet, Member, Service, System};
use futures::future::join_all;
use schema::topics;
use std::collections::HashSet;
use std::time::Duration;
use testkit::broker::Broker;
use tokio::time::{Instant, sleep};

const DEVICES: usize = 200;
/// Time between two messages of a device.
const PACE: Duration = Duration::from_millis(500);
/// How long Kafka is frozen.
const FROZEN: Duration = Duration::from_secs(60);
/// How long Kafka is gone for longer than a producer without a spool keeps a message: 30 s
/// (`message.timeout.ms`).
const GONE: Duration = Duration::from_secs(35);
/// PUBACKs that show that nobody waits: some for each device.
const MANY: usize = 3 * DEVICES;
/// Time without a new row after which the missing ones count as lost.
const STANDSTILL: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    GatewayKilled,
    KafkaKilled,
    KafkaFrozen,
    KafkaGone,
}

impl Fault {
    const ALL: [Self; 4] = [Self::GatewayKilled, Self::KafkaKilled, Self::KafkaFrozen, Self::KafkaGone];

    const fn name(self) -> &'static str {
        match self {
            Self::GatewayKilled => "kill -9 gateway",
            Self::KafkaKilled => "kill -9 Kafka",
            Self::KafkaFrozen => "SIGSTOP Kafka, 60 s",
            Self::KafkaGone => "Kafka gone for 35 s",
        }
    }
}

/// A line of the table.
struct Line {
    fault: Fault,
    published: u64,
    acknowledged: usize,
    stored: usize,
    /// Acknowledged event ids that are no row.
    lost: usize,
    /// Event ids that are more than one row of a metric; over the whole run.
    stored_twice: i64,
    /// Records on the topic.
    records: i64,
    acknowledged_meanwhile: usize,
    longest_pause: Duration,
    longest_wait: Duration,
}

struct Run {
    broker: Broker,
    system: System,
    names: Vec<String>,
    fleet: Fleet,
}

impl Run {
    async fn start() -> Self {
        let broker = Broker::start().await;
        let system = System::start_on(broker.topics().await).await;
        let names: Vec<_> = (0..DEVICES).map(|number| format!("sensor-{number}")).collect();
        let register = async |name: &String| {
            let certificate = system.register(name).await;
            Member { sensor_id: name.clone(), certificate }
        };
        let members = join_all(names.iter().map(register)).await;
        let fleet = Fleet::start(&system, members, PACE);
        Self { broker, system, names, fleet }
    }

    /// Waits until every device has a PUBACK that came from now on.
    async fn everybody_is_acknowledged(&self) {
        let from = self.fleet.acknowledged(0).len();
        testkit::wait::until("a PUBACK for every device", async || {
            let devices: HashSet<_> = self.fleet.acknowledged(from).iter().map(|one| one.member).collect();
            (devices.len() == DEVICES).then_some(())
        })
        .await;
    }

    async fn many_are_acknowledged(&self) {
        let goal = self.fleet.acknowledged(0).len() + MANY;
        testkit::wait::until("PUBACKs meanwhile", async || {
            (self.fleet.acknowledged(0).len() >= goal).then_some(())
        })
        .await;
    }

    /// Makes the fault and mends it; returns when the victim was away.
    async fn suffer(&mut self, fault: Fault) -> (Instant, Instant) {
        let from = Instant::now();
        match fault {
            Fault::GatewayKilled => self.system.kill(Service::GATEWAY),
            Fault::KafkaFrozen => self.broker.freeze(),
            Fault::KafkaKilled | Fault::KafkaGone => self.broker.kill().await,
        }
        match fault {
            Fault::GatewayKilled => {}
            Fault::KafkaKilled => self.many_are_acknowledged().await,
            // The time is the fault.
            Fault::KafkaFrozen => sleep(FROZEN).await,
            Fault::KafkaGone => sleep(GONE).await,
        }
        let to = Instant::now();
        match fault {
            Fault::GatewayKilled => self.system.restart(Service::GATEWAY).await,
            Fault::KafkaFrozen => self.broker.thaw(),
            Fault::KafkaKilled | Fault::KafkaGone => self.broker.restart().await,
        }
        (from, to)
    }

    /// Runs through one fault, then has the devices finish, and compares what they know with what is there.
    async fn line(&mut self, fault: Fault) -> Line {
        let (published, acknowledged) = (self.fleet.published(), self.fleet.acknowledged(0).len());
        let (records, rows) = (self.system.kafka.count(topics::READINGS), self.rows().await);
        self.fleet.set_publishing(true);
        self.everybody_is_acknowledged().await;
        let (from, to) = self.suffer(fault).await;
        self.everybody_is_acknowledged().await;
        self.fleet.set_publishing(false);
        testkit::wait::until("a PUBACK for every message", async || {
            (self.fleet.published() == self.fleet.acknowledged(0).len() as u64).then_some(())
        })
        .await;
        let all = self.fleet.acknowledged(acknowledged);
        self.rows_come(rows + all.len() as i64).await;
        let stored = self.stored_ids().await;
        let ids = all.iter().map(|one| one.event_id(&self.names[one.member]));
        let lost = ids.filter(|id| !stored.contains(id)).count();
        let twice = "SELECT count(*) FROM (SELECT FROM readings_ingestion GROUP BY event_id, metric HAVING count(*) > 1) AS twice";
        Line {
            fault,
            published: self.fleet.published() - published,
            acknowledged: all.len(),
            stored: usize::try_from(self.rows().await - rows).unwrap(),
            lost,
            stored_twice: self.system.database.count(twice).await,
            records: self.system.kafka.count(topics::READINGS) - records,
            acknowledged_meanwhile: all.iter().filter(|one| (from..to).contains(&one.at)).count(),
            longest_pause: longest_pause(&all, from),
            longest_wait: all.iter().map(|one| one.took).max().unwrap_or_default(),
        }
    }

    async fn rows(&self) -> i64 {
        self.system.database.count("SELECT count(*) FROM readings_ingestion").await
    }

    /// Waits for that number of rows, or until no more come: the table shows what is missing then.
    async fn rows_come(&self, wanted: i64) {
        let (mut rows, mut since) = (self.rows().await, Instant::now());
        while rows < wanted && since.elapsed() < STANDSTILL {
            sleep(Duration::from_millis(100)).await;
            let now = self.rows().await;
            if now > rows {
                (rows, since) = (now, Instant::now());
            }
        }
    }

    async fn stored_ids(&self) -> HashSet<String> {
        let client = self.system.database.client().await;
        let rows = client.query("SELECT event_id::text FROM readings_ingestion", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The longest time without a PUBACK for anybody, from the fault on.
fn longest_pause(all: &[Acknowledged], from: Instant) -> Duration {
    let mut times: Vec<_> = all.iter().map(|one| one.at).filter(|at| *at > from).collect();
    times.sort();
    let before = std::iter::once(from).chain(times.iter().copied());
    times.iter().zip(before).map(|(at, before)| *at - before).max().unwrap_or_default()
}

fn print(lines: &[Line]) {
    println!(
        "| fault | published | acked | stored | acked − stored | stored twice | records on the topic | PUBACKs meanwhile | longest pause of PUBACKs | longest wait of a message |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for line in lines {
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.2} s | {:.2} s |",
            line.fault.name(),
            line.published,
            line.acknowledged,
            line.stored,
            line.lost,
            line.stored_twice,
            line.records,
            line.acknowledged_meanwhile,
            line.longest_pause.as_secs_f64(),
            line.longest_wait.as_secs_f64(),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_way_in_loses_an_acknowledged_reading_or_stores_one_twice() {
    let mut run = Run::start().await;
    let mut lines = Vec::new();
    for fault in Fault::ALL {
        lines.push(run.line(fault).await);
    }
    print(&lines);
    for line in &lines {
        let name = line.fault.name();
        assert_eq!(line.lost, 0, "{name}: acknowledged and not stored");
        assert_eq!(line.stored_twice, 0, "{name}: stored twice");
        assert_eq!(line.stored, line.acknowledged, "{name}: one row for each");
        let is_kafka_away = line.fault != Fault::GatewayKilled;
        assert!(!is_kafka_away || line.acknowledged_meanwhile >= MANY, "{name}: devices had to wait");
    }
}
