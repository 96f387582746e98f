//! A client's request body, over either version.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

pub use super::http1::body::BodyError;
use super::http1::body::Http1Body;

/// A client's request body.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.1; none where no body follows the head.
    Http1(Option<Http1Body>),
    /// Over HTTP/2.
    Http2(Incoming),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(None) => Poll::Ready(None),
            Self::Http1(Some(body)) => body.poll_next(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(|_| BodyError::BrokenOff),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.as_ref().is_none_or(Http1Body::is_end),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.as_ref().map_or_else(|| SizeHint::with_exact(0), Http1Body::size_hint),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
