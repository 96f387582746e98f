//! Floor 3: from `pairs.kafka` to a librdkafka configuration. Ours are the settings that a pair's promises rest on
//! and the bounds that librdkafka's defaults lack (1 GiB of queue, 1 MB a message, records that expire after five
//! minutes); `properties` may set others, and may set most of ours. Faults name the property, never its value.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use super::kafka_oidc_config::{self, CA_LOCATION, CA_PEM, METHOD, is_oidc, is_ours, names_an_issuer};
use super::kafka_tokens;
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

/// Other names by which `properties` may set what is ours. librdkafka obeys the last that it is given, and a
/// `ClientConfig` has no order.
const ALIASES: &[(&str, &str)] = &[
    ("request.required.acks", "acks"),
    ("compression.codec", "compression.type"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("max.in.flight.requests.per.connection", "max.in.flight"),
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
        if let Some(found) = secured(config, name, value.reveal().trim()) {
            return fault(found);
        }
        if is_ours(name) {
            continue;
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

/// How connections are secured.
struct Security {
    tls: bool,
    sasl: bool,
    mechanism: Option<String>,
}

impl Security {
    fn of(config: &KafkaSinkConfig) -> Self {
        let property = |name: &str| config.properties.get(name).map(|value| value.reveal().trim().to_ascii_uppercase());
        let protocol = property("security.protocol").unwrap_or_default();
        let mechanism = property("sasl.mechanism").or_else(|| property("sasl.mechanisms"));
        Self { tls: protocol.ends_with("SSL"), sasl: protocol.starts_with("SASL_"), mechanism }
    }
}

/// What is wrong with a property of TLS or SASL, given the others. Nothing of them is without effect in silence: who
/// names a CA believes that the connection is encrypted.
fn secured(config: &KafkaSinkConfig, name: &str, value: &str) -> Option<PropertyFault> {
    let of_tls = name.starts_with("ssl.") || name == "enable.ssl.certificate.verification";
    let of_sasl = name.starts_with("sasl.") || name == kafka_tokens::UNSECURED;
    let of_issuer = name == CA_LOCATION || name == CA_PEM;
    let protocol = name == "security.protocol" && !value.eq_ignore_ascii_case("plaintext");
    if !(of_tls || of_sasl || of_issuer || protocol) {
        return None;
    }
    if cfg!(not(feature = "kafka-tls")) {
        return Some(PropertyFault::NoTls);
    }
    let security = Security::of(config);
    let has = |name: &str| config.properties.contains_key(name);
    let mechanism = security.mechanism.as_deref();
    match name {
        "security.protocol" => (security.sasl && mechanism.is_none()).then_some(PropertyFault::NoMechanism),
        _ if of_tls && !security.tls => Some(PropertyFault::NotEncrypted),
        _ if of_sasl && !security.sasl => Some(PropertyFault::NoSasl),
        "sasl.mechanism" | "sasl.mechanisms" => match mechanism {
            Some("PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") => {
                (!has("sasl.username") || !has("sasl.password")).then_some(PropertyFault::NoUser)
            }
            // librdkafka asks for tokens where nobody listens while a topic is created.
            Some("OAUTHBEARER") if config.create_topic.is_some() => Some(PropertyFault::CreatesTopic),
            Some("OAUTHBEARER") => {
                (!kafka_tokens::has_source(config) && !names_an_issuer(config)).then_some(PropertyFault::NoTokens)
            }
            _ => Some(PropertyFault::Mechanism),
        },
        "sasl.oauthbearer.config" => None,
        kafka_tokens::UNSECURED => {
            (kafka_tokens::is_unsecured(config) && is_oidc(config)).then_some(PropertyFault::Excludes(METHOD))
        }
        _ if of_issuer || name.starts_with("sasl.oauthbearer.") => {
            let file = kafka_tokens::path_of(value).is_some();
            kafka_oidc_config::fault(config, mechanism == Some("OAUTHBEARER"), name, file)
        }
        _ => None,
    }
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
        // With more, librdkafka takes the acknowledgement of a request for a proof that the brokers have what earlier
        // ones carried. Where the topic was deleted and made again in between they have not, and pairs that are
        // nowhere would be reported as delivered.
        .set("max.in.flight", "1")
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
        .set("statistics.interval.ms", "5000")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    if Security::of(config).tls {
        // The system's own CAs, wherever this distribution keeps them: an OpenSSL that is linked in looks elsewhere.
        client.set("ssl.ca.location", "probe");
    }
    let ca_in_file = config.properties.contains_key("ssl.ca.pem");
    for (name, value) in config.properties.iter().filter(|(name, _)| !is_ours(name)) {
        if let Some((_, ours)) = ALIASES.iter().find(|(alias, _)| alias == name) {
            client.remove(ours);
        }
        client.set(name, value.reveal());
    }
    if ca_in_file && !config.properties.contains_key("ssl.ca.location") {
        client.remove("ssl.ca.location");
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
    #[cfg(feature = "kafka-tls")]
    use crate::config::process::CreateTopic;
    use crate::types::Secret;

    fn with(name: &str, value: &str) -> KafkaSinkConfig {
        KafkaSinkConfig {
            brokers: vec!["127.0.0.1:1".to_owned()],
            topic: "t".to_owned(),
            key: None,
            spool: None,
            create_topic: None,
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
        ] {
            let error = check(&with(name, value)).unwrap_err();
            assert!(matches!(&error, SinkError::Property { fault: found, .. } if *found == fault), "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
        }
        check(&with("security.protocol", "plaintext")).unwrap();
        let error = check(&with("ssl.ca.location", "hunter2")).unwrap_err();
        let wanted = if cfg!(feature = "kafka-tls") { PropertyFault::NotEncrypted } else { PropertyFault::NoTls };
        assert!(matches!(&error, SinkError::Property { fault, .. } if *fault == wanted), "{error}");
        check(&with("compression.type", "gzip")).unwrap();
    }

    fn of(properties: &[(&str, &str)]) -> KafkaSinkConfig {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
        KafkaSinkConfig { properties, ..with("acks", "all") }
    }

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn tls_and_sasl_are_taken_where_they_are_whole_and_told_what_is_missing_where_they_are_not() {
        const USER: [(&str, &str); 2] = [("sasl.username", "u"), ("sasl.password", "hunter2")];
        let scram = [&[("security.protocol", "sasl_ssl"), ("sasl.mechanism", "SCRAM-SHA-512")], &USER[..]].concat();
        for good in [
            &scram[..],
            &[("security.protocol", "SSL"), ("ssl.ca.location", "/no/such/file"), ("ssl.key.password", "x")],
            &[&[("security.protocol", "sasl_plaintext"), ("sasl.mechanisms", "PLAIN")], &USER[..]].concat(),
            &[
                ("security.protocol", "sasl_ssl"),
                ("sasl.mechanism", "OAUTHBEARER"),
                ("sasl.oauthbearer.token.endpoint.url", "file:///run/token"),
            ],
            &[
                ("security.protocol", "sasl_plaintext"),
                ("sasl.mechanism", "oauthbearer"),
                ("enable.sasl.oauthbearer.unsecure.jwt", "true"),
                ("sasl.oauthbearer.config", "principal=u"),
                ("sasl.oauthbearer.method", "default"),
            ],
            &ISSUER,
            &[
                &ISSUER[..5],
                &[
                    ("sasl.oauthbearer.client.credentials.client.secret", "hunter2"),
                    ("sasl.oauthbearer.grant.type", "client_credentials"),
                    ("sasl.oauthbearer.scope", "pairs"),
                    ("https.ca.pem", "x"),
                ],
            ]
            .concat(),
        ] {
            check(&of(good)).unwrap();
            client(&of(good), "p", Bounds { pairs: 10, bytes: 1 << 30 }).create_native_config().unwrap();
        }
        for (bad, property, fault) in [
            (&[("security.protocol", "sasl_ssl")][..], "security.protocol", PropertyFault::NoMechanism),
            (&USER[..], "sasl.password", PropertyFault::NoSasl),
            (&scram[..3], "sasl.mechanism", PropertyFault::NoUser),
            (
                &[("security.protocol", "sasl_ssl"), ("sasl.mechanism", "GSSAPI")],
                "sasl.mechanism",
                PropertyFault::Mechanism,
            ),
            (
                &[("security.protocol", "sasl_ssl"), ("sasl.mechanism", "OAUTHBEARER")],
                "sasl.mechanism",
                PropertyFault::NoTokens,
            ),
            (
                &[
                    ("security.protocol", "sasl_ssl"),
                    ("sasl.mechanism", "OAUTHBEARER"),
                    ("sasl.oauthbearer.method", "default"),
                ],
                "sasl.mechanism",
                PropertyFault::NoTokens,
            ),
        ] {
            let error = check(&of(bad)).unwrap_err();
            let SinkError::Property { property: named, fault: found } = &error else { panic!("{error}") };
            assert_eq!((named.as_str(), *found), (property, fault));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let tokens = [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token.endpoint.url", "file:///run/token"),
        ];
        let creates = KafkaSinkConfig { create_topic: Some(CreateTopic::default()), ..of(&tokens) };
        assert!(check(&creates).unwrap_err().to_string().contains("create_topic"));
    }

    /// All that an OIDC issuer needs.
    #[cfg(feature = "kafka-tls")]
    const ISSUER: [(&str, &str); 6] = [
        ("security.protocol", "sasl_ssl"),
        ("sasl.mechanism", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.token.endpoint.url", "https://issuer/token"),
        ("sasl.oauthbearer.client.id", "hunter2-client"),
        ("sasl.oauthbearer.client.secret", "hunter2"),
    ];

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn an_issuer_is_taken_where_it_is_whole_and_told_what_is_missing_or_too_much_where_it_is_not() {
        const METHOD: &str = "sasl.oauthbearer.method";
        const ENDPOINT: &str = "sasl.oauthbearer.token.endpoint.url";
        const ID: &str = "sasl.oauthbearer.client.id";
        const SECRET: &str = "sasl.oauthbearer.client.secret";
        let without = |name: &str| ISSUER.into_iter().filter(|(other, _)| *other != name).collect::<Vec<_>>();
        let with = |name, value| without(name).into_iter().chain([(name, value)]).collect::<Vec<_>>();
        let credentials = "sasl.oauthbearer.client.credentials.client.id";
        for (bad, property, fault) in [
            (without(METHOD), ID, PropertyFault::NotOidc),
            ([&ISSUER[..2], &[(METHOD, "oauth")]].concat(), METHOD, PropertyFault::Invalid),
            (with("sasl.mechanism", "oauth"), "sasl.mechanism", PropertyFault::Mechanism),
            (without("sasl.mechanism"), ID, PropertyFault::NotOidc),
            (without(ENDPOINT), METHOD, PropertyFault::Needs(ENDPOINT)),
            (without(ID), METHOD, PropertyFault::Needs(ID)),
            (with(ID, ""), METHOD, PropertyFault::Needs(ID)),
            (without(SECRET), METHOD, PropertyFault::Needs(SECRET)),
            (with(ENDPOINT, "file:///run/token"), ENDPOINT, PropertyFault::Endpoint),
            (with(ENDPOINT, "https://hunter2@issuer/token"), ENDPOINT, PropertyFault::Endpoint),
            (with(credentials, "x"), credentials, PropertyFault::Excludes(ID)),
            (
                with("enable.sasl.oauthbearer.unsecure.jwt", "true"),
                "enable.sasl.oauthbearer.unsecure.jwt",
                PropertyFault::Excludes(METHOD),
            ),
            (
                [&with("https.ca.pem", "x")[..], &[("https.ca.location", "/ca")]].concat(),
                "https.ca.pem",
                PropertyFault::Excludes("https.ca.location"),
            ),
            (vec![("https.ca.location", "/ca")], "https.ca.location", PropertyFault::NotOidc),
            (with("sasl.oauthbearer.extensions", "a=b"), "sasl.oauthbearer.extensions", PropertyFault::Extensions),
            (
                with("sasl.oauthbearer.grant.type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                "sasl.oauthbearer.grant.type",
                PropertyFault::Oidc,
            ),
            (
                with("sasl.oauthbearer.assertion.file", "/hunter2"),
                "sasl.oauthbearer.assertion.file",
                PropertyFault::Oidc,
            ),
            (
                with("sasl.oauthbearer.metadata.authentication.type", "azure_imds"),
                "sasl.oauthbearer.metadata.authentication.type",
                PropertyFault::Oidc,
            ),
            // Without the method an address is not asked.
            (ISSUER[..2].iter().chain(&ISSUER[3..4]).copied().collect(), ENDPOINT, PropertyFault::NotOidc),
        ] {
            let error = check(&of(&bad)).unwrap_err();
            let SinkError::Property { property: named, fault: found } = &error else { panic!("{error}") };
            assert_eq!((named.as_str(), *found), (property, fault), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let creates = KafkaSinkConfig { create_topic: Some(CreateTopic::default()), ..of(&ISSUER) };
        assert!(check(&creates).unwrap_err().to_string().contains("create_topic"));
        // None of it reaches librdkafka.
        let client = client(&of(&ISSUER), "p", Bounds { pairs: 10, bytes: 1 << 30 });
        for (name, _) in &ISSUER[2..] {
            assert_eq!(client.get(name), None);
        }
    }

    #[cfg(feature = "kafka-tls")]
    #[test]
    fn the_system_s_cas_are_trusted_where_no_other_is_named() {
        let bounds = Bounds { pairs: 10, bytes: 1 << 30 };
        let ca = |properties: &[(&str, &str)]| {
            client(&of(properties), "p", bounds).get("ssl.ca.location").map(str::to_owned)
        };
        let tls = ("security.protocol", "ssl");
        assert_eq!(ca(&[tls]).as_deref(), Some("probe"));
        assert_eq!(ca(&[tls, ("ssl.ca.location", "/ca")]).as_deref(), Some("/ca"));
        assert_eq!(ca(&[tls, ("ssl.ca.pem", "x")]), None);
        assert_eq!(ca(&[]), None);
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
        // Under any of their names.
        for (alias, ours) in ALIASES {
            let client = super::client(&with(alias, "1"), "p", bounds);
            assert_eq!((client.get(alias), client.get(ours)), (Some("1"), None));
        }
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
