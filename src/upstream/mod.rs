//! Floor 3: calls to models. [`call`] is the story of one: pick an endpoint, take a kept connection or open one, send,
//! wait for the head, all within the call's limits. The answer's body is then read by whoever asked.

pub mod answer;
pub mod body;
pub mod capture;
mod connection;
pub mod endpoint;
pub mod error;
pub mod headers;
pub mod pool;
pub mod trace;

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use self::answer::{Answer, AnswerLimits};
use self::body::LegBody;
use self::endpoint::{Endpoint, Share, pick};
use self::error::CallError;
use self::headers::Head;
use self::pool::{Lease, Pool, SenderMut};
use self::trace::Trace;
use crate::config::routing::{Model, Timeouts};

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
}

/// One call's limits; zero is none.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The model's own.
    pub model: Timeouts,
    /// For the whole leg.
    pub leg: Duration,
}

impl Limits {
    fn until(&self, trace: &Trace) -> Option<Instant> {
        let whole = [self.model.total, self.leg].into_iter().filter(|limit| !limit.is_zero()).min()?;
        Some(Instant::from_std(trace.started() + whole))
    }

    /// When the call is too late, as things stand: uploads are bounded by pauses, then the answer's head is due.
    fn due(&self, trace: &Trace) -> Option<Instant> {
        let (from, limit) = match trace.sent() {
            Some(sent) => (sent, self.model.first_byte),
            None => (trace.progress(), self.model.idle),
        };
        let step = (!limit.is_zero()).then(|| Instant::from_std(from + limit));
        step.into_iter().chain(self.until(trace)).min()
    }

    /// When to look again. Nothing wakes the call when its upload ends, and from then on `first_byte` counts, which may
    /// be due before the pause was: but no earlier than one `first_byte` from now.
    fn next_look(&self, trace: &Trace) -> Option<Instant> {
        let counts = trace.sent().is_none() && !self.model.first_byte.is_zero();
        let ahead = counts.then(|| Instant::now() + self.model.first_byte);
        ahead.into_iter().chain(self.due(trace)).min()
    }
}

