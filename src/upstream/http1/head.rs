//! The head of an answer: found in what was read, parsed, and what it says of the body and of the connection.

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use crate::upstream::error::CallError;
use crate::wire::Decoder;
use crate::wire::head::{Copied, FEW_FIELDS, MAX_FIELDS, Progress, digits, ends_chunked, names, room};

/// The head of an answer, and what follows from it.
pub(super) struct Answer {
    pub(super) head: Parts,
    pub(super) body: Decoder,
    /// Whether the connection stays open after it.
    pub(super) keeps: bool,
}

/// What was at the beginning of the buffer.
pub(super) enum Found {
    Answer(Box<Answer>),
    /// A 1xx answer.
    Interim,
}

/// Parses the head at the beginning of the buffer, and takes it out; none where it is not complete.
pub(super) fn parse(buffer: &mut BytesMut, progress: &mut Progress, is_head: bool) -> Result<Option<Found>, CallError> {
    if !progress.is_due(buffer) {
        return if progress.is_beyond(buffer.len()) { Err(CallError::Protocol) } else { Ok(None) };
    }
    let parsed = match parse_up_to::<FEW_FIELDS>(buffer) {
        Err(httparse::Error::TooManyHeaders) => parse_up_to::<MAX_FIELDS>(buffer),
        parsed => parsed,
    };
    let (length, head, says) = match parsed {
        Ok(Some(parsed)) => parsed,
        Ok(None) if progress.is_beyond(buffer.len()) => return Err(CallError::Protocol),
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::debug!(%error, "an answer's head is not HTTP");
            return Err(CallError::Protocol);
        }
    };
    if progress.is_beyond(length) {
        return Err(CallError::Protocol);
    }
    buffer.advance(length);
    progress.restart();
    let status = head.status;
    // 101 is told apart by whoever asked: it is no interim answer.
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Found::Interim));
    }
    let (body, keeps) = says.of(&head, is_head)?;
    Ok(Some(Found::Answer(Box::new(Answer { head, body, keeps }))))
}

/// The head's length, the head, and what its fields say.
fn parse_up_to<const N: usize>(bytes: &[u8]) -> Result<Option<(usize, Parts, Says)>, httparse::Error> {
    let mut fields = room::<N>();
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)?;
    let Status::Complete(length) = status else { return Ok(None) };
    let copied = Copied::of(&bytes[..length]);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 1);
    let mut says = Says::default();
    for field in parsed.headers.iter() {
        let (name, value) = copied.field(field)?;
        says.hear(&name, &value);
        headers.append(name, value);
    }
    if let (Some(length), true) = (says.length, says.repeats && !says.odd) {
        // Said twice it is one length, but no field that may be passed on (RFC 9110 §8.6).
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let code = parsed.code.unwrap_or_default();
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
    head.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    head.headers = headers;
    let reason = match parsed.reason.unwrap_or_default() {
        "" => reason(bytes),
        text => text.as_bytes(),
    };
    if head.status.canonical_reason().map(str::as_bytes) != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason)
    {
        head.extensions.insert(reason);
    }
    Ok(Some((length, head, says)))
}

/// The reason in the status line: the parser gives none that is not ASCII.
fn reason(head: &[u8]) -> &[u8] {
    let line = head.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.get("HTTP/1.1 200 ".len()..).unwrap_or_default()
}

/// What the fields say of the body and of the connection.
#[derive(Default)]
struct Says {
    length: Option<u64>,
    /// Whether that is said more than once.
    repeats: bool,
    /// Whether lengths are no numbers, or differ.
    odd: bool,
    /// Whether the last coding is `chunked`; none where none is named.
    chunked: Option<bool>,
    closes: bool,
    keeps: bool,
}

impl Says {
    /// Hears one field after another.
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) {
        match *name {
            CONTENT_LENGTH => {
                for length in value.as_bytes().split(|byte| *byte == b',').map(|length| digits(length.trim_ascii())) {
                    // One length said twice is one; two are an attack or a bug.
                    self.odd |= length.is_none() || self.length.is_some_and(|other| Some(other) != length);
                    self.repeats |= self.length.is_some();
                    self.length = length;
                }
            }
            TRANSFER_ENCODING => self.chunked = Some(ends_chunked(value)),
            CONNECTION => {
                self.closes |= names(value, b"close");
                self.keeps |= names(value, b"keep-alive");
            }
            _ => {}
        }
    }

    /// How the body is framed (RFC 9112 §6.3), and whether the connection stays open after it.
    fn of(&self, head: &Parts, is_head: bool) -> Result<(Decoder, bool), CallError> {
        let http10 = head.version == Version::HTTP_10;
        let bodyless = matches!(head.status.as_u16(), 101 | 204 | 304);
        let body = match (self.chunked, self.length) {
            _ if is_head || bodyless => Decoder::Length(0),
            (Some(_), _) if http10 => return Err(CallError::Protocol),
            (Some(true), _) => Decoder::chunked(),
            (None, _) if self.odd => return Err(CallError::Protocol),
            (None, Some(length)) => Decoder::Length(length),
            (Some(false), _) | (None, None) => Decoder::UntilClose { closed: false },
        };
        // Where it has both lengths it was framed by the chunks alone, and without a body it may send those that it announces:
        // what follows is not to be trusted.
        let doubtful = self.chunked.is_some() && (bodyless || self.length.is_some() || self.odd);
        let open = !self.closes && (!http10 || self.keeps);
        let keeps = open && !doubtful && !matches!(body, Decoder::UntilClose { .. });
        Ok((body, keeps))
    }
}
