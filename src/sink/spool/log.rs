//! Floor 3: the spool's folder: segments in the order in which they were begun, pairs appended to the last one and read
//! from the first. What an earlier run has left is taken over one segment at a time, so that a start waits for none of it;
//! one that is damaged is put aside as `….seg.corrupt`, and what can be read of it is copied before.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::Encoded;
use super::super::queue::Place;
use super::folder::{Folder, TryLock};
use super::format;
use super::segment::Segment;
use crate::config::process::SpoolConfig;

/// Segments are no larger than this where so few are enough, so that one more or less matters little.
const SEGMENT: (u64, u64) = (256 << 10, 16 << 20);
/// In how many segments a full spool lies at least, because the oldest goes whole where the oldest pairs are to go; and at
/// most, because each is an open file.
const SEGMENTS: (u64, u64) = (16, 64);
/// The most that are held at a time: as many as are written, and some that short runs have left, which are small.
const HELD: u64 = SEGMENTS.1 + 16;
/// The most files that are open for it: each of these with its notes, and in a turn the folder, a segment that is looked at,
/// its copy, and one more.
pub(super) const OPEN_FILES: u64 = 2 * HELD + 4;
/// The most that one write gathers; a single larger pair goes alone.
const CHUNK: usize = 1 << 20;
/// A last segment whose pairs have all been delivered is deleted when nothing was added for so long.
const SETTLED: Duration = Duration::from_secs(1);

/// Why not all pairs could be appended.
#[derive(Debug)]
pub(super) enum Stop {
    /// They would be more than `max`.
    Full,
    /// The disk refused.
    Disk(io::Error),
}

/// A segment that was left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Pairs that wait in it.
    pub(super) pairs: u32,
    /// Pairs that cannot be read any more.
    pub(super) lost: u32,
    /// Bytes cut off its end.
    pub(super) torn: u64,
    /// Where it now lies, if it was put aside.
    pub(super) aside: Option<PathBuf>,
}

/// A pair that was read back.
#[derive(Debug)]
pub(super) struct Recalled<'a> {
    pub(super) place: Place,
    /// Who made it.
    pub(super) producer: &'a Arc<str>,
    pub(super) body: &'a [u8],
}

/// The segments of a folder.
#[derive(Debug)]
pub(super) struct Log {
    folder: Folder,
    max: u64,
    segment_bytes: u64,
    producer: Arc<str>,
    /// By id: the oldest first.
    segments: Vec<Segment>,
    /// The segment that is appended to.
    writing: Option<u64>,
    appended: Instant,
    body: Vec<u8>,
    frames: Vec<u8>,
    /// Pairs that could not be read back, since this was last asked.
    lost: u32,
}

impl Log {
    /// Opens the folder, and makes it where there is none.
    pub(super) fn open(config: &SpoolConfig, producer: Arc<str>) -> io::Result<Self> {
        Self::open_with(config, producer, File::try_lock)
    }

    /// The same with this in place of [`File::try_lock`].
    pub(super) fn open_with(config: &SpoolConfig, producer: Arc<str>, try_lock: TryLock) -> io::Result<Self> {
        Ok(Self {
            folder: Folder::open(config.dir.clone(), try_lock)?,
            max: config.max,
            segment_bytes: (config.max / SEGMENTS.0).clamp(SEGMENT.0, SEGMENT.1).max(config.max / SEGMENTS.1),
            producer,
            segments: Vec::new(),
            writing: None,
            appended: Instant::now(),
            body: Vec::new(),
            frames: Vec::new(),
            lost: 0,
        })
    }

