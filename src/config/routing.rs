//! What may change while the process runs: models (in a file of their own) and routes. Only valid values, all names
//! resolved.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

pub use super::model::{
    Credentials, EndpointUrl, Health, HostRewrite, Model, PathRewrite, Protocol, Rewrite, Timeouts, Version,
};
use crate::types::{Api, ModelName, Percent, Pointer, RouteName, ValueKind};

/// The `models` and `routes` blocks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routing {
    /// Every model, in file order.
    pub models: Vec<Arc<Model>>,
    /// Every route; the first match in this order wins.
    pub routes: Vec<Arc<Route>>,
}

/// A match, and what is done with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: RouteName,
    /// Which requests are meant.
    pub matcher: Match,
    /// What the bodies mean.
    pub api: Api,
    /// Who answers.
    pub prod: Arc<Model>,
    /// Who is asked beside it; no model twice, none of them prod.
    pub shadow: Vec<ShadowRule>,
    /// The A/A call.
    pub control: Option<ControlRule>,
    /// The share of clients that a candidate answers.
    pub canary: Option<CanaryRule>,
    /// An older model, asked when prod fails before its first byte; not prod.
    pub fallback: Option<Arc<Model>>,
    /// When a failed call goes out a second time.
    pub retry: Retry,
    /// A larger request is not copied, a larger answer not compared, in bytes.
    pub copy_body: usize,
    /// What is recorded of what was copied.
    pub capture: Capture,
    /// Segments of the traffic, by name.
    pub slices: Vec<(String, Slice)>,
    /// How answers are compared.
    pub compare: Compare,
}

/// `match`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// The host in lower case, without port and trailing dot, an IPv6 address in brackets; none is any.
    pub host: Option<String>,
    /// Which paths.
    pub path: PathMatch,
    /// Which methods; empty is any.
    pub methods: Vec<Method>,
    /// Fields whose value must be just this.
    pub headers: Vec<(HeaderName, String)>,
}

/// `match.path` or `match.path_prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// Just this one.
    Exact(String),
    /// This one and what lies below it, by whole segments: begins with `/`, does not end with one (the root is `""`).
    Prefix(String),
}

/// One entry of `shadow`.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowRule {
    /// The candidate.
    pub model: Arc<Model>,
    /// The share of requests.
    pub percent: Percent,
    /// Bounds of the calls.
    pub bounds: CallBounds,
}

/// `control`.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlRule {
    /// The share of requests.
    pub percent: Percent,
    /// Bounds of the calls.
    pub bounds: CallBounds,
}

/// `canary`.
#[derive(Debug, Clone, PartialEq)]
pub struct CanaryRule {
    /// The candidate; not prod.
    pub model: Arc<Model>,
    /// The share of sticky keys.
    pub percent: Percent,
    /// What keeps a client on its arm; none draws each request by chance.
    pub sticky: Option<Sticky>,
    /// For its first byte; none is the model's own limit.
    pub timeout: Option<Duration>,
    /// The share of its answers that are paired with prod.
    pub pair_percent: Percent,
    /// What becomes of a failed canary answer.
    pub on_error: OnError,
}

/// `canary.sticky`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// A text in the request.
    From(Source),
    /// The client's address.
    ClientIp,
}

/// `canary.on_error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Prod is asked in its place.
    Prod,
    /// It is passed on.
    None,
}

/// `retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often: 0 or 1.
    pub attempts: u32,
    /// After a connection that could not be made.
    pub connect: bool,
    /// After a connection that broke off before the first byte.
    pub reset: bool,
    /// After a time limit before the first byte.
    pub timeout: bool,
    /// After an answer with one of these.
    pub statuses: Vec<u16>,
    /// Whether every request may go out twice, not only those that RFC 9110 calls idempotent.
    pub idempotent: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 1, connect: true, reset: true, timeout: false, statuses: vec![503], idempotent: false }
    }
}

/// Bounds of a shadow's or the control's calls, per instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallBounds {
    /// For the whole leg; none is the model's own limits.
    pub timeout: Option<Duration>,
    /// Calls at once; at least 1.
    pub max_in_flight: usize,
    /// Calls a second; 0 is no cap.
    pub max_rps: u32,
}

/// `capture`.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// Whether request bodies are recorded.
    pub request: bool,
    /// What is recorded of answers.
    pub answers: CaptureAnswers,
    /// A larger body is recorded truncated, in bytes.
    pub max_body: usize,
    /// The fields that are recorded; never a credential.
    pub headers: Vec<HeaderName>,
    /// What is hidden.
    pub redact: Vec<Redact>,
    /// To join labels and to find a subject's records, by name.
    pub keys: Vec<(String, Key)>,
}

/// `capture.answers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureAnswers {
    /// Whole bodies.
    Full,
    /// Only `compare.values`.
    Values,
    /// Nothing.
    None,
}

/// One entry of `capture.redact`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redact {
    /// What is hidden.
    pub what: RedactWhat,
    /// Whether a keyed hash stands in its place; else it is removed.
    pub hash: bool,
}

/// What a redaction hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedactWhat {
    /// A place in request and answers.
    Json(Pointer),
    /// A query parameter: `query:NAME`.
    Query(String),
    /// A field: `header:NAME`.
    Header(HeaderName),
}

/// Where a text is found in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the JSON body.
    Json(Pointer),
    /// In a field.
    Header(HeaderName),
    /// In a query parameter.
    Query(String),
    /// In a cookie.
    Cookie(String),
}

/// One of `capture.keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it is found.
    pub from: Source,
    /// Whether a keyed hash stands in its place.
    pub hash: bool,
}

/// One of `slices`.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Where it is found.
    pub from: Source,
    /// Ascending bounds that turn a number into `<10`, `10..100`, `>=1000`; empty is the value itself.
    pub buckets: Vec<Bucket>,
}

/// A bound of a bucketed slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// The bound; it belongs to the bucket above.
    pub bound: f64,
    /// As it was written in the file, for the bucket's name.
    pub text: String,
}

/// `compare`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compare {
    /// What decides; empty is everything outside `ignore`.
    pub values: Vec<ValueRule>,
    /// For values without their own, and for every other number.
    pub tolerance: Tolerance,
    /// Places that do not count.
    pub ignore: Vec<Pointer>,
}

/// One of `compare.values`.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueRule {
    /// Its name.
    pub name: String,
    /// Where it stands: for every model, or by model.
    pub at: ValueAt,
    /// What it holds.
    pub kind: ValueKind,
    /// How far numbers may differ; none is `compare.tolerance`.
    pub tolerance: Option<Tolerance>,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueAt {
    /// At one place in every model's answer.
    Same(Pointer),
    /// At a place of its own in each model's answer: one entry for every model of the route.
    ByModel(Vec<(ModelName, Pointer)>),
}

impl ValueAt {
    /// The place in this model's answer.
    pub fn of(&self, model: &ModelName) -> Option<&Pointer> {
        match self {
            ValueAt::Same(pointer) => Some(pointer),
            ValueAt::ByModel(places) => places.iter().find(|(name, _)| name == model).map(|(_, at)| at),
        }
    }
}

/// How far numbers may differ: |a−b| ≤ max(absolute, relative × max(|a|, |b|)).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Tolerance {
    /// In the value's own unit.
    pub absolute: f64,
    /// As a share of the larger.
    pub relative: f64,
}
