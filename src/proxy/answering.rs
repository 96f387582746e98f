//! The guard of one request: whichever way it ends, also when the client leaves and everything is dropped, its metrics
//! are written once, and prod's side of its pairs is filled in.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::analysis::material::{AnsweredFacts, Captured};
use crate::budget::Charge;
use crate::listener::io::{RequestGuard, Sending};
use crate::metrics::local::LocalRoute;
use crate::shadow::exchange::{ProdSide, ProdSlot};
use crate::snapshot::RouteState;
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
    /// Where prod's side of the pairs goes; none where nobody is asked beside it.
    pub slot: Option<Arc<ProdSlot>>,
    /// Prod's call, once it has begun.
    pub trace: Option<Rc<Trace>>,
    responded: Option<Instant>,
    lag: Duration,
    end: Option<End>,
}

/// How the request ended, as far as it is known.
struct End {
    by: AnsweredBy,
    status: u16,
    leg: Option<Ending>,
    charge: Option<Charge>,
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
            slot: None,
            trace: None,
            responded: None,
            lag,
            end: None,
        }
    }

    /// Its route is known.
    pub fn routed(&mut self, route: &Arc<RouteState>, metrics: Rc<LocalRoute>) {
        self.metrics = metrics;
        route.prod_leg.in_flight.inc();
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

    /// Whether some of the request's body may still be on its way and nobody will read it: hyper then closes the
    /// connection after the answer.
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

    /// The head goes to the client now.
    pub fn responds(&mut self) {
        self.responded = Some(Instant::now());
        // Nobody reads it again: what is kept of it must not outlive the shadow's copy.
        self.upload = self.upload.take().filter(|upload| !upload.is_complete());
    }

    /// shadowpair answers in prod's place; `outcome` is how prod's call went, where there was one.
    pub fn refused(&mut self, status: u16, outcome: Option<Outcome>) {
        let leg = outcome.map(|outcome| Ending {
            outcome,
            status: None,
            grpc_status: None,
            headers: HeaderMap::new(),
            bytes: 0,
            body: Captured::Partial(Bytes::new()),
            lag: self.lag,
        });
        self.end = Some(End { by: AnsweredBy::Proxy, status, leg, charge: None });
    }

    /// Prod's answer has ended, or is given up: by the client where prod's side has not ended.
    pub fn prod_ended(&mut self, status: u16, headers: HeaderMap, body: &AnswerBody, capture: Option<Capture>) {
        let whole = matches!(body.ended(), Some(Ok(())));
        let (copy, charge) = match capture {
            Some(capture) => {
                let (copy, charge) = capture.finish(whole);
                (copy, Some(charge))
            }
            None => (Captured::NotCaptured, None),
        };
        let leg = Ending {
            outcome: body.outcome(),
            status: Some(status),
            grpc_status: body.grpc_status(),
            headers,
            bytes: body.bytes(),
            body: copy,
            lag: self.lag,
        };
        let status = if body.ended().is_none() { CLIENT_LEFT } else { status };
        self.end = Some(End { by: AnsweredBy::Prod, status, leg: Some(leg), charge });
    }

    /// The time that the proxy itself took: until prod's call began, and from its head to ours.
    fn overhead(&self) -> Option<f64> {
        let trace = self.trace.as_ref()?;
        let before = trace.started().saturating_duration_since(self.arrived);
        let after = self.responded?.saturating_duration_since(trace.first_byte()?);
        Some((before + after).as_secs_f64())
    }

    fn end_leg(&self, route: &Arc<RouteState>, end: End, trace: &Trace) {
        trace.ends();
        let (model, metrics) = (&route.prod.model, &route.prod_leg);
        let ending = end.leg.unwrap_or_else(|| Ending {
            outcome: Outcome::Cancelled,
            status: None,
            grpc_status: None,
            headers: HeaderMap::new(),
            bytes: 0,
            body: Captured::Partial(Bytes::new()),
            lag: self.lag,
        });
        metrics.total[ending.outcome as usize].inc();
        if let Some(duration) = trace.to_end() {
            self.metrics.leg_duration.observe(&metrics.duration, duration.as_secs_f64());
        }
        if let Some(duration) = trace.to_first_byte() {
            self.metrics.leg_first_byte.observe(&metrics.first_byte, duration.as_secs_f64());
        }
        if let Some(slot) = &self.slot {
            let model_name = (end.by != AnsweredBy::Proxy).then(|| Arc::clone(model));
            slot.fill(ProdSide {
                leg: trace.facts(model, Role::Prod, ending),
                answered: AnsweredFacts { model: model_name, by: end.by, status: end.status },
                charge: end.charge,
            });
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let left = End { by: AnsweredBy::Prod, status: CLIENT_LEFT, leg: None, charge: None };
        let end = self.end.take().unwrap_or(left);
        self.metrics.answered(end.by, end.status, self.arrived.elapsed().as_secs_f64(), self.overhead());
        if let Some(route) = self.route.take() {
            route.prod_leg.in_flight.dec();
            // A request that was refused before prod was asked has no leg; its pairs were never begun.
            if let Some(trace) = self.trace.take() {
                self.end_leg(&route, end, &trace);
            }
        }
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