    /// Takes over one segment that an earlier run has left; none where there is none at the moment, or where it would be one
    /// open file too many: its turn comes when others have ended.
    pub(super) fn adopt(&mut self) -> io::Result<Option<Adopted>> {
        let segments = &self.segments;
        self.folder.look_again(|id| position(segments, id).is_some())?;
        while self.has_files_for_more()
            && let Some(left) = self.folder.next()
        {
            match self.take_over(left.id, left.path.clone()) {
                Ok(None) => {}
                Ok(adopted) => return Ok(adopted),
                Err(error) => {
                    self.folder.failed(left);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Whether a segment more can be held without those that may yet be written becoming too many.
    fn has_files_for_more(&self) -> bool {
        let to_come = 1 + self.max.saturating_sub(self.bytes()) / self.segment_bytes;
        self.segments.len() as u64 + to_come < HELD
    }

    fn take_over(&mut self, id: u64, path: PathBuf) -> io::Result<Option<Adopted>> {
        if self.position(id).is_some() {
            return Ok(None);
        }
        let Some(file) = self.folder.claim(&path)? else { return Ok(None) };
        let Some((segment, health)) = Segment::adopt(id, path.clone(), file)? else {
            let aside = self.folder.put_aside(&path)?;
            return Ok(Some(Adopted { aside: Some(aside), ..Adopted::default() }));
        };
        let mut adopted = Adopted { pairs: segment.alive(), lost: health.lost, torn: health.torn, aside: None };
        if health.lost > 0 {
            let copy = self.salvage(&segment)?;
            adopted.aside = Some(self.folder.put_aside(&path).inspect_err(|_| copy.remove())?);
            self.insert(copy);
        } else {
            self.insert(segment);
        }
        Ok(Some(adopted))
    }

    /// Copies what can be read of a damaged segment into a new one.
    fn salvage(&mut self, damaged: &Segment) -> io::Result<Segment> {
        let id = self.free_id(damaged.id.wrapping_add(1));
        let mut copy = Segment::create(&mut self.folder, id, &damaged.producer)?;
        let (mut frames, mut count) = (Vec::new(), 0);
        let copied = damaged.each(|body| {
            format::put_body(&mut frames, copy.next_ordinal() + count, body);
            count += 1;
            if frames.len() >= CHUNK {
                copy.append(&frames, count)?;
                frames.clear();
                count = 0;
            }
            Ok(())
        });
        if let Err(error) = copied.and_then(|()| copy.append(&frames, count)) {
            copy.remove();
            return Err(error);
        }
        copy.seal();
        Ok(copy)
    }

    /// Puts a segment where its id has its place, and returns that.
    fn insert(&mut self, segment: Segment) -> usize {
        let at = self.segments.partition_point(|other| other.id < segment.id);
        self.segments.insert(at, segment);
        at
    }

    fn position(&self, id: u64) -> Option<usize> {
        position(&self.segments, id)
    }

    fn at(&mut self, place: Place) -> Option<&mut Segment> {
        self.position(place.segment).map(|at| &mut self.segments[at])
    }

    /// The first id from there on that no segment has, begun again at 0 where a foreign name has brought in the last there is.
    fn free_id(&self, from: u64) -> u64 {
        (from..=u64::MAX).chain(0..from).find(|id| self.position(*id).is_none()).unwrap_or(from)
    }

    /// The segment to append to.
    fn open_segment(&mut self) -> io::Result<usize> {
        if let Some(at) = self.writing.and_then(|id| self.position(id)) {
            if self.segments[at].is_open() && self.segments[at].end() < self.segment_bytes {
                return Ok(at);
            }
            self.segments[at].seal();
        }
        self.writing = None;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // After all there are, also when the clock was set back.
        let after = self.segments.last().map_or(0, |segment| segment.id.wrapping_add(1));
        let id = self.free_id(u64::try_from(now.as_micros()).unwrap_or(0).max(after));
        let segment = Segment::create(&mut self.folder, id, &self.producer)?;
        self.writing = Some(id);
        Ok(self.insert(segment))
    }

    /// Appends pairs, each with when it was made in ms since 1970, and syncs them to the disk. They count as on their way
    /// until they are taken back. Returns the places of those that are stored: all, or the first so many.
    pub(super) fn append<'a>(&mut self, pairs: impl Iterator<Item = (&'a Encoded, u64)>) -> (Vec<Place>, Option<Stop>) {
        let (mut pairs, mut places) = (pairs.peekable(), Vec::new());
        let mut frames = std::mem::take(&mut self.frames);
        let mut stop = None;
        while stop.is_none() && pairs.peek().is_some() {
            let at = match self.open_segment() {
                Ok(at) => at,
                Err(error) => {
                    stop = Some(Stop::Disk(error));
                    break;
                }
            };
            let room = self.max.saturating_sub(self.bytes());
            let segment = &mut self.segments[at];
            let (first, start, mut offsets) = (segment.next_ordinal(), segment.end(), Vec::new());
            frames.clear();
            while frames.len() < CHUNK
                && let Some((pair, made_ms)) = pairs.peek()
            {
                let before = frames.len();
                let ordinal = first + offsets.len() as u32;
                format::put_pair(&mut frames, ordinal, *made_ms, pair);
                if frames.len() as u64 > room {
                    frames.truncate(before);
                    stop = Some(Stop::Full);
                    break;
                }
                offsets.push(start + before as u64);
                pairs.next();
            }
            match segment.append(&frames, offsets.len() as u32) {
                Ok(()) => {
                    for (ordinal, offset) in (first..).zip(offsets) {
                        segment.sends(ordinal, offset);
                        places.push(Place { segment: segment.id, ordinal });
                    }
                    self.appended = Instant::now();
                }
                Err(error) => stop = Some(Stop::Disk(error)),
            }
        }
        frames.shrink_to(CHUNK);
        self.frames = frames;
        (places, stop)
    }

    /// The next pair to send, the oldest first; it is on its way from now on. An error is told together with the next pair
    /// of another segment, if there is one.
    pub(super) fn next(&mut self) -> (Option<Recalled<'_>>, Option<io::Error>) {
        let mut fault = None;
        for at in 0..self.segments.len() {
            let segment = &mut self.segments[at];
            if !segment.has_more() {
                continue;
            }
            match segment.next(&mut self.body, &mut self.lost) {
                Ok(Some(ordinal)) => {
                    let segment = &self.segments[at];
                    let place = Place { segment: segment.id, ordinal };
                    return (Some(Recalled { place, producer: &segment.producer, body: &self.body }), fault);
                }
                Ok(None) => {}
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        (None, fault)
    }

    /// Whether a pair waits that is not on its way.
    pub(super) fn has_more(&self) -> bool {
        self.segments.iter().any(Segment::has_more)
    }

    /// The pair has ended.
    pub(super) fn strike(&mut self, place: Place) {
        if let Some(segment) = self.at(place) {
            segment.strike(place.ordinal);
        }
    }

    /// The pair is not on its way any more and waits here. Returns whether it is lost, because its segment was given up.
    pub(super) fn take_back(&mut self, place: Place) -> bool {
        self.at(place).is_some_and(|segment| segment.take_back(place.ordinal))
    }

    /// Gives up the oldest segment for its room; returns how many pairs are lost with it, or none where there is nothing
    /// to give up.
    pub(super) fn drop_oldest(&mut self) -> Option<u32> {
        let segment = self.segments.iter_mut().find(|segment| segment.bytes() > 0 && segment.alive() > 0)?;
        if self.writing == Some(segment.id) {
            self.writing = None;
        }
        Some(segment.give_up())
    }

    /// Deletes segments of which all has ended.
    pub(super) fn sweep(&mut self) {
        let settled = self.appended.elapsed() >= SETTLED;
        let (writing, quarter) = (self.writing, self.segment_bytes / 4);
        self.segments.retain(|segment| {
            let in_use = writing == Some(segment.id) && !settled && segment.bytes() < quarter;
            let goes = segment.is_done() && !in_use;
            if goes {
                segment.remove();
            }
            !goes
        });
    }

    /// Notes on disk what has ended, in each segment; tells the first that cannot.
    pub(super) fn note(&mut self) -> io::Result<()> {
        self.segments.iter_mut().map(Segment::note).fold(Ok(()), Result::and)
    }

    /// Ends: nothing is appended any more.
    pub(super) fn close(&mut self) {
        let Some(at) = self.writing.take().and_then(|id| self.position(id)) else { return };
        if self.segments[at].is_done() {
            self.segments.remove(at).remove();
        } else {
            self.segments[at].seal();
        }
    }

    /// When the oldest pair was made, in ms since 1970.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.segments.iter().find_map(Segment::oldest)
    }

    /// How many pairs could not be read back since this was last asked.
    pub(super) fn take_lost(&mut self) -> u32 {
        std::mem::take(&mut self.lost)
    }

    /// Bytes on disk, those included that are not taken over yet: else a full spool could be filled once more after a start.
    pub(super) fn bytes(&self) -> u64 {
        self.folder.bytes() + self.segments.iter().map(Segment::bytes).sum::<u64>()
    }
}

fn position(segments: &[Segment], id: u64) -> Option<usize> {
    segments.binary_search_by_key(&id, |segment| segment.id).ok()
}
