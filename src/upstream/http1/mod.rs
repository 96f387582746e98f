//! An HTTP/1.1 connection to a model, polled by the call that has it. hyper's would be polled by a task of its own, with a
//! channel into it and another back: half of what a plain request cost. Here a call writes, reads and is done. Heads are
//! parsed by `httparse`, as hyper's are; how a body is framed, and what may follow it, is RFC 9112 §6.

mod head;
mod write;

use std::cell::Cell;
use std::io::ErrorKind;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Method};
use http_body::{Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use self::write::{Outgoing, Rest};
use super::body::LegBody;
use super::endpoint::Side;
use super::error::CallError;
use super::headers::Head;
use crate::alarm::Alarm;
use crate::wire::head::Progress;
use crate::wire::{Decoded, Decoder, Input, Malformed};

/// The most that a worker reads at once.
const WORKER_READ: usize = 128 << 10;

/// The most that a lane reads at once: hundreds of candidates' answers can be under way at once. It bounds the head of a
/// candidate's answer too.
pub(super) const LANE_READ: usize = 16 << 10;

/// The largest head of an answer to a worker.
const WORKER_HEAD: usize = 400 << 10;

/// The most 1xx answers before the answer itself. They are not passed on.
const MAX_INTERIM: usize = 1000;

/// One connection. It serves one call at a time: [`Http1::send`], then [`Http1::poll_head`] until the head has come, then
/// [`Http1::poll_body`] until the body has ended. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Http1 {
    socket: OwnedReadHalf,
    input: Input,
    progress: Progress,
    /// 1xx answers that may still come.
    interim: usize,
    /// None once the rest of the request is left to a task.
    output: Option<(OwnedWriteHalf, Outgoing)>,
    rest: Option<Rest>,
    body: Decoder,
    /// Whether the request is a HEAD, whose answer has no body whatever its fields say.
    is_head: bool,
    /// Whether both sides leave the connection open after the answer.
    keeps: bool,
    /// Whether something came that nobody had asked for, or the model has closed.
    spoilt: Cell<bool>,
    /// For the time limits of one call after another.
    pub(super) alarm: Alarm,
}

impl Http1 {
    pub(super) fn new(socket: TcpStream, side: Side) -> Self {
        let (most, head) = match side {
            Side::Worker => (WORKER_READ, WORKER_HEAD),
            Side::Lane => (LANE_READ, LANE_READ),
        };
        let (socket, writing) = socket.into_split();
        Self {
            socket,
            input: Input::new(most),
            progress: Progress::new(head),
            interim: 0,
            output: Some((writing, Outgoing::default())),
            rest: None,
            body: Decoder::Length(0),
            is_head: false,
            keeps: true,
            spoilt: Cell::new(false),
            alarm: Alarm::default(),
        }
    }

    /// Whether an idle connection can take a call: the model has not closed it, nor said what nobody asked for. As far as
    /// the event loop knows; it costs no call into the system.
    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0];
        let silent = matches!(self.socket.try_read(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock);
        if !silent {
            self.spoilt.set(true);
        }
        !self.spoilt.get()
    }

    /// Whether the next call can use it, once an answer has ended: nothing of this one is left on it, either way.
    pub(super) fn is_clean(&self) -> bool {
        let written = self.output.as_ref().is_some_and(|(_, output)| output.is_done());
        self.keeps && written && self.input.buffer.is_empty() && self.body.is_end()
    }

    /// Begins a call. Nothing goes out before the head is polled for.
    pub(super) fn send(&mut self, head: &Head, host: &HeaderValue, body: LegBody) {
        self.is_head = *head.method() == Method::HEAD;
        self.interim = MAX_INTERIM;
        self.progress.restart();
        if let Some((_, output)) = &mut self.output {
            output.begin(head, host, body);
        }
    }

    /// Writes the request, and waits for the answer's head, which may come before all is written.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Parts, CallError>> {
        if let Some((socket, output)) = &mut self.output
            && let Poll::Ready(Err(error)) = output.poll(socket, cx)
        {
            return Poll::Ready(Err(CallError::Upload(error)));
        }
        loop {
            if let Some(answer) = self.next_head()? {
                self.body = answer.body;
                self.keeps = answer.keeps;
                self.leave_the_rest();
                return Poll::Ready(Ok(answer.head));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(CallError::Reset));
            }
        }
    }

    /// The answer's head, where all of it is there; those of 1xx answers are passed over.
    fn next_head(&mut self) -> Result<Option<head::Answer>, CallError> {
        while let Some(found) = head::parse(&mut self.input.buffer, &mut self.progress, self.is_head)? {
            match found {
                head::Found::Answer(answer) => return Ok(Some(*answer)),
                head::Found::Interim if self.interim == 0 => return Err(CallError::Protocol),
                head::Found::Interim => self.interim -= 1,
            }
        }
        Ok(None)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, CallError>> {
        self.input.poll_fill(&mut self.socket, cx).map_err(|_| CallError::Reset)
    }

    /// An answer that begins before the request has ended must not hold it up.
    fn leave_the_rest(&mut self) {
        let unfinished = self.output.take_if(|(_, output)| !output.is_done());
        self.rest = unfinished.map(|(socket, output)| Rest::start(socket, output));
    }

    /// The next frame of the answer's body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Some(error) = self.rest.as_ref().and_then(|rest| rest.failure(cx)) {
            return Poll::Ready(Some(Err(CallError::Upload(error))));
        }
        loop {
            match self.body.decode(&mut self.input.buffer) {
                Ok(Decoded::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(CallError::Protocol))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.body.closes() => {}
                Ok(0) => return Poll::Ready(Some(Err(CallError::Reset))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether the answer's body has ended.
    pub(super) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// What is left of the answer's body.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
