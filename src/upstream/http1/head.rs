//! The head of an answer: found in what was read, parsed, and what it says of the body and of the connection.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::decode::Decoder;
use crate::upstream::error::CallError;

/// Fields that most answers stay below, and the most of any.
const FEW_FIELDS: usize = 64;
const MAX_FIELDS: usize = 1024;

/// How often a head is parsed before its end is seen, so that what is no HTTP at all is known at once, and a head that
/// comes byte by byte is not parsed for each of them.
const EARLY_LOOKS: u32 = 16;

/// How far the head that is due has come.
#[derive(Debug)]
pub(super) struct Limits {
    /// The most bytes of a head.
    bytes: usize,
    /// Bytes in which no end was seen.
    seen: usize,
    looks: u32,
}

impl Limits {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, seen: 0, looks: 0 }
    }

    /// Another head is due.
    pub(super) fn restart(&mut self) {
        (self.seen, self.looks) = (0, 0);
    }

    /// Whether it is worth while to parse what is there.
    fn is_due(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let from = self.seen.saturating_sub(3).min(bytes.len());
        self.seen = bytes.len();
        self.looks += 1;
        let fresh = &bytes[from..];
        let ends = || fresh.windows(2).any(|two| two == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n");
        self.looks <= EARLY_LOOKS || ends()
    }
}

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
pub(super) fn parse(buffer: &mut BytesMut, limits: &mut Limits, is_head: bool) -> Result<Option<Found>, CallError> {
    if !limits.is_due(buffer) {
        return if buffer.len() > limits.bytes { Err(CallError::Protocol) } else { Ok(None) };
    }
    let parsed = match parse_up_to::<FEW_FIELDS>(buffer) {
        Err(httparse::Error::TooManyHeaders) => parse_up_to::<MAX_FIELDS>(buffer),
        parsed => parsed,
    };
    let (length, mut answer) = match parsed {
        Ok(Some(parsed)) => parsed,
        Ok(None) if buffer.len() > limits.bytes => return Err(CallError::Protocol),
        Ok(None) => return Ok(None),
        Err(error) => {
            tracing::debug!(%error, "an answer's head is not HTTP");
            return Err(CallError::Protocol);
        }
    };
    if length > limits.bytes {
        return Err(CallError::Protocol);
    }
    buffer.advance(length);
    limits.restart();
    let status = answer.head.status;
    // 101 is told apart by whoever asked: it is no interim answer.
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Found::Interim));
    }
    answer.body = body(&answer.head, is_head)?;
    answer.keeps =
        stays_open(&answer.head) && !is_doubtful(&answer.head) && !matches!(answer.body, Decoder::UntilClose { .. });
    Ok(Some(Found::Answer(Box::new(answer))))
}

/// The head and its length.
fn parse_up_to<const N: usize>(bytes: &[u8]) -> Result<Option<(usize, Answer)>, httparse::Error> {
    let mut fields = [const { MaybeUninit::uninit() }; N];
    let mut parsed = httparse::Response::new(&mut []);
    let status = ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)?;
    let Status::Complete(length) = status else { return Ok(None) };
    // One copy of the head's own size, which all its values are slices of: they outlive the read buffer, which they would pin.
    let copy = Bytes::copy_from_slice(&bytes[..length]);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 1);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(same_part(&copy, bytes, field.value));
        headers.append(name, value.map_err(|_| httparse::Error::HeaderValue)?);
    }
    let code = parsed.code.unwrap_or_default();
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(code).map_err(|_| httparse::Error::Status)?;
    head.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    head.headers = headers;
    let reason = parsed.reason.unwrap_or_default();
    if head.status.canonical_reason() != Some(reason)
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        head.extensions.insert(reason);
    }
    Ok(Some((length, Answer { head, body: Decoder::Length(0), keeps: false })))
}

/// What of a copy stands where `part` stands in what was copied.
fn same_part(copy: &Bytes, copied: &[u8], part: &[u8]) -> Bytes {
    let at = part.as_ptr().addr().wrapping_sub(copied.as_ptr().addr());
    match at.checked_add(part.len()) {
        Some(end) if !part.is_empty() && end <= copy.len() => copy.slice(at..end),
        // An empty part may stand anywhere.
        _ => Bytes::copy_from_slice(part),
    }
}

/// How the body is framed (RFC 9112 §6.3).
fn body(head: &Parts, is_head: bool) -> Result<Decoder, CallError> {
    let bodyless = matches!(head.status.as_u16(), 101 | 204 | 304);
    if is_head || bodyless {
        return Ok(Decoder::Length(0));
    }
    if let Some(coding) = head.headers.get_all(TRANSFER_ENCODING).iter().next_back() {
        if head.version == Version::HTTP_10 {
            return Err(CallError::Protocol);
        }
        let last = coding.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
        let chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        return Ok(if chunked { Decoder::chunked() } else { Decoder::UntilClose { closed: false } });
    }
    let mut length = None;
    for value in
        head.headers.get_all(CONTENT_LENGTH).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
    {
        let value = digits(value.trim_ascii()).ok_or(CallError::Protocol)?;
        // One length said twice is one; two are an attack or a bug.
        if length.is_some_and(|length| length != value) {
            return Err(CallError::Protocol);
        }
        length = Some(value);
    }
    Ok(length.map_or(Decoder::UntilClose { closed: false }, Decoder::Length))
}

/// Digits alone: `u64`'s own parser would take a sign.
fn digits(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

/// Whether what follows on the connection is not to be trusted: an answer with both lengths was framed by the chunks alone
/// (RFC 9112 §6.3), and one without a body that announces chunks may send them.
fn is_doubtful(head: &Parts) -> bool {
    let bodyless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    head.headers.contains_key(TRANSFER_ENCODING) && (bodyless || head.headers.contains_key(CONTENT_LENGTH))
}

fn stays_open(head: &Parts) -> bool {
    let lines = head.headers.get_all(CONNECTION).iter();
    let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    match head.version {
        Version::HTTP_11 => !options.any(|option| option.eq_ignore_ascii_case(b"close")),
        _ => {
            let mut keeps = false;
            for option in options {
                if option.eq_ignore_ascii_case(b"close") {
                    return false;
                }
                keeps |= option.eq_ignore_ascii_case(b"keep-alive");
            }
            keeps
        }
    }
}
