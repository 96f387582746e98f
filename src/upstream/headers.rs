//! What a request's head becomes on its way to a model, and an answer's on its way back. Everything passes as it came
//! but hop-by-hop fields (RFC 9110 §7.6.1), what the contract adds, and what the model's `rewrite` asks for. Maps are
//! built by copying: `HeaderMap::remove` would change the order of what stays.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, TE, TRAILER, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use super::body::{Framing, LegBody};
use super::endpoint::Endpoint;
use super::fields::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, Withheld, is_hop_by_hop, is_ours};
pub use super::fields::{REQUEST_ID, ROLE, answer_trailers};
use crate::config::routing::{Credentials, HostRewrite, Model, PathRewrite};
use crate::types::{RequestId, Role};
use crate::wire::head::digits;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Who connected. Its text is made once for a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address.
    pub ip: IpAddr,
    /// As `x-forwarded-for` has it.
    text: HeaderValue,
}

impl Peer {
    /// At this address.
    pub fn new(ip: IpAddr) -> Self {
        let text = HeaderValue::try_from(ip.to_canonical().to_string());
        Self { ip, text: text.unwrap_or_else(|_| HeaderValue::from_static("unknown")) }
    }
}

/// A request as the client sent it.
#[derive(Debug, Clone, Copy)]
pub struct Inbound<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as it came.
    pub uri: &'a Uri,
    /// The fields as they came.
    pub headers: &'a HeaderMap,
    /// `Host`, or what HTTP/2 and the absolute form have in its place.
    pub host: &'a HeaderValue,
    /// Whether the client can take trailers.
    pub wants_trailers: bool,
    /// Who connected.
    pub peer: &'a Peer,
    /// Whether the peer's own `x-forwarded-*` are believed.
    pub trusted: bool,
    /// The request's id.
    pub id: &'a RequestId,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the client spoke HTTP/2.
    pub http2: bool,
}

/// A head on its way to one model; the endpoint is not chosen yet.
#[derive(Debug, Clone)]
pub struct Head {
    method: Method,
    target: PathAndQuery,
    host: HostRewrite,
    client_host: HeaderValue,
    /// In the order in which they go out, without `Host`. No map: nothing is looked up in it.
    fields: Vec<(HeaderName, HeaderValue)>,
    withheld: Withheld,
    /// Whether the client spoke HTTP/2, where cookies may come in several fields.
    http2: bool,
}

/// The names that `Connection` lists.
fn connection_names(headers: &HeaderMap) -> Vec<String> {
    // By bytes: one odd byte in a line must not carry the names beside it over the hop.
    let pieces = headers.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = pieces.map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase());
    names.filter(|name| !matches!(name.as_str(), "" | "close" | "keep-alive")).collect()
}

/// Builds the head for one model.
pub fn request(inbound: &Inbound<'_>, model: &Model, role: Role, prefix: Option<&str>, rewritten: bool) -> Head {
    let mut fields = Vec::with_capacity(inbound.headers.len() + model.rewrite.set_headers.len() + 8);
    let named = connection_names(inbound.headers);
    let replaced = |name: &HeaderName| {
        model.rewrite.remove_headers.contains(name) || model.rewrite.set_headers.iter().any(|(set, _)| set == name)
    };
    let withheld = Withheld { credentials: model.credentials == Credentials::Strip, digests: rewritten };
    for (name, value) in inbound.headers {
        let text = name.as_str();
        let dropped = is_ours(name)
            || is_hop_by_hop(name)
            || named.iter().any(|named| named == text)
            || withheld.has(name)
            || replaced(name);
        if dropped {
            continue;
        }
        if *name == IDEMPOTENCY_KEY && role != Role::Prod {
            fields.push((name.clone(), suffixed(value, role)));
        } else {
            fields.push((name.clone(), value.clone()));
        }
    }
    add_own(&mut fields, inbound, role);
    fields.extend(model.rewrite.set_headers.iter().cloned());
    Head {
        method: inbound.method.clone(),
        target: target(inbound.uri, &model.rewrite.path, prefix),
        host: model.rewrite.host.clone(),
        client_host: inbound.host.clone(),
        fields,
        withheld,
        http2: inbound.http2,
    }
}

