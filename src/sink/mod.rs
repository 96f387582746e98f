//! Floor 3: delivery of pairs. A pair that has been made, booked and encoded is handed in at the [`Door`], which
//! returns at once. One thread of lowered priority takes it from there to the file or the Kafka topic and books
//! its end in the ledger: delivered when the sink has confirmed it, dropped with a reason otherwise. Nothing is
//! lost without being counted, and what waits is bounded, so that a sink that is away costs pairs, never memory
//! and never the answer path.
//!
//! The story: `queue` (the door, the bounds, the tickets that book each pair once) → `delivery` (the thread) →
//! `file` or `kafka` (one `Deliver` each; `retention` says which files go; `kafka_config`, `kafka_oidc_config`, `kafka_fault`
//! and `kafka_secrets` hold the settings, `kafka_tokens` has the tokens for the brokers, from `kafka_oidc` where an issuer
//! gives them, `kafka_jwt` what they say; `kafka_reports` and `kafka_stats` what librdkafka tells, `kafka_errors` and `kafka_blame` what it
//! means, `kafka_topic` the topic, `kafka_message` the form). `pace` and `status` keep trouble countable and
//! its log short. `spool` is one more `Deliver`, that stands before
//! Kafka's: what the brokers do not confirm waits on disk.

mod delivery;
mod file;
mod kafka;
mod kafka_blame;
mod kafka_config;
mod kafka_errors;
mod kafka_fault;
mod kafka_jwt;
mod kafka_message;
#[cfg(feature = "kafka-tls")]
mod kafka_oidc;
mod kafka_oidc_config;
mod kafka_reports;
mod kafka_secrets;
mod kafka_stats;
mod kafka_tokens;
mod kafka_topic;
mod pace;
mod queue;
mod retention;
mod spool;
mod status;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::budget::Charge;
use crate::config::process::SinkConfig;
use crate::ledger::Ledger;
use crate::types::DropReason;

use delivery::Deliver;
use queue::Queue;

pub use kafka_fault::PropertyFault;
pub use queue::{Bounds, Door};
pub use status::{ErrorKind, SinkMetrics, SinkStatus};

/// A pair ready to be stored, with what Kafka needs beside it.
#[derive(Debug)]
pub struct Encoded {
    /// The record: one JSON object, without line breaks.
    pub json: Vec<u8>,
    /// The message key.
    pub key: String,
    /// The record's `id`.
    pub id: String,
    /// The record's `time`.
    pub time: String,
    /// The record's `route`.
    pub route: String,
    /// The record's `producer`, where it is not this process.
    pub source: Option<Arc<str>>,
    /// What the record takes of the budget; given back when the pair has ended.
    pub charge: Charge,
}

/// Why a sink cannot be started. Found at start, so that nobody learns it from missing pairs.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The folder cannot be made or written.
    #[error(
        "pairs cannot be written to the folder `{}`: {cause}; {}, or name another folder in `pairs.file.dir`",
        dir.display(), folder_hint(cause)
    )]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The spool's folder cannot be made or written.
    #[error(
        "pairs cannot be spooled in the folder `{}`: {cause}; {}, or name another folder in `pairs.spool.dir`",
        dir.display(), folder_hint(cause)
    )]
    Spool {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A property of `pairs.kafka.properties` cannot be used.
    #[error("`pairs.kafka.properties`: `{property}` {fault}")]
    Property {
        /// Its name; never its value, which may be a secret.
        property: String,
        /// What is wrong with it.
        fault: PropertyFault,
    },
    /// The Kafka client cannot be made from these settings.
    #[error("`pairs.kafka`: the Kafka client refuses these settings: {0}")]
    Client(String),
    /// A thread cannot be started.
    #[error("a thread of delivery cannot be started: {0}")]
    Thread(io::Error),
}

/// What to do about a folder that cannot be made or written.
fn folder_hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => "what stands there is a file: move it away",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: mount a volume there",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there",
        _ => "let this user write there",
    }
}

/// What [`Sink::finish`] could still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Pairs delivered since the door closed.
    pub delivered: u64,
    /// Pairs given up because the time was over.
    pub dropped_at_shutdown: u64,
    /// Pairs that wait in the spool for the next run.
    pub spooled: u64,
}

/// How long after its deadline the thread may take to say that it has ended: it closes a Kafka client then.
const GRACE: Duration = Duration::from_secs(1);

/// The running delivery.
#[derive(Debug)]
pub struct Sink {
    queue: Arc<Queue>,
    ledger: Arc<Ledger>,
    status: Arc<SinkStatus>,
    ended: mpsc::Receiver<()>,
}

