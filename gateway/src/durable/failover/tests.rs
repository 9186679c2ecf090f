//! The way of records against a model of Kafka and of devices, under any sequence of what can happen.
//!
//! The spool is a real one. The model's producer has a queue for each partition; Kafka takes its beginning,
//! reports it now or later, or loses the report when the queue is purged. Devices publish numbers, hold what
//! finds no room, and send again what failed.

use super::{DirectSeq, Failover};
use crate::durable::budget::{Budget, DeviceBudget};
use crate::durable::in_flight::{AckKind, InFlight, Outcome};
use crate::durable::record::NotTaken;
use crate::durable::spool::{Limits, Record, Seq, Spool};
use crate::metrics::Metrics;
use prometheus::Registry;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SENSORS: usize = 4;
const PARTITIONS: usize = 2;
/// Room for a dozen records, fewer than can be in flight: the spool is full at times.
const LIMITS: Limits = Limits { bytes_max: 1_200 };
/// Messages of a device in flight.
const WINDOW: usize = 6;
/// Rounds after which everything must have arrived once Kafka and its reports come through.
const ROUNDS_MAX: usize = 200;

#[derive(Clone, Debug)]
enum Event {
    Publish {
        sensor: usize,
    },
    /// Kafka takes records from the beginning of a queue; it says so, or not yet.
    KafkaTakes {
        partition: usize,
        records: usize,
        is_reported: bool,
    },
    /// It says what it has not said.
    KafkaReports {
        partition: usize,
    },
    KafkaFails {
        partition: usize,
    },
    KafkaRefuses {
        partition: usize,
    },
    ProducerIsFull {
        is_full: bool,
    },
    PatienceEnds,
    GiveUp,
    /// The forwarder purges if it must, and reads a batch.
    ForwardBegins {
        records: usize,
        kept_of_purged: usize,
    },
    /// Kafka takes `records` of the batch.
    ForwardEnds {
        records: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    use Event::{
        ForwardBegins, ForwardEnds, GiveUp, KafkaFails, KafkaRefuses, KafkaReports, KafkaTakes, PatienceEnds,
        ProducerIsFull, Publish,
    };
    let partition = 0..PARTITIONS;
    prop_oneof![
        16 => (0..SENSORS).prop_map(|sensor| Publish { sensor }),
        6 => (partition.clone(), 1..6usize, any::<bool>())
            .prop_map(|(partition, records, is_reported)| KafkaTakes { partition, records, is_reported }),
        3 => partition.clone().prop_map(|partition| KafkaReports { partition }),
        1 => partition.clone().prop_map(|partition| KafkaFails { partition }),
        1 => partition.prop_map(|partition| KafkaRefuses { partition }),
        1 => any::<bool>().prop_map(|is_full| ProducerIsFull { is_full }),
        2 => Just(PatienceEnds),
        1 => Just(GiveUp),
        5 => (1..8usize, 0..4usize)
            .prop_map(|(records, kept_of_purged)| ForwardBegins { records, kept_of_purged }),
        5 => (0..9usize).prop_map(|records| ForwardEnds { records }),
    ]
}

/// A device: it has published the numbers below `next`, and has PUBACKs for those below `acknowledged`.
struct Device {
    in_flight: Arc<InFlight>,
    next: u64,
    acknowledged: u64,
    was_refused: bool,
}

struct World {
    failover: Failover,
    budget: DeviceBudget,
    devices: Vec<Device>,
    producer: Vec<VecDeque<(DirectSeq, Record)>>,
    unreported: Vec<VecDeque<DirectSeq>>,
    producer_is_full: bool,
    /// What can be read of each partition.
    log: Vec<Vec<(usize, u64)>>,
    from: Seq,
    purged_switches: u64,
    under_way: Option<(Vec<(Seq, Record)>, u64)>,
}

fn sensor_id(sensor: usize) -> Arc<str> {
    format!("s{sensor}").into()
}

fn content(record: &Record) -> (usize, u64) {
    let number = u64::from_le_bytes(record.payload[..].try_into().unwrap());
    (record.sensor_id[1..].parse().unwrap(), number)
}

impl World {
    async fn new(dir: &Path) -> Self {
        let spool = Spool::open(dir, LIMITS).await.unwrap();
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let device = || Device { in_flight: Arc::default(), next: 1, acknowledged: 1, was_refused: false };
        Self {
            // Every look finds the patience over: when it looks is the test's to say.
            failover: Failover::new(spool, Duration::ZERO, metrics),
            budget: Budget::new(1_000, 1_000).of_device(),
            devices: (0..SENSORS).map(|_| device()).collect(),
            producer: vec![VecDeque::new(); PARTITIONS],
            unreported: vec![VecDeque::new(); PARTITIONS],
            producer_is_full: false,
            log: vec![Vec::new(); PARTITIONS],
            from: 1,
            purged_switches: 0,
            under_way: None,
        }
    }

