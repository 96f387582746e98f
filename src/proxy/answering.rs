//! The guard of one request: whichever way it ends, also when the client leaves and everything is dropped, its metrics
//! are written once, each of its calls is counted, and what its pairs wait for is filled in.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::analysis::material::{AnsweredFacts, Captured};
use crate::budget::Charge;
use crate::config::routing::Model;
use crate::listener::io::{RequestGuard, Sending};
use crate::logging::limited;
use crate::metrics::local::LocalRoute;
use crate::shadow::exchange::{Side, Sides, Verdict};
use crate::snapshot::{Leg, RouteState};
use crate::types::{AnsweredBy, Outcome, RequestId, Role};
use crate::upload::Upload;
use crate::upstream::answer::AnswerBody;
use crate::upstream::capture::Capture;
use crate::upstream::trace::{Ending, Trace};

/// What a client that left is counted as.
const CLIENT_LEFT: u16 = 499;

/// One request, from its head to its answer's last byte.
pub struct Answering {
    metrics: Rc<LocalRoute>,
    arrived: Instant,
    connection: RequestGuard,
    route: Option<Arc<RouteState>>,
    /// Whether a body follows the head.
    has_body: bool,
    /// The request's id, once its head has been read.
    pub id: Option<RequestId>,
    /// The request's body, read on for the shadow when no leg reads it any more.
    pub upload: Option<Upload>,
    /// Where the legs of the pairs meet; none where there are no pairs.
    pub sides: Option<Arc<Sides>>,
    /// The call under way.
    call: Option<Under>,
    overhead: Option<Duration>,
    lag: Duration,
    end: Option<End>,
}

/// A call under way.
struct Under {
    role: Role,
    trace: Rc<Trace>,
}

/// What the client got.
struct End {
    by: AnsweredBy,
    status: u16,
}

impl Answering {
    /// A request whose head has just arrived, and whether a body follows it.
    pub fn new(
        metrics: Rc<LocalRoute>,
        arrived: Instant,
        connection: RequestGuard,
        lag: Duration,
        has_body: bool,
    ) -> Self {
        Self {
            metrics,
            arrived,
            connection,
            route: None,
            has_body,
            id: None,
            upload: None,
            sides: None,
            call: None,
            overhead: None,
            lag,
            end: None,
        }
    }

    /// Its route is known.
    pub fn routed(&mut self, route: &Arc<RouteState>, metrics: Rc<LocalRoute>) {
        self.metrics = metrics;
        self.route = Some(Arc::clone(route));
    }

    /// Its route's name.
    pub fn route_name(&self) -> Option<&str> {
        self.route.as_ref().map(|route| route.rule.name.as_str())
    }

    /// Its connection.
    pub fn connection(&self) -> &RequestGuard {
        &self.connection
    }

    /// Whether some of the request's body may still be on its way and nobody will read it: the connection then closes
    /// after the answer.
    pub fn leaves_body_unread(&self) -> bool {
        match &self.upload {
            Some(upload) => !upload.is_complete() && !upload.is_awaited(),
            None => self.has_body,
        }
    }

    /// Where the answer's body marks what it handed over.
    pub fn sending(&self) -> &Rc<Sending> {
        self.connection.sending()
    }

    /// A call begins whose answer may be the client's.
    pub fn calls(&mut self, role: Role, trace: &Rc<Trace>) {
        if let Some(leg) = self.leg(role) {
            leg.metrics.in_flight.inc();
        }
        self.call = Some(Under { role, trace: Rc::clone(trace) });
    }

    fn leg(&self, role: Role) -> Option<&Leg> {
        self.route.as_ref()?.leg(role)
    }

    /// The endpoint that was asked last.
    pub fn endpoint(&self) -> Option<Arc<str>> {
        self.call.as_ref().and_then(|call| call.trace.endpoint())
    }

    /// The head goes to the client now.
    pub fn responds(&mut self) {
        let now = Instant::now();
        self.connection.connection().head_goes_out();
        // The time that the proxy itself took: until the call began, and from its head to ours.
        self.overhead = self.call.as_ref().and_then(|call| {
            let before = call.trace.started().saturating_duration_since(self.arrived);
            Some(before + now.saturating_duration_since(call.trace.first_byte()?))
        });
        // Nobody reads it again: what is kept of it must not outlive the shadow's copy.
        self.upload = self.upload.take().filter(|upload| !upload.is_complete());
    }

    /// shadowpair answers in the models' place.
    pub fn refused(&mut self, status: u16) {
        self.end = Some(End { by: AnsweredBy::Proxy, status });
    }

    /// The call under way has no answer. Where it goes out again (`again`), the pair waits for that.
    pub fn call_failed(&mut self, outcome: Outcome, again: bool) {
        let ending = Ending::without_answer(outcome, self.lag);
        self.call_over(ending, None, again);
    }

    /// The call under way was not made after all.
    pub fn call_taken_back(&mut self) {
        if let Some(leg) = self.call.take().and_then(|call| self.leg(call.role)) {
            leg.metrics.in_flight.dec();
        }
    }

    /// The answer of the call under way is not passed on, because another model is asked in its place.
    pub fn call_replaced(&mut self, answer: crate::upstream::answer::Answer, again: bool) {
        let ending = Ending {
            outcome: Outcome::HttpError,
            status: Some(answer.head.status.as_u16()),
            grpc_status: answer.body.grpc_status(),
            headers: answer.head.headers,
            bytes: answer.body.bytes(),
            body: Captured::NotCaptured,
            lag: self.lag,
        };
        self.call_over(ending, None, again);
    }