/// `file` or `kafka`: the `sink` label in metrics.
pub fn sink_name(config: &SinkConfig) -> &'static str {
    match config {
        SinkConfig::File(_) => "file",
        SinkConfig::Kafka(_) => "kafka",
    }
}

/// The most files that a sink holds open beyond the few that any needs.
pub fn open_files(config: &SinkConfig) -> u64 {
    let spools = matches!(config, SinkConfig::Kafka(kafka) if kafka.spool.is_some());
    if spools { spool::OPEN_FILES } else { 0 }
}

/// Finds what can be found wrong in a sink's settings without touching folder or broker.
pub fn check(config: &SinkConfig) -> Result<(), SinkError> {
    match config {
        SinkConfig::File(_) => Ok(()),
        SinkConfig::Kafka(kafka) => kafka_config::check(kafka),
    }
}

impl Sink {
    /// Starts delivery. A folder that cannot be written and settings that cannot be used are errors here; a broker
    /// that is away is not: pairs wait for it. `reserve` is an empty charge on the budget.
    pub fn start(
        config: &SinkConfig,
        ledger: Arc<Ledger>,
        producer: Arc<str>,
        bounds: Bounds,
        metrics: SinkMetrics,
        reserve: Charge,
    ) -> Result<Sink, SinkError> {
        let lost_as = match config {
            SinkConfig::File(_) => DropReason::Disk,
            SinkConfig::Kafka(_) => DropReason::Rejected,
        };
        let queue = Queue::new(Arc::clone(&ledger), bounds, lost_as);
        let status = Arc::new(SinkStatus::new(sink_name(config), metrics, Arc::clone(&queue)));
        let (config, health) = (config.clone(), Arc::clone(&status));
        let parts = spool::Parts {
            queue: Arc::clone(&queue),
            ledger: Arc::clone(&ledger),
            status: Arc::clone(&status),
            producer: Arc::clone(&producer),
            reserve,
        };
        let make = move || -> Result<Box<dyn Deliver>, SinkError> {
            Ok(match config {
                SinkConfig::File(config) => Box::new(file::FileSink::new(config, producer, health)?),
                SinkConfig::Kafka(config) => {
                    let kafka = kafka::KafkaSink::new(&config, &producer, bounds, health)?;
                    match config.spool {
                        None => Box::new(kafka),
                        Some(spool) => Box::new(spool::Spool::new(kafka, spool, parts)?),
                    }
                }
            })
        };
        let ended = delivery::spawn(Arc::clone(&queue), Arc::clone(&status), make)?;
        Ok(Sink { queue, ledger, status, ended })
    }

    /// Where pairs are handed in.
    pub fn door(&self) -> Door {
        Door::new(Arc::clone(&self.queue))
    }

    /// How the sink is doing.
    pub fn status(&self) -> Arc<SinkStatus> {
        Arc::clone(&self.status)
    }

    /// Closes the door, delivers what waits until the deadline, and books the rest as dropped, `shutdown`. Returns
    /// soon after the deadline at the latest, also when a write hangs.
    pub fn finish(self, deadline: Instant) -> Finished {
        let before = self.ledger.read();
        self.queue.close(deadline);
        let patience = deadline.saturating_duration_since(Instant::now()) + GRACE;
        if self.ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(sink = self.status.name(), "delivery hangs; what waits is given up");
        }
        // Nothing is open where the thread has ended; where it has not, or has died, this books what it held.
        self.queue.abandon();
        let after = self.ledger.read();
        let shutdown = DropReason::Shutdown as usize;
        Finished {
            delivered: after.delivered - before.delivered,
            dropped_at_shutdown: after.dropped[shutdown] - before.dropped[shutdown],
            spooled: after.spooled,
        }
    }
}

impl Drop for Sink {
    /// A sink that nobody has finished ends too, at once: its thread must not outlive its owner.
    fn drop(&mut self) {
        self.queue.close(Instant::now());
    }
}

/// A name for one run of one instance, `HOST-STARTID`: the host's name in `[A-Za-z0-9-]`, then the start's second
/// and 32 bits of chance in hexadecimal digits, so that two starts within one second differ too.
pub fn producer_id() -> String {
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_default();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{}-{seconds:x}{:08x}", host_label(&host), fastrand::u32(..))
}

/// The longest host name that is kept: a DNS label's length.
const HOST_MAX: usize = 63;

