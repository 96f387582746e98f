//! Floor 3: two small clocks. [`Backoff`] spaces out attempts at something that keeps failing; [`Quiet`] spaces
//! out log lines about it, so that a broker that is away for a night fills no disk. Time is an argument in both.

use std::time::{Duration, Instant};

/// Doubling pauses between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
    until: Option<Instant>,
}

impl Backoff {
    /// No pause yet; the first failure brings one of `first`, each further one twice as long, up to `most`.
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first, until: None }
    }

    /// How long to wait before the next attempt.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Whether it is too early for the next attempt.
    pub(super) fn waits(&self, now: Instant) -> bool {
        !self.pause(now).is_zero()
    }

    /// Whether the last attempt failed.
    pub(super) fn failing(&self) -> bool {
        self.until.is_some()
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(self.most);
    }

    /// An attempt succeeded.
    pub(super) fn succeeded(&mut self) {
        self.until = None;
        self.next = self.first;
    }
}

/// How often one kind of trouble is logged.
const EVERY: Duration = Duration::from_secs(30);

/// At most one log line every [`EVERY`].
#[derive(Debug, Default)]
pub(super) struct Quiet {
    last: Option<Instant>,
    held_back: u64,
}

impl Quiet {
    /// Whether to log now, and how many lines were held back since the last one.
    pub(super) fn allow(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_start_again_after_a_success() {
        let now = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        assert!(!backoff.waits(now) && !backoff.failing());
        for pause in [100, 200, 300, 300] {
            backoff.failed(now);
            assert!(backoff.waits(now + Duration::from_millis(pause - 1)));
            assert!(!backoff.waits(now + Duration::from_millis(pause)));
        }
        backoff.succeeded();
        backoff.failed(now);
        assert!(!backoff.waits(now + Duration::from_millis(100)));
    }

    #[test]
    fn lines_that_were_held_back_are_counted_in_the_next_one() {
        let now = Instant::now();
        let mut quiet = Quiet::default();
        assert_eq!(quiet.allow(now), Some(0));
        assert_eq!(quiet.allow(now + EVERY / 2), None);
        assert_eq!(quiet.allow(now + EVERY / 2), None);
        assert_eq!(quiet.allow(now + EVERY), Some(2));
    }
}
