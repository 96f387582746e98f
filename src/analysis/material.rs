//! What the two threads of a pair hand over: plain facts, gathered on the answer path and on a lane, from which
//! [`super::pair`] builds the record. Nothing here is formatted yet: that is work for the analysis thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use crate::config::routing::{Model, Route};
use crate::record::Tally;
use crate::types::{AnsweredBy, Arm, Outcome, Percent, RequestId, Role, Secret};

/// A body that was copied, or why it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Captured {
    /// The whole of it, as it was on the wire (still compressed where it was); may be empty.
    Whole(Bytes),
    /// The whole of it, in pieces, which are put together where it is read: large blocks that one thread allocates and
    /// another frees are what an allocator keeps the longest.
    Pieces(Vec<Bytes>),
    /// What came before the leg broke off, as it was on the wire.
    Partial(Bytes),
    /// Larger than `copy_body`.
    TooLarge,
    /// Not copied, because nothing asked for it or no memory was left.
    NotCaptured,
}

/// What the client asked.
#[derive(Debug)]
pub struct RequestFacts {
    /// The id that the client, the models and the pair share.
    pub id: RequestId,
    /// When the head arrived.
    pub time: SystemTime,
    /// Method, target and fields as they came: the answer path's own, which is not copied for this.
    pub head: Arc<Parts>,
    /// `http/1.1`, `h2` or `grpc`.
    pub protocol: &'static str,
    /// Size of the body on the wire, in bytes.
    pub bytes: u64,
    /// The body.
    pub body: Captured,
}

/// How one call to one model went. Times are microseconds, null where that moment never came.
#[derive(Debug, Clone)]
pub struct LegFacts {
    /// The model.
    pub model: Arc<Model>,
    /// What the call was made for.
    pub role: Role,
    /// The label of the endpoint that was asked.
    pub endpoint: Option<Arc<str>>,
    /// Whether a kept connection was used again.
    pub reused: Option<bool>,
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The gRPC status.
    pub grpc_status: Option<i32>,
    /// From the request's arrival to the leg's start.
    pub start_us: Option<i64>,
    /// From the leg's first request byte to its last.
    pub sent_us: Option<i64>,
    /// From the leg's last request byte to the first byte of the answer.
    pub first_byte_us: Option<i64>,
    /// From the leg's last request byte to the last byte of the answer.
    pub total_us: Option<i64>,
    /// How late our own thread ran while it measured.
    pub lag_us: i64,
    /// The answer's fields as they came.
    pub headers: HeaderMap,
    /// Size of the answer's body on the wire, in bytes.
    pub bytes: u64,
    /// The answer's body.
    pub body: Captured,
}

/// What the client got.
#[derive(Debug, Clone)]
pub struct AnsweredFacts {
    /// The model; none where shadowpair itself answered.
    pub model: Option<Arc<Model>>,
    /// Who wrote the answer.
    pub by: AnsweredBy,
    /// The HTTP status; 499 where the client left.
    pub status: u16,
}

/// All that one pair is made of.
#[derive(Debug, Clone, Copy)]
pub struct PairFacts<'a> {
    /// The route, as it stood when the request came.
    pub route: &'a Route,
    /// What the client asked.
    pub request: &'a RequestFacts,
    /// What the sticky key was assigned to.
    pub arm: Arm,
    /// Where the sticky key fell.
    pub bucket: Option<u32>,
    /// What the client got.
    pub answered: &'a AnsweredFacts,
    /// The share under which this pair was sampled.
    pub sample_percent: Percent,
    /// Running counts at the time of sampling.
    pub tally: Tally,
    /// The prod leg.
    pub prod: &'a LegFacts,
    /// The candidate's leg.
    pub candidate: &'a LegFacts,
}

/// What all pairs of a process have in common.
#[derive(Debug, Clone)]
pub struct PairContext {
    /// `HOST-STARTID`.
    pub producer: Arc<str>,
    /// The server's labels.
    pub labels: BTreeMap<String, String>,
    /// For keys and redactions that hash.
    pub hash_key: Option<Secret>,
}
