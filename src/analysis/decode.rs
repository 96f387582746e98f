//! Floor 2: bodies as they were meant, out of gzip, deflate, Brotli and Zstandard; for the record and the comparison,
//! and on the answer path for a sticky key alone, in narrower bounds. A few bytes can claim to hold gigabytes, so what comes out is bounded, and so is
//! what a decoder may set aside: beyond the limit itself no more than a coding's window (8 MiB for Zstandard as
//! RFC 9659 has it, 16 MiB for Brotli).

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// The most codings that are undone, one within the other.
const MAX_CODINGS: usize = 4;

/// 2^23 bytes: the largest window that RFC 9659 allows on the web.
const ZSTD_WINDOW_LOG: u32 = 23;

/// How much is read at a time.
const CHUNK: usize = 16 << 10;

/// Why a body could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// What came out is larger than the limit.
    #[error("is larger than {0} bytes when decoded")]
    TooLarge(usize),
    /// It is not what its head says.
    #[error("is not valid {0}")]
    Corrupt(Coding),
    /// More codings than anybody uses.
    #[error("is encoded more than {MAX_CODINGS} times")]
    TooManyCodings,
}

/// A content coding that can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`, of any number of members.
    Gzip,
    /// `deflate`: zlib as RFC 9110 has it, or raw as some servers send it.
    Deflate,
    /// `br`
    Brotli,
    /// `zstd`
    Zstd,
}

impl std::fmt::Display for Coding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        })
    }
}

/// The body without the codings that its `content-encoding` names. A coding that is not known ends this: the body is
/// then taken as it is, because `identity`, `utf-8` and the like are sent where nothing was encoded at all.
pub fn decode<'a>(body: &'a [u8], headers: &HeaderMap, limit: usize) -> Result<Cow<'a, [u8]>, DecodeError> {
    let mut body = Cow::Borrowed(body);
    if !headers.contains_key(CONTENT_ENCODING) || body.is_empty() {
        return Ok(body);
    }
    let codings = codings(headers);
    if codings.len() > MAX_CODINGS {
        return Err(DecodeError::TooManyCodings);
    }
    for coding in codings.into_iter().rev() {
        let Some(coding) = coding else { break };
        body = Cow::Owned(undo(coding, &body, limit)?);
    }
    Ok(body)
}

/// In the order in which they were applied; none for one that is not known.
fn codings(headers: &HeaderMap) -> Vec<Option<Coding>> {
    let lines = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let known = names.filter(|name| !name.is_empty() && name != "identity").map(|name| match name.as_str() {
        "gzip" | "x-gzip" => Some(Coding::Gzip),
        "deflate" => Some(Coding::Deflate),
        "br" => Some(Coding::Brotli),
        "zstd" => Some(Coding::Zstd),
        _ => None,
    });
    known.collect()
}

fn undo(coding: Coding, body: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let read = match coding {
        Coding::Gzip => read_bounded(MultiGzDecoder::new(body), limit),
        Coding::Deflate if looks_like_zlib(body) => read_bounded(ZlibDecoder::new(body), limit),
        Coding::Deflate => read_bounded(DeflateDecoder::new(body), limit),
        Coding::Brotli => read_bounded(brotli_decompressor::Decompressor::new(body, CHUNK), limit),
        Coding::Zstd => zstd_reader(body).and_then(|reader| read_bounded(reader, limit)),
    };
    match read {
        Ok(Some(decoded)) => Ok(decoded),
        Ok(None) => Err(DecodeError::TooLarge(limit)),
        Err(_) => Err(DecodeError::Corrupt(coding)),
    }
}

/// The two bytes that a zlib stream begins with (RFC 1950 §2.2).
fn looks_like_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..] if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

fn zstd_reader(body: &[u8]) -> io::Result<impl Read> {
    let mut reader = zstd::stream::read::Decoder::with_buffer(body)?;
    reader.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(reader)
}

