//! One thread's connections: last in, first out, bounded by the endpoints' permits and by age. Nothing is shared with
//! other threads but the permits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::connection::{Connection, Sender, Streams};
use super::endpoint::{Endpoint, Side};
use super::http1::Http1;

/// How long a worker keeps an idle connection: less than the 5 s after which uvicorn, which stands before most Python
/// models, closes its own, so that few requests meet a connection in the moment it closes.
const WORKER_IDLE: Duration = Duration::from_secs(4);
/// How long a lane keeps one.
const LANE_IDLE: Duration = Duration::from_secs(1);

/// The most idle connections that a thread keeps to one endpoint.
const MAX_IDLE: usize = 1024;

/// How long an endpoint that closes kept connections under a request gets a new one for each.
const DISTRUST: Duration = Duration::from_secs(10);

/// One thread's connections.
#[derive(Debug)]
pub struct Pool {
    side: Side,
    endpoints: RefCell<BTreeMap<*const Endpoint, Idle>>,
    /// Calls of this thread that wait for a connection to a capped endpoint.
    pub(super) waiting: Cell<usize>,
    /// Until when a time limit that runs out says nothing about an endpoint, because this thread ran late.
    late_until: Cell<Option<Instant>>,
    /// When the thread last looked.
    looked: Cell<Instant>,
}

/// A thread later than this makes time limits run out by itself.
const LATE: Duration = Duration::from_millis(20);
/// How long that is remembered.
const LATE_MEMORY: Duration = Duration::from_secs(1);
/// A thread that has not looked for so long runs late now.
const OVERDUE: Duration = Duration::from_millis(150);

#[derive(Debug, Default)]
struct Idle {
    /// Until when kept connections are not trusted.
    distrusted: Option<Instant>,
    http1: Vec<(Connection, Instant)>,
    http2: Vec<(Rc<Connection>, Instant)>,
}

/// A connection in use by one call; dropping it before the answer's end closes it.
#[derive(Debug)]
pub(super) struct Lease {
    held: Option<Held>,
    pool: Rc<Pool>,
    endpoint: Arc<Endpoint>,
    pub(super) reused: bool,
    _stream: Option<StreamGuard>,
}

#[derive(Debug)]
enum Held {
    Http1(Connection),
    Http2(Rc<Connection>),
}

/// Counts one stream of an HTTP/2 connection.
#[derive(Debug)]
struct StreamGuard(Rc<Streams>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(side: Side) -> Rc<Self> {
        Rc::new(Self {
            side,
            endpoints: RefCell::default(),
            waiting: Cell::new(0),
            late_until: Cell::new(None),
            looked: Cell::new(Instant::now()),
        })
    }

    /// Which side its thread is on.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The thread looked at the clock, and was late by so much.
    pub fn looked(&self, late: Duration) {
        let now = Instant::now();
        self.looked.set(now);
        if late > LATE {
            self.late_until.set(Some(now + LATE_MEMORY));
        }
    }

    /// Whether the thread runs, or has just run, too late to blame an endpoint for a time limit.
    pub(super) fn is_late(&self) -> bool {
        self.late_until.get().is_some_and(|until| Instant::now() < until) || self.looked.get().elapsed() > OVERDUE
    }

    /// A kept connection, the most recently used first; to this address, where one is named.
    pub(super) fn kept(self: &Rc<Self>, endpoint: &Arc<Endpoint>, to: Option<SocketAddr>) -> Option<Lease> {
        let fits = |connection: &Connection| to.is_none_or(|to| connection.address == to);
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = endpoints.get_mut(&Arc::as_ptr(endpoint))?;
        if idle.distrusted.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        idle.http2.retain(|(connection, _)| connection.is_open() && connection.is_current());
        let shared = idle.http2.iter_mut().rev().find(|(kept, _)| kept.has_room() && fits(kept));
        if let Some((connection, used)) = shared {
            *used = Instant::now();
            let connection = Rc::clone(connection);
            drop(endpoints);
            return Some(self.lease_http2(connection, true));
        }
        let connection = idle.take_http1(fits)?;
        drop(endpoints);
        Some(self.lease(Held::Http1(connection), endpoint, true, None))
    }

    /// A kept connection was closed under a request: this endpoint closes them without a word, and what may have been
    /// read cannot be sent again, so for a while none of them is used.
    pub(super) fn distrust(&self, endpoint: &Arc<Endpoint>) {
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = endpoints.entry(Arc::as_ptr(endpoint)).or_default();
        idle.distrusted = Some(Instant::now() + DISTRUST);
        idle.http1.clear();
    }

    /// A connection that was just opened.
    pub(super) fn fresh(self: &Rc<Self>, connection: Connection) -> Lease {
        let endpoint = Arc::clone(&connection.endpoint);
        match connection.sender {
            Sender::Http1(..) => self.lease(Held::Http1(connection), &endpoint, false, None),
            Sender::Http2(..) => {
                let connection = Rc::new(connection);
                let mut endpoints = self.endpoints.borrow_mut();
                let idle = endpoints.entry(Arc::as_ptr(&endpoint)).or_default();
                idle.http2.push((Rc::clone(&connection), Instant::now()));
                drop(endpoints);
                self.lease_http2(connection, false)
            }
        }
    }

    fn lease_http2(self: &Rc<Self>, connection: Rc<Connection>, reused: bool) -> Lease {
        let endpoint = Arc::clone(&connection.endpoint);
        let streams = match &connection.sender {
            Sender::Http2(_, streams) => Rc::clone(streams),
            Sender::Http1(..) => Rc::default(),
        };
        streams.open.set(streams.open.get() + 1);
        self.lease(Held::Http2(connection), &endpoint, reused, Some(StreamGuard(streams)))
    }

    fn lease(
        self: &Rc<Self>,
        held: Held,
        endpoint: &Arc<Endpoint>,
        reused: bool,
        stream: Option<StreamGuard>,
    ) -> Lease {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        Lease { held: Some(held), pool: Rc::clone(self), endpoint: Arc::clone(endpoint), reused, _stream: stream }
    }

    fn keep(&self, connection: Connection) {
        let elsewhere = connection.endpoint.wanted.load(Ordering::Relaxed) > self.waiting.get();
        if elsewhere || !connection.is_open() {
            return;
        }
        let key = Arc::as_ptr(&connection.endpoint);
        let now = Instant::now();
        let mut endpoints = self.endpoints.borrow_mut();
        let idle = endpoints.entry(key).or_default();
        if idle.distrusted.is_none_or(|until| until <= now) && idle.http1.len() < MAX_IDLE {
            idle.http1.push((connection, now));
        }
    }

    /// Closes what is too old, what a caller elsewhere waits for, and what its name no longer stands for. Called every
    /// few tens of milliseconds by the thread that owns the pool.
    pub fn sweep(&self) {
        let limit = match self.side {
            Side::Worker => WORKER_IDLE,
            Side::Lane => LANE_IDLE,
        };
        let keep = |connection: &Connection, since: &Instant| {
            let elsewhere = connection.endpoint.wanted.load(Ordering::Relaxed) > self.waiting.get();
            connection.is_open() && connection.is_current() && !elsewhere && since.elapsed() < limit
        };
        self.endpoints.borrow_mut().retain(|_, idle| {
            idle.http1.retain(|(connection, since)| keep(connection, since));
            idle.http2.retain(|(connection, since)| !connection.is_idle() || keep(connection, since));
            idle.distrusted = idle.distrusted.filter(|until| *until > Instant::now());
            !idle.http1.is_empty() || !idle.http2.is_empty() || idle.distrusted.is_some()
        });
    }
}

