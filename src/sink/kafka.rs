//! Floor 3: pairs as messages of a Kafka topic, through one librdkafka producer that is made, fed and polled on the
//! delivery thread. A pair is delivered when the delivery report says so, and only then: until that moment its
//! ticket and its share of the budget stand in `in_flight`. Its bytes are handed over to librdkafka's queue and
//! come back with a report of failure, so that they are in memory once.
//!
//! A broker that is away is no error: librdkafka keeps at it, pairs wait, first in its queue, then in ours, until
//! the door refuses more. `kafka_errors` sorts what reports say; after a fatal error the producer is built anew
//! and all that was under way goes out again, under the same id.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::delivery::{Deliver, Turn};
use super::kafka_blame::Blame;
use super::kafka_errors::{Verdict, verdict};
use super::kafka_message::{message, slim, source};
use super::kafka_reports::{Event, Reports};
use super::kafka_secrets::{Files, Secrets};
use super::kafka_tokens::Tokens;
use super::kafka_topic::Topic;
use super::pace::Backoff;
use super::queue::{Bounds, Waiting};
use super::status::{ErrorKind, SinkStatus};
use super::{SinkError, kafka_config};
use crate::config::process::KafkaSinkConfig;
use crate::types::DropReason;

/// Between two attempts after a record came back.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Without a report for so long, with records under way, the sink counts as down.
const STALLED: Duration = Duration::from_secs(10);

/// Sends pairs to a topic.
pub(super) struct KafkaSink {
    client: ClientConfig,
    topic: Topic,
    /// The CloudEvents source of the pairs that do not say who made them.
    source: String,
    status: Arc<SinkStatus>,
    /// None only between two producers.
    producer: Option<BaseProducer<Reports>>,
    /// What librdkafka has and has not reported on, by ticket number: the first is the oldest. Without bytes.
    in_flight: BTreeMap<usize, Waiting>,
    /// Whether a pair keeps its bytes while it is under way, for the spool to store.
    keeps: bool,
    /// Whether the producer is of no more use.
    fault: bool,
    backoff: Backoff,
    blame: Blame,
    secrets: Arc<Secrets>,
    files: Files,
    tokens: Tokens,
    last_report: Instant,
}

impl KafkaSink {
    /// Makes the producer. No broker needs to be there.
    pub(super) fn new(
        config: &KafkaSinkConfig,
        producer: &str,
        bounds: Bounds,
        status: Arc<SinkStatus>,
    ) -> Result<Self, SinkError> {
        kafka_config::check(config)?;
        let client = kafka_config::client(config, producer, bounds);
        let (secrets, tokens) = (Arc::new(Secrets::of(config)), Tokens::of(config)?);
        let files = Files::of(config);
        let reports = Reports::new(Arc::clone(&secrets), tokens.clone(), status.kafka());
        let made = client.create_with_context(reports).map_err(|error| kafka_config::refusal(config, &error))?;
        Ok(Self {
            topic: Topic::new(config, &client),
            client,
            source: source(producer),
            status,
            producer: Some(made),
            in_flight: BTreeMap::new(),
            keeps: config.spool.is_some(),
            fault: false,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            blame: Blame::new(&config.brokers),
            secrets,
            files,
            tokens,
            last_report: Instant::now(),
        })
    }

    fn reports(&self) -> Reports {
        Reports::new(Arc::clone(&self.secrets), self.tokens.clone(), self.status.kafka())
    }

    /// Hands over what waits, as much as librdkafka takes. Returns whether anything moved.
    fn send(&mut self, waiting: &mut VecDeque<Waiting>) -> bool {
        let mut moved = false;
        while !self.fault && !self.backoff.waits(Instant::now()) {
            let Some(mut next) = waiting.pop_front() else { break };
            let Some(producer) = &self.producer else {
                waiting.push_front(next);
                break;
            };
            let json = std::mem::take(&mut next.pair.json);
            let message = message(self.topic.name(), &self.source, &next, &json);
            let refused = producer.send(message).err().map(|(error, _)| error);
            let Some(error) = refused else {
                if self.keeps && !next.ticket.is_spooled() {
                    next.pair.json = json;
                }
                if self.in_flight.is_empty() {
                    // From now on one is due: a pair may have been made long ago.
                    self.last_report = Instant::now();
                }
                self.in_flight.insert(next.ticket.number, next);
                moved = true;
                continue;
            };
            next.pair.json = json;
            let code = error.rdkafka_error_code().unwrap_or(Code::InvalidArgument);
            let verdict = match verdict(code) {
                // A queue that is empty and yet full for this record will never hold it.
                Verdict::Full if self.in_flight.is_empty() => Verdict::TooLarge,
                other => other,
            };
            match self.judge(next, verdict, code) {
                Some(back) if matches!(verdict, Verdict::TooLarge) => waiting.push_front(back),
                Some(back) => {
                    waiting.push_front(back);
                    break;
                }
                None => moved = true,
            }
        }
        moved
    }

