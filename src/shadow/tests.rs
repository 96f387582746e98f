//! What the two doors refuse, each reason by itself: without a thread and without time, on a lane that only seems to run.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request};

use super::admission::Admission;
use super::beat::{LAGGING, Lateness};
use super::exchange::{Exchange, Job, Sides};
use super::lane::LaneDoor;
use super::ring::{RingReceiver, ring};
use super::{MAX_UNDER_WAY, Pick, Pipeline, Shadow};
use crate::analysis::material::{Captured, RequestFacts};
use crate::budget::Budget;
use crate::config::load;
use crate::ledger::Ledger;
use crate::logging::dropped_lines;
use crate::metrics::Metrics;
use crate::snapshot::{RouteState, Snapshot};
use crate::types::{Arm, RequestId, SkipReason};
use crate::upload::{Copied, Ended};
use crate::upstream::body::Framing;
use crate::upstream::headers::Peer;

const FILE: &str = "version: 1
models: {p: {endpoints: [\"http://127.0.0.1:1\"]}, c: {endpoints: [\"http://127.0.0.1:2\"]}}
routes: [{name: r, prod: p, shadow: [{model: c, percent: 100}]}]
";

/// A worker's way to a lane that takes nothing from its ring.
struct Rig {
    route: Arc<RouteState>,
    budget: Arc<Budget>,
    pipeline: Arc<Pipeline>,
    lateness: Arc<Lateness>,
    shadow: Shadow,
    ring: RingReceiver<Job>,
}

impl Rig {
    fn new(places: usize) -> Self {
        let config = load::from_str("shadow.yaml", FILE).unwrap().config;
        let metrics = Metrics::new(dropped_lines().unwrap()).unwrap();
        let snapshot = Snapshot::build(&config, &metrics, &Ledger::default(), None);
        let (sender, ring) = ring(places).unwrap();
        let (pipeline, lateness) = (Arc::new(Pipeline::default()), Lateness::since(Instant::now()));
        let shadow = Shadow::new(LaneDoor::new(sender, Arc::clone(&lateness)), Arc::clone(&pipeline), Admission::new());
        let rig = Self {
            route: Arc::clone(&snapshot.routes[0]),
            budget: Budget::new(1 << 20),
            pipeline,
            lateness,
            shadow,
            ring,
        };
        rig.runs_late_by(Duration::ZERO);
        rig
    }

    /// The lane's last beat was so late. The next one is not due within this test, however slow the machine.
    fn runs_late_by(&self, lag: Duration) {
        let now = Instant::now();
        self.lateness.beat(now, lag, now + Duration::from_secs(3600));
    }

    fn sample(&self, draining: bool) -> Vec<Pick> {
        self.shadow.sample(&self.route, Some(2), draining, false)
    }

    fn offer(&self, picks: &[Pick]) {
        let mut charge = self.budget.charge();
        assert!(charge.grow(2));
        let copy = Ok(Copied { body: Bytes::from_static(b"{}"), charge });
        self.shadow.offer(&self.route, picks, Ended { copy, trailers: None, bytes: 2 }, |ended| self.exchange(ended));
    }

    fn exchange(&self, ended: Ended) -> Exchange {
        let Copied { body, charge } = ended.copy.unwrap();
        Exchange {
            route: Arc::clone(&self.route),
            request: RequestFacts {
                id: RequestId::from_client(b"r-1").unwrap(),
                time: SystemTime::now(),
                head: Arc::new(Request::post("/").body(()).unwrap().into_parts().0),
                protocol: "http/1.1",
                bytes: ended.bytes,
                body: Captured::Whole(body),
            },
            arm: Arm::Prod,
            bucket: None,
            arrived: Instant::now(),
            host: HeaderValue::from_static("t"),
            wants_trailers: false,
            peer: Peer::new(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            trusted: false,
            framing: Framing::Length(2),
            trailers: None,
            prod_on_lane: false,
            sides: Sides::new(),
            charge,
        }
    }

    /// Copies refused, for this reason and for any.
    fn skipped(&self, reason: SkipReason) -> (u64, u64) {
        let candidate = &self.route.candidates[0];
        (candidate.skips(reason), candidate.skipped())
    }

    /// Pairs under way, calls under way, and bytes.
    fn held(&self) -> (usize, usize, usize) {
        (self.pipeline.under_way(), self.route.candidates[0].in_flight(), self.budget.used())
    }
}

#[test]
fn a_lane_that_runs_later_than_its_bound_is_given_nothing() {
    let rig = Rig::new(1);
    rig.runs_late_by(LAGGING);
    assert_eq!(rig.sample(false).len(), 1, "just as late as allowed");
    rig.runs_late_by(LAGGING + Duration::from_millis(1));
    assert!(rig.sample(false).is_empty());
    assert_eq!(rig.skipped(SkipReason::Lagging), (1, 1));
    rig.runs_late_by(Duration::ZERO);
    let picks = rig.sample(false);
    let tally = picks[0].tally;
    assert_eq!((tally.seen, tally.sampled, tally.skipped), (3, 3, 1), "in time again, and the next pair tells of it");
    assert_eq!(rig.held(), (0, 0, 0), "a draw alone holds nothing");
}

#[test]
fn a_lane_whose_beat_is_overdue_is_late_before_it_says_so() {
    let rig = Rig::new(1);
    let before = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
    // A lane that began at that moment and has not beaten since.
    let lateness = Lateness::since(before);
    let shadow = Shadow::new(LaneDoor::new(ring(1).unwrap().0, lateness), Arc::clone(&rig.pipeline), Admission::new());
    assert!(shadow.sample(&rig.route, Some(2), false, false).is_empty());
    assert_eq!(rig.skipped(SkipReason::Lagging), (1, 1));
}

#[test]
fn in_a_drain_nothing_is_copied_whatever_else_holds() {
    let rig = Rig::new(1);
    rig.runs_late_by(Duration::from_secs(1));
    assert!(rig.sample(true).is_empty());
    assert_eq!(rig.skipped(SkipReason::Draining), (1, 1));
}

#[test]
fn with_as_many_pairs_under_way_as_there_may_be_nothing_is_copied() {
    let rig = Rig::new(1);
    let mut under_way: Vec<_> = (0..MAX_UNDER_WAY).filter_map(|_| rig.pipeline.enter()).collect();
    assert!(rig.sample(false).is_empty());
    assert_eq!(rig.skipped(SkipReason::QueueFull), (1, 1));
    under_way.pop();
    assert_eq!(rig.sample(false).len(), 1, "one has reached the sink");
}

#[test]
fn what_was_drawn_while_there_was_room_does_not_break_the_bound_later() {
    let rig = Rig::new(2);
    let _under_way: Vec<_> = (1..MAX_UNDER_WAY).filter_map(|_| rig.pipeline.enter()).collect();
    // Both bodies are still on their way when there is room for one.
    let (first, second) = (rig.sample(false), rig.sample(false));
    rig.offer(&first);
    rig.offer(&second);
    assert_eq!(rig.held().0, MAX_UNDER_WAY);
    assert_eq!(rig.held().1, 1, "the refused one gives its call back");
    assert_eq!(rig.skipped(SkipReason::QueueFull), (1, 1));
}

#[test]
fn a_full_ring_gives_back_all_that_a_copy_holds() {
    let rig = Rig::new(1);
    // Both were drawn while there was room: their bodies come later.
    let (first, second) = (rig.sample(false), rig.sample(false));
    rig.offer(&first);
    let one = rig.held();
    assert_eq!((one.0, one.1), (1, 1));
    assert!(one.2 > 0);
    rig.offer(&second);
    assert_eq!(rig.held(), one);
    assert_eq!(rig.skipped(SkipReason::QueueFull), (1, 1));
    let mut jobs = Vec::new();
    assert!(rig.ring.drain(|job| jobs.push(job)));
    assert_eq!(jobs.len(), 1);
    drop(jobs);
    assert_eq!(rig.held(), (0, 0, 0));
    rig.offer(&second);
    assert_eq!(rig.skipped(SkipReason::QueueFull), (1, 1), "there is room again");
}

#[test]
fn a_lane_that_is_gone_is_a_full_one() {
    let mut rig = Rig::new(1);
    // Its receiver goes, as that of a thread that has no event loop does.
    rig.ring = ring(1).unwrap().1;
    rig.offer(&rig.sample(false));
    assert_eq!(rig.skipped(SkipReason::QueueFull), (1, 1));
    assert_eq!(rig.held(), (0, 0, 0));
}
