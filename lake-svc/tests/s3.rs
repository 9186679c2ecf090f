//! The lake in a bucket, on a server that is not ours.

use crate::python;
use crate::support::{Process, Stage, readings};
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};
use std::process::Stdio;
use testkit::proxy::Proxy;
use testkit::wait::until;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const BUCKET: &str = "lake";
const SECRET: &str = "only-a-test";

struct Server {
    _process: Child,
    port: u16,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3_server.py");
        let mut command = Command::new(python::python().await);
        command.arg(script).args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().unwrap().parse().unwrap();
        // A bucket is made by a plain PUT, which this server takes unsigned.
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let made = client.put(format!("http://127.0.0.1:{port}/{BUCKET}")).send().await.unwrap();
        assert!(made.status().is_success(), "{made:?}");
        Self { _process: process, port }
    }
}

/// Starts the service on a bucket behind `port`.
fn spawn(stage: &Stage, port: u16) -> Process {
    let secret = stage.folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let endpoint = format!("http://127.0.0.1:{port}");
    stage.spawn(&[
        ("LAKE_URL", "s3://lake/site-a"),
        ("LAKE_S3_ENDPOINT", &endpoint),
        ("LAKE_S3_REGION", "eu-central-1"),
        ("LAKE_S3_ACCESS_KEY_ID", "test"),
        ("LAKE_S3_SECRET_ACCESS_KEY_FILE", secret.to_str().unwrap()),
        ("STORE_ANSWER_MS_MAX", "3000"),
    ])
}

/// Copies what is in the bucket into the stage's folder, where it can be looked at.
async fn download(stage: &Stage, port: u16) {
    chassis::install_tls_provider();
    let bucket = AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_allow_http(true)
        .with_region("eu-central-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id("test")
        .with_secret_access_key(SECRET)
        .build()
        .unwrap();
    let objects: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    for object in objects {
        let path = object.location.as_ref().strip_prefix("site-a/").expect("under the prefix");
        let path = stage.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bucket.get(&object.location).await.unwrap().bytes().await.unwrap()).unwrap();
    }
}

async fn holds_all(stage: &Stage, port: u16) {
    until("every record in the bucket", async || {
        download(stage, port).await;
        let ends = stage.ends();
        ends.iter().all(|(partition, end)| *end == 0 || stage.done(*partition) >= *end).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_holds_every_reading_once_through_kills_and_an_outage() {
    let (stage, server) = (Stage::set().await, Server::start(&[]).await);
    let proxy = Proxy::to(&format!("127.0.0.1:{}", server.port)).await;
    let mut all = Vec::new();
    for numbers in [0..300, 300..600] {
        let more = readings(numbers);
        stage.publish(&more).await;
        all.extend(more);
        let process = spawn(&stage, proxy.port());
        process.is_ready(true).await;
        until("a cut", async || (process.metric("lake_write_seconds_count").await? >= 1.0).then_some(()))
            .await;
        process.kill();
    }
    let process = spawn(&stage, proxy.port());
    holds_all(&stage, server.port).await;

    proxy.cut();
    let more = readings(600..900);
    stage.publish(&more).await;
    all.extend(more);
    process.is_ready(false).await;
    proxy.mend();
    process.is_ready(true).await;
    holds_all(&stage, server.port).await;

    // Nothing is refused and nothing answers, as with a server that is frozen.
    proxy.stall();
    let more = readings(900..1_200);
    stage.publish(&more).await;
    all.extend(more);
    process.is_ready(false).await;
    proxy.resume();
    process.is_ready(true).await;
    holds_all(&stage, server.port).await;
    assert_eq!(process.stop().await, Some(0));
    download(&stage, server.port).await;
    stage.holds_exactly(&all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_overwrites_what_should_be_created_once_is_refused() {
    let (stage, server) = (Stage::set().await, Server::start(&["overwrites"]).await);
    assert_eq!(spawn(&stage, server.port).ended().await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_the_store_is_away_at_the_start_is_a_clean_end() {
    let stage = Stage::set().await;
    let process = spawn(&stage, testkit::free_port());
    process.is_ready(false).await;
    assert_eq!(process.stop().await, Some(0));
}