    /// Does what a verdict on a record says; returns the record where it is to be sent again.
    fn judge(&mut self, mut pair: Waiting, verdict: Verdict, code: Code) -> Option<Waiting> {
        match verdict {
            Verdict::Full | Verdict::Purged => {}
            Verdict::Retry(kind) => {
                let now = Instant::now();
                // Once for a whole batch that comes back.
                if !self.backoff.waits(now) {
                    self.backoff.failed(now);
                }
                if kind == ErrorKind::UnknownTopic {
                    self.topic.missing();
                    // In the topic's place comes another. librdkafka takes what is acknowledged there for a proof that the
                    // brokers have all that it sent before; a new producer knows nothing of before.
                    self.fault |= !self.in_flight.is_empty();
                }
                let (_, cause) = self.blame.put_down(kind, &self.topic.explain(kind, code));
                self.status.set_down(kind, format_args!("{cause}; pairs wait"));
            }
            Verdict::Fault => self.fault = true,
            Verdict::TooLarge => {
                let bytes = pair.pair.json.len();
                if slim(&mut pair.pair) {
                    let cause = format_args!("{code}: a pair of {bytes} bytes goes out without its bodies");
                    self.status.trouble(ErrorKind::TooLarge, cause);
                } else {
                    return self.reject(pair, code);
                }
            }
            Verdict::Reject => return self.reject(pair, code),
        }
        Some(pair)
    }

    fn reject(&self, pair: Waiting, code: Code) -> Option<Waiting> {
        let id = &pair.pair.id;
        self.status.trouble(ErrorKind::Rejected, format_args!("{code}: pair {id} is given up"));
        pair.ticket.dropped(DropReason::Rejected);
        None
    }

    /// Settles what was reported; what is to be sent again goes back to its place. Returns whether any ended.
    fn settle(&mut self, events: Vec<Event>, waiting: &mut VecDeque<Waiting>) -> bool {
        let (mut ended, mut back) = (false, Vec::new());
        for event in events {
            match event {
                Event::Delivered(number) => {
                    self.last_report = Instant::now();
                    self.backoff.succeeded();
                    if let Some(pair) = self.in_flight.remove(&number) {
                        self.blame.clear();
                        self.status.delivered(pair.ticket.since);
                        pair.ticket.delivered();
                        ended = true;
                    }
                }
                Event::Failed { number, code, payload } => {
                    let Some(mut pair) = self.in_flight.remove(&number) else { continue };
                    if pair.pair.json.is_empty() {
                        pair.pair.json = payload.unwrap_or_default();
                    }
                    let verdict = verdict(code);
                    let again = self.judge(pair, verdict, code);
                    // What stands in the spool goes out from there, unless it was made smaller.
                    back.extend(again.filter(|pair| !pair.ticket.is_spooled() || verdict == Verdict::TooLarge));
                }
                Event::Error { code, reason } => self.heard(code, &reason),
                Event::Token => self.blame.has_token(),
                // What is up may lose a connection for any reason.
                Event::Hint(reason) if !self.status.up() => self.blame.learn(Code::BrokerTransportFailure, &reason),
                Event::Hint(_) => {}
            }
        }
        if !back.is_empty() {
            waiting.extend(back);
            waiting.make_contiguous().sort_by_key(|pair| pair.ticket.number);
        }
        ended
    }

    /// An error of the client as a whole.
    fn heard(&mut self, code: Code, reason: &str) {
        if verdict(code) == Verdict::Fault {
            self.fault = true;
            return;
        }
        let (kind, cause) = self.blame.hear(code, reason);
        // librdkafka goes on by itself after all others; while one broker is left, so does delivery.
        if code == Code::AllBrokersDown || !self.status.up() {
            self.status.set_down(kind, format_args!("{cause}; pairs wait"));
        } else {
            self.status.trouble(kind, cause);
        }
    }

