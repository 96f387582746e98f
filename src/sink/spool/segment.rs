//! Floor 3: one segment of a spool: a file of pairs, and beside it, once some have been delivered, one of notes, which
//! strikes them off.
//!
//! In memory a segment is a place to read on from, one bit a pair, and a line for each pair that is on its way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::done::Done;
use super::folder::{Folder, done_path};
use super::format::{self, FRAME, Found};

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its order among all; microseconds since 1970.
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// Who made its pairs.
    pub(super) producer: Arc<str>,
    /// None once it was given up for its room, which is free only when it is closed; what is on its way may still arrive.
    file: Option<File>,
    /// Bytes, up to the last whole frame.
    length: u64,
    /// Which pairs are delivered or given up.
    done: Done,
    /// The next pair that was not yet looked at: where it begins and its ordinal's lower bound.
    cursor: (u64, u32),
    /// Pairs on their way, and where they begin.
    away: BTreeMap<u32, u64>,
    /// Pairs that were on their way and have come back.
    again: BTreeMap<u32, u64>,
    /// Nothing more is appended.
    sealed: bool,
}

/// What a segment of an earlier run holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// Pairs that stood there undelivered and cannot be read.
    pub(super) lost: u32,
    /// Bytes of a last write that did not come to its end.
    pub(super) torn: u64,
}

