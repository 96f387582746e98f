//! Floor 3: the bytes of a spool's segment. A segment is a head, which names its producer, and then frames:
//!
//! ```text
//! head    "shpspool" | version u32 | length u32 | the producer's name | crc u32 of all before
//! frame   "PAIR" | ordinal u32 | length u32 | crc u32 of ordinal, length and body | body
//! body    made, in ms since 1970, u64 | id | time | route | key | json     each text with its length u32 before it
//! seal    "SEAL" | number of pairs u32 | 0 u32 | crc u32 of the two
//! ```
//!
//! Integers are little-endian, checksums CRC-32 (ISO 3309). Ordinals count from 0 without a gap, so that a reader who
//! finds its way again behind a damaged place knows how many pairs stood there; the seal tells the same of the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::Encoded;
use super::folder::is_producer;
use crate::budget::Charge;

const MAGIC: &[u8; 8] = b"shpspool";
const VERSION: u32 = 1;
const PAIR: [u8; 4] = *b"PAIR";
const SEAL: [u8; 4] = *b"SEAL";
/// Bytes of a frame before its body.
pub(super) const FRAME: u64 = 16;
/// How much is searched at once for the next frame behind a damaged place.
const WINDOW: usize = 64 << 10;

/// The head of a segment that this producer writes.
pub(super) fn head(producer: &str) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    put(&mut head, producer.as_bytes());
    let crc = crc32fast::hash(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    head
}

/// The producer that a segment's head names and where its frames begin; none where it is no head of ours.
pub(super) fn read_head(file: &File) -> io::Result<Option<(String, u64)>> {
    let mut start = vec![0; 16];
    let Some(()) = exactly(file, &mut start, 0)? else { return Ok(None) };
    let known = start.starts_with(MAGIC) && number(&start, 8) == VERSION;
    let length = number(&start, 12) as usize;
    // A host's label and a start's id: never long.
    if !known || length > 4096 {
        return Ok(None);
    }
    let mut rest = vec![0; length + 4];
    let Some(()) = exactly(file, &mut rest, 16)? else { return Ok(None) };
    start.extend_from_slice(&rest[..length]);
    // Its pairs may have to be copied into a segment of that name.
    let producer = String::from_utf8(rest[..length].to_vec()).ok().filter(|name| is_producer(name));
    let intact = crc32fast::hash(&start) == number(&rest, length);
    Ok(producer.filter(|_| intact).map(|producer| (producer, 20 + length as u64)))
}

