//! What the machine allows: threads, connections, memory.

use super::StartError;

/// Descriptors that are not for connections: event loops, files, the admin interface.
const RESERVED_FILES: u64 = 56;
/// Of these, what the acceptor, the admin interface, the signals and the sink need.
const OWN_FILES: u64 = 20;
/// And what each worker and each lane needs.
const FILES_A_THREAD: u64 = 6;

/// As many threads as the file asks for, or one for so many cores.
pub(super) fn threads(asked: usize, cores_each: usize) -> usize {
    // This counts the CPU quota of the cgroup, too.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if asked == 0 { (cores / cores_each).max(1) } else { asked }
}

/// As many connections as the file allows and descriptors there are for: each may need one to a model. `sink` are the files
/// that the sink may come to hold, which is while the brokers are away: nothing else may have taken them by then.
pub(super) fn connections(asked: usize, threads: usize, sink: u64) -> Result<usize, StartError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    // What is refused leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    let Some(files) = getrlimit(Resource::Nofile).current else { return Ok(asked) };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    let needed = OWN_FILES + FILES_A_THREAD * threads as u64 + sink;
    if files < open + needed {
        return Err(StartError::Files { files, open, needed });
    }
    let fits = fitting(files, sink);
    if fits < asked {
        tracing::info!(
            limit = fits,
            asked,
            files,
            "limits.connections is lowered to what the system's open files allow"
        );
    }
    Ok(asked.min(fits))
}

fn fitting(files: u64, sink: u64) -> usize {
    usize::try_from(files.saturating_sub(RESERVED_FILES + sink) / 2).unwrap_or(usize::MAX).max(4)
}

/// A quarter of the cgroup's memory, where it is bounded.
pub(super) fn memory_share() -> usize {
    let bounded = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    bounded.map_or(usize::MAX, |bytes: usize| bytes / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_spool_are_no_connections() {
        assert_eq!(fitting(1024, 0), (1024 - 56) / 2);
        assert_eq!(fitting(1024, 164), (1024 - 56 - 164) / 2);
        assert_eq!(fitting(64, 164), 4);
        let fits = |sink| connections(usize::MAX, 1, sink).unwrap();
        assert_eq!(fits(0) - fits(100), 50);
        assert!(matches!(connections(9, 1, u64::MAX / 2), Err(StartError::Files { .. })));
    }
}
