//! One service, its database and its topics.

use cdc_svc::Config;
use chassis::config::Env;
use chassis::{Chassis, postgres};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use pgwire_replication::{ReplicationClient, ReplicationConfig};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use schema::topics::Topic;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;
use testkit::kafka::{Kafka, Reader, Record};
use testkit::postgres::Database;
use testkit::wait::until;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

pub(crate) struct Stage {
    pub(crate) kafka: Kafka,
    pub(crate) database: Database,
    pub(crate) sql: Client,
    pub(crate) slot: String,
}

pub(crate) struct Service {
    pub(crate) chassis: Chassis,
    task: JoinHandle<anyhow::Result<()>>,
}

/// A process of its own, so that it can be killed.
pub(crate) struct Process(Child);

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_on(Database::create().await).await
    }

    pub(crate) async fn set_on(database: Database) -> Self {
        let sql = database.client().await;
        Self { kafka: Kafka::create().await, sql, database, slot: testkit::unique("t").replace('-', "_") }
    }

    pub(crate) fn start(&self) -> Service {
        self.start_with(Duration::from_secs(120))
    }

    /// Starts it with another longest standstill.
    pub(crate) fn start_with(&self, stall_max: Duration) -> Service {
        self.start_on(self.database.settings(), stall_max)
    }

    /// Starts it with these variables of the database.
    pub(crate) fn start_at(&self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Service {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        chassis::install_tls_provider();
        let mut env = Env::of(variables);
        let postgres = postgres::Settings::from_env(&mut env);
        env.finish().unwrap();
        self.start_on(postgres, Duration::from_secs(120))
    }

    fn start_on(&self, postgres: postgres::Settings, stall_max: Duration) -> Service {
        let chassis = Chassis::new();
        let config = Config { kafka: self.kafka.settings(), postgres, slot: self.slot.clone(), stall_max };
        Service { task: tokio::spawn(cdc_svc::run(config, chassis.clone())), chassis }
    }

    pub(crate) fn spawn(&self) -> Process {
        self.spawn_with(&[("DATABASE_URL", self.database.url())])
    }

    /// Starts a process that is told this of the database.
    pub(crate) fn spawn_with(&self, database: &[(&str, &str)]) -> Process {
        let process = testkit::process::command(env!("CARGO_BIN_EXE_cdc-svc"))
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap)
            .env("KAFKA_TOPIC_PREFIX", &self.kafka.prefix)
            .envs(database.iter().copied())
            .env("CDC_SLOT", &self.slot)
            .env("LOG", "warn")
            .stdin(Stdio::null())
            .spawn();
        Process(process.unwrap())
    }

    /// Takes the topic of devices away: the broker neither takes nor finally refuses what is produced.
    pub(crate) async fn remove_topic(&self) {
        let topic = self.kafka.settings().topic(DEVICES.name);
        let admin = self.admin();
        let deleted = admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        // The controller has deleted it; the broker takes records until it has heard of that.
        until("the broker to forget the topic", async || {
            let metadata = admin.inner().fetch_metadata(Some(&topic), Duration::from_secs(10)).ok()?;
            metadata.topics().iter().all(|topic| topic.partitions().is_empty()).then_some(())
        })
        .await;
    }

    /// Brings it back, empty.
    pub(crate) async fn restore_topic(&self) {
        let topic = self.kafka.settings().topic(DEVICES.name);
        let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
        let made = self.admin().create_topics([&new], &AdminOptions::new()).await.unwrap();
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.kafka.settings().client().create().unwrap()
    }

    /// Holds the slot as a replica does whose loop hangs: its connection lives, and nothing is confirmed.
    pub(crate) async fn hold_slot(&self) -> ReplicationClient {
        let server: tokio_postgres::Config = self.database.url().parse().unwrap();
        let tokio_postgres::config::Host::Tcp(host) = &server.get_hosts()[0] else { panic!("a TCP server") };
        let password = std::str::from_utf8(server.get_password().unwrap_or_default()).unwrap();
        let (user, name) = (server.get_user().unwrap(), server.get_dbname().unwrap());
        let config = ReplicationConfig::new(host, user, password, name, &self.slot, "fieldline_changes")
            .with_port(server.get_ports()[0]);
        let mut holder = ReplicationClient::connect(config).await.unwrap();
        holder.wait_started().await.unwrap();
        holder
    }

    /// Waits until nobody holds the slot.
    pub(crate) async fn slot_is_free(&self) {
        let held = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE active AND slot_name LIKE '{}%'",
            self.slot
        );
        until("the slot to be free", async || (self.database.count(&held).await == 0).then_some(())).await;
    }

    /// Runs the service until its snapshot is complete; before that, every start begins with the present
    /// state.
    pub(crate) async fn take_snapshot(&self) {
        let service = self.start();
        service.is_ready().await;
        self.stop(service).await;
    }

    pub(crate) async fn stop(&self, service: Service) {
        service.end().await;
        self.slot_is_free().await;
    }

    pub(crate) async fn abort(&self, service: Service) {
        service.task.abort();
        assert!(service.task.await.unwrap_err().is_cancelled());
        self.slot_is_free().await;
    }

    pub(crate) async fn kill(&self, mut process: Process) {
        process.kill();
        self.slot_is_free().await;
    }

    pub(crate) async fn add_device(&self, id: &str) {
        let insert = "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status, version) \
                      VALUES ($1, 'THERMOSTAT', 'zone', 'json', 'active', 1)";
        self.sql.execute(insert, &[&id]).await.unwrap();
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap();
    }

    /// Waits until the topic, read from its beginning, holds exactly the keys and versions of the devices
    /// table.
    pub(crate) async fn topic_mirrors_devices(&self) -> BTreeMap<String, i64> {
        let expected: BTreeMap<String, i64> = self
            .sql
            .query("SELECT sensor_id, version FROM devices", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let reader = self.kafka.read(schema::topics::DEVICE_UPDATES);
        let mut held = BTreeMap::new();
        while held != expected {
            let record = reader.next().await;
            let id = key(&record)["sensor_id"].as_str().unwrap().to_owned();
            match &record.value {
                Some(_) => {
                    let change = value(&record);
                    match change["after"]["version"].as_i64() {
                        Some(version) => held.insert(id, version),
                        None => held.remove(&id),
                    };
                }
                None => {
                    held.remove(&id);
                }
            }
        }
        held
    }
}

