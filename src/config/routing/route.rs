//! Routes: which requests are meant, who is asked, and within which bounds.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};

use super::Model;
use super::record::{Capture, Compare, Slice, Source};
use crate::types::{Api, Percent, RouteName};

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