/// Appends a pair's frame.
pub(super) fn put_pair(out: &mut Vec<u8>, ordinal: u32, made_ms: u64, pair: &Encoded) {
    let start = out.len();
    out.extend_from_slice(&PAIR);
    out.extend_from_slice(&ordinal.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let body = out.len();
    out.extend_from_slice(&made_ms.to_le_bytes());
    for text in [&pair.id, &pair.time, &pair.route, &pair.key] {
        put(out, text.as_bytes());
    }
    put(out, &pair.json);
    close(out, start, body);
}

/// Appends a frame whose body is here as it was read elsewhere.
pub(super) fn put_body(out: &mut Vec<u8>, ordinal: u32, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&PAIR);
    out.extend_from_slice(&ordinal.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let at = out.len();
    out.extend_from_slice(body);
    close(out, start, at);
}

/// The last frame of a segment of so many pairs.
pub(super) fn seal(pairs: u32) -> Vec<u8> {
    let mut seal = SEAL.to_vec();
    seal.extend_from_slice(&pairs.to_le_bytes());
    seal.extend_from_slice(&[0; 8]);
    close(&mut seal, 0, FRAME as usize);
    seal
}

/// Fills in the length and the checksum of the frame at `start`.
fn close(out: &mut [u8], start: usize, body: usize) {
    let length = u32::try_from(out.len() - body).unwrap_or(u32::MAX);
    out[start + 8..start + 12].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&out[start + 4..start + 12], &out[body..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(counts: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(counts);
    hasher.update(body);
    hasher.finalize()
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(text);
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Fills `into` from this place; none where the file ends before.
fn exactly(file: &File, into: &mut [u8], at: u64) -> io::Result<Option<()>> {
    match file.read_exact_at(into, at) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole pair, whose body is now in the reader's buffer; the next frame begins at `next`.
    Pair { ordinal: u32, next: u64 },
    /// The seal, which says how many pairs stand before it.
    Seal(u32),
    /// The end.
    End,
    /// A frame that breaks off, as a write does that did not come to its end.
    Torn,
    /// A frame that is all there, and wrong.
    Damaged,
}

/// Reads what stands at this place of a file of `length` bytes.
pub(super) fn read(file: &File, at: u64, length: u64, body: &mut Vec<u8>) -> io::Result<Found> {
    if at >= length {
        return Ok(Found::End);
    }
    let mut frame = [0; FRAME as usize];
    if length - at < FRAME {
        return Ok(Found::Torn);
    }
    // Shorter than it was: somebody has cut it.
    let Some(()) = exactly(file, &mut frame, at)? else { return Ok(Found::Torn) };
    let (count, size) = (number(&frame, 4), number(&frame, 8));
    if frame[..4] == SEAL {
        let intact = size == 0 && checksum(&frame[4..12], &[]) == number(&frame, 12);
        return Ok(if intact { Found::Seal(count) } else { Found::Damaged });
    }
    let next = at + FRAME + u64::from(size);
    // Zeros are what a file system leaves of a write that it had only begun.
    if frame[..4] != PAIR || next > length {
        return Ok(Found::Torn);
    }
    body.resize(size as usize, 0);
    let Some(()) = exactly(file, body, at + FRAME)? else { return Ok(Found::Torn) };
    let intact = checksum(&frame[4..12], body) == number(&frame, 12);
    Ok(if intact { Found::Pair { ordinal: count, next } } else { Found::Damaged })
}

/// Where the next whole frame begins behind a damaged place.
pub(super) fn resume(file: &File, from: u64, length: u64, body: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let (mut at, mut window) = (from, vec![0; WINDOW]);
    while length.saturating_sub(at) >= FRAME {
        let size = usize::try_from(length - at).unwrap_or(WINDOW).min(WINDOW);
        let Some(()) = exactly(file, &mut window[..size], at)? else { return Ok(None) };
        for offset in 0..=size - 4 {
            if window[offset..offset + 4] == PAIR || window[offset..offset + 4] == SEAL {
                let place = at + offset as u64;
                if matches!(read(file, place, length, body)?, Found::Pair { .. } | Found::Seal(_)) {
                    return Ok(Some(place));
                }
            }
        }
        // A mark may lie across two windows.
        at += size as u64 - 3;
    }
    Ok(None)
}

/// When the pair whose frame begins here was made.
pub(super) fn made_ms(file: &File, at: u64) -> io::Result<Option<u64>> {
    let mut made = [0; 8];
    Ok(exactly(file, &mut made, at + FRAME)?.map(|()| u64::from_le_bytes(made)))
}

/// A pair as it was stored.
#[derive(Debug)]
pub(super) struct Stored {
    /// When it was made, in milliseconds since 1970.
    pub(super) made_ms: u64,
    /// The pair.
    pub(super) pair: Encoded,
}

/// Takes a body apart; none where it is none.
pub(super) fn parse(body: &[u8], charge: Charge) -> Option<Stored> {
    let (made, mut rest) = body.split_first_chunk::<8>()?;
    let mut text = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (text, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        rest = after;
        Some(text)
    };
    let (id, time, route, key, json) = (text()?, text()?, text()?, text()?, text()?);
    let string = |text: &[u8]| String::from_utf8(text.to_vec()).ok();
    let pair = Encoded {
        json: json.to_vec(),
        key: string(key)?,
        id: string(id)?,
        time: string(time)?,
        route: string(route)?,
        source: None,
        charge,
    };
    rest.is_empty().then_some(Stored { made_ms: u64::from_le_bytes(*made), pair })
}
