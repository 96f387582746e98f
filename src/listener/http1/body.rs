//! What comes from a client: read by the connection between requests, and by whoever has the body while there is one.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::wire::{Decoded, Decoder, Input, Malformed};

/// What a client that waits for it is told before its body is read (RFC 9110 §10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The reading half of a client's connection.
#[derive(Debug)]
pub(super) struct Reading {
    /// None once the connection has ended: whoever still has the body must not keep it open.
    socket: Option<OwnedReadHalf>,
    pub(super) input: Input,
    /// The body of the request under way; at its end where there is none.
    body: Decoder,
    /// Whether somebody has that body.
    held: bool,
    /// What is still to be said before the body is waited for.
    interim: &'static [u8],
    /// Whether the client has closed.
    gone: bool,
    /// The connection's own task, while it waits for the body to be over.
    connection: Option<Waker>,
    /// Whoever waits for the body.
    reader: Option<Waker>,
}

impl Reading {
    /// A connection of which `prefix` was read already.
    pub(super) fn new(socket: OwnedReadHalf, most: usize, prefix: &[u8]) -> Self {
        let mut input = Input::new(most);
        input.buffer.extend_from_slice(prefix);
        Self {
            socket: Some(socket),
            input,
            body: Decoder::Length(0),
            held: false,
            interim: b"",
            gone: false,
            connection: None,
            reader: None,
        }
    }

    /// The socket itself.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref().map(AsRef::as_ref)
    }

    /// The connection ends, and with it what is read of the body.
    pub(super) fn close(&mut self) {
        self.socket = None;
        self.gone = true;
        self.reader.take().into_iter().for_each(Waker::wake);
    }

    /// Reads once.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.socket.as_mut().map_or(Poll::Ready(Ok(0)), |socket| self.input.poll_fill(socket, cx))
    }

    /// A body follows. `continues` is whether the client waits until it is told to go on.
    pub(super) fn begin(&mut self, body: Decoder, continues: bool) {
        self.body = body;
        self.held = true;
        self.interim = if continues { CONTINUE } else { b"" };
    }

    /// Whether the body has been read.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_end()
    }

    /// Whether the body's end may never be seen: nobody reads it and it has not come yet, or the client was not told to
    /// send it, and may ask something else in its place.
    pub(super) fn is_stuck(&mut self) -> bool {
        if self.held { !self.is_over() && self.interim.len() == CONTINUE.len() } else { self.skip() != Ok(true) }
    }

    /// Whether something has come that was not taken.
    pub(super) fn has_more(&self) -> bool {
        let unread = |socket: &TcpStream| matches!(socket.try_read(&mut [0]), Ok(1..));
        !self.input.buffer.is_empty() || self.socket().is_some_and(unread)
    }

    /// Lines that some clients send behind a body, and before a head, are nothing (RFC 9112 §2.2).
    pub(super) fn skip_blank_lines(&mut self) {
        let buffer = &mut self.input.buffer;
        while let [b'\n', ..] | [b'\r', b'\n', ..] = buffer[..] {
            buffer.advance(if buffer[0] == b'\n' { 1 } else { 2 });
        }
    }

    /// Reads over what has come of a body that nobody has; whether that was all, and an error where it is malformed.
    fn skip(&mut self) -> Result<bool, Malformed> {
        loop {
            match self.body.decode(&mut self.input.buffer)? {
                Decoded::Frame(_) => {}
                Decoded::End => return Ok(true),
                Decoded::More => return Ok(false),
            }
        }
    }

    /// Waits until the body is over: whether another request can follow.
    pub(super) fn poll_over(&mut self, cx: &Context<'_>) -> Poll<bool> {
        if self.body.is_end() {
            return Poll::Ready(true);
        }
        if self.gone || !self.held {
            return Poll::Ready(!self.gone && self.skip() == Ok(true));
        }
        wait(&mut self.connection, cx);
        Poll::Pending
    }

    /// Waits until the client leaves, while its request is under way. That is seen by whoever reads the body, and after
    /// that as long as the client does not send its next request meanwhile. A body that nobody has is read all the same:
    /// the client may read nothing of the answer before it has sent everything.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        if self.held && !self.body.is_end() {
            wait(&mut self.connection, cx);
            return Poll::Pending;
        }
        while !self.body.is_end() {
            match self.skip() {
                Ok(true) => break,
                Ok(false) if matches!(ready!(self.poll_fill(cx)), Ok(0) | Err(_)) => return Poll::Ready(()),
                Ok(false) => {}
                Err(Malformed) => return Poll::Pending,
            }
        }
        self.skip_blank_lines();
        while self.input.buffer.is_empty() {
            if matches!(ready!(self.poll_fill(cx)), Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
            self.skip_blank_lines();
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        self.connection.take().into_iter().for_each(Waker::wake);
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.body.decode(&mut self.input.buffer) {
                Ok(Decoded::Frame(frame)) => {
                    if self.body.is_end() {
                        self.wake();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(Decoded::End) => {
                    self.wake();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) if self.gone => return Poll::Ready(Some(Err(BodyError::BrokenOff))),
                Ok(Decoded::More) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(BodyError::Malformed))),
            }
            self.say_continue(cx);
            match self.poll_fill(cx) {
                Poll::Pending => {
                    wait(&mut self.reader, cx);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.gone = true;
                    self.wake();
                }
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    /// Tells the client to go on. Where its side is full for the moment the rest is said later: it may send all the same.
    fn say_continue(&mut self, cx: &mut Context<'_>) {
        let Some(socket) = &self.socket else { return };
        let socket = socket.as_ref();
        while !self.interim.is_empty() {
            match socket.try_write(self.interim) {
                Ok(written) => self.interim = &self.interim[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if socket.poll_write_ready(cx).is_pending() {
                        return;
                    }
                }
                // Reading says what is the matter.
                Err(_) => self.interim = b"",
            }
        }
    }

    /// The answer begins: what was begun to be said has to be said first, and what was not is not said any more.
    pub(super) fn take_interim(&mut self) -> &'static [u8] {
        let left = std::mem::take(&mut self.interim);
        if left.len() == CONTINUE.len() { b"" } else { left }
    }
}

fn wait(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

/// Why a client's body does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The client left before the end.
    #[error("the request body broke off")]
    BrokenOff,
    /// It is not framed as its head said. The client is still there.
    #[error("the request body is malformed")]
    Malformed,
}

/// The body of a request.
#[derive(Debug)]
pub struct Http1Body(Rc<RefCell<Reading>>);

impl Http1Body {
    pub(super) fn new(reading: &Rc<RefCell<Reading>>) -> Self {
        Self(Rc::clone(reading))
    }

    /// The next piece, or the trailers.
    pub(in crate::listener) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.borrow_mut().poll_next(cx)
    }

    /// Whether all has been given.
    pub(in crate::listener) fn is_end(&self) -> bool {
        self.0.borrow().is_over()
    }

    /// What is left, as far as it is known.
    pub(in crate::listener) fn size_hint(&self) -> SizeHint {
        self.0.borrow().body.size_hint()
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        let mut reading = self.0.borrow_mut();
        reading.held = false;
        reading.wake();
    }
}
