//! Floor 5: the data plane, and THE STORY of a request. [`handle`] and `begin` start it: the head is checked and a route
//! found; `Story::tell` goes on: the body is taken over, the client's arm and the copies are drawn, and the models are called
//! (`legs`) until one answers, whose answer goes to the client as it comes (`respond`). Everything else in this folder
//! is a detail of one of these steps; everything beside the answer happens in [`crate::shadow`].

pub mod answering;
pub mod assign;
mod balance;
mod crossing;
pub mod error;
pub mod inbound;
mod legs;
mod respond;
pub mod stream;
pub mod worker;

use std::cell::Cell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;

use self::answering::Answering;
use self::assign::Assigned;
use self::error::Refusal;
use self::inbound::Checked;
use self::respond::refuse;
use self::stream::Stream;
use self::worker::Worker;
use crate::analysis::body::Content;
use crate::analysis::extract;
use crate::analysis::json::Doc;
use crate::analysis::material::Captured;
use crate::config::routing::{OnError, Source, Sticky};
use crate::listener::body::ClientBody;
use crate::listener::io::{ConnState, RequestGuard};
use crate::shadow::exchange::Sides;
use crate::snapshot::RouteState;
use crate::snapshot::table::Asked;
use crate::types::{Arm, Role};
use crate::upload::{Upload, UploadError};
use crate::upstream::body::Framing;
use crate::upstream::endpoint::Side;
use crate::upstream::headers::Peer;

/// How many times its size on the wire a compressed body with a key in it may have.
const MOST_UNFOLDED: usize = 64;

/// What answers a request: in a box, because it is large, and connections that are idle must not have room for it.
pub type Answered = Pin<Box<dyn Future<Output = Response<Stream>>>>;

/// Answers one request. No `async fn`: the request has to begin with the call, because the task that hyper starts next for
/// an HTTP/2 stream is taken for it.
pub fn handle(
    worker: Rc<Worker>,
    connection: &Rc<ConnState>,
    peer: Rc<Peer>,
    request: Request<ClientBody>,
) -> Answered {
    Box::pin(answer(worker, connection.begin(), peer, request))
}

async fn answer(
    worker: Rc<Worker>,
    begun: RequestGuard,
    peer: Rc<Peer>,
    request: Request<ClientBody>,
) -> Response<Stream> {
    match begin(worker, begun, peer, request) {
        Ok((story, answering, body)) => Rc::new(story).tell(answering, body).await,
        Err(refused) => *refused,
    }
}

/// The head is checked and the route found; or the request is refused.
fn begin(
    worker: Rc<Worker>,
    begun: RequestGuard,
    peer: Rc<Peer>,
    request: Request<ClientBody>,
) -> Result<(Story, Box<Answering>, ClientBody), Box<Response<Stream>>> {
    let arrived = Instant::now();
    let time = SystemTime::now();
    let (head, body) = request.into_parts();
    let (metrics, has_body) = (worker.metrics.unmatched(), !body.is_end_stream());
    let mut answering = Box::new(Answering::new(metrics, arrived, begun, worker.lag(), has_body));

    // 1. What was asked, and which route is meant?
    let unix_ms = time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    let checked = match inbound::check(&head, body.is_end_stream(), worker.limits.header_bytes, unix_ms) {
        Ok(checked) => checked,
        Err(refusal) => return Err(Box::new(refuse(answering, &refusal))),
    };
    answering.id = Some(checked.id.clone());
    let snapshot = worker.snapshot();
    let asked = Asked {
        host: checked.host.to_str().unwrap_or_default(),
        path: head.uri.path(),
        method: &head.method,
        headers: &head.headers,
    };
    let Some(route) = snapshot.table.find(&asked).map(|index| &snapshot.routes[index]) else {
        return Err(Box::new(refuse(answering, &Refusal::NoRoute)));
    };
    answering.routed(route, worker.metrics.route(route.rule.name.as_str()));
    if matches!(checked.framing, Framing::Length(length) if length > worker.limits.request_bytes) {
        return Err(Box::new(refuse(answering, &Refusal::Upload(UploadError::TooLarge))));
    }
    let assigned = Cell::new(Assigned { arm: Arm::Prod, bucket: None });
    let (route, head) = (Arc::clone(route), Arc::new(head));
    let story = Story { worker, route, peer, arrived, time, head, checked, assigned };
    Ok((story, answering, body))
}

/// A request whose route is known.
struct Story {
    worker: Rc<Worker>,
    route: Arc<RouteState>,
    peer: Rc<Peer>,
    arrived: Instant,
    time: SystemTime,
    /// Shared with the copies, which cross as the head came.
    head: Arc<Parts>,
    checked: Checked,
    assigned: Cell<Assigned>,
}

