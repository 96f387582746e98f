//! A new routing file takes effect: by signal, by call, or because its content has changed. What is wrong with it
//! changes nothing and is loud; what is right is there for the next request, and what cannot change while the process
//! runs is named in the outcome.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::fault::Faults;
use crate::config::process::Process;
use crate::config::{Config, load};
use crate::ledger::Ledger;
use crate::live::{LiveReader, LiveWriter};
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::snapshot::retire::Retired;

/// How often the file is looked at. Its content is compared, not its time stamp: editors rename, ConfigMaps swap a
/// symlink, and both may keep the time; a watch on the file itself would see neither.
const LOOK: Duration = Duration::from_secs(1);
/// Calls that may wait.
const QUEUE: usize = 16;

/// What became of a reload.
#[derive(Debug)]
pub enum Outcome {
    /// The file is in force.
    Applied {
        /// Its hash.
        hash: String,
        /// Keys that differ but take effect only at the next start.
        needs_restart: Vec<&'static str>,
    },
    /// The file says what is in force already.
    Unchanged {
        /// Its hash.
        hash: String,
    },
    /// The file has faults; nothing has changed.
    Rejected(Faults),
    /// The proxy was started without a file.
    NoFile,
}

impl Outcome {
    /// The label in metrics.
    fn word(&self) -> &'static str {
        match self {
            Outcome::Applied { .. } => "applied",
            Outcome::Unchanged { .. } => "unchanged",
            Outcome::Rejected(_) | Outcome::NoFile => "rejected",
        }
    }
}

/// How the last load went, for the page.
#[derive(Debug, Default)]
pub struct Last {
    /// `applied`, `unchanged` or `rejected`.
    pub outcome: &'static str,
    /// When, Unix time in seconds.
    pub at: u64,
    /// What was wrong with the file.
    pub faults: Vec<String>,
}

/// Asks for reloads.
#[derive(Debug, Clone)]
pub struct Reloader {
    calls: mpsc::Sender<oneshot::Sender<Outcome>>,
    last: LiveReader<Last>,
}

impl Reloader {
    /// Reads the file anew; none where the process is on its way out.
    pub async fn reload(&self) -> Option<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.calls.send(answer).await.ok()?;
        outcome.await.ok()
    }

    /// How the last load went.
    pub fn last(&self) -> Arc<Last> {
        self.last.load()
    }
}

/// Calls for reloads, as they come in.
type Calls = mpsc::Receiver<oneshot::Sender<Outcome>>;

/// The single writer of live state.
#[derive(Debug)]
pub struct Control {
    file: Option<PathBuf>,
    config: Config,
    seen: Option<Vec<u8>>,
    writer: LiveWriter<Snapshot>,
    reader: LiveReader<Snapshot>,
    metrics: Arc<Metrics>,
    ledger: Arc<Ledger>,
    retired: Vec<Retired>,
    calls: Calls,
    last: LiveWriter<Last>,
}

impl Control {
    /// With this file in force; and the way to ask for reloads.
    pub fn new(
        file: Option<PathBuf>,
        config: Config,
        live: (LiveWriter<Snapshot>, LiveReader<Snapshot>),
        metrics: Arc<Metrics>,
        ledger: Arc<Ledger>,
    ) -> (Self, Reloader) {
        let seen = file.as_deref().and_then(|file| std::fs::read(file).ok());
        count(&metrics, "applied");
        let (sender, calls) = mpsc::channel(QUEUE);
        let (last, reader) = crate::live::live(Arc::new(last("applied", Vec::new())));
        let reloader = Reloader { calls: sender, last: reader };
        let retired = Vec::new();
        (Self { file, config, seen, writer: live.0, reader: live.1, metrics, ledger, retired, calls, last }, reloader)
    }

