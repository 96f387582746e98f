//! Floor 5: the data plane, and THE STORY of a request. [`handle`] tells it: the head is checked, a route is found, who
//! is asked beside prod is drawn, the body is taken over, prod is called, and its answer goes to the client as it
//! comes. Everything else in this folder is a detail of one of these steps; everything beside the answer happens in
//! [`crate::shadow`].

pub mod answering;
pub mod error;
pub mod inbound;
pub mod stream;
pub mod worker;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use self::answering::Answering;
use self::error::Refusal;
use self::inbound::Checked;
use self::stream::{FromProd, Stream};
use self::worker::Worker;
use crate::analysis::json;
use crate::analysis::material::{Captured, RequestFacts};
use crate::config::routing::PathMatch;
use crate::listener::io::{ConnState, RequestGuard};
use crate::shadow::exchange::{Exchange, ProdSlot};
use crate::shadow::{Pick, skip_all};
use crate::snapshot::RouteState;
use crate::snapshot::table::Asked;
use crate::types::{Role, SkipReason};
use crate::upload::{Ended, OnEnd, Upload, UploadError, UploadLimits};
use crate::upstream::answer::Answer;
use crate::upstream::body::{Framing, LegBody};
use crate::upstream::capture::Capture;
use crate::upstream::endpoint::Share;
use crate::upstream::error::CallError;
use crate::upstream::trace::Trace;
use crate::upstream::{Call, Limits, call, headers};

