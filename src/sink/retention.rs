//! Floor 3: which pair files go. `keep` and `keep_for` hold for all pair files of the folder, whichever producer
//! wrote them, because a producer's name changes with every start. What a file's name does not show to be ours is
//! never touched, and neither is a file that any live process still writes: a writer holds a lock on its file
//! (`flock`, which the kernel lets go when the process ends, however it ends). Where the file system knows no such
//! locks, a file counts as live until it has not been written for a day.
//!
//! The age of a file is that of its youngest record, so that nothing younger than `keep_for` goes.
//!
//! `keep` is a bound that holds also between two looks at the folder: a file that is being written counts as the
//! `segment` that it may become, whichever process writes it, and so does the one that is begun next.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How files begin.
const PREFIX: &str = "pairs-";
/// How files end that are not compressed.
pub(super) const PLAIN: &str = ".jsonl";
/// How files end that are.
pub(super) const ZSTD: &str = ".jsonl.zst";

/// A file's name. The time sorts as text and has no colon: object stores and Hadoop's paths dislike them.
pub(super) fn file_name(start: SystemTime, producer: &str, number: u64, suffix: &str) -> String {
    let time = humantime::format_rfc3339_seconds(start).to_string().replace(['-', ':'], "");
    format!("{PREFIX}{time}-{producer}-{number}{suffix}")
}

/// Whether a file has the name of a pair file.
fn is_ours(name: &str) -> bool {
    let parts = || -> Option<(&str, &str)> {
        let stem = name.strip_suffix(PLAIN).or_else(|| name.strip_suffix(ZSTD))?;
        let (time, rest) = stem.strip_prefix(PREFIX)?.split_once('-')?;
        let (producer, number) = rest.rsplit_once('-')?;
        (!producer.is_empty() && number.parse::<u64>().is_ok()).then_some((time, producer))
    };
    parts().is_some_and(|(time, _)| {
        let shape = |(at, c): (usize, u8)| match at {
            8 => c == b'T',
            15 => c == b'Z',
            _ => c.is_ascii_digit(),
        };
        time.len() == 16 && time.bytes().enumerate().all(shape)
    })
}

struct PairFile {
    path: PathBuf,
    bytes: u64,
    written: SystemTime,
}

/// Without locks: how long a file must have lain still to count as closed.
const STILL: Duration = Duration::from_secs(86_400);

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    /// Of all pair files together, in bytes.
    pub(super) bytes: u64,
    /// For how long.
    pub(super) time: Duration,
    /// What a file may become that is being written.
    pub(super) segment: u64,
    /// Whether this process has no file just now: then its next one is to find room.
    pub(super) begins: bool,
}

/// Deletes closed pair files older than `keep_for`, then the oldest closed ones while the folder holds, or may come to
/// hold, more than `keep` bytes. Returns what went. One file that cannot be deleted does not keep the others.
pub(super) fn sweep(dir: &Path, keep: Keep, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let mut files = pair_files(dir)?;
    files.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
    let age = |file: &PairFile| now.duration_since(file.written).unwrap_or_default();
    let state: Vec<State> = files.iter().map(|file| state(&file.path, age(file))).collect();
    let becomes = |(file, state): (&PairFile, &State)| match state {
        State::Live => file.bytes.max(keep.segment),
        State::Closed | State::Unknown => file.bytes,
    };
    let next = if keep.begins { keep.segment } else { 0 };
    let mut total: u64 = files.iter().zip(&state).map(becomes).sum::<u64>() + next;
    let mut gone = Vec::new();
    for (file, state) in files.into_iter().zip(state) {
        let old = age(&file) > keep.time;
        if (old || total > keep.bytes) && state == State::Closed && fs::remove_file(&file.path).is_ok() {
            total -= file.bytes;
            gone.push(file.path);
        }
    }
    Ok(gone)
}

fn pair_files(dir: &Path) -> io::Result<Vec<PairFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_ours) {
            continue;
        }
        // Another process may sweep too: what is gone meanwhile needs no deleting. Links are not followed.
        if let Ok(meta) = entry.metadata()
            && meta.is_file()
            && let Ok(written) = meta.modified()
        {
            files.push(PairFile { path: entry.path(), bytes: meta.len(), written });
        }
    }
    Ok(files)
}

/// What is known of a file's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It holds its lock.
    Live,
    /// There is none any more.
    Closed,
    /// It cannot be told: the file is left alone.
    Unknown,
}

fn state(path: &Path, age: Duration) -> State {
    let Ok(file) = File::open(path) else { return State::Unknown };
    // Shared, so that two processes that look at once do not take one another for the writer.
    match file.try_lock_shared() {
        Ok(()) => State::Closed,
        Err(TryLockError::WouldBlock) => State::Live,
        Err(TryLockError::Error(_)) if age > STILL => State::Closed,
        Err(TryLockError::Error(_)) => State::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(dir: &Path, name: &str, bytes: usize, age: u64) -> File {
        let file = File::create(dir.join(name)).unwrap();
        fs::write(dir.join(name), vec![b'x'; bytes]).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        file
    }

    fn left(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_name_that_was_made_is_known_and_others_are_not() {
        let name = file_name(SystemTime::UNIX_EPOCH, "web-1-abc", 7, ZSTD);
        assert_eq!(name, "pairs-19700101T000000Z-web-1-abc-7.jsonl.zst");
        assert!(is_ours(&name));
        for other in ["pairs-2024.jsonl", "pairs-19700101T000000Z-a-x.jsonl", "pairs-19700101T000000Z-a-1.parquet", "a"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn old_files_go_then_the_oldest_beyond_the_size_but_never_a_live_or_a_foreign_one() {
        let dir = tempfile::tempdir().unwrap();
        let name = |n| file_name(SystemTime::UNIX_EPOCH, "p", n, PLAIN);
        lay(dir.path(), &name(1), 10, 500);
        let live = lay(dir.path(), &name(2), 10, 400);
        live.lock().unwrap();
        lay(dir.path(), &name(3), 10, 90);
        lay(dir.path(), &name(4), 10, 80);
        lay(dir.path(), &name(5), 10, 70);
        lay(dir.path(), "notes.jsonl", 1000, 9999);

        // The live one counts as 15 bytes.
        let keep = Keep { bytes: 35, time: Duration::from_secs(100), segment: 15, begins: false };
        let gone = sweep(dir.path(), keep, SystemTime::now()).unwrap();
        assert_eq!(gone, [dir.path().join(name(1)), dir.path().join(name(3))]);
        assert_eq!(left(dir.path()), ["notes.jsonl", &name(2), &name(4), &name(5)]);

        drop(live);
        sweep(dir.path(), keep, SystemTime::now()).unwrap();
        assert_eq!(left(dir.path()), ["notes.jsonl", &name(4), &name(5)]);

        // The next file is to find room.
        sweep(dir.path(), Keep { bytes: 30, begins: true, ..keep }, SystemTime::now()).unwrap();
        assert_eq!(left(dir.path()), ["notes.jsonl", &name(5)]);
    }
}
