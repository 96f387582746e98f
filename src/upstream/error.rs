//! How a call fails. One enum without a catch-all, so that whoever turns it into a status or an outcome must name each.

use std::error::Error;

use crate::types::Outcome;
use crate::upload::UploadError;

/// Why a call has no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Every endpoint of the model is ejected.
    #[error("every endpoint is ejected")]
    Unhealthy,
    /// The endpoint refused the connection, or its name has no address.
    #[error("no connection could be made")]
    Connect,
    /// No connection within the connect time.
    #[error("no connection within the connect time")]
    ConnectTimeout,
    /// The endpoint is at its `max_connections`.
    #[error("the endpoint is at its max_connections")]
    NoRoom,
    /// A time limit ran out.
    #[error("a time limit ran out")]
    Timeout,
    /// The model broke the connection off.
    #[error("the connection was broken off")]
    Reset,
    /// The model refused it unread, twice.
    #[error("the request was refused unread, twice")]
    Refused,
    /// What came back was not HTTP.
    #[error("the answer was not HTTP")]
    Protocol,
    /// The client's body could not be read to its end.
    #[error(transparent)]
    Upload(UploadError),
}

impl CallError {
    /// What hyper says of an HTTP/2 call, in our words: what our own side of HTTP/2 objects to is no HTTP, be it in this
    /// stream or another of its connection (h2 does not tell them apart), and all else is a stream or a connection that broke.
    pub(super) fn of(error: &hyper::Error) -> Self {
        if let Some(upload) = cause::<UploadError>(error) {
            return Self::Upload(*upload);
        }
        let objects = cause::<h2::Error>(error).is_some_and(h2::Error::is_library);
        if objects { Self::Protocol } else { Self::Reset }
    }

    /// What the leg's record calls it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unhealthy | Self::Connect | Self::ConnectTimeout | Self::NoRoom => Outcome::ConnectError,
            Self::Timeout => Outcome::Timeout,
            Self::Reset | Self::Refused => Outcome::Reset,
            Self::Protocol => Outcome::ProtocolError,
            Self::Upload(_) => Outcome::Cancelled,
        }
    }

    /// Whether it speaks against the endpoint. A full or already ejected one, or a client that left, does not.
    pub(super) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Connect | Self::ConnectTimeout | Self::Timeout | Self::Reset | Self::Refused | Self::Protocol => true,
            Self::Unhealthy | Self::NoRoom | Self::Upload(_) => false,
        }
    }
}

/// A model's word that it did nothing with an HTTP/2 request, which may go out again then whatever it is (RFC 9113 §8.7).
/// It is sure because a connection and its calls share a thread: nobody polls it between a request's two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// This stream is.
    Stream,
    /// It is above the last one that a GOAWAY names: h2 ends no other with a GOAWAY of the other side's.
    Connection,
}

impl Refused {
    pub(super) fn of(error: &hyper::Error) -> Option<Self> {
        let error = cause::<h2::Error>(error).filter(|error| error.is_remote())?;
        if error.is_go_away() {
            return Some(Self::Connection);
        }
        (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)).then_some(Self::Stream)
    }
}

/// The first of this type among what an error was caused by.
fn cause<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}