    /// Replaces the producer; all that it had comes back to `waiting`.
    fn rebuild(&mut self, waiting: &mut VecDeque<Waiting>) {
        if let Some(old) = self.producer.take() {
            // Not where only a file is to be read again, or the topic has gone.
            let unknown = !matches!(self.blame.kind(), Some(ErrorKind::Tls | ErrorKind::UnknownTopic));
            let fatal = old.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"));
            if let Some(cause) =
                fatal.or_else(|| unknown.then(|| "the brokers no longer know this producer".to_owned()))
            {
                self.status.set_down(ErrorKind::Fatal, format_args!("{cause}; the Kafka client is built anew"));
            }
            self.retire(old, waiting);
        }
        if self.backoff.waits(Instant::now()) {
            return;
        }
        match self.client.create_with_context(self.reports()) {
            Ok(producer) => (self.producer, self.fault) = (Some(producer), false),
            Err(error) => {
                self.backoff.failed(Instant::now());
                let cause = self.secrets.mask(&error.to_string());
                self.status.set_down(ErrorKind::Fatal, format_args!("no new Kafka client: {cause}"));
            }
        }
    }

    /// Ends a producer. Dropping it purges its queue, which reports on every record that it still had.
    fn retire(&mut self, producer: BaseProducer<Reports>, waiting: &mut VecDeque<Waiting>) {
        let reports = Arc::clone(producer.client().context());
        drop(producer);
        self.settle(reports.take(), waiting);
        // Without its report a record's bytes are gone, if it did not keep them: then its ticket books the loss.
        let kept = std::mem::take(&mut self.in_flight).into_values().filter(|pair| !pair.pair.json.is_empty());
        waiting.extend(kept);
    }

    /// Finds out whether delivery works where no report says so.
    fn watch(&mut self) {
        let now = Instant::now();
        if !self.status.up() {
            return self.ask(now);
        }
        let silent = now.saturating_duration_since(self.last_report);
        if !self.in_flight.is_empty() && silent >= STALLED {
            let cause = format!("no delivery report for {} s", silent.as_secs());
            let (kind, cause) = self.blame.put_down(ErrorKind::Timeout, &cause);
            self.status.set_down(kind, format_args!("{cause}; pairs wait"));
        }
    }

    /// While the sink is not up, asks for the topic, or makes it.
    fn ask(&mut self, now: Instant) {
        let Some(producer) = &self.producer else { return };
        match self.topic.step(producer, now) {
            None => {}
            // A record that is under way has the better word.
            Some(Ok(())) if !self.in_flight.is_empty() => self.topic.ask_later(Instant::now()),
            Some(Ok(())) => self.works(),
            Some(Err(code)) => {
                let kind = self.topic.kind(code);
                if self.blame.may_still_tell(kind) {
                    return;
                }
                let (kind, cause) = self.blame.put_down(kind, &self.topic.explain(kind, code));
                self.status.set_down(kind, format_args!("{cause}; pairs wait"));
            }
        }
        // What librdkafka has read from a file it does not read again.
        if self.blame.kind() == Some(ErrorKind::Tls) && self.files.changed() {
            tracing::info!(sink = self.status.name(), "a certificate's file has changed; it is read again");
            self.fault = true;
        }
    }

    fn works(&mut self) {
        self.blame.clear();
        self.status.set_up();
    }
}

