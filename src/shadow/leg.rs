//! One candidate's call, from a complete request to the facts of its leg.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::exchange::{Exchange, HalfPair, Place};
use super::meeting::LaneContext;
use crate::analysis::json;
use crate::analysis::material::Captured;
use crate::budget::Charge;
use crate::config::routing::PathMatch;
use crate::types::{Outcome, Role, SkipReason};
use crate::upstream::answer::Answer;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::capture::Capture;
use crate::upstream::endpoint::Share;
use crate::upstream::error::CallError;
use crate::upstream::trace::{Ending, Trace};
use crate::upstream::{Call, Limits, call, headers};

/// Runs one candidate's call. However it ends, the pair goes on: also when the task is dropped half-way, or before it
/// has begun. For that it is no `async fn`, whose arguments would be dropped without a word.
pub(super) fn run(lane: Rc<LaneContext>, exchange: Arc<Exchange>, place: Place) -> impl Future<Output = ()> {
    let mut leg = Leg { trace: Trace::start(exchange.arrived), lane, exchange, place: Some(place), refused: None };
    async move {
        let ending = match leg.place.as_ref().map(|place| leg_body(&leg.exchange, place)) {
            Some(Ok((framing, body))) => {
                leg.trace = Trace::start(leg.exchange.arrived);
                leg.ask(framing, body).await
            }
            Some(Err(reason)) => {
                leg.refused = Some(reason);
                leg.without_answer(Outcome::Cancelled)
            }
            None => leg.without_answer(Outcome::Cancelled),
        };
        leg.end(ending);
    }
}

/// The body that goes out, rewritten where the model wants that.
fn leg_body(exchange: &Exchange, place: &Place) -> Result<(Framing, Bytes), SkipReason> {
    let edits = &place.candidate().target.model.rewrite.json;
    let body = exchange.body();
    if edits.is_empty() || exchange.framing == Framing::None {
        return Ok((exchange.framing, body));
    }
    let rewritten = json::rewrite(&body, edits).map_err(|_| SkipReason::RewriteFailed)?;
    let framing = match exchange.framing {
        Framing::Length(_) => Framing::Length(rewritten.len() as u64),
        other => other,
    };
    Ok((framing, Bytes::from(rewritten)))
}

/// A call under way.
struct Leg {
    trace: Rc<Trace>,
    lane: Rc<LaneContext>,
    exchange: Arc<Exchange>,
    /// Taken when the call is over.
    place: Option<Place>,
    /// Why it was not made after all.
    refused: Option<SkipReason>,
}

/// How a call came out, with its answer's copy.
struct Came {
    ending: Ending,
    charge: Option<Charge>,
}

impl Leg {
    async fn ask(&mut self, framing: Framing, body: Bytes) -> Came {
        let Some(place) = &self.place else { return self.without_answer(Outcome::Cancelled) };
        let candidate = place.candidate();
        let control = candidate.role == Role::Control;
        let rewritten = !candidate.target.model.rewrite.json.is_empty();
        let prefix = match &self.exchange.route.rule.matcher.path {
            PathMatch::Prefix(prefix) => Some(prefix.as_str()),
            PathMatch::Any | PathMatch::Exact(_) => None,
        };
        let inbound = headers::Inbound { framing, ..self.exchange.inbound() };
        let head = headers::request(&inbound, &candidate.target.model, candidate.role, prefix, rewritten);
        let limits =
            Limits { model: candidate.target.model.timeout, leg: candidate.bounds.timeout.unwrap_or(Duration::ZERO) };
        let asked = Call {
            head,
            body: LegBody::whole(body, self.exchange.trailers.clone(), framing, Rc::clone(&self.trace)),
            limits,
            last_resort: false,
            share: if control { Share::Guest } else { Share::Whole },
            waits: false,
        };
        let target = Arc::clone(&candidate.target);
        match call(&self.lane.pool, &target, asked).await {
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

    fn without_answer(&self, outcome: Outcome) -> Came {
        let ending = Ending {
            outcome,
            status: None,
            grpc_status: None,
            headers: HeaderMap::new(),
            bytes: 0,
            body: Captured::Partial(Bytes::new()),
            lag: Duration::ZERO,
        };
        Came { ending, charge: None }
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
        let Some(mut place) = self.place.take() else { return };
        place.call_over();
        if let Some(reason) = self.refused {
            return place.candidate().skip(reason);
        }
        self.trace.ends();
        let lag = self.lane.pulse.worst_since(self.trace.started());
        let outcome = blameless(came.ending.outcome, lag, place.candidate().bounds.timeout);
        let ending = Ending { outcome, lag, ..came.ending };
        let candidate = place.candidate();
        candidate.leg.total[outcome as usize].inc();
        if let Some(duration) = self.trace.to_end() {
            candidate.leg.duration.get().observe(duration.as_secs_f64());
        }
        if let Some(duration) = self.trace.to_first_byte() {
            candidate.leg.first_byte.get().observe(duration.as_secs_f64());
        }
        let facts = self.trace.facts(&candidate.target.model, candidate.role, ending);
        self.lane.meeting.half(HalfPair {
            exchange: Arc::clone(&self.exchange),
            place,
            leg: facts,
            charge: came.charge,
        });
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
        if self.place.is_some() {
            // Dropped by the end of the drain, or by a panic: our doing, not the model's.
            let outcome = if std::thread::panicking() { Outcome::Unmeasured } else { Outcome::Cancelled };
            let came = self.without_answer(outcome);
            self.end(came);
        }
    }
}