impl Segment {
    /// Begins a new one.
    pub(super) fn create(folder: &mut Folder, id: u64, producer: &Arc<str>) -> io::Result<Self> {
        let (path, mut file) = folder.begin(id, producer)?;
        let head = format::head(producer);
        let begun = file.write_all(&head).and_then(|()| folder.sync());
        if let Err(error) = begun {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let segment = Self::new(id, path, Arc::clone(producer), head.len() as u64);
        Ok(Self { file: Some(file), ..segment })
    }

    fn new(id: u64, path: PathBuf, producer: Arc<str>, start: u64) -> Self {
        let done = Done::new(done_path(&path));
        Self {
            id,
            path,
            producer,
            file: None,
            length: start,
            done,
            cursor: (start, 0),
            away: BTreeMap::new(),
            again: BTreeMap::new(),
            sealed: false,
        }
    }

    /// Takes over one that an earlier run has left and whose lock the caller holds; none where its head is not ours. A
    /// last write that broke off is cut, unless something else is wrong with it.
    pub(super) fn adopt(id: u64, path: PathBuf, file: File) -> io::Result<Option<(Self, Health)>> {
        let Some((producer, start)) = format::read_head(&file)? else { return Ok(None) };
        let mut segment = Self::new(id, path, producer.into(), start);
        segment.sealed = true;
        let (holes, torn) = segment.scan(&file, start)?;
        segment.file = Some(file);
        segment.done.read()?;
        let lost = holes.into_iter().map(|ordinal| u32::from(segment.done.set(ordinal))).sum();
        Ok(Some((segment, Health { lost, torn })))
    }

    /// Finds out how many pairs there are: which of them cannot be read, and how many bytes were torn off the end.
    fn scan(&mut self, file: &File, start: u64) -> io::Result<(Vec<u32>, u64)> {
        let size = file.metadata()?.len();
        let (mut at, mut body, mut torn, mut holes, mut count) = (start, Vec::new(), 0, Vec::new(), 0);
        loop {
            // No more pairs can be missing than there is room for since the last good one: a frame that says so is a text
            // that looks like one.
            let room = u32::try_from((at - self.length) / FRAME).unwrap_or(u32::MAX);
            let believed = |ordinal: u32, count: u32| ordinal.checked_sub(count).is_some_and(|gap| gap <= room);
            match format::read(file, at, size, &mut body)? {
                Found::Pair { ordinal, next } if believed(ordinal, count) => {
                    holes.extend(count..ordinal);
                    count = ordinal + 1;
                    at = next;
                    self.length = next;
                }
                Found::Seal(sealed) if believed(sealed, count) => {
                    holes.extend(count..sealed);
                    count = sealed;
                    self.length = size;
                    break;
                }
                Found::End => break,
                found => match format::resume(file, at + 1, size, &mut body)? {
                    Some(next) => at = next,
                    None => {
                        // Behind the last good pair: one that was whole once, or one that never was.
                        if found == Found::Damaged {
                            holes.push(count);
                            count += 1;
                        } else {
                            torn = size - at;
                        }
                        break;
                    }
                },
            }
        }
        if torn > 0 && holes.is_empty() {
            file.set_len(self.length)?;
        }
        self.done.grow(count);
        Ok((holes, torn))
    }

    /// Appends so many pairs, whose frames were made for ordinals from [`Segment::next_ordinal`] on: all or none.
    pub(super) fn append(&mut self, frames: &[u8], pairs: u32) -> io::Result<()> {
        let Some(mut file) = self.file.as_ref() else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all(frames).and_then(|()| file.sync_data()) {
            // What was written of it must not stand before what comes next.
            self.sealed |= file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += frames.len() as u64;
        self.done.grow(pairs);
        Ok(())
    }

    /// Nothing more is appended.
    pub(super) fn seal(&mut self) {
        if std::mem::replace(&mut self.sealed, true) {
            return;
        }
        let seal = format::seal(self.done.count());
        // Without it a damaged end is told less exactly, that is all.
        if self.file.as_ref().is_some_and(|mut file| file.write_all(&seal).is_ok()) {
            self.length += seal.len() as u64;
        }
    }

    /// Whether pairs can be appended. Somebody may have deleted the file: writes would succeed and be lost.
    pub(super) fn is_open(&self) -> bool {
        let stands = |file: &File| file.metadata().is_ok_and(|meta| meta.nlink() > 0);
        !self.sealed && self.file.as_ref().is_some_and(stands)
    }

    /// The next pair's ordinal.
    pub(super) fn next_ordinal(&self) -> u32 {
        self.done.count()
    }

    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        self.length
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        if self.file.is_none() { 0 } else { self.length + self.done.bytes() }
    }

    /// Pairs that are neither delivered nor given up.
    pub(super) fn alive(&self) -> u32 {
        self.done.alive()
    }

    /// Whether all that was appended has ended.
    pub(super) fn is_done(&self) -> bool {
        self.done.alive() == 0
    }

    /// The pair is on its way though it was never read back. `offset` is where its frame begins.
    pub(super) fn sends(&mut self, ordinal: u32, offset: u64) {
        self.away.insert(ordinal, offset);
    }

    /// The next pair to send: its ordinal, and its body in `body`. A place that cannot be read is passed by and counted
    /// in `lost`.
    pub(super) fn next(&mut self, body: &mut Vec<u8>, lost: &mut u32) -> io::Result<Option<u32>> {
        let Some(file) = &self.file else { return Ok(None) };
        while let Some((&ordinal, &at)) = self.again.first_key_value() {
            let found = format::read(file, at, self.length, body)?;
            self.again.remove(&ordinal);
            match found {
                Found::Pair { .. } => {
                    self.away.insert(ordinal, at);
                    return Ok(Some(ordinal));
                }
                _ => *lost += u32::from(self.done.set(ordinal)),
            }
        }
        self.read_on(body, lost)
    }

    fn read_on(&mut self, body: &mut Vec<u8>, lost: &mut u32) -> io::Result<Option<u32>> {
        loop {
            let Some(file) = &self.file else { return Ok(None) };
            let (at, expected) = self.cursor;
            match format::read(file, at, self.length, body)? {
                Found::Pair { ordinal, next } if (expected..self.done.count()).contains(&ordinal) => {
                    self.cursor = (next, ordinal + 1);
                    *lost += self.lose(expected, ordinal);
                    if !self.done.has(ordinal) && !self.away.contains_key(&ordinal) {
                        self.away.insert(ordinal, at);
                        return Ok(Some(ordinal));
                    }
                }
                Found::End | Found::Seal(_) => {
                    self.cursor = (self.length, self.done.count());
                    *lost += self.lose(expected, self.done.count());
                    return Ok(None);
                }
                Found::Pair { .. } | Found::Torn | Found::Damaged => {
                    self.cursor.0 = format::resume(file, at + 1, self.length, body)?.unwrap_or(self.length);
                }
            }
        }
    }

    /// Gives up what stood between two ordinals and is not to be found any more.
    fn lose(&mut self, from: u32, to: u32) -> u32 {
        let missing: Vec<u32> = (from..to).filter(|ordinal| !self.away.contains_key(ordinal)).collect();
        missing.into_iter().map(|ordinal| u32::from(self.done.set(ordinal))).sum()
    }

    /// When the oldest pair that is still here was made, in ms since 1970, as far as it can be read.
    pub(super) fn oldest(&self) -> Option<u64> {
        let file = self.file.as_ref().filter(|_| self.done.alive() > 0)?;
        let places = [self.again.first_key_value(), self.away.first_key_value()].into_iter().flatten();
        let first =
            places.map(|(_, at)| *at).chain((self.cursor.1 < self.done.count()).then_some(self.cursor.0)).min()?;
        format::made_ms(file, first).ok().flatten()
    }

    /// Whether a further pair may be there to be sent.
    pub(super) fn has_more(&self) -> bool {
        self.file.is_some() && (!self.again.is_empty() || self.cursor.1 < self.done.count())
    }

    /// The pair has ended.
    pub(super) fn strike(&mut self, ordinal: u32) {
        self.away.remove(&ordinal);
        if self.file.is_none() {
            self.done.set(ordinal);
        } else {
            self.done.strike(ordinal);
        }
    }

    /// The pair is not on its way any more and waits here. Returns whether it is lost with its file.
    pub(super) fn take_back(&mut self, ordinal: u32) -> bool {
        let offset = self.away.remove(&ordinal);
        if self.file.is_none() {
            return offset.is_some() && self.done.set(ordinal);
        }
        if let Some(offset) = offset.filter(|_| ordinal < self.cursor.1) {
            self.again.insert(ordinal, offset);
        }
        false
    }

    /// Gives the file up for its room; returns how many pairs are lost with it.
    pub(super) fn give_up(&mut self) -> u32 {
        self.remove();
        (self.file, self.sealed) = (None, true);
        self.done.forget();
        self.again.clear();
        self.lose(0, self.done.count())
    }

    /// Notes on disk what has been delivered.
    pub(super) fn note(&mut self) -> io::Result<()> {
        self.done.note()
    }

    /// Deletes its files, the pairs first: notes alone are worth nothing, pairs without them would be sent again.
    pub(super) fn remove(&self) {
        let removed = fs::remove_file(&self.path);
        if removed.is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            // What cannot be deleted must not be found again by the next look.
            let _ = self.file.as_ref().map(|file| file.set_len(0));
        }
        let _ = fs::remove_file(done_path(&self.path));
    }

    /// The body of each whole pair that has not ended, in order.
    pub(super) fn each(&self, mut with: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (mut at, mut body) = (self.cursor.0, Vec::new());
        let Some(file) = &self.file else { return Ok(()) };
        let size = file.metadata()?.len();
        loop {
            match format::read(file, at, size, &mut body)? {
                Found::Pair { ordinal, next } => {
                    at = next;
                    if !self.done.has(ordinal) {
                        with(&body)?;
                    }
                }
                Found::End | Found::Seal(_) => return Ok(()),
                Found::Torn | Found::Damaged => match format::resume(file, at + 1, size, &mut body)? {
                    Some(next) => at = next,
                    None => return Ok(()),
                },
            }
        }
    }
}
