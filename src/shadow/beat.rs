//! How late a lane runs: it beats every few milliseconds and publishes by how much it missed. Workers read that before
//! they copy anything; legs carry the worst of it while they ran, because a late thread makes a model look slow.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often a lane beats while it has something to do.
pub(super) const BEAT: Duration = Duration::from_millis(5);
/// How often while it has nothing to do: each time it wakes costs as much as a call.
const IDLE_BEAT: Duration = Duration::from_millis(50);
/// A lane that runs later than this gets no more copies: they would be too old when their turn comes.
pub(super) const LAGGING: Duration = Duration::from_millis(250);
/// How long single beats are remembered for the legs that ran meanwhile; longer than nearly every leg.
const MEMORY: usize = 2048;
/// A lag below this is a timer's own grain.
const GRAIN: Duration = Duration::from_millis(2);

/// A lane's lateness, for other threads.
#[derive(Debug)]
pub struct Lateness {
    epoch: Instant,
    /// Microseconds after `epoch` when the next beat is due.
    due: AtomicU64,
    /// Microseconds by which the last one was late.
    lag: AtomicU64,
    /// Second of `epoch`, and the worst lag in it, in microseconds: 32 bits each; and the second before.
    worst: [AtomicU64; 2],
}

impl Lateness {
    /// A lane that begins at this moment.
    pub(super) fn since(epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            due: AtomicU64::new(BEAT.as_micros() as u64),
            lag: AtomicU64::new(0),
            worst: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// The lane has beaten, so late, and is to beat again then.
    pub(super) fn beat(&self, now: Instant, lag: Duration, due: Instant) {
        let (now, lag) = (self.since_epoch(now), u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
        self.due.store(self.since_epoch(due), Ordering::Relaxed);
        self.lag.store(lag, Ordering::Relaxed);
        let second = now / 1_000_000;
        let slot = &self.worst[usize::from(second % 2 == 1)];
        let known = slot.load(Ordering::Relaxed);
        let worst = if known >> 32 == second { (known & 0xffff_ffff).max(lag) } else { lag };
        slot.store((second << 32) | worst.min(0xffff_ffff), Ordering::Relaxed);
    }

    /// How late the lane runs now: by its last beat, or by the beat that is overdue.
    pub fn now(&self) -> Duration {
        let now = self.since_epoch(Instant::now());
        let overdue = now.saturating_sub(self.due.load(Ordering::Relaxed));
        Duration::from_micros(overdue.max(self.lag.load(Ordering::Relaxed)))
    }

    /// The worst of the last second.
    pub fn worst(&self) -> Duration {
        let second = self.since_epoch(Instant::now()) / 1_000_000;
        let recent = self.worst.iter().map(|slot| slot.load(Ordering::Relaxed));
        let recent = recent.filter(|packed| (packed >> 32) + 1 >= second).map(|packed| packed & 0xffff_ffff);
        Duration::from_micros(recent.max().unwrap_or(0)).max(self.now())
    }

    /// Whether the lane runs too late for another copy.
    pub(super) fn is_lagging(&self) -> bool {
        self.now() > LAGGING
    }
}

/// A lane's own view: what it missed, and when.
#[derive(Debug)]
pub(super) struct Pulse {
    shared: Arc<Lateness>,
    due: Cell<Instant>,
    woken: Notify,
    late: RefCell<VecDeque<(Instant, Duration)>>,
}

impl Pulse {
    pub(super) fn new(shared: Arc<Lateness>) -> Self {
        let due = Cell::new(Instant::now() + BEAT);
        Self { shared, due, woken: Notify::new(), late: RefCell::default() }
    }

    /// There is something to do: the next beat must not be further away than while there is.
    pub(super) fn wake(&self) {
        let due = Instant::now() + BEAT;
        if self.due.get() > due {
            self.due.set(due);
            self.woken.notify_one();
        }
    }

    /// Waits for the next beat.
    pub(super) async fn wait(&self) {
        while let Ok(()) = tokio::time::timeout_at(self.due.get().into(), self.woken.notified()).await {}
    }

    /// A beat, at the end of a wait. Returns by how much it was late, and how far away the next one is: a lane that was late
    /// does not rest, because nothing is copied for it until a beat says that it is well again.
    pub(super) fn beat(&self, idle: bool) -> (Duration, Duration) {
        let now = Instant::now();
        let lag = now.saturating_duration_since(self.due.get());
        let pause = if idle && lag <= GRAIN { IDLE_BEAT } else { BEAT };
        self.due.set(now + pause);
        self.shared.beat(now, lag, now + pause);
        if lag > GRAIN {
            let mut late = self.late.borrow_mut();
            if late.len() == MEMORY {
                late.pop_front();
            }
            late.push_back((now, lag));
        }
        (lag, pause)
    }

    /// The worst that was missed since then, the beat that is overdue now included.
    pub(super) fn worst_since(&self, since: Instant) -> Duration {
        let overdue = Instant::now().saturating_duration_since(self.due.get());
        let late = self.late.borrow();
        let missed = late.iter().rev().take_while(|(at, _)| *at >= since).map(|(_, lag)| *lag);
        missed.chain([overdue]).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(pulse: &Pulse) {
        pulse.due.set(Instant::now() + Duration::from_secs(3600));
    }

    #[test]
    fn a_lane_that_is_idle_beats_at_once_more_often_when_there_is_something_to_do() {
        let pulse = Pulse::new(Lateness::since(Instant::now()));
        far(&pulse);
        assert_eq!(pulse.beat(true), (Duration::ZERO, IDLE_BEAT));
        far(&pulse);
        assert_eq!(pulse.beat(false), (Duration::ZERO, BEAT));
        // Whether it waits already or not: else this would last an hour.
        let waiting = async {
            far(&pulse);
            tokio::join!(pulse.wait(), async {
                tokio::task::yield_now().await;
                pulse.wake();
            });
            far(&pulse);
            pulse.wake();
            pulse.wait().await;
        };
        crate::lifecycle::event_loop(waiting).unwrap();
        assert!(Instant::now() >= pulse.due.get());
    }

    #[test]
    fn what_was_missed_is_told_to_the_legs_that_ran_meanwhile_and_a_late_lane_does_not_rest() {
        let pulse = Pulse::new(Lateness::since(Instant::now()));
        let before = Instant::now();
        let late = Duration::from_secs(2);
        pulse.due.set(before.checked_sub(late).unwrap());
        assert!(pulse.worst_since(before) >= late, "the beat that is overdue counts");
        let (lag, next) = pulse.beat(true);
        assert!(lag >= late && next == BEAT);
        assert!(pulse.worst_since(before) >= late && pulse.shared.now() >= late);
        far(&pulse);
        assert_eq!(pulse.worst_since(Instant::now() + Duration::from_secs(1)), Duration::ZERO);
    }
}
