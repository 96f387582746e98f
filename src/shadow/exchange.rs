//! What crosses from the answer path: the request, whole and immutable, and the slots in which the legs will stand.
//! A slot is written once and read by the lane; neither side ever waits for the other.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Version};

use super::{Pick, Ticket};
use crate::analysis::material::{AnsweredFacts, Captured, LegFacts, RequestFacts};
use crate::budget::Charge;
use crate::snapshot::RouteState;
use crate::snapshot::candidate::Candidate;
use crate::types::{Arm, Role, SkipReason};
use crate::upstream::LANE_CALL_BYTES;
use crate::upstream::body::Framing;
use crate::upstream::headers::{Inbound, Peer};

/// What one kept header line takes beyond its text, in bytes: a guess that leans to the large side.
const FIELD_OVERHEAD: usize = 96;

/// What a record takes beside its bodies, in bytes.
const RECORD_OVERHEAD: usize = 2048;

/// One request, as its candidates and its pairs see it.
#[derive(Debug)]
pub struct Exchange {
    /// Its route.
    pub route: Arc<RouteState>,
    /// What the record says of it.
    pub request: RequestFacts,
    /// What the sticky key was assigned to.
    pub arm: Arm,
    /// Where it fell.
    pub bucket: Option<u16>,
    /// When its head arrived.
    pub arrived: Instant,
    /// The host it asked for.
    pub host: HeaderValue,
    /// Whether the client can take trailers.
    pub wants_trailers: bool,
    /// Who connected.
    pub peer: Peer,
    /// Whether the peer's `x-forwarded-*` are believed.
    pub trusted: bool,
    /// How the body was framed.
    pub framing: Framing,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
    /// Whether prod is asked on the lane, should the canary answer.
    pub prod_on_lane: bool,
    /// What its pairs wait for.
    pub sides: Arc<Sides>,
    /// What all this takes of the budget.
    pub charge: Charge,
}

impl Exchange {
    /// The request, as a leg's head is built from it.
    pub fn inbound(&self) -> Inbound<'_> {
        let head = &*self.request.head;
        Inbound {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            host: &self.host,
            wants_trailers: self.wants_trailers,
            peer: &self.peer,
            trusted: self.trusted,
            id: &self.request.id,
            framing: self.framing,
            http2: head.version == Version::HTTP_2,
        }
    }

    /// Charges the head, where it fits.
    pub(super) fn charge_head(&mut self) -> bool {
        let head = &*self.request.head;
        let fields = head.headers.iter();
        let bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum();
        let uri = &head.uri;
        let authority = uri.authority().map_or(0, |authority| "http://".len() + authority.as_str().len());
        self.charge.grow(bytes + authority + uri.path_and_query().map_or(0, |target| target.as_str().len()))
    }

    /// The request's body; empty where none was kept.
    pub fn body(&self) -> bytes::Bytes {
        match &self.request.body {
            Captured::Whole(body) => body.clone(),
            Captured::Pieces(pieces) => pieces.concat().into(),
            Captured::Partial(_) | Captured::TooLarge | Captured::NotCaptured => bytes::Bytes::new(),
        }
    }
}

/// One leg of a pair, and what its answer's copy takes of the budget.
#[derive(Debug)]
pub struct Side {
    /// The leg.
    pub leg: LegFacts,
    /// What the answer's copy takes.
    pub charge: Option<Charge>,
}

/// Where one leg will stand.
#[derive(Debug, Default)]
pub struct Slot(OnceLock<Side>);

impl Slot {
    /// Puts a leg in; the first one stays.
    pub fn fill(&self, side: Side) {
        // A second one can only be a guard's own after a regular end.
        let _ = self.0.set(side);
    }

    /// The leg, once it is there.
    pub fn get(&self) -> Option<&Side> {
        self.0.get()
    }
}

/// Who asks prod, where the client is on the canary's arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The canary answers, so prod is asked on the lane, once for all who need it.
    Lane,
    /// The worker has asked prod itself, or nobody does.
    Worker,
}