impl Service {
    pub(crate) async fn end(self) {
        self.chassis.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it stops by itself, and returns why.
    pub(crate) async fn ends(self) -> anyhow::Error {
        let ended = tokio::time::timeout(testkit::wait::PATIENCE, self.task).await;
        ended.expect("it goes on").unwrap().unwrap_err()
    }

    pub(crate) async fn is_ready(&self) {
        let ready = async || {
            assert!(!self.task.is_finished(), "the service has ended");
            // The latches exist once the metrics do.
            let begun = !self.chassis.registry.gather().is_empty();
            (begun && self.chassis.readiness.closed().is_empty()).then_some(())
        };
        until("the service to be ready", ready).await;
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        tokio::time::timeout(testkit::wait::PATIENCE, self.task).await.expect("the service ends").unwrap()
    }

    /// Returns the value of a counter or gauge without labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.chassis.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| family.get_metric().first());
        metric.map_or(0.0, |metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
    }

    pub(crate) fn is_active(&self) -> bool {
        let families = self.chassis.registry.gather();
        families
            .iter()
            .filter(|family| family.name() == "cdc_active_flag")
            .any(|family| family.get_metric().iter().any(|metric| metric.get_gauge().get_value() > 0.5))
    }
}

impl Process {
    /// Ends it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Stops it, sockets open.
    pub(crate) fn freeze(&self) {
        signal::kill(self.pid(), Signal::SIGSTOP).unwrap();
    }

    /// Ends what [`Process::freeze`] began.
    pub(crate) fn thaw(&self) {
        signal::kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Err means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn key(record: &Record) -> Value {
    serde_json::from_slice(&record.key).unwrap()
}

pub(crate) fn value(record: &Record) -> Value {
    serde_json::from_str(record.text()).unwrap()
}

/// Reads the next change and says what happened to whom, such as `c a 1` (op, key, version).
pub(crate) async fn next(reader: &Reader) -> String {
    let record = reader.next().await;
    let key = key(&record);
    let id = key.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
    if record.value.is_none() {
        return format!("tombstone {id}");
    }
    let change = value(&record);
    let row = if change["after"].is_null() { &change["before"] } else { &change["after"] };
    format!("{} {id} {}", change["op"].as_str().unwrap(), row["version"])
}

pub(crate) async fn expect(reader: &Reader, expected: &[&str]) {
    for expected in expected {
        assert_eq!(next(reader).await, *expected);
    }
}

pub(crate) const DEVICES: Topic = schema::topics::DEVICE_UPDATES;
pub(crate) const THRESHOLDS: Topic = schema::topics::THRESHOLD_UPDATES;
