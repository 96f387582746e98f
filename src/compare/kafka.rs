//! Floor 5: pairs in a Kafka topic, read from its beginning to where it ended when we came. No group is joined
//! and no offset committed: reading leaves no trace. Every wait is bounded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::found::{At, Found, Take};

/// How long a broker may take to answer a question.
const ASK: Duration = Duration::from_secs(10);
/// How long the broker may send nothing although there is more.
const STALL: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
/// How many topics a message names.
const NAMED: usize = 10;

/// Reads all records that the topic holds now.
pub(super) fn read_topic(brokers: &str, topic: &str, take: &mut Take<'_>) -> anyhow::Result<()> {
    let consumer = consumer(brokers)?;
    let partitions = partitions(&consumer, brokers, topic, ASK)?;
    let mut parts = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for id in partitions {
        take(Found::Part)?;
        let (first, end) = consumer
            .fetch_watermarks(topic, id, ASK)
            .with_context(|| format!("{topic}[{id}]: cannot ask {brokers} where it begins and ends"))?;
        if first < end {
            assignment.add_partition_offset(topic, id, Offset::Offset(first))?;
            parts.insert(id, Part { name: format!("{topic}[{id}]"), end });
        }
    }
    consumer.assign(&assignment)?;
    read_parts(&consumer, brokers, parts, take)
}

/// A partition that is not read to its end yet.
struct Part {
    name: String,
    end: i64,
}

fn read_parts(
    consumer: &BaseConsumer,
    brokers: &str,
    mut parts: BTreeMap<i32, Part>,
    take: &mut Take<'_>,
) -> anyhow::Result<()> {
    let mut heard = Instant::now();
    while !parts.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let (id, number) = (message.partition(), message.offset());
                let Some(part) = parts.get(&id) else { continue };
                // What came after we did is for the next reader; a message without value is a tombstone.
                if let Some(bytes) = message.payload().filter(|_| number < part.end) {
                    take(Found::Record(At { part: &part.name, number }, bytes))?;
                }
                if number + 1 >= part.end {
                    parts.remove(&id);
                }
            }
            // Its last offsets may be markers of transactions, which are no messages.
            Some(Err(KafkaError::PartitionEOF(id))) => {
                heard = Instant::now();
                parts.remove(&id);
            }
            Some(Err(error)) if is_lasting(&error) => {
                return Err(anyhow!(error).context(format!("{brokers}: reading stopped")));
            }
            // The client mends the others by itself, or the wait runs out.
            Some(Err(_)) | None if heard.elapsed() < STALL => {}
            Some(Err(_)) | None => {
                let names: Vec<&str> = parts.values().map(|part| part.name.as_str()).collect();
                let (names, seconds) = (names.join(", "), STALL.as_secs());
                bail!("{brokers}: nothing came for {seconds} s although {names} is not read to its end");
            }
        }
    }
    Ok(())
}

fn is_lasting(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                Code::UnknownTopicOrPartition
                    | Code::UnknownTopic
                    | Code::UnknownPartition
                    | Code::TopicAuthorizationFailed
                    | Code::Authentication
                    | Code::OffsetOutOfRange
                    | Code::AutoOffsetReset
            )
        )
}

fn consumer(brokers: &str) -> anyhow::Result<BaseConsumer> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("client.id", "shadowpair-compare")
        // The client wants a name before it reads anything; nothing is ever committed under it.
        .set("group.id", "shadowpair-compare")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // What `keep` of the topic deletes while we read is gone, not an end.
        .set("auto.offset.reset", "earliest")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .with_context(|| format!("{brokers}: no Kafka client could be made"))
}

fn partitions(consumer: &BaseConsumer, brokers: &str, topic: &str, ask: Duration) -> anyhow::Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ask).map_err(|error| unreachable(brokers, ask, error))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
    match (found, error) {
        (Some(found), None) if !found.partitions().is_empty() => {
            Ok(found.partitions().iter().map(|partition| partition.id()).collect())
        }
        (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) | None) => {
            bail!("{brokers}: no topic `{topic}`; {}", topics(consumer))
        }
        (_, Some(code)) => bail!("{brokers}: topic `{topic}` cannot be read: {code}"),
    }
}

fn unreachable(brokers: &str, ask: Duration, error: KafkaError) -> anyhow::Error {
    let why = error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string());
    anyhow!("{brokers}: no Kafka broker answered within {ask:?} ({why}); is the address right?")
}

/// What there is instead.
fn topics(consumer: &BaseConsumer) -> String {
    let Ok(metadata) = consumer.fetch_metadata(None, ASK) else {
        return "its topics cannot be listed".into();
    };
    let names = metadata.topics().iter().map(|topic| topic.name()).filter(|name| !name.starts_with("__"));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let more = if names.len() > NAMED { ", …" } else { "" };
    names.truncate(NAMED);
    if names.is_empty() { "it has none".into() } else { format!("it has {}{more}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    fn send(brokers: &str, topic: &str, partition: i32, payloads: &[&str]) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().expect("producer");
        for payload in payloads {
            let record = BaseRecord::<str, str>::to(topic).partition(partition);
            producer.send(if payload.is_empty() { record } else { record.payload(payload) }).expect("queued");
        }
        producer.flush(Duration::from_secs(30)).expect("delivered");
    }

    fn records(brokers: &str, topic: &str) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        read_topic(brokers, topic, &mut |found| {
            if let Found::Record(at, bytes) = found {
                all.push(format!("{at} {}", String::from_utf8_lossy(bytes)));
            }
            Ok(())
        })?;
        all.sort();
        Ok(all)
    }

    #[test]
    fn a_topic_is_read_to_its_end_whatever_its_partitions_hold() {
        let cluster = MockCluster::new(1).expect("cluster");
        cluster.create_topic("pairs", 3, 1).expect("topic");
        let brokers = cluster.bootstrap_servers();
        send(&brokers, "pairs", 0, &["a", "", "b"]);
        send(&brokers, "pairs", 2, &["c"]);
        let all = records(&brokers, "pairs").expect("read");
        assert_eq!(all, ["pairs[0]:0 a", "pairs[0]:2 b", "pairs[2]:0 c"]);
    }

    #[test]
    fn an_empty_topic_ends_at_once() {
        let cluster = MockCluster::new(1).expect("cluster");
        cluster.create_topic("pairs", 2, 1).expect("topic");
        assert_eq!(records(&cluster.bootstrap_servers(), "pairs").expect("read"), [""; 0]);
    }

    #[test]
    fn an_unknown_topic_names_the_known_ones() {
        let cluster = MockCluster::new(1).expect("cluster");
        cluster.create_topic("pairs", 1, 1).expect("topic");
        let code = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
        cluster.topic_error("pears", code).expect("told");
        let error = records(&cluster.bootstrap_servers(), "pears").expect_err("unknown").to_string();
        assert!(error.contains("no topic `pears`") && error.contains("pairs"), "{error}");
    }

    #[test]
    fn a_broker_that_is_not_there_is_an_error_in_bounded_time() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
        let brokers = free.to_string();
        let consumer = consumer(&brokers).expect("client");
        let error = partitions(&consumer, &brokers, "pairs", Duration::from_secs(1)).expect_err("nobody there");
        assert!(error.to_string().contains("no Kafka broker answered within 1s"), "{error}");
    }
}
