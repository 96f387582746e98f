//! The answer of one call, as it comes: each frame is passed on as soon as it is there, its end gives the connection
//! back, its pauses and its whole time are bounded. It is never gathered here.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::blame;
use super::error::CallError;
use super::http1::Http1;
use super::pool::Lease;
use super::trace::Trace;
use crate::alarm::Alarm;
use crate::analysis::stream::watch::Watch;
use crate::types::{Api, Outcome};

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    /// Status, fields, extensions.
    pub head: http::response::Parts,
    /// The rest.
    pub body: AnswerBody,
}

/// Where a body comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The leased connection itself.
    Http1,
    /// A stream of it.
    Http2(Incoming),
}

/// The body of an answer.
#[derive(Debug)]
pub struct AnswerBody {
    source: Source,
    lease: Option<Lease>,
    trace: Rc<Trace>,
    limits: AnswerLimits,
    paused: Option<Instant>,
    alarm: Alarm,
    status: StatusCode,
    grpc_status: Option<i32>,
    /// Whether it must have one.
    grpc: bool,
    /// Tells whether a stream ended as it should.
    watch: Option<Box<Watch>>,
    stream_failed: bool,
    bytes: u64,
    ended: Option<Result<(), CallError>>,
}

/// What bounds an answer's body, and what follows where it breaks off.
#[derive(Debug, Clone, Copy)]
pub struct AnswerLimits {
    /// The longest pause; none is no limit.
    pub idle: Option<Duration>,
    /// When it must have ended; none is no limit.
    pub until: Option<Instant>,
    /// Whether the model's last endpoint is spared.
    pub last_resort: bool,
    /// What the body means.
    pub api: Api,
}

impl Answer {
    pub(super) fn new(
        head: http::response::Parts,
        source: Source,
        lease: Lease,
        trace: Rc<Trace>,
        limits: AnswerLimits,
    ) -> Self {
        let mut body = AnswerBody {
            lease: Some(lease),
            trace,
            limits,
            paused: None,
            alarm: Alarm::default(),
            status: head.status,
            grpc_status: grpc_status(&head.headers),
            grpc: matches!(source, Source::Http2(_)) && is_grpc(&head.headers),
            watch: if head.status.is_success() { Watch::of(&head.headers, limits.api) } else { None },
            stream_failed: false,
            bytes: 0,
            ended: None,
            source,
        };
        body.look_for_the_end();
        Self { head, body }
    }
}

impl AnswerBody {
    /// How the answer ended; none while it has not.
    pub fn ended(&self) -> Option<&Result<(), CallError>> {
        self.ended.as_ref()
    }

    /// What an answer that has come this far is called, had it ended here.
    pub fn outcome(&self) -> Outcome {
        match &self.ended {
            None => Outcome::Cancelled,
            Some(Err(error)) => error.outcome(),
            Some(Ok(())) if self.status.as_u16() >= 400 => Outcome::HttpError,
            Some(Ok(())) if self.grpc_status.is_some_and(|status| status != 0) => Outcome::GrpcError,
            // What ends without a status has broken off: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
            Some(Ok(())) if self.stream_failed || (self.grpc && self.grpc_status.is_none()) => Outcome::StreamError,
            Some(Ok(())) => Outcome::Ok,
        }
    }

    /// Bytes of the body so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The gRPC status, from the head or the trailers.
    pub fn grpc_status(&self) -> Option<i32> {
        self.grpc_status
    }

    /// The next frame.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(ended.clone().err().map(Err));
        }
        match self.poll_source(cx) {
            Poll::Pending => self.poll_limits(cx).map(|error| Some(Err(self.fail(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                self.paused = None;
                if let Some(data) = frame.data_ref() {
                    self.bytes += data.len() as u64;
                    if let Some(watch) = &mut self.watch {
                        watch.saw(data);
                    }
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.grpc_status = grpc_status(trailers).or(self.grpc_status);
                }
                self.look_for_the_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.fail(error)))),
            // hyper takes a stream that is reset with NO_ERROR for one that has ended.
            Poll::Ready(None) if !self.is_end() => Poll::Ready(Some(Err(self.fail(CallError::Reset)))),
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        match (&mut self.source, &mut self.lease) {
            (Source::Http2(incoming), _) => Pin::new(incoming).poll_frame(cx).map_err(|error| CallError::of(&error)),
            (Source::Http1, Some(lease)) => lease.http1().map_or(Poll::Ready(None), |http1| http1.poll_body(cx)),
            (Source::Http1, None) => Poll::Ready(None),
        }
    }

    /// Whether all of it has been given.
    fn is_end(&self) -> bool {
        match (&self.source, &self.lease) {
            (Source::Http2(incoming), _) => incoming.is_end_stream(),
            (Source::Http1, Some(lease)) => lease.http1_ref().is_none_or(Http1::is_end),
            (Source::Http1, None) => true,
        }
    }

    fn left(&self) -> SizeHint {
        match (&self.source, &self.lease) {
            (Source::Http2(incoming), _) => incoming.size_hint(),
            (Source::Http1, Some(lease)) => lease.http1_ref().map_or_else(SizeHint::default, Http1::size_hint),
            (Source::Http1, None) => SizeHint::with_exact(0),
        }
    }

    /// Nobody asks for more. Over HTTP/2 the end may come in a frame of its own, which is not waited for
    /// once Content-Length is satisfied, or where no body may follow: the answer was whole all the same.
    pub fn given_up(&mut self) {
        let bodyless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let http2 = matches!(self.source, Source::Http2(_));
        if self.ended.is_none() && http2 && (bodyless || self.left().exact() == Some(0)) {
            self.finish();
        }
    }

    /// Nobody asks for more once Content-Length is satisfied, so the end is looked for after each frame.
    fn look_for_the_end(&mut self) {
        if self.is_end() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        self.trace.ends();
        // A stream of no byte at all is the answer to a HEAD, or to something that wants none.
        self.stream_failed = self.bytes > 0 && self.watch.take().is_some_and(|mut watch| !watch.ended_well());
        self.ended = Some(Ok(()));
        if let Some(lease) = self.lease.take() {
            // Where the model answered before it had read the whole request, the rest still lies on the connection.
            lease.release(self.trace.sent().is_some());
        }
    }

    fn fail(&mut self, error: CallError) -> CallError {
        self.trace.ends();
        if let Some(lease) = self.lease.take() {
            if error == CallError::Timeout {
                lease.retire();
            }
            blame(lease.endpoint(), lease.pool(), &error, self.limits.last_resort);
        }
        self.ended = Some(Err(error.clone()));
        error
    }

    fn due(&self, paused: Instant) -> Option<Instant> {
        let idle = self.limits.idle.map(|idle| paused + idle);
        idle.into_iter().chain(self.limits.until).min()
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        let paused = *self.paused.get_or_insert_with(Instant::now);
        let Some(due) = self.due(paused) else { return Poll::Pending };
        self.alarm.poll(due, cx).map(|()| CallError::Timeout)
    }
}

/// A name that is parsed once, not for each answer.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The value of `grpc-status`, where there is one.
fn grpc_status(fields: &HeaderMap) -> Option<i32> {
    fields.get(GRPC_STATUS).and_then(|value| value.to_str().ok()).and_then(|text| text.trim().parse().ok())
}

/// Whether this is gRPC's own framing; gRPC-Web has its status in the body.
fn is_grpc(fields: &HeaderMap) -> bool {
    let rest = fields.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        self.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.left()
    }
}
