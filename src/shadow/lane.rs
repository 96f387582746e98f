//! A lane: a thread of lowered priority that calls candidates over connections of its own. It takes jobs from its ring,
//! runs each call as a task, and keeps pairs whose prod leg is not over yet until it is. A panic fails one pair, and a
//! lane that dies is begun anew on the same ring.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::analyst::AnalystDoor;
use super::beat::{Lateness, Pulse};
use super::exchange::{HalfPair, Job};
use super::meeting::{LaneContext, Meeting};
use super::ring::{RingReceiver, RingSender, ring};
use super::{MAX_UNDER_WAY, leg};
use crate::budget::Budget;
use crate::lifecycle::{self, LocalTasks, Phase, PhaseWatch, Priority};
use crate::types::{Role, SkipReason};
use crate::upstream::endpoint::Side;
use crate::upstream::pool::Pool;

/// A copy that has waited longer than this is not worth sending: its latency would say nothing.
const STALE: Duration = Duration::from_millis(250);
/// How long jobs gather before the lane looks for more: at thousands a second being woken for each costs more than its
/// call. No leg's time counts it, because each counts from its own request.
const GATHER: Duration = Duration::from_millis(1);
/// How much time lies between two sweeps of the connections.
const SWEEP: Duration = Duration::from_millis(50);

/// A worker's way into a lane.
#[derive(Debug, Clone)]
pub struct LaneDoor {
    ring: RingSender<Job>,
    lateness: Arc<Lateness>,
}

impl LaneDoor {
    /// The sending side of a lane's ring, and how late that lane runs.
    pub(super) fn new(ring: RingSender<Job>, lateness: Arc<Lateness>) -> Self {
        Self { ring, lateness }
    }

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
    let lateness = Lateness::since(Instant::now());
    let door = LaneDoor::new(sender, Arc::clone(&lateness));
    let name = format!("shadowpair-lane-{index}");
    let thread = lifecycle::thread(&name.clone(), Priority::Background, move || {
        lifecycle::restarting(&name, || {
            let context = LaneContext {
                pool: Pool::new(Side::Lane),
                pulse: Pulse::new(Arc::clone(&lateness)),
                budget: Arc::clone(&parts.budget),
                meeting: Meeting::new(parts.analyst.clone()),
                legs: Cell::new(0),
            };
            let lane = Lane { context: Rc::new(context), phase: parts.phase.clone() };
            if let Err(error) = lifecycle::event_loop(lane.run(&receiver)) {
                tracing::error!(%error, "a lane has no event loop");
            }
        });
    })?;
    Ok((door, thread))
}

/// A lane at work.
struct Lane {
    context: Rc<LaneContext>,
    phase: PhaseWatch,
}

impl Lane {
    async fn run(self, ring: &RingReceiver<Job>) {
        let bell = match ring.listen() {
            Ok(bell) => bell,
            Err(error) => {
                tracing::error!(%error, "a lane cannot wait for work");
                return;
            }
        };
        let beating = lifecycle::local(keep_beating(Rc::clone(&self.context)));
        let mut calls = LocalTasks::default();
        while ring.drain(|job| self.begin(job, &mut calls)) {
            calls.reap();
            tokio::time::sleep(GATHER).await;
            if let Err(error) = bell.wait().await {
                tracing::error!(%error, "a lane cannot wait for work");
                break;
            }
        }
        self.finish(calls).await;
        beating.abort();
    }

    fn begin(&self, job: Job, calls: &mut LocalTasks) {
        self.context.pulse.wake();
        if job.offered.elapsed() > STALE {
            job.places.iter().for_each(|place| place.candidate().skip(SkipReason::Lagging));
            return;
        }
        if job.exchange.prod_on_lane {
            calls.start(leg::prod(Rc::clone(&self.context), Arc::clone(&job.exchange)));
        }
        for place in job.places {
            let exchange = Arc::clone(&job.exchange);
            if place.candidate().role == Role::Canary {
                self.context.meeting.half(HalfPair { exchange, place, side: None });
            } else {
                calls.start(leg::candidate(Rc::clone(&self.context), exchange, place));
            }
        }
    }

    /// Every worker is gone: what is under way may finish until the drain ends, then it is cancelled, and every pair
    /// that was begun goes on.
    async fn finish(&self, mut calls: LocalTasks) {
        let mut phase = self.phase.clone();
        tokio::select! {
            () = calls.finish() => {}
            _ = phase.until(|phase| phase == Phase::Ended) => {}
        }
        calls.end().await;
        self.context.meeting.close();
    }
}

/// A beat that dies is begun anew: without it the lane would look late for ever.
async fn keep_beating(lane: Rc<LaneContext>) {
    while lifecycle::local(beat(Rc::clone(&lane))).await.is_err() {
        tracing::error!("a lane's beat panicked and begins anew");
    }
}

async fn beat(lane: Rc<LaneContext>) {
    let mut unswept = Duration::ZERO;
    loop {
        lane.pulse.wait().await;
        let (lag, pause) = lane.pulse.beat(lane.is_idle());
        lane.pool.looked(lag);
        lane.meeting.look();
        unswept += pause;
        if unswept >= SWEEP {
            unswept = Duration::ZERO;
            lane.pool.sweep();
        }
    }
}
