//! Floor 7: the composition root. It builds every part once, in order, and hands back the bound addresses and the way to
//! end: [`App::drain`] takes the parts down in the order in which pairs flow, so that none is lost uncounted.

mod limits;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use crate::admin::{self, Admin};
use crate::analysis::material::PairContext;
use crate::budget::Budget;
use crate::config::Config;
use crate::config::process::{Process, SinkConfig};
use crate::control::reload::{Control, Reloader};
use crate::control::{health, quota, resolve};
use crate::ledger::Ledger;
use crate::lifecycle::{self, Phase, PhaseControl, PhaseWatch, Priority};
use crate::listener::accept::{self, Acceptor, Load, WorkerDoor};
use crate::live::{LiveReader, live};
use crate::metrics::Metrics;
use crate::metrics::collect::PipelineCollector;
use crate::metrics::versions::Versions;
use crate::proxy::worker::{self, WorkerParts};
use crate::shadow::admission::Admission;
use crate::shadow::lane::LaneParts;
use crate::shadow::{Analyst, LaneDoor, Pipeline, Shadow, start_analyst, start_lane};
use crate::sink::{self, Bounds, Sink, SinkMetrics};
use crate::snapshot::Snapshot;

/// How long the start waits for the names of endpoints.
const FIRST_RESOLVE: Duration = Duration::from_secs(1);
/// The most pairs that may wait in the sink's queue.
const QUEUE_PAIRS: usize = 131_072;

/// Why the proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({what}): {cause}; {}", listen_hint(cause))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The key of the routing file.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// The sink cannot be started.
    #[error(transparent)]
    Sink(#[from] sink::SinkError),
    /// Even its own event loops would not fit.
    #[error(
        "the limit of open files is {files}, {open} are open already and {needed} more are needed; raise it (`ulimit -n`)"
    )]
    Files {
        /// The limit.
        files: u64,
        /// Open at the start.
        open: u64,
        /// What the event loops, listeners and files need.
        needed: u64,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// A metric family cannot be registered: a fault of shadowpair.
    #[error("cannot register a metric: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// What to do about an address that cannot be bound.
fn listen_hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "another process is there: stop it, or write another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: write one of its own, or 0.0.0.0 for all",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: write a port above, or grant it"
        }
        _ => "is the address right?",
    }
}

