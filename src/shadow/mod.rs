//! Floor 4: the copy. Its story: at a request's head [`Shadow::sample`] draws who is asked and sheds what could not be
//! served anyway, before a byte is copied; when the request's body is complete, [`Shadow::offer`] hands one job over to
//! a lane and returns at once; the lane calls the candidates, meets prod's leg in a shared slot, and passes whole pairs
//! to the analysis thread, which makes the record. Nothing here can make an answer wait.

pub mod admission;
mod analyst;
mod beat;
pub mod exchange;
pub mod lane;
mod leg;
mod meeting;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use self::admission::Admission;
pub use self::analyst::{Analyst, start as start_analyst};
use self::exchange::{Exchange, Job, Place};
pub use self::lane::{LaneDoor, start as start_lane};
use crate::record::Tally;
use crate::snapshot::RouteState;
use crate::types::{Percent, Role, SkipReason};
use crate::upload::Ended;

/// Pairs that may be under way between the answer path and the sink's queue. It bounds every queue between them, so
/// that a pair once begun is never refused half-way.
pub const MAX_UNDER_WAY: usize = 16_384;

/// Counts the pairs between the answer path and the sink's queue.
#[derive(Debug, Default)]
pub struct Pipeline(AtomicUsize);

impl Pipeline {
    /// Pairs under way.
    pub fn under_way(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A place for one more, where there is one. A request's head alone cannot tell: it may be among thousands whose
    /// bodies end together.
    fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // Dropped where there is no room, which takes the addition back.
        let ticket = Ticket(Arc::clone(self));
        (before < MAX_UNDER_WAY).then_some(ticket)
    }
}

/// One pair under way.
#[derive(Debug)]
pub struct Ticket(Arc<Pipeline>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One candidate that a request was drawn for.
#[derive(Debug, Clone, Copy)]
pub struct Pick {
    /// Its index among the route's candidates.
    pub candidate: usize,
    /// The share under which it was drawn.
    pub percent: Percent,
    /// Running counts at that moment.
    pub tally: Tally,
}

/// A worker's way to the shadows.
#[derive(Debug, Clone)]
pub struct Shadow {
    lane: LaneDoor,
    pipeline: Arc<Pipeline>,
    admission: Arc<Admission>,
}

impl Shadow {
    /// By way of this lane.
    pub fn new(lane: LaneDoor, pipeline: Arc<Pipeline>, admission: Arc<Admission>) -> Self {
        Self { lane, pipeline, admission }
    }

    /// Draws who is asked beside prod. One draw serves all shadows of a route, so that those at 10 % are among those at
    /// 20 %; the control has a draw of its own.
    ///
    /// On the canary's arm (`canary`) its answers are sampled too, and a shadow of the same model is not: it is called
    /// once for a request.
    pub fn sample(&self, route: &RouteState, body: Option<u64>, draining: bool, canary: bool) -> Vec<Pick> {
        let seen = route.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if route.candidates.is_empty() {
            return Vec::new();
        }
        let shadows = fastrand::u16(..10_000);
        let model = route.canary.as_ref().filter(|_| canary).map(|leg| &leg.target.model.name);
        let drawn = route.candidates.iter().enumerate().filter(|(_, candidate)| {
            let draw = match candidate.role {
                Role::Canary if !canary => return false,
                Role::Shadow if Some(candidate.model()) == model => return false,
                Role::Shadow => shadows,
                _ => fastrand::u16(..10_000),
            };
            draw < candidate.percent.basis_points()
        });
        let kept = drawn.filter_map(|(index, candidate)| {
            let sampled = candidate.sample();
            let full = candidate.is_full().then_some(SkipReason::InFlight);
            if let Some(reason) = self.sheds(body, route.rule.copy_body, draining).or(full) {
                candidate.skip(reason);
                return None;
            }
            let skipped = candidate.skipped();
            Some(Pick { candidate: index, percent: candidate.percent, tally: Tally { seen, sampled, skipped } })
        });
        kept.collect()
    }

    /// Why a copy would be in vain, as far as the head tells.
    fn sheds(&self, body: Option<u64>, copy_body: usize, draining: bool) -> Option<SkipReason> {
        if draining {
            Some(SkipReason::Draining)
        } else if body.is_some_and(|bytes| bytes > copy_body as u64) {
            Some(SkipReason::BodyTooLarge)
        } else if self.lane.is_lagging() || !self.admission.admits() {
            Some(SkipReason::Lagging)
        } else if self.pipeline.under_way() >= MAX_UNDER_WAY {
            Some(SkipReason::QueueFull)
        } else {
            None
        }
    }

    /// Hands a complete request over to the lane. Never waits; what it refuses is counted, by reason.
    pub fn offer(
        &self,
        route: &Arc<RouteState>,
        picks: &[Pick],
        ended: Ended,
        exchange: impl FnOnce(Ended) -> Exchange,
    ) {
        let (bytes, reserve) = match &ended.copy {
            Ok(copied) => (copied.body.len(), copied.charge.sibling()),
            Err(reason) => return skip_all(route, picks, *reason),
        };
        let places = picks.iter().filter_map(|pick| {
            let candidate = &route.candidates[pick.candidate];
            let ticket = self.pipeline.enter().ok_or(SkipReason::QueueFull);
            let admitted = ticket.and_then(|ticket| match candidate.role {
                Role::Canary => Ok(ticket),
                _ => candidate.admit().map(|()| ticket),
            });
            match admitted {
                Ok(ticket) => Some(Place::new(route, *pick, reserve.sibling(), ticket)),
                Err(reason) => {
                    candidate.skip(reason);
                    None
                }
            }
        });
        let mut places: Vec<Place> = places.collect();
        if places.is_empty() {
            return;
        }
        let mut exchange = exchange(ended);
        let fits = exchange.charge_head();
        places.retain_mut(|place| {
            let reserved = fits && place.reserve(bytes);
            if !reserved {
                place.candidate().skip(SkipReason::Memory);
            }
            reserved
        });
        if places.is_empty() {
            return;
        }
        let job = Job { exchange: Arc::new(exchange), places, offered: Instant::now() };
        if let Err(job) = self.lane.offer(job) {
            job.places.iter().for_each(|place| place.candidate().skip(SkipReason::QueueFull));
        }
    }
}

/// Counts these as skipped.
pub fn skip_all(route: &RouteState, picks: &[Pick], reason: SkipReason) {
    picks.iter().for_each(|pick| route.candidates[pick.candidate].skip(reason));
}
