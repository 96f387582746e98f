//! One worker: a thread with an event loop of its own that serves the connections it is handed, and nothing else.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tower::retry::budget::TpsBudget;

use super::balance::{Balance, thread_clock};
use super::handle;
use crate::budget::Budget;
use crate::config::process::{Cidr, Limits};
use crate::lifecycle::{self, Phase, PhaseWatch, Priority};
use crate::listener::accept::{Accepted, Load};
use crate::listener::io::ConnState;
use crate::listener::{ConnLimits, DrainBell, serve};
use crate::live::{Held, LiveReader, LocalCopy};
use crate::metrics::Metrics;
use crate::metrics::local::{Local, flush_this_thread};
use crate::shadow::Shadow;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::Side;
use crate::upstream::headers::Peer;
use crate::upstream::pool::Pool;

/// How often a worker hands its histograms over and looks at its idle connections.
const TICK: Duration = Duration::from_millis(50);

/// The share of recent requests that may go out a second time.
const RETRY_SHARE: f32 = 0.2;
/// What counts as recent.
const RETRY_MEMORY: Duration = Duration::from_secs(10);
/// Second tries a second that little traffic may have all the same.
const RETRIES_A_SECOND: u32 = 3;

/// What a worker needs.
#[derive(Debug)]
pub struct WorkerParts {
    /// The routing.
    pub live: LiveReader<Snapshot>,
    /// Its way to the shadows.
    pub shadow: Shadow,
    /// All metric families.
    pub metrics: Arc<Metrics>,
    /// For copies.
    pub budget: Arc<Budget>,
    /// Bounds.
    pub limits: Limits,
    /// Peers whose `x-forwarded-*` are believed.
    pub trusted: Vec<Cidr>,
    /// When to drain.
    pub phase: PhaseWatch,
    /// Its connections.
    pub accepted: UnboundedReceiver<Accepted>,
    /// What it has to do.
    pub load: Arc<Load>,
    /// What each worker has.
    pub loads: Vec<Arc<Load>>,
}

/// A worker's own state, shared by its requests.
pub struct Worker {
    live: RefCell<LocalCopy<Snapshot>>,
    known: RefCell<Held<Snapshot>>,
    pub(super) pool: Rc<Pool>,
    pub(super) metrics: Rc<Local>,
    pub(super) shadow: Shadow,
    pub(super) budget: Arc<Budget>,
    pub(super) limits: Limits,
    pub(super) trusted: Vec<Cidr>,
    pub(super) bell: Rc<DrainBell>,
    /// Second tries, as a share of the recent requests.
    pub(super) retries: TpsBudget,
    lag: Cell<Duration>,
    connections: RefCell<Vec<std::rc::Weak<ConnState>>>,
    balance: RefCell<Balance>,
    open: Cell<usize>,
}

/// Starts a worker. The thread returns how many requests the end of the drain cut off.
pub fn start(index: usize, parts: WorkerParts) -> io::Result<JoinHandle<usize>> {
    lifecycle::thread(&format!("shadowpair-worker-{index}"), Priority::Normal, move || {
        lifecycle::event_loop_with(flush_this_thread, run(parts)).unwrap_or_else(|error| {
            tracing::error!(%error, "a worker has no event loop");
            0
        })
    })
}

async fn run(parts: WorkerParts) -> usize {
    let WorkerParts { live, shadow, metrics, budget, limits, trusted, phase, mut accepted, load, loads } = parts;
    let mut live = LocalCopy::new(live);
    let worker = Rc::new(Worker {
        known: RefCell::new(live.get()),
        live: RefCell::new(live),
        pool: Pool::new(Side::Worker),
        metrics: Local::new(metrics),
        shadow,
        budget,
        limits,
        trusted,
        bell: DrainBell::new(),
        retries: TpsBudget::new(RETRY_MEMORY, RETRIES_A_SECOND, RETRY_SHARE),
        lag: Cell::new(Duration::ZERO),
        connections: RefCell::default(),
        balance: RefCell::new(Balance::new(load, loads)),
        open: Cell::new(0),
    });
    drop(lifecycle::local(Rc::clone(&worker).tick()));
    drop(lifecycle::local(Rc::clone(&worker).follow(phase.clone())));
    // The channel ends when the acceptor has ended.
    while let Some(connection) = accepted.recv().await {
        worker.clone().begin(connection);
    }
    worker.drain(phase).await
}