/// The running proxy.
#[derive(Debug)]
pub struct App {
    /// Where clients connect.
    pub traffic: Vec<SocketAddr>,
    /// Where probes, metrics and the API are.
    pub admin: SocketAddr,
    phase: PhaseControl,
    drain: Duration,
    drain_delay: Duration,
    acceptor: JoinHandle<()>,
    workers: Vec<JoinHandle<usize>>,
    lanes: Vec<JoinHandle<()>>,
    analysis: JoinHandle<()>,
    sink: Sink,
    admin_thread: (oneshot::Sender<()>, JoinHandle<()>),
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReport {
    /// Requests that the time limit cut off.
    pub cut: usize,
    /// Pairs that could not be delivered in time.
    pub pairs_dropped: u64,
    /// Pairs that wait in the spool for the next run.
    pub pairs_spooled: u64,
}

/// Starts the proxy without a file that it could read again.
pub fn start(config: Config) -> Result<App, StartError> {
    start_with(config, None, crate::logging::dropped_lines()?)
}

/// Starts the proxy; `file` is read again when it changes, and `log_dropped` counts the lines that logging lost.
pub fn start_with(config: Config, file: Option<PathBuf>, log_dropped: IntCounter) -> Result<App, StartError> {
    let process = &config.process;
    let (workers, lane_count) = (limits::threads(process.workers, 1), limits::threads(process.shadow_threads, 4));
    let connections =
        limits::connections(process.limits.connections, workers + lane_count, sink::open_files(&process.sink))?;
    let (traffic, admin) = bind(process)?;
    let budget = Budget::new(process.limits.shadow_bytes.min(limits::memory_share()));
    let (ledger, metrics) = (Arc::new(Ledger::default()), Metrics::new(log_dropped)?);
    let (phase, watch) = lifecycle::phases();
    let snapshot = Snapshot::build(&config, &metrics, &ledger, None);
    let (writer, reader) = live(snapshot);

    let producer: Arc<str> = sink::producer_id().into();
    let name = sink::sink_name(&process.sink);
    let bounds = Bounds { pairs: QUEUE_PAIRS, bytes: budget.limit() };
    let handles = SinkMetrics::new(
        name,
        &metrics.delivery_seconds,
        &metrics.sink_up,
        &metrics.sink_errors,
        metrics.kafka.clone(),
    );
    let sink =
        Sink::start(&process.sink, Arc::clone(&ledger), Arc::clone(&producer), bounds, handles, budget.charge())?;

    let (analyst, analysis) = start_analyst(analyst(process, producer, &ledger, &metrics, &sink))?;
    let parts = LaneParts { analyst, budget: Arc::clone(&budget), phase: watch.clone() };
    let (doors, lanes) = lanes(lane_count, parts)?;
    let status = sink.status();
    let oldest = Box::new(move || status.oldest().unwrap_or_default().as_secs_f64());
    let lateness: Vec<_> = doors.iter().map(|door| Arc::clone(door.lateness())).collect();
    let lag = Box::new(move || lateness.iter().map(|lane| lane.worst().as_secs_f64()).fold(0.0, f64::max));
    metrics.register(PipelineCollector::new(Arc::clone(&ledger), Arc::clone(&budget), name, oldest, lag))?;
    let parts = Parts { reader, metrics, budget, watch, admission: Admission::new(), process: process.clone() };
    let (doors, workers) = parts.workers(workers, doors)?;
    let mut addresses = Addresses::default();
    let acceptor = parts.acceptor(connections, traffic, doors, &mut addresses)?;
    let (control, reloader) =
        Control::new(file, config.clone(), (writer, parts.reader.clone()), Arc::clone(&parts.metrics), ledger);
    let admin_thread = parts.admin(admin, control, reloader, &mut addresses)?;
    Ok(App {
        traffic: addresses.traffic,
        admin: addresses.admin.unwrap_or(process.admin),
        phase,
        drain: process.drain,
        drain_delay: process.drain_delay,
        acceptor,
        workers,
        lanes,
        analysis,
        sink,
        admin_thread,
    })
}

type Listeners = (Vec<TcpListener>, TcpListener);

fn bind(process: &Process) -> Result<Listeners, StartError> {
    let listen =
        |address: SocketAddr, what| accept::bind(address).map_err(|cause| StartError::Listen { address, what, cause });
    let traffic = process.listen.iter().map(|address| listen(*address, "server.listen"));
    Ok((traffic.collect::<Result<_, _>>()?, listen(process.admin, "server.admin")?))
}

fn analyst(
    process: &Process,
    producer: Arc<str>,
    ledger: &Arc<Ledger>,
    metrics: &Arc<Metrics>,
    sink: &Sink,
) -> Analyst {
    let message_key = match &process.sink {
        SinkConfig::Kafka(kafka) => kafka.key.clone(),
        SinkConfig::File(_) => None,
    };
    Analyst {
        context: PairContext { producer, labels: process.labels.clone(), hash_key: process.hash_key.clone() },
        versions: Versions::new(Arc::clone(metrics)),
        ledger: Arc::clone(ledger),
        sink: sink.door(),
        message_key,
    }
}

fn lanes(count: usize, parts: LaneParts) -> io::Result<(Vec<LaneDoor>, Vec<JoinHandle<()>>)> {
    (0..count)
        .map(|index| start_lane(index, parts.clone()))
        .collect::<io::Result<Vec<_>>>()
        .map(|all| all.into_iter().unzip())
}

/// What the threads that serve have in common.
struct Parts {
    reader: LiveReader<Snapshot>,
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    watch: PhaseWatch,
    admission: Arc<Admission>,
    process: Process,
}

/// Where the proxy listens.
#[derive(Debug, Default)]
struct Addresses {
    traffic: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl Parts {
    fn workers(&self, count: usize, lanes: Vec<LaneDoor>) -> io::Result<(Vec<WorkerDoor>, Vec<JoinHandle<usize>>)> {
        let pipeline = Arc::new(Pipeline::default());
        let loads: Vec<Arc<Load>> = std::iter::repeat_with(Arc::default).take(count).collect();
        let start = |index: usize| {
            let (door, accepted) = unbounded_channel();
            let load = Arc::clone(&loads[index]);
            let lane = lanes[index % lanes.len()].clone();
            let parts = WorkerParts {
                live: self.reader.clone(),
                shadow: Shadow::new(lane, Arc::clone(&pipeline), Arc::clone(&self.admission)),
                metrics: Arc::clone(&self.metrics),
                budget: Arc::clone(&self.budget),
                limits: self.process.limits,
                trusted: self.process.trusted_proxies.clone(),
                phase: self.watch.clone(),
                accepted,
                load: Arc::clone(&load),
                loads: loads.clone(),
            };
            let thread = worker::start(index, parts)?;
            Ok((WorkerDoor { door, load }, thread))
        };
        (0..count).map(start).collect::<io::Result<Vec<_>>>().map(|all| all.into_iter().unzip())
    }

    fn acceptor(
        &self,
        limit: usize,
        listeners: Vec<TcpListener>,
        workers: Vec<WorkerDoor>,
        addresses: &mut Addresses,
    ) -> io::Result<JoinHandle<()>> {
        addresses.traffic = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let acceptor = Acceptor {
            workers,
            limit,
            gauge: self.metrics.client_connections.clone(),
            paused: self.metrics.accept_paused.clone(),
        };
        let phase = self.watch.clone();
        lifecycle::thread("shadowpair-accept", Priority::Normal, move || {
            let ended = lifecycle::event_loop(async move {
                let acceptor = std::rc::Rc::new(acceptor);
                let mut accepting = lifecycle::LocalTasks::default();
                for listener in listeners {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    let (acceptor, phase) = (std::rc::Rc::clone(&acceptor), phase.clone());
                    accepting.start(async move { acceptor.run(listener, phase).await });
                }
                accepting.finish().await;
                io::Result::Ok(())
            });
            if let Err(error) | Ok(Err(error)) = ended {
                tracing::error!(%error, "the acceptor has no event loop");
            }
        })
    }

    fn admin(
        &self,
        listener: TcpListener,
        control: Control,
        reloader: Reloader,
        addresses: &mut Addresses,
    ) -> io::Result<(oneshot::Sender<()>, JoinHandle<()>)> {
        let address = listener.local_addr()?;
        addresses.admin = Some(address);
        let admin = Admin {
            live: self.reader.clone(),
            metrics: Arc::clone(&self.metrics),
            phase: self.watch.clone(),
            token: self.process.admin_token.clone(),
            loopback: admin::is_loopback(&address),
            reloader,
        };
        let ((end, ended), (first, resolved)) = (oneshot::channel(), oneshot::channel());
        let (live, admission) = (self.reader.clone(), Arc::clone(&self.admission));
        let thread = lifecycle::thread("shadowpair-admin", Priority::Normal, move || {
            let served = lifecycle::event_loop(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    () = admin::run(listener, admin) => {}
                    () = resolve::run(live.clone(), first) => {}
                    () = health::run(live.clone()) => {}
                    () = control.run() => {}
                    () = quota::run(admission) => {}
                    _ = ended => {}
                }
                io::Result::Ok(())
            });
            if let Err(error) | Ok(Err(error)) = served {
                tracing::error!(%error, "the admin interface has no event loop");
            }
        })?;
        await_first_resolve(resolved);
        Ok((end, thread))
    }
}

