//! Which share of the copies is admitted where the process has a CPU quota: lowered priority protects nothing there,
//! because the whole group stops when its quota is spent, the answer path with it. So what runs beside the answer path
//! has a share of the quota; when it takes more, or when the system says that the group was stopped, fewer copies are
//! made until it fits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// All of them, in hundredths of a per cent.
const ALL: u16 = 10_000;
/// The least that is let through, so that it is seen when there is room again. One in a hundred would still be half of a
/// core where each answer has half a megabyte.
const LEAST: u16 = 1;
/// What comes back at each look that finds room: a part of what there is, and one step at least.
const RECOVERY: u16 = 16;
/// What lanes, analysis and delivery may use of the quota together.
const SHARE: f64 = 0.5;

/// The share that is admitted: read by workers, set by the one who meters.
#[derive(Debug)]
pub struct Admission(AtomicU16);

/// What was seen since the last look.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// How long ago that was.
    pub elapsed: Duration,
    /// Processor time that the threads beside the answer path took.
    pub background: Duration,
    /// The quota, in cores.
    pub cores: f64,
    /// Whether the group was stopped for having spent it.
    pub throttled: bool,
}

impl Admission {
    /// Everything is admitted.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU16::new(ALL)))
    }

    /// Whether one more copy is.
    pub(super) fn admits(&self) -> bool {
        let share = self.0.load(Ordering::Relaxed);
        share == ALL || fastrand::u16(..ALL) < share
    }

    /// Everything is admitted again: there is no quota any more.
    pub fn open(&self) {
        self.0.store(ALL, Ordering::Relaxed);
    }

    /// Sets the share by what was seen.
    pub fn look(&self, seen: Seen) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(next(before, seen), Ordering::Relaxed);
    }
}

fn next(before: u16, seen: Seen) -> u16 {
    let allowed = seen.elapsed.as_secs_f64() * seen.cores * SHARE;
    let used = seen.background.as_secs_f64();
    // The group can also be stopped for what the answer path alone takes; with hardly a copy made there is nothing to halve.
    let to_blame = used > allowed / 10.0;
    let after = if seen.throttled && to_blame {
        before / 2
    } else if used > allowed {
        (f64::from(before) * allowed / used) as u16
    } else {
        before.saturating_add((before / RECOVERY).max(1))
    };
    after.clamp(LEAST, ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(background_ms: u64, throttled: bool) -> Seen {
        let (elapsed, background) = (Duration::from_millis(100), Duration::from_millis(background_ms));
        Seen { elapsed, background, cores: 1.0, throttled }
    }

    #[test]
    fn what_takes_more_than_its_share_is_cut_to_it() {
        assert_eq!(next(ALL, seen(50, false)), ALL);
        assert_eq!(next(ALL, seen(100, false)), ALL / 2);
        assert_eq!(next(4000, seen(80, false)), 2500);
    }

    #[test]
    fn a_stop_halves_it_unless_the_answer_path_alone_is_to_blame() {
        assert_eq!(next(ALL, seen(40, true)), ALL / 2);
        assert_eq!(next(ALL, seen(4, true)), ALL);
    }

    #[test]
    fn it_recovers_slowly_and_never_closes() {
        assert_eq!(next(4000, seen(10, false)), 4250);
        assert_eq!(next(LEAST, seen(100, true)), LEAST);
        let (mut share, mut looks) = (LEAST, 0);
        while share < ALL {
            (share, looks) = (next(share, seen(10, false)), looks + 1);
        }
        assert!((100..200).contains(&looks), "ten to twenty seconds at ten looks a second: {looks}");
    }

    #[test]
    fn so_many_are_let_through() {
        let admission = Admission(AtomicU16::new(2500));
        let through = (0..10_000).filter(|_| admission.admits()).count();
        assert!((2200..2800).contains(&through), "{through}");
        admission.open();
        assert!((0..1000).all(|_| admission.admits()));
    }
}
