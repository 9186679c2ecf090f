//! A server that takes TLS and SCRAM alone, from a role that has the service's rights alone.

use crate::support::{DEVICES, Stage, expect};
use testkit::pki::TestPki;
use testkit::postgres::Database;
use testkit::server::Server;
use testkit::wait::until;

/// Rules of access: the service comes over TLS with its password, the test as it likes.
const RULES: [&str; 2] =
    ["hostssl all cdc_svc 127.0.0.1/32 scram-sha-256", "host all postgres 127.0.0.1/32 scram-sha-256"];

async fn stage_over_tls(pki: &TestPki) -> (Server, Stage) {
    let server = Server::start_with_tls(pki).await;
    let stage = Stage::set_on(Database::create_on(&server).await).await;
    let role = "CREATE ROLE cdc_svc LOGIN REPLICATION PASSWORD 'right'; \
                GRANT SELECT ON refinery_schema_history, devices, sensor_thresholds, silences TO cdc_svc";
    stage.run(role).await;
    server.admit(&RULES).await;
    stage.add_device("a").await;
    (server, stage)
}

fn url(server: &Server, stage: &Stage, password: &str) -> String {
    let (_, database) = stage.database.url().rsplit_once('/').unwrap();
    format!("postgres://cdc_svc:{password}@localhost:{}/{database}", server.port())
}

#[tokio::test]
async fn changes_arrive_over_tls_and_scram_with_the_rights_of_the_service() {
    let pki = TestPki::create();
    let (server, stage) = stage_over_tls(&pki).await;
    let (url, ca) = (url(&server, &stage, "right"), pki.path("ca.pem"));
    let process = stage.spawn_with(&[("DATABASE_URL", &url), ("DATABASE_CA_FILE", ca.to_str().unwrap())]);
    let devices = stage.kafka.read(DEVICES);
    expect(&devices, &["r a 1"]).await;
    stage.run("UPDATE devices SET version = 2").await;
    expect(&devices, &["u a 2"]).await;
    let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) \
                 WHERE usename = 'cdc_svc' AND NOT ssl";
    assert_eq!(stage.database.count(plain).await, 0);
    let streams = "SELECT count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) WHERE ssl";
    assert_eq!(stage.database.count(streams).await, 1);
    stage.kill(process).await;
}

#[tokio::test]
async fn server_of_another_authority_and_a_connection_without_tls_are_refused() {
    let (pki, other) = (TestPki::create(), TestPki::create());
    let (server, stage) = stage_over_tls(&pki).await;
    let ca = other.path("ca.pem");
    let ca = ("DATABASE_CA_FILE", ca.to_str().unwrap().to_owned());
    for (password, further) in [("right", Some(ca)), ("right", None)] {
        let url = ("DATABASE_URL", url(&server, &stage, password));
        let service = stage.start_at(std::iter::once(url).chain(further));
        let tried = async || (service.metric("cdc_session_retries_total") > 1.0).then_some(());
        until("the second refusal", tried).await;
        assert_eq!(service.chassis.readiness.closed(), ["kafka", "postgres"]);
        service.end().await;
    }
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(stage.database.count(slots).await, 0);
}
