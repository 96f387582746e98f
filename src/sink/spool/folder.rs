//! Floor 3: the files in a spool's folder: a segment is `spool-MICROSECONDS-PRODUCER.seg`, and its notes are `….done`.
//! A symbolic link in place of either is never followed, neither to read nor to write, because whoever may put one there
//! could have us write into any file of this user's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
}
