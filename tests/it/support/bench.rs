//! The proxy in this process, and what must hold after every test whatever happened in it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use shadowpair::app::{self, App};
use shadowpair::config::load;

use super::client::{Answer, Client, ask};
use super::h2::H2Client;
use super::metrics::{Metrics, admin_get};
use super::wire::PATIENCE;
use super::{pairs, step_back, until};

/// A running proxy.
pub(crate) struct Bench {
    app: Option<App>,
    dir: TempDir,
    /// Where clients connect.
    pub(crate) traffic: SocketAddr,
    /// Where the admin interface listens.
    pub(crate) admin: SocketAddr,
}

impl Bench {
    /// Starts it with this routing file; pairs go to `pairs` in the folder.
    pub(crate) fn start(yaml: &str, dir: TempDir) -> Self {
        step_back();
        watch_panics();
        let loaded = load::from_str("bench.yaml", yaml).unwrap_or_else(|faults| panic!("{faults}\n{yaml}"));
        let app = app::start(loaded.config).unwrap_or_else(|error| panic!("{error}"));
        let (traffic, admin) = (app.traffic[0], app.admin);
        Self { app: Some(app), dir, traffic, admin }
    }

    /// Every address where clients connect.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.app.as_ref().map_or_else(Vec::new, |app| app.traffic.clone())
    }

    /// A client's connection.
    pub(crate) fn client(&self) -> Client {
        Client::to(self.traffic)
    }

    /// An HTTP/2 client's connection.
    pub(crate) fn h2(&self) -> H2Client {
        H2Client::to(self.traffic)
    }

    /// One request over a connection of its own.
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        ask(self.traffic, request)
    }

    /// A GET of the admin interface.
    pub(crate) fn admin_get(&self, path: &str) -> Answer {
        admin_get(self.admin, path)
    }

    /// A scrape; the account of pairs holds in each.
    pub(crate) fn metrics(&self) -> Metrics {
        let metrics = Metrics::scrape(self.admin);
        metrics.assert_account();
        metrics
    }

    /// Waits until these series add up to just this.
    #[track_caller]
    pub(crate) fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = 0.0;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            last = self.metrics().count(name, labels);
            if last == value {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} {labels:?} is {last}, not {value}\n{}", self.losses());
    }

    /// Waits until so many copies were refused for this reason.
    #[track_caller]
    pub(crate) fn wait_skipped(&self, reason: &str, count: f64) {
        self.wait_metric("shadowpair_shadow_skipped_total", &[("reason", reason)], count);
    }

    /// The folder of the pair files.
    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("pairs")
    }

    /// Waits for so many pairs, checks the form of each, and gives them in the order of their `seq`.
    #[track_caller]
    pub(crate) fn pairs(&self, count: usize) -> Vec<Value> {
        let folder = self.folder();
        let start = Instant::now();
        while pairs::lines(&folder).len() < count {
            assert!(
                start.elapsed() < PATIENCE,
                "not {count} pairs but {}\n{}",
                pairs::lines(&folder).len(),
                self.losses()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let pairs = pairs::read(&folder);
        assert_eq!(pairs.len(), count, "no more pairs than expected");
        pairs::assert_gapless(&pairs);
        pairs
    }

    /// Why there are fewer pairs than a test expects.
    fn losses(&self) -> String {
        let metrics = self.metrics();
        let names = ["shadowpair_shadow_skipped_total", "shadowpair_pairs_dropped_total", "shadowpair_in_flight"];
        let lost = names.iter().flat_map(|name| metrics.series(name, &[])).filter(|(_, value)| *value > 0.0);
        lost.map(|(labels, value)| format!("{labels:?}: {value}\n")).collect()
    }

    /// The only pair.
    #[track_caller]
    pub(crate) fn pair(&self) -> Value {
        self.pairs(1).remove(0)
    }

    /// Waits until nothing is under way, and checks what must hold then.
    pub(crate) fn settle(&self) {
        assert_eq!(self.admin_get("/readyz").status, 200, "ready after all");
        assert_eq!(
            *PANICS.lock().expect("panics"),
            Vec::<String>::new(),
            "no thread of the proxy panics, caught or not"
        );
        until("nothing is in flight", || self.metrics().count("shadowpair_in_flight", &[]) == 0.0);
        until("no pair waits", || self.metrics().waiting() == 0.0);
        until("the budget is whole again", || self.metrics().count("shadowpair_shadow_bytes", &[]) == 0.0);
    }

    /// Drains; how many requests were cut off.
    pub(crate) fn drain(mut self) -> usize {
        let cut = self.app.take().map_or(0, |app| app.drain().cut);
        pairs::read(&self.folder());
        cut
    }

    /// The same, and moves the pair files to another folder before this one goes.
    pub(crate) fn drain_keeping(mut self, pairs: &Path, kept: &Path) -> usize {
        let cut = self.app.take().map_or(0, |app| app.drain().cut);
        super::pairs::read(pairs);
        std::fs::rename(pairs, kept).expect("the pair files");
        cut
    }
}

/// Panics in the proxy's own threads. Most are caught there, so that nothing else would tell a test of them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("shadowpair")) {
                PANICS.lock().expect("panics").push(panic.to_string());
            }
            before(panic);
        }));
    });
}

impl Drop for Bench {
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        if !std::thread::panicking() {
            self.settle();
            let metrics = self.metrics();
            assert_eq!(app.drain().cut, 0, "nothing was under way");
            let pairs = pairs::read(&self.folder());
            let delivered = metrics.count("shadowpair_pairs_delivered_total", &[("sink", "file")]);
            assert_eq!(pairs.len() as f64, delivered, "what was delivered stands in the folder");
            if metrics.count("shadowpair_pairs_dropped_total", &[]) == 0.0 {
                pairs::assert_gapless(&pairs);
            }
        }
    }
}
