//! A body, taken out of what was read: as long as `Content-Length` says, in chunks (RFC 9112 §7.1), or until the other
//! side closes.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

/// The longest line of a chunk's size with its extensions, and the largest trailers.
const MAX_LINE: usize = 16 << 10;
const MAX_TRAILERS: usize = 16 << 10;
const MAX_TRAILER_FIELDS: usize = 128;

/// How the rest of a body is framed.
#[derive(Debug, PartialEq)]
pub enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// In chunks.
    Chunked(Chunks),
    /// What comes until the other side closes.
    UntilClose {
        /// It has.
        closed: bool,
    },
}

/// Where in a chunked body the buffer begins.
#[derive(Debug, PartialEq)]
pub enum Chunks {
    /// At a chunk's size.
    Size,
    /// In a chunk, of which so many bytes are left.
    Data(u64),
    /// At the line end after a chunk's data.
    DataEnd,
    /// After the last chunk.
    Trailers,
    /// At the end; the trailers are still to be given.
    Ended(Option<HeaderMap>),
}

/// What one look brought.
#[derive(Debug)]
pub enum Decoded {
    /// The next piece, or the trailers.
    Frame(Frame<Bytes>),
    /// Nothing is left.
    End,
    /// More has to be read first.
    More,
}

/// A body that is not framed as its head said.
#[derive(Debug, PartialEq)]
pub struct Malformed;

impl Decoder {
    /// A body in chunks, from its first.
    pub fn chunked() -> Self {
        Self::Chunked(Chunks::Size)
    }

    /// Whether nothing is left to give.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Ended(None)) | Self::UntilClose { closed: true })
    }

    /// What is left, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(Chunks::Ended(None)) | Self::UntilClose { closed: true } => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::UntilClose { .. } => SizeHint::default(),
        }
    }

    /// The other side has closed: whether that is how this body ends.
    pub fn closes(&mut self) -> bool {
        match self {
            Self::UntilClose { closed } => {
                *closed = true;
                true
            }
            Self::Length(_) | Self::Chunked(_) => false,
        }
    }

    /// The next frame of what the buffer holds.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        match self {
            Self::Length(0) => Ok(Decoded::End),
            Self::Length(left) => Ok(data(buffer, left)),
            Self::Chunked(chunks) => chunks.decode(buffer),
            Self::UntilClose { closed: true } if buffer.is_empty() => Ok(Decoded::End),
            Self::UntilClose { .. } => {
                let mut all = u64::MAX;
                Ok(data(buffer, &mut all))
            }
        }
    }
}

/// At most so many bytes of the buffer.
fn data(buffer: &mut BytesMut, left: &mut u64) -> Decoded {
    if buffer.is_empty() {
        return Decoded::More;
    }
    let length = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
    *left -= length as u64;
    Decoded::Frame(Frame::data(buffer.split_to(length).freeze()))
}

impl Chunks {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        self.skip_framing(buffer)?;
        match self {
            Self::Data(left) => {
                let found = data(buffer, left);
                if *left == 0 {
                    *self = Self::DataEnd;
                    // Where the end lies in the buffer already, it is known with the last frame, not after it. What is
                    // malformed there is said when it is asked for: this frame is whole.
                    let _ = self.skip_framing(buffer);
                }
                Ok(found)
            }
            Self::Ended(trailers) => {
                Ok(trailers.take().map_or(Decoded::End, |fields| Decoded::Frame(Frame::trailers(fields))))
            }
            Self::Size | Self::DataEnd | Self::Trailers => Ok(Decoded::More),
        }
    }

    /// Goes on to the next data, or to the end, as far as the buffer allows.
    fn skip_framing(&mut self, buffer: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            match self {
                Self::Size => {
                    let Some(end) = line_end(buffer, MAX_LINE)? else { return Ok(()) };
                    let size = chunk_size(&buffer[..end])?;
                    buffer.advance(end + 2);
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::DataEnd => match &buffer[..buffer.len().min(2)] {
                    b"\r\n" => {
                        buffer.advance(2);
                        *self = Self::Size;
                    }
                    b"" | b"\r" => return Ok(()),
                    _ => return Err(Malformed),
                },
                Self::Trailers => {
                    let Some(length) = trailers_end(buffer)? else { return Ok(()) };
                    let fields = trailers(&buffer[..length])?;
                    buffer.advance(length);
                    *self = Self::Ended(fields);
                }
                Self::Data(_) | Self::Ended(_) => return Ok(()),
            }
        }
    }
}

/// Where a line ends, without its CR LF; none where the end is still to come.
fn line_end(buffer: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    match buffer.iter().position(|byte| *byte == b'\n') {
        Some(end) => match end.checked_sub(1) {
            Some(before) if buffer[before] == b'\r' => Ok(Some(before)),
            _ => Err(Malformed),
        },
        None if buffer.len() > most => Err(Malformed),
        None => Ok(None),
    }
}

/// The size of a chunk, from its line: what follows the digits is blank, or an extension, which means nothing to us.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, rest) = line.split_at(digits);
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let rest = &rest[blanks..];
    if !(rest.is_empty() || rest[0] == b';') || rest.contains(&b'\r') {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    // More than sixteen digits, or none, are no size.
    u64::from_str_radix(size, 16).map_err(|_| Malformed)
}

/// The length of the trailers with the empty line that ends them; none where that is still to come.
fn trailers_end(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    if buffer.starts_with(b"\r\n") {
        return Ok(Some(2));
    }
    match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(at) if at <= MAX_TRAILERS => Ok(Some(at + 4)),
        None if buffer.len() <= MAX_TRAILERS => Ok(None),
        _ => Err(Malformed),
    }
}

fn trailers(bytes: &[u8]) -> Result<Option<HeaderMap>, Malformed> {
    if bytes == b"\r\n" {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(bytes, &mut fields) else {
        return Err(Malformed);
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?);
    }
    Ok(Some(map))
}
