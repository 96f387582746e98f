//! An HTTP/1.1 connection from a client, served by one task: a head is read, the service asked, its answer written, and so
//! on. The request's body is read from the socket by whoever has it, without a channel between. hyper's server costs more
//! (`benches/README.md`). What a client may send is RFC 9112; heads are parsed by `httparse`, as hyper's are.

pub(super) mod body;
mod head;
mod write;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

use self::body::{Http1Body, Reading};
use self::head::{Asked, Head};
pub(super) use self::write::status_alone;
use self::write::{Encoder, begin};
use super::io::{ConnState, Linger};
use crate::wire::Queue;
use crate::wire::head::Progress;

/// The largest read.
const MOST_READ: usize = 128 << 10;

/// A client's connection.
pub(super) struct Connection {
    reading: Rc<RefCell<Reading>>,
    /// None once nothing more is said.
    writing: Option<OwnedWriteHalf>,
    /// Whether only the close will tell the client where the answer under way ends: it must not come before that.
    unended: bool,
    queue: Queue,
    progress: Progress,
    state: Rc<ConnState>,
}

/// What the client said next.
enum Next {
    Request(Box<Head>),
    /// Something that is no head. It gets this status alone: nothing is known of the request.
    Malformed(StatusCode),
    /// Nothing more.
    Nothing,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// The client has it.
    Whole,
    /// It broke off, or the client did.
    Broken,
}

impl Connection {
    /// A connection of which `prefix` was read already; heads have at most so many bytes.
    pub(super) fn new(socket: TcpStream, prefix: &[u8], head_bytes: usize, state: Rc<ConnState>) -> Self {
        let (socket, writing) = socket.into_split();
        let reading = Reading::new(socket, MOST_READ, prefix);
        Self {
            reading: Rc::new(RefCell::new(reading)),
            writing: Some(writing),
            unended: false,
            queue: Queue::default(),
            progress: Progress::new(head_bytes),
            state,
        }
    }

    /// Says something to a client whose connection ends now. One that does not read does not get it.
    pub(super) fn last_words(&self, words: &[u8]) {
        let _ = self.reading.borrow().socket().map(|socket| socket.try_write(words));
    }

    /// Serves the client's requests until one side has enough, and closes.
    pub(super) async fn run<S, F, B>(&mut self, service: S)
    where
        S: Fn(Request<Option<Http1Body>>) -> F,
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes>,
    {
        loop {
            let head = match poll_fn(|cx| self.poll_head(cx)).await {
                Next::Request(head) => head,
                Next::Malformed(status) => {
                    self.last_words(&status_alone(status));
                    self.state.linger_on_close();
                    return self.close().await;
                }
                Next::Nothing => return,
            };
            let (request, asked) = self.begin(*head);
            let Some(answer) = self.wait(service(request)).await else { return };
            let mut last = !asked.keeps || self.state.ends() || self.reading.borrow_mut().is_stuck();
            if self.answer(answer, &asked, &mut last).await == Written::Broken {
                return;
            }
            if last || !poll_fn(|cx| self.reading.borrow_mut().poll_over(cx)).await || self.state.ends() {
                return self.close().await;
            }
        }
    }

    /// Reads the next head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if self.state.ends() {
            return Poll::Ready(Next::Nothing);
        }
        let reading = &mut *self.reading.borrow_mut();
        loop {
            reading.skip_blank_lines();
            if !reading.input.buffer.is_empty() {
                self.state.bytes_arrived();
            }
            match head::parse(&mut reading.input.buffer, &mut self.progress) {
                Ok(Some(head)) => return Poll::Ready(Next::Request(head)),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Next::Malformed(status)),
            }
            if matches!(ready!(reading.poll_fill(cx)), Ok(0) | Err(_)) {
                return Poll::Ready(Next::Nothing);
            }
        }
    }

    fn begin(&self, head: Head) -> (Request<Option<Http1Body>>, Asked) {
        let Head { parts, body, asked, continues } = head;
        let body = (!body.is_end()).then(|| {
            self.reading.borrow_mut().begin(body, continues);
            Http1Body::new(&self.reading)
        });
        (Request::from_parts(parts, body), asked)
    }

    /// Waits for the answer; none where the client leaves first.
    async fn wait<A>(&self, answer: impl Future<Output = A>) -> Option<A> {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            self.reading.borrow_mut().poll_left(cx).map(|()| None)
        })
        .await
    }

    /// Writes the answer as it comes; that it is the `last` is said in its head. Its body is dropped, which is how a request
    /// ends, before its last bytes go out: a client that has its answer finds it counted.
    async fn answer<B: Body<Data = Bytes>>(&mut self, answer: Response<B>, asked: &Asked, last: &mut bool) -> Written {
        let (head, body) = answer.into_parts();
        self.queue.head().extend_from_slice(self.reading.borrow_mut().take_interim());
        let mut encoder = begin(self.queue.head(), &head, &body, asked, last);
        drop(head);
        self.unended = matches!(encoder, Encoder::UntilClose);
        let mut body = pin!(Some(body));
        let written = poll_fn(|cx| {
            let Some(writing) = &mut self.writing else { return Poll::Ready(Written::Broken) };
            loop {
                let starved = body.as_mut().as_pin_mut().is_some_and(|body| encoder.gather(body, &mut self.queue, cx));
                if matches!(encoder, Encoder::Ended(_)) {
                    body.set(None);
                }
                while self.queue.is_pending() {
                    let written = self.queue.poll_write(writing, cx);
                    self.state.wrote(written.is_pending());
                    match written {
                        Poll::Pending => return poll_left(&self.reading, cx),
                        Poll::Ready(Err(_)) => return Poll::Ready(Written::Broken),
                        Poll::Ready(Ok(())) => {}
                    }
                }
                match encoder {
                    Encoder::Ended(written) => return Poll::Ready(written),
                    _ if starved => return poll_left(&self.reading, cx),
                    _ => {}
                }
            }
        })
        .await;
        self.unended &= written == Written::Broken;
        written
    }

    /// Closes after the last answer. A body that somebody still reads is waited for, and a client that is still sending
    /// has time to stop: bytes that come for a closed connection would be answered by a reset, which can destroy the
    /// answer before the client has read it.
    async fn close(&mut self) {
        let quiet = self.reading.borrow().is_over() && !self.reading.borrow().has_more();
        if quiet && !self.state.lingers() {
            return;
        }
        self.state.closes();
        // Dropped, it says that nothing more comes.
        self.writing = None;
        poll_fn(|cx| self.reading.borrow_mut().poll_over(cx)).await;
        let mut linger = Linger::default();
        poll_fn(|cx| self.reading.borrow().socket().map_or(Poll::Ready(()), |socket| linger.poll(socket, cx))).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.unended
            && let Some(writing) = self.writing.take_if(|writing| writing.as_ref().set_zero_linger().is_ok())
        {
            // The close sends RST instead of FIN, which the half would send if it were dropped.
            writing.forget();
        }
        self.reading.borrow_mut().close();
    }
}

/// The client leaves before it has its answer.
fn poll_left(reading: &RefCell<Reading>, cx: &mut Context<'_>) -> Poll<Written> {
    reading.borrow_mut().poll_left(cx).map(|()| Written::Broken)
}

#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod tests;
