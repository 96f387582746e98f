//! The body of one call, as its connection takes it: the client's own, read through a cursor, or a kept copy. It marks
//! in the call's trace what it handed over, which is how the call knows when its last request byte went out.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::fields::{Withheld, request_trailers};
use super::trace::Trace;
use crate::upload::{Cursor, UploadError};

/// How the client framed its body; every leg frames it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body at all.
    None,
    /// `Content-Length`.
    Length(u64),
    /// In chunks (HTTP/1.1), or of unknown length (HTTP/2).
    Chunked,
}

enum Source {
    Nothing,
    Whole { data: Option<Bytes>, trailers: Option<HeaderMap> },
    Client(Cursor),
}

/// A call's request body.
pub struct LegBody {
    source: Source,
    framing: Framing,
    given: u64,
    ended: bool,
    withheld: Withheld,
    rewritten: bool,
    trace: Rc<Trace>,
}

impl LegBody {
    /// The client's body, as it comes.
    pub fn streamed(cursor: Cursor, framing: Framing, trace: Rc<Trace>) -> Self {
        let source = if framing == Framing::None { Source::Nothing } else { Source::Client(cursor) };
        Self::new(source, framing, trace)
    }

    /// A copy.
    pub fn whole(data: Bytes, trailers: Option<HeaderMap>, framing: Framing, trace: Rc<Trace>) -> Self {
        let source = match framing {
            Framing::None => Source::Nothing,
            Framing::Length(_) | Framing::Chunked => {
                Source::Whole { data: Some(data).filter(|data| !data.is_empty()), trailers }
            }
        };
        Self::new(source, framing, trace)
    }

    /// A copy that is not what the client sent: its length is its own.
    pub fn rewritten(data: Vec<u8>, trailers: Option<HeaderMap>, framing: Framing, trace: Rc<Trace>) -> Self {
        let framing = match framing {
            Framing::Length(_) => Framing::Length(data.len() as u64),
            other => other,
        };
        Self { rewritten: true, ..Self::whole(data.into(), trailers, framing, trace) }
    }

    fn new(source: Source, framing: Framing, trace: Rc<Trace>) -> Self {
        Self { source, framing, given: 0, ended: false, withheld: Withheld::default(), rewritten: false, trace }
    }

    /// What is taken out of its trailers, as out of the head.
    pub(super) fn without(self, withheld: Withheld) -> Self {
        Self { withheld, ..self }
    }

    /// The same body from its first byte, for another attempt. To be asked for before anything is read.
    pub(super) fn again(&self) -> Self {
        let source = match &self.source {
            Source::Nothing => Source::Nothing,
            Source::Whole { data, trailers } => Source::Whole { data: data.clone(), trailers: trailers.clone() },
            Source::Client(cursor) => Source::Client(cursor.again()),
        };
        let Self { framing, withheld, rewritten, .. } = *self;
        Self { withheld, rewritten, ..Self::new(source, framing, Rc::clone(&self.trace)) }
    }

    /// Whether its first byte is still there.
    pub(super) fn can_be_read(&self) -> bool {
        match &self.source {
            Source::Nothing | Source::Whole { .. } => true,
            Source::Client(cursor) => cursor.can_be_read(),
        }
    }

    /// The call's trace.
    pub fn trace(&self) -> &Rc<Trace> {
        &self.trace
    }

    /// Whether it is not what the client sent.
    pub fn is_rewritten(&self) -> bool {
        self.rewritten
    }

    /// How it is framed.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether there is nothing to hand over, so that nobody will ask.
    pub fn is_nothing(&self) -> bool {
        matches!(self.framing, Framing::None | Framing::Length(0))
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut self.source {
            Source::Nothing => Poll::Ready(None),
            Source::Whole { data, trailers } => {
                let frame = data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Source::Client(cursor) => Pin::new(cursor).poll_frame(cx),
        }
    }

    /// The frame as it goes out; none where nothing of its trailers may.
    fn outgoing(&self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        match frame.into_trailers() {
            Ok(trailers) => {
                let kept = request_trailers(&trailers, self.withheld);
                (!kept.is_empty()).then(|| Frame::trailers(kept))
            }
            Err(frame) => Some(frame),
        }
    }
}

impl std::fmt::Debug for LegBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LegBody").field("framing", &self.framing).field("given", &self.given).finish_non_exhaustive()
    }
}

impl Body for LegBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let polled = match self.next(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(self.outgoing(frame).map(Ok)),
            other => other,
        };
        match &polled {
            Poll::Pending => self.trace.starves(),
            Poll::Ready(Some(Err(_))) => {}
            Poll::Ready(Some(Ok(frame))) => {
                self.given += frame.data_ref().map_or(0, Bytes::len) as u64;
                // Nobody asks again once Content-Length is satisfied, or trailers have come.
                let last = matches!(self.framing, Framing::Length(length) if self.given >= length);
                let last = last || frame.is_trailers();
                self.trace.handed_over(last || self.is_end_stream());
            }
            Poll::Ready(None) => {
                self.ended = true;
                self.trace.handed_over(true);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match (&self.source, self.framing) {
            (Source::Nothing, _) => true,
            // A body in chunks has at least its last chunk.
            (_, Framing::Chunked) => self.ended,
            (Source::Whole { data, trailers }, _) => data.is_none() && trailers.is_none(),
            (Source::Client(cursor), _) => cursor.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::None => SizeHint::with_exact(0),
            Framing::Length(length) => SizeHint::with_exact(length.saturating_sub(self.given)),
            Framing::Chunked => SizeHint::default(),
        }
    }
}