    /// Follows signals, calls and the file until the task is dropped.
    pub async fn run(mut self) {
        let mut hangup = match self.file.is_some().then(|| signal(SignalKind::hangup())) {
            Some(Ok(hangup)) => Some(hangup),
            Some(Err(error)) => {
                tracing::warn!(%error, "SIGHUP cannot be followed; POST /api/v1/config/reload and file changes are");
                None
            }
            None => None,
        };
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(answer) = self.calls.recv() => {
                    // Whoever asked may have left.
                    let _ = answer.send(self.reload());
                }
                Some(()) = hung_up(&mut hangup) => drop(self.reload()),
                _ = look.tick() => {
                    self.look();
                    self.take_down();
                }
            }
        }
    }

    /// Reads the file anew where its content has changed. A file that is away for a moment is in the middle of a rename.
    fn look(&mut self) {
        let Some(file) = &self.file else { return };
        match std::fs::read(file) {
            Ok(content) if self.seen.as_ref() != Some(&content) => drop(self.reload()),
            Ok(_) | Err(_) => {}
        }
    }

    fn reload(&mut self) -> Outcome {
        let Some(file) = self.file.clone() else { return Outcome::NoFile };
        self.seen = std::fs::read(&file).ok();
        let outcome = self.apply(&file);
        count(&self.metrics, outcome.word());
        let faults = match &outcome {
            Outcome::Rejected(faults) => faults.iter().map(|fault| fault.render(false)).collect(),
            _ => Vec::new(),
        };
        self.last.store(Arc::new(last(outcome.word(), faults)));
        log(&file, &outcome);
        outcome
    }

    fn apply(&mut self, file: &Path) -> Outcome {
        let loaded = match load::from_path(file) {
            Ok(loaded) => loaded,
            Err(faults) => return Outcome::Rejected(faults),
        };
        for warning in &loaded.warnings {
            tracing::warn!("{}", warning.render(false));
        }
        let hash = loaded.config.hash.clone();
        if loaded.config == self.config {
            return Outcome::Unchanged { hash };
        }
        let needs_restart = fixed(&self.config.process, &loaded.config.process);
        let earlier = self.reader.load();
        let next = Snapshot::build(&loaded.config, &self.metrics, &self.ledger, Some(&earlier));
        self.writer.store(next);
        self.retired.push(Retired::new(&earlier));
        self.config = Config { process: self.config.process.clone(), ..loaded.config };
        Outcome::Applied { hash, needs_restart }
    }

    /// Takes down what older states named and nobody uses any more.
    fn take_down(&mut self) {
        let now = self.reader.load();
        for retired in self.retired.extract_if(.., |retired| retired.is_over()) {
            retired.take_down(&now, &self.metrics, &self.ledger);
        }
    }
}

async fn hung_up(hangup: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    }
}

fn last(outcome: &'static str, faults: Vec<String>) -> Last {
    Last { outcome, at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()), faults }
}

fn count(metrics: &Metrics, outcome: &str) {
    metrics.config_reloads.with_label_values(&[outcome]).inc();
    let good = outcome != "rejected";
    metrics.config_last_successful.set(i64::from(good));
    if good {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.config_last_success_time.set(now.as_secs_f64());
    }
}

fn log(file: &Path, outcome: &Outcome) {
    let file = file.display();
    match outcome {
        Outcome::Applied { hash, needs_restart } if needs_restart.is_empty() => {
            tracing::info!(%file, config = hash, "routing file applied");
        }
        Outcome::Applied { hash, needs_restart } => {
            let keys = needs_restart.join(", ");
            tracing::warn!(%file, config = hash, needs_restart = keys, "routing file applied, but for what needs a restart");
        }
        Outcome::Unchanged { hash } => tracing::info!(%file, config = hash, "routing file unchanged"),
        Outcome::Rejected(faults) => {
            tracing::error!(%file, errors = faults.errors(), "routing file rejected, the old one stays in force:\n{}", faults.render(false));
        }
        Outcome::NoFile => {}
    }
}

/// The keys that differ but are fixed for the life of the process.
fn fixed(now: &Process, next: &Process) -> Vec<&'static str> {
    let keys = [
        ("server.listen", now.listen != next.listen),
        ("server.admin", now.admin != next.admin),
        ("server.admin_token", now.admin_token != next.admin_token),
        ("server.workers", now.workers != next.workers),
        ("server.shadow_threads", now.shadow_threads != next.shadow_threads),
        ("server.drain", now.drain != next.drain),
        ("server.drain_delay", now.drain_delay != next.drain_delay),
        ("server.trusted_proxies", now.trusted_proxies != next.trusted_proxies),
        ("server.labels", now.labels != next.labels),
        ("server.hash_key", now.hash_key != next.hash_key),
        ("server.limits", now.limits != next.limits),
        ("pairs", now.sink != next.sink),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
