//! A lane: a thread of lowered priority that calls candidates over connections of its own. It takes jobs from its ring,
//! runs each call as a task, and keeps pairs whose prod leg is not over yet until it is. A panic fails one pair, and a
//! lane that dies is begun anew on the same ring.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::analyst::AnalystDoor;
use super::beat::{BEAT, Lateness, Pulse};
use super::exchange::{Exchange, HalfPair, Job, Place};
use super::ring::{RingReceiver, RingSender, ring};
use super::{MAX_UNDER_WAY, leg};
use crate::budget::Budget;
use crate::lifecycle::{self, Phase, PhaseWatch, Priority};
use crate::types::SkipReason;
use crate::upstream::endpoint::Side;
use crate::upstream::pool::Pool;

/// A copy that has waited longer than this is not worth sending: its latency would say nothing.
const STALE: Duration = Duration::from_millis(250);
/// Beats between two sweeps of the connections.
const SWEEP_BEATS: u32 = 10;

/// A worker's way into a lane.
#[derive(Debug, Clone)]
pub struct LaneDoor {
    ring: RingSender<Job>,
    lateness: Arc<Lateness>,
}

impl LaneDoor {
    /// Hands a job over, or gives it back where the ring is full. Never waits.
    pub(super) fn offer(&self, job: Job) -> Result<(), Job> {
        self.ring.offer(job)
    }

    pub(super) fn is_lagging(&self) -> bool {
        self.lateness.is_lagging()
    }

    /// How late the lane runs.
    pub fn lateness(&self) -> &Arc<Lateness> {
        &self.lateness
    }
}

/// What a lane needs.
#[derive(Debug, Clone)]
pub struct LaneParts {
    /// Where whole pairs go.
    pub analyst: AnalystDoor,
    /// For the copies of answers.
    pub budget: Arc<Budget>,
    /// When to end.
    pub phase: PhaseWatch,
}

/// Starts a lane.
pub fn start(index: usize, parts: LaneParts) -> io::Result<(LaneDoor, JoinHandle<()>)> {
    let (sender, receiver) = ring(MAX_UNDER_WAY)?;
    let lateness = Lateness::new();
    let door = LaneDoor { ring: sender, lateness: Arc::clone(&lateness) };
    let name = format!("shadowpair-lane-{index}");
    let thread = lifecycle::thread(&name.clone(), Priority::Background, move || {
        lifecycle::restarting(&name, || {
            let lane = Lane {
                pool: Pool::new(Side::Lane),
                pulse: Pulse::new(Arc::clone(&lateness)),
                parts: parts.clone(),
                waiting: RefCell::default(),
            };
            if let Err(error) = lifecycle::event_loop(Rc::new(lane).run(&receiver)) {
                tracing::error!(%error, "a lane has no event loop");
            }
        });
    })?;
    Ok((door, thread))
}

/// A lane's own state.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) pool: Rc<Pool>,
    pub(super) pulse: Pulse,
    pub(super) parts: LaneParts,
    /// Pairs whose prod leg is not over yet.
    waiting: RefCell<Vec<HalfPair>>,
}

impl Lane {
    async fn run(self: Rc<Self>, ring: &RingReceiver<Job>) {
        let bell = match ring.listen() {
            Ok(bell) => bell,
            Err(error) => {
                tracing::error!(%error, "a lane cannot wait for work");
                return;
            }
        };
        let beating = lifecycle::local(Rc::clone(&self).beat());
        let mut calls = JoinSet::new();
        while ring.drain(|job| self.begin(job, &mut calls)) {
            while calls.try_join_next().is_some() {}
            if let Err(error) = bell.wait().await {
                tracing::error!(%error, "a lane cannot wait for work");
                break;
            }
        }
        self.finish(calls).await;
        beating.abort();
    }

    fn begin(self: &Rc<Self>, job: Job, calls: &mut JoinSet<()>) {
        let stale = job.offered.elapsed() > STALE;
        for place in job.places {
            if stale {
                place.candidate().skip(SkipReason::Lagging);
            } else {
                calls.spawn_local(leg::run(Rc::clone(self), Arc::clone(&job.exchange), place));
            }
        }
    }

    async fn beat(self: Rc<Self>) {
        let mut beats: u32 = 0;
        loop {
            tokio::time::sleep(BEAT).await;
            self.pulse.beat();
            self.match_waiting();
            beats = beats.wrapping_add(1);
            if beats.is_multiple_of(SWEEP_BEATS) {
                self.pool.sweep();
            }
        }
    }

    /// The candidate's leg is over: the pair goes on, or waits for prod's.
    pub(super) fn half(&self, exchange: Arc<Exchange>, place: Place, outcome: leg::Over) {
        let pair = HalfPair { exchange, place, leg: outcome.facts, charge: outcome.charge };
        if pair.exchange.prod.get().is_some() {
            self.parts.analyst.pair(pair);
        } else {
            self.waiting.borrow_mut().push(pair);
        }
    }

    fn match_waiting(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut index = 0;
        while index < waiting.len() {
            if waiting[index].exchange.prod.get().is_some() {
                self.parts.analyst.pair(waiting.swap_remove(index));
            } else {
                index += 1;
            }
        }
    }

    /// Every worker is gone: what is under way may finish until the drain ends, then it is cancelled, and every pair
    /// that was begun goes on.
    async fn finish(&self, mut calls: JoinSet<()>) {
        let mut phase = self.parts.phase.clone();
        tokio::select! {
            () = async { while calls.join_next().await.is_some() {} } => {}
            _ = phase.until(|phase| phase == Phase::Ended) => {}
        }
        calls.shutdown().await;
        // Workers are gone, so prod's legs are over: their guards have filled every slot.
        self.match_waiting();
        for orphan in self.waiting.take() {
            orphan.exchange.prod.fill(leg::lost_prod(&orphan.exchange));
            self.parts.analyst.pair(orphan);
        }
    }
}

/// The lag over the whole of something that started then.
pub(super) fn lag_since(lane: &Lane, since: Instant) -> Duration {
    lane.pulse.worst_since(since)
}
