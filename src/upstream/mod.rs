//! Floor 3: calls to models. [`Calling::answer`] is the story of one: pick an endpoint, take a kept connection or open one, send,
//! wait for the head, all within the call's limits. The answer's body is then read by whoever asked.

pub mod answer;
pub mod body;
pub mod capture;
mod connection;
pub mod endpoint;
pub mod error;
mod fields;
pub mod headers;
mod http1;
mod limits;
pub mod pool;
pub mod trace;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::StatusCode;
use http::response::Parts;
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use self::answer::{Answer, AnswerLimits, Source};
use self::body::LegBody;
pub use self::connection::LANE_CALL_BYTES;
use self::endpoint::{Endpoint, Share, pick};
use self::error::{CallError, Refused};
use self::headers::Head;
pub use self::limits::Limits;
use self::limits::in_time;
use self::pool::{Lease, Pool, SenderMut};
use self::trace::Trace;
use crate::alarm::Alarm;
use crate::config::routing::Model;
use crate::types::Api;

/// How often a call that waits for a connection to a capped endpoint looks again.
const ROOM_POLL: Duration = Duration::from_millis(2);

/// Connections that one call may open: the second where the first was closed before anything went out.
const MAX_CONNECTS: u32 = 2;

/// A model and its endpoints, as calls see it.
#[derive(Debug)]
pub struct Target {
    /// The model.
    pub model: Arc<Model>,
    /// At least one.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// What goes out first.
    pub head: Head,
    /// And then.
    pub body: LegBody,
    /// Its limits.
    pub limits: Limits,
    /// Whether an ejected endpoint is asked where there is no other.
    pub last_resort: bool,
    /// How much of an endpoint's cap it may use.
    pub share: Share,
    /// Whether it waits for a connection to a capped endpoint.
    pub waits: bool,
    /// The endpoint that is not asked again where there is another: its address as in the file.
    pub avoid: Option<Arc<str>>,
    /// What the answer's body means: streams of some APIs are watched for their proper end.
    pub api: Api,
}

/// A call under way. It is made first and then waited for by reference: an async fn that took all this would hold it
/// twice, once as it came and once taken apart, and a request's future is moved and touched for each request.
pub struct Calling<'a> {
    pool: &'a Rc<Pool>,
    target: &'a Target,
    trace: Rc<Trace>,
    head: Head,
    /// Not there while it is being sent.
    body: Option<LegBody>,
    limits: Limits,
    last_resort: bool,
    share: Share,
    waits: bool,
    api: Api,
    /// The endpoint that is not asked again where there is another.
    refused: Option<&'a Arc<Endpoint>>,
    connects: u32,
    /// Whether a model has refused it once.
    again: bool,
    /// Whether a kept connection is looked for once more, though one was opened before.
    looks_again: bool,
    address: Option<SocketAddr>,
}

impl<'a> Calling<'a> {
    /// A call to this model over the connections of this thread.
    pub fn new(pool: &'a Rc<Pool>, target: &'a Target, call: Call) -> Self {
        let trace = Rc::clone(call.body.trace());
        let Call { head, body, limits, last_resort, share, waits, avoid, api } = call;
        let avoided = avoid.and_then(|label| target.endpoints.iter().find(|endpoint| endpoint.url.label == label));
        Self {
            pool,
            target,
            trace,
            body: Some(body.without(head.withheld())),
            head,
            limits,
            last_resort,
            share,
            waits,
            api,
            refused: avoided,
            connects: 0,
            again: false,
            looks_again: false,
            address: None,
        }
    }