/// All that a reader gives; none where that is more than the limit. The buffer grows by doubling, as `Vec` does, but
/// never beyond the limit.
fn read_bounded(mut reader: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    let mut chunk = [0; CHUNK];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => return Ok(Some(all)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let room = limit - all.len();
        if read > room {
            return Ok(None);
        }
        if all.capacity() - all.len() < read {
            all.reserve_exact(read.max(all.len()).min(room));
        }
        all.extend_from_slice(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    fn encoded(codings: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for coding in codings {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
        headers
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    /// `hello hello hello`, and 16 MiB of zeros.
    const BROTLI: [&[u8]; 2] = [
        b"\x1b\x10\x00\xf8\x8d\x94\x6e\xde\x44\x55\x86\x96\x6c\x20\x6f\x01\x4f\x1c\x60\x1c",
        b"\xcb\xff\xff\x3f\xf8\x27\x00\xe2\xb1\x40\x20\xf7\xfe\x2f\xff\xff\xff\xf0\x4f\x00\xc4\x61\x11\x80\xee\xfd\x1f",
    ];

    #[test]
    fn each_coding_is_undone() {
        let plain = b"hello hello hello".as_slice();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(plain).unwrap();
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        raw.write_all(plain).unwrap();
        let cases = [
            ("gzip", gzip(plain)),
            ("X-GZip", [gzip(b"hello "), gzip(b"hello hello")].concat()),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", raw.finish().unwrap()),
            ("zstd", zstd::encode_all(plain, 3).unwrap()),
            ("br", BROTLI[0].to_vec()),
            ("identity", plain.to_vec()),
            ("utf-8", plain.to_vec()),
        ];
        for (coding, body) in cases {
            assert_eq!(*decode(&body, &encoded(&[coding]), 100).unwrap(), *plain, "{coding}");
        }
    }

    #[test]
    fn codings_are_undone_from_the_last_to_the_first() {
        let body = zstd::encode_all(gzip(b"hi").as_slice(), 3).unwrap();
        assert_eq!(*decode(&body, &encoded(&["gzip, zstd"]), 100).unwrap(), *b"hi");
        assert_eq!(*decode(&body, &encoded(&["gzip", "zstd"]), 100).unwrap(), *b"hi");
        assert_eq!(decode(b"x", &encoded(&["br, br, br, br, br"]), 9), Err(DecodeError::TooManyCodings));
    }

    #[test]
    fn the_limit_is_exact_and_a_bomb_is_refused() {
        let limit = 1 << 20;
        let fits = gzip(&vec![0; limit]);
        let decoded = decode(&fits, &encoded(&["gzip"]), limit).unwrap().into_owned();
        assert_eq!(decoded.len(), limit);
        assert!(decoded.capacity() <= limit);
        let bomb = vec![0; 16 * limit];
        let zstd = zstd::encode_all(bomb.as_slice(), 3).unwrap();
        for (coding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd), ("br", BROTLI[1].to_vec())] {
            assert_eq!(decode(&body, &encoded(&[coding]), limit), Err(DecodeError::TooLarge(limit)), "{coding}");
        }
    }

    #[test]
    fn a_zstd_frame_with_a_giant_window_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(b"small").unwrap();
        encoder.flush().unwrap();
        let body = encoder.finish().unwrap();
        assert_eq!(decode(&body, &encoded(&["zstd"]), 100), Err(DecodeError::Corrupt(Coding::Zstd)));
    }

    #[test]
    fn what_is_cut_or_is_something_else_is_corrupt() {
        let whole = gzip(&[7; 1000]);
        for (coding, kind) in [("gzip", Coding::Gzip), ("deflate", Coding::Deflate), ("br", Coding::Brotli)] {
            assert_eq!(decode(b"{\"y\":1}", &encoded(&[coding]), 99), Err(DecodeError::Corrupt(kind)));
        }
        let cut = &whole[..whole.len() - 9];
        assert_eq!(decode(cut, &encoded(&["gzip"]), 9999), Err(DecodeError::Corrupt(Coding::Gzip)));
        assert_eq!(*decode(b"", &encoded(&["gzip"]), 99).unwrap(), *b"");
    }
}
