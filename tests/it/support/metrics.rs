//! A scrape, read strictly: what Prometheus would refuse fails the test that asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Answer, ask, request};

/// Labels of a series.
pub(crate) type Labels = BTreeMap<String, String>;

/// One scrape.
pub(crate) struct Metrics {
    /// Every sample: its name, its labels, its value.
    pub(crate) samples: Vec<(String, Labels, f64)>,
    /// The type of each family.
    pub(crate) types: BTreeMap<String, String>,
}

/// A GET of the admin interface.
pub(crate) fn admin_get(admin: SocketAddr, path: &str) -> Answer {
    ask(admin, request(&format!("GET {path}"), &[("connection", "close")], b""))
}

impl Metrics {
    /// Scrapes.
    pub(crate) fn scrape(admin: SocketAddr) -> Self {
        let answer = admin_get(admin, "/metrics");
        assert_eq!(answer.status, 200);
        Self::parse(&answer.text())
    }

    /// Reads the text format, and checks what `promtool check metrics` would.
    pub(crate) fn parse(text: &str) -> Self {
        let mut metrics = Self { samples: Vec::new(), types: BTreeMap::new() };
        let (mut helps, mut series) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty() && *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let name = help.split(' ').next().expect("a name").to_owned();
                assert!(helps.insert(name), "two HELP lines: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a name and a type");
                let before = metrics.types.insert(name.into(), kind.into());
                assert!(before.is_none(), "two TYPE lines: {line}");
            } else {
                let (name, labels, value) = sample(line);
                assert!(series.insert((name.clone(), labels.clone())), "a series twice: {line}");
                metrics.samples.push((name, labels, value));
            }
        }
        metrics.check(&helps);
        metrics
    }

    fn check(&self, helps: &BTreeSet<String>) {
        for (name, ..) in &self.samples {
            let family = self.family(name);
            assert!(helps.contains(&family), "no HELP for {family}");
            let kind = &self.types[&family];
            assert_eq!(kind == "counter", family.ends_with("_total"), "{family} is a {kind}");
        }
    }

    fn family(&self, sample: &str) -> String {
        let cut = ["_bucket", "_sum", "_count"].iter().find_map(|end| sample.strip_suffix(end));
        let histogram = cut.filter(|name| self.types.get(*name).is_some_and(|kind| kind == "histogram"));
        histogram.unwrap_or(sample).to_owned()
    }

    /// The series of this name whose labels include these.
    pub(crate) fn series(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&Labels, f64)> {
        let fits = |have: &Labels| labels.iter().all(|(k, v)| have.get(*k).is_some_and(|x| x == v));
        let same = self.samples.iter().filter(|(n, have, _)| n == name && fits(have));
        same.map(|(_, have, value)| (have, *value)).collect()
    }

    /// Their sum; the test fails where there are none.
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.series(name, labels);
        assert!(!series.is_empty(), "no series {name} with {labels:?}");
        series.iter().map(|(_, value)| value).sum()
    }

    /// Their sum, 0 where there are none.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).iter().map(|(_, value)| value).sum()
    }

    /// Pairs that wait, the spool's included.
    pub(crate) fn waiting(&self) -> f64 {
        self.sum("shadowpair_pairs_queue_depth", &[]) + self.count("shadowpair_spool_pairs", &[])
    }

    /// The account of pairs must close in every scrape.
    pub(crate) fn assert_account(&self) {
        let made = self.count("shadowpair_pairs_total", &[]) + self.count("shadowpair_pairs_recovered_total", &[]);
        let delivered = self.count("shadowpair_pairs_delivered_total", &[]);
        let dropped = self.count("shadowpair_pairs_dropped_total", &[]);
        let waiting = self.waiting();
        assert!(
            (made - delivered - dropped - waiting).abs() < 0.5,
            "{made} pairs made, but {delivered} delivered, {dropped} dropped, {waiting} waiting"
        );
    }
}

fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = match line.rfind('}') {
        Some(at) => (&line[..=at], line[at + 1..].trim()),
        None => line.split_once(' ').unwrap_or_else(|| panic!("no value: {line}")),
    };
    let value = value.split(' ').next().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no number: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    (name.to_owned(), parse_labels(labels), value)
}

/// `a="b",c="d"}` with the escapes of the text format.
fn parse_labels(text: &str) -> Labels {
    let mut labels = Labels::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("open quote: {text}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("escape {other:?}: {text}"),
                }),
                (_, c) => value.push(c),
            }
        };
        let before = labels.insert(name.trim_start_matches(',').to_owned(), value);
        assert!(before.is_none(), "a label twice: {text}");
        rest = &after[end + 1..];
    }
    labels
}
