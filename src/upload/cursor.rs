//! One leg's reader of the body: what is kept from the first byte, then the client itself.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{State, Step, Upload, UploadError};

/// One leg's reader of the body.
#[derive(Debug)]
pub struct Cursor {
    pub(super) upload: Upload,
    /// Bytes given so far.
    pub(super) read: u64,
    pub(super) trailers_given: bool,
}

impl Cursor {
    /// Another reader, from the first byte.
    pub fn again(&self) -> Self {
        self.upload.cursor()
    }

    /// Whether the first byte is still there, for a reader that has read nothing.
    pub fn can_be_read(&self) -> bool {
        self.upload.can_be_replayed()
    }

    /// A piece that another reader has read already.
    fn kept(&mut self) -> Option<Result<Bytes, UploadError>> {
        let inner = self.upload.0.borrow();
        if self.read == inner.bytes {
            return None;
        }
        let read = usize::try_from(self.read).ok();
        let piece = inner.keep.as_ref().ok().zip(read).and_then(|(keep, read)| keep.pieces.from(read));
        // What was not kept is gone: this leg came too late.
        Some(piece.ok_or(UploadError::Broken))
    }

    fn give(&mut self, data: Bytes) -> Frame<Bytes> {
        self.read += data.len() as u64;
        Frame::data(data)
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, UploadError>> {
        if let Some(error) = self.upload.failure() {
            return Some(Err(error));
        }
        if std::mem::replace(&mut self.trailers_given, true) {
            return None;
        }
        self.upload.0.borrow().trailers.clone().map(|trailers| Ok(Frame::trailers(trailers)))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // It may have been the one that the client's bytes would wake.
        let waiting = std::mem::take(&mut self.upload.0.borrow_mut().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Body for Cursor {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(kept) = self.kept() {
            return Poll::Ready(Some(kept.map(|data| self.give(data))));
        }
        loop {
            match self.upload.poll_source(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Step::Data(data)) if data.is_empty() => {}
                Poll::Ready(Step::Data(data)) => return Poll::Ready(Some(Ok(self.give(data)))),
                Poll::Ready(Step::Ended) => return Poll::Ready(self.end()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.upload.0.borrow();
        inner.state == State::Complete && self.read == inner.bytes && (self.trailers_given || inner.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.upload.0.borrow();
        match &inner.source {
            Some(source) if self.read == 0 && inner.bytes == 0 => source.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
