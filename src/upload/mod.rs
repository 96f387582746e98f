//! Floor 3: the request body. It belongs to the request, not to a leg: a connection takes a body by value and drops it
//! when it fails, so each leg reads through a [`Cursor`], and what `copy_body` allows is kept from the
//! first byte for the legs that come later and for the shadow. Worker-local: no lock, no atomic.

mod cursor;
pub mod pieces;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;

pub use self::cursor::Cursor;
use self::pieces::Pieces;
use crate::alarm::Alarm;
use crate::budget::Charge;
use crate::listener::body::{BodyError, ClientBody};
use crate::types::SkipReason;

/// Why the body could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// More than `request_bytes`.
    #[error("the request body is larger than limits.request_bytes")]
    TooLarge,
    /// The client paused for longer than `idle_timeout`.
    #[error("the request body stalled for longer than limits.idle_timeout")]
    Stalled,
    /// The client left.
    #[error("the client stopped before the end of its request body")]
    Broken,
    /// What the client sent is not framed as its head said.
    #[error("the request body is malformed")]
    Malformed,
}

/// What became of the copy when the body ended.
#[derive(Debug)]
pub struct Ended {
    /// The whole body, or why there is no copy of it.
    pub copy: Result<Copied, SkipReason>,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
    /// Size of the body on the wire, in bytes.
    pub bytes: u64,
}

/// A kept body.
#[derive(Debug)]
pub struct Copied {
    /// The whole of it.
    pub body: Bytes,
    /// What it takes of the budget.
    pub charge: Charge,
}

/// Called once, when the body has ended, whichever way: at once, or when the answer path no longer holds it.
pub type OnEnd = Box<dyn FnOnce(Ended)>;

/// How a body is kept.
struct Keep {
    pieces: Pieces,
    charge: Charge,
    limit: usize,
    /// Whether the answer path itself needs it. Then what was read before the limit was reached stays for the leg that
    /// reads first, also when it is not the whole.
    needed: bool,
    /// Whether the limit was reached, so that what comes now is no longer kept.
    full: bool,
    /// Why the shadow gets no copy of what is kept for the answer path alone.
    refused: Option<SkipReason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    Failed(UploadError),
}

struct Inner {
    source: Option<ClientBody>,
    keep: Result<Keep, SkipReason>,
    state: State,
    trailers: Option<HeaderMap>,
    bytes: u64,
    limit: u64,
    idle: Duration,
    /// Since when the client has paused.
    paused: Option<Instant>,
    alarm: Alarm,
    on_end: Option<OnEnd>,
    /// Whether the answer path goes first.
    held: bool,
    /// Whoever else waits for the client: a client's socket wakes the one who asked last, and two may read at once.
    waiting: Vec<Waker>,
}

/// The request body, owned by its request.
#[derive(Clone)]
pub struct Upload(Rc<RefCell<Inner>>);

impl Upload {
    /// Takes the body over: at most so many bytes, with pauses no longer than `idle` between two reads.
    pub fn new(source: ClientBody, limit: u64, idle: Duration) -> Self {
        let upload = Self(Rc::new(RefCell::new(Inner {
            state: State::Reading,
            trailers: None,
            bytes: 0,
            limit,
            idle,
            // Kept by nobody so far.
            keep: Err(SkipReason::BodyTooLarge),
            paused: None,
            alarm: Alarm::default(),
            on_end: None,
            held: false,
            waiting: Vec::new(),
            source: Some(source),
        })));
        let empty = upload.0.borrow().source.as_ref().is_some_and(Body::is_end_stream);
        if empty {
            upload.finish(State::Complete);
        }
        upload
    }

    /// A reader that begins at the first byte. What was not kept it cannot give again: it then fails.
    pub fn cursor(&self) -> Cursor {
        Cursor { upload: self.clone(), read: 0, trailers_given: false }
    }

    /// Keeps the body from its first byte, as far as the limit and the budget allow. To be said before anything is read.
    /// `needed` is whether the answer path itself needs what is kept: then a budget that copies have filled does not
    /// refuse it.
    pub fn keep(&self, limit: usize, charge: Charge, needed: bool) {
        let mut inner = self.0.borrow_mut();
        if inner.bytes == 0 && inner.keep.is_err() {
            inner.keep = Ok(Keep { pieces: Pieces::default(), charge, limit, needed, full: false, refused: None });
        }
    }

