//! Floor 1: the `pairs` block: where pairs go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::fault::Notes;
use super::super::keys;
use super::super::process::{
    Compress, CreateTopic, FileSinkConfig, KafkaSinkConfig, SinkConfig, SpoolConfig, WhenFull,
};
use super::super::raw::{Kind, Node};
use super::super::routing::Route;
use super::{Fields, capture, entries, list, name, safe, size, some_time, text, whole, word};
use crate::types::Secret;

/// The block; without one pairs go to files in `./pairs`.
pub(super) fn read(node: Option<&Node>, routes: &[Arc<Route>], notes: &mut Notes) -> SinkConfig {
    let default = SinkConfig::File(FileSinkConfig::default());
    let Some(fields) = node.and_then(|node| Fields::open(node, &keys::PAIRS, notes)) else { return default };
    if fields.get("kafka").is_some() && fields.get("file").is_some() {
        notes.fault(fields.key_at("file"), "two sinks, `kafka` and `file`", "pairs go to one of them: keep one");
    }
    let file = fields.read("file", notes, |node, notes| file(node, notes).map(SinkConfig::File));
    let spool = fields.read("spool", notes, spool);
    if fields.get("spool").is_some() && fields.get("kafka").is_none() {
        let help = "leave it out: a file needs none, since pairs wait in memory while the disk refuses them";
        notes.fault(fields.key_at("spool"), "a `spool` without `kafka`", help);
    }
    let kafka = fields.read("kafka", notes, |node, notes| {
        kafka(node, routes, notes).map(|sink| SinkConfig::Kafka(KafkaSinkConfig { spool, ..sink }))
    });
    if fields.get("kafka").is_none() && fields.get("file").is_none() {
        notes.fault(
            fields.at,
            "`pairs` names no sink",
            "write `file: {dir: ./pairs}` or `kafka: {…}`, or leave the block out",
        );
    }
    kafka.or(file).unwrap_or(default)
}

fn file(node: &Node, notes: &mut Notes) -> Option<FileSinkConfig> {
    let fields = Fields::open(node, &keys::FILE_SINK, notes)?;
    let default = FileSinkConfig::default();
    let sink = FileSinkConfig {
        dir: fields.read("dir", notes, name).map_or(default.dir, PathBuf::from),
        segment: fields.read("segment", notes, size).unwrap_or(default.segment),
        keep: fields.read("keep", notes, size).unwrap_or(default.keep),
        keep_for: fields.read("keep_for", notes, some_time).unwrap_or(default.keep_for),
        compress: fields.read("compress", notes, compress).unwrap_or(Compress::None),
    };
    if sink.segment == 0 {
        notes.fault(fields.key_at("segment"), "a segment of no size", "write a size as in `64MiB`");
    }
    if sink.keep < sink.segment {
        let at = if fields.get("keep").is_some() { fields.key_at("keep") } else { fields.key_at("segment") };
        notes.fault(
            at,
            "`keep` is less than one `segment`",
            "keep at least one segment: raise `keep` or lower `segment`",
        );
    }
    Some(sink)
}

fn compress(node: &Node, notes: &mut Notes) -> Option<Compress> {
    word(node, notes, &[("none", Compress::None), ("zstd", Compress::Zstd)])
}

fn kafka(node: &Node, routes: &[Arc<Route>], notes: &mut Notes) -> Option<KafkaSinkConfig> {
    let fields = Fields::open(node, &keys::KAFKA_SINK, notes)?;
    let brokers = fields.required("brokers", notes).map(|node| brokers(node, notes)).unwrap_or_default();
    let topic = fields.required("topic", notes).and_then(|node| topic(node, notes)).unwrap_or_default();
    let key = fields.read("key", notes, |node, notes| key(node, routes, notes));
    let properties = fields.read("properties", notes, properties).unwrap_or_default();
    let create_topic = fields.read("create_topic", notes, create_topic);
    Some(KafkaSinkConfig { brokers, topic, key: key.flatten(), create_topic, properties, spool: None })
}

fn create_topic(node: &Node, notes: &mut Notes) -> Option<CreateTopic> {
    let fields = Fields::open(node, &keys::CREATE_TOPIC, notes)?;
    let default = CreateTopic::default();
    Some(CreateTopic {
        partitions: fields
            .read("partitions", notes, |node, notes| whole(node, 1, 100_000, notes))
            .unwrap_or(default.partitions),
        replication: fields
            .read("replication", notes, |node, notes| whole(node, 1, 32_767, notes))
            .unwrap_or(default.replication),
        retention: fields.read("retention", notes, some_time),
    })
}

/// Less holds too few pairs to be worth a disk.
const LEAST_SPOOL: u64 = 1 << 20;
/// Each commit is a write that waits for the disk; a pair that waits longer than a minute is on no disk when it should be.
const COMMIT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(60));

