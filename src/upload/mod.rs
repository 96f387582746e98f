//! Floor 3: the request body. It belongs to the request, not to a leg: hyper's client takes a body by value and drops
//! it when a connection fails, so each leg reads through a [`Cursor`], and what `copy_body` allows is kept from the
//! first byte for the legs that come later and for the shadow. Worker-local: no lock, no atomic.

mod cursor;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

pub use self::cursor::Cursor;
use crate::budget::Charge;
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
    /// The client left, or what it sent was not HTTP.
    #[error("the client stopped before the end of its request body")]
    Broken,
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

/// Called once, when the body has ended, whichever way.
pub type OnEnd = Box<dyn FnOnce(Ended)>;

/// How a body is kept.
struct Keep {
    pieces: Vec<Bytes>,
    charge: Charge,
    limit: usize,
}

/// What was read ahead of any leg and turned out too large to be kept: the leg that reads first takes it.
struct Ahead {
    pieces: VecDeque<Bytes>,
    taken: usize,
    _charge: Charge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    Failed(UploadError),
}

struct Inner {
    source: Option<Incoming>,
    keep: Result<Keep, SkipReason>,
    /// Whether it is read for nobody but the copy.
    gathers: bool,
    ahead: Option<Ahead>,
    state: State,
    trailers: Option<HeaderMap>,
    bytes: u64,
    limit: u64,
    idle: Duration,
    /// Since when the client has paused.
    paused: Option<Instant>,
    /// Armed at the first pause and told to look again only when it fires, so that a pause costs no timer.
    alarm: Option<Pin<Box<Sleep>>>,
    on_end: Option<OnEnd>,
    waiting: Option<Waker>,
}

/// The request body, owned by its request.
#[derive(Clone)]
pub struct Upload(Rc<RefCell<Inner>>);

/// What bounds a body.
pub struct UploadLimits {
    /// The most bytes there may be.
    pub bytes: u64,
    /// The longest pause between two reads.
    pub idle: Duration,
    /// How much of it is kept, and on which budget; none keeps nothing.
    pub keep: Option<(usize, Charge)>,
}

