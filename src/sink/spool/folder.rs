//! Floor 3: the files in a spool's folder: a segment is `spool-MICROSECONDS-PRODUCER.seg`, its notes are `….done`, and a
//! damaged one that was put aside is `….seg.corrupt`. Of these the newest few stay, for whoever wants to know what happened;
//! none is larger than a segment, so that a disk that damages one after another does not fill up with them.
//!
//! A symbolic link in place of either is never followed, neither to read nor to write, because whoever may put one there
//! could have us write into any file of this user's.
//!
//! Several processes may share the folder: each keeps to the segments whose lock (`flock`) it holds, which the kernel lets
//! go when the process ends, however it ends. What nobody holds was left behind. Where the file system knows no locks (some
//! NFS), processes must not share the folder. The one that has it takes over what lay there when it started, and nothing
//! that came later: so it at least keeps away from whoever comes, by mistake, after it. The log says so once.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PREFIX: &str = "spool-";
const SUFFIX: &str = ".seg";
const DONE: &str = "done";
const ASIDE: &str = ".corrupt";

/// How many segments that were put aside stay, beside what the spool may hold: of 8 GiB a sixteenth together.
const ASIDE_KEPT: usize = 4;

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
    try_lock: TryLock,
    /// The file system has no locks.
    lockless: bool,
}

/// [`File::try_lock`], or what a test has in its place.
pub(super) type TryLock = fn(&File) -> Result<(), TryLockError>;

impl Folder {
    /// Opens it, and makes it where there is none. Looks at once for what others have left, because its bytes count.
    pub(super) fn open(dir: PathBuf, try_lock: TryLock) -> io::Result<Self> {
        let mut folder = Self { dir, left: VecDeque::new(), looked: Instant::now(), try_lock, lockless: false };
        folder.make()?;
        folder.left = folder.look(|_| false)?.into();
        folder.forget_old()?;
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
    pub(super) fn begin(&mut self, id: u64, producer: &str) -> io::Result<(PathBuf, File)> {
        self.make()?;
        let path = self.dir.join(name(id, producer));
        // What is made anew is no link.
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        match self.hold(&path, &file) {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Opens and locks a segment that was left behind; none where another process has it, or has finished it meanwhile.
    pub(super) fn claim(&mut self, path: &Path) -> io::Result<Option<File>> {
        let file = match open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        if !self.lock(path, &file)? {
            return Ok(None);
        }
        if file.metadata()?.len() == 0 {
            // Begun, see there, or what is left of one that could not be deleted. Without locks it may be somebody's.
            if !self.lockless {
                let _ = fs::remove_file(path).and_then(|()| fs::remove_file(done_path(path)));
            }
            return Ok(None);
        }
        Ok(Some(file))
    }

    /// A file's name is to outlast a crash.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Looks again, where it is time to. Without locks nobody can tell whether what has come since was left behind.
    pub(super) fn look_again(&mut self, is_known: impl Fn(u64) -> bool) -> io::Result<()> {
        if self.looked.elapsed() >= LOOK_EVERY {
            let mut left = self.look(is_known)?;
            if self.lockless {
                left.retain(|left| self.left.iter().any(|before| before.path == left.path));
            }
            self.left = left.into();
        }
        Ok(())
    }

    /// Finds the segments that nobody holds, these known ones apart, the oldest first.
    fn look(&mut self, is_known: impl Fn(u64) -> bool) -> io::Result<Vec<Left>> {
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
        Ok(left)
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
        name.push(ASIDE);
        let aside = PathBuf::from(name);
        fs::rename(path, &aside)?;
        let _ = fs::remove_file(done_path(path));
        // Else the pairs that were copied would be sent twice after a crash.
        let _ = self.sync();
        // What cannot be deleted now is tried again at the next.
        let _ = self.forget_old();
        Ok(aside)
    }

    /// Deletes the oldest of what was put aside, whichever process has done that.
    fn forget_old(&self) -> io::Result<()> {
        let mut aside = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let segment = path.to_str().and_then(|path| path.strip_suffix(ASIDE));
            if let Some(id) = segment.and_then(|segment| id_of(Path::new(segment))) {
                aside.push((id, path));
            }
        }
        aside.sort();
        aside.truncate(aside.len().saturating_sub(ASIDE_KEPT));
        for (_, path) in aside {
            if fs::remove_file(&path).is_ok() {
                let path = path.display();
                tracing::warn!(%path, kept = ASIDE_KEPT, "deleted the oldest damaged segment that was put aside");
            }
        }
        Ok(())
    }

    /// Locks a file that was just made.
    fn hold(&mut self, path: &Path, file: &File) -> io::Result<()> {
        let taken = "another process has taken a segment that was just begun";
        if self.lock(path, file)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::ResourceBusy, taken)) }
    }

    /// Whether the file is now this process's: nobody else has its lock, and it still stands in the folder.
    fn lock(&mut self, path: &Path, file: &File) -> io::Result<bool> {
        match (self.try_lock)(file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) if knows_no_locks(&error) => self.goes_without(&error),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Else it was deleted, or put aside.
        Ok(file.metadata()?.nlink() > 0 && path.symlink_metadata().is_ok())
    }

    /// Says once that there are no locks.
    fn goes_without(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.lockless, true) {
            tracing::warn!(
                dir = %self.dir.display(),
                %error,
                "the file system of the spool has no locks (flock): no other process may use this folder, nor a new one before \
                 the old has ended; give each a `pairs.spool.dir` of its own, or a file system with locks"
            );
        }
    }
}

