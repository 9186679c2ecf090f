use crate::own_postgres;
use chassis::postgres::Settings;
use iotctl::database;
use iotctl::services::Service;
use iotctl::state::State;
use schema::migrations::Dialect;
use testkit::postgres::Database;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

async fn login(state: &State, service: &str) -> Client {
    let url = std::fs::read_to_string(database::url_file(state, service)).unwrap();
    Settings::local(url).connect().await.unwrap()
}

#[tokio::test]
async fn each_service_may_do_its_work_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(Some(folder.path())).unwrap();
    let (server, _) = own_postgres(folder.path()).await;
    let given = database::Server::new(&server.url("postgres"), None).unwrap();
    // Twice: a second start finds everything there.
    for _ in 0..2 {
        database::prepare(&state, &given, Some(Dialect::Postgres)).await.unwrap();
    }
    let other = database::prepare(&state, &given, Some(Dialect::Distributed)).await.unwrap_err();
    assert!(other.to_string().contains("has the dialect postgres"), "{other:#}");
    let allowed = [
        (
            "device-svc",
            "INSERT INTO devices (sensor_id, device_type, zone_id, codec, status) VALUES ('a', 'T', 'z', 'json', 'active')",
        ),
        ("device-svc", "DELETE FROM devices"),
        ("threshold-svc", "UPDATE sensor_thresholds SET mode = 'off'"),
        ("command-svc", "SELECT ensure_reading_partition('2026-01-01'), drop_readings_before('2025-01-01')"),
        ("command-svc", "SELECT remove_empty_partition()"),
        (
            "command-svc",
            "INSERT INTO readings_ingestion SELECT 'a', 'm', '2026-01-01 12:00Z', 1, gen_random_uuid(), now(), 'T', 'z' ON CONFLICT DO NOTHING",
        ),
        ("cdc-svc", "SELECT * FROM devices, sensor_thresholds"),
        ("cdc-svc", "SELECT pg_create_logical_replication_slot('s', 'pgoutput', true)"),
        ("query-svc", "SELECT avg FROM sensor_reading_hourly_aggregates"),
        ("query-svc", "SELECT value FROM sensor_latest"),
    ];
    for (service, statement) in allowed {
        login(&state, service)
            .await
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{service}: {statement}: {error}"));
    }
    let refused = [
        ("device-svc", "SELECT * FROM sensor_thresholds"),
        ("device-svc", "SELECT * FROM readings_ingestion"),
        ("threshold-svc", "DELETE FROM devices"),
        ("command-svc", "SELECT * FROM devices"),
        ("command-svc", "DELETE FROM readings_ingestion"),
        ("command-svc", "DROP TABLE readings_ingestion_20260101"),
        ("command-svc", "UPDATE storage_contract SET readings_kept_from = NULL"),
        ("query-svc", "SELECT drop_readings_before('2027-01-01')"),
        ("command-svc", "CREATE TABLE mine ()"),
        ("cdc-svc", "UPDATE devices SET status = 'retired'"),
        ("cdc-svc", "SELECT * FROM readings_ingestion"),
        ("query-svc", "UPDATE sensor_latest SET value = 0"),
        ("query-svc", "SELECT pg_create_logical_replication_slot('t', 'pgoutput', true)"),
    ];
    for (service, statement) in refused {
        let error = login(&state, service).await.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{service}: {statement}: {error}");
    }
    rights_are_those_of_the_table(&server.url(database::NAME)).await;
    server.stop().await.unwrap();
}

/// The writer of a table may insert into it, and its readers may only read.
async fn rights_are_those_of_the_table(url: &str) {
    let admin = Settings::local(url).connect().await.unwrap();
    let tables = Service::ALL.iter().flat_map(|service| service.writes);
    for table in tables {
        for service in Service::ALL.into_iter().filter(|service| service.has_database()) {
            for (right, expected) in [
                ("SELECT", service.writes.contains(table) || service.reads.contains(table)),
                ("INSERT", service.writes.contains(table)),
            ] {
                let asked = "SELECT has_table_privilege($1::text, $2::text, $3::text)";
                let row = admin.query_one(asked, &[&service.role(), table, &right]).await.unwrap();
                assert_eq!(row.get::<_, bool>(0), expected, "{}: {right} on {table}", service.name);
            }
        }
    }
}

