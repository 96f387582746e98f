//! Floor 3: the files in a spool's folder: a segment is `spool-MICROSECONDS-PRODUCER.seg`, and its notes are `….done`.
//! A symbolic link in place of either is never followed, neither to read nor to write, because whoever may put one there
//! could have us write into any file of this user's.
//!
//! Several processes may share the folder: each keeps to the segments whose lock (`flock`) it holds, which the kernel lets
//! go when the process ends, however it ends. What nobody holds was left behind.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX: &str = "spool-";
const SUFFIX: &str = ".seg";
const DONE: &str = "done";

/// The segment's file name.
pub(super) fn name(id: u64, producer: &str) -> String {
    format!("{PREFIX}{id:016}-{producer}{SUFFIX}")
}

/// The id of a segment by its path; none where the name is none that [`name`] makes: the id may have more than 16 digits
/// (a clock was once far ahead, and ids go on from there), but no sign and no zero too many.
pub(super) fn id_of(path: &Path) -> Option<u64> {
    let file = path.file_name()?.to_str()?;
    let (id, producer) = file.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.split_once('-')?;
    let id = id.parse().ok()?;
    (is_producer(producer) && name(id, producer) == file).then_some(id)
}

/// Whether a segment may name this producer: by what [`producer_id`] makes of any host, nothing that leads out of the
/// folder.
///
/// [`producer_id`]: crate::sink::producer_id
pub(super) fn is_producer(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Where a segment notes what has been delivered.
pub(super) fn done_path(segment: &Path) -> PathBuf {
    segment.with_extension(DONE)
}

/// Opens a file that is there, or any, to read and append.
pub(super) fn open(path: &Path, create: bool) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().read(true).append(true).create(create).mode(0o600).custom_flags(flags).open(path)
}

/// Whether [`open`] has failed at a link.
pub(super) fn is_link(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP)
}

/// How often the folder is looked at for what others have left.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// A segment that nobody holds and that is not taken over yet. Its pairs are not booked before that, its bytes are.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// With those of its notes.
    bytes: u64,
    /// It could not be taken over since the folder was last looked at.
    failed: bool,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    /// The oldest first, and last those that failed.
    left: VecDeque<Left>,
    looked: Instant,
}

impl Folder {
    /// Opens it, and makes it where there is none. Looks at once for what others have left, because its bytes count.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let mut folder = Self { dir, left: VecDeque::new(), looked: Instant::now() };
        folder.make()?;
        folder.look(|_| false)?;
        Ok(folder)
    }

    /// 0700: pairs hold what clients sent.
    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// Begins a segment: its path, and its file, which is empty and locked.
    ///
    /// Between the two another process may take it for left behind. It then finds an empty file, because only who holds the
    /// lock writes the head, and deletes it; here the lock is refused, or the file gone once the lock is held. So it is
    /// either deleted before it is written, or never taken.
    pub(super) fn begin(&self, id: u64, producer: &str) -> io::Result<(PathBuf, File)> {
        self.make()?;
        let path = self.dir.join(name(id, producer));
        // What is made anew is no link.
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        match hold(&path, &file) {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Opens and locks a segment that was left behind; none where another process has it, or has finished it meanwhile.
    pub(super) fn claim(&self, path: &Path) -> io::Result<Option<File>> {
        let file = match open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !lock(path, &file)? {
            return Ok(None);
        }
        if file.metadata()?.len() == 0 {
            // Begun, see there, or what is left of one that could not be deleted.
            let _ = fs::remove_file(path).and_then(|()| fs::remove_file(done_path(path)));
            return Ok(None);
        }
        Ok(Some(file))
    }

    /// A file's name is to outlast a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Looks again, where it is time to.
    pub(super) fn look_again(&mut self, is_known: impl Fn(u64) -> bool) -> io::Result<()> {
        if self.looked.elapsed() < LOOK_EVERY { Ok(()) } else { self.look(is_known) }
    }

    /// Finds the segments that nobody holds, these known ones apart.
    fn look(&mut self, is_known: impl Fn(u64) -> bool) -> io::Result<()> {
        self.looked = Instant::now();
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let path = entry.path();
            let Some(id) = id_of(&path).filter(|id| !is_known(*id)) else { continue };
            // A link or a folder is no segment, whatever its name.
            if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            // Only tried: not all that lies here may be open at a time. Why one cannot be opened is told by who takes it over.
            if matches!(self.claim(&path), Ok(None)) {
                continue;
            }
            let bytes = size(&path) + size(&done_path(&path));
            left.push(Left { id, path, bytes, failed: false });
        }
        // By number, for not all have as many digits.
        left.sort_by(|a, b| (a.id, &a.path).cmp(&(b.id, &b.path)));
        self.left = left.into();
        Ok(())
    }

    /// The next segment to take over; none is counted here any more that was given out.
    pub(super) fn next(&mut self) -> Option<Left> {
        self.left.pop_front_if(|left| !left.failed)
    }

    /// It could not be taken over: it stays, and is tried again after the next look.
    pub(super) fn failed(&mut self, left: Left) {
        self.left.push_back(Left { failed: true, ..left });
    }

    /// Bytes of what is not taken over yet.
    pub(super) fn bytes(&self) -> u64 {
        self.left.iter().map(|left| left.bytes).sum()
    }

    /// Renames a segment so that no run reads it again, and deletes the notes about it.
    pub(super) fn put_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let mut name = path.as_os_str().to_owned();
        name.push(".corrupt");
        let aside = PathBuf::from(name);
        fs::rename(path, &aside)?;
        let _ = fs::remove_file(done_path(path));
        // Else the pairs that were copied would be sent twice after a crash.
        let _ = self.sync();
        Ok(aside)
    }
}