impl Idle {
    /// The last used connection that fits. Those that have closed meanwhile go on the way to it: they hold permits that the
    /// call may need.
    fn take_http1(&mut self, fits: impl Fn(&Connection) -> bool) -> Option<Connection> {
        for at in (0..self.http1.len()).rev() {
            let (kept, _) = &self.http1[at];
            let usable = kept.is_current() && kept.is_open();
            if !usable {
                self.http1.remove(at);
            } else if fits(kept) {
                return Some(self.http1.remove(at).0);
            }
        }
        None
    }
}

impl Lease {
    /// Sends over it.
    pub(super) fn sender(&mut self) -> Option<SenderMut<'_>> {
        match self.held.as_mut()? {
            Held::Http1(connection) => match &mut connection.sender {
                Sender::Http1(http1) => Some(SenderMut::Http1(http1)),
                Sender::Http2(..) => None,
            },
            Held::Http2(connection) => match &connection.sender {
                Sender::Http2(sender, _) => Some(SenderMut::Http2(sender.clone())),
                Sender::Http1(..) => None,
            },
        }
    }

    /// The connection of an HTTP/1.1 call.
    pub(super) fn http1(&mut self) -> Option<&mut Http1> {
        match self.sender()? {
            SenderMut::Http1(http1) => Some(http1),
            SenderMut::Http2(_) => None,
        }
    }

    /// The same, to look at.
    pub(super) fn http1_ref(&self) -> Option<&Http1> {
        match &self.held {
            Some(Held::Http1(Connection { sender: Sender::Http1(http1), .. })) => Some(http1),
            _ => None,
        }
    }

    /// The endpoint it leads to.
    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The pool that it came from.
    pub(super) fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// A call over it ran out of time. Nothing else tells a shared connection that has gone silent from a slow model, so it
    /// takes no more calls; those that are on it go on.
    pub(super) fn retire(&self) {
        if let Some(Held::Http2(connection)) = &self.held
            && let Some(idle) = self.pool.endpoints.borrow_mut().get_mut(&Arc::as_ptr(&self.endpoint))
        {
            idle.http2.retain(|(kept, _)| !Rc::ptr_eq(kept, connection));
        }
    }

    /// The answer has ended: the connection can serve the next call, where `clean` says that nothing of this one is
    /// left on it.
    pub(super) fn release(mut self, clean: bool) {
        if let Some(Held::Http1(connection)) = self.held.take()
            && clean
            && connection.is_clean()
        {
            self.pool.keep(connection);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How a call's request goes out.
pub(super) enum SenderMut<'a> {
    Http1(&'a mut Http1),
    Http2(hyper::client::conn::http2::SendRequest<super::body::LegBody>),
}

impl Connection {
    fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(http1) => http1.is_open(),
            Sender::Http2(sender, _) => !sender.is_closed(),
        }
    }

    /// Whether nothing of the last call is left on it.
    fn is_clean(&self) -> bool {
        matches!(&self.sender, Sender::Http1(http1) if http1.is_clean())
    }

    fn has_room(&self) -> bool {
        matches!(&self.sender, Sender::Http2(_, streams) if streams.has_room())
    }

    fn is_idle(&self) -> bool {
        matches!(&self.sender, Sender::Http2(_, streams) if streams.open.get() == 0)
    }
}
