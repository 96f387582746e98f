//! The head of a request: found in what was read, parsed, and what it says of the body and of the connection.

use bytes::{Buf, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use httparse::Status;

use crate::wire::Decoder;
use crate::wire::head::{Copied, FEW_FIELDS, MAX_FIELDS, Progress, digits, ends_chunked, names, names_trailers, room};

/// The longest target that [`Uri`] takes.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// The head of a request, and what follows from it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) body: Decoder,
    pub(super) asked: Asked,
    /// Whether the client waits for a word before it sends the body.
    pub(super) continues: bool,
}

/// What has to be known of a request when its answer is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Whether it is a HEAD, whose answer has no body whatever its fields say.
    pub(super) is_head: bool,
    pub(super) http10: bool,
    /// Whether the client leaves the connection open after the answer.
    pub(super) keeps: bool,
    pub(super) wants_trailers: bool,
}

/// Parses the head at the beginning of the buffer, and takes it out; none where it is not complete.
pub(super) fn parse(buffer: &mut BytesMut, progress: &mut Progress) -> Result<Option<Box<Head>>, StatusCode> {
    const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    if !progress.is_due(buffer) {
        return if progress.is_beyond(buffer.len()) { Err(TOO_LARGE) } else { Ok(None) };
    }
    let parsed = match parse_up_to::<FEW_FIELDS>(buffer) {
        Err(Fault::TooManyFields) => parse_up_to::<MAX_FIELDS>(buffer),
        parsed => parsed,
    };
    let (length, head) = match parsed {
        Ok(Some(parsed)) => parsed,
        Ok(None) if progress.is_beyond(buffer.len()) => return Err(TOO_LARGE),
        Ok(None) => return Ok(None),
        Err(Fault::TooManyFields) => return Err(TOO_LARGE),
        Err(Fault::Status(status)) => return Err(status),
    };
    if progress.is_beyond(length) {
        return Err(TOO_LARGE);
    }
    buffer.advance(length);
    progress.restart();
    Ok(Some(head))
}

/// Why a head is refused.
enum Fault {
    TooManyFields,
    Status(StatusCode),
}

const MALFORMED: Fault = Fault::Status(StatusCode::BAD_REQUEST);

impl From<httparse::Error> for Fault {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            _ => MALFORMED,
        }
    }
}

/// The head and its length.
fn parse_up_to<const N: usize>(bytes: &[u8]) -> Result<Option<(usize, Box<Head>)>, Fault> {
    let mut fields = room::<N>();
    let mut parsed = httparse::Request::new(&mut []);
    let Status::Complete(length) = parsed.parse_with_uninit_headers(bytes, &mut fields)? else { return Ok(None) };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(MALFORMED) };
    if target.len() > MAX_TARGET {
        return Err(Fault::Status(StatusCode::URI_TOO_LONG));
    }
    let copied = Copied::of(&bytes[..length]);
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut says = Says::default();
    for field in parsed.headers.iter() {
        let (name, value) = copied.field(field)?;
        if says.hear(&name, &value)? {
            headers.append(name, value);
        }
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| MALFORMED)?;
    parts.uri = Uri::from_maybe_shared(copied.part(target.as_bytes())).map_err(|_| MALFORMED)?;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers;
    Ok(Some((length, says.of(parts)?)))
}

/// What the fields say of the body and of the connection.
#[derive(Default)]
struct Says {
    length: Option<u64>,
    /// Whether the last coding is `chunked`; none where none is named.
    chunked: Option<bool>,
    closes: bool,
    continues: bool,
    wants_trailers: bool,
}

impl Says {
    /// Hears one field after another: whether it is worth keeping.
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Fault> {
        match *name {
            CONTENT_LENGTH => {
                let length = digits(value.as_bytes()).ok_or(MALFORMED)?;
                return match self.length.replace(length) {
                    None => Ok(true),
                    // One length said twice is one; two are an attack or a bug.
                    Some(other) if other == length => Ok(false),
                    Some(_) => Err(MALFORMED),
                };
            }
            TRANSFER_ENCODING => self.chunked = Some(ends_chunked(value) && value.to_str().is_ok()),
            CONNECTION => self.closes |= names(value, b"close"),
            EXPECT => self.continues = value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            TE => self.wants_trailers |= names_trailers(value),
            _ => {}
        }
        Ok(true)
    }

    /// The head that says it (RFC 9112 §6.3).
    fn of(self, mut parts: Parts) -> Result<Box<Head>, Fault> {
        let http10 = parts.version == Version::HTTP_10;
        let body = match self.chunked {
            None => Decoder::Length(self.length.unwrap_or_default()),
            Some(true) if !http10 => Decoder::chunked_request(),
            Some(_) => return Err(MALFORMED),
        };
        // Where a request has both, its chunks frame it, and what follows is not to be trusted.
        let twice = self.chunked.is_some() && self.length.is_some();
        if twice {
            // By copying: to remove it would change the order of the others.
            let others = parts.headers.iter().filter(|(name, _)| **name != CONTENT_LENGTH);
            parts.headers = others.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        let asked = Asked {
            is_head: parts.method == Method::HEAD,
            http10,
            // A proxy keeps none open for HTTP/1.0 (RFC 9112 §C.2.2).
            keeps: !http10 && !twice && !self.closes,
            wants_trailers: self.wants_trailers,
        };
        Ok(Box::new(Head { parts, body, asked, continues: self.continues && !http10 }))
    }
}
