//! What goes out: small pieces are put together and go out at once, large ones go out as they are.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

use super::head::write_field;

/// A frame up to this size is copied behind what goes before it: that costs less than another piece to write.
const COPIED: usize = 4 << 10;

/// So much may be put together before it is written.
const GATHERED: usize = 16 << 10;

/// Trailers that would say something of the message that its head has said already (RFC 9110 §6.5.1), or of the
/// connection.
const NO_TRAILERS: &[&str] = &[
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What is still to be written.
#[derive(Debug, Default)]
pub struct Queue {
    /// Heads, small frames and what stands between frames; written up to `written`.
    gathered: Vec<u8>,
    written: usize,
    /// A large frame, which goes after it.
    frame: Bytes,
    /// And after that.
    tail: &'static [u8],
}

impl Queue {
    /// Whether anything waits to be written.
    pub fn is_pending(&self) -> bool {
        self.written < self.gathered.len() || !self.frame.is_empty() || !self.tail.is_empty()
    }

    /// Whether more may be put to it before it is written.
    pub fn has_room(&self) -> bool {
        self.frame.is_empty() && self.tail.is_empty() && self.gathered.len() - self.written < GATHERED
    }

    /// Where a head is written to.
    pub fn head(&mut self) -> &mut Vec<u8> {
        if self.gathered.is_empty() && self.gathered.capacity() > 2 * GATHERED {
            self.gathered = Vec::new();
        }
        &mut self.gathered
    }

    /// A piece of a body, as it is. Only where there is room.
    pub fn push(&mut self, data: Bytes) {
        self.push_with(data, b"");
    }

    /// A piece of a body as a chunk of its own. Only where there is room.
    pub fn push_chunk(&mut self, data: Bytes) {
        // An empty chunk would be the last.
        if !data.is_empty() {
            // Writing to memory does not fail.
            let _ = write!(self.gathered, "{:x}\r\n", data.len());
            self.push_with(data, b"\r\n");
        }
    }

    fn push_with(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.gathered.extend_from_slice(&data);
            self.gathered.extend_from_slice(tail);
        } else {
            (self.frame, self.tail) = (data, tail);
        }
    }

    /// The last chunk, and those trailers that were announced.
    pub fn push_last_chunk(&mut self, trailers: &HeaderMap, announced: &[HeaderName]) {
        self.gathered.extend_from_slice(b"0\r\n");
        for (name, value) in trailers {
            if announced.contains(name) && !NO_TRAILERS.contains(&name.as_str()) {
                write_field(&mut self.gathered, name, value);
            }
        }
        self.gathered.extend_from_slice(b"\r\n");
    }

    /// Writes once, as much as the system takes.
    pub fn poll_write(&mut self, socket: &mut OwnedWriteHalf, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = &self.gathered[self.written..];
        let written = if self.frame.is_empty() && self.tail.is_empty() {
            Pin::new(socket).poll_write(cx, gathered)
        } else {
            let pieces = [IoSlice::new(gathered), IoSlice::new(&self.frame), IoSlice::new(self.tail)];
            Pin::new(socket).poll_write_vectored(cx, &pieces)
        };
        written.map_ok(|written| self.advance(written))
    }

    fn advance(&mut self, mut written: usize) {
        let of_gathered = written.min(self.gathered.len() - self.written);
        self.written += of_gathered;
        written -= of_gathered;
        let of_frame = written.min(self.frame.len());
        self.frame.advance(of_frame);
        written -= of_frame;
        self.tail = &self.tail[written.min(self.tail.len())..];
        // What is written goes, also where more is added before all is: it would grow with the body.
        if self.written == self.gathered.len() || self.written >= GATHERED {
            self.gathered.drain(..self.written);
            self.written = 0;
        }
    }

    /// Throws away what was not written.
    pub fn forget(&mut self) {
        self.gathered.clear();
        self.written = 0;
        self.frame = Bytes::new();
        self.tail = b"";
    }
}