    /// Calls the model and waits for the head of its answer.
    pub async fn answer(&mut self) -> Result<Answer, CallError> {
        loop {
            let pool = self.pool;
            let endpoint = self.endpoint().ok_or(CallError::Unhealthy)?;
            self.trace.asks(&endpoint.url.label);
            // Several addresses behind one name share its calls.
            self.address = endpoint.choose(self.address);
            let to = self.address.filter(|_| endpoint.is_spread());
            let looks = std::mem::take(&mut self.looks_again) || self.connects == 0;
            let kept = if looks { pool.kept(endpoint, to) } else { None };
            let lease = match kept {
                Some(lease) => lease,
                // In a box, because it is rare and large.
                None => match Box::pin(self.connect(endpoint)).await {
                    Ok(lease) => lease,
                    Err(error) if self.tries_another(endpoint, &error) => continue,
                    Err(error) => return Err(error),
                },
            };
            let reused = lease.reused;
            match self.send(lease).await {
                Ok(answer) => {
                    endpoint.succeeded(pool.side());
                    return Ok(answer);
                }
                Err(Unanswered::NotRead) if self.connects < MAX_CONNECTS => self.connects = self.connects.max(1),
                Err(Unanswered::NotRead) => {
                    blame(endpoint, pool, &CallError::Reset, self.last_resort);
                    return Err(CallError::Reset);
                }
                Err(Unanswered::Refused) => {
                    blame(endpoint, pool, &CallError::Refused, self.last_resort);
                    if std::mem::replace(&mut self.again, true) {
                        return Err(CallError::Refused);
                    }
                    (self.looks_again, self.refused) = (true, Some(endpoint));
                }
                Err(Unanswered::Failed(error)) => {
                    if reused && error == CallError::Reset {
                        pool.distrust(endpoint);
                    }
                    blame(endpoint, pool, &error, self.last_resort);
                    return Err(error);
                }
            }
        }
    }

    /// Who is asked: not the one that has just failed, where another may be. One that refused is, rather than one that is
    /// ejected.
    fn endpoint(&self) -> Option<&'a Arc<Endpoint>> {
        let last_resort = self.last_resort && !self.again;
        let other = pick(&self.target.endpoints, self.pool.side(), last_resort, self.refused);
        other.or(self.refused.filter(|_| self.again))
    }

    async fn connect(&mut self, endpoint: &Arc<Endpoint>) -> Result<Lease, CallError> {
        self.connects += 1;
        connect(self.pool, (endpoint, self.address), (&self.limits, &self.trace), self.share, self.waits).await
    }

    /// No connection could be opened: whether another endpoint, or another address of this one, is tried.
    fn tries_another(&mut self, endpoint: &'a Arc<Endpoint>, error: &CallError) -> bool {
        blame(endpoint, self.pool, error, self.last_resort);
        let other = self.target.endpoints.iter().any(|other| !Arc::ptr_eq(other, endpoint));
        let tries = (other || endpoint.is_spread()) && self.connects < MAX_CONNECTS && error.blames_endpoint();
        if tries {
            self.refused = Some(endpoint);
        }
        tries
    }

    /// The head of an answer over HTTP/2, none where the time ran out. A request that was certainly not read is kept.
    async fn send_http2(
        &mut self,
        mut sender: SendRequest<LegBody>,
        body: LegBody,
        lease: &Lease,
    ) -> Option<Result<(Parts, Source), Unanswered>> {
        let spare = body.again();
        let sending = pin!(sender.try_send_request(self.head.http2(lease.endpoint(), body)));
        let mut error = match in_time(sending, &self.trace, &self.limits, &mut Alarm::default()).await? {
            Ok(response) => {
                let (head, body) = response.into_parts();
                return Some(Ok((head, Source::Http2(body))));
            }
            Err(error) => error,
        };
        if let Some(request) = error.take_message() {
            self.body = Some(request.into_body());
            return Some(Err(Unanswered::NotRead));
        }
        let Some(refused) = Refused::of(error.error()).filter(|_| spare.can_be_read()) else {
            return Some(Err(Unanswered::Failed(CallError::of(error.error()))));
        };
        if refused == Refused::Connection {
            lease.retire();
        }
        self.body = Some(spare);
        Some(Err(Unanswered::Refused))
    }

    async fn send(&mut self, mut lease: Lease) -> Result<Answer, Unanswered> {
        let body = self.body.take().ok_or(Unanswered::Failed(CallError::Reset))?;
        let endpoint = Arc::clone(lease.endpoint());
        self.trace.sends(&endpoint.url.label, lease.reused);
        if body.is_nothing() {
            self.trace.handed_over(true);
        }
        let answered = match lease.sender() {
            Some(SenderMut::Http1(http1)) => {
                http1.send(&self.head, &self.head.host(&endpoint), body);
                let mut alarm = std::mem::take(&mut http1.alarm);
                let head = pin!(poll_fn(|cx| http1.poll_head(cx)));
                let answered = in_time(head, &self.trace, &self.limits, &mut alarm).await;
                http1.alarm = alarm;
                answered.map(|answered| answered.map(|head| (head, Source::Http1)).map_err(Unanswered::Failed))
            }
            // In a box, because it would make every request's future larger.
            Some(SenderMut::Http2(sender)) => Box::pin(self.send_http2(sender, body, &lease)).await,
            None => return Err(Unanswered::Failed(CallError::Reset)),
        };
        match answered {
            None => {
                lease.retire();
                Err(Unanswered::Failed(CallError::Timeout))
            }
            // Nobody asked for another protocol: what follows is no answer.
            Some(Ok((head, _))) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                Err(Unanswered::Failed(CallError::Protocol))
            }
            Some(Ok((head, source))) => {
                self.trace.head_came();
                let idle = Some(self.limits.model.idle).filter(|idle| !idle.is_zero());
                let (until, last_resort, api) = (self.limits.until(&self.trace), self.last_resort, self.api);
                let limits = AnswerLimits { idle, until, last_resort, api };
                Ok(Answer::new(head, source, lease, Rc::clone(&self.trace), limits))
            }
            Some(Err(unanswered)) => Err(unanswered),
        }
    }
}

