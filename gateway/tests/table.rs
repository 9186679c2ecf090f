//! The reader of the table of devices, stuck for real.

use chassis::Chassis;
use chassis::kafka::{Assignment, Watch, WatchMetrics, Watched, table};
use parking_lot::Mutex;
use schema::topics;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use testkit::kafka::Kafka;
use testkit::wait;
use tokio::task::JoinHandle;

const STALL_MAX: Duration = Duration::from_secs(2);

/// A reader that waits at each record until it is let go, and a watch over it.
struct Reader {
    let_go: Sender<()>,
    tasks: [JoinHandle<anyhow::Result<()>>; 2],
}

fn read(kafka: &Kafka, chassis: &Chassis) -> Reader {
    let (settings, topic) = (kafka.settings(), kafka.settings().topic(topics::DEVICE_UPDATES.name));
    let assignment = Assignment::default();
    let watched = Watched {
        latch: "progress",
        group: "reader",
        topic: &topic,
        assignment: &assignment,
        stall_max: STALL_MAX,
        metrics: WatchMetrics::register(&chassis.registry, "reader").unwrap(),
    };
    let watch = Watch::open(&settings, chassis, watched).unwrap();
    let (let_go, gate) = channel();
    let gate = Arc::new(Mutex::new(gate));
    let (latch, shutdown) = (chassis.readiness.latch("table"), chassis.shutdown.clone());
    let follow = async move {
        let source =
            table::Source { reader: "reader", topic: &topic, latch: &latch, assignment: &assignment };
        // Err means that the test is over.
        let apply = |_: &[u8], _: Option<&[u8]>| gate.lock().recv().unwrap_or_default();
        table::follow(&settings, source, &shutdown, apply, || {}).await
    };
    Reader { let_go, tasks: [tokio::spawn(follow), tokio::spawn(watch.run(|_| true))] }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_is_stuck_is_neither_ready_nor_live_until_it_goes_on() {
    let (kafka, chassis) = (Kafka::create().await, Chassis::new());
    for _ in 0..2 {
        kafka.produce(topics::DEVICE_UPDATES, "a", Some(b"{}")).await;
    }
    let reader = read(&kafka, &chassis);
    let closed = async |expected: &[&str]| {
        wait::until("the latches", async || (chassis.readiness.closed() == expected).then_some(())).await;
    };
    closed(&["progress", "table"]).await;
    wait::until("the process is not live", async || (!chassis.liveness.is_live()).then_some(())).await;
    reader.let_go.send(()).unwrap();
    reader.let_go.send(()).unwrap();
    closed(&[]).await;
    assert!(chassis.liveness.is_live(), "it goes on");
}