/// Waits a moment for the names of endpoints, so that the first requests do not meet unresolved ones.
fn await_first_resolve(mut resolved: oneshot::Receiver<()>) {
    let deadline = Instant::now() + FIRST_RESOLVE;
    while matches!(resolved.try_recv(), Err(oneshot::error::TryRecvError::Empty)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl App {
    /// Lets in-flight requests finish, then takes everything down in the order in which pairs flow.
    pub fn drain(self) -> DrainReport {
        if !self.drain_delay.is_zero() {
            self.phase.enter(Phase::Unready);
            std::thread::sleep(self.drain_delay);
        }
        let begun = Instant::now();
        let delivery = (self.drain / 5).min(Duration::from_secs(5));
        let until = begun + self.drain.saturating_sub(delivery);
        self.phase.enter(Phase::Draining { until });
        let grace = until + Duration::from_secs(1);
        lifecycle::join_until(self.acceptor, grace);
        let mut cut = 0;
        while self.workers.iter().any(|worker| !worker.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.workers.iter().any(|worker| !worker.is_finished()) {
            self.phase.enter(Phase::Ended);
        }
        for worker in self.workers {
            cut += worker.join().unwrap_or(0);
        }
        // Candidates may use what is left of the time; then their legs are cancelled.
        while self.lanes.iter().any(|lane| !lane.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.phase.enter(Phase::Ended);
        for lane in self.lanes {
            lifecycle::join_until(lane, grace);
        }
        lifecycle::join_until(self.analysis, begun + self.drain);
        let finished = self.sink.finish(begun + self.drain);
        let (end, thread) = self.admin_thread;
        // A thread that has ended by itself does not listen any more.
        let _ = end.send(());
        lifecycle::join_until(thread, Instant::now() + Duration::from_secs(1));
        DrainReport { cut, pairs_dropped: finished.dropped_at_shutdown, pairs_spooled: finished.spooled }
    }
}
