//! What a connection's service and its time limits have to know of each other: in which state it is and since when (for
//! `header_timeout` and `idle_timeout`), whether a write is stuck, how it is to be closed. And the wrapper between an HTTP/2
//! client's socket and hyper, which tells it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Sleep;

/// How long, and over how many reads, a close waits for a client that is still sending.
const LINGER: Duration = Duration::from_secs(2);

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The first head, or the HTTP/2 handshake.
    First,
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// Its own service: at least one request is under way.
    Service,
}

/// One answer that hyper is sending over HTTP/2: the body marks when it handed a frame over.
#[derive(Debug, Default)]
pub struct Sending {
    /// When the last frame was handed over, as long as hyper has not asked for another.
    pub handed_over: Cell<Option<Instant>>,
}

/// What the wrapper, the service and the connection's own future know of each other.
#[derive(Debug)]
pub struct ConnState {
    waiting: Cell<Waiting>,
    since: Cell<Instant>,
    h2: Cell<bool>,
    requests: Cell<usize>,
    write_blocked: Cell<Option<Instant>>,
    linger: Cell<bool>,
    rearm: Cell<bool>,
    leaves: Cell<bool>,
    ends: Cell<bool>,
    closes: Cell<bool>,
    /// Whether the head of the answer under way is out (HTTP/1.1).
    answers: Cell<bool>,
    next_stream: Cell<u64>,
    /// Requests that were counted already.
    counted: Cell<u64>,
    starting: Cell<Option<u64>>,
    streams: RefCell<HashMap<u64, Stream>>,
}

#[derive(Debug)]
struct Stream {
    sending: Rc<Sending>,
    task: Option<AbortHandle>,
}

