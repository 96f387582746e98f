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

/// One request, its prod leg and one candidate leg. `S` is how its texts are held: where a record is only written they
/// are borrowed from what it is made of, because bodies are most of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de> + Ord"))]
pub struct Pair<S = String> {
    /// Always [`SCHEMA`].
    pub schema: S,
    /// UUIDv7, unique to the pair, the same however often it is sent again.
    pub id: S,
    /// One run of one instance: `HOST-STARTID`.
    pub producer: S,
    /// The producer's gapless count of pairs, from 1; a gap is a lost pair. Order is not promised.
    pub seq: u64,
    /// The server's labels.
    pub labels: BTreeMap<S, S>,
    /// The client's `x-request-id`, or one minted.
    pub request_id: S,
    /// The client's `traceparent`.
    pub traceparent: Option<S>,
    /// Arrival of the request's head: RFC 3339 with microseconds, UTC.
    pub time: S,
    /// The route's name.
    pub route: S,
    /// A short hash of the routing file in force.
    pub config: S,
    /// What the sticky key was assigned to: `prod` or `canary`.
    pub arm: S,
    /// What the client got.
    pub answered_by: AnsweredBy<S>,
    /// Where the sticky key fell, 0 to 9999.
    pub bucket: Option<u32>,
    /// Join keys by name.
    pub keys: BTreeMap<S, Option<S>>,
    /// Traffic segments by name.
    pub slices: BTreeMap<S, Option<S>>,
    /// The share under which this pair was sampled, in per cent.
    pub sample_percent: f64,
    /// This producer's running counts for the route and candidate.
    pub tally: Tally,
    /// `http/1.1`, `h2` or `grpc`.
    pub protocol: S,
    /// What the client asked.
    pub request: Request<S>,
    /// The prod leg.
    pub prod: Leg<S>,
    /// The candidate's leg.
    pub candidate: Leg<S>,
    /// How the two compare: a [`crate::types::PairResult`].
    pub result: S,
    /// The comparison; null where there was none.
    pub comparison: Option<Comparison>,
    /// Why there was no comparison; null where there was one.
    pub comparison_error: Option<S>,
}

impl<S: AsRef<str> + Serialize> Pair<S> {
    /// One line of JSON, without its line end: no string in it holds a bare one.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let bodies = [&self.request.body, &self.prod.body, &self.candidate.body];
        let text: usize = bodies.iter().filter_map(|body| body.data.as_ref()).map(|data| data.as_ref().len()).sum();
        // Quotes in a body are escaped, so its text grows; the rest of a record is some 2 KiB.
        let mut line = Line(Vec::with_capacity(2048 + text + text / 8));
        self.serialize(&mut line)?;
        Ok(line.0)
    }
}

/// What the client got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnsweredBy<S = String> {
    /// The model's name; null where shadowpair itself answered.
    pub model: Option<S>,
    /// The model's version, where known.
    pub version: Option<S>,
    /// `prod`, `canary`, `fallback` or `proxy`.
    pub role: S,
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
#[serde(bound(deserialize = "S: Deserialize<'de> + Ord"))]
pub struct Request<S = String> {
    /// The method.
    pub method: S,
    /// The path as it came, without the query.
    pub path: S,
    /// The query with credentials hidden; null where there was none.
    pub query: Option<S>,
    /// The fields that `capture.headers` lists.
    pub headers: BTreeMap<S, S>,
    /// The `content-type` field.
    pub content_type: Option<S>,
    /// Size of the body on the wire, in bytes.
    pub bytes: u64,
    /// The body.
    pub body: Body<S>,
}

/// One call to one model. Times are microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "S: Deserialize<'de> + Ord"))]
pub struct Leg<S = String> {
    /// The model's name.
    pub model: S,
    /// The model's version, where known.
    pub version: Option<S>,
    /// A [`crate::types::Role`].
    pub role: S,
    /// The address that was asked; null where none was.
    pub endpoint: Option<S>,
    /// Whether a kept connection was used again.
    pub reused: Option<bool>,
    /// A [`crate::types::Outcome`].
    pub outcome: S,
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
    pub content_type: Option<S>,
    /// The answer's fields that `capture.headers` lists.
    pub headers: BTreeMap<S, S>,
    /// Size of the answer's body on the wire, in bytes.
    pub bytes: u64,
    /// The answer's body.
    pub body: Body<S>,
}

/// A recorded body. `data` is always a string, for `json` the JSON text as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body<S = String> {
    /// `json`, `utf8`, `base64` or `none`.
    pub encoding: S,
    /// The body's text; null where the encoding is `none`.
    pub data: Option<S>,
    /// Whether `data` is only the beginning.
    pub truncated: bool,
    /// Why there is none: `empty`, `too_large`, `not_captured` or `redaction_failed`.
    pub reason: Option<S>,
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

/// The columns that say whether a record was lost. They are read also where the others make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NumberView {
    /// See [`Pair::schema`].
    pub schema: String,
    /// See [`Pair::producer`].
    pub producer: String,
    /// See [`Pair::seq`].
    pub seq: u64,
}

/// The one column that every version of the record shares: it tells a record that is not ours to read from one
/// that is broken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SchemaView {
    /// See [`Pair::schema`].
    pub schema: String,
}
