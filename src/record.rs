//! Floor 1: the pair record `shadowpair.pair.v1`, the only format that is stored. One JSON object per request
//! and candidate; a column has one type in every record, so whatever is missing is null, bodies are text, and
//! our own numbers that can have a fraction are `f64` (serde_json writes them as `0.0`).

mod line;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::line::Line;

/// The value of [`Pair::schema`]; a consumer skips a record with another.
pub const SCHEMA: &str = "shadowpair.pair.v1";

/// The most pointers that [`Comparison::differs_at`] names.
pub const DIFFERS_AT_MAX: usize = 100;

/// One request, its prod leg and one candidate leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// UUIDv7, unique to the pair, the same however often it is sent again.
    pub id: String,
    /// One run of one instance: `HOST-STARTID`.
    pub producer: String,
    /// The producer's gapless count of pairs, from 1; a gap is a lost pair. Order is not promised.
    pub seq: u64,
    /// The server's labels.
    pub labels: BTreeMap<String, String>,
    /// The client's `x-request-id`, or one minted.
    pub request_id: String,
    /// The client's `traceparent`.
    pub traceparent: Option<String>,
    /// Arrival of the request's head: RFC 3339 with microseconds, UTC.
    pub time: String,
    /// The route's name.
    pub route: String,
    /// A short hash of the routing file in force.
    pub config: String,
    /// What the sticky key was assigned to: `prod` or `canary`.
    pub arm: String,
    /// What the client got.
    pub answered_by: AnsweredBy,
    /// Where the sticky key fell, 0 to 9999.
    pub bucket: Option<u32>,
    /// Join keys by name.
    pub keys: BTreeMap<String, Option<String>>,
    /// Traffic segments by name.
    pub slices: BTreeMap<String, Option<String>>,
    /// The share under which this pair was sampled, in per cent.
    pub sample_percent: f64,
    /// This producer's running counts for the route and candidate.
    pub tally: Tally,
    /// `http/1.1`, `h2` or `grpc`.
    pub protocol: String,
    /// What the client asked.
    pub request: Request,
    /// The prod leg.
    pub prod: Leg,
    /// The candidate's leg.
    pub candidate: Leg,
    /// How the two compare: a [`crate::types::PairResult`].
    pub result: String,
    /// The comparison; null where there was none.
    pub comparison: Option<Comparison>,
    /// Why there was no comparison; null where there was one.
    pub comparison_error: Option<String>,
}

impl Pair {
    /// One line of JSON, without its line end: no string in it holds a bare one.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let bodies = [&self.request.body, &self.prod.body, &self.candidate.body];
        let text: usize = bodies.iter().filter_map(|body| body.data.as_ref()).map(String::len).sum();
        // Quotes in a body are escaped, so its text grows; the rest of a record is some 2 KiB.
        let mut line = Line(Vec::with_capacity(2048 + text + text / 8));
        self.serialize(&mut line)?;
        Ok(line.0)
    }
}

/// What the client got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// The model's name; null where shadowpair itself answered.
    pub model: Option<String>,
    /// The model's version, where known.
    pub version: Option<String>,
    /// `prod`, `canary`, `fallback` or `proxy`.
    pub role: String,
    /// The HTTP status; 499 where the client left.
    pub status: u16,
}

/// Running counts, so that coverage survives loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Requests that matched the route.
    pub seen: u64,
    /// Of these, drawn for the candidate.
    pub sampled: u64,
    /// Of these, not copied, whatever the reason.
    pub skipped: u64,
}

/// What the client asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path as it came, without the query.
    pub path: String,
    /// The query with credentials hidden; null where there was none.
    pub query: Option<String>,
    /// The fields that `capture.headers` lists.
    pub headers: BTreeMap<String, String>,
    /// The `content-type` field.
    pub content_type: Option<String>,
    /// Size of the body on the wire, in bytes.
    pub bytes: u64,
    /// The body.
    pub body: Body,
}

