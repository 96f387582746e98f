//! Meters what the threads beside the answer path take of the process's CPU quota (cgroup v2 `cpu.max`, cgroup v1
//! `cpu.cfs_quota_us`) and sets [`Admission`] by it. Without a quota it looks only now and then whether there is one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::shadow::admission::{Admission, Seen};

/// Between two looks under a quota.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks whether there is one: a container can be resized while it runs.
const LOOK_FOR_QUOTA: Duration = Duration::from_secs(5);

/// Follows the quota until the process ends.
pub async fn run(admission: Arc<Admission>) {
    let (group, mut threads) = (Group::of_this_process(), Threads::default());
    loop {
        let Some(cores) = group.as_ref().and_then(Group::cores) else {
            admission.open();
            tokio::time::sleep(LOOK_FOR_QUOTA).await;
            continue;
        };
        tracing::info!(cores, "there is a CPU quota: shadows get half of it");
        follow(&admission, group.as_ref(), &mut threads).await;
    }
}

/// Meters until the quota is gone.
async fn follow(admission: &Admission, group: Option<&Group>, threads: &mut Threads) {
    let (mut at, mut stops) = (Instant::now(), group.and_then(Group::stops));
    threads.background();
    while let Some(cores) = group.and_then(Group::cores) {
        tokio::time::sleep(LOOK).await;
        let now = Instant::now();
        let stopped = group.and_then(Group::stops);
        let throttled = stopped > stops;
        admission.look(Seen { elapsed: now - at, background: threads.background(), cores, throttled });
        (at, stops) = (now, stopped);
    }
}

/// The control groups that hold the process, the innermost first: each of them can have a quota.
#[derive(Debug)]
struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    fn of_this_process() -> Option<Self> {
        Self::find(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// `list` is `/proc/self/cgroup`: lines of `ID:CONTROLLERS:PATH`, where version 2 has `0::PATH` (cgroups(7)).
    fn find(list: &str, root: &Path) -> Option<Self> {
        let lines = || list.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let version1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "cpu"));
        let (mount, path) = match version1 {
            Some((controllers, path)) => {
                let mounts = [root.join("cpu"), root.join(controllers)];
                (mounts.into_iter().find(|mount| mount.is_dir())?, path)
            }
            None => (root.to_owned(), lines().find(|(controllers, _)| controllers.is_empty())?.1),
        };
        let relative = Path::new(path.trim_start_matches('/'));
        // Where the path leads nowhere, a container sees its own group as the root.
        let folders = relative.ancestors().map(|ancestor| mount.join(ancestor)).filter(|folder| folder.is_dir());
        Some(Self { folders: folders.collect() })
    }

    /// The tightest quota, in cores.
    fn cores(&self) -> Option<f64> {
        self.folders.iter().filter_map(|folder| quota(folder)).min_by(f64::total_cmp)
    }

    /// How often one of the groups was stopped.
    fn stops(&self) -> Option<u64> {
        let stops = |folder: &PathBuf| field(&fs::read_to_string(folder.join("cpu.stat")).ok()?, "nr_throttled");
        self.folders.iter().filter_map(stops).max()
    }
}

fn quota(folder: &Path) -> Option<f64> {
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<f64>().ok();
    let (quota, period) = match fs::read_to_string(folder.join("cpu.max")) {
        Ok(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse().ok()?, period.parse().ok()?)
        }
        Err(_) => (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?),
    };
    // Version 1 says -1 for none, version 2 `max`, which is no number.
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What each thread had taken at the last look.
#[derive(Debug, Default)]
struct Threads(HashMap<String, Duration>);

impl Threads {
    /// What the threads beside the answer path have taken since the last look. librdkafka's are named `rdk:…`.
    fn background(&mut self) -> Duration {
        let mut taken = Duration::ZERO;
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return taken };
        let mut seen = HashMap::new();
        for task in tasks.flatten() {
            let path = task.path();
            let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
            if is_background(&name)
                && let Some(total) = processor_time(&path)
            {
                let id = task.file_name().to_string_lossy().into_owned();
                taken += total.saturating_sub(self.0.get(&id).copied().unwrap_or_default());
                seen.insert(id, total);
            }
        }
        self.0 = seen;
        taken
    }
}

/// The system keeps 15 characters of a name.
fn is_background(name: &str) -> bool {
    ["shadowpair-lane", "shadowpair-anal", "shadowpair-deli", "rdk:"].iter().any(|kind| name.starts_with(kind))
}

fn processor_time(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, text: &str) {
        fs::create_dir_all(folder).expect("folder");
        fs::write(folder.join(file), text).expect("file");
    }

    #[test]
    fn the_tightest_quota_of_all_groups_counts() {
        let root = tempfile::tempdir().expect("folder");
        write(root.path(), "cpu.max", "max 100000\n");
        write(&root.path().join("pod"), "cpu.max", "150000 100000\n");
        write(&root.path().join("pod"), "cpu.stat", "usage_usec 7\nnr_periods 9\nnr_throttled 4\n");
        write(&root.path().join("pod/main"), "cpu.max", "200000 100000\n");
        write(&root.path().join("pod/main"), "cpu.stat", "nr_throttled 1\n");
        let group = Group::find("0::/pod/main\n", root.path()).expect("group");
        assert_eq!((group.cores(), group.stops()), (Some(1.5), Some(4)));
        let inside = Group::find("0::/../elsewhere\n", root.path()).expect("group");
        assert_eq!(inside.cores(), None);
    }

    #[test]
    fn version_1_is_read_too() {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("cpu,cpuacct/box");
        write(&folder, "cpu.cfs_quota_us", "50000\n");
        write(&folder, "cpu.cfs_period_us", "100000\n");
        write(&folder, "cpu.stat", "nr_periods 2\nnr_throttled 2\n");
        let list = "9:name=systemd:/\n2:cpu,cpuacct:/box\n0::/\n";
        let group = Group::find(list, root.path()).expect("group");
        assert_eq!((group.cores(), group.stops()), (Some(0.5), Some(2)));
        write(&folder, "cpu.cfs_quota_us", "-1\n");
        assert_eq!(group.cores(), None);
    }

    #[test]
    fn only_threads_beside_the_answer_path_are_metered() {
        assert!(is_background("shadowpair-lane\n") && is_background("rdk:broker1\n"));
        assert!(!is_background("shadowpair-work\n") && !is_background("shadowpair-admi\n"));
        let mut threads = Threads::default();
        let burning = crate::lifecycle::thread("shadowpair-lane-9", crate::lifecycle::Priority::Background, || {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            Threads::default().background()
        });
        let own = burning.expect("thread").join().expect("end");
        assert!(own > Duration::ZERO, "{own:?}");
        threads.background();
        assert!(threads.background() <= Duration::from_secs(60));
    }
}
