//! Floor 3: how the sink is doing, for `/metrics`, the log and the admin page. Each trouble is counted every time
//! and logged seldom; the log says once when delivery stops and once when it goes on.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::pace::Quiet;
use super::queue::Queue;
use crate::metrics::kafka::KafkaMetrics;

/// The `kind` of a `shadowpair_sink_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The disk, or a quota, is full.
    DiskFull,
    /// The file system refused for another reason.
    Io,
    /// The spool is at its bound.
    SpoolFull,
    /// Something that was stored cannot be read back.
    Corrupt,
    /// No broker can be reached, or a connection broke.
    Transport,
    /// A broker did not answer in time.
    Timeout,
    /// The topic does not exist.
    UnknownTopic,
    /// TLS does not come about: a certificate that is not trusted, or one side that speaks plaintext.
    Tls,
    /// The brokers refuse the user, the password or the token.
    Authentication,
    /// The broker denies this client the topic.
    Authorization,
    /// A record is larger than the broker takes.
    TooLarge,
    /// The broker refused a record for good.
    Rejected,
    /// The Kafka client had to be built anew.
    Fatal,
    /// The delivery thread panicked and went on.
    Panic,
}

impl ErrorKind {
    /// Every kind; `self as usize` is its index here.
    pub const ALL: &'static [ErrorKind] = &[
        ErrorKind::DiskFull,
        ErrorKind::Io,
        ErrorKind::SpoolFull,
        ErrorKind::Corrupt,
        ErrorKind::Transport,
        ErrorKind::Timeout,
        ErrorKind::UnknownTopic,
        ErrorKind::Tls,
        ErrorKind::Authentication,
        ErrorKind::Authorization,
        ErrorKind::TooLarge,
        ErrorKind::Rejected,
        ErrorKind::Fatal,
        ErrorKind::Panic,
    ];

    /// The spelling in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorKind::DiskFull => "disk_full",
            ErrorKind::Io => "io",
            ErrorKind::SpoolFull => "spool_full",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Transport => "transport",
            ErrorKind::Timeout => "timeout",
            ErrorKind::UnknownTopic => "unknown_topic",
            ErrorKind::Tls => "tls",
            ErrorKind::Authentication => "authentication",
            ErrorKind::Authorization => "authorization",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Rejected => "rejected",
            ErrorKind::Fatal => "fatal",
            ErrorKind::Panic => "panic",
        }
    }
}

/// The handles that delivery writes to, resolved once.
#[derive(Debug, Clone)]
pub struct SinkMetrics {
    delivery_seconds: Histogram,
    up: IntGauge,
    errors: Vec<IntCounter>,
    kafka: KafkaMetrics,
}

impl SinkMetrics {
    /// Takes one sink's children out of `shadowpair_delivery_seconds{sink}`, `shadowpair_sink_up{sink}` and
    /// `shadowpair_sink_errors_total{sink, kind}`, so that they stand at 0 from the start.
    pub fn new(
        sink: &str,
        delivery_seconds: &HistogramVec,
        up: &IntGaugeVec,
        errors: &IntCounterVec,
        kafka: KafkaMetrics,
    ) -> Self {
        let errors = ErrorKind::ALL.iter().map(|kind| errors.with_label_values(&[sink, kind.as_str()]));
        Self {
            delivery_seconds: delivery_seconds.with_label_values(&[sink]),
            up: up.with_label_values(&[sink]),
            errors: errors.collect(),
            kafka,
        }
    }
}

/// How the sink is doing, for whoever asks.
#[derive(Debug)]
pub struct SinkStatus {
    name: &'static str,
    metrics: SinkMetrics,
    queue: Arc<Queue>,
    quiet: Mutex<Vec<Quiet>>,
}

impl SinkStatus {
    pub(super) fn new(name: &'static str, metrics: SinkMetrics, queue: Arc<Queue>) -> Self {
        let quiet = ErrorKind::ALL.iter().map(|_| Quiet::default()).collect();
        Self { name, metrics, queue, quiet: Mutex::new(quiet) }
    }

    /// Where librdkafka's statistics go.
    pub(super) fn kafka(&self) -> KafkaMetrics {
        self.metrics.kafka.clone()
    }

    /// `file` or `kafka`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the sink takes pairs, as far as it is known.
    pub fn up(&self) -> bool {
        self.metrics.up.get() == 1
    }

    /// How long the oldest waiting pair has waited, unacknowledged ones included.
    pub fn oldest(&self) -> Option<Duration> {
        self.queue.oldest().map(|since| since.elapsed())
    }

    /// How often something of this kind went wrong.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.metrics.errors[kind as usize].get()
    }

    /// A pair that was offered at `since` is confirmed.
    pub(super) fn delivered(&self, since: Instant) {
        self.metrics.delivery_seconds.observe(since.elapsed().as_secs_f64());
        self.set_up();
    }

    /// The sink takes pairs.
    pub(super) fn set_up(&self) {
        if !self.up() {
            self.metrics.up.set(1);
            tracing::info!(sink = self.name, "the sink takes pairs");
        }
    }

    /// Nothing is delivered at the moment, and why. What it means for the pairs is the caller's to say in `cause`.
    pub(super) fn set_down(&self, kind: ErrorKind, cause: impl Display) {
        self.metrics.up.set(0);
        self.trouble(kind, cause);
    }

    /// Something went wrong that the caller logs itself, because each time counts.
    pub(super) fn count(&self, kind: ErrorKind) {
        self.metrics.errors[kind as usize].inc();
    }

    /// Something went wrong that does not stop delivery.
    pub(super) fn trouble(&self, kind: ErrorKind, cause: impl Display) {
        self.count(kind);
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held_back) = quiet[kind as usize].allow(Instant::now()) {
            let (sink, kind) = (self.name, kind.as_str());
            tracing::warn!(sink, kind, held_back, up = self.up(), %cause, "delivery of pairs is in trouble");
        }
    }
}
