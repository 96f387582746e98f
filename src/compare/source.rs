//! Floor 5: the sources of pairs as they are named on the command line, and which reader each takes.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

use super::found::Take;
use super::{files, kafka};

/// A source as it was named.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Folder(PathBuf),
    File(PathBuf),
    Topic { brokers: String, topic: String },
}

impl Source {
    /// Understands a name given on the command line.
    pub(super) fn parse(name: &str) -> anyhow::Result<Self> {
        if let Some(rest) = name.strip_prefix("kafka://") {
            // Said without the name, which a log must not keep.
            ensure!(!rest.contains('@'), "kafka://…: user and password do not belong into a source's name");
            return topic(rest).with_context(|| format!("{name}: not a topic"));
        }
        if let Some((scheme, _)) = name.split_once("://") {
            bail!("{name}: unknown kind of source `{scheme}://`; a folder, a file or kafka://HOST:PORT/TOPIC is one");
        }
        if name.ends_with(".parquet") {
            bail!("{name}: Parquet is not yet supported as a source; compare the .jsonl files it was made from");
        }
        let path = PathBuf::from(name);
        let meta = std::fs::metadata(&path).with_context(|| format!("{name}: cannot be read"))?;
        Ok(if meta.is_dir() { Self::Folder(path) } else { Self::File(path) })
    }

    /// Reads all of it.
    pub(super) fn read(&self, take: &mut Take<'_>) -> anyhow::Result<()> {
        match self {
            Self::Folder(path) => files::read_folder(path, take),
            Self::File(path) => files::read_file(path, take),
            Self::Topic { brokers, topic } => kafka::read_topic(brokers, topic, take),
        }
    }
}

fn topic(rest: &str) -> anyhow::Result<Source> {
    const SHAPE: &str = "write kafka://HOST:PORT/TOPIC, several brokers as HOST:PORT,HOST:PORT";
    let (brokers, topic) = rest.split_once('/').context(SHAPE)?;
    let port = |broker: &str| {
        broker
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    ensure!(brokers.split(',').all(port), SHAPE);
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    ensure!((1..=249).contains(&topic.len()), SHAPE);
    ensure!(topic.chars().all(legal), "a topic's name has only letters, digits, `.`, `_` and `-`");
    Ok(Source::Topic { brokers: brokers.into(), topic: topic.into() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn fault(name: &str) -> String {
        format!("{:#}", Source::parse(name).expect_err(name))
    }

    #[test]
    fn a_topic_has_brokers_with_ports_and_a_name() {
        let source = Source::parse("kafka://127.0.0.1:9092,[::1]:9093/shadowpair.pairs").expect("a topic");
        let (brokers, topic) = ("127.0.0.1:9092,[::1]:9093".into(), "shadowpair.pairs".into());
        assert_eq!(source, Source::Topic { brokers, topic });
        for name in ["kafka://host/t", "kafka://host:9092", "kafka://host:9092/", "kafka://:9092/t", "kafka://h:x/t"] {
            assert!(fault(name).contains("kafka://HOST:PORT/TOPIC"), "{name}: {}", fault(name));
        }
        assert!(fault("kafka://h:1/a/b").contains("letters, digits"));
        assert!(!fault("kafka://user:secret@h:1/t").contains("secret"));
    }

    #[test]
    fn what_is_not_supported_yet_says_so() {
        assert!(fault("pairs/2024.parquet").contains("not yet supported"));
        assert!(fault("s3://bucket/pairs").contains("unknown kind of source `s3://`"));
        assert!(fault("no-such-folder").contains("cannot be read"));
    }
}
