//! Floor 2: connections from clients, for any service. [`accept`] is the acceptor thread's loop, [`serve`]
//! serves one socket on a worker: HTTP/1.1 or HTTP/2 by its first bytes, its time limits, its part of a drain.

pub mod accept;
pub mod body;
mod http1;
pub mod io;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Sleep;

use self::body::ClientBody;
use self::io::{ConnIo, ConnState, Waiting};
use crate::lifecycle::{self, Phase};

/// How long a drained HTTP/2 client without a request has to answer the GOAWAY.
const GOODBYE: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much larger than `header_bytes` a head may be and still reach the service, which refuses it with a body.
const HEAD_SLACK: usize = 32 << 10;

/// Answers that one HTTP/2 client may ask for at once.
const MAX_STREAMS: u32 = 256;

/// HTTP/2 windows: large enough that a body never waits for a window on a local network.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Bounds of one connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnLimits {
    /// The most bytes of a head.
    pub header_bytes: usize,
    /// How long a head may take.
    pub header_timeout: Duration,
    /// How long a connection may be idle, or a client not read.
    pub idle_timeout: Duration,
}

/// One worker's view of the drain: the phase, and a bell for the connections that wait for it.
#[derive(Debug)]
pub struct DrainBell {
    phase: Cell<Phase>,
    bell: Notify,
}

impl DrainBell {
    /// In normal service.
    pub fn new() -> Rc<Self> {
        Rc::new(Self { phase: Cell::new(Phase::Serving), bell: Notify::new() })
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to this phase and wakes every connection.
    pub fn ring(&self, phase: Phase) {
        self.phase.set(phase);
        self.bell.notify_waiters();
    }
}

/// Starts hyper's HTTP/2 streams on this thread, each so that a stalled one can be reset.
#[derive(Debug, Clone)]
struct LocalExecutor(Rc<ConnState>);

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, stream: F) {
        self.0.attach(lifecycle::local(stream).abort_handle());
    }
}

/// How a connection's service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// By itself: closed, or broken off by the client.
    Closed,
    /// A time limit ran out while it waited for this.
    Expired(Waiting),
    /// The drain closed it, or cut it off.
    Drained,
}

/// Serves one client's socket until it ends.
pub async fn serve<S, F, B>(
    socket: TcpStream,
    limits: ConnLimits,
    drain: Rc<DrainBell>,
    state: Rc<ConnState>,
    service: S,
) where
    S: Fn(Request<ClientBody>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let Some((prefix, h2)) = first_bytes(&socket, limits, &drain).await else { return };
    let guard = Watch { limits, drain, state: Rc::clone(&state), h2, told: Cell::new(None) };
    if h2 {
        state.speaks_h2();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = service(request.map(ClientBody::Http2));
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        });
        let io = ConnIo::new(socket, prefix, Rc::clone(&state));
        let connection = http2_builder(&limits, &state).serve_connection(io, service);
        guard.run(pin!(connection), |connection| connection.graceful_shutdown()).await;
    } else {
        let head_bytes = limits.header_bytes.saturating_add(HEAD_SLACK);
        let mut connection = http1::Connection::new(socket, &prefix, head_bytes, Rc::clone(&state));
        let service = |request: Request<_>| service(request.map(ClientBody::Http1));
        let ended = guard.run(pin!(connection.run(service)), |_| state.end_soon()).await;
        if let Ended::Expired(Waiting::First | Waiting::Head) = ended {
            // Nothing is known of the request that it could belong to.
            connection.last_words(&http1::status_alone(StatusCode::REQUEST_TIMEOUT));
        }
    }
}

fn http2_builder(limits: &ConnLimits, state: &Rc<ConnState>) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor(Rc::clone(state)));
    let head = u32::try_from(limits.header_bytes.saturating_add(HEAD_SLACK)).unwrap_or(u32::MAX);
    builder.max_header_list_size(head).max_concurrent_streams(MAX_STREAMS);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// Reads until the first bytes tell HTTP/2 from HTTP/1; none where nothing came in time.