fn suffixed(key: &HeaderValue, role: Role) -> HeaderValue {
    let mut text = key.as_bytes().to_vec();
    text.push(b'-');
    text.extend_from_slice(role.as_str().as_bytes());
    // A valid value with visible characters after it stays valid.
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| key.clone())
}

/// What the client has sent of these was left out.
fn add_own(fields: &mut Vec<(HeaderName, HeaderValue)>, inbound: &Inbound<'_>, role: Role) {
    fields.push((REQUEST_ID, inbound.id.value().clone()));
    if role != Role::Prod {
        fields.push((ROLE, HeaderValue::from_static(role.as_str())));
    }
    fields.push((FORWARDED_FOR, forwarded_for(inbound)));
    for (name, own) in [(FORWARDED_PROTO, HeaderValue::from_static("http")), (FORWARDED_HOST, inbound.host.clone())] {
        let theirs = if inbound.trusted { inbound.headers.get(&name) } else { None };
        let value = theirs.cloned().unwrap_or(own);
        if !value.is_empty() {
            fields.push((name, value));
        }
    }
    match inbound.framing {
        Framing::None => {}
        Framing::Length(length) => fields.push((CONTENT_LENGTH, content_length(inbound, length))),
        Framing::Chunked => fields.push((TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
    if inbound.wants_trailers {
        fields.push((TE, HeaderValue::from_static("trailers")));
        fields.push((CONNECTION, HeaderValue::from_static("te")));
    }
}

/// The client's own line where it is written as we would: writing a number anew costs two allocations.
fn content_length(inbound: &Inbound<'_>, length: u64) -> HeaderValue {
    let as_ours = |own: &&HeaderValue| digits(own.as_bytes()) == Some(length) && !own.as_bytes().starts_with(b"0");
    inbound.headers.get(CONTENT_LENGTH).filter(as_ours).cloned().unwrap_or_else(|| HeaderValue::from(length))
}

/// A trusted peer's list with the peer's address after it; in place of an untrusted one's, the address alone.
fn forwarded_for(inbound: &Inbound<'_>) -> HeaderValue {
    let peer = &inbound.peer.text;
    if !inbound.trusted {
        return peer.clone();
    }
    let mut text: Vec<u8> = Vec::new();
    for line in inbound.headers.get_all(FORWARDED_FOR).iter().filter(|line| !line.is_empty()) {
        text.extend_from_slice(line.as_bytes());
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.as_bytes());
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// The path and query for the model; the query always stays.
fn target(uri: &Uri, rewrite: &PathRewrite, prefix: Option<&str>) -> PathAndQuery {
    let own = || match uri.path_and_query() {
        Some(own) if own.as_str().starts_with(['/', '*']) => own.clone(),
        // `http://host?query` has a path, too: the empty one, which is `/` (RFC 9110 §4.2.3).
        Some(own) => PathAndQuery::try_from(format!("/{}", own.as_str())).unwrap_or_else(|_| own.clone()),
        None => PathAndQuery::from_static("/"),
    };
    let path = match (rewrite, prefix) {
        (PathRewrite::Keep, _) | (PathRewrite::Prefix(_), None) => return own(),
        (PathRewrite::Exact(path), _) => path.clone(),
        (PathRewrite::Prefix(new), Some(old)) => {
            let rest = uri.path().get(old.len()..).unwrap_or_default();
            format!("{}{rest}", new.trim_end_matches('/'))
        }
    };
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let text = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    PathAndQuery::try_from(text).unwrap_or_else(|_| own())
}

impl Head {
    /// The method.
    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// The target in origin form.
    pub(super) fn target(&self) -> &str {
        self.target.as_str()
    }

    /// All fields but `Host`.
    pub(super) fn fields(&self) -> &[(HeaderName, HeaderValue)] {
        &self.fields
    }

    /// What is left out, also of trailers.
    pub(super) fn withheld(&self) -> Withheld {
        self.withheld
    }

    /// All cookies in one field, where HTTP/2 had them in several: HTTP/1.1 servers read the first (RFC 9113 §8.2.3).
    pub(super) fn joined_cookie(&self) -> Option<HeaderValue> {
        let crumbs = || self.fields.iter().filter(|(name, _)| *name == COOKIE).map(|(_, value)| value.as_bytes());
        if !self.http2 || crumbs().nth(1).is_none() {
            return None;
        }
        HeaderValue::from_bytes(&crumbs().collect::<Vec<_>>().join(&b"; "[..])).ok()
    }

    /// `Host`, or `:authority`, for this endpoint.
    pub(super) fn host(&self, endpoint: &Endpoint) -> HeaderValue {
        match &self.host {
            HostRewrite::Set(host) => host.clone(),
            HostRewrite::Keep if !self.client_host.is_empty() => self.client_host.clone(),
            // HTTP/1.0 clients may send none.
            HostRewrite::Keep | HostRewrite::Endpoint => endpoint.host(),
        }
    }

    /// The whole request for an HTTP/2 endpoint. Connection-specific fields are an error there (RFC 9113 §8.2.2).
    pub(super) fn http2(&self, endpoint: &Endpoint, body: LegBody) -> Request<LegBody> {
        let mut request = Request::new(body);
        let authority = http::uri::Authority::try_from(self.host(endpoint).as_bytes()).ok();
        let uri = authority.and_then(|authority| {
            let uri = Uri::builder().scheme("http").authority(authority).path_and_query(self.target.clone());
            uri.build().ok()
        });
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri.unwrap_or_else(|| Uri::from(self.target.clone()));
        let kept = self.fields.iter().filter(|(name, _)| *name != CONNECTION && *name != TRANSFER_ENCODING);
        for (name, value) in kept {
            request.headers_mut().append(name, value.clone());
        }
        request
    }

    /// A head of these parts.
    #[cfg(test)]
    pub(super) fn of(method: Method, target: &'static str, fields: Vec<(HeaderName, HeaderValue)>) -> Self {
        let host = HeaderValue::from_static("h");
        Self {
            method,
            target: PathAndQuery::from_static(target),
            host: HostRewrite::Keep,
            client_host: host,
            fields,
            withheld: Withheld::default(),
            http2: false,
        }
    }
}

/// The answer's fields for the client: all but hop-by-hop ones, the model's own repeated ones in their order. A 204 has no
/// length (RFC 9110 §8.6), and over HTTP/2 one is an error.
pub fn answer(headers: HeaderMap, status: StatusCode, id: &RequestId) -> HeaderMap {
    let lengthless = status == StatusCode::NO_CONTENT && headers.contains_key(CONTENT_LENGTH);
    let passes = !lengthless && !headers.keys().any(is_hop_by_hop);
    let mut kept = if passes { headers } else { without_hop_by_hop(&headers, lengthless) };
    if !kept.contains_key(&REQUEST_ID) {
        kept.insert(REQUEST_ID, id.value().clone());
    }
    kept
}

fn without_hop_by_hop(headers: &HeaderMap, lengthless: bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len() + 2);
    let named = connection_names(headers);
    // Where an answer has both, the chunks framed it (RFC 9112 §6.3).
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    for (name, value) in headers {
        let framing = *name == CONTENT_LENGTH && (chunked || lengthless);
        let named = named.iter().any(|named| named == name.as_str()) && *name != TRAILER;
        if !is_hop_by_hop(name) && !framing && !named {
            kept.append(name, value.clone());
        }
    }
    kept
}
