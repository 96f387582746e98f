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
    /// What came back was not HTTP.
    #[error("the answer was not HTTP")]
    Protocol,
    /// The client's body could not be read to its end.
    #[error(transparent)]
    Upload(UploadError),
}

impl CallError {
    /// What hyper says of an HTTP/2 call, in our words. Nothing it says there is a parse error.
    pub(super) fn of(error: &hyper::Error) -> Self {
        upload_error(error).map_or(Self::Reset, Self::Upload)
    }

    /// What the leg's record calls it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unhealthy | Self::Connect | Self::ConnectTimeout | Self::NoRoom => Outcome::ConnectError,
            Self::Timeout => Outcome::Timeout,
            Self::Reset => Outcome::Reset,
            Self::Protocol => Outcome::ProtocolError,
            Self::Upload(_) => Outcome::Cancelled,
        }
    }

    /// Whether it speaks against the endpoint. A full or already ejected one, or a client that left, does not.
    pub(super) fn blames_endpoint(&self) -> bool {
        match self {
            Self::Connect | Self::ConnectTimeout | Self::Timeout | Self::Reset | Self::Protocol => true,
            Self::Unhealthy | Self::NoRoom | Self::Upload(_) => false,
        }
    }
}

fn upload_error(error: &hyper::Error) -> Option<UploadError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(upload) = error.downcast_ref::<UploadError>() {
            return Some(*upload);
        }
        source = error.source();
    }
    None
}
