//! Floor 3: the topic. While delivery does not work, the brokers are asked whether it is there; where the routing file
//! says `create_topic`, it is made first, and made again when somebody has deleted it. Making it may take seconds, so
//! it happens on a thread of its own. Until it was made nothing goes out: a record, and already a question about the
//! one topic, lets brokers with `auto.create.topics.enable` make it as they like.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::kafka_errors::{Verdict, verdict};
use super::kafka_reports::Reports;
use super::pace::Backoff;
use super::status::ErrorKind;
use crate::config::process::{CreateTopic, KafkaSinkConfig};
use crate::lifecycle::{self, Priority};

/// How long a question whether the topic is there may hold delivery up. It is asked only while all stands still.
const PROBE: Duration = Duration::from_millis(200);
/// Between two such questions.
const PROBE_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How long each step of making the topic may take.
const STEP: Duration = Duration::from_secs(5);

/// Asks for the topic, and makes it.
pub(super) struct Topic {
    name: String,
    brokers: String,
    create: Option<CreateTopic>,
    client: ClientConfig,
    probe: Backoff,
    /// The answer to come of the thread that makes it.
    making: Option<mpsc::Receiver<Result<Found, Code>>>,
    /// Whether it is there, as far as is known.
    there: bool,
    /// Whether it was said that it is another than the file says.
    told: bool,
}

/// A topic that was there, or is now.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It was made.
    Made,
    /// It was there, with so many partitions, and kept records so long where that was asked.
    There { partitions: usize, retention: Option<String> },
}

impl Topic {
    /// Of this file; `client` is how the brokers are reached.
    pub(super) fn new(config: &KafkaSinkConfig, client: &ClientConfig) -> Self {
        let mut client = client.clone();
        client.set("enable.idempotence", "false").set("statistics.interval.ms", "0");
        Self {
            name: config.topic.clone(),
            brokers: config.brokers.join(","),
            create: config.create_topic,
            client,
            probe: Backoff::new(PROBE_EVERY.0, PROBE_EVERY.1),
            making: None,
            there: false,
            told: false,
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether records may go out.
    pub(super) fn open(&self) -> bool {
        self.there || self.create.is_none()
    }

    /// The brokers say that there is no such topic.
    pub(super) fn missing(&mut self) {
        self.there = false;
    }

    /// It is there, and delivery does not work all the same: it is asked again, but not at once.
    pub(super) fn ask_later(&mut self, now: Instant) {
        self.probe.failed(now);
    }

    /// Does what is due. None where nothing is known yet.
    pub(super) fn step(&mut self, producer: &BaseProducer<Reports>, now: Instant) -> Option<Result<(), Code>> {
        if let Some(making) = &self.making {
            let found = match making.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return None,
                Err(mpsc::TryRecvError::Disconnected) => Err(Code::Fail),
                Ok(found) => found,
            };
            self.making = None;
            return self.made(found, now);
        }
        if self.probe.waits(now) {
            return None;
        }
        if let Some(create) = self.create.filter(|_| !self.there) {
            return self.make(create, now);
        }
        match missing(producer, &self.name) {
            None => {
                self.probe.succeeded();
                Some(Ok(()))
            }
            Some(code) => {
                self.probe.failed(Instant::now());
                self.there &= !matches!(verdict(code), Verdict::Retry(ErrorKind::UnknownTopic));
                Some(Err(code))
            }
        }
    }

    fn make(&mut self, create: CreateTopic, now: Instant) -> Option<Result<(), Code>> {
        let (answer, making) = mpsc::sync_channel(1);
        let (client, name) = (self.client.clone(), self.name.clone());
        let run = move || {
            let found = find_or_make(&client, &name, create);
            // Whoever waits may be gone: then nobody needs to know.
            let _ = answer.send(found.map_err(|error| match error {
                // rdkafka gives no code for these.
                KafkaError::AdminOp(code) => code,
                other => other.rdkafka_error_code().unwrap_or(Code::Fail),
            }));
        };
        match lifecycle::thread("shadowpair-topic", Priority::Background, run) {
            Ok(_) => {
                self.making = Some(making);
                None
            }
            Err(_) => {
                self.probe.failed(now);
                Some(Err(Code::Fail))
            }
        }
    }

    fn made(&mut self, found: Result<Found, Code>, now: Instant) -> Option<Result<(), Code>> {
        match found {
            Ok(found) => {
                self.there = true;
                self.probe.succeeded();
                self.tell(&found);
                None
            }
            Err(code) => {
                self.probe.failed(now);
                Some(Err(code))
            }
        }
    }

    fn tell(&mut self, found: &Found) {
        let Some(create) = self.create else { return };
        let topic = self.name.as_str();
        match found {
            Found::Made => {
                let CreateTopic { partitions, replication, .. } = create;
                tracing::info!(topic, partitions, replication, "the topic was created");
                self.told = true;
            }
            Found::There { partitions, retention } if !self.told => {
                self.told = true;
                let fewer = *partitions < create.partitions as usize;
                let wanted = create.retention.map(|time| time.as_millis().to_string());
                let other = retention.is_some() && *retention != wanted;
                if fewer || other {
                    let (retention_ms, partitions) = (retention.as_deref().unwrap_or("not asked"), *partitions);
                    let (wanted_ms, wanted) = (wanted.as_deref().unwrap_or("any"), create.partitions);
                    tracing::warn!(
                        topic,
                        partitions,
                        wanted_partitions = wanted,
                        retention_ms,
                        wanted_retention_ms = wanted_ms,
                        "the topic exists and is another than `create_topic` says; it is left as it is"
                    );
                }
            }
            Found::There { .. } => {}
        }
    }

    /// What trouble with the topic means, and what to do.
    pub(super) fn explain(&self, kind: ErrorKind, code: Code) -> String {
        let (topic, brokers) = (&self.name, &self.brokers);
        match (kind, self.create) {
            (ErrorKind::UnknownTopic, None) => {
                let command = self.command(CreateTopic::default());
                format!(
                    "the topic `{topic}` does not exist ({code}); create it with `{command}`, or let shadowpair do it with `pairs.kafka.create_topic: {{}}`"
                )
            }
            (ErrorKind::UnknownTopic, Some(create)) => {
                let (command, replication) = (self.command(create), create.replication);
                let why = match code {
                    Code::InvalidReplicationFactor => {
                        format!(
                            "the cluster has fewer brokers than `create_topic.replication: {replication}` asks for; lower it"
                        )
                    }
                    Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                        "it is created again".to_owned()
                    }
                    _ => format!("the brokers refuse to create it; mend `create_topic`, or use `{command}`"),
                };
                format!("the topic `{topic}` does not exist ({code}): {why}")
            }
            (ErrorKind::Authorization, Some(create)) if !self.there => {
                let command = self.command(create);
                format!(
                    "the topic `{topic}` does not exist, and the brokers at {brokers} do not let this client create it ({code}); grant it Create, or use `{command}`"
                )
            }
            (ErrorKind::Authorization, _) => {
                format!(
                    "the brokers do not let this client write to the topic `{topic}` ({code}); grant it Write and Describe"
                )
            }
            _ => code.to_string(),
        }
    }