/// Whether the file system, or the server behind it, has no locks at all.
fn knows_no_locks(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // EOPNOTSUPP and ENOTSUP are one number on Linux.
    Errno::from_io_error(error).is_some_and(|errno| [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS].contains(&errno))
}

/// Bytes of a file; none where there is none.
fn size(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |meta| meta.len())
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
        let open_folder = || Folder::open(dir.path().to_owned(), File::try_lock).unwrap();
        let (mut own, mut other) = (open_folder(), open_folder());
        let path = dir.path().join(name(1, "p"));
        // As `begin` makes it, before it has the lock.
        let make = || OpenOptions::new().append(true).create_new(true).open(&path).unwrap();

        let (begun, theirs) = (make(), open(&path, false).unwrap());
        assert!(other.lock(&path, &theirs).unwrap());
        assert_eq!(own.hold(&path, &begun).unwrap_err().kind(), io::ErrorKind::ResourceBusy, "they look at it");
        drop(theirs);

        assert!(other.claim(&path).unwrap().is_none());
        assert_eq!(lies_in(dir.path()), [""; 0].map(PathBuf::from), "nothing was in it, and nothing is put aside");
        assert!(own.hold(&path, &begun).is_err(), "they have deleted it");

        let begun = make();
        own.hold(&path, &begun).unwrap();
        assert!(other.claim(&path).unwrap().is_none());
        assert_eq!(lies_in(dir.path()), [path]);
    }

    #[test]
    fn of_what_is_put_aside_the_newest_few_stay() {
        let dir = tempfile::tempdir().unwrap();
        let open_folder = || Folder::open(dir.path().to_owned(), File::try_lock).unwrap();
        let path = |id: u64| dir.path().join(name(id, "p"));
        let aside = |id: u64| dir.path().join(name(id, "p") + ASIDE);
        let there = || (1..10).filter(|id| aside(*id).exists()).collect::<Vec<u64>>();
        let foreign = dir.path().join("spool-notes.seg.corrupt");
        fs::write(&foreign, "mine").unwrap();
        let folder = open_folder();
        for id in [3, 1, 2, 5, 4, 6] {
            fs::write(path(id), "it").unwrap();
            fs::write(done_path(&path(id)), "it").unwrap();
            assert_eq!(folder.put_aside(&path(id)).unwrap(), aside(id));
        }
        assert_eq!(there(), [3, 4, 5, 6]);
        // Also where an earlier version has left more of them.
        for id in [7, 8] {
            fs::write(aside(id), "it").unwrap();
        }
        open_folder();
        assert_eq!(there(), [5, 6, 7, 8]);
        assert!(foreign.exists());
        assert_eq!(lies_in(dir.path()).len(), 5);
    }

    #[test]
    fn without_locks_what_lay_there_at_the_start_is_taken_over_and_nothing_that_came_later() {
        let dir = tempfile::tempdir().unwrap();
        for errno in [rustix::io::Errno::NOLCK, rustix::io::Errno::NOTSUP, rustix::io::Errno::NOSYS] {
            assert!(knows_no_locks(&errno.into()));
        }
        let lockless = |_: &File| Err(TryLockError::Error(rustix::io::Errno::NOLCK.into()));
        let lay = |id| fs::write(dir.path().join(name(id, "p")), "it").unwrap();
        let ids = |folder: &mut Folder| {
            let left: Vec<Left> = std::iter::from_fn(|| folder.next()).collect();
            let ids: Vec<u64> = left.iter().map(|left| left.id).collect();
            left.into_iter().for_each(|left| folder.failed(left));
            ids
        };
        let long_ago = Instant::now().checked_sub(2 * LOOK_EVERY).unwrap();
        (1..3).for_each(lay);
        let mut folder = Folder::open(dir.path().to_owned(), lockless).unwrap();
        assert!(folder.lockless);
        (3..5).for_each(lay);
        fs::write(dir.path().join(name(5, "p")), "").unwrap();
        assert_eq!(ids(&mut folder), [1, 2]);
        for _ in 0..2 {
            folder.looked = long_ago;
            folder.look_again(|_| false).unwrap();
            assert_eq!(ids(&mut folder), [1, 2], "also when they could not be taken over at once");
        }
        assert!(dir.path().join(name(5, "p")).exists(), "somebody may have just begun it");
        // The next run finds them all; one that fails otherwise is nobody's to take.
        assert_eq!(ids(&mut Folder::open(dir.path().to_owned(), lockless).unwrap()), [1, 2, 3, 4]);
        let broken = |_: &File| Err(TryLockError::Error(rustix::io::Errno::IO.into()));
        let mut folder = Folder::open(dir.path().to_owned(), broken).unwrap();
        assert!(folder.claim(&dir.path().join(name(1, "p"))).is_err() && !folder.lockless);
    }
}