/// Says whether the extension is loaded at the server's start and may be more than its Apache-licensed part.
async fn loads_timescale(client: &Client) -> bool {
    let loaded: String = client.query_one("SHOW shared_preload_libraries", &[]).await.unwrap().get(0);
    loaded.contains("timescaledb")
}

#[tokio::test]
async fn a_new_database_gets_what_its_server_has_loaded_and_looking_leaves_nothing_behind() {
    let database = Database::create_empty().await;
    let mut client = database.client().await;
    let expected = match (database.has_citus().await, loads_timescale(&client).await) {
        (true, _) => Dialect::Distributed,
        (false, true) => Dialect::Timescale,
        (false, false) => Dialect::Postgres,
    };
    for _ in 0..2 {
        assert_eq!(database::offered(&client).await.unwrap(), expected);
    }
    let extensions = "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'";
    assert_eq!(database.count(extensions).await, 0);
    // Over the same connection, as `iotctl migrate` does it.
    assert_eq!(database::migrate(&mut client, None).await.unwrap(), expected);
    assert_eq!(database::migrate(&mut client, None).await.unwrap(), expected);
}

#[tokio::test]
async fn on_citus_the_tables_of_readings_are_spread_by_the_migration() {
    let database = Database::create().await;
    if !database.has_citus().await {
        return; // other servers spread tables by themselves, or not at all
    }
    let placed = "SELECT count(DISTINCT colocationid) * 10 + count(*) FROM pg_dist_partition
                  WHERE logicalrelid IN ('readings_ingestion'::regclass, 'sensor_latest'::regclass,
                                         'sensor_reading_hourly_aggregates'::regclass)";
    assert_eq!(database.count(placed).await, 13, "three tables in one place");
    let mut clients = [database.client().await, database.client().await];
    let [one, other] = &mut clients;
    let again = tokio::join!(database::migrate(one, None), database::migrate(other, None));
    assert_eq!((again.0.unwrap(), again.1.unwrap()), (Dialect::Distributed, Dialect::Distributed));
}

#[tokio::test]
async fn up_refuses_a_server_that_it_cannot_use_before_it_starts_anything() {
    let folder = tempfile::tempdir().unwrap();
    let (url_file, state) = (folder.path().join("admin.url"), folder.path().join("state"));
    for (text, reason) in
        [("host=127.0.0.1", "postgres://USER"), ("postgres://a:b@db.example/any", "DATABASE_CA_FILE")]
    {
        std::fs::write(&url_file, text).unwrap();
        let mut up = tokio::process::Command::new(env!("CARGO_BIN_EXE_iotctl"));
        up.args(["up", "--database-url-file"]).arg(&url_file).env("FIELDLINE_STATE", &state);
        let output = up.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{said}");
        assert!(!state.join("run").exists(), "it has begun");
    }
}

#[tokio::test]
async fn an_owner_who_is_no_superuser_migrates_and_grants_once_the_roles_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = own_postgres(folder.path()).await;
    let admin = Settings::local(server.url("postgres")).connect().await.unwrap();
    admin.batch_execute("CREATE ROLE fieldline LOGIN PASSWORD 'fieldline'").await.unwrap();
    admin.batch_execute("CREATE DATABASE fieldline OWNER fieldline").await.unwrap();
    // Each role's password is its name.
    let login = |role: &str| Settings::local(format!("postgres://{role}:{role}@127.0.0.1:{port}/fieldline"));
    let mut owner = login("fieldline").connect().await.unwrap();
    let dialect = database::migrate(&mut owner, Some(Dialect::Postgres)).await.unwrap();

    let missing = database::grant(&owner, dialect).await.unwrap_err().to_string();
    assert!(missing.contains("there is no role command_svc"), "{missing}");
    for role in Service::ALL.into_iter().filter(|service| service.has_database()).map(Service::role) {
        admin.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{role}'")).await.unwrap();
    }
    let unfit = database::grant(&owner, dialect).await.unwrap_err().to_string();
    assert!(unfit.contains("ALTER ROLE cdc_svc REPLICATION"), "{unfit}");
    admin.batch_execute("ALTER ROLE cdc_svc REPLICATION").await.unwrap();
    // Twice, as each release does it again.
    for _ in 0..2 {
        database::grant(&owner, dialect).await.unwrap();
    }
    let device_svc = login("device_svc").connect().await.unwrap();
    device_svc.batch_execute("DELETE FROM devices").await.unwrap();
    let refused = device_svc.batch_execute("DELETE FROM readings_ingestion").await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}