fn spool(node: &Node, notes: &mut Notes) -> Option<SpoolConfig> {
    let fields = Fields::open(node, &keys::SPOOL, notes)?;
    let default = SpoolConfig::default();
    let spool = SpoolConfig {
        dir: fields.read("dir", notes, name).map_or(default.dir, PathBuf::from),
        max: fields.read("max", notes, size).unwrap_or(default.max),
        commit: fields.read("commit", notes, some_time).unwrap_or(default.commit),
        when_full: fields.read("when_full", notes, when_full).unwrap_or(default.when_full),
    };
    if spool.max < LEAST_SPOOL {
        notes.fault(fields.key_at("max"), "a spool of less than 1MiB", "write a size as in `8GiB`");
    }
    if spool.commit < COMMIT.0 || spool.commit > COMMIT.1 {
        notes.fault(fields.key_at("commit"), "`commit` is not between 10ms and 1m", "write a time as in `100ms`");
    }
    Some(spool)
}

fn when_full(node: &Node, notes: &mut Notes) -> Option<WhenFull> {
    word(node, notes, &[("drop_newest", WhenFull::DropNewest), ("drop_oldest", WhenFull::DropOldest)])
}

fn brokers(node: &Node, notes: &mut Notes) -> Vec<String> {
    let Some(items) = list(node, notes) else { return Vec::new() };
    if items.is_empty() {
        notes.fault(node.at, "`brokers` is empty", "write at least one, as in `[\"127.0.0.1:9092\"]`");
    }
    items.iter().filter_map(|item| broker(item, notes)).collect()
}

fn broker(node: &Node, notes: &mut Notes) -> Option<String> {
    let written = text(node, notes)?;
    let valid = written
        .rsplit_once(':')
        .is_some_and(|(host, port)| super::models::is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0));
    if valid {
        return Some(written.to_owned());
    }
    let guess = if super::models::is_host(written) {
        format!("write `{written}:9092`")
    } else {
        "write `HOST:PORT`, as in `127.0.0.1:9092`".to_owned()
    };
    let help = safe(node, guess, "write `HOST:PORT`, as in `127.0.0.1:9092`");
    notes.fault(node.at, format!("expected a broker's address, found {}", node.shown()), help);
    None
}

fn topic(node: &Node, notes: &mut Notes) -> Option<String> {
    let topic = text(node, notes)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let fits = (1..=249).contains(&topic.len()) && topic.bytes().all(legal) && !matches!(topic, "." | "..");
    if !fits {
        let help = "1 to 249 letters, digits, `.`, `_` or `-`, as in `shadowpair.pairs`";
        notes.fault(node.at, format!("{} is no name of a topic", node.shown()), help);
    }
    fits.then(|| topic.to_owned())
}

/// None inside where the message key is the request id.
fn key(node: &Node, routes: &[Arc<Route>], notes: &mut Notes) -> Option<Option<String>> {
    let key = name(node, notes)?;
    let known = || routes.iter().flat_map(|route| route.capture.keys.iter().map(|(name, _)| name.as_str()));
    if let Some(help) = capture::unknown_key(key, known().collect::<Vec<_>>()) {
        let general = "name one of a route's `capture.keys`, or leave it out for `request_id`";
        notes.fault(node.at, format!("no route has a key {}", node.shown()), safe(node, help, general));
    }
    Some(known().any(|name| name == key).then(|| key.to_owned()))
}

fn properties(node: &Node, notes: &mut Notes) -> Option<BTreeMap<String, Secret>> {
    if !matches!(node.kind, Kind::Mapping(_)) {
        // Whatever it is, it was meant to hold them.
        notes.secret(node.at);
        notes.fault(node.at, "`properties` is a mapping", "write `{name: value}`, as in `{client.id: shadowpair}`");
        return None;
    }
    let mut properties = BTreeMap::new();
    for entry in entries(node, "`properties`", notes)? {
        let harmless =
            matches!(entry.key.as_str(), "security.protocol" | "sasl.mechanism" | "sasl.mechanisms" | "acks");
        if !harmless {
            notes.secret(entry.value.at);
        }
        let Some(value) = text(&entry.value, notes) else { continue };
        if let Some(help) = contradiction(&entry.key, value) {
            notes.fault(entry.key_at, format!("`{}` cannot be set here", super::clip(&entry.key)), help);
        }
        properties.insert(entry.key.clone(), Secret::new(value));
    }
    Some(properties)
}

/// What would break a promise of shadowpair's, and what to do in its place.
fn contradiction(property: &str, value: &str) -> Option<&'static str> {
    match property {
        "bootstrap.servers" | "metadata.broker.list" => Some("write `brokers`"),
        "delivery.report.only.error" if value != "false" => Some("every delivery is counted: leave it out"),
        "acks" | "request.required.acks" if value == "0" => {
            Some("a pair counts as delivered when a broker says so: use `all` or `1`")
        }
        _ => None,
    }
}
