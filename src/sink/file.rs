//! Floor 3: pairs as lines in files, `pairs-<time>-<producer>-<n>.jsonl` or `.jsonl.zst`. A file only ever grows by
//! whole lines, in whole zstd frames where compressed, so that a reader of the live file sees good records up to
//! the last write. A pair counts as delivered when its write has returned (it survives this process, not the
//! machine's power). While the disk refuses, pairs wait in the bounded queue; those that have waited
//! [`RETRY_FOR`] are dropped, `disk`, and delivery goes on by itself once there is room.
//!
//! A file is closed when it has outgrown `segment`, or is [`DAILY`] old, so that `keep_for` holds where little is
//! written. No start writes on a file of an earlier one: a torn last line of a crash stays the last line.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::SinkError;
use super::delivery::{Deliver, Turn};
use super::pace::Backoff;
use super::queue::Waiting;
use super::retention::{self, file_name};
use super::status::{ErrorKind, SinkStatus};
use crate::config::process::{Compress, FileSinkConfig};
use crate::types::DropReason;

/// The most that one write gathers, before compression; a single larger record goes alone.
const BATCH: usize = 1 << 20;
/// How long compressed pairs are gathered: small frames compress badly, and each costs a header.
const GATHER: Duration = Duration::from_millis(100);
/// How long a pair may wait for a disk that refuses it.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// The most time between two looks at what `keep` and `keep_for` say.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// A file is closed when it is this old.
const DAILY: Duration = Duration::from_secs(86_400);
/// Between two attempts at a disk that refuses.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// zstd's own default: most of the gain for little CPU.
const ZSTD_LEVEL: i32 = 3;

/// What the sink needs of an open file; a seam, because a full disk is hard to come by in a test.
trait Segment {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Whether somebody has deleted it: writes would succeed and be lost.
    fn deleted(&self) -> bool;
}

impl Segment for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn deleted(&self) -> bool {
        self.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }
}

type Opener = Box<dyn Fn(&Path) -> io::Result<Box<dyn Segment>>>;

/// A new file, locked for as long as it is written, so that no other process deletes it.
fn open_new(path: &Path) -> io::Result<Box<dyn Segment>> {
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
    // A file system without locks is no reason to write no pairs; `retention` knows of it.
    let _ = file.try_lock();
    Ok(Box::new(file))
}

/// The file that is written.
struct Live {
    file: Box<dyn Segment>,
    path: PathBuf,
    /// Its length up to the last whole line.
    whole: u64,
    /// Whether there may be half a line after that.
    torn: bool,
    since: Instant,
}

/// Writes pairs to files.
pub(super) struct FileSink {
    config: FileSinkConfig,
    producer: Arc<str>,
    status: Arc<SinkStatus>,
    opener: Opener,
    live: Option<Live>,
    number: u64,
    batch: Vec<u8>,
    backoff: Backoff,
    swept: Option<Instant>,
}

impl FileSink {
    /// Makes the folder and sees that it can be written.
    pub(super) fn new(
        config: FileSinkConfig,
        producer: Arc<str>,
        status: Arc<SinkStatus>,
    ) -> Result<Self, SinkError> {
        prove_writable(&config.dir, &producer)
            .map_err(|cause| SinkError::Folder { dir: config.dir.clone(), cause })?;
        status.set_up();
        Ok(Self {
            config,
            producer,
            status,
            opener: Box::new(open_new),
            live: None,
            number: 0,
            batch: Vec::new(),
            backoff: Backoff::new(RETRY.0, RETRY.1),
            swept: None,
        })
    }

    /// Whether it is time to write what waits.
    fn due(&self, waiting: &VecDeque<Waiting>, closing: bool) -> bool {
        let Some(first) = waiting.front() else { return false };
        match self.config.compress {
            Compress::None => true,
            Compress::Zstd => {
                let mut bytes = 0;
                let mut full = |pair: &Waiting| {
                    bytes += pair.pair.json.len() + 1;
                    bytes >= BATCH
                };
                closing || first.ticket.since.elapsed() >= GATHER || waiting.iter().any(&mut full)
            }
        }
    }

    /// Puts the next lines into `batch`; returns how many.
    fn gather(&mut self, waiting: &VecDeque<Waiting>) -> io::Result<usize> {
        self.batch.clear();
        let mut count = 0;
        for next in waiting {
            if count > 0 && self.batch.len() + next.pair.json.len() >= BATCH {
                break;
            }
            self.batch.extend_from_slice(&next.pair.json);
            self.batch.push(b'\n');
            count += 1;
        }
        if self.config.compress == Compress::Zstd {
            self.batch = zstd::bulk::compress(&self.batch, ZSTD_LEVEL)?;
        }
        Ok(count)
    }