impl Upload {
    /// Takes the body over. `on_end` is called once when it has ended.
    pub fn new(source: Incoming, limits: UploadLimits, on_end: Option<OnEnd>) -> Self {
        let keep = limits.keep.map(|(limit, charge)| Keep { pieces: Vec::new(), charge, limit });
        let upload = Self(Rc::new(RefCell::new(Inner {
            state: State::Reading,
            trailers: None,
            bytes: 0,
            limit: limits.bytes,
            idle: limits.idle,
            keep: keep.ok_or(SkipReason::BodyTooLarge),
            gathers: false,
            ahead: None,
            paused: None,
            alarm: None,
            on_end,
            waiting: None,
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
        Cursor { upload: self.clone(), piece: 0, read: 0, trailers_given: false }
    }

    /// Keeps the body from its first byte, as far as the limit and the budget allow. To be said before anything is
    /// read.
    pub fn keep(&self, limit: usize, charge: Charge) {
        let mut inner = self.0.borrow_mut();
        if inner.bytes == 0 && inner.keep.is_err() {
            inner.keep = Ok(Keep { pieces: Vec::new(), charge, limit });
        }
    }

    /// Calls this once when the body has ended; at once where it has.
    pub fn on_end(&self, on_end: OnEnd) {
        let ended = {
            let mut inner = self.0.borrow_mut();
            if inner.state == State::Reading {
                inner.on_end = Some(on_end);
                return;
            }
            inner.ended()
        };
        on_end(ended);
    }

    /// Whether another leg can read it from its first byte.
    pub fn can_be_replayed(&self) -> bool {
        let inner = self.0.borrow();
        let untouched = inner.ahead.as_ref().is_some_and(|ahead| ahead.taken == 0);
        !matches!(inner.state, State::Failed(_)) && (inner.bytes == 0 || inner.keep.is_ok() || untouched)
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
        let inner = self.0.borrow();
        let keep = inner.keep.as_ref().ok().filter(|_| inner.state == State::Complete)?;
        Some((concat(keep.pieces.clone()), inner.trailers.clone()))
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.0.borrow().bytes
    }

    /// Whether a shadow still waits for the end.
    pub fn is_awaited(&self) -> bool {
        self.0.borrow().on_end.is_some()
    }

    /// Reads on to the end for the shadow, when no leg does any more.
    pub async fn read_to_end(self) {
        while !matches!(std::future::poll_fn(|cx| self.poll_source(cx)).await, Step::Ended) {}
    }

    /// Reads on as long as what is read is kept: for whoever needs the whole body before it can go on. Where it cannot
    /// be kept, what was read is still there for the first leg.
    pub async fn keep_reading(self) {
        self.0.borrow_mut().gathers = true;
        while self.0.borrow().keep.is_ok() {
            if matches!(std::future::poll_fn(|cx| self.poll_source(cx)).await, Step::Ended) {
                break;
            }
        }
        self.0.borrow_mut().gathers = false;
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
                    inner.waiting = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(()) => State::Failed(UploadError::Stalled),
            },
            Poll::Ready(Some(Ok(frame))) => match inner.accept(frame) {
                Ok(data) => {
                    // hyper asks for nothing more once Content-Length is satisfied, so the end is looked for here.
                    let last = inner.source.as_ref().is_some_and(Body::is_end_stream);
                    drop(inner);
                    if last {
                        self.finish(State::Complete);
                    }
                    return Poll::Ready(Step::Data(data));
                }
                Err(error) => State::Failed(error),
            },
            Poll::Ready(Some(Err(_))) => State::Failed(UploadError::Broken),
            Poll::Ready(None) => State::Complete,
        };
        drop(inner);
        self.finish(ended);
        Poll::Ready(Step::Ended)
    }

    fn finish(&self, state: State) {
        let (on_end, ended, waiting) = {
            let mut inner = self.0.borrow_mut();
            inner.state = state;
            inner.source = None;
            inner.alarm = None;
            let on_end = inner.on_end.take();
            let ended = on_end.is_some().then(|| inner.ended());
            (on_end, ended, inner.waiting.take())
        };
        if let (Some(on_end), Some(ended)) = (on_end, ended) {
            on_end(ended);
        }
        if let Some(waker) = waiting {
            waker.wake();
        }
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
    /// Takes a frame in: counts it, keeps a copy. hyper's frames are slices of its read buffer and pin the whole of
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
            let kept = std::mem::replace(&mut self.keep, Err(reason));
            self.ahead = kept.ok().filter(|_| self.gathers).map(|keep| Ahead::new(keep, data.clone()));
        }
        Ok(data)
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.paused.get_or_insert_with(Instant::now) + self.idle;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// The copy, for the shadow. Legs that still read get theirs from the same pieces.
    fn ended(&mut self) -> Ended {
        let copy = match (&mut self.keep, self.state) {
            (_, State::Reading | State::Failed(UploadError::Broken | UploadError::Stalled)) => {
                Err(SkipReason::RequestIncomplete)
            }
            (_, State::Failed(UploadError::TooLarge)) => Err(SkipReason::BodyTooLarge),
            (Err(reason), State::Complete) => Err(*reason),
            (Ok(keep), State::Complete) => Ok(keep.whole()),
        };
        Ended { copy, trailers: self.trailers.clone(), bytes: self.bytes }
    }
}

impl Ahead {
    fn new(kept: Keep, last: Bytes) -> Self {
        Self { pieces: kept.pieces.into_iter().chain([last]).collect(), taken: 0, _charge: kept.charge }
    }

    /// The next piece, for a leg that has had so many.
    fn take(&mut self, had: usize) -> Option<Bytes> {
        let next = self.pieces.pop_front_if(|_| self.taken == had)?;
        self.taken += 1;
        Some(next)
    }
}

impl Keep {
    fn push(&mut self, data: &Bytes, total: u64) -> Result<(), SkipReason> {
        if total > self.limit as u64 {
            return Err(SkipReason::BodyTooLarge);
        }
        if !self.charge.grow(data.len()) {
            return Err(SkipReason::Memory);
        }
        if !data.is_empty() {
            self.pieces.push(Bytes::copy_from_slice(data));
        }
        Ok(())
    }

    fn whole(&mut self) -> Copied {
        let sibling = self.charge.sibling();
        let charge = std::mem::replace(&mut self.charge, sibling);
        let body = concat(self.pieces.clone());
        Copied { body, charge }
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

/// One buffer of many; a single one is not copied again.
pub fn concat(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
    whole.freeze()
}