    /// What kind of trouble an answer about the topic is.
    pub(super) fn kind(&self, code: Code) -> ErrorKind {
        match (verdict(code), code) {
            (Verdict::Retry(kind), _) => kind,
            // Answers to the wish to make it.
            (
                _,
                Code::InvalidReplicationFactor
                | Code::InvalidPartitions
                | Code::PolicyViolation
                | Code::InvalidConfig
                | Code::InvalidRequest
                | Code::InvalidReplicaAssignment,
            ) => ErrorKind::UnknownTopic,
            _ => ErrorKind::Transport,
        }
    }

    fn command(&self, create: CreateTopic) -> String {
        let (topic, brokers) = (&self.name, &self.brokers);
        let CreateTopic { partitions, replication, retention } = create;
        let keep = retention.map_or(String::new(), |time| format!(" --config retention.ms={}", time.as_millis()));
        format!(
            "kafka-topics.sh --create --bootstrap-server {brokers} --topic {topic} --partitions {partitions} --replication-factor {replication}{keep}"
        )
    }
}

/// Why the topic cannot be used, if it cannot.
fn missing(producer: &BaseProducer<Reports>, topic: &str) -> Option<Code> {
    match producer.client().fetch_metadata(Some(topic), PROBE) {
        Err(error) => Some(error.rdkafka_error_code().unwrap_or(Code::BrokerTransportFailure)),
        Ok(metadata) => match metadata.topics().first() {
            None => Some(Code::UnknownTopic),
            Some(topic) => topic.error().map(Code::from),
        },
    }
}

/// Looks for the topic, and makes it where it is not there.
fn find_or_make(client: &ClientConfig, name: &str, create: CreateTopic) -> Result<Found, KafkaError> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let options = AdminOptions::new().request_timeout(Some(STEP)).operation_timeout(Some(STEP));
    // Of all topics: to ask for the one may be to create it.
    let all = admin.inner().fetch_metadata(None, STEP)?;
    if let Some(topic) = all.topics().iter().find(|topic| topic.name() == name) {
        let retention = create.retention.and_then(|_| retention(&admin, name, &options));
        return Ok(Found::There { partitions: topic.partitions().len(), retention });
    }
    let keep = create.retention.map(|time| time.as_millis().to_string());
    let replication = TopicReplication::Fixed(i32::from(create.replication));
    let mut topic = NewTopic::new(name, i32::try_from(create.partitions).unwrap_or(i32::MAX), replication);
    if let Some(keep) = &keep {
        topic = topic.set("retention.ms", keep);
    }
    let answers = wait(admin.create_topics([&topic], &options))?;
    match answers.into_iter().next() {
        Some(Err((_, code))) if code != Code::TopicAlreadyExists => Err(KafkaError::AdminOp(code)),
        _ => Ok(Found::Made),
    }
}

/// `retention.ms` of a topic; none where this client may not know.
fn retention(admin: &AdminClient<DefaultClientContext>, name: &str, options: &AdminOptions) -> Option<String> {
    let answers = wait(admin.describe_configs([&ResourceSpecifier::Topic(name)], options)).ok()?;
    let config = answers.into_iter().next()?.ok()?;
    config.get("retention.ms").and_then(|entry| entry.value.clone())
}

/// Waits for an answer, which comes within [`STEP`].
fn wait<T>(answer: impl Future<Output = Result<T, KafkaError>>) -> Result<T, KafkaError> {
    lifecycle::event_loop(answer).map_err(|_| KafkaError::AdminOp(Code::CriticalSystemResource))?
}