    /// Calls this once when the body has ended; at once where it has.
    pub fn on_end(&self, on_end: OnEnd) {
        self.0.borrow_mut().on_end = Some(on_end);
        self.end();
    }

    /// Until this is dropped nobody is told of the end: what a shadow needs done then must not go before what the model
    /// needs that answers. For one turn of the answer path, as others may read the body between two.
    pub fn hold(&self) -> Held<'_> {
        self.0.borrow_mut().held = true;
        Held(self)
    }

    /// Tells of the end, where it has come.
    fn tell(&self) {
        let (on_end, ended) = {
            let mut inner = self.0.borrow_mut();
            if inner.state == State::Reading {
                return;
            }
            let Some(on_end) = inner.on_end.take() else { return };
            (on_end, inner.ended())
        };
        on_end(ended);
    }

    fn end(&self) {
        if !self.0.borrow().held {
            self.tell();
        }
    }

    /// Whether another leg can read it from its first byte.
    pub fn can_be_replayed(&self) -> bool {
        let inner = self.0.borrow();
        let kept = inner.keep.as_ref().is_ok_and(|keep| keep.pieces.len() as u64 == inner.bytes);
        !matches!(inner.state, State::Failed(_)) && (inner.bytes == 0 || kept)
    }

    /// Why reading failed, where it did.
    pub fn failure(&self) -> Option<UploadError> {
        match self.0.borrow().state {
            State::Failed(error) => Some(error),
            State::Reading | State::Complete => None,
        }
    }

    /// Whether the last byte has been read.
    pub fn is_complete(&self) -> bool {
        self.0.borrow().state == State::Complete
    }

    /// The whole body with its trailers, where all of it was read and kept.
    pub fn whole(&self) -> Option<(Bytes, Option<HeaderMap>)> {
        let inner = &mut *self.0.borrow_mut();
        let keep = inner.keep.as_mut().ok().filter(|keep| inner.state == State::Complete && !keep.full)?;
        Some((keep.pieces.whole(), inner.trailers.clone()))
    }

    /// Whether a shadow still waits for the end.
    pub fn is_awaited(&self) -> bool {
        let inner = self.0.borrow();
        inner.state == State::Reading && inner.on_end.is_some()
    }

    /// Reads on to the end for the shadow, when no leg does any more.
    pub async fn read_to_end(self) {
        while !matches!(std::future::poll_fn(|cx| self.poll_source(cx)).await, Step::Ended) {}
    }

    /// Reads on as long as what is read is kept: for whoever needs the whole body before it can go on.
    pub async fn keep_reading(self) {
        while self.0.borrow().keep.as_ref().is_ok_and(|keep| !keep.full) {
            if matches!(std::future::poll_fn(|cx| self.poll_source(cx)).await, Step::Ended) {
                return;
            }
        }
    }

    /// Reads the next piece from the client.
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut inner = self.0.borrow_mut();
        if inner.state != State::Reading {
            return Poll::Ready(Step::Ended);
        }
        let Some(source) = inner.source.as_mut() else { return Poll::Ready(Step::Ended) };
        let ended = match Pin::new(source).poll_frame(cx) {
            Poll::Pending => match inner.poll_pause(cx) {
                Poll::Pending => {
                    inner.waits(cx);
                    return Poll::Pending;
                }
                Poll::Ready(()) => State::Failed(UploadError::Stalled),
            },
            Poll::Ready(Some(Ok(frame))) => match inner.accept(frame) {
                Ok(data) => {
                    inner.wake_others(cx);
                    // Nobody asks for more once Content-Length is satisfied, so the end is looked for here.
                    let last = inner.source.as_ref().is_some_and(Body::is_end_stream);
                    drop(inner);
                    if last {
                        self.finish(State::Complete);
                    }
                    return Poll::Ready(Step::Data(data));
                }
                Err(error) => State::Failed(error),
            },
            Poll::Ready(Some(Err(BodyError::BrokenOff))) => State::Failed(UploadError::Broken),
            Poll::Ready(Some(Err(BodyError::Malformed))) => State::Failed(UploadError::Malformed),
            Poll::Ready(None) => State::Complete,
        };
        drop(inner);
        self.finish(ended);
        Poll::Ready(Step::Ended)
    }

    fn finish(&self, state: State) {
        let waiting = {
            let mut inner = self.0.borrow_mut();
            inner.state = state;
            inner.source = None;
            inner.alarm = Alarm::default();
            std::mem::take(&mut inner.waiting)
        };
        self.end();
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// The answer path goes first; see [`Upload::hold`].
#[derive(Debug)]
pub struct Held<'a>(&'a Upload);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().held = false;
        self.0.tell();
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.0.borrow();
        f.debug_struct("Upload").field("state", &inner.state).field("bytes", &inner.bytes).finish_non_exhaustive()
    }
}