/// One call to one model. Times are microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    /// The model's name.
    pub model: String,
    /// The model's version, where known.
    pub version: Option<String>,
    /// A [`crate::types::Role`].
    pub role: String,
    /// The address that was asked; null where none was.
    pub endpoint: Option<String>,
    /// Whether a kept connection was used again.
    pub reused: Option<bool>,
    /// A [`crate::types::Outcome`].
    pub outcome: String,
    /// The HTTP status; null where no answer began.
    pub status: Option<u16>,
    /// The gRPC status of an answer that carries one.
    pub grpc_status: Option<i32>,
    /// From the request's `time` to the leg's start.
    pub start_us: Option<i64>,
    /// From the leg's first request byte to its last.
    pub sent_us: Option<i64>,
    /// From the leg's last request byte to the first byte of the answer (0 for one that came earlier).
    pub first_byte_us: Option<i64>,
    /// From the leg's last request byte to the last byte of the answer.
    pub total_us: Option<i64>,
    /// How late our own thread ran while it measured.
    pub lag_us: i64,
    /// The answer's `content-type`.
    pub content_type: Option<String>,
    /// The answer's fields that `capture.headers` lists.
    pub headers: BTreeMap<String, String>,
    /// Size of the answer's body on the wire, in bytes.
    pub bytes: u64,
    /// The answer's body.
    pub body: Body,
}

/// A recorded body. `data` is always a string, for `json` the JSON text as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// `json`, `utf8`, `base64` or `none`.
    pub encoding: String,
    /// The body's text; null where the encoding is `none`.
    pub data: Option<String>,
    /// Whether `data` is only the beginning.
    pub truncated: bool,
    /// Why there is none: `empty`, `too_large`, `not_captured` or `redaction_failed`.
    pub reason: Option<String>,
}

impl Body {
    /// A body that is not recorded, and why.
    pub fn none(reason: &str) -> Self {
        Self { encoding: "none".into(), data: None, truncated: false, reason: Some(reason.into()) }
    }
}

/// How two answers compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Nothing that decides differs.
    pub equal: bool,
    /// Nothing that decides differs by more than it may.
    pub within_tolerance: bool,
    /// One entry for each of `compare.values`.
    pub values: Vec<Value>,
    /// Every differing pointer outside `ignore`, at most [`DIFFERS_AT_MAX`].
    pub differs_at: Vec<String>,
    /// Whether there were more.
    pub differs_at_truncated: bool,
}

/// One of `compare.values`, on both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// Its name in the routing file.
    pub name: String,
    /// A [`crate::types::ValueKind`].
    pub kind: String,
    /// A [`crate::types::ValueResult`].
    pub result: String,
    /// Prod's numbers.
    pub prod: Option<Vec<Option<f64>>>,
    /// The candidate's numbers.
    pub candidate: Option<Vec<Option<f64>>>,
    /// Candidate − prod, element by element.
    pub delta: Option<Vec<Option<f64>>>,
    /// Prod's class, text or JSON.
    pub prod_text: Option<String>,
    /// The candidate's class, text or JSON.
    pub candidate_text: Option<String>,
}

/// The columns of a [`Pair`] that a comparison reads. Bodies and headers are most of a record's bytes: a reader
/// of gigabytes steps over them without keeping any.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PairView {
    /// See [`Pair::schema`].
    pub schema: String,
    /// See [`Pair::id`].
    pub id: String,
    /// See [`Pair::producer`].
    pub producer: String,
    /// See [`Pair::seq`].
    pub seq: u64,
    /// See [`Pair::time`].
    pub time: String,
    /// See [`Pair::route`].
    pub route: String,
    /// See [`Pair::slices`].
    pub slices: BTreeMap<String, Option<String>>,
    /// See [`Pair::sample_percent`].
    pub sample_percent: f64,
    /// See [`Pair::tally`].
    pub tally: Tally,
    /// See [`Pair::prod`].
    pub prod: LegView,
    /// See [`Pair::candidate`].
    pub candidate: LegView,
    /// See [`Pair::result`].
    pub result: String,
    /// See [`Pair::comparison`].
    pub comparison: Option<Comparison>,
}

/// The columns of a [`Leg`] that a comparison reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LegView {
    /// See [`Leg::model`].
    pub model: String,
    /// See [`Leg::version`].
    pub version: Option<String>,
    /// See [`Leg::role`].
    pub role: String,
    /// See [`Leg::outcome`].
    pub outcome: String,
    /// See [`Leg::first_byte_us`].
    pub first_byte_us: Option<i64>,
    /// See [`Leg::total_us`].
    pub total_us: Option<i64>,
}

/// The one column that every version of the record shares: it tells a record that is not ours to read from one
/// that is broken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SchemaView {
    /// See [`Pair::schema`].
    pub schema: String,
}
