//! A body, taken out of what was read: as long as `Content-Length` says, in chunks (RFC 9112 §7.1), or until the other
//! side closes.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

/// The longest line of a chunk's size, the most of all extensions of a request's chunks, and the largest trailers.
const MAX_LINE: usize = 16 << 10;
const MAX_EXTENSIONS: usize = 16 << 10;
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

/// A body in chunks.
#[derive(Debug, PartialEq)]
pub struct Chunks {
    at: At,
    /// Bytes that the extensions of its chunks may still have: they mean nothing to us, and count to no body's size.
    extensions: usize,
}

/// Where in a chunked body the buffer begins.
#[derive(Debug, PartialEq)]
enum At {
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
        Self::Chunked(Chunks { at: At::Size, extensions: usize::MAX })
    }

    /// The same of a client, whose chunks' extensions are bounded (RFC 9112 §7.1.1).
    pub fn chunked_request() -> Self {
        Self::Chunked(Chunks { at: At::Size, extensions: MAX_EXTENSIONS })
    }

    /// Whether nothing is left to give.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Length(0) | Self::Chunked(Chunks { at: At::Ended(None), .. }) | Self::UntilClose { closed: true }
        )
    }

    /// What is left, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(Chunks { at: At::Ended(None), .. }) | Self::UntilClose { closed: true } => {
                SizeHint::with_exact(0)
            }
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
        match &mut self.at {
            At::Data(left) => {
                let found = data(buffer, left);
                if *left == 0 {
                    self.at = At::DataEnd;
                    // Where the end lies in the buffer already, it is known with the last frame, not after it. What is
                    // malformed there is said when it is asked for: this frame is whole.
                    let _ = self.skip_framing(buffer);
                }
                Ok(found)
            }
            At::Ended(trailers) => {
                Ok(trailers.take().map_or(Decoded::End, |fields| Decoded::Frame(Frame::trailers(fields))))
            }
            At::Size | At::DataEnd | At::Trailers => Ok(Decoded::More),
        }
    }

    /// Goes on to the next data, or to the end, as far as the buffer allows.
    fn skip_framing(&mut self, buffer: &mut BytesMut) -> Result<(), Malformed> {
        loop {
            match self.at {
                At::Size => {
                    let Some(end) = line_end(buffer, MAX_LINE)? else { return Ok(()) };
                    let (size, extension) = chunk_size(&buffer[..end])?;
                    self.extensions = self.extensions.checked_sub(extension).ok_or(Malformed)?;
                    buffer.advance(end + 2);
                    self.at = if size == 0 { At::Trailers } else { At::Data(size) };
                }
                At::DataEnd => match &buffer[..buffer.len().min(2)] {
                    b"\r\n" => {
                        buffer.advance(2);
                        self.at = At::Size;
                    }
                    b"" | b"\r" => return Ok(()),
                    _ => return Err(Malformed),
                },
                At::Trailers => {
                    let Some(length) = trailers_end(buffer)? else { return Ok(()) };
                    let fields = trailers(&buffer[..length])?;
                    buffer.advance(length);
                    self.at = At::Ended(fields);
                }
                At::Data(_) | At::Ended(_) => return Ok(()),
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

/// Blanks that may pad the size of a chunk, as some servers do, and count to no bound.
const PADDING: usize = 16;

/// The size of a chunk, from its line, and how long what follows it is: an extension, and blanks beyond a few.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, rest) = line.split_at(digits);
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let extension = &rest[blanks..];
    if !(extension.is_empty() || extension[0] == b';') || extension.contains(&b'\r') {
        return Err(Malformed);
    }
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    // More than sixteen digits, or none, are no size.
    if size.len() > 16 {
        return Err(Malformed);
    }
    let beside = extension.len() + blanks.saturating_sub(PADDING);
    u64::from_str_radix(size, 16).map(|size| (size, beside)).map_err(|_| Malformed)
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
    let Ok(httparse::Status::Complete((read, fields))) = httparse::parse_headers(bytes, &mut fields) else {
        return Err(Malformed);
    };
    // The parser takes a bare LF for a line's end. What is an end to one reader and none to another hides a message.
    let bare = |two: &[u8]| two[1] == b'\n' && two[0] != b'\r';
    if read != bytes.len() || bytes.windows(2).any(bare) {
        return Err(Malformed);
    }
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        map.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?);
    }
    Ok(Some(map))
}