impl Story {
    async fn tell(self: Rc<Self>, mut answering: Box<Answering>, body: ClientBody) -> Response<Stream> {
        // 2. The body, owned by the request: a model reads it as it comes, the copies get it when it is complete.
        let (worker, route) = (&self.worker, &self.route);
        let upload = Upload::new(body, worker.limits.request_bytes, worker.limits.idle_timeout);
        answering.upload = Some(upload.clone());

        // 3. On which arm is the client, and who is asked beside the model that answers?
        self.assign(&upload).await;
        let canary = self.asks_canary();
        let length = match self.checked.framing {
            Framing::Length(length) => Some(length),
            Framing::None => Some(0),
            Framing::Chunked => None,
        };
        let picks = worker.shadow.sample(route, length, worker.bell.phase().is_draining(), canary);
        let rewrites = self.rewrites();
        if !picks.is_empty() || rewrites || self.may_ask_twice(canary) {
            upload.keep(route.rule.copy_body, worker.budget.charge(), rewrites);
        }
        // Copies cross when the body has ended, but behind the models' turn: not one of them waits for that.
        let mut held = Some(upload.hold());
        if !picks.is_empty() {
            let sides = Sides::new();
            answering.sides = Some(Arc::clone(&sides));
            let crossing = crossing::on_end(Rc::clone(&self), sides, picks, canary);
            upload.on_end(crossing);
        }

        // 4. The models, one after another until one answers.
        let mut asking = pin!(legs::ask(&self, answering, &upload, canary));
        poll_fn(|cx| {
            let _turn = held.take().unwrap_or_else(|| upload.hold());
            asking.as_mut().poll(cx)
        })
        .await
    }

    /// Assigns the client to its arm; a key in the body needs the body first.
    async fn assign(&self, upload: &Upload) {
        let rule = self.route.rule.canary.as_ref();
        let key = match rule.and_then(|rule| rule.sticky.as_ref()) {
            None => None,
            Some(Sticky::ClientIp) => Some(self.client_ip().to_string()),
            Some(Sticky::From(source @ Source::Json(_))) => self.key_in_body(source, upload).await,
            Some(Sticky::From(source)) => self.key(source, None),
        };
        let chance = if rule.is_some() { fastrand::u16(..10_000) } else { 0 };
        self.assigned.set(assign::assign(self.route.rule.name.as_str(), rule, key.as_deref(), chance));
    }

    fn client_ip(&self) -> IpAddr {
        assign::client_ip(self.peer.ip, &self.head.headers, &self.worker.trusted)
    }

    /// Gathers the body up to `copy_body`; what is larger has no key. It is read as the record reads it, without its content
    /// coding, but what unfolds beyond all measure of real bodies is left alone: clients wait behind this one.
    async fn key_in_body(&self, source: &Source, upload: &Upload) -> Option<String> {
        let copy_body = self.route.rule.copy_body;
        upload.keep(copy_body, self.worker.budget.charge(), true);
        upload.clone().keep_reading().await;
        let (body, _) = upload.whole()?;
        let most = copy_body.min(body.len().saturating_mul(MOST_UNFOLDED));
        let body = Captured::Whole(body);
        let content = Content::of(&body, &self.head.headers, most);
        self.key(source, content.read().ok().as_ref())
    }

    fn key(&self, source: &Source, doc: Option<&Doc<'_>>) -> Option<String> {
        let asked = extract::Asked { headers: &self.head.headers, query: self.head.uri.query(), doc };
        asked.text(source).map(|text| text.into_owned())
    }

    /// Whether the canary is asked: the client is on its arm, and not all of its endpoints are ejected.
    fn asks_canary(&self) -> bool {
        let Some(canary) = &self.route.canary else { return false };
        let alive = canary.target.endpoints.iter().any(|endpoint| !endpoint.is_ejected(Side::Worker));
        self.assigned.get().arm == Arm::Canary && (alive || self.passes_failures_on())
    }

    /// Whether nobody is asked in the canary's place: to its clients it is what prod is to the others.
    fn passes_failures_on(&self) -> bool {
        self.route.rule.canary.as_ref().is_some_and(|rule| rule.on_error == OnError::None)
    }

    /// Whether a model that may answer needs the whole body before it is asked.
    fn rewrites(&self) -> bool {
        let legs = [Role::Prod, Role::Canary, Role::Fallback].into_iter().filter_map(|role| self.route.leg(role));
        self.checked.framing != Framing::None && legs.into_iter().any(|leg| !leg.target.model.rewrite.json.is_empty())
    }

    /// Whether a second model, or the same one again, may need the body from its first byte.
    fn may_ask_twice(&self, canary: bool) -> bool {
        let rule = &self.route.rule;
        let retries = rule.retry.attempts > 0 && (rule.retry.idempotent || legs::is_idempotent(&self.head.method));
        let again = canary || rule.fallback.is_some() || retries;
        self.checked.framing != Framing::None && again
    }

    fn is_trusted(&self) -> bool {
        inbound::is_trusted(self.peer.ip, &self.worker.trusted)
    }
}