/// What one look at the client brought.
enum Step {
    Data(Bytes),
    Ended,
}

impl Inner {
    /// Takes a frame in: counts it, keeps a copy. Frames are slices of a read buffer and pin the whole of
    /// it, so what is kept is copied.
    fn accept(&mut self, frame: Frame<Bytes>) -> Result<Bytes, UploadError> {
        self.paused = None;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
                return Ok(Bytes::new());
            }
        };
        self.bytes += data.len() as u64;
        if self.bytes > self.limit {
            return Err(UploadError::TooLarge);
        }
        let refused = match &mut self.keep {
            Err(_) => None,
            Ok(keep) => keep.push(&data, self.bytes).err(),
        };
        if let Some(reason) = refused {
            self.keep = Err(reason);
        }
        Ok(data)
    }

    fn waits(&mut self, cx: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
    }

    fn wake_others(&mut self, cx: &Context<'_>) {
        self.waiting.drain(..).filter(|waker| !waker.will_wake(cx.waker())).for_each(Waker::wake);
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.paused.get_or_insert_with(Instant::now) + self.idle;
        self.alarm.poll(until, cx)
    }

    /// The copy, for the shadow. Legs that still read get theirs from the same pieces.
    fn ended(&mut self) -> Ended {
        let copy = match (&mut self.keep, self.state) {
            (_, State::Failed(UploadError::TooLarge)) => Err(SkipReason::BodyTooLarge),
            (_, State::Reading | State::Failed(_)) => Err(SkipReason::RequestIncomplete),
            (Err(reason), State::Complete) => Err(*reason),
            (Ok(keep), State::Complete) => keep.refused.map_or_else(|| Ok(keep.whole()), Err),
        };
        Ended { copy, trailers: self.trailers.clone(), bytes: self.bytes }
    }
}

impl Keep {
    fn push(&mut self, data: &Bytes, total: u64) -> Result<(), SkipReason> {
        if self.full {
            return Ok(());
        }
        if total > self.limit as u64 {
            if !self.needed {
                return Err(SkipReason::BodyTooLarge);
            }
            self.full = true;
            self.refused = Some(SkipReason::BodyTooLarge);
        }
        if !self.charge.grow(data.len()) {
            if !self.needed {
                return Err(SkipReason::Memory);
            }
            self.refused = Some(SkipReason::Memory);
        }
        self.pieces.push(data);
        Ok(())
    }

    fn whole(&mut self) -> Copied {
        let sibling = self.charge.sibling();
        let charge = std::mem::replace(&mut self.charge, sibling);
        Copied { body: self.pieces.whole(), charge }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            let ended = self.ended();
            on_end(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn while_the_answer_path_holds_it_nobody_is_told_of_the_end_and_then_once() {
        let ended = |told: &Rc<Cell<u32>>| {
            let upload = Upload::new(ClientBody::Http1(None), 1, Duration::from_secs(1));
            let count = Rc::clone(told);
            (upload, Box::new(move |_| count.set(count.get() + 1)) as OnEnd)
        };
        let told = Rc::default();
        let (upload, on_end) = ended(&told);
        upload.on_end(on_end);
        assert_eq!(told.get(), 1, "nobody holds it");

        let (upload, on_end) = ended(&told);
        let held = upload.hold();
        upload.on_end(on_end);
        assert!(told.get() == 1 && !upload.is_awaited());
        drop(held);
        drop(upload.hold());
        drop(upload);
        assert_eq!(told.get(), 2);
    }
}
