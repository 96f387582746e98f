//! Floor 3: pairs as messages of a Kafka topic, through one librdkafka producer that is made, fed and polled on the
//! delivery thread. A pair is delivered when the delivery report says so, and only then: until that moment its
//! ticket and its share of the budget stand in `in_flight`. Its bytes are handed over to librdkafka's queue and
//! come back with a report of failure, so that they are in memory once.
//!
//! A broker that is away is no error: librdkafka keeps at it, pairs wait, first in its queue, then in ours, until
//! the door refuses more. `kafka_errors` sorts what reports say; after a fatal error the producer is built anew
//! and all that was under way goes out again, under the same id.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::delivery::{Deliver, Turn};
use super::kafka_errors::{Verdict, verdict};
use super::kafka_message::{message, slim};
use super::pace::{Backoff, Quiet};
use super::queue::{Bounds, Waiting};
use super::status::{ErrorKind, SinkStatus};
use super::{SinkError, kafka_config};
use crate::config::process::KafkaSinkConfig;
use crate::types::DropReason;

/// Between two attempts after a record came back.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Without a report for so long, with records under way, the sink counts as down.
const STALLED: Duration = Duration::from_secs(10);
/// How long a question whether the topic is there may hold delivery up. It is asked only while all stands still.
const PROBE: Duration = Duration::from_millis(200);
/// Between two such questions.
const PROBE_EVERY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What librdkafka tells us, in its order.
enum Event {
    Delivered(usize),
    Failed { number: usize, code: Code, payload: Option<Vec<u8>> },
    Error { code: Code, reason: String },
}

/// Where callbacks leave their word. They run inside `poll`, on the delivery thread, and must not panic.
struct Reports {
    events: Mutex<Vec<Event>>,
    quiet: Mutex<Quiet>,
}

impl Reports {
    fn new() -> Self {
        Self { events: Mutex::default(), quiet: Mutex::default() }
    }

    fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        if level as i32 > RDKafkaLogLevel::Warning as i32 {
            return tracing::debug!(fac, "librdkafka: {message}");
        }
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = quiet.allow(Instant::now()) {
            tracing::warn!(fac, held_back, "librdkafka: {message}");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        // rdkafka's producer reports each error event twice.
        let again = matches!(events.last(), Some(Event::Error { code: last, reason: same }) if *last == code && same == reason);
        if !again {
            events.push(Event::Error { code, reason: reason.to_owned() });
        }
    }
}

impl ProducerContext for Reports {
    /// The ticket's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        self.push(match result {
            Ok(_) => Event::Delivered(number),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Unknown);
                Event::Failed { number, code, payload: message.payload().map(<[u8]>::to_vec) }
            }
        });
    }
}

