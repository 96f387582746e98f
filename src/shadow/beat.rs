//! How late a lane runs: it beats every few milliseconds and publishes by how much it missed. Workers read that before
//! they copy anything; legs carry the worst of it while they ran, because a late thread makes a model look slow.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a lane beats.
pub(super) const BEAT: Duration = Duration::from_millis(5);
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
    /// Microseconds after `epoch` of the last beat.
    last: AtomicU64,
    /// Microseconds by which it was late.
    lag: AtomicU64,
    /// Second of `epoch`, and the worst lag in it, in microseconds: 32 bits each; and the second before.
    worst: [AtomicU64; 2],
}

impl Lateness {
    /// A lane that begins at this moment.
    pub(super) fn since(epoch: Instant) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            last: AtomicU64::new(0),
            lag: AtomicU64::new(0),
            worst: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// The lane has beaten, so late.
    pub(super) fn beat(&self, now: Instant, lag: Duration) {
        let (now, lag) = (self.since_epoch(now), u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
        self.last.store(now, Ordering::Relaxed);
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
        let overdue = now.saturating_sub(self.last.load(Ordering::Relaxed)).saturating_sub(BEAT.as_micros() as u64);
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
    last: Cell<Instant>,
    late: RefCell<VecDeque<(Instant, Duration)>>,
}

impl Pulse {
    pub(super) fn new(shared: Arc<Lateness>) -> Self {
        Self { shared, last: Cell::new(Instant::now()), late: RefCell::default() }
    }

    /// A beat, at the end of a wait of [`BEAT`]. Returns by how much it was late.
    pub(super) fn beat(&self) -> Duration {
        let now = Instant::now();
        let lag = now.saturating_duration_since(self.last.get()).saturating_sub(BEAT);
        self.last.set(now);
        self.shared.beat(now, lag);
        if lag > GRAIN {
            let mut late = self.late.borrow_mut();
            if late.len() == MEMORY {
                late.pop_front();
            }
            late.push_back((now, lag));
        }
        lag
    }

    /// The worst that was missed since then, the beat that is overdue now included.
    pub(super) fn worst_since(&self, since: Instant) -> Duration {
        let overdue = self.last.get().elapsed().saturating_sub(BEAT);
        let late = self.late.borrow();
        let missed = late.iter().rev().take_while(|(at, _)| *at >= since).map(|(_, lag)| *lag);
        missed.chain([overdue]).max().unwrap_or_default()
    }
}
