//! Floor 3: from `pairs.kafka` to a librdkafka configuration. Ours are the settings that a pair's promises rest on
//! and the bounds that librdkafka's defaults lack (1 GiB of queue, 1 MB a message, records that expire after five
//! minutes); `properties` may set others, and may set most of ours. Faults name the property, never its value.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::queue::Bounds;
use super::{PropertyFault, SinkError};
use crate::config::process::KafkaSinkConfig;

/// What `properties` may not set: other keys of the routing file do, or our account of pairs rests on it.
const RESERVED: &[&str] = &[
    "bootstrap.servers",
    "metadata.broker.list",
    "delivery.report.only.error",
    "transactional.id",
    "log.queue",
    "plugin.library.paths",
];

/// The most that stands in librdkafka's own queue; the rest waits in ours, where it can be dropped by us.
const CLIENT_QUEUE: usize = 32 << 20;
/// The same with a spool, where the rest waits on disk: while the brokers are away, what stands here takes memory from copies.
const CLIENT_QUEUE_SPOOLED: usize = 16 << 20;
/// The most pairs there.
const CLIENT_PAIRS: usize = 100_000;
/// The largest record tried whole. The broker judges the compressed size, so far more than its usual 1 MiB.
const LARGEST: usize = 16 << 20;

/// Finds faults in `properties`, without a broker.
pub(super) fn check(config: &KafkaSinkConfig) -> Result<(), SinkError> {
    for (name, value) in &config.properties {
        let fault = |fault| Err(SinkError::Property { property: name.clone(), fault });
        if RESERVED.contains(&name.as_str()) {
            return fault(PropertyFault::Reserved);
        }
        let plaintext = value.reveal().trim().eq_ignore_ascii_case("plaintext");
        let secured = name.starts_with("ssl.")
            || name.starts_with("sasl.")
            || name == "enable.ssl.certificate.verification"
            || (name == "security.protocol" && !plaintext);
        if secured {
            return fault(PropertyFault::NotYetSupported);
        }
        // One at a time, so that the fault found is this one's.
        let mut alone = ClientConfig::new();
        alone.set(name, value.reveal());
        match alone.create_native_config() {
            Ok(_) => {}
            Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
                return fault(PropertyFault::Unknown);
            }
            Err(_) => return fault(PropertyFault::Invalid),
        }
    }
    Ok(())
}

/// The whole configuration of one client.
pub(super) fn client(config: &KafkaSinkConfig, producer: &str, bounds: Bounds) -> ClientConfig {
    let queue = match config.spool {
        None => CLIENT_QUEUE.min(bounds.bytes),
        Some(_) => CLIENT_QUEUE_SPOOLED.min(bounds.bytes / 4),
    }
    .max(1 << 20);
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", producer)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        // Nobody waits for a pair: larger batches cost the client and the broker half as much.
        .set("linger.ms", "50")
        .set("queue.buffering.max.kbytes", (queue >> 10).to_string())
        .set("queue.buffering.max.messages", CLIENT_PAIRS.min(bounds.pairs).max(1).to_string())
        .set("message.max.bytes", LARGEST.min(queue).to_string())
        // Never: a record waits for its broker until we give it up, and one that expires unseen by the broker
        // after it was sent would be stored twice when sent again. Where `properties` says otherwise, an expired
        // record is sent again.
        .set("message.timeout.ms", "0")
        .set("reconnect.backoff.max.ms", "3000")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    for (name, value) in &config.properties {
        client.set(name, value.reveal());
    }
    client
}

/// What librdkafka says about the settings as a whole, without any value that the routing file gave.
pub(super) fn refusal(config: &KafkaSinkConfig, error: &KafkaError) -> SinkError {
    let text = match error {
        KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::ClientConfig(_, _, property, _) => {
            let fault = PropertyFault::Invalid;
            return SinkError::Property { property: property.clone(), fault };
        }
        other => other.to_string(),
    };
    // Up to three characters are no secret, and `1` or `all` would tear holes into the words.
    let values = config.properties.values().map(|value| value.reveal()).filter(|value| value.len() > 3);
    SinkError::Client(values.fold(text, |text, value| text.replace(value, "…")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn with(name: &str, value: &str) -> KafkaSinkConfig {
        KafkaSinkConfig {
            brokers: vec!["127.0.0.1:1".to_owned()],
            topic: "t".to_owned(),
            key: None,
            spool: None,
            properties: [(name.to_owned(), Secret::new(value))].into(),
        }
    }

    #[test]
    fn a_faulty_property_is_named_and_its_value_is_not() {
        for (name, value, fault) in [
            ("no.such.thing", "hunter2", PropertyFault::Unknown),
            ("linger.ms", "hunter2", PropertyFault::Invalid),
            ("compression.type", "hunter2", PropertyFault::Invalid),
            ("nul", "hunter2\0", PropertyFault::Invalid),
            ("bootstrap.servers", "hunter2", PropertyFault::Reserved),
            ("delivery.report.only.error", "true", PropertyFault::Reserved),
            ("security.protocol", "SASL_SSL", PropertyFault::NotYetSupported),
            ("sasl.password", "hunter2", PropertyFault::NotYetSupported),
        ] {
            let error = check(&with(name, value)).unwrap_err();
            assert!(matches!(&error, SinkError::Property { fault: found, .. } if *found == fault), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
        }
        check(&with("security.protocol", "plaintext")).unwrap();
        check(&with("compression.type", "gzip")).unwrap();
    }

    #[test]
    fn properties_override_what_may_be_overridden() {
        let bounds = Bounds { pairs: 10, bytes: 1 << 30 };
        let client = client(&with("compression.type", "gzip"), "p", bounds);
        assert_eq!(client.get("compression.type"), Some("gzip"));
        assert_eq!(client.get("partitioner"), Some("murmur2_random"));
        assert_eq!(client.get("queue.buffering.max.messages"), Some("10"));
        assert_eq!(client.get("queue.buffering.max.kbytes"), Some("32768"));
        client.create_native_config().unwrap();
    }

    #[test]
    fn a_refusal_of_the_whole_shows_no_value() {
        let error = KafkaError::ClientCreation("bad: `hunter2`".to_owned());
        assert_eq!(
            refusal(&with("client.rack", "hunter2"), &error).to_string(),
            "`pairs.kafka`: the Kafka client refuses these settings: bad: `…`"
        );
    }
}
