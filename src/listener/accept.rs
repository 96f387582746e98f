//! The acceptor's loop: it takes connections and hands each to the least busy worker. One acceptor and no
//! `SO_REUSEPORT`: a second instance must fail to bind, and no worker may sit on a queue of its own. At the limit, or
//! out of descriptors, accepting waits, is counted, and goes on by itself.

use std::io;
use std::net::{SocketAddr, TcpListener as TcpStdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;

use crate::lifecycle::PhaseWatch;
use crate::logging::Limited;

/// How often accepting looks again while it waits.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections that may wait to be accepted. The standard library asks for 128, which a burst of clients fills while
/// accepting waits; the system lowers it to its own bound.
const BACKLOG: i32 = 4096;

/// Binds a listener that an event loop can take over.
pub fn bind(address: SocketAddr) -> io::Result<TcpStdListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    // As the standard library does: an address whose old connections linger can be bound again.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(TcpStdListener::from(socket))
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, not yet known to any event loop.
    pub socket: std::net::TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Counts the connection as long as it is held.
    pub guard: Counted,
}

/// Counts one connection against its worker and the limit.
#[derive(Debug)]
pub struct Counted {
    worker: Arc<Load>,
    gauge: IntGauge,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.worker.connections.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

/// What a worker has to do, for the acceptor and for the other workers.
#[derive(Debug, Default)]
pub struct Load {
    /// Its connections.
    connections: AtomicUsize,
    /// Its share of a core at its last look, in millionths.
    busy: AtomicUsize,
    /// Whether it is far above the others.
    hot: AtomicBool,
}

impl Load {
    /// Its share of a core.
    pub fn busy(&self) -> f64 {
        self.busy.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// Its share of a core is this.
    pub fn set_busy(&self, cores: f64) {
        self.busy.store((cores * 1e6) as usize, Ordering::Relaxed);
    }

    /// Whether it is far above the others.
    pub fn is_hot(&self) -> bool {
        self.hot.load(Ordering::Relaxed)
    }

    /// It is far above the others, or not any more.
    pub fn set_hot(&self, hot: bool) {
        self.hot.store(hot, Ordering::Relaxed);
    }
}

/// One worker, as the acceptor sees it.
#[derive(Debug, Clone)]
pub struct WorkerDoor {
    /// Where its connections go. Not bounded by itself: `limits.connections` bounds it.
    pub door: UnboundedSender<Accepted>,
    /// What it has to do.
    pub load: Arc<Load>,
}

/// The acceptor.
#[derive(Debug)]
pub struct Acceptor {
    /// All workers; at least one.
    pub workers: Vec<WorkerDoor>,
    /// Connections at once.
    pub limit: usize,
    /// Open client connections.
    pub gauge: IntGauge,
    /// Times that accepting waited.
    pub paused: IntCounter,
}

impl Acceptor {
    /// Accepts from this listener until the drain begins.
    pub async fn run(&self, listener: TcpListener, mut phase: PhaseWatch) {
        let log = Limited::default();
        let mut draining = std::pin::pin!(phase.until(|phase| phase.is_draining()));
        loop {
            tokio::select! {
                _ = &mut draining => return,
                () = self.accept_one(&listener, &log) => {}
            }
        }
    }

    async fn accept_one(&self, listener: &TcpListener, log: &Limited) {
        self.wait_for_room(log).await;
        match listener.accept().await {
            Ok((socket, peer)) => self.hand_over(socket, peer),
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) => {
                self.paused.inc();
                if let Some(held_back) = log.pass() {
                    tracing::warn!(%error, held_back, "accepting waits: the system refuses another connection");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn wait_for_room(&self, log: &Limited) {
        let open = || self.workers.iter().map(|worker| worker.load.connections.load(Ordering::Relaxed)).sum::<usize>();
        if open() < self.limit {
            return;
        }
        self.paused.inc();
        if let Some(held_back) = log.pass() {
            tracing::warn!(limit = self.limit, held_back, "accepting waits: the limit of connections is reached");
        }
        while open() >= self.limit {
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn hand_over(&self, socket: tokio::net::TcpStream, peer: SocketAddr) {
        let busy = |worker: &&WorkerDoor| (worker.load.is_hot(), worker.load.connections.load(Ordering::Relaxed));
        let (Some(worker), Ok(socket)) = (self.workers.iter().min_by_key(busy), socket.into_std()) else { return };
        worker.load.connections.fetch_add(1, Ordering::Relaxed);
        self.gauge.inc();
        let guard = Counted { worker: Arc::clone(&worker.load), gauge: self.gauge.clone() };
        // A worker that has ended takes nothing more; the connection closes with the message.
        let _ = worker.door.send(Accepted { socket, peer, guard });
    }
}

/// Whether an error of `accept` belongs to the one connection that it would have been (`accept(2)`, "Error handling").
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | PermissionDenied)
}
