//! Floor 3: pairs as lines in files, `pairs-<time>-<producer>-<n>.jsonl` or `.jsonl.zst`. A file only ever grows by
//! whole lines, in whole zstd frames where compressed, so that a reader of the live file sees good records up to
//! the last write. A pair counts as delivered when its write has returned (it survives this process, not the
//! machine's power). While the disk refuses, pairs wait in the bounded queue; those that have waited
//! [`RETRY_FOR`] are dropped, `disk`, and delivery goes on by itself once there is room.
//!
//! A file is closed before it outgrows `segment`, or when it is [`DAILY`] old, so that `keep_for` holds where little is
//! written. No start writes on a file of an earlier one: a torn last line of a crash stays the last line.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
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
use super::retention::{self, Keep, file_name};
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
/// How often a new file's lock is asked for, and how long after one another.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(1);
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
    // A file system without locks is no reason to write no pairs; `retention` knows of it. Another process that just
    // looks at the folder holds the lock for a moment.
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Ok(()) | Err(TryLockError::Error(_)) => break,
        }
    }
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
    pub(super) fn new(config: FileSinkConfig, producer: Arc<str>, status: Arc<SinkStatus>) -> Result<Self, SinkError> {
        prove_writable(&config.dir, &producer).map_err(|cause| SinkError::Folder { dir: config.dir.clone(), cause })?;
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
        // Only a batch that is larger alone outgrows a segment.
        let after = |live: &Live| live.whole + self.batch.len() as u64;
        if self.live.as_ref().is_some_and(|live| live.whole > 0 && after(live) > self.config.segment) {
            self.end_file();
        }
        if self.live.is_none() {
            self.sweep();
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

    /// Closes the file. One without a whole line goes: an empty file would only puzzle its readers.
    fn end_file(&mut self) {
        if let Some(live) = self.live.take()
            && live.whole == 0
        {
            let _ = fs::remove_file(&live.path);
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
        if !(full && repaired) {
            self.end_file();
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

    /// Closes a file that is old enough, and looks now and then for what need not be kept.
    fn housekeep(&mut self) {
        let oldest = DAILY.min(self.config.keep_for);
        if self.live.as_ref().is_some_and(|live| live.since.elapsed() >= oldest) {
            self.end_file();
        }
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
            self.sweep();
        }
    }

    /// Deletes what need not be kept.
    fn sweep(&mut self) {
        self.swept = Some(Instant::now());
        let FileSinkConfig { keep: bytes, keep_for: time, segment, .. } = self.config;
        let keep = Keep { bytes, time, segment, begins: self.live.is_none() };
        match retention::sweep(&self.config.dir, keep, SystemTime::now()) {
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
        self.end_file();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::config::process::SinkConfig;
    use crate::sink::testing::{Books, ROOMY, metrics, soon};
    use crate::sink::{Door, Finished, Sink, queue::Queue};

    fn config(dir: &Path) -> FileSinkConfig {
        FileSinkConfig { dir: dir.to_owned(), ..FileSinkConfig::default() }
    }

    fn start(config: &FileSinkConfig, books: &Books, producer: &str) -> Sink {
        let (config, ledger) = (SinkConfig::File(config.clone()), Arc::clone(&books.ledger));
        Sink::start(&config, ledger, producer.into(), ROOMY, metrics("file"), books.budget.charge()).unwrap()
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        let number = |path: &PathBuf| -> Option<u64> {
            let stem = path.file_name()?.to_str()?.split('.').next()?;
            stem.rsplit('-').next()?.parse().ok()
        };
        files.sort_by_key(|path| number(path).unwrap());
        files
    }

    /// Every line of every file, in order of writing; frames are put together.
    fn lines(dir: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        for path in files(dir) {
            let bytes = fs::read(&path).unwrap();
            let text = match path.extension().unwrap().to_str() {
                Some("zst") => zstd::decode_all(&bytes[..]).unwrap(),
                _ => bytes,
            };
            let text = String::from_utf8(text).unwrap();
            assert!(text.ends_with('\n'), "half a line in {}", path.display());
            lines.extend(text.lines().map(str::to_owned));
        }
        lines
    }

    fn numbered(from: usize, to: usize) -> Vec<String> {
        (from..to).map(|n| format!("{{\"n\":{n}}}")).collect()
    }

    fn hand_in(door: &Door, books: &Books, lines: &[String]) {
        lines.iter().for_each(|line| door.offer(books.make(line)));
    }

    #[test]
    fn every_pair_is_a_line_and_counted_as_delivered() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a/pairs");
        let books = Books::default();
        let sink = start(&config(&dir), &books, "host-1");
        let wanted = numbered(0, 500);
        hand_in(&sink.door(), &books, &wanted);
        books.until("delivered while running", |account| account.delivered == 500);
        assert!(sink.status().up() && sink.status().oldest().is_none());
        assert_eq!(lines(&dir), wanted, "readable while the file is live");
        assert_eq!(sink.finish(soon()), Finished { delivered: 0, dropped_at_shutdown: 0, spooled: 0 });

        let path = files(&dir).pop().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("pairs-20") && name.ends_with("-host-1-1.jsonl"), "{name}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(books.budget.used(), 0);
    }

    #[test]
    fn a_compressed_file_reads_up_to_its_last_flush_while_it_is_live() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let config = FileSinkConfig { compress: Compress::Zstd, ..config(dir.path()) };
        let sink = start(&config, &books, "p");
        let wanted = numbered(0, 60);
        for part in wanted.chunks(20) {
            hand_in(&sink.door(), &books, part);
            books.until("flushed without a shutdown", |account| account.queued == 0);
        }
        assert_eq!(lines(dir.path()), wanted);
        assert!(files(dir.path())[0].to_str().unwrap().ends_with(".jsonl.zst"));
    }

    #[test]
    fn finish_delivers_what_waits() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let config = FileSinkConfig { compress: Compress::Zstd, ..config(dir.path()) };
        let sink = start(&config, &books, "p");
        let door = sink.door();
        hand_in(&door, &books, &numbered(0, 30));
        let before = books.account().delivered;
        let finished = sink.finish(soon());
        assert_eq!((before + finished.delivered, finished.dropped_at_shutdown), (30, 0));
        hand_in(&door, &books, &numbered(0, 1));
        assert_eq!(books.account().dropped[DropReason::Shutdown as usize], 1);
    }

    #[test]
    fn no_file_outgrows_its_segment_and_all_of_them_never_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let config = FileSinkConfig { segment: 100, keep: 450, ..config(dir.path()) };
        let sink = start(&config, &books, "p");
        let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
        for part in numbered(100, 200).chunks(10) {
            hand_in(&sink.door(), &books, part);
            books.until("written", |account| account.queued == 0);
            let sizes: Vec<u64> = files(dir.path()).iter().map(size).collect();
            assert!(sizes.iter().all(|size| *size <= config.segment), "{sizes:?}");
            assert!(sizes.iter().sum::<u64>() <= config.keep, "{sizes:?}");
        }
        let left = lines(dir.path());
        assert!(files(dir.path()).len() > 1);
        assert_eq!(left, numbered(200 - left.len(), 200), "the youngest are left");
        let account = books.account();
        assert_eq!((account.delivered, account.dropped.iter().sum::<u64>()), (100, 0));
    }

    #[test]
    fn a_restart_adds_files_and_changes_none() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        for part in numbered(0, 20).chunks(10) {
            // The same name twice, which a real start never has: the worst case.
            let sink = start(&config(dir.path()), &books, "same");
            hand_in(&sink.door(), &books, part);
            sink.finish(soon());
        }
        assert_eq!(files(dir.path()).len(), 2);
        assert_eq!(lines(dir.path()), numbered(0, 20));
    }

    #[test]
    fn a_folder_that_is_deleted_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pairs");
        let books = Books::default();
        let sink = start(&config(&dir), &books, "p");
        hand_in(&sink.door(), &books, &numbered(0, 1));
        books.until("written", |account| account.delivered == 1);
        fs::remove_dir_all(&dir).unwrap();
        hand_in(&sink.door(), &books, &numbered(1, 2));
        books.until("written again", |account| account.delivered == 2);
        assert_eq!(lines(&dir), numbered(1, 2));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_at_start_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let below = SinkConfig::File(config(&file.join("pairs")));
        let result =
            Sink::start(&below, Arc::default(), "p".into(), ROOMY, metrics("file"), Books::default().budget.charge());
        let text = result.expect_err("a file is no folder").to_string();
        assert!(text.contains("file/pairs") && text.contains("pairs.file.dir"), "{text}");
        assert!(text.contains("Not a directory"), "{text}");
    }

    /// A file on a disk with so many bytes left: writes what fits, then refuses.
    struct Small(File, Arc<AtomicUsize>, Io);

    impl Segment for Small {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let room = self.1.load(Ordering::Relaxed).min(bytes.len());
            self.0.write_all(&bytes[..room])?;
            self.1.fetch_sub(room, Ordering::Relaxed);
            if room < bytes.len() { Err(self.2.into()) } else { Ok(()) }
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            let freed = self.0.metadata()?.len() - length;
            self.1.fetch_add(freed as usize, Ordering::Relaxed);
            self.0.set_len(length)
        }

        fn deleted(&self) -> bool {
            false
        }
    }

    struct Bench {
        sink: FileSink,
        queue: Arc<Queue>,
        waiting: VecDeque<Waiting>,
        room: Arc<AtomicUsize>,
    }

    fn bench(dir: &Path, books: &Books, error: Io) -> Bench {
        let queue = Queue::new(Arc::clone(&books.ledger), ROOMY, DropReason::Disk);
        let status = Arc::new(SinkStatus::new("file", metrics("file"), Arc::clone(&queue)));
        let mut sink = FileSink::new(config(dir), "p".into(), status).unwrap();
        let room = Arc::new(AtomicUsize::new(0));
        let disk = Arc::clone(&room);
        sink.opener = Box::new(move |path| {
            let file = OpenOptions::new().append(true).create_new(true).open(path)?;
            Ok(Box::new(Small(file, Arc::clone(&disk), error)))
        });
        Bench { sink, queue, waiting: VecDeque::new(), room }
    }

    impl Bench {
        /// One attempt, whatever the pause says.
        fn attempt(&mut self) -> bool {
            self.sink.backoff.succeeded();
            self.queue.take(&mut self.waiting);
            self.sink.turn(&mut self.waiting, Turn { pause: Duration::ZERO, closing: false })
        }
    }

    #[test]
    fn a_full_disk_keeps_pairs_waiting_leaves_no_half_line_and_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let mut bench = bench(dir.path(), &books, Io::StorageFull);
        let status = Arc::clone(&bench.sink.status);
        let door = Door::new(Arc::clone(&bench.queue));
        bench.room.store(40, Ordering::Relaxed);
        hand_in(&door, &books, &numbered(0, 3));
        assert!(bench.attempt());
        hand_in(&door, &books, &numbered(3, 6));
        for _ in 0..5 {
            assert!(!bench.attempt());
        }
        assert_eq!(lines(dir.path()), numbered(0, 3));
        assert_eq!((status.up(), status.errors(ErrorKind::DiskFull)), (false, 5));
        assert_eq!((books.account().delivered, books.account().queued), (3, 3));

        bench.room.store(1000, Ordering::Relaxed);
        assert!(bench.attempt());
        assert!(status.up());
        assert_eq!(books.account().delivered, 6);
        assert_eq!(lines(dir.path()), numbered(0, 6));
        assert_eq!(files(dir.path()).len(), 1, "the same file goes on");
    }

    #[test]
    fn a_file_that_fails_otherwise_is_left_for_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let mut bench = bench(dir.path(), &books, Io::FileTooLarge);
        let door = Door::new(Arc::clone(&bench.queue));
        hand_in(&door, &books, &numbered(0, 1));
        assert!(!bench.attempt());
        assert_eq!(files(dir.path()), Vec::<PathBuf>::new(), "no empty file stays");
        bench.room.store(12, Ordering::Relaxed);
        assert!(bench.attempt());
        hand_in(&door, &books, &numbered(1, 2));
        assert!(!bench.attempt());
        bench.room.store(1000, Ordering::Relaxed);
        assert!(bench.attempt());
        assert_eq!(files(dir.path()).len(), 2);
        assert_eq!(lines(dir.path()), numbered(0, 2));
        assert_eq!(bench.sink.status.errors(ErrorKind::Io), 2);
    }

    #[test]
    fn pairs_that_have_waited_too_long_for_a_full_disk_are_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let books = Books::default();
        let mut bench = bench(dir.path(), &books, Io::StorageFull);
        let door = Door::new(Arc::clone(&bench.queue));
        hand_in(&door, &books, &numbered(0, 3));
        bench.queue.take(&mut bench.waiting);
        bench.waiting[0].ticket.since -= RETRY_FOR;
        bench.waiting[1].ticket.since -= RETRY_FOR;
        assert!(!bench.attempt());
        assert_eq!(books.account().queued, 3, "each had its attempt");
        bench.sink.backoff.failed(Instant::now());
        bench.sink.turn(&mut bench.waiting, Turn { pause: Duration::ZERO, closing: false });
        let account = books.account();
        assert_eq!((account.dropped[DropReason::Disk as usize], account.queued), (2, 1));
    }
}