    async fn suffer(&mut self, event: Event) {
        match event {
            Event::Publish { sensor } => drop(self.publish(sensor)),
            Event::KafkaTakes { partition, records, is_reported } => {
                self.kafka_takes(partition, records);
                if is_reported {
                    self.kafka_reports(partition);
                }
            }
            Event::KafkaReports { partition } => self.kafka_reports(partition),
            Event::KafkaFails { partition } => {
                self.kafka_reports(partition);
                for (seq, _) in std::mem::take(&mut self.producer[partition]) {
                    self.failover.failed(seq);
                }
            }
            Event::KafkaRefuses { partition } => {
                self.kafka_reports(partition);
                if let Some((seq, record)) = self.producer[partition].pop_front() {
                    self.devices[content(&record).0].was_refused = true;
                    self.failover.refused(seq);
                }
            }
            Event::ProducerIsFull { is_full } => self.producer_is_full = is_full,
            Event::PatienceEnds => self.failover.check_deadline(),
            Event::GiveUp => self.failover.give_up(),
            Event::ForwardBegins { records, kept_of_purged } => {
                self.forward_begins(records, kept_of_purged).await;
            }
            Event::ForwardEnds { records } => self.forward_ends(records),
        }
        // A submitted record is written when a question behind it is answered.
        self.failover.spool().read(self.from, 1).await.unwrap();
        self.take_acknowledgements();
    }

    /// Publishes the next number as a session does; false when there is no room.
    fn publish(&mut self, sensor: usize) -> bool {
        let device = &mut self.devices[sensor];
        if device.in_flight.load().records >= WINDOW {
            return false;
        }
        let permit = self.budget.try_take(1).unwrap();
        let handle = device.in_flight.open(AckKind::Ack(u16::try_from(device.next).unwrap()), 1, permit);
        let record = Record {
            topic: "readings".into(),
            sensor_id: sensor_id(sensor),
            headers: Vec::new(),
            payload: device.next.to_le_bytes().to_vec(),
        };
        let (queue, is_full) = (&mut self.producer[sensor % PARTITIONS], self.producer_is_full);
        let produce = |seq, record: &Record| {
            if is_full {
                return Err(());
            }
            queue.push_back((seq, record.clone()));
            Ok(())
        };
        let has_room = self.failover.has_room(&record.sensor_id, record.bytes());
        let taken = self.failover.produce(record, handle, produce, |(), handle| NotTaken::Full(handle));
        assert!(
            taken.is_err() || has_room,
            "whoever is told that there is no room would not have been taken"
        );
        assert!(taken.is_ok() || is_full || !has_room, "and whoever is told that there is room is taken");
        match taken {
            Ok(()) => {
                device.next += 1;
                true
            }
            Err(NotTaken::Full(handle)) => {
                drop(device.in_flight.withdraw(handle));
                false
            }
            Err(NotTaken::Broken) => panic!("nothing here is too large"),
        }
    }

    fn kafka_takes(&mut self, partition: usize, records: usize) {
        for _ in 0..records {
            let Some((seq, record)) = self.producer[partition].pop_front() else { return };
            self.log[partition].push(content(&record));
            self.unreported[partition].push_back(seq);
        }
    }

    fn kafka_reports(&mut self, partition: usize) {
        for seq in std::mem::take(&mut self.unreported[partition]) {
            self.failover.acknowledged(seq);
        }
    }

    async fn forward_begins(&mut self, records: usize, kept_of_purged: usize) {
        if self.under_way.is_some() {
            return;
        }
        let switches = self.failover.switches();
        if switches != self.purged_switches {
            for partition in 0..PARTITIONS {
                self.kafka_takes(partition, kept_of_purged);
                let purged = std::mem::take(&mut self.producer[partition]);
                let tickets =
                    self.unreported[partition].drain(..).chain(purged.into_iter().map(|(seq, _)| seq));
                tickets.for_each(|seq| self.failover.failed(seq));
            }
            self.purged_switches = switches;
        }
        let batch = self.failover.read(switches, self.from, records).await.unwrap();
        let batch = batch.expect("nothing happens in between here");
        let Some((last, _)) = batch.last() else {
            self.failover.resume(switches);
            return;
        };
        if *last >= self.failover.spool().status().durable_through {
            self.failover.begin_return();
        }
        self.under_way = Some((batch, switches));
    }