    /// The answer that the client gets has ended, or is given up: by the client where the model's side has not ended.
    pub fn answer_ended(&mut self, status: u16, headers: HeaderMap, body: &AnswerBody, capture: Option<Capture>) {
        let whole = matches!(body.ended(), Some(Ok(())));
        let (copy, charge) = match capture {
            Some(capture) => {
                let (copy, charge) = capture.finish(whole);
                (copy, Some(charge))
            }
            None => (Captured::NotCaptured, None),
        };
        let ending = Ending {
            outcome: body.outcome(),
            status: Some(status),
            grpc_status: body.grpc_status(),
            headers,
            bytes: body.bytes(),
            body: copy,
            lag: self.lag,
        };
        let status = if body.ended().is_none() { CLIENT_LEFT } else { status };
        let by = self.call.as_ref().map_or(AnsweredBy::Prod, |call| answered_by(call.role));
        self.end = Some(End { by, status });
        self.call_over(ending, charge, false);
    }

    fn call_over(&mut self, ending: Ending, charge: Option<Charge>, again: bool) {
        let Some(Under { role, trace }) = self.call.take() else { return };
        trace.ends();
        let Some(leg) = self.route.as_ref().and_then(|route| route.leg(role)) else { return };
        leg.metrics.in_flight.dec();
        leg.metrics.total[ending.outcome as usize].inc();
        self.observe(role, leg, &trace);
        if again {
            return;
        }
        if let Some(sides) = &self.sides {
            let side = Side { leg: trace.facts(&leg.target.model, role, ending), charge };
            match role {
                Role::Canary => sides.canary.fill(side),
                Role::Prod => sides.prod.fill(side),
                Role::Fallback | Role::Shadow | Role::Control => {}
            }
        }
    }

    /// Prod's own histograms add up in the thread; the others are rare enough to be shared.
    fn observe(&self, role: Role, leg: &Leg, trace: &Trace) {
        let (whole, first) = (trace.to_end(), trace.to_first_byte());
        if role == Role::Prod {
            if let Some(duration) = whole {
                self.metrics.leg_duration.observe(&leg.metrics.duration, duration.as_secs_f64());
            }
            if let Some(duration) = first {
                self.metrics.leg_first_byte.observe(&leg.metrics.first_byte, duration.as_secs_f64());
            }
            return;
        }
        if let Some(duration) = whole {
            leg.metrics.duration.get().observe(duration.as_secs_f64());
        }
        if let Some(duration) = first {
            leg.metrics.first_byte.get().observe(duration.as_secs_f64());
        }
    }

    /// Fills in what the pairs still wait for: nobody else will.
    fn settle_sides(&self, end: &End) {
        let (Some(sides), Some(route)) = (&self.sides, &self.route) else { return };
        let model = |role| route.leg(role).map(|leg| Arc::clone(&leg.target.model));
        let verdict = sides.decide(Verdict::Worker);
        if verdict == Verdict::Worker && sides.prod.get().is_none() {
            sides.prod.fill(self.unasked(&route.prod.target.model, Role::Prod));
        }
        if let Some(canary) = model(Role::Canary)
            && sides.canary.get().is_none()
        {
            sides.canary.fill(self.unasked(&canary, Role::Canary));
        }
        let by = match end.by {
            AnsweredBy::Proxy => None,
            AnsweredBy::Prod => model(Role::Prod),
            AnsweredBy::Canary => model(Role::Canary),
            AnsweredBy::Fallback => model(Role::Fallback),
        };
        sides.answered(AnsweredFacts { model: by, by: end.by, status: end.status });
    }

    fn unasked(&self, model: &Arc<Model>, role: Role) -> Side {
        let ending = Ending::without_answer(Outcome::Cancelled, self.lag);
        Side { leg: Trace::start(self.arrived).facts(model, role, ending), charge: None }
    }
}

fn answered_by(role: Role) -> AnsweredBy {
    match role {
        Role::Canary => AnsweredBy::Canary,
        Role::Fallback => AnsweredBy::Fallback,
        Role::Prod | Role::Shadow | Role::Control => AnsweredBy::Prod,
    }
}

impl Answering {
    /// A client that left gets a line a second at most; the access log, for failures only, has each of them:
    /// `--log info,access=debug` shows it.
    fn log_failure(&self, end: &End) {
        if end.status == CLIENT_LEFT
            && let Some(held_back) = limited::pass("client left")
        {
            let route = self.route_name().unwrap_or_default();
            tracing::warn!(route, status = CLIENT_LEFT, held_back, "the client left before its request was answered");
        }
        if end.status < 500 && end.status != CLIENT_LEFT {
            return;
        }
        tracing::debug!(
            target: "access",
            route = self.route_name().unwrap_or_default(),
            request_id = self.id.as_ref().map(RequestId::as_str),
            answered_by = end.by.as_str(),
            status = end.status,
            milliseconds = u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX),
            "failed request"
        );
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let by = self.call.as_ref().map_or(AnsweredBy::Prod, |call| answered_by(call.role));
        let end = self.end.take().unwrap_or(End { by, status: CLIENT_LEFT });
        let overhead = self.overhead.map(|overhead| overhead.as_secs_f64());
        self.metrics.answered(end.by, end.status, self.arrived.elapsed().as_secs_f64(), overhead);
        self.log_failure(&end);
        self.call_failed(Outcome::Cancelled, false);
        self.settle_sides(&end);
        if let Some(upload) = self.upload.take()
            && !upload.is_complete()
        {
            if upload.is_awaited() {
                // Failures of prod are when the pair matters: the rest is still read for the shadow.
                let reading = self.connection.connection().reading_on();
                drop(crate::lifecycle::local(async move {
                    upload.read_to_end().await;
                    drop(reading);
                }));
            } else {
                self.connection.connection().linger_on_close();
            }
        }
    }
}