impl ConnState {
    /// A connection that was just accepted.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            waiting: Cell::new(Waiting::First),
            since: Cell::new(Instant::now()),
            h2: Cell::new(false),
            requests: Cell::new(0),
            write_blocked: Cell::new(None),
            linger: Cell::new(false),
            rearm: Cell::new(false),
            leaves: Cell::new(false),
            ends: Cell::new(false),
            closes: Cell::new(false),
            answers: Cell::new(false),
            next_stream: Cell::new(0),
            counted: Cell::new(0),
            starting: Cell::new(None),
            streams: RefCell::default(),
        })
    }

    /// What the connection waits for, and since when.
    pub fn waiting(&self) -> (Waiting, Instant) {
        (self.waiting.get(), self.since.get())
    }

    /// Requests under way.
    pub fn requests(&self) -> usize {
        self.requests.get()
    }

    /// Since when a write has been stuck.
    pub fn write_blocked(&self) -> Option<Instant> {
        self.write_blocked.get()
    }

    /// Whether a deadline may have come closer since this was last asked.
    pub fn take_rearm(&self) -> bool {
        self.rearm.take()
    }

    /// Requests since this was last asked.
    pub fn take_requests(&self) -> u64 {
        self.next_stream.get() - self.counted.replace(self.next_stream.get())
    }

    /// The client had better connect anew: it is told with its next answer.
    pub fn ask_to_leave(&self) {
        self.leaves.set(true);
    }

    /// The head of the answer under way goes out.
    pub fn head_goes_out(&self) {
        self.answers.set(true);
    }

    /// Whether the client had better connect anew, and can be told so: by a GOAWAY at any time, by an answer's head where
    /// that is still to come. A silent close would meet the client's next request half-way.
    pub fn leaves(&self) -> bool {
        self.leaves.get() && (self.h2.get() || (self.requests.get() > 0 && !self.answers.get()))
    }

    /// The client is still sending although its answer is complete: the close lingers, so that the answer survives.
    pub fn linger_on_close(&self) {
        self.linger.set(true);
    }

    /// No further request is taken (HTTP/1.1).
    pub(super) fn end_soon(&self) {
        self.ends.set(true);
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.get()
    }

    /// It waits for the client to close, too, which takes a bounded time.
    pub(super) fn closes(&self) {
        self.closes.set(true);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closes.get()
    }

    pub(super) fn lingers(&self) -> bool {
        self.linger.get()
    }

    /// A write went out, or is stuck.
    pub(super) fn wrote(&self, stuck: bool) {
        if !stuck {
            self.write_blocked.set(None);
        } else if self.write_blocked.get().is_none() {
            self.write_blocked.set(Some(Instant::now()));
            self.rearm.set(true);
        }
    }

    pub(super) fn speaks_h2(&self) {
        self.h2.set(true);
    }

    fn enter(&self, waiting: Waiting) {
        self.waiting.set(waiting);
        self.since.set(Instant::now());
    }

    /// Something came from the client.
    pub(super) fn bytes_arrived(&self) {
        match self.waiting.get() {
            // An HTTP/2 client may connect long before it asks; what comes meanwhile are its pings and settings.
            Waiting::First | Waiting::Idle if self.h2.get() => self.enter(Waiting::Idle),
            Waiting::Idle => {
                self.enter(Waiting::Head);
                self.rearm.set(true);
            }
            Waiting::First | Waiting::Head | Waiting::Service => {}
        }
    }

    /// A request's head is complete. The guard it returns ends the request when dropped.
    pub fn begin(self: &Rc<Self>) -> RequestGuard {
        self.requests.set(self.requests.get() + 1);
        self.waiting.set(Waiting::Service);
        self.answers.set(false);
        let id = self.next_stream.get();
        self.next_stream.set(id + 1);
        let sending = Rc::new(Sending::default());
        if self.h2.get() {
            // The look at stalled streams may be due before the head's limit was.
            self.rearm.set(true);
            self.starting.set(Some(id));
            self.streams.borrow_mut().insert(id, Stream { sending: Rc::clone(&sending), task: None });
        }
        RequestGuard { connection: Rc::clone(self), id, sending }
    }

    /// The answer is out, but the request's body is still read: as long as the guard is held, what arrives is no head.
    pub fn reading_on(self: &Rc<Self>) -> RequestGuard {
        self.requests.set(self.requests.get() + 1);
        let id = self.next_stream.get();
        self.next_stream.set(id + 1);
        RequestGuard { connection: Rc::clone(self), id, sending: Rc::default() }
    }

    /// The task that hyper starts right after [`Self::begin`] is that request's stream.
    pub(super) fn attach(&self, task: AbortHandle) {
        let started = self.starting.take();
        if let Some(id) = started
            && let Some(stream) = self.streams.borrow_mut().get_mut(&id)
        {
            stream.task = Some(task);
        }
    }

    /// Resets the streams whose client has granted no window for so long; hyper would wait for ever.
    pub(super) fn reset_stalled_streams(&self, limit: Duration) {
        let stalled = |stream: &Stream| stream.sending.handed_over.get().is_some_and(|at| at.elapsed() >= limit);
        let tasks: Vec<AbortHandle> = {
            let streams = self.streams.borrow();
            streams.values().filter(|stream| stalled(stream)).filter_map(|stream| stream.task.clone()).collect()
        };
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// One request under way on a connection.
#[derive(Debug)]
pub struct RequestGuard {
    connection: Rc<ConnState>,
    id: u64,
    sending: Rc<Sending>,
}

impl RequestGuard {
    /// The connection's state.
    pub fn connection(&self) -> &Rc<ConnState> {
        &self.connection
    }

    /// Where the answer's body marks what it handed over.
    pub fn sending(&self) -> &Rc<Sending> {
        &self.sending
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let state = &self.connection;
        state.requests.set(state.requests.get().saturating_sub(1));
        if state.h2.get() {
            state.streams.borrow_mut().remove(&self.id);
        }
        if state.requests.get() == 0 {
            state.enter(Waiting::Idle);
        }
    }
}

/// Reads and forgets what a client is still sending, for a bounded time.
#[derive(Debug, Default)]
pub(super) struct Linger(Option<Pin<Box<Sleep>>>);

impl Linger {
    /// Ready when the client has closed too, or has had its time.
    pub(super) fn poll(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = [0_u8; 8192];
        loop {
            match socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            match socket.try_read(&mut scratch) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

/// An HTTP/2 client's socket, as hyper sees it.
#[derive(Debug)]
pub struct ConnIo {
    stream: TokioIo<TcpStream>,
    prefix: Vec<u8>,
    state: Rc<ConnState>,
    lingering: Option<Linger>,
}

impl ConnIo {
    /// Wraps a socket from which `prefix` was read already.
    pub fn new(stream: TcpStream, prefix: Vec<u8>, state: Rc<ConnState>) -> Self {
        Self { stream: TokioIo::new(stream), prefix, state, lingering: None }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.state.wrote(result.is_pending());
        result
    }
}

impl Read for ConnIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let fits = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..fits]);
            self.prefix.drain(..fits);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.state.bytes_arrived();
        }
        read
    }
}

impl Write for ConnIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            match Pin::new(&mut this.stream).poll_shutdown(cx) {
                Poll::Ready(Ok(())) if this.state.lingers() => {}
                ended => return ended,
            }
        }
        this.lingering.get_or_insert_default().poll(this.stream.inner(), cx).map(Ok)
    }
}