impl Worker {
    /// The state in force. With a new one the counters of the old are let go, before the old state is: series of routes
    /// that are gone are removed once nobody holds that, and counting into them would be in vain.
    pub(super) fn snapshot(&self) -> Held<Snapshot> {
        let state = self.live.borrow_mut().get();
        if !Rc::ptr_eq(&state, &self.known.borrow()) {
            self.metrics.forget();
            self.known.replace(Rc::clone(&state));
        }
        state
    }

    /// How late this worker ran at its last tick.
    pub(super) fn lag(&self) -> Duration {
        self.lag.get()
    }

    fn begin(self: Rc<Self>, accepted: Accepted) {
        self.open.set(self.open.get() + 1);
        drop(lifecycle::local(async move {
            let worker = Rc::clone(&self);
            worker.serve(accepted).await;
            self.open.set(self.open.get().saturating_sub(1));
        }));
    }

    async fn serve(self: Rc<Self>, accepted: Accepted) {
        let Accepted { socket, peer, guard } = accepted;
        let socket = match tokio::net::TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                return;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a connection is already gone");
        }
        let limits = ConnLimits {
            header_bytes: self.limits.header_bytes,
            header_timeout: self.limits.header_timeout,
            idle_timeout: self.limits.idle_timeout,
        };
        let state = ConnState::new();
        self.connections.borrow_mut().push(Rc::downgrade(&state));
        let (bell, requests) = (Rc::clone(&self.bell), Rc::clone(&state));
        let peer = Rc::new(Peer::new(peer.ip()));
        serve(socket, limits, bell, state, move |request| {
            handle(Rc::clone(&self), &requests, Rc::clone(&peer), request)
        })
        .await;
        drop(guard);
    }

    async fn tick(self: Rc<Self>) {
        loop {
            let before = Instant::now();
            tokio::time::sleep(TICK).await;
            let late = before.elapsed().saturating_sub(TICK + Duration::from_millis(2));
            self.lag.set(late);
            self.pool.looked(late);
            self.metrics.flush();
            self.pool.sweep();
            // An idle worker must not hold an old state.
            self.snapshot();
            self.connections.borrow_mut().retain(|connection| connection.strong_count() > 0);
            self.balance();
        }
    }

    fn balance(&self) {
        let (now, mut balance) = (Instant::now(), self.balance.borrow_mut());
        if balance.is_due(now) {
            let connections = self.connections.borrow();
            balance.look(now, thread_clock(), connections.iter().filter_map(std::rc::Weak::upgrade));
        }
    }

    async fn follow(self: Rc<Self>, mut watch: PhaseWatch) {
        let mut known = Phase::Serving;
        loop {
            known = watch.until(|phase| phase != known).await;
            // The last bell is `drain`'s: it counts what is cut off before it cuts.
            if known == Phase::Ended {
                return;
            }
            self.bell.ring(known);
        }
    }

    fn requests_under_way(&self) -> usize {
        self.connections.borrow().iter().filter_map(std::rc::Weak::upgrade).map(|state| state.requests()).sum()
    }

    /// Waits for the connections to end, and cuts off what the drain's end leaves over.
    async fn drain(&self, mut phase: PhaseWatch) -> usize {
        let idle = async {
            while self.open.get() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            () = idle => {}
            _ = phase.until(|phase| phase == Phase::Ended) => {}
        }
        let cut = self.requests_under_way();
        self.bell.ring(Phase::Ended);
        for _ in 0..100 {
            if self.open.get() == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.metrics.flush();
        cut
    }
}