fn host_label(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let label: String = host.trim().chars().map(plain).take(HOST_MAX).collect();
    match label.trim_matches('-') {
        "" => "host".to_owned(),
        label => label.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    //! What the sink's tests share: a ledger and a budget whose sums are checked at every look.

    use super::*;
    use crate::budget::Budget;
    use crate::ledger::{Account, PairKey};
    use crate::metrics::kafka::KafkaMetrics;
    use crate::types::{PairResult, Role, uuid_v7};
    use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts};

    pub(crate) struct Books {
        pub(crate) ledger: Arc<Ledger>,
        pub(crate) budget: Arc<Budget>,
    }

    impl Default for Books {
        fn default() -> Self {
            Self { ledger: Arc::default(), budget: Budget::new(1 << 30) }
        }
    }

    impl Books {
        /// A pair that is booked as made.
        pub(crate) fn make(&self, json: &str) -> Encoded {
            let key = PairKey { route: None, model: None, role: Role::Shadow, result: PairResult::Equal };
            self.ledger.made(&key);
            encoded(&self.budget, json)
        }

        /// The account, once it is seen that its sum holds.
        pub(crate) fn account(&self) -> Account {
            let account = self.ledger.read();
            let (ended, waiting) =
                (account.delivered + account.dropped.iter().sum::<u64>(), account.queued + account.spooled);
            let came = account.last_seq + account.recovered;
            assert_eq!(came, ended + waiting, "made + recovered = delivered + dropped + waiting: {account:?}");
            account
        }

        /// Waits until the account is as wanted.
        pub(crate) fn until(&self, what: &str, done: impl Fn(&Account) -> bool) -> Account {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let account = self.account();
                if done(&account) {
                    return account;
                }
                assert!(Instant::now() < deadline, "{what}: {account:?}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub(crate) fn encoded(budget: &Arc<Budget>, json: &str) -> Encoded {
        let mut charge = budget.charge();
        assert!(charge.grow(json.len()));
        Encoded {
            json: json.as_bytes().to_vec(),
            key: "key".to_owned(),
            id: uuid_v7(0),
            time: "2024-11-03T10:11:12.000001Z".to_owned(),
            route: "r".to_owned(),
            source: None,
            charge,
        }
    }

    /// A record whose request body has so many bytes; the other bodies are empty.
    pub(crate) fn pair_json(body: usize) -> String {
        let leg = r#"{"model":"m","version":null,"role":"prod","endpoint":null,"reused":null,"outcome":"ok",
            "status":200,"grpc_status":null,"start_us":0,"sent_us":0,"first_byte_us":0,"total_us":0,"lag_us":0,
            "content_type":null,"headers":{},"bytes":0,
            "body":{"encoding":"none","data":null,"truncated":false,"reason":"empty"}}"#;
        let data = "x".repeat(body);
        format!(
            r#"{{"schema":"shadowpair.pair.v1","id":"the-id","producer":"p","seq":1,"labels":{{}},"request_id":"i",
            "traceparent":null,"time":"t","route":"r","config":"c","arm":"prod",
            "answered_by":{{"model":"m","version":null,"role":"prod","status":200}},"bucket":null,"keys":{{}},
            "slices":{{}},"sample_percent":100.0,"tally":{{"seen":1,"sampled":1,"skipped":0}},
            "protocol":"http/1.1","request":{{"method":"POST","path":"/","query":null,"headers":{{}},
            "content_type":null,"bytes":{body},
            "body":{{"encoding":"utf8","data":"{data}","truncated":false,"reason":null}}}},
            "prod":{leg},"candidate":{leg},"result":"equal","comparison":null,"comparison_error":"none"}}"#
        )
        .replace("\n            ", "")
    }

    pub(crate) fn metrics(sink: &str) -> SinkMetrics {
        let delivery = HistogramVec::new(HistogramOpts::new("d", "d"), &["sink"]).unwrap();
        let up = IntGaugeVec::new(Opts::new("u", "u"), &["sink"]).unwrap();
        let errors = IntCounterVec::new(Opts::new("e", "e"), &["sink", "kind"]).unwrap();
        SinkMetrics::new(sink, &delivery, &up, &errors, kafka_metrics())
    }

    pub(crate) fn kafka_metrics() -> KafkaMetrics {
        let lines = prometheus::IntCounter::new("l", "l").unwrap();
        crate::metrics::Metrics::new(lines).unwrap().kafka.clone()
    }

    pub(crate) const ROOMY: Bounds = Bounds { pairs: 100_000, bytes: 64 << 20 };

    /// Soon enough that a test does not drag, late enough for a busy machine.
    pub(crate) fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_producer_is_named_by_its_host_and_its_start() {
        assert_eq!(host_label("web-1.example.com\n"), "web-1-example-com");
        assert_eq!(host_label("ü_"), "host");
        let (one, other) = (producer_id(), producer_id());
        assert_ne!(one, other);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{one}");
    }
}
