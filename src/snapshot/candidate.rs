//! A candidate of a route: its share, its bounds, and what is counted of it. The bounds are process-wide atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use prometheus::IntCounter;

use crate::config::routing::CallBounds;
use crate::ledger::PairKey;
use crate::metrics::{LegMetrics, Metrics};
use crate::types::{ModelName, PairResult, Percent, Role, RouteName, SkipReason};
use crate::upstream::Target;

/// A candidate, or the control.
#[derive(Debug)]
pub struct Candidate {
    /// `shadow` or `control`.
    pub role: Role,
    /// Who is asked.
    pub target: Arc<Target>,
    /// The share of requests.
    pub percent: Percent,
    /// Bounds of its calls.
    pub bounds: CallBounds,
    /// Its metric children.
    pub leg: LegMetrics,
    /// What a reload carries over.
    run: Arc<Run>,
    rate: Rate,
    skips: Vec<IntCounter>,
}

/// A candidate's run-time state.
#[derive(Debug, Default)]
struct Run {
    in_flight: AtomicUsize,
    sampled: AtomicU64,
    skipped: AtomicU64,
}

impl Candidate {
    pub(super) fn new(
        route: &str,
        role: Role,
        target: &Arc<Target>,
        percent: Percent,
        bounds: CallBounds,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let model = target.model.name.as_str();
        Self {
            role,
            target: Arc::clone(target),
            percent,
            bounds,
            leg: metrics.leg(route, model, role),
            run: Arc::default(),
            rate: Rate::new(bounds.max_rps),
            skips: metrics.candidate(route, model, role, percent.ratio()),
        }
    }

    /// Goes on with the run-time state of its predecessor in an earlier file.
    pub(super) fn succeed(mut self, earlier: Option<&Candidate>) -> Self {
        if let Some(earlier) = earlier {
            self.run = Arc::clone(&earlier.run);
        }
        self
    }

    /// Counts a request that was drawn for it; how many there were, this one included.
    pub fn sample(&self) -> u64 {
        self.run.sampled.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Requests drawn for it.
    pub fn sampled(&self) -> u64 {
        self.run.sampled.load(Ordering::Relaxed)
    }

    /// Of these, not copied.
    pub fn skipped(&self) -> u64 {
        self.run.skipped.load(Ordering::Relaxed)
    }

    /// The candidate's name.
    pub fn model(&self) -> &ModelName {
        &self.target.model.name
    }

    /// Counts a sampled request that is not copied.
    pub fn skip(&self, reason: SkipReason) {
        self.run.skipped.fetch_add(1, Ordering::Relaxed);
        self.skips[reason as usize].inc();
    }

    /// How often that happened.
    pub fn skips(&self, reason: SkipReason) -> u64 {
        self.skips[reason as usize].get()
    }

    /// Calls under way.
    pub fn in_flight(&self) -> usize {
        self.run.in_flight.load(Ordering::Relaxed)
    }

    /// Whether no call more would be admitted now, so that a copy for it would most likely be in vain.
    pub fn is_full(&self) -> bool {
        self.role != Role::Canary && self.run.in_flight.load(Ordering::Relaxed) >= self.bounds.max_in_flight
    }

    /// Takes a place among the calls under way, and one of this second's.
    pub fn admit(&self) -> Result<(), SkipReason> {
        let max = self.bounds.max_in_flight;
        let enter = |calls: usize| (calls < max).then_some(calls + 1);
        if self.run.in_flight.fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter).is_err() {
            return Err(SkipReason::InFlight);
        }
        if !self.rate.take() {
            self.run.in_flight.fetch_sub(1, Ordering::AcqRel);
            return Err(SkipReason::Rate);
        }
        self.leg.in_flight.inc();
        Ok(())
    }

    /// Gives the place back.
    pub fn leave(&self) {
        self.run.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.leg.in_flight.dec();
    }

    /// What a pair of this candidate is counted under.
    pub fn pair_key(&self, route: &RouteName, result: PairResult) -> PairKey {
        PairKey { route: Some(route.clone()), model: Some(self.model().clone()), role: self.role, result }
    }
}

/// `max_rps`, as evenly spaced permissions with a tenth of a second's worth in hand (the generic cell rate algorithm):
/// one atomic, no timer.
#[derive(Debug)]
struct Rate {
    epoch: Instant,
    interval_ns: u64,
    burst_ns: u64,
    /// When the next permission falls due, in nanoseconds after `epoch`.
    due: AtomicU64,
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let interval_ns = 1_000_000_000_u64.checked_div(u64::from(per_second)).unwrap_or(0);
        Self { epoch: Instant::now(), interval_ns, burst_ns: interval_ns.max(100_000_000), due: AtomicU64::new(0) }
    }

    fn take(&self) -> bool {
        self.take_at(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_at(&self, now: u64) -> bool {
        if self.interval_ns == 0 {
            return true;
        }
        let next = |due: u64| {
            let due = due.max(now.saturating_sub(self.burst_ns));
            (due <= now).then_some(due + self.interval_ns)
        };
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_its_number_a_second_and_no_cap_gives_all() {
        let rate = Rate::new(100);
        let taken = (0..10_000_u64).filter(|i| rate.take_at(1_000_000_000 + i * 1_000_000)).count();
        assert!((1000..=1011).contains(&taken), "{taken} of 10 s at 100 a second");
        let open = Rate::new(0);
        assert!((0..1000).all(|_| open.take_at(0)));
    }
}