/// Counts a failure against the endpoint, unless it may be this thread's own lateness. A call that asks an ejected
/// endpoint where there is no other (`last_resort`) never ejects the last one.
fn blame(endpoint: &Endpoint, pool: &Pool, error: &CallError, last_resort: bool) {
    let ours = matches!(error, CallError::Timeout | CallError::ConnectTimeout) && pool.is_late();
    if error.blames_endpoint() && !ours {
        endpoint.failed(pool.side(), last_resort);
    }
}

/// Opens a connection, waiting for room at a capped endpoint where the call may. Connecting is a part of the whole call
/// and ends with its time.
async fn connect(
    pool: &Rc<Pool>,
    (endpoint, address): (&Arc<Endpoint>, Option<SocketAddr>),
    (limits, trace): (&Limits, &Trace),
    share: Share,
    waits: bool,
) -> Result<Lease, CallError> {
    let left = limits.until(trace).map(|until| until.saturating_duration_since(Instant::now()));
    let limit = Some(limits.model.connect).filter(|limit| !limit.is_zero()).into_iter().chain(left).min();
    let opening = async {
        let permit = match endpoint.permit(share) {
            Some(permit) => permit,
            None if waits => match wait_for_room(pool, endpoint, share).await {
                Room::Kept(lease) => return Ok(lease),
                Room::Permit(permit) => permit,
            },
            None => return Err(CallError::NoRoom),
        };
        let connection = connection::open(endpoint, address, permit, pool.side()).await.map_err(|error| {
            tracing::debug!(endpoint = &*endpoint.url.label, %error, "no connection");
            CallError::Connect
        })?;
        Ok(pool.fresh(connection))
    };
    let Some(limit) = limit else { return opening.await };
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened,
        Err(_) if endpoint.permit(share).is_none() => Err(CallError::NoRoom),
        Err(_) if left == Some(limit) => Err(CallError::Timeout),
        Err(_) => Err(CallError::ConnectTimeout),
    }
}

enum Room {
    Kept(Lease),
    Permit(endpoint::Permit),
}

/// Counts a call that waits, so that other threads give their idle connections up.
struct Waiter<'a>(&'a Pool, &'a Endpoint);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
        self.1.wanted.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn wait_for_room(pool: &Rc<Pool>, endpoint: &Arc<Endpoint>, share: Share) -> Room {
    pool.waiting.set(pool.waiting.get() + 1);
    endpoint.wanted.fetch_add(1, Ordering::Relaxed);
    let _waiter = Waiter(pool, endpoint);
    loop {
        if let Some(lease) = pool.kept(endpoint, None) {
            return Room::Kept(lease);
        }
        if let Some(permit) = endpoint.permit(share) {
            return Room::Permit(permit);
        }
        tokio::time::sleep(ROOM_POLL).await;
    }
}

/// Why an attempt to send had no answer.
enum Unanswered {
    /// The connection closed before anything of the request went out, so it may go out again.
    NotRead,
    /// The model says that it did nothing with it, so it may go out again, once.
    Refused,
    Failed(CallError),
}
