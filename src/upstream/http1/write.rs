//! A request on its way out: its head, then its body as it comes. Small pieces are put together and go out at once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::header::{HOST, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::AbortHandle;

use crate::lifecycle;
use crate::upload::UploadError;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::headers::Head;

/// A frame up to this size is copied behind what goes before it: that costs less than another piece to write.
const COPIED: usize = 4 << 10;

/// So much may be put together before it is written.
const GATHERED: usize = 16 << 10;

/// Trailers that would say something of the message that its head has said already (RFC 9110 §6.5.1).
const NO_TRAILERS: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "max-forwards",
    "set-cookie",
];

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// The head, small frames and what stands between frames; written up to `written`.
    gathered: Vec<u8>,
    written: usize,
    /// A large frame, which goes after it.
    frame: Bytes,
    /// And after that.
    tail: &'static [u8],
    /// Where more comes from.
    body: Option<LegBody>,
    /// What `Content-Length` leaves; none in chunks.
    left: Option<u64>,
    /// Fields that the head has named as trailers.
    announced: Vec<HeaderName>,
    /// The model takes no more. What still comes is thrown away, and its answer is waited for: it may have said it
    /// already, and closed.
    deaf: bool,
}

impl Outgoing {
    /// Whether all is written.
    pub(super) fn is_done(&self) -> bool {
        self.body.is_none() && !self.is_pending() && !self.deaf
    }

    fn is_pending(&self) -> bool {
        self.written < self.gathered.len() || !self.frame.is_empty() || !self.tail.is_empty()
    }

    /// A request begins: its head is the first thing to be written.
    pub(super) fn begin(&mut self, head: &Head, host: &HeaderValue, body: LegBody) {
        self.written = 0;
        if self.gathered.capacity() > 2 * GATHERED {
            self.gathered = Vec::new();
        }
        let out = &mut self.gathered;
        out.clear();
        for piece in [head.method().as_str(), " ", head.target(), " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        field(out, &HOST, host);
        for (name, value) in head.fields() {
            field(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        (self.left, self.announced) = match body.framing() {
            Framing::None => (Some(0), Vec::new()),
            Framing::Length(length) => (Some(length), Vec::new()),
            Framing::Chunked => (None, announced(head)),
        };
        self.body = (self.left != Some(0)).then_some(body);
    }

    /// Writes what there is, and what comes. Ready when all is written, or when the client's body has failed.
    pub(super) fn poll(&mut self, socket: &mut OwnedWriteHalf, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            let starved = self.gather(cx)?;
            if !self.is_pending() {
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            match self.write(socket, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(written)) => self.advance(written),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a model takes no more of a request");
                    self.deaf = true;
                }
            }
            if self.deaf {
                self.forget();
            }
        }
    }

    /// Takes what comes of the body until there is enough to write. Whether more is to come, but not yet.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, UploadError> {
        while self.frame.is_empty() && self.tail.is_empty() && self.gathered.len() - self.written < GATHERED {
            let Some(body) = &mut self.body else { return Ok(false) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => self.add(frame),
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) if self.left.is_some_and(|left| left > 0) => return Err(UploadError::Broken),
                Poll::Ready(None) => self.end(&HeaderMap::new()),
            }
            if self.deaf {
                self.forget();
            }
        }
        Ok(false)
    }

    fn add(&mut self, frame: Frame<Bytes>) {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return self.end(&trailers);
            }
        };
        match &mut self.left {
            Some(left) => {
                // No more than was announced: what is beyond would be the next request.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                if *left == 0 {
                    self.body = None;
                }
                self.push(data, b"");
            }
            None if data.is_empty() => {}
            None => {
                self.gathered.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.push(data, b"\r\n");
            }
        }
    }

    fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.gathered.extend_from_slice(&data);
            self.gathered.extend_from_slice(tail);
        } else {
            (self.frame, self.tail) = (data, tail);
        }
    }

    /// The body has ended, with these trailers.
    fn end(&mut self, trailers: &HeaderMap) {
        self.body = None;
        if self.left.is_none() {
            self.gathered.extend_from_slice(b"0\r\n");
            for (name, value) in trailers {
                if self.announced.contains(name) && !NO_TRAILERS.contains(&name.as_str()) {
                    field(&mut self.gathered, name, value);
                }
            }
            self.gathered.extend_from_slice(b"\r\n");
        }
    }

    fn write(&self, socket: &mut OwnedWriteHalf, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let gathered = &self.gathered[self.written..];
        if self.frame.is_empty() && self.tail.is_empty() {
            return Pin::new(socket).poll_write(cx, gathered);
        }
        let pieces = [IoSlice::new(gathered), IoSlice::new(&self.frame), IoSlice::new(self.tail)];
        Pin::new(socket).poll_write_vectored(cx, &pieces)
    }

    fn advance(&mut self, mut written: usize) {
        let of_gathered = written.min(self.gathered.len() - self.written);
        self.written += of_gathered;
        written -= of_gathered;
        let of_frame = written.min(self.frame.len());
        self.frame.advance(of_frame);
        written -= of_frame;
        self.tail = &self.tail[written.min(self.tail.len())..];
        // What is written goes, also where more is added before all is: it would grow with the upload.
        if self.written == self.gathered.len() || self.written >= GATHERED {
            self.gathered.drain(..self.written);
            self.written = 0;
        }
    }

    fn forget(&mut self) {
        self.gathered.clear();
        self.written = 0;
        self.frame = Bytes::new();
        self.tail = b"";
    }
}

/// The rest of a request whose answer has begun. A task writes it: the answer may wait for the client to read, and the client
/// may not read before it has said all. Dropping it ends the task.
#[derive(Debug)]
pub(super) struct Rest {
    task: AbortHandle,
    failed: Rc<Failed>,
}

#[derive(Debug, Default)]
struct Failed {
    error: Cell<Option<UploadError>>,
    reader: RefCell<Option<Waker>>,
}

impl Rest {
    pub(super) fn start(mut socket: OwnedWriteHalf, mut output: Outgoing) -> Self {
        let failed = Rc::<Failed>::default();
        let told = Rc::clone(&failed);
        let task = lifecycle::local(async move {
            if let Err(error) = poll_fn(|cx| output.poll(&mut socket, cx)).await {
                told.error.set(Some(error));
                told.reader.take().into_iter().for_each(Waker::wake);
            }
            // Dropped, it would say that nothing more is read, too.
            socket.forget();
        });
        Self { task: task.abort_handle(), failed }
    }

    /// Whether the client's body has failed; whoever asks is woken when it does.
    pub(super) fn failure(&self, cx: &Context<'_>) -> Option<UploadError> {
        self.failed.reader.replace(Some(cx.waker().clone()));
        self.failed.error.get()
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The names in `Trailer`: other trailers are not sent, as nobody was told of them.
fn announced(head: &Head) -> Vec<HeaderName> {
    let lines = head.fields().iter().filter(|(name, _)| *name == TRAILER);
    let names = lines.flat_map(|(_, line)| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}