/// Bytes of a file; none where there is none.
fn size(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |meta| meta.len())
}

/// Locks a file that was just made.
fn hold(path: &Path, file: &File) -> io::Result<()> {
    let taken = "another process has taken a segment that was just begun";
    if lock(path, file)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::ResourceBusy, taken)) }
}

/// Whether the file is now this process's: nobody else has its lock, and it still stands in the folder.
fn lock(path: &Path, file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        // Without locks nobody can tell: then it counts as left behind.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    // Deleted, or put aside.
    Ok(file.metadata()?.nlink() > 0 && path.symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_that_is_made_is_known(id: u64, short in 0..1_u64 << 32, host in "[A-Za-z0-9-]{1,80}") {
            for id in [id, short] {
                prop_assert_eq!(id_of(Path::new(&name(id, &host))), Some(id));
            }
        }
    }

    #[test]
    fn a_name_that_is_not_made_is_not_known() {
        let made = name(1_700_000_000_000_000, &crate::sink::producer_id());
        assert!(id_of(Path::new(&made)).is_some());
        for other in [
            "spool-1-p.seg",
            "spool-+123456789012345-p.seg",
            "spool-01234567890123456-p.seg",
            "spool-99999999999999999999-p.seg",
            "spool-1234567890123456-.seg",
            "spool-1234567890123456-p q.seg",
            "spool-1234567890123456-p.q.seg",
            "spool-1234567890123456-p.seg.corrupt",
            "spool-1234567890123456-p.done",
            "1234567890123456-p.seg",
        ] {
            assert_eq!(id_of(Path::new(other)), None, "{other}");
        }
    }

    fn lies_in(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_segment_that_is_just_begun_is_either_deleted_before_it_is_written_or_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let other = Folder::open(dir.path().to_owned()).unwrap();
        let path = dir.path().join(name(1, "p"));
        // As `begin` makes it, before it has the lock.
        let make = || OpenOptions::new().append(true).create_new(true).open(&path).unwrap();

        let (begun, theirs) = (make(), open(&path, false).unwrap());
        assert!(lock(&path, &theirs).unwrap());
        assert_eq!(hold(&path, &begun).unwrap_err().kind(), io::ErrorKind::ResourceBusy, "they look at it");
        drop(theirs);

        assert!(other.claim(&path).unwrap().is_none());
        assert_eq!(lies_in(dir.path()), [""; 0].map(PathBuf::from), "nothing was in it, and nothing is put aside");
        assert!(hold(&path, &begun).is_err(), "they have deleted it");

        let begun = make();
        hold(&path, &begun).unwrap();
        assert!(other.claim(&path).unwrap().is_none());
        assert_eq!(lies_in(dir.path()), [path]);
    }
}