    fn forward_ends(&mut self, records: usize) {
        let Some((batch, switches)) = self.under_way.take() else { return };
        for (seq, record) in batch.iter().take(records) {
            let content = content(record);
            self.log[content.0 % PARTITIONS].push(content);
            self.failover.spool().remove_through(*seq);
            self.from = seq + 1;
        }
        if records >= batch.len() {
            self.failover.resume(switches);
        }
    }

    /// PUBACKs, in the order of publishing; after a failure the device connects again and sends the rest once
    /// more.
    fn take_acknowledgements(&mut self) {
        for device in &mut self.devices {
            let mut has_failed = false;
            device.in_flight.take_completed(|done| {
                let AckKind::Ack(packet_id) = done.kind else { unreachable!("each is owed a PUBACK") };
                has_failed |= done.outcome == Outcome::Failed;
                if !has_failed {
                    assert_eq!(
                        u64::from(packet_id),
                        device.acknowledged,
                        "in PUBLISH order, and none left out"
                    );
                    device.acknowledged += 1;
                }
            });
            if has_failed {
                assert!(device.was_refused, "only what Kafka refuses fails");
                device.in_flight = Arc::default();
                device.next = device.acknowledged;
            }
        }
    }

    /// Checks that each acknowledged record is in Kafka or in the spool, and that all came in order.
    async fn check(&self) {
        let mut kept: BTreeSet<_> = self.log.iter().flatten().copied().collect();
        let spooled = self.failover.spool().read(self.from, usize::MAX).await.unwrap();
        kept.extend(spooled.iter().map(|(_, record)| content(record)));
        for (sensor, device) in self.devices.iter().enumerate() {
            for number in 1..device.acknowledged {
                assert!(
                    kept.contains(&(sensor, number)),
                    "s{sensor} has a PUBACK for {number}, which is nowhere"
                );
            }
        }
        let mut seen = HashMap::new();
        for (sensor, number) in self.log.iter().flatten() {
            let last = seen.entry(*sensor).or_insert(0);
            if !self.devices[*sensor].was_refused {
                assert!(*number <= *last + 1, "s{sensor}: {number} can be read before {}", *last + 1);
            }
            *last = (*last).max(*number);
        }
    }

    /// Everything works again: all that devices want to publish arrives.
    async fn recover(&mut self) {
        self.producer_is_full = false;
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "it does not come to an end");
            self.suffer(Event::ForwardEnds { records: usize::MAX }).await;
            for partition in 0..PARTITIONS {
                let records = usize::MAX;
                self.suffer(Event::KafkaTakes { partition, records, is_reported: true }).await;
            }
            self.suffer(Event::ForwardBegins { records: 10, kept_of_purged: 0 }).await;
            if self.failover.is_spooling() {
                self.suffer(Event::PatienceEnds).await;
            }
            let is_idle = self.devices.iter().all(|device| device.in_flight.load().records == 0);
            let spool = self.failover.spool().status();
            if is_idle && !self.failover.is_spooling() && spool.records == 0 {
                break;
            }
        }
        for sensor in 0..SENSORS {
            assert!(self.publish(sensor), "there is room");
            let is_direct = self.producer[sensor % PARTITIONS].back().is_some();
            assert!(is_direct, "s{sensor} goes to Kafka directly again");
            self.suffer(Event::KafkaTakes { partition: sensor % PARTITIONS, records: 1, is_reported: true })
                .await;
        }
        for device in &self.devices {
            assert_eq!(device.acknowledged, device.next, "everything published has its PUBACK");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_an_acknowledged_record_is_kept_and_a_sensors_records_keep_their_order(
        events in vec(event(), 0..150),
    ) {
        // In memory where there is such a folder: the disk is not what this is about.
        let shared_memory = Path::new("/dev/shm");
        let dir = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(dir.path()).await;
            for event in events {
                world.suffer(event).await;
                world.check().await;
            }
            world.recover().await;
            world.check().await;
        });
    }
}

#[tokio::test]
async fn records_spooled_by_a_newer_switch_are_not_forwarded_before_their_copies_are_purged() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path()).await;
    assert!(world.publish(0));
    let switches = world.failover.switches();
    world.failover.give_up();
    let spool = world.failover.spool();
    spool.wait_for(1).await;
    assert!(!world.producer[0].is_empty(), "the producer still has its copy");
    assert_eq!(world.failover.read(switches, 1, 10).await.unwrap(), None);
    let batch = world.failover.read(world.failover.switches(), 1, 10).await.unwrap();
    assert_eq!(batch.map(|batch| batch.len()), Some(1), "after the purge it goes on");
}
