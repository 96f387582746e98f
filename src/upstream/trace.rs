//! What is known of one call at any moment: filled in while the call runs, so that it can be told even when the call
//! is dropped half-way.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::analysis::material::{Captured, LegFacts};
use crate::config::routing::Model;
use crate::types::{Outcome, Role};

/// One call's moments.
#[derive(Debug)]
pub struct Trace {
    arrived: Instant,
    started: Cell<Instant>,
    endpoint: RefCell<Option<Arc<str>>>,
    reused: Cell<Option<bool>>,
    sending: Cell<Option<Instant>>,
    progress: Cell<Instant>,
    sent: Cell<Option<Instant>>,
    starved: Cell<bool>,
    first_byte: Cell<Option<Instant>>,
    ended: Cell<Option<Instant>>,
}

/// How a call ended, for [`Trace::facts`].
#[derive(Debug)]
pub struct Ending {
    /// How.
    pub outcome: Outcome,
    /// The answer's status.
    pub status: Option<u16>,
    /// The answer's gRPC status.
    pub grpc_status: Option<i32>,
    /// The answer's fields.
    pub headers: HeaderMap,
    /// Size of the answer's body on the wire, in bytes.
    pub bytes: u64,
    /// The answer's body.
    pub body: Captured,
    /// How late our own thread ran.
    pub lag: Duration,
}

impl Ending {
    /// A call that ended without an answer.
    pub fn without_answer(outcome: Outcome, lag: Duration) -> Self {
        let body = Captured::Partial(Bytes::new());
        Self { outcome, status: None, grpc_status: None, headers: HeaderMap::new(), bytes: 0, body, lag }
    }
}

impl Trace {
    /// A call that starts now, for a request that arrived then.
    pub fn start(arrived: Instant) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            arrived,
            started: Cell::new(now),
            endpoint: RefCell::default(),
            reused: Cell::new(None),
            sending: Cell::new(None),
            progress: Cell::new(now),
            sent: Cell::new(None),
            starved: Cell::new(false),
            first_byte: Cell::new(None),
            ended: Cell::new(None),
        })
    }

    /// The address, as in the file, of the endpoint that was asked last.
    pub fn endpoint(&self) -> Option<Arc<str>> {
        self.endpoint.borrow().clone()
    }

    /// When the call started.
    pub fn started(&self) -> Instant {
        self.started.get()
    }

    /// The call starts only now.
    pub fn starts(&self) {
        let now = Instant::now();
        self.started.set(now);
        self.progress.set(now);
    }

    /// When the answer's head came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get()
    }

    /// When the last request byte was handed over.
    pub fn sent(&self) -> Option<Instant> {
        self.sent.get()
    }

    /// When a request byte was last handed over.
    pub fn progress(&self) -> Instant {
        self.progress.get()
    }

    /// Whether the model waits for bytes that the client has not sent yet: that time is not the model's.
    pub fn is_starved(&self) -> bool {
        self.starved.get()
    }

    pub(super) fn starves(&self) {
        self.starved.set(true);
    }

    /// The request goes out over this connection, from its first byte.
    pub fn sends(&self, endpoint: &Arc<str>, reused: bool) {
        let now = Instant::now();
        *self.endpoint.borrow_mut() = Some(Arc::clone(endpoint));
        self.reused.set(Some(reused));
        self.sending.set(Some(now));
        self.progress.set(now);
        self.starved.set(false);
        self.sent.set(None);
    }

    /// This endpoint is asked, though no request byte has gone out yet.
    pub fn asks(&self, endpoint: &Arc<str>) {
        *self.endpoint.borrow_mut() = Some(Arc::clone(endpoint));
    }

    pub(super) fn handed_over(&self, last: bool) {
        let now = Instant::now();
        self.progress.set(now);
        self.starved.set(false);
        if last && self.sent.get().is_none() {
            self.sent.set(Some(now));
        }
    }

    pub(super) fn head_came(&self) {
        self.first_byte.set(Some(Instant::now()));
    }

    /// The call is over.
    pub fn ends(&self) {
        if self.ended.get().is_none() {
            self.ended.set(Some(Instant::now()));
        }
    }

    /// From the last request byte (or, where it never went out, from the call's start) to that moment.
    fn since_sent(&self, moment: Option<Instant>) -> Option<Duration> {
        moment.map(|moment| self.sent.get().map_or(Duration::ZERO, |sent| moment.saturating_duration_since(sent)))
    }

    /// From the last request byte to the answer's first; zero for one that came earlier.
    pub fn to_first_byte(&self) -> Option<Duration> {
        self.since_sent(self.first_byte.get())
    }

    /// From the last request byte to the answer's last; zero for one that came earlier.
    pub fn to_end(&self) -> Option<Duration> {
        self.since_sent(self.first_byte.get().and(self.ended.get()))
    }

    /// The leg, as the record has it.
    pub fn facts(&self, model: &Arc<Model>, role: Role, ending: Ending) -> LegFacts {
        let sent = self.sending.get().zip(self.sent.get()).map(|(from, to)| to.saturating_duration_since(from));
        LegFacts {
            model: Arc::clone(model),
            role,
            endpoint: self.endpoint.borrow().clone(),
            reused: self.reused.get(),
            outcome: ending.outcome,
            status: ending.status,
            grpc_status: ending.grpc_status,
            start_us: Some(micros(self.started().saturating_duration_since(self.arrived))),
            sent_us: sent.map(micros),
            first_byte_us: self.to_first_byte().map(micros),
            total_us: self.to_end().map(micros),
            lag_us: micros(ending.lag),
            headers: ending.headers,
            bytes: ending.bytes,
            body: ending.body,
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
