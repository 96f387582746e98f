//! Floor 3: which pairs of a segment have ended: a bit for each in memory, and a file of ranges beside the segment, each 12
//! bytes: the first ordinal, the last, and the CRC-32 of the two. What is wrong in that file strikes nothing off: a pair
//! that is sent twice has the same id.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::folder::{is_link, open};

/// Bytes of a range.
const RANGE: usize = 12;

/// The pairs of one segment.
#[derive(Debug)]
pub(super) struct Done {
    path: PathBuf,
    file: Option<File>,
    /// Its bytes.
    length: u64,
    bits: Vec<u64>,
    /// How many pairs there are.
    count: u32,
    /// How many have not ended.
    alive: u32,
    /// Ended, and not yet noted in the file.
    fresh: Vec<u32>,
}

impl Done {
    /// Of a segment that is yet empty.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, length: 0, bits: Vec::new(), count: 0, alive: 0, fresh: Vec::new() }
    }

    /// So many pairs more.
    pub(super) fn grow(&mut self, pairs: u32) {
        self.count += pairs;
        self.alive += pairs;
        self.bits.resize(self.count.div_ceil(64) as usize, 0);
    }

    /// How many pairs there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How many have not ended.
    pub(super) fn alive(&self) -> u32 {
        self.alive
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.length
    }

    /// Whether the pair has ended.
    pub(super) fn has(&self, ordinal: u32) -> bool {
        self.bits.get((ordinal / 64) as usize).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    /// The pair has ended, which the file need not know. Returns whether it had not before.
    pub(super) fn set(&mut self, ordinal: u32) -> bool {
        let fresh = ordinal < self.count && !self.has(ordinal);
        if let Some(word) = self.bits.get_mut((ordinal / 64) as usize).filter(|_| fresh) {
            *word |= 1 << (ordinal % 64);
            self.alive -= 1;
        }
        fresh
    }

    /// The pair has ended, and the file is to know.
    pub(super) fn strike(&mut self, ordinal: u32) {
        if self.set(ordinal) {
            self.fresh.push(ordinal);
        }
    }

    /// Reads what an earlier run has noted.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let mut file = match open(&self.path, false) {
            // A link is no note of ours. That none can be written is told as soon as there is one.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_link(&error) => return Ok(()),
            opened => opened?,
        };
        let mut noted = Vec::new();
        file.read_to_end(&mut noted)?;
        self.length = (noted.len() - noted.len() % RANGE) as u64;
        file.set_len(self.length)?;
        self.file = Some(file);
        for range in noted.as_chunks::<RANGE>().0 {
            let word = |at: usize| u32::from_le_bytes([range[at], range[at + 1], range[at + 2], range[at + 3]]);
            if crc32fast::hash(&range[..8]) == word(8) {
                (word(0)..=word(4).min(self.count.saturating_sub(1))).for_each(|ordinal| _ = self.set(ordinal));
            }
        }
        Ok(())
    }

    /// Notes what has ended since the last time.
    pub(super) fn note(&mut self) -> io::Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open(&self.path, true)?),
        };
        self.fresh.sort_unstable();
        let mut bytes = Vec::new();
        for range in self.fresh.chunk_by(|a, b| a + 1 == *b) {
            if let (Some(first), Some(last)) = (range.first(), range.last()) {
                let ends = [first.to_le_bytes(), last.to_le_bytes()].concat();
                bytes.extend_from_slice(&ends);
                bytes.extend_from_slice(&crc32fast::hash(&ends).to_le_bytes());
            }
        }
        if let Err(error) = file.write_all(&bytes) {
            let _ = file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.fresh.clear();
        Ok(())
    }

    /// There is nothing left to note, nor anywhere.
    pub(super) fn forget(&mut self) {
        (self.fresh, self.file) = (Vec::new(), None);
    }
}
