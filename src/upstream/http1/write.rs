//! A request on its way out: its head, then its body as it comes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{COOKIE, HOST, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::AbortHandle;

use crate::lifecycle;
use crate::upload::UploadError;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::headers::Head;
use crate::wire::Queue;
use crate::wire::head::{trailer_names, write_field};

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: Queue,
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
        self.body.is_none() && !self.queue.is_pending() && !self.deaf
    }

    /// A request begins: its head is the first thing to be written.
    pub(super) fn begin(&mut self, head: &Head, host: &HeaderValue, body: LegBody) {
        let out = self.queue.head();
        for piece in [head.method().as_str(), " ", head.target(), " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        write_field(out, &HOST, host);
        let mut cookie = head.joined_cookie();
        let joined = cookie.is_some();
        for (name, value) in head.fields() {
            match *name {
                // All of them where the first one stood.
                COOKIE if joined => cookie.take().iter().for_each(|all| write_field(out, name, all)),
                _ => write_field(out, name, value),
            }
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
            if !self.queue.is_pending() {
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if let Err(error) = ready!(self.queue.poll_write(socket, cx)) {
                tracing::debug!(%error, "a model takes no more of a request");
                self.deaf = true;
                self.queue.forget();
            }
        }
    }

    /// Takes what comes of the body until there is enough to write. Whether more is to come, but not yet.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, UploadError> {
        while self.queue.has_room() {
            let Some(body) = &mut self.body else { return Ok(false) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => self.add(frame),
                Poll::Ready(Some(Err(error))) => return Err(error),
                Poll::Ready(None) if self.left.is_some_and(|left| left > 0) => return Err(UploadError::Broken),
                Poll::Ready(None) => self.end(&HeaderMap::new()),
            }
            if self.deaf {
                self.queue.forget();
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
                self.queue.push(data);
            }
            None => self.queue.push_chunk(data),
        }
    }

    /// The body has ended, with these trailers.
    fn end(&mut self, trailers: &HeaderMap) {
        self.body = None;
        if self.left.is_none() {
            self.queue.push_last_chunk(trailers, &self.announced);
        }
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

/// The names in `Trailer`: other trailers are not sent, as nobody was told of them.
fn announced(head: &Head) -> Vec<HeaderName> {
    trailer_names(head.fields().iter().filter(|(name, _)| *name == TRAILER).map(|(_, line)| line))
}