/// Answers one request. No `async fn`: the request has to begin when hyper calls, because the task that hyper starts
/// next is taken for its stream.
pub fn handle(
    worker: Rc<Worker>,
    connection: Rc<ConnState>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Response<Stream>> {
    let begun = connection.begin();
    answer(worker, begun, peer, request)
}

async fn answer(
    worker: Rc<Worker>,
    begun: RequestGuard,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<Stream> {
    let arrived = Instant::now();
    let time = SystemTime::now();
    let (head, body) = request.into_parts();
    let (metrics, has_body) = (worker.metrics.route(""), !body.is_end_stream());
    let mut answering = Answering::new(metrics, arrived, begun, worker.lag(), has_body);

    // 1. What was asked, and which route is meant?
    let unix_ms = time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    let checked = match inbound::check(&head, body.is_end_stream(), worker.limits.header_bytes, unix_ms) {
        Ok(checked) => checked,
        Err(refusal) => return refuse(answering, &refusal),
    };
    answering.id = Some(checked.id.clone());
    let snapshot = worker.live.borrow_mut().get();
    let asked = Asked {
        host: checked.host.to_str().unwrap_or_default(),
        path: head.uri.path(),
        method: &head.method,
        headers: &head.headers,
    };
    let Some(route) = snapshot.table.find(&asked).map(|index| &snapshot.routes[index]) else {
        return refuse(answering, &Refusal::NoRoute);
    };
    answering.routed(route, worker.metrics.route(route.rule.name.as_str()));

    // 2. Who is asked beside prod?
    let length = match checked.framing {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        Framing::Chunked => None,
    };
    let picks = worker.shadow.sample(route, length, worker.bell.phase().is_draining());
    if length.is_some_and(|length| length > worker.limits.request_bytes) {
        skip_all(route, &picks, SkipReason::BodyTooLarge);
        return refuse(answering, &Refusal::Upload(UploadError::TooLarge));
    }
    let story = Story { worker, route: Arc::clone(route), peer, arrived, time, checked };
    story.tell(answering, head, body, picks).await
}

/// A request whose route is known.
struct Story {
    worker: Rc<Worker>,
    route: Arc<RouteState>,
    peer: SocketAddr,
    arrived: Instant,
    time: SystemTime,
    checked: Checked,
}

impl Story {
    async fn tell(self, mut answering: Answering, head: Parts, body: Incoming, picks: Vec<Pick>) -> Response<Stream> {
        let copies = !picks.is_empty();
        let (id, framing, arrived) = (self.checked.id.clone(), self.checked.framing, self.arrived);
        let http10 = head.version < Version::HTTP_11;
        let prod_head = self.prod_head(&head);
        let slot = copies.then(ProdSlot::new);
        answering.slot = slot.clone();

        // 3. The body, owned by the request: prod reads it as it comes, the shadow gets it when it is complete.
        let (worker, route) = (Rc::clone(&self.worker), Arc::clone(&self.route));
        let rewrites = !route.prod.model.rewrite.json.is_empty() && framing != Framing::None;
        let keep = (copies || rewrites).then(|| (route.rule.copy_body, worker.budget.charge()));
        let limits = UploadLimits { bytes: worker.limits.request_bytes, idle: worker.limits.idle_timeout, keep };
        let on_end = slot.map(|slot| self.crossing(head, slot, picks));
        let upload = Upload::new(body, limits, on_end);
        answering.upload = Some(upload.clone());

        // 4. Prod.
        let trace = Trace::start(arrived);
        let leg_body = if rewrites {
            match rewritten(&upload, &route, framing, &trace).await {
                Ok(body) => body,
                Err(refusal) => return refuse_prod(answering, &upload, refusal),
            }
        } else {
            LegBody::streamed(upload.cursor(), framing, Rc::clone(&trace))
        };
        answering.trace = Some(trace);
        let asked = Call {
            head: prod_head.framed(leg_body.framing()),
            body: leg_body,
            limits: Limits { model: route.prod.model.timeout, leg: Duration::ZERO },
            last_resort: true,
            share: Share::Whole,
            waits: true,
        };
        match call(&worker.pool, &route.prod, asked).await {
            Ok(answer) => {
                let capture = copies.then(|| Capture::new(route.rule.copy_body, worker.budget.charge()));
                respond(answering, answer, capture, &id, http10)
            }
            Err(error) => refuse_prod(answering, &upload, Refusal::Prod(error)),
        }
    }

    fn prod_head(&self, head: &Parts) -> headers::Head {
        let inbound = headers::Inbound {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            host: &self.checked.host,
            wants_trailers: self.checked.wants_trailers,
            peer: self.peer.ip(),
            trusted: self.is_trusted(),
            id: &self.checked.id,
            framing: self.checked.framing,
        };
        let prefix = match &self.route.rule.matcher.path {
            PathMatch::Prefix(prefix) => Some(prefix.as_str()),
            PathMatch::Any | PathMatch::Exact(_) => None,
        };
        let model = &self.route.prod.model;
        headers::request(&inbound, model, Role::Prod, prefix, !model.rewrite.json.is_empty())
    }

    fn is_trusted(&self) -> bool {
        inbound::is_trusted(self.peer.ip(), &self.worker.trusted)
    }

    /// What happens when the body is complete: the request crosses to its lane.
    fn crossing(self, head: Parts, slot: Arc<ProdSlot>, picks: Vec<Pick>) -> OnEnd {
        Box::new(move |ended| {
            let (worker, route) = (Rc::clone(&self.worker), Arc::clone(&self.route));
            worker.shadow.offer(&route, &picks, ended, |ended| self.exchange(head, slot, ended));
        })
    }

    fn exchange(self, head: Parts, prod: Arc<ProdSlot>, ended: Ended) -> Exchange {
        let (body, charge) = match ended.copy {
            Ok(copied) => (Captured::Whole(copied.body), copied.charge),
            Err(_) => (Captured::NotCaptured, self.worker.budget.charge()),
        };
        Exchange {
            trusted: self.is_trusted(),
            route: self.route,
            request: RequestFacts {
                id: self.checked.id,
                time: self.time,
                method: head.method,
                uri: head.uri,
                protocol: self.checked.protocol,
                headers: head.headers,
                bytes: ended.bytes,
                body,
            },
            arrived: self.arrived,
            host: self.checked.host,
            wants_trailers: self.checked.wants_trailers,
            peer: self.peer.ip(),
            framing: self.checked.framing,
            trailers: ended.trailers,
            prod,
            charge,
        }
    }
}

/// Gathers the body and rewrites it for prod. A body that cannot be rewritten (it is not JSON, say) goes to prod as it
/// came: prod saw such bodies before, too.
async fn rewritten(
    upload: &Upload,
    route: &RouteState,
    framing: Framing,
    trace: &Rc<Trace>,
) -> Result<LegBody, Refusal> {
    upload.clone().read_to_end().await;
    if let Some(error) = upload.failure() {
        return Err(Refusal::Upload(error));
    }
    let Some((body, trailers)) = upload.whole() else { return Err(Refusal::RewriteTooLarge) };
    let (body, framing) = match json::rewrite(&body, &route.prod.model.rewrite.json) {
        Ok(new) if matches!(framing, Framing::Length(_)) => {
            let length = Framing::Length(new.len() as u64);
            (Bytes::from(new), length)
        }
        Ok(new) => (Bytes::from(new), framing),
        Err(_) => (body, framing),
    };
    Ok(LegBody::whole(body, trailers, framing, Rc::clone(trace)))
}

/// Prod's answer, to the client as it comes.
fn respond(
    mut answering: Answering,
    answer: Answer,
    capture: Option<Capture>,
    id: &crate::types::RequestId,
    http10: bool,
) -> Response<Stream> {
    let Answer { head, body } = answer;
    let status = head.status;
    let fields = headers::answer(&head.headers, id);
    answering.responds();
    let kept = if capture.is_some() { head.headers } else { http::HeaderMap::new() };
    let delimited_by_close = http10 && !fields.contains_key(CONTENT_LENGTH);
    let from_prod = FromProd::new(body, status.as_u16(), kept, capture, answering, delimited_by_close);
    let mut response = Response::new(Stream::Prod(Box::new(from_prod)));
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if http10 {
        *response.version_mut() = Version::HTTP_10;
    }
    if let Some(reason) = head.extensions.get::<ReasonPhrase>() {
        response.extensions_mut().insert(reason.clone());
    } else if head.version == Version::HTTP_2 || status.canonical_reason().is_none() {
        // HTTP/2 has no reason, and none is invented.
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
    response
}

/// Prod has no answer: our own error, unless the fault is the client's.
fn refuse_prod(mut answering: Answering, upload: &Upload, refusal: Refusal) -> Response<Stream> {
    let refusal = match (upload.failure(), refusal) {
        (Some(error), _) | (None, Refusal::Prod(CallError::Upload(error))) => Refusal::Upload(error),
        (None, refusal) => refusal,
    };
    if refusal == Refusal::Upload(UploadError::Broken) {
        // Nobody is there to read the answer: the guard counts a client that left.
        return own(answering, &refusal);
    }
    let outcome = match &refusal {
        Refusal::Prod(error) => error.outcome(),
        _ => crate::types::Outcome::Cancelled,
    };
    answering.refused(refusal.status().as_u16(), Some(outcome));
    log_refusal(&answering, &refusal);
    own(answering, &refusal)
}

fn log_refusal(answering: &Answering, refusal: &Refusal) {
    thread_local! {
        static LIMIT: crate::logging::Limited = crate::logging::Limited::default();
    }
    if let Some(held_back) = LIMIT.with(crate::logging::Limited::pass) {
        let route = answering.route_name().unwrap_or_default();
        tracing::warn!(
            route,
            status = refusal.status().as_u16(),
            error = refusal.cause(),
            held_back,
            "answered in prod's place"
        );
    }
}

/// Refuses a request before prod was asked.
fn refuse(mut answering: Answering, refusal: &Refusal) -> Response<Stream> {
    answering.refused(refusal.status().as_u16(), None);
    own(answering, refusal)
}

fn own(answering: Answering, refusal: &Refusal) -> Response<Stream> {
    let unread = answering.leaves_body_unread();
    if unread || refusal.closes() {
        answering.connection().connection().linger_on_close();
    }
    let json = Bytes::from(refusal.json(answering.route_name()));
    let id = answering.id.as_ref().and_then(|id| HeaderValue::from_str(id.as_str()).ok());
    let mut response = Response::new(Stream::Own(Some(json), Box::new(answering)));
    *response.status_mut() = refusal.status();
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(id) = id {
        fields.insert(headers::REQUEST_ID, id);
    }
    // A close that is not announced would meet the client's next request half-way.
    if unread || refusal.closes() {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.status() == StatusCode::SERVICE_UNAVAILABLE {
        fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
