//! The answer's body on its way to the client: a model's frames as they come, with a bounded copy made beside them, or an
//! answer of our own. Dropping it is how a request ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::answering::Answering;
use crate::upstream::answer::AnswerBody;
use crate::upstream::capture::Capture;
use crate::upstream::error::CallError;
use crate::upstream::headers::answer_trailers;

/// What the client gets.
pub enum Stream {
    /// An answer of our own.
    Own(Option<Bytes>, Box<Answering>),
    /// A model's.
    Model(Box<FromModel>),
}

/// A model's answer under way.
pub struct FromModel {
    body: AnswerBody,
    status: u16,
    headers: HeaderMap,
    capture: Option<Capture>,
    answering: Box<Answering>,
    broken: Option<CallError>,
}

impl FromModel {
    /// A model's answer; `headers` are its own, for the record.
    pub fn new(
        body: AnswerBody,
        status: u16,
        headers: HeaderMap,
        capture: Option<Capture>,
        answering: Box<Answering>,
    ) -> Self {
        Self { body, status, headers, capture, answering, broken: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match self.body.poll_next(cx) {
            Poll::Pending => {
                self.answering.sending().handed_over.set(None);
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(capture)) = (frame.data_ref(), &mut self.capture) {
                    capture.push(data);
                }
                self.answering.sending().handed_over.set(Some(Instant::now()));
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(answer_trailers(trailers)),
                    Err(data) => data,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                // On a body's error hyper resets an HTTP/2 stream, so it gets one turn to send what it has.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

impl Drop for FromModel {
    fn drop(&mut self) {
        self.body.given_up();
        let headers = std::mem::take(&mut self.headers);
        self.answering.answer_ended(self.status, headers, &self.body, self.capture.take());
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        match &mut *self {
            Stream::Own(data, answering) => {
                answering.sending().handed_over.set(Some(Instant::now()));
                Poll::Ready(data.take().map(|data| Ok(Frame::data(data))))
            }
            Stream::Model(from_model) => from_model.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Stream::Own(data, _) => data.is_none(),
            Stream::Model(from_model) => from_model.broken.is_none() && from_model.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Stream::Own(data, _) => SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64)),
            Stream::Model(from_model) => from_model.body.size_hint(),
        }
    }
}