/// Sends pairs to a topic.
pub(super) struct KafkaSink {
    client: ClientConfig,
    topic: String,
    /// `ce_source`.
    source: String,
    status: Arc<SinkStatus>,
    /// None only between two producers.
    producer: Option<BaseProducer<Reports>>,
    /// What librdkafka has and has not reported on, by ticket number: the first is the oldest. Without bytes.
    in_flight: BTreeMap<usize, Waiting>,
    /// Whether the producer is of no more use.
    fault: bool,
    backoff: Backoff,
    probe: Backoff,
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
        let made = client
            .create_with_context(Reports::new())
            .map_err(|error| kafka_config::refusal(config, &error))?;
        Ok(Self {
            client,
            topic: config.topic.clone(),
            source: format!("/shadowpair/{producer}"),
            status,
            producer: Some(made),
            in_flight: BTreeMap::new(),
            fault: false,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            probe: Backoff::new(PROBE_EVERY.0, PROBE_EVERY.1),
            last_report: Instant::now(),
        })
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
            let message = message(&self.topic, &self.source, &next, &json);
            let refused = producer.send(message).err().map(|(error, _)| error);
            let Some(error) = refused else {
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
                self.status.set_down(kind, format_args!("{}; pairs wait", self.explain(kind, code)));
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

    fn explain(&self, kind: ErrorKind, code: Code) -> String {
        let topic = &self.topic;
        match kind {
            ErrorKind::UnknownTopic => format!("the topic `{topic}` does not exist ({code}); create it"),
            ErrorKind::Authorization => {
                format!("the brokers do not let this client write to the topic `{topic}` ({code}); grant it")
            }
            _ => code.to_string(),
        }
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
                        self.status.delivered(pair.ticket.since);
                        pair.ticket.delivered();
                        ended = true;
                    }
                }
                Event::Failed { number, code, payload } => {
                    let Some(mut pair) = self.in_flight.remove(&number) else { continue };
                    pair.pair.json = payload.unwrap_or_default();
                    back.extend(self.judge(pair, verdict(code), code));
                }
                Event::Error { code, reason } => self.heard(code, &reason),
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
        match verdict(code) {
            Verdict::Fault => self.fault = true,
            // librdkafka goes on by itself after all others; while one broker is left, so does delivery.
            Verdict::Retry(kind) if code != Code::AllBrokersDown => self.status.trouble(kind, reason),
            Verdict::Retry(kind) => self.status.set_down(kind, format_args!("{reason}; pairs wait")),
            _ => self.status.trouble(ErrorKind::Transport, reason),
        }
    }

    /// Replaces the producer; all that it had comes back to `waiting`.
    fn rebuild(&mut self, waiting: &mut VecDeque<Waiting>) {
        if let Some(old) = self.producer.take() {
            let fatal = old.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"));
            let cause = fatal.unwrap_or_else(|| "the brokers no longer know this producer".to_owned());
            self.status.set_down(ErrorKind::Fatal, format_args!("{cause}; the Kafka client is built anew"));
            self.retire(old, waiting);
        }
        if self.backoff.waits(Instant::now()) {
            return;
        }
        match self.client.create_with_context(Reports::new()) {
            Ok(producer) => (self.producer, self.fault) = (Some(producer), false),
            Err(error) => {
                self.backoff.failed(Instant::now());
                self.status.set_down(ErrorKind::Fatal, format_args!("no new Kafka client: {error}"));
            }
        }
    }

    /// Ends a producer. Dropping it purges its queue, which reports on every record that it still had.
    fn retire(&mut self, producer: BaseProducer<Reports>, waiting: &mut VecDeque<Waiting>) {
        let reports = Arc::clone(producer.client().context());
        drop(producer);
        self.settle(reports.take(), waiting);
        // Without its report a record's bytes are gone: the tickets book the loss.
        self.in_flight.clear();
    }

    /// Finds out whether delivery works where no report says so.
    fn watch(&mut self) {
        let now = Instant::now();
        let Some((_, oldest)) = self.in_flight.first_key_value() else { return self.ask(now) };
        let silent = now.saturating_duration_since(self.last_report.max(oldest.ticket.since));
        if self.status.up() && silent >= STALLED {
            let cause = format_args!("no delivery report for {} s; pairs wait", silent.as_secs());
            self.status.set_down(ErrorKind::Timeout, cause);
        }
    }

    /// While the sink is not up and nothing is under way, asks for the topic.
    fn ask(&mut self, now: Instant) {
        let Some(producer) = &self.producer else { return };
        if self.status.up() || self.probe.waits(now) {
            return;
        }
        let answer = producer.client().fetch_metadata(Some(&self.topic), PROBE);
        let topic_fault = match &answer {
            Err(error) => Some(error.rdkafka_error_code().unwrap_or(Code::BrokerTransportFailure)),
            Ok(metadata) => match metadata.topics().first() {
                None => Some(Code::UnknownTopic),
                Some(topic) => topic.error().map(Code::from),
            },
        };
        match topic_fault {
            None => {
                self.probe.succeeded();
                self.status.set_up();
            }
            Some(code) => {
                self.probe.failed(Instant::now());
                let kind = match verdict(code) {
                    Verdict::Retry(kind) => kind,
                    _ => ErrorKind::Transport,
                };
                let brokers = self.client.get("bootstrap.servers").unwrap_or_default();
                let cause = self.explain(kind, code);
                self.status.set_down(kind, format_args!("brokers {brokers}: {cause}; pairs wait"));
            }
        }
    }
}

impl Deliver for KafkaSink {
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
        if self.fault {
            self.rebuild(waiting);
        }
        let sent = self.send(waiting);
        let events = match &self.producer {
            Some(producer) => {
                producer.poll(turn.pause);
                producer.client().context().take()
            }
            None => {
                std::thread::sleep(turn.pause);
                Vec::new()
            }
        };
        let ended = self.settle(events, waiting);
        self.watch();
        sent || ended
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
