//! An answer on its way out: its head, and how its body is framed.

use std::cell::RefCell;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRAILER, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode};
use http_body::{Body, Frame};
use hyper::ext::ReasonPhrase;

use super::Written;
use super::head::Asked;
use crate::wire::Queue;
use crate::wire::head::{digits, names, trailer_names, write_field};

/// How the rest of an answer's body goes out.
#[derive(Debug)]
pub(super) enum Encoder {
    /// So many bytes are left.
    Length(u64),
    /// In chunks, with those trailers that were announced and asked for.
    Chunked(Vec<HeaderName>),
    /// Until the close, for HTTP/1.0.
    UntilClose,
    /// Nothing more.
    Ended(Written),
}

/// Writes an answer's head. `last` is whether the connection ends with it; it does, too, where the service says so.
pub(super) fn begin<B: Body>(out: &mut Vec<u8>, head: &Parts, body: &B, asked: &Asked, last: &mut bool) -> Encoder {
    status_line(out, head, asked);
    let bodyless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let size = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let mut length = None;
    let mut dated = false;
    for (name, value) in &head.headers {
        match *name {
            // The connection is ours, and so are its chunks.
            TRANSFER_ENCODING => continue,
            CONNECTION => {
                *last |= names(value, b"close");
                continue;
            }
            CONTENT_LENGTH if length.is_some() || head.status == StatusCode::NO_CONTENT => continue,
            // Of an answer without a body it says what the body would be.
            CONTENT_LENGTH if asked.is_head || bodyless => length = Some(0),
            CONTENT_LENGTH => match digits(value.as_bytes()).or(size) {
                Some(stated) => length = Some(stated),
                None => continue,
            },
            TRAILER if asked.http10 || asked.is_head || bodyless => continue,
            DATE => dated = true,
            _ => {}
        }
        write_field(out, name, value);
    }
    let encoder = match (length, size) {
        _ if bodyless => Encoder::Ended(Written::Whole),
        (Some(length), _) => Encoder::Length(length),
        (None, Some(0) | None) if asked.is_head => Encoder::Ended(Written::Whole),
        (None, Some(length)) => {
            line(out, format_args!("content-length: {length}"));
            Encoder::Length(length)
        }
        (None, None) if asked.http10 => Encoder::UntilClose,
        (None, None) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            let names =
                if asked.wants_trailers { trailer_names(head.headers.get_all(TRAILER).iter()) } else { Vec::new() };
            Encoder::Chunked(names)
        }
    };
    if *last && !asked.http10 {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !dated {
        date(out);
    }
    out.extend_from_slice(b"\r\n");
    if asked.is_head || matches!(encoder, Encoder::Length(0)) { Encoder::Ended(Written::Whole) } else { encoder }
}

fn status_line(out: &mut Vec<u8>, head: &Parts, asked: &Asked) {
    let reason = head.extensions.get::<ReasonPhrase>();
    if head.status == StatusCode::OK && reason.is_none() && !asked.http10 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(if asked.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match reason {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = write!(out, "{text}\r\n");
}

/// A whole answer that is nothing but its status. The connection ends with it.
pub(in crate::listener) fn status_alone(status: StatusCode) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    let reason = status.canonical_reason().unwrap_or_default();
    line(&mut out, format_args!("HTTP/1.1 {} {reason}", status.as_str()));
    out.extend_from_slice(b"connection: close\r\ncontent-length: 0\r\n");
    date(&mut out);
    out.extend_from_slice(b"\r\n");
    out
}

/// The time by which an answer without one is dated: written once a second.
fn date(out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            (*of, *text) = (second, httpdate::fmt_http_date(now));
        }
        for piece in ["date: ", text, "\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
    });
}

impl Encoder {
    /// Takes what comes of the body until there is enough to write. Whether more is to come, but not yet.
    pub(super) fn gather<B: Body<Data = Bytes>>(
        &mut self,
        mut body: Pin<&mut B>,
        queue: &mut Queue,
        cx: &mut Context<'_>,
    ) -> bool {
        while !matches!(self, Self::Ended(_)) && queue.has_room() {
            if body.is_end_stream() {
                self.end(queue, &HeaderMap::new());
                return false;
            }
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(frame))) => self.push(frame, queue),
                Poll::Ready(Some(Err(_))) => *self = Self::Ended(Written::Broken),
                Poll::Ready(None) => self.end(queue, &HeaderMap::new()),
            }
        }
        false
    }

    fn push(&mut self, frame: Frame<Bytes>, queue: &mut Queue) {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(queue, &frame.into_trailers().unwrap_or_default()),
        };
        match self {
            Self::Length(left) => {
                // No more than was announced: what is beyond would be the next answer.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Ended(Written::Whole);
                }
                queue.push(data);
            }
            Self::Chunked(_) => queue.push_chunk(data),
            Self::UntilClose => queue.push(data),
            Self::Ended(_) => {}
        }
    }

    fn end(&mut self, queue: &mut Queue, trailers: &HeaderMap) {
        let written = match self {
            Self::Length(left) if *left > 0 => Written::Broken,
            Self::Chunked(announced) => {
                queue.push_last_chunk(trailers, announced);
                Written::Whole
            }
            Self::Length(_) | Self::UntilClose | Self::Ended(_) => Written::Whole,
        };
        *self = Self::Ended(written);
    }
}
