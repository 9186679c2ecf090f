use chassis::kafka::Settings as Broker;
use iotctl::files::random_name;
use iotctl::topics::{Settings, create};
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use schema::topics::{ALERTS, ALL, DEVICE_UPDATES, PRODUCER_DLQ, READING_DLQ};
use testkit::setting;

#[tokio::test]
async fn topics_are_made_once_with_the_partitions_and_settings_of_the_topic_map() {
    let prefix = format!("topics-{}-", random_name(8));
    let broker = Broker::local(setting("TEST_KAFKA_BOOTSTRAP"), prefix);
    let settings = Settings { broker: broker.clone(), partitions: 3, replication: 1 };
    assert_eq!(create(&settings).await.unwrap(), ALL.len());
    assert_eq!(create(&settings).await.unwrap(), 0);

    let consumer: BaseConsumer = broker.client().create().unwrap();
    let admin: AdminClient<DefaultClientContext> = broker.client().create().unwrap();
    let month = (30_u64 * 24 * 3600 * 1000).to_string();
    for (topic, partitions, settings) in [
        (ALERTS, 3, vec![("cleanup.policy", "delete"), ("retention.ms", &month), ("retention.bytes", "-1")]),
        (DEVICE_UPDATES, 1, vec![("cleanup.policy", "compact"), ("delete.retention.ms", &month)]),
        (PRODUCER_DLQ, 1, vec![("retention.ms", &month), ("retention.bytes", "10737418240")]),
        (READING_DLQ, 1, vec![("retention.ms", &month), ("retention.bytes", "10737418240")]),
    ] {
        let name = broker.topic(topic.name);
        let metadata = consumer.fetch_metadata(Some(&name), std::time::Duration::from_secs(10)).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), partitions, "{name}");
        let resource = [ResourceSpecifier::Topic(&name)];
        let described = admin.describe_configs(&resource, &AdminOptions::new()).await.unwrap();
        let config = described.into_iter().next().unwrap().unwrap();
        for (key, value) in settings {
            assert_eq!(config.get(key).unwrap().value.as_deref(), Some(value), "{name}: {key}");
        }
    }
}
