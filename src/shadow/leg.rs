//! One call beside the answer path, from a complete request to the facts of its leg: a candidate's, the control's, or
//! prod's own where the canary answers.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::exchange::{Exchange, HalfPair, Place, Side, Verdict};
use super::meeting::LaneContext;
use crate::analysis::json;
use crate::budget::Charge;
use crate::metrics::LegMetrics;
use crate::types::{Outcome, Role, SkipReason};
use crate::upstream::answer::Answer;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::capture::Capture;
use crate::upstream::endpoint::Share;
use crate::upstream::error::CallError;
use crate::upstream::trace::{Ending, Trace};
use crate::upstream::{Call, Calling, Limits, Target, headers};

/// Runs one candidate's call. However it ends, the pair goes on: also when the task is dropped half-way, or before it
/// has begun. For that it is no `async fn`, whose arguments would be dropped without a word.
pub(super) fn candidate(lane: Rc<LaneContext>, exchange: Arc<Exchange>, place: Place) -> impl Future<Output = ()> {
    let asks = Asks {
        target: Arc::clone(&place.candidate().target),
        role: place.candidate().role,
        timeout: place.candidate().bounds.timeout,
    };
    let mut leg = Leg::new(lane, exchange, asks, Some(place));
    async move {
        let came = match leg.body() {
            Ok(body) => leg.ask(body).await,
            Err(reason) => {
                leg.refused = Some(reason);
                leg.without_answer(Outcome::Cancelled)
            }
        };
        leg.end(came);
    }
}

/// Asks prod beside a canary that answers, once for all who need it, as soon as it is known that the canary does. The
/// request is unmarked, so that prod sees the traffic that it always saw.
pub(super) fn prod(lane: Rc<LaneContext>, exchange: Arc<Exchange>) -> impl Future<Output = ()> {
    let asks = Asks { target: Arc::clone(&exchange.route.prod.target), role: Role::Prod, timeout: None };
    let mut leg = Leg::new(lane, exchange, asks, None);
    async move {
        if leg.lane.meeting.verdict(&leg.exchange).await == Verdict::Worker {
            return leg.stand_down();
        }
        let came = match leg.body() {
            Ok(body) => {
                leg.exchange.route.prod.metrics.in_flight.inc();
                leg.counted = true;
                leg.ask(body).await
            }
            // Not for prod.
            Err(_) => leg.without_answer(Outcome::Cancelled),
        };
        leg.end(came);
    }
}

/// Who is asked, and for what.
struct Asks {
    target: Arc<Target>,
    role: Role,
    /// For the whole leg.
    timeout: Option<Duration>,
}

/// A call under way.
struct Leg {
    trace: Rc<Trace>,
    lane: Rc<LaneContext>,
    exchange: Arc<Exchange>,
    asks: Asks,
    /// The candidate's place; none where prod is asked.
    place: Option<Place>,
    over: bool,
    /// Whether it stands among prod's calls under way.
    counted: bool,
    /// Why it was not made after all.
    refused: Option<SkipReason>,
}

/// How a call came out, with its answer's copy.
struct Came {
    ending: Ending,
    charge: Option<Charge>,
}

impl Leg {
    fn new(lane: Rc<LaneContext>, exchange: Arc<Exchange>, asks: Asks, place: Option<Place>) -> Self {
        let trace = Trace::start(exchange.arrived);
        lane.legs.set(lane.legs.get() + 1);
        Self { trace, lane, exchange, asks, place, over: false, counted: false, refused: None }
    }

    /// The body that goes out, rewritten where the model wants that. What cannot be goes to prod and to its control as it came,
    /// as on the answer path.
    fn body(&self) -> Result<LegBody, SkipReason> {
        let (exchange, trace) = (&self.exchange, Rc::clone(&self.trace));
        let (edits, framing) = (&self.asks.target.model.rewrite.json, exchange.framing);
        let (body, trailers) = (exchange.body(), exchange.trailers.clone());
        if edits.is_empty() || framing == Framing::None {
            return Ok(LegBody::whole(body, trailers, framing, trace));
        }
        match json::rewrite(&body, edits) {
            Ok(new) => Ok(LegBody::rewritten(new, trailers, framing, trace)),
            Err(_) if matches!(self.asks.role, Role::Prod | Role::Control) => {
                Ok(LegBody::whole(body, trailers, framing, trace))
            }
            Err(_) => Err(SkipReason::RewriteFailed),
        }
    }

