//! What may change while the process runs: models (here), routes (`route`) and what of them is recorded and compared
//! (`record`). Only valid values, all names resolved.

mod record;
mod route;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

pub use self::record::*;
pub use self::route::*;
use crate::types::{ModelName, Pointer};

/// The `models` and `routes` blocks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routing {
    /// Every model, in file order.
    pub models: Vec<Arc<Model>>,
    /// Every route; the first match in this order wins.
    pub routes: Vec<Arc<Route>>,
}

/// A named deployment: a pool of endpoints that serve the same predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// Its version, or where answers carry it.
    pub version: Version,
    /// At least one.
    pub endpoints: Vec<EndpointUrl>,
    /// What is spoken to its endpoints.
    pub protocol: Protocol,
    /// Time limits of one call.
    pub timeout: Timeouts,
    /// The most connections per endpoint and process; 0 is no cap.
    pub max_connections: usize,
    /// Whether credentials are passed on to it.
    pub credentials: Credentials,
    /// What is changed in a request to it.
    pub rewrite: Rewrite,
    /// How its endpoints are asked whether they are ready; none asks by traffic alone.
    pub health: Option<Health>,
}

/// `health`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The path and query that answers below 400 while the endpoint is ready.
    pub path: String,
    /// How often.
    pub interval: Duration,
}

/// `version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// Not known.
    Unknown,
    /// A label.
    Label(String),
    /// Where the answer's JSON carries it.
    Json(Pointer),
    /// The answer's field that carries it.
    Header(HeaderName),
}

/// An endpoint's address: `http://HOST:PORT`. (https and a base path are not supported yet.)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    /// The address as in the file, without user and password: the label in metrics and records.
    pub label: Arc<str>,
    /// The host: a name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// `protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// `timeout`; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a new connection.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// Between two pieces of either body.
    pub idle: Duration,
    /// For the whole call.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(60),
            total: Duration::ZERO,
        }
    }
}

/// `credentials`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// As the client sent them.
    Pass,
    /// Without [`crate::types::CREDENTIAL_HEADERS`].
    Strip,
}

/// `rewrite`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// What becomes of the path; the query stays.
    pub path: PathRewrite,
    /// What becomes of `Host`.
    pub host: HostRewrite,
    /// Fields that are set, in place of the client's.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are removed.
    pub remove_headers: Vec<HeaderName>,
    /// Places in the JSON body that are set; a key that is missing is added.
    pub json: Vec<(Pointer, Value)>,
}

/// `rewrite.path` or `rewrite.path_prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathRewrite {
    /// As it came.
    #[default]
    Keep,
    /// This path instead.
    Exact(String),
    /// This prefix instead of the route's `path_prefix`; it does not end with `/` (the root is `""`).
    Prefix(String),
}

/// `rewrite.host`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostRewrite {
    /// As it came.
    #[default]
    Keep,
    /// This one instead.
    Set(HeaderValue),
    /// `@endpoint`: the endpoint's own name.
    Endpoint,
}
