//! What the heads of requests and of answers have in common: when it is worth while to parse one, and its fields.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

/// Fields that most heads stay below, and the most of any.
pub const FEW_FIELDS: usize = 64;
/// The most fields of a head.
pub const MAX_FIELDS: usize = 1024;

/// How often a head is parsed before its end is seen, so that what is no HTTP at all is known at once, and a head that
/// comes byte by byte is not parsed for each of them.
const EARLY_LOOKS: u32 = 16;

/// How far the head that is due has come.
#[derive(Debug)]
pub struct Progress {
    /// The most bytes of a head.
    most: usize,
    /// Bytes in which no end was seen.
    seen: usize,
    looks: u32,
}

impl Progress {
    /// For heads of at most so many bytes.
    pub fn new(most: usize) -> Self {
        Self { most, seen: 0, looks: 0 }
    }

    /// Another head is due.
    pub fn restart(&mut self) {
        (self.seen, self.looks) = (0, 0);
    }

    /// Whether a head of so many bytes is too large.
    pub fn is_beyond(&self, bytes: usize) -> bool {
        bytes > self.most
    }

    /// Whether it is worth while to parse what is there.
    pub fn is_due(&mut self, bytes: &[u8]) -> bool {
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

/// Room for as many fields, as the parser wants it.
pub fn room<'a, const N: usize>() -> [MaybeUninit<httparse::Header<'a>>; N] {
    [const { MaybeUninit::uninit() }; N]
}

/// A head's bytes in a copy of their own: what is cut out of that outlives the read buffer, which it would else pin.
#[derive(Debug)]
pub struct Copied<'a> {
    read: &'a [u8],
    copy: Bytes,
}

impl<'a> Copied<'a> {
    /// Copies what was read of a head.
    pub fn of(read: &'a [u8]) -> Self {
        Self { read, copy: Bytes::copy_from_slice(read) }
    }

    /// What of the copy stands where `part` stands in what was read.
    pub fn part(&self, part: &[u8]) -> Bytes {
        let at = part.as_ptr().addr().wrapping_sub(self.read.as_ptr().addr());
        match at.checked_add(part.len()) {
            Some(end) if !part.is_empty() && end <= self.copy.len() => self.copy.slice(at..end),
            // An empty part may stand anywhere.
            _ => Bytes::copy_from_slice(part),
        }
    }

    /// The field's name and value.
    pub fn field(&self, field: &httparse::Header<'_>) -> Result<(HeaderName, HeaderValue), httparse::Error> {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| httparse::Error::HeaderName)?;
        let value = HeaderValue::from_maybe_shared(self.part(field.value));
        Ok((name, value.map_err(|_| httparse::Error::HeaderValue)?))
    }
}

/// Digits alone: `u64`'s own parser would take a sign.
pub fn digits(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let number = text.iter().try_fold(0_u64, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?));
    number.filter(|_| !text.is_empty())
}

/// Whether the last coding that a line of `Transfer-Encoding` names is `chunked`.
pub fn ends_chunked(line: &HeaderValue) -> bool {
    let last = line.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// Whether a line of a list names this, in any case.
pub fn names(line: &HeaderValue, name: &[u8]) -> bool {
    line.as_bytes().split(|byte| *byte == b',').any(|named| named.trim_ascii().eq_ignore_ascii_case(name))
}

/// Whether a line of `TE` says that trailers are welcome; what weight it gives them does not count.
pub fn names_trailers(line: &HeaderValue) -> bool {
    let names = line.as_bytes().split(|byte| *byte == b',').filter_map(|part| part.split(|byte| *byte == b';').next());
    names.map(<[u8]>::trim_ascii).any(|name| name.eq_ignore_ascii_case(b"trailers"))
}

/// Writes a field's line.
pub fn write_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The names that lines of `Trailer` have.
pub fn trailer_names<'a>(lines: impl Iterator<Item = &'a HeaderValue>) -> Vec<HeaderName> {
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect()
}
