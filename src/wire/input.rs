//! What was read from a connection and not yet taken.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

/// The first read; one that fills its room is followed by one twice as large, up to the most.
const FIRST_READ: usize = 8 << 10;

/// A read buffer that fits itself to what comes.
#[derive(Debug)]
pub struct Input {
    /// What is there.
    pub buffer: BytesMut,
    /// How much the next read takes.
    next: usize,
    most: usize,
}

impl Input {
    /// Reads at most so much at once.
    pub fn new(most: usize) -> Self {
        Self { buffer: BytesMut::new(), next: FIRST_READ, most }
    }

    /// Reads once: how many bytes, none at the end.
    pub fn poll_fill(&mut self, socket: &mut OwnedReadHalf, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < self.next / 2 {
            self.buffer.reserve(self.next);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = ready!(pin!(socket.read_buf(&mut self.buffer)).poll(cx))?;
        if read == room {
            self.next = (self.next * 2).min(self.most);
        } else if read < self.next / 4 {
            self.next = (self.next / 2).max(FIRST_READ);
        }
        Poll::Ready(Ok(read))
    }
}