async fn first_bytes(socket: &TcpStream, limits: ConnLimits, drain: &DrainBell) -> Option<(Vec<u8>, bool)> {
    let mut prefix = Vec::with_capacity(H2_PREFACE.len());
    let reading = async {
        loop {
            let mut piece = [0_u8; H2_PREFACE.len()];
            socket.readable().await.ok()?;
            match socket.try_read(&mut piece[prefix.len()..]) {
                Ok(0) => return None,
                Ok(read) => prefix.extend_from_slice(&piece[prefix.len()..prefix.len() + read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return None,
            }
            if !H2_PREFACE.starts_with(&prefix) {
                return Some(false);
            }
            if prefix.len() == H2_PREFACE.len() {
                return Some(true);
            }
        }
    };
    let drained = async {
        while !drain.phase().is_draining() {
            drain.bell.notified().await;
        }
    };
    let h2 = tokio::select! {
        h2 = reading => h2?,
        () = drained => return None,
        () = tokio::time::sleep(limits.header_timeout) => {
            if !prefix.is_empty() {
                // A client that does not read gets none.
                let _ = socket.try_write(&http1::status_alone(StatusCode::REQUEST_TIMEOUT));
            }
            return None;
        }
    };
    Some((prefix, h2))
}

/// Keeps a connection's time limits and its part of a drain.
struct Watch {
    limits: ConnLimits,
    drain: Rc<DrainBell>,
    state: Rc<ConnState>,
    h2: bool,
    /// When the connection was told to end.
    told: Cell<Option<Instant>>,
}

impl Watch {
    async fn run<C, O>(&self, mut connection: Pin<&mut C>, shut_down: impl Fn(Pin<&mut C>)) -> Ended
    where
        C: Future<Output = O>,
    {
        let mut sleep = pin!(tokio::time::sleep_until(self.due().into()));
        let mut bell = pin!(self.drain.bell.notified());
        poll_fn(|cx| {
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Closed);
                }
                while bell.as_mut().poll(cx).is_ready() {
                    bell.set(self.drain.bell.notified());
                }
                if self.drain.phase() == Phase::Ended {
                    return Poll::Ready(Ended::Drained);
                }
                let ended = self.poll_limits(sleep.as_mut(), cx);
                // An idle HTTP/2 client hears a GOAWAY too, so that it knows that a request it sends just now was not read.
                let idle = self.h2 && ended == Poll::Ready(Ended::Expired(Waiting::Idle));
                let draining = self.drain.phase().is_draining();
                if self.told.get().is_some() || !(idle || draining || self.state.leaves()) {
                    return ended;
                }
                self.told.set(Some(Instant::now()));
                if draining && self.is_silent() {
                    return Poll::Ready(Ended::Drained);
                }
                shut_down(connection.as_mut());
                sleep.as_mut().reset(self.due().into());
            }
        })
        .await
    }

    /// Whether an HTTP/1 connection has nothing under way. It can be closed at once, also before the rest of a head, or
    /// a first one, has come. HTTP/2 says GOAWAY and then ends by itself.
    fn is_silent(&self) -> bool {
        let closing = self.state.is_closing();
        !self.h2 && !closing && self.state.requests() == 0 && self.state.write_blocked().is_none()
    }

    fn poll_limits(&self, mut sleep: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.state.take_rearm() {
            let due = self.due();
            if due < sleep.deadline().into_std() {
                sleep.as_mut().reset(due.into());
            }
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let due = self.due();
            if due <= Instant::now() {
                return Poll::Ready(Ended::Expired(self.state.waiting().0));
            }
            self.state.reset_stalled_streams(self.limits.idle_timeout);
            sleep.as_mut().reset(due.into());
        }
        Poll::Pending
    }

    /// When the limit of what the connection waits for runs out.
    fn due(&self) -> Instant {
        let (waiting, since) = self.state.waiting();
        let limit = match waiting {
            Waiting::First | Waiting::Head => since + self.limits.header_timeout,
            Waiting::Idle => since + self.limits.idle_timeout,
            // Not a limit but the next look: the service keeps its own time.
            Waiting::Service => Instant::now() + self.limits.idle_timeout,
        };
        let limit = match self.state.write_blocked() {
            Some(blocked) => limit.min(blocked + self.limits.idle_timeout),
            None => limit,
        };
        match self.told.get() {
            // What is still being written has its own limit.
            Some(told) if self.state.requests() == 0 && self.state.write_blocked().is_none() => told + GOODBYE,
            _ => limit,
        }
    }
}
