//! One connection to an endpoint, which holds a permit of it as long as it is open: over HTTP/1.1 polled by the call that
//! has it, over HTTP/2 by a task of its own.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::body::LegBody;
use super::endpoint::{Endpoint, Permit, Side};
use super::http1::{Http1, LANE_READ};
use crate::lifecycle;

/// Windows as large as an answer usually is, so that small undrained frames never hold a stream up.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// The most bytes of an answer's head over HTTP/2, where hyper's own bound is 16 KiB.
const MAX_HEADER_LIST: u32 = 256 << 10;

/// What a connection holds beside what it reads: what it writes, the call's task, and two heads.
const LANE_CONNECTION: usize = 8 << 10;

/// The most that one call on a lane holds beside its copy: its connection, and of the answer a buffer that is being
/// filled, a frame that waits, and one that is being read.
pub const LANE_CALL_BYTES: usize = LANE_CONNECTION + 3 * LANE_READ;

/// How requests go into a connection.
#[derive(Debug)]
pub(super) enum Sender {
    /// In a box, because it moves with each call.
    Http1(Box<Http1>),
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

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: Sender,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) address: SocketAddr,
    pub(super) generation: u64,
    /// None where the task that polls it holds it.
    _permit: Option<Permit>,
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
    let (sender, permit) = if endpoint.h2 {
        let io = TokioIo::new(ModelIo { socket });
        (open_http2(io, permit).await.map_err(io::Error::other)?, None)
    } else {
        (Sender::Http1(Box::new(Http1::new(socket, side))), Some(permit))
    };
    Ok(Connection { sender, endpoint: Arc::clone(endpoint), address, generation, _permit: permit })
}

async fn open_http2(io: TokioIo<ModelIo>, permit: Permit) -> hyper::Result<Sender> {
    let mut builder = http2::Builder::new(lifecycle::LocalExecutor);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_header_list_size(MAX_HEADER_LIST);
    let (sender, connection) = builder.handshake(io).await?;
    let streams = Rc::new(Streams::default());
    streams.limit.set(connection.current_max_send_streams());
    let published = Rc::clone(&streams);
    drop(lifecycle::local(async move {
        let mut connection = pin!(connection);
        poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx);
            published.limit.set(connection.current_max_send_streams());
            ended.map(drop)
        })
        .await;
        drop(permit);
    }));
    Ok(Sender::Http2(sender, streams))
}

/// A model's socket, as hyper's HTTP/2 sees it. A model that answers early and closes makes our writes fail while its answer
/// lies in the socket, so write errors are swallowed and reads decide.
#[derive(Debug)]
struct ModelIo {
    socket: TcpStream,
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
        Pin::new(&mut self.socket).poll_read(cx, buf)
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