/// What an exchange's pairs wait for: written once by whoever knows it, read by the lane; nobody waits for anybody.
#[derive(Debug, Default)]
pub struct Sides {
    /// Prod's leg.
    pub prod: Slot,
    /// The canary's leg, on the canary's arm.
    pub canary: Slot,
    answered: OnceLock<AnsweredFacts>,
    verdict: OnceLock<Verdict>,
    passed_by: OnceLock<SkipReason>,
}

impl Sides {
    /// Nothing is known yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Says who asks prod; the first word stays, and is returned.
    pub fn decide(&self, verdict: Verdict) -> Verdict {
        *self.verdict.get_or_init(|| verdict)
    }

    /// Who asks prod, once that is known.
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.get().copied()
    }

    /// Says that the canary is not asked after all: its pair is none, and counted as skipped for this reason.
    pub fn pass_canary_by(&self, reason: SkipReason) {
        // Said once for a request.
        let _ = self.passed_by.set(reason);
    }

    /// Says what the client got.
    pub fn answered(&self, facts: AnsweredFacts) {
        // A second word can only be a guard's own after a regular end.
        let _ = self.answered.set(facts);
    }

    /// What the client got, once that is known.
    pub fn answer(&self) -> Option<&AnsweredFacts> {
        self.answered.get()
    }
}

/// A candidate's place in an exchange: it holds the candidate's permission until its call is over, and the pair's
/// ticket until the pair is in the sink's queue.
#[derive(Debug)]
pub struct Place {
    route: Arc<RouteState>,
    /// How it was drawn.
    pub pick: Pick,
    /// What is kept free for the pair's record, so that a pair once begun is not refused for want of memory.
    pub reserve: Charge,
    /// What its call takes beside the copies.
    call: Charge,
    in_flight: bool,
    _ticket: Ticket,
}

impl Place {
    pub(super) fn new(route: &Arc<RouteState>, pick: Pick, reserve: Charge, ticket: Ticket) -> Self {
        // The canary's own call is the worker's; only its pair is made here.
        let in_flight = route.candidates[pick.candidate].role != Role::Canary;
        Self { route: Arc::clone(route), pick, call: reserve.sibling(), reserve, in_flight, _ticket: ticket }
    }

    /// Keeps room free for the call, and for a record with a request body of so many bytes; a quarter more is for what JSON escapes.
    pub(super) fn reserve(&mut self, body: usize) -> bool {
        let capture = &self.route.rule.capture;
        let recorded = if capture.request { body.min(capture.max_body) } else { 0 };
        (!self.in_flight || self.call.grow(LANE_CALL_BYTES))
            && self.reserve.grow(RECORD_OVERHEAD + recorded + recorded / 4)
    }

    /// The candidate.
    pub fn candidate(&self) -> &Candidate {
        &self.route.candidates[self.pick.candidate]
    }

    /// Its call is over.
    pub(super) fn call_over(&mut self) {
        if std::mem::replace(&mut self.in_flight, false) {
            self.call.shrink_to(0);
            self.candidate().leave();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.call_over();
    }
}

/// What a lane is asked to do.
#[derive(Debug)]
pub struct Job {
    /// The request.
    pub exchange: Arc<Exchange>,
    /// Who is asked.
    pub places: Vec<Place>,
    /// When it crossed.
    pub offered: Instant,
}

/// A pair that waits for the other leg.
#[derive(Debug)]
pub struct HalfPair {
    /// The request.
    pub exchange: Arc<Exchange>,
    /// The candidate's place.
    pub place: Place,
    /// The candidate's leg; none where it is the canary's, which stands in its slot.
    pub side: Option<Side>,
}

impl HalfPair {
    /// Why it will be none: it waits for the canary's leg, which was not asked.
    pub(super) fn passed_by(&self) -> Option<SkipReason> {
        if self.side.is_some() { None } else { self.exchange.sides.passed_by.get().copied() }
    }

    /// Whether everything that it waits for is there.
    pub(super) fn is_whole(&self) -> bool {
        let sides = &self.exchange.sides;
        let candidate = self.side.is_some() || sides.canary.get().is_some();
        candidate && sides.prod.get().is_some() && sides.answer().is_some()
    }
}
