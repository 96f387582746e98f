//! One connection to an endpoint: opened, polled by a task of its own that holds its permit, spoken to over HTTP/1.1
//! or HTTP/2.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::body::LegBody;
use super::endpoint::{Endpoint, Permit, Side};
use crate::lifecycle;

/// Windows as large as an answer usually is, so that small undrained frames never hold a stream up.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The most header lines of an answer: hyper's own bound of 100 would turn a chatty model into a 502.
const MAX_HEADERS: usize = 1024;
/// The most bytes of an answer's head over HTTP/2, where hyper's own bound is 16 KiB.
const MAX_HEADER_LIST: u32 = 256 << 10;

/// A lane's read buffer for each connection, where a worker's may grow to 408 KiB: hundreds of candidates' answers can be
/// under way at once. It bounds the head of a candidate's answer too.
const LANE_BUFFER: usize = 16 << 10;

/// What a connection holds beside what it reads: hyper's write buffer (8 KiB), the channel into it, which has room for 32
/// requests (11 KiB), the call's task and its own, and two heads.
const LANE_CONNECTION: usize = 24 << 10;

/// The most that one call on a lane holds beside its copy: its connection, and of the answer a buffer that is being
/// filled, a frame that waits, and one that is being read.
pub const LANE_CALL_BYTES: usize = LANE_CONNECTION + 3 * LANE_BUFFER;

/// How requests go into a connection.
#[derive(Debug)]
pub(super) enum Sender {
    Http1(http1::SendRequest<LegBody>, Rc<Interim>),
    Http2(http2::SendRequest<LegBody>, Rc<Streams>),
}

/// The streams of one HTTP/2 connection: hyper's sender is always ready, with an unbounded queue behind it, so the
/// pool counts by itself.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) open: Cell<usize>,
    /// What the endpoint allows; published by the task that polls the connection.
    limit: Cell<usize>,
}

impl Streams {
    pub(super) fn has_room(&self) -> bool {
        self.open.get() < self.limit.get().max(1)
    }
}

/// Bounds what a model sends before its answer's head: hyper reads one 1xx after another without a pause, so that a
/// model that sends nothing else would keep the thread for itself.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// Whether a head is due.
    due: Cell<bool>,
    /// Bytes read since the request went out.
    bytes: Cell<usize>,
}

/// The most bytes until a head is there: more than the largest that hyper takes (408 KiB), and what of the body it reads
/// before the call hears of it.
const MAX_BEFORE_HEAD: usize = 2 << 20;

impl Interim {
    /// A request goes out.
    pub(super) fn begins(&self) {
        self.due.set(true);
        self.bytes.set(0);
    }

    /// So much was read: whether that is within the bound.
    fn counts(&self, bytes: usize) -> bool {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        !self.due.get() || self.bytes.get() <= MAX_BEFORE_HEAD
    }

    /// Its answer's head has come.
    pub(super) fn ends(&self) {
        self.due.set(false);
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) address: SocketAddr,
    pub(super) generation: u64,
    pub(super) task: AbortHandle,
}

impl Connection {
    /// Whether its endpoint's name still stands for its address.
    pub(super) fn is_current(&self) -> bool {
        self.generation == self.endpoint.generation() || self.endpoint.addresses().contains(&self.address)
    }
}

/// Opens a connection and starts the task that polls it.
pub(super) async fn open(
    endpoint: &Arc<Endpoint>,
    address: Option<SocketAddr>,
    permit: Permit,
    side: Side,
) -> io::Result<Connection> {
    let generation = endpoint.generation();
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the endpoint's name has no address yet");
    let address = address.ok_or_else(nowhere)?;
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let interim = Rc::new(Interim::default());
    let io = TokioIo::new(ModelIo { socket, interim: Rc::clone(&interim) });
    let (sender, task) =
        if endpoint.h2 { open_http2(io, permit).await } else { open_http1(io, interim, permit, side).await }
            .map_err(io::Error::other)?;
    Ok(Connection { sender, endpoint: Arc::clone(endpoint), address, generation, task })
}

async fn open_http1(
    io: TokioIo<ModelIo>,
    interim: Rc<Interim>,
    permit: Permit,
    side: Side,
) -> hyper::Result<(Sender, AbortHandle)> {
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS);
    if side == Side::Lane {
        builder.max_buf_size(LANE_BUFFER);
    }
    let (sender, connection) = builder.handshake(io).await?;
    let task = lifecycle::local(async move {
        // Its error reaches whoever waits for the answer.
        let _ = connection.await;
        drop(permit);
    });
    Ok((Sender::Http1(sender, interim), task.abort_handle()))
}

async fn open_http2(io: TokioIo<ModelIo>, permit: Permit) -> hyper::Result<(Sender, AbortHandle)> {
    let mut builder = http2::Builder::new(lifecycle::LocalExecutor);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_header_list_size(MAX_HEADER_LIST);
    let (sender, connection) = builder.handshake(io).await?;
    let streams = Rc::new(Streams::default());
    streams.limit.set(connection.current_max_send_streams());
    let published = Rc::clone(&streams);
    let task = lifecycle::local(async move {
        let mut connection = pin!(connection);
        poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            published.limit.set(connection.current_max_send_streams());
            ended.map(drop)
        })
        .await;
        drop(permit);
    });
    Ok((Sender::Http2(sender, streams), task.abort_handle()))
}

/// A model's socket, as hyper sees it. A model that answers early and closes makes our writes fail while its answer
/// lies in the socket, so write errors are swallowed and reads decide.
#[derive(Debug)]
struct ModelIo {
    socket: TcpStream,
    interim: Rc<Interim>,
}

fn swallowed(written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match written {
        Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Poll::Ready(Ok(offered)),
        other => other,
    }
}

impl AsyncRead for ModelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if !self.interim.counts(buf.filled().len() - before) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many 1xx answers")));
        }
        read
    }
}

impl AsyncWrite for ModelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        swallowed(Pin::new(&mut self.socket).poll_write(cx, buf), buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        swallowed(Pin::new(&mut self.socket).poll_write_vectored(cx, bufs), offered)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
