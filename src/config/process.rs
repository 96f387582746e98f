//! What is fixed for the life of a process: addresses, threads, limits, the sink. Only valid values.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::types::Secret;

/// The `server` and `pairs` blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Where clients connect; at least one.
    pub listen: Vec<SocketAddr>,
    /// Where probes, metrics and the API are served.
    pub admin: SocketAddr,
    /// The bearer token that the API asks for; always set where `admin` is not loopback.
    pub admin_token: Option<Secret>,
    /// Answer-path threads; 0 is one per core of the CPU quota.
    pub workers: usize,
    /// Lanes; 0 is one per four workers, at least one.
    pub shadow_threads: usize,
    /// How long in-flight requests may finish after SIGTERM; its last fifth (5 s at most) is for delivery.
    pub drain: Duration,
    /// How long to stay unready but accepting before the drain.
    pub drain_delay: Duration,
    /// Peers whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Carried into every record.
    pub labels: BTreeMap<String, String>,
    /// For keys and redactions that hash.
    pub hash_key: Option<Secret>,
    /// Bounds.
    pub limits: Limits,
    /// Where pairs go.
    pub sink: SinkConfig,
}

/// `server.limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at once; at the limit accepting waits.
    pub connections: usize,
    /// The most bytes of a request's head; more is a 431.
    pub header_bytes: usize,
    /// How long a head may take.
    pub header_timeout: Duration,
    /// How long a connection may be idle, a body pause, or a client not read.
    pub idle_timeout: Duration,
    /// The most bytes of a request body; more is a 413.
    pub request_bytes: u64,
    /// All copies and waiting pairs together, in bytes.
    pub shadow_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_bytes: 32 << 10,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            request_bytes: 64 << 20,
            shadow_bytes: 256 << 20,
        }
    }
}

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The network's address.
    pub network: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Cidr {
    /// Whether the address lies in the network. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32_u32.saturating_sub(u32::from(self.prefix));
                (net.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128_u32.saturating_sub(u32::from(self.prefix));
                (net.to_bits() ^ ip.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The `pairs` block: exactly one sink.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkConfig {
    /// `pairs.file`.
    File(FileSinkConfig),
    /// `pairs.kafka`.
    Kafka(KafkaSinkConfig),
}

/// `pairs.file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSinkConfig {
    /// The folder; relative to the working directory.
    pub dir: PathBuf,
    /// A file larger than this is closed and the next begun, in bytes.
    pub segment: u64,
    /// The oldest closed files go when the folder holds more, in bytes.
    pub keep: u64,
    /// Closed files older than this go.
    pub keep_for: Duration,
    /// How files are compressed.
    pub compress: Compress,
}

impl Default for FileSinkConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("./pairs"),
            segment: 64 << 20,
            keep: 10 << 30,
            keep_for: Duration::from_secs(45 * 86_400),
            compress: Compress::None,
        }
    }
}

/// `pairs.file.compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Plain `.jsonl`.
    None,
    /// `.jsonl.zst`, in whole frames.
    Zstd,
}

/// `pairs.kafka`.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaSinkConfig {
    /// `HOST:PORT` of the brokers to ask first; at least one.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// The name under `capture.keys` whose value is the message key; none is the request id.
    pub key: Option<String>,
    /// How the topic is created where it is missing; none leaves that to somebody else.
    pub create_topic: Option<CreateTopic>,
    /// Passed to librdkafka as they are; they may hold secrets.
    pub properties: BTreeMap<String, Secret>,
    /// `pairs.spool`.
    pub spool: Option<SpoolConfig>,
}

/// `pairs.spool`: where pairs wait on disk that the brokers have not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// The folder; relative to the working directory.
    pub dir: PathBuf,
    /// The most bytes of it.
    pub max: u64,
    /// How long after it was made a pair is confirmed or on disk.
    pub commit: Duration,
    /// What becomes of pairs at the bound.
    pub when_full: WhenFull,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("./spool"),
            max: 8 << 30,
            commit: Duration::from_millis(100),
            when_full: WhenFull::DropNewest,
        }
    }
}

/// `pairs.spool.when_full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// What is there stays, and what comes is dropped.
    DropNewest,
    /// The oldest go, a segment of them at a time.
    DropOldest,
}

/// `pairs.kafka.create_topic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateTopic {
    /// How many partitions.
    pub partitions: u32,
    /// How many brokers keep each of them.
    pub replication: u16,
    /// How long records are kept; none is as the brokers do it.
    pub retention: Option<Duration>,
}

impl Default for CreateTopic {
    fn default() -> Self {
        Self { partitions: 6, replication: 3, retention: None }
    }
}