    async fn ask(&mut self, body: LegBody) -> Came {
        self.trace.starts();
        let (target, role) = (Arc::clone(&self.asks.target), self.asks.role);
        let prefix = self.exchange.route.prefix();
        let inbound = headers::Inbound { framing: body.framing(), ..self.exchange.inbound() };
        let head = headers::request(&inbound, &target.model, role, prefix, body.is_rewritten());
        let limits = Limits { model: target.model.timeout, leg: self.asks.timeout.unwrap_or(Duration::ZERO) };
        // Whatever of prod runs on a lane leaves the last fifth of its connections to the answer path.
        let guest = matches!(role, Role::Control | Role::Prod);
        let asked = Call {
            head,
            body,
            limits,
            last_resort: false,
            share: if guest { Share::Guest } else { Share::Whole },
            waits: false,
            avoid: None,
            api: self.exchange.route.rule.api,
        };
        match Calling::new(&self.lane.pool, &target, asked).answer().await {
            Ok(answer) => self.read(answer).await,
            Err(error) => {
                self.refused = match error {
                    CallError::Unhealthy => Some(SkipReason::Unhealthy),
                    CallError::NoRoom => Some(SkipReason::InFlight),
                    _ => None,
                };
                self.without_answer(error.outcome())
            }
        }
    }

    /// Nobody needs it after all.
    fn stand_down(&mut self) {
        self.over = true;
    }

    fn without_answer(&self, outcome: Outcome) -> Came {
        Came { ending: Ending::without_answer(outcome, Duration::ZERO), charge: None }
    }

    /// Reads the whole answer, and keeps what `copy_body` and the budget allow.
    async fn read(&self, answer: Answer) -> Came {
        let Answer { head, mut body } = answer;
        let copy_body = self.exchange.route.rule.copy_body;
        let mut capture = Capture::new(copy_body, self.lane.budget.charge());
        while let Some(Ok(frame)) = poll_fn(|cx| body.poll_next(cx)).await {
            if let Some(data) = frame.data_ref() {
                capture.push(data);
            }
        }
        let (copy, charge) = capture.finish(matches!(body.ended(), Some(Ok(()))));
        let ending = Ending {
            outcome: body.outcome(),
            status: Some(head.status.as_u16()),
            grpc_status: body.grpc_status(),
            headers: head.headers,
            bytes: body.bytes(),
            body: copy,
            lag: Duration::ZERO,
        };
        Came { ending, charge: Some(charge) }
    }

    fn end(&mut self, came: Came) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let route = Arc::clone(&self.exchange.route);
        let mut place = self.place.take();
        if let Some(place) = &mut place {
            place.call_over();
            if let Some(reason) = self.refused {
                return place.candidate().skip(reason);
            }
        } else if self.counted {
            route.prod.metrics.in_flight.dec();
        }
        self.trace.ends();
        let lag = self.lane.pulse.worst_since(self.trace.started());
        let outcome = blameless(came.ending.outcome, lag, self.asks.timeout);
        let ending = Ending { outcome, lag, ..came.ending };
        count(place.as_ref().map_or(&route.prod.metrics, |place| &place.candidate().leg), outcome, &self.trace);
        let leg = self.trace.facts(&self.asks.target.model, self.asks.role, ending);
        let side = Side { leg, charge: came.charge };
        match place {
            Some(place) => {
                let exchange = Arc::clone(&self.exchange);
                self.lane.meeting.half(HalfPair { exchange, place, side: Some(side) });
            }
            None => self.exchange.sides.prod.fill(side),
        }
    }
}

fn count(metrics: &LegMetrics, outcome: Outcome, trace: &Trace) {
    metrics.total[outcome as usize].inc();
    if let Some(duration) = trace.to_end() {
        metrics.duration.get().observe(duration.as_secs_f64());
    }
    if let Some(duration) = trace.to_first_byte() {
        metrics.first_byte.get().observe(duration.as_secs_f64());
    }
}

/// A time limit that ran out while our own thread was late by a tenth of it says nothing about the model.
fn blameless(outcome: Outcome, lag: Duration, limit: Option<Duration>) -> Outcome {
    match (outcome, limit) {
        (Outcome::Timeout, Some(limit)) if lag > limit / 10 => Outcome::Unmeasured,
        (outcome, _) => outcome,
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.over {
            // Dropped by the end of the drain, or by a panic: our doing, not the model's.
            let outcome = if std::thread::panicking() { Outcome::Unmeasured } else { Outcome::Cancelled };
            let came = self.without_answer(outcome);
            self.end(came);
        }
        self.lane.legs.set(self.lane.legs.get().saturating_sub(1));
    }
}