/// Calls a model and waits for the head of its answer.
pub async fn call(pool: &Rc<Pool>, target: &Target, call: Call) -> Result<Answer, CallError> {
    let trace = Rc::clone(call.body.trace());
    let Call { head, body, limits, last_resort, share, waits, avoid } = call;
    let (mut request, addressing) = head.with_body(body);
    let avoided = avoid.and_then(|label| target.endpoints.iter().find(|endpoint| endpoint.url.label == label));
    let mut refused: Option<Arc<Endpoint>> = avoided.map(Arc::clone);
    let mut connects = 0;
    loop {
        let endpoint =
            pick(&target.endpoints, pool.side(), last_resort, refused.as_ref()).ok_or(CallError::Unhealthy)?;
        trace.asks(&endpoint.url.label);
        addressing.address(&mut request, endpoint);
        let kept = if connects == 0 { pool.kept(endpoint) } else { None };
        let lease = match kept {
            Some(lease) => lease,
            None => {
                connects += 1;
                match connect(pool, endpoint, &limits, share, waits).await {
                    Ok(lease) => lease,
                    Err(error) => {
                        blame(endpoint, pool, &error, last_resort);
                        let another = target.endpoints.iter().any(|other| !Arc::ptr_eq(other, endpoint));
                        if another && connects < MAX_CONNECTS && error.blames_endpoint() {
                            refused = Some(Arc::clone(endpoint));
                            continue;
                        }
                        return Err(error);
                    }
                }
            }
        };
        let reused = lease.reused;
        match send(lease, request, &trace, &limits, last_resort).await {
            Sent::Answer(answer) => {
                endpoint.succeeded(pool.side());
                return Ok(*answer);
            }
            Sent::NotRead(unsent) if connects < MAX_CONNECTS => {
                connects = connects.max(1);
                request = *unsent;
            }
            Sent::NotRead(_) => {
                blame(endpoint, pool, &CallError::Reset, last_resort);
                return Err(CallError::Reset);
            }
            Sent::Failed(error) => {
                if reused && error == CallError::Reset {
                    pool.distrust(endpoint);
                }
                blame(endpoint, pool, &error, last_resort);
                return Err(error);
            }
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

/// Opens a connection, waiting for room at a capped endpoint where the call may.
async fn connect(
    pool: &Rc<Pool>,
    endpoint: &Arc<Endpoint>,
    limits: &Limits,
    share: Share,
    waits: bool,
) -> Result<Lease, CallError> {
    let limit = limits.model.connect;
    let opening = async {
        let permit = match endpoint.permit(share) {
            Some(permit) => permit,
            None if waits => match wait_for_room(pool, endpoint, share).await {
                Room::Kept(lease) => return Ok(lease),
                Room::Permit(permit) => permit,
            },
            None => return Err(CallError::NoRoom),
        };
        let connection = connection::open(endpoint, permit).await.map_err(|error| {
            tracing::debug!(endpoint = &*endpoint.url.label, %error, "no connection");
            CallError::Connect
        })?;
        Ok(pool.fresh(connection))
    };
    if limit.is_zero() {
        return opening.await;
    }
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened,
        Err(_) if endpoint.permit(share).is_none() => Err(CallError::NoRoom),
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
        if let Some(lease) = pool.kept(endpoint) {
            return Room::Kept(lease);
        }
        if let Some(permit) = endpoint.permit(share) {
            return Room::Permit(permit);
        }
        tokio::time::sleep(ROOM_POLL).await;
    }
}

/// What became of one attempt to send.
enum Sent {
    Answer(Box<Answer>),
    /// The connection closed before anything of the request went out, so it may go out again.
    NotRead(Box<Request<LegBody>>),
    Failed(CallError),
}

async fn send(
    mut lease: Lease,
    request: Request<LegBody>,
    trace: &Rc<Trace>,
    limits: &Limits,
    last_resort: bool,
) -> Sent {
    trace.sends(&lease.endpoint().url.label, lease.reused);
    if request.body().is_nothing() {
        trace.handed_over(true);
    }
    let answered = match lease.sender() {
        Some(SenderMut::Http1(sender)) => in_time(sender.try_send_request(request), trace, limits).await,
        Some(SenderMut::Http2(mut sender)) => in_time(sender.try_send_request(request), trace, limits).await,
        None => return Sent::Failed(CallError::Reset),
    };
    match answered {
        None => Sent::Failed(CallError::Timeout),
        // Nobody asked for another protocol: what follows is no answer.
        Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Sent::Failed(CallError::Protocol),
        Some(Ok(response)) => {
            trace.head_came();
            let idle = Some(limits.model.idle).filter(|idle| !idle.is_zero());
            let answer_limits = AnswerLimits { idle, until: limits.until(trace), last_resort };
            Sent::Answer(Box::new(Answer::new(response, lease, Rc::clone(trace), answer_limits)))
        }
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::NotRead(Box::new(request)),
            None => Sent::Failed(CallError::of(error.error())),
        },
    }
}

type Sending = Result<Response<Incoming>, TrySendError<Request<LegBody>>>;

/// Waits for the head within the call's limits; none where they ran out.
async fn in_time(sending: impl Future<Output = Sending>, trace: &Trace, limits: &Limits) -> Option<Sending> {
    let mut sending = pin!(sending);
    loop {
        let Some(look) = limits.next_look(trace) else { return Some(sending.await) };
        tokio::select! {
            biased;
            sent = &mut sending => return Some(sent),
            () = tokio::time::sleep_until(look) => {
                if limits.due(trace).is_some_and(|due| due <= Instant::now()) {
                    return last_look(sending).await;
                }
            }
        }
    }
}

/// A thread that ran late finds the timer expired although the answer lies in the socket: so the connection's task runs
/// once more before the call is given up.
async fn last_look(mut sending: Pin<&mut impl Future<Output = Sending>>) -> Option<Sending> {
    for _ in 0..2 {
        tokio::task::yield_now().await;
        let look = std::future::poll_fn(|cx| std::task::Poll::Ready(sending.as_mut().poll(cx))).await;
        if let std::task::Poll::Ready(sent) = look {
            return Some(sent);
        }
    }
    None
}