impl Deliver for KafkaSink {
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
        if self.fault {
            self.rebuild(waiting);
        }
        let sent = self.topic.open() && self.send(waiting);
        // Not in `poll`, which spins for the last millisecond of what it is given.
        std::thread::sleep(turn.pause);
        let mut events = Vec::new();
        while let Some(producer) = &self.producer {
            // One event at a time, which is what a whole batch is reported in.
            producer.poll(Duration::ZERO);
            let heard = events.len();
            events.append(&mut producer.client().context().take());
            if events.len() == heard {
                break;
            }
        }
        let ended = self.settle(events, waiting);
        self.watch();
        sent || ended
    }

    fn under_way(&mut self) -> Box<dyn Iterator<Item = &mut Waiting> + '_> {
        Box::new(self.in_flight.values_mut())
    }

    fn busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    fn close(&mut self, waiting: &mut VecDeque<Waiting>) {
        if let Some(producer) = self.producer.take() {
            self.retire(producer, waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap as Map;

    use rdkafka::TopicPartitionList;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message, OwnedMessage};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Resp};
    use rdkafka::{Offset, Timestamp};

    use super::*;
    use crate::config::process::{SinkConfig, SpoolConfig};
    use crate::sink::Sink;
    use crate::sink::testing::{Books, ROOMY, metrics, pair_json, soon};
    use crate::types::Secret;

    const TOPIC: &str = "pairs";
    const PARTITIONS: i32 = 3;

    type Cluster = MockCluster<'static, DefaultProducerContext>;

    fn cluster() -> Cluster {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 1).unwrap();
        cluster
    }

    fn start(brokers: &str, books: &Books, bounds: Bounds, properties: &[(&str, &str)]) -> Sink {
        start_spooled(brokers, books, bounds, properties, None)
    }

    fn start_spooled(
        brokers: &str,
        books: &Books,
        bounds: Bounds,
        properties: &[(&str, &str)],
        spool: Option<SpoolConfig>,
    ) -> Sink {
        let config = SinkConfig::Kafka(KafkaSinkConfig {
            brokers: vec![brokers.to_owned()],
            topic: TOPIC.to_owned(),
            key: None,
            spool,
            create_topic: None,
            properties: properties.iter().map(|(k, v)| ((*k).to_owned(), Secret::new(*v))).collect(),
        });
        let (ledger, reserve) = (Arc::clone(&books.ledger), books.budget.charge());
        Sink::start(&config, ledger, "host-1".into(), bounds, metrics("kafka"), reserve).unwrap()
    }

    /// Reads messages back until there are so many.
    fn read(cluster: &Cluster, count: usize) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("group.id", "reader")
            .create()
            .unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (mut messages, deadline) = (Vec::new(), soon());
        while messages.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} messages came", messages.len());
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                messages.push(message.detach());
            }
        }
        messages
    }

    fn until(what: &str, done: impl Fn() -> bool) {
        let deadline = soon();
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn offer(sink: &Sink, books: &Books, from: usize, to: usize) {
        (from..to).for_each(|n| sink.door().offer(books.make(&format!("{{\"n\":{n}}}"))));
    }

    fn payloads(messages: &[OwnedMessage]) -> Vec<usize> {
        let number = |message: &OwnedMessage| {
            let text = std::str::from_utf8(message.payload().unwrap()).unwrap();
            text.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
        };
        let mut numbers: Vec<usize> = messages.iter().map(number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    #[test]
    fn a_pair_is_a_message_with_key_value_and_cloud_event_headers() {
        let (books, cluster) = (Books::default(), cluster());
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        let pair = books.make("{\"y\":1}");
        let id = pair.id.clone();
        sink.door().offer(pair);
        books.until("delivered", |account| account.delivered == 1);
        assert!(sink.status().up());
        assert_eq!(books.budget.used(), 0);

        let message = read(&cluster, 1).remove(0);
        assert_eq!(message.payload(), Some(&b"{\"y\":1}"[..]));
        assert_eq!(message.key(), Some(&b"key"[..]));
        assert!(matches!(message.timestamp(), Timestamp::CreateTime(_)));
        let headers: Map<&str, &str> = message
            .headers()
            .unwrap()
            .iter()
            .map(|header| (header.key, std::str::from_utf8(header.value.unwrap()).unwrap()))
            .collect();
        let wanted = Map::from([
            ("ce_specversion", "1.0"),
            ("ce_id", id.as_str()),
            ("ce_source", "/shadowpair/host-1"),
            ("ce_type", "io.shadowpair.pair.v1"),
            ("ce_time", "2024-11-03T10:11:12.000001Z"),
            ("ce_subject", "r"),
            ("content-type", "application/json"),
        ]);
        assert_eq!(headers, wanted);
    }

    #[test]
    fn many_pairs_arrive_once_each_and_finish_waits_for_their_reports() {
        let (books, cluster) = (Books::default(), cluster());
        cluster.broker_round_trip_time(-1, Duration::from_millis(50)).unwrap();
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        offer(&sink, &books, 0, 2000);
        let before = books.account().delivered;
        let finished = sink.finish(soon());
        assert_eq!((before + finished.delivered, finished.dropped_at_shutdown), (2000, 0));
        assert_eq!(payloads(&read(&cluster, 2000)), (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn pairs_wait_for_a_broker_that_is_away_and_go_out_when_it_is_back() {
        let (books, cluster) = (Books::default(), cluster());
        cluster.broker_down(-1).unwrap();
        let bounds = Bounds { pairs: 50, bytes: 1 << 20 };
        let sink = start(&cluster.bootstrap_servers(), &books, bounds, &[]);
        offer(&sink, &books, 0, 60);
        let status = sink.status();
        until("trouble is seen", || status.errors(ErrorKind::Transport) > 0);
        assert!(!status.up() && status.oldest().is_some());
        let account = books.account();
        assert_eq!((account.queued, account.dropped[DropReason::QueueFull as usize]), (50, 10));

        cluster.broker_up(-1).unwrap();
        books.until("delivered", |account| account.delivered == 50);
        assert!(status.up());
        assert_eq!(payloads(&read(&cluster, 50)), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_broker_that_stays_away_leaves_is_booked_at_shutdown() {
        let books = Books::default();
        let sink = start("127.0.0.1:1", &books, ROOMY, &[]);
        offer(&sink, &books, 0, 5);
        let finished = sink.finish(Instant::now() + Duration::from_millis(200));
        assert_eq!((finished.delivered, finished.dropped_at_shutdown), (0, 5));
        assert_eq!((books.account().queued, books.budget.used()), (0, 0));
    }

    #[test]
    fn an_expired_record_is_sent_again() {
        let (books, cluster) = (Books::default(), cluster());
        cluster.broker_down(-1).unwrap();
        let expire = [("message.timeout.ms", "100"), ("linger.ms", "5")];
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &expire);
        offer(&sink, &books, 0, 5);
        let status = sink.status();
        until("records have expired", || status.errors(ErrorKind::Timeout) >= 5);
        assert_eq!(books.account().queued, 5);
        cluster.broker_up(-1).unwrap();
        books.until("delivered", |account| account.delivered == 5);
        assert_eq!(payloads(&read(&cluster, 5)), (0..5).collect::<Vec<_>>());
    }

    #[test]
    fn errors_that_pass_cost_nothing_and_a_refusal_costs_its_pairs() {
        let (books, cluster) = (Books::default(), cluster());
        let passing = [
            Resp::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            Resp::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            Resp::RD_KAFKA_RESP_ERR__TRANSPORT,
            Resp::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        ];
        cluster.request_errors(RDKafkaApiKey::Produce, &passing);
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        offer(&sink, &books, 0, 10);
        books.until("delivered", |account| account.delivered == 10);
        assert!(sink.status().errors(ErrorKind::Authorization) > 0);

        cluster.request_errors(RDKafkaApiKey::Produce, &[Resp::RD_KAFKA_RESP_ERR_INVALID_RECORD]);
        offer(&sink, &books, 10, 11);
        let account = books.until("ended", |account| account.queued == 0);
        assert_eq!(account.dropped[DropReason::Rejected as usize], 1);
        assert_eq!(sink.status().errors(ErrorKind::Rejected), 1);
    }

    #[test]
    fn a_fatal_error_makes_a_new_producer_that_sends_all_again() {
        let (books, cluster) = (Books::default(), cluster());
        let desync = Resp::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        cluster.request_errors(RDKafkaApiKey::Produce, &[desync]);
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        offer(&sink, &books, 0, 20);
        books.until("delivered", |account| account.delivered == 20);
        assert!(sink.status().errors(ErrorKind::Fatal) > 0);
        assert!(sink.status().up());
        assert_eq!(payloads(&read(&cluster, 20)), (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_that_is_too_large_goes_out_without_its_bodies() {
        let (books, cluster) = (Books::default(), cluster());
        // Once by our own limit, once by the broker's word.
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[("message.max.bytes", "20000")]);
        sink.door().offer(books.make(&pair_json(30_000)));
        books.until("delivered", |account| account.delivered == 1);
        cluster.request_errors(RDKafkaApiKey::Produce, &[Resp::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        sink.door().offer(books.make(&pair_json(10_000)));
        books.until("delivered", |account| account.delivered == 2);
        assert_eq!(sink.status().errors(ErrorKind::TooLarge), 2);
        for message in read(&cluster, 2) {
            let pair: crate::record::Pair = serde_json::from_slice(message.payload().unwrap()).unwrap();
            assert_eq!(pair.request.body.reason.as_deref(), Some("too_large"));
        }

        // Nothing to take out: refused for good.
        sink.door().offer(books.make(&"x".repeat(30_000)));
        let account = books.until("ended", |account| account.queued == 0);
        assert_eq!(account.dropped[DropReason::Rejected as usize], 1);
        assert_eq!((account.queued_bytes, books.budget.used()), (0, 0));
    }

    #[test]
    fn an_unknown_topic_is_named_and_pairs_wait_for_it() {
        let (books, cluster) = (Books::default(), cluster());
        cluster.topic_error(TOPIC, Resp::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        let status = sink.status();
        until("it is seen", || status.errors(ErrorKind::UnknownTopic) > 0);
        assert!(!status.up());
        offer(&sink, &books, 0, 3);
        cluster.topic_error(TOPIC, Resp::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        books.until("delivered", |account| account.delivered == 3);
    }

    #[test]
    fn an_idle_sink_learns_that_its_broker_is_there() {
        let (books, cluster) = (Books::default(), cluster());
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[]);
        let status = sink.status();
        until("it is up", || status.up());
    }

    fn spool(dir: &tempfile::TempDir) -> Option<SpoolConfig> {
        let (dir, commit) = (dir.path().to_owned(), Duration::from_millis(20));
        Some(SpoolConfig { dir, commit, ..SpoolConfig::default() })
    }

    fn segments(dir: &tempfile::TempDir) -> usize {
        std::fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn what_a_broker_that_stays_away_leaves_is_delivered_by_the_next_run() {
        let (cluster, dir) = (cluster(), tempfile::tempdir().unwrap());
        cluster.broker_down(-1).unwrap();
        let first = Books::default();
        let sink = start_spooled(&cluster.bootstrap_servers(), &first, ROOMY, &[], spool(&dir));
        offer(&sink, &first, 0, 500);
        let account = first.until("all are spooled", |account| account.spooled == 500);
        assert_eq!(account.queued_bytes, 0);
        let finished = sink.finish(Instant::now() + Duration::from_millis(200));
        assert_eq!((finished.dropped_at_shutdown, finished.spooled), (0, 500));

        cluster.broker_up(-1).unwrap();
        let second = Books::default();
        let sink = start_spooled(&cluster.bootstrap_servers(), &second, ROOMY, &[], spool(&dir));
        offer(&sink, &second, 500, 510);
        let account = second.until("all are delivered", |account| account.delivered == 510);
        assert_eq!(account.recovered, 500);
        assert_eq!(payloads(&read(&cluster, 510)), (0..510).collect::<Vec<_>>());
        sink.finish(soon());
        assert_eq!(segments(&dir), 0);
    }

    #[test]
    fn pairs_stored_while_under_way_are_struck_off_however_their_requests_end() {
        let (books, cluster, dir) = (Books::default(), cluster(), tempfile::tempdir().unwrap());
        // Answers take far longer than a commit, so that all are stored before they are confirmed.
        cluster.broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[
                Resp::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                Resp::RD_KAFKA_RESP_ERR__TRANSPORT,
                Resp::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                Resp::RD_KAFKA_RESP_ERR_INVALID_RECORD,
                Resp::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            ],
        );
        let sink = start_spooled(&cluster.bootstrap_servers(), &books, ROOMY, &[], spool(&dir));
        // Batches of a partition each share one answer: with a refusal for good among them some pairs may be lost, counted.
        offer(&sink, &books, 0, 100);
        books.until("they are stored", |account| account.spooled > 0);
        let account = books.until("all have ended", |account| account.queued + account.spooled == 0);
        let rejected = account.dropped[DropReason::Rejected as usize];
        assert_eq!(account.delivered + rejected, 100);
        assert!(rejected > 0 && account.delivered > 0, "{account:?}");
        let arrived = payloads(&read(&cluster, usize::try_from(account.delivered).unwrap()));
        assert_eq!(arrived.len() as u64, account.delivered);
        sink.finish(soon());
        assert_eq!(segments(&dir), 0);
    }

    #[test]
    fn a_stored_record_that_is_too_large_goes_out_without_its_bodies() {
        let (books, cluster, dir) = (Books::default(), cluster(), tempfile::tempdir().unwrap());
        cluster.broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
        cluster.request_errors(RDKafkaApiKey::Produce, &[Resp::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        let sink = start_spooled(&cluster.bootstrap_servers(), &books, ROOMY, &[], spool(&dir));
        sink.door().offer(books.make(&pair_json(10_000)));
        books.until("it is stored", |account| account.spooled == 1);
        books.until("it is delivered", |account| account.delivered == 1);
        let message = read(&cluster, 1).remove(0);
        let pair: crate::record::Pair = serde_json::from_slice(message.payload().unwrap()).unwrap();
        assert_eq!(pair.request.body.reason.as_deref(), Some("too_large"));
        sink.finish(soon());
        assert_eq!(segments(&dir), 0);
    }

    #[test]
    fn leaders_that_move_cost_no_pair() {
        let (books, dir) = (Books::default(), tempfile::tempdir().unwrap());
        let cluster: Cluster = MockCluster::new(3).unwrap();
        cluster.create_topic(TOPIC, PARTITIONS, 3).unwrap();
        let sink = start_spooled(&cluster.bootstrap_servers(), &books, ROOMY, &[], spool(&dir));
        for turn in 0..6 {
            for partition in 0..PARTITIONS {
                cluster.partition_leader(TOPIC, partition, Some((turn + partition) % 3 + 1)).unwrap();
            }
            let from = usize::try_from(turn).unwrap() * 100;
            offer(&sink, &books, from, from + 100);
            // Not before some are through: a leader is to move under pairs that are on their way, too.
            books.until("some are delivered", |account| account.delivered > from as u64);
        }
        let account = books.until("all are delivered", |account| account.delivered == 600);
        assert_eq!(account.dropped, [0; DropReason::ALL.len()]);
        assert_eq!(payloads(&read(&cluster, 600)), (0..600).collect::<Vec<_>>());
        sink.finish(soon());
        assert_eq!(segments(&dir), 0);
    }

    #[test]
    fn whatever_a_broker_answers_the_books_are_balanced() {
        use Resp::*;
        let (books, cluster, dir) = (Books::default(), cluster(), tempfile::tempdir().unwrap());
        let sink = start_spooled(&cluster.bootstrap_servers(), &books, ROOMY, &[], spool(&dir));
        let passing = [
            RD_KAFKA_RESP_ERR__TRANSPORT,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
            RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
            RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED,
        ];
        let refusing = [RD_KAFKA_RESP_ERR_INVALID_RECORD, RD_KAFKA_RESP_ERR_POLICY_VIOLATION];
        for (number, error) in passing.into_iter().chain(refusing).enumerate() {
            let before = books.account();
            cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
            offer(&sink, &books, number * 5, number * 5 + 5);
            let account = books.until(&format!("{error:?}: all have ended"), |account| {
                account.last_seq == before.last_seq + 5 && account.queued + account.spooled == 0
            });
            let lost = account.dropped.iter().sum::<u64>() - before.dropped.iter().sum::<u64>();
            assert_eq!(lost > 0, number >= passing.len(), "{error:?}: {lost} lost");
        }
        sink.finish(soon());
        assert_eq!((segments(&dir), books.budget.used()), (0, 0));
    }

    #[test]
    fn what_librdkafka_counts_stands_in_the_metrics() {
        let (books, cluster) = (Books::default(), cluster());
        let sink = start(&cluster.bootstrap_servers(), &books, ROOMY, &[("statistics.interval.ms", "50")]);
        offer(&sink, &books, 0, 20);
        books.until("delivered", |account| account.delivered == 20);
        let (metrics, broker) = (sink.status().kafka(), cluster.bootstrap_servers());
        until("all are counted", || metrics.sent_messages.get() == 20);
        until("its broker is up", || metrics.broker_up.with_label_values(&[&broker]).get() == 1);
        until("its answers were timed", || metrics.broker_round_trip.with_label_values(&[&broker, "p99"]).get() > 0.0);
        assert!(metrics.broker_bytes.with_label_values(&[&broker, "sent"]).get() > 0);
        until("nothing waits", || metrics.queue_messages.get() == 0);
    }
}