    /// Writes `batch`, all of it or nothing.
    fn write(&mut self) -> io::Result<()> {
        if self.live.as_ref().is_some_and(|live| live.file.deleted()) {
            self.live = None;
        }
        if self.live.is_none() {
            self.live = Some(self.begin()?);
        }
        let Some(live) = self.live.as_mut() else { return Ok(()) };
        if live.torn {
            live.file.cut(live.whole)?;
        }
        // Stays so when the write fails, or panics.
        live.torn = true;
        live.file.append(&self.batch)?;
        live.torn = false;
        live.whole += self.batch.len() as u64;
        if live.whole > self.config.segment {
            self.live = None;
            self.swept = None;
        }
        Ok(())
    }

    /// Opens the next file, and makes the folder again where somebody has deleted it.
    fn begin(&mut self) -> io::Result<Live> {
        make_folder(&self.config.dir)?;
        let suffix = match self.config.compress {
            Compress::None => retention::PLAIN,
            Compress::Zstd => retention::ZSTD,
        };
        loop {
            self.number += 1;
            let name = file_name(SystemTime::now(), &self.producer, self.number, suffix);
            let path = self.config.dir.join(name);
            match (self.opener)(&path) {
                Err(error) if error.kind() == Io::AlreadyExists => {}
                opened => {
                    let file = opened?;
                    return Ok(Live { file, path, whole: 0, torn: false, since: Instant::now() });
                }
            }
        }
    }

    /// Books a failure. A full disk will have room again, in the same file; after anything else a new file is
    /// begun, and half a line is cut off the old one if it lets us.
    fn failed(&mut self, error: &io::Error) {
        self.backoff.failed(Instant::now());
        let full = matches!(error.kind(), Io::StorageFull | Io::QuotaExceeded);
        let repaired = self.live.as_mut().is_none_or(|live| {
            let cut = !live.torn || live.file.cut(live.whole).is_ok();
            live.torn = !cut;
            cut
        });
        if !(full && repaired)
            && let Some(live) = self.live.take()
            && live.whole == 0
        {
            // Nothing whole is in it: an empty file would only puzzle its readers.
            let _ = fs::remove_file(&live.path);
        }
        let kind = if full { ErrorKind::DiskFull } else { ErrorKind::Io };
        let dir = self.config.dir.display();
        self.status.set_down(kind, format_args!("cannot write pairs to `{dir}`: {error}; they wait"));
    }

    /// Gives up what has waited too long for a disk that refuses.
    fn give_up(&self, waiting: &mut VecDeque<Waiting>) {
        while let Some(first) = waiting.pop_front_if(|first| first.ticket.since.elapsed() >= RETRY_FOR) {
            first.ticket.dropped(DropReason::Disk);
        }
    }

    /// Closes a file that is old enough, and deletes what need not be kept.
    fn housekeep(&mut self) {
        let oldest = DAILY.min(self.config.keep_for);
        if self.live.as_ref().is_some_and(|live| live.since.elapsed() >= oldest) {
            self.live = None;
        }
        if self.swept.is_some_and(|swept| swept.elapsed() < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(Instant::now());
        let (keep, keep_for) = (self.config.keep, self.config.keep_for);
        match retention::sweep(&self.config.dir, keep, keep_for, SystemTime::now()) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(files = gone.len(), "deleted pair files beyond `keep` or `keep_for`"),
            // A folder that was deleted comes back with the next pair.
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => self.status.trouble(ErrorKind::Io, format_args!("cannot list pair files: {error}")),
        }
    }
}

impl Deliver for FileSink {
    fn turn(&mut self, waiting: &mut VecDeque<Waiting>, turn: Turn) -> bool {
        self.housekeep();
        if self.backoff.failing() {
            self.give_up(waiting);
        }
        if !self.due(waiting, turn.closing) || self.backoff.waits(Instant::now()) {
            thread::sleep(turn.pause);
            return false;
        }
        let written = self.gather(waiting).and_then(|count| self.write().map(|()| count));
        match written {
            Ok(count) => {
                self.backoff.succeeded();
                for stored in waiting.drain(..count) {
                    self.status.delivered(stored.ticket.since);
                    stored.ticket.delivered();
                }
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn busy(&self) -> bool {
        false
    }

    fn close(&mut self, _: &mut VecDeque<Waiting>) {
        self.live = None;
    }
}

/// 0700: pairs hold what clients sent.
fn make_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn prove_writable(dir: &Path, producer: &str) -> io::Result<()> {
    make_folder(dir)?;
    let probe = dir.join(format!(".probe-{producer}"));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
    fs::remove_file(&probe)
}
