//! Floor 1: the `models` block: endpoints, time limits, health checks, rewrites.

use std::sync::Arc;
use std::time::Duration;

use super::super::fault::Notes;
use super::super::keys;
use super::super::raw::{Entry, Node};
use super::super::routing::{
    Credentials, EndpointUrl, Health, HostRewrite, Model, PathRewrite, Protocol, Rewrite, Timeouts, Version,
};
use super::field::{header_key, header_name, header_value, is_credential, path, path_and_query, pointer, prefix};
use super::json::json_value;
use super::{Fields, Models, duration, entries, list, safe, some_time, text, whole, word};
use crate::config::raw::Kind;
use crate::types::ModelName;

/// More connections than one process can hold.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// `health.interval` where it is not written.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// Every model, also a faulty one: its name is known all the same.
pub(super) fn read(node: &Node, notes: &mut Notes) -> Models {
    let mut models = Models::default();
    let entries = entries(node, "`models`", notes).unwrap_or_default();
    if entries.is_empty() && matches!(node.kind, Kind::Mapping(_)) {
        notes.fault(
            node.at,
            "`models` names no model",
            "write at least one: `NAME: {endpoints: [\"http://HOST:PORT\"]}`",
        );
    }
    for entry in entries {
        models.add(model(entry, notes));
    }
    models
}

fn model(entry: &Entry, notes: &mut Notes) -> Model {
    let mut model = Model {
        name: ModelName::new(entry.key.as_str()),
        version: Version::Unknown,
        endpoints: Vec::new(),
        protocol: Protocol::Auto,
        timeout: Timeouts::default(),
        max_connections: 0,
        credentials: Credentials::Pass,
        rewrite: Rewrite::default(),
        health: None,
    };
    let Some(fields) = Fields::open(&entry.value, &keys::MODEL, notes) else { return model };
    model.version = fields.read("version", notes, version).unwrap_or(Version::Unknown);
    model.endpoints = fields.required("endpoints", notes).map(|node| endpoints(node, notes)).unwrap_or_default();
    model.protocol = fields.read("protocol", notes, protocol).unwrap_or(Protocol::Auto);
    model.timeout = fields.read("timeout", notes, timeouts).unwrap_or_default();
    model.max_connections =
        fields.read("max_connections", notes, |n, s| whole(n, 0, CONNECTIONS_MAX, s)).unwrap_or_default();
    model.credentials = fields.read("credentials", notes, credentials).unwrap_or(Credentials::Pass);
    model.rewrite = fields.read("rewrite", notes, rewrite).unwrap_or_default();
    model.health = fields.read("health", notes, health);
    model
}

fn protocol(node: &Node, notes: &mut Notes) -> Option<Protocol> {
    word(node, notes, &[("auto", Protocol::Auto), ("http1", Protocol::Http1), ("h2", Protocol::H2)])
}

fn credentials(node: &Node, notes: &mut Notes) -> Option<Credentials> {
    word(node, notes, &[("pass", Credentials::Pass), ("strip", Credentials::Strip)])
}

fn version(node: &Node, notes: &mut Notes) -> Option<Version> {
    if let Kind::Scalar(_) = &node.kind {
        return text(node, notes).map(|label| Version::Label(label.to_owned()));
    }
    let fields = Fields::open(node, &keys::VERSION, notes)?;
    match fields.one_of(keys::VERSION.keys, notes) {
        Some(("json", node)) => pointer(node, notes).map(Version::Json),
        Some((_, node)) => header_name(node, notes).map(Version::Header),
        None => {
            notes.fault(
                node.at,
                "`version` says neither what nor where",
                "write a label, `{json: /pointer}` or `{header: name}`",
            );
            None
        }
    }
}

fn timeouts(node: &Node, notes: &mut Notes) -> Option<Timeouts> {
    if let Kind::Scalar(_) = &node.kind {
        let help = "write `timeout: {total: 2s}`; its keys are `connect`, `first_byte`, `idle`, `total`";
        notes.fault(node.at, format!("a model has several time limits, found {}", node.shown()), help);
        return None;
    }
    let fields = Fields::open(node, &keys::TIMEOUT, notes)?;
    let default = Timeouts::default();
    Some(Timeouts {
        connect: fields.read("connect", notes, duration).unwrap_or(default.connect),
        first_byte: fields.read("first_byte", notes, duration).unwrap_or(default.first_byte),
        idle: fields.read("idle", notes, duration).unwrap_or(default.idle),
        total: fields.read("total", notes, duration).unwrap_or(default.total),
    })
}

fn health(node: &Node, notes: &mut Notes) -> Option<Health> {
    let fields = Fields::open(node, &keys::HEALTH, notes)?;
    let path = fields.required("path", notes).and_then(|node| path_and_query(node, notes));
    let interval = fields.read("interval", notes, some_time).unwrap_or(HEALTH_INTERVAL);
    path.map(|path| Health { path: path.to_owned(), interval })
}

fn endpoints(node: &Node, notes: &mut Notes) -> Vec<EndpointUrl> {
    let Some(items) = list(node, notes) else { return Vec::new() };
    if items.is_empty() {
        notes.fault(node.at, "`endpoints` is empty", "write at least one, as in `[\"http://10.0.0.11:8080\"]`");
    }
    let mut endpoints: Vec<EndpointUrl> = Vec::with_capacity(items.len());
    for item in items {
        let Some(endpoint) = endpoint(item, notes) else { continue };
        if endpoints.iter().any(|other| other.host == endpoint.host && other.port == endpoint.port) {
            notes.fault(item.at, "an endpoint that is listed twice", "keep one of the two");
        }
        endpoints.push(endpoint);
    }
    endpoints
}

/// `http://HOST:PORT`.
fn endpoint(node: &Node, notes: &mut Notes) -> Option<EndpointUrl> {
    let url = text(node, notes)?;
    let (message, help) = match parse_endpoint(url) {
        Ok((host, port)) => {
            let label = Arc::from(url.trim_end_matches('/'));
            return Some(EndpointUrl { label, host, port });
        }
        Err(wrong) => wrong,
    };
    if url.contains('@') {
        notes.secret(node.at);
        let repeats = help.contains(url);
        notes.fault(node.at, message, if repeats { ENDPOINT_FORM.to_owned() } else { help });
    } else {
        notes.fault(node.at, format!("{message}: {}", node.shown()), safe(node, help, ENDPOINT_FORM));
    }
    None
}

const ENDPOINT_FORM: &str = "write `http://HOST:PORT`";

/// Host and port, or what is wrong and what would be right.
fn parse_endpoint(url: &str) -> Result<(String, u16), (&'static str, String)> {
    let wrong = |message, help: &str| Err((message, help.to_owned()));
    let lower = url.to_ascii_lowercase();
    if lower.starts_with("https://") {
        return wrong(
            "an `https` endpoint is not yet supported",
            "use `http://`, or a TLS-terminating hop before the model",
        );
    }
    let Some(rest) = url.get(7..).filter(|_| lower.starts_with("http://")) else {
        return Err(match url.split_once("://") {
            Some(_) => ("an endpoint of an unknown scheme", ENDPOINT_FORM.to_owned()),
            None => ("an endpoint without its scheme", format!("write `http://{url}`")),
        });
    };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return wrong(
            "user and password in an endpoint",
            "send them as a field: `rewrite: {headers: {set: {authorization: …}}}`",
        );
    }
    if tail.starts_with(['?', '#']) {
        return wrong("an endpoint with a query", "write `http://HOST:PORT`; the request's own query is passed on");
    }
    if !matches!(tail, "" | "/") {
        return wrong(
            "an endpoint with a path is not yet supported",
            "use `rewrite: {path: …}` or `{path_prefix: …}` of the model",
        );
    }
    let (host, port) = split_port(authority).ok_or(("an endpoint without a valid port", ENDPOINT_FORM.to_owned()))?;
    if port == 0 {
        return wrong("an endpoint on port 0", "write the port that the model listens on");
    }
    if !is_host(host) {
        return wrong(
            "an endpoint without a valid host",
            "write a name or an address: `http://model:8080`, `http://[::1]:8080`",
        );
    }
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// `HOST:PORT`, where the port may be left out.
fn split_port(authority: &str) -> Option<(&str, u16)> {
    let end = authority.rfind(']').map_or(0, |at| at + 1);
    match authority.get(end..)?.rfind(':') {
        Some(colon) => {
            let (host, port) = authority.split_at(end + colon);
            let port = port.get(1..)?;
            port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten().map(|port| (host, port))
        }
        None => Some((authority, 80)),
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            let name = host.strip_suffix('.').unwrap_or(host);
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            };
            name.len() <= 253 && name.split('.').all(label)
        }
    }
}

fn rewrite(node: &Node, notes: &mut Notes) -> Option<Rewrite> {
    let fields = Fields::open(node, &keys::REWRITE, notes)?;
    let path = match fields.one_of(&["path", "path_prefix"], notes) {
        Some(("path", node)) => path(node, notes).map(|path| PathRewrite::Exact(path.to_owned())),
        Some((_, node)) => prefix(node, notes).map(PathRewrite::Prefix),
        None => None,
    };
    let (set_headers, remove_headers) = fields.read("headers", notes, headers).unwrap_or_default();
    Some(Rewrite {
        path: path.unwrap_or_default(),
        host: fields.read("host", notes, host).unwrap_or_default(),
        set_headers,
        remove_headers,
        json: fields.read("json", notes, json).unwrap_or_default(),
    })
}

fn host(node: &Node, notes: &mut Notes) -> Option<HostRewrite> {
    let host = text(node, notes)?;
    if host == "@endpoint" {
        return Some(HostRewrite::Endpoint);
    }
    let valid = split_port(host).is_some_and(|(name, _)| is_host(name));
    match http::HeaderValue::from_str(host) {
        Ok(value) if valid => Some(HostRewrite::Set(value)),
        _ => {
            let help = "write a host as in `fraud.internal` or `fraud.internal:8080`, or `@endpoint` for the endpoint's own name";
            notes.fault(node.at, format!("{} is no host", node.shown()), help);
            None
        }
    }
}

type Headers = (Vec<(http::HeaderName, http::HeaderValue)>, Vec<http::HeaderName>);

fn headers(node: &Node, notes: &mut Notes) -> Option<Headers> {
    let fields = Fields::open(node, &keys::REWRITE_HEADERS, notes)?;
    let (mut set, mut remove): Headers = Default::default();
    for entry in fields.read("set", notes, |n, s| entries(n, "`set`", s)).unwrap_or_default() {
        let Some(name) = header_key(entry, notes).filter(|name| may_change(name, entry.key_at, notes)) else {
            continue;
        };
        let secret = is_credential(&name) || super::super::secrets::is_secret_key(name.as_str());
        if set.iter().any(|(other, _)| *other == name) {
            notes.fault(
                entry.key_at,
                format!("`{name}` is set twice"),
                "keep one of the two: names of fields have no case",
            );
        }
        set.extend(header_value(&entry.value, secret, notes).map(|value| (name, value)));
    }
    for node in fields.read("remove", notes, list).unwrap_or_default() {
        let Some(name) = header_name(node, notes).filter(|name| may_change(name, node.at, notes)) else { continue };
        if set.iter().any(|(other, _)| *other == name) {
            notes.fault(
                node.at,
                "a field that is both set and removed",
                "keep one of the two: `set` replaces the client's value",
            );
        }
        remove.push(name);
    }
    Some((set, remove))
}

/// Fields that the proxy itself answers for cannot be rewritten.
fn may_change(name: &http::HeaderName, at: super::Place, notes: &mut Notes) -> bool {
    let help = match name.as_str() {
        "host" => "use `rewrite.host`",
        "content-length" | "transfer-encoding" => "the proxy frames the body itself",
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade" => {
            "it belongs to one connection and is never passed on"
        }
        "x-request-id" => "client, models and pair share it, and the client chooses it",
        name if name.starts_with("x-shadowpair-") => "it marks the legs that are not prod's",
        _ => return true,
    };
    notes.fault(at, format!("`{name}` cannot be rewritten"), help);
    false
}

fn json(node: &Node, notes: &mut Notes) -> Option<Vec<(crate::types::Pointer, serde_json::Value)>> {
    let mut places = Vec::new();
    for entry in entries(node, "`rewrite.json`", notes)? {
        let key = Node {
            at: entry.key_at,
            kind: Kind::Scalar(super::Scalar { text: entry.key.clone(), written: None, plain: false }),
        };
        let place = pointer(&key, notes).filter(|place| !place.steps().is_empty());
        let value = json_value(&entry.value, notes);
        places.extend(place.zip(value));
    }
    Some(places)
}

#[cfg(test)]
mod tests {
    use super::parse_endpoint;

    #[test]
    fn endpoints_are_split_into_host_and_port() {
        assert_eq!(parse_endpoint("http://10.0.0.11:8080"), Ok(("10.0.0.11".into(), 8080)));
        assert_eq!(parse_endpoint("HTTP://Model.internal/"), Ok(("Model.internal".into(), 80)));
        assert_eq!(parse_endpoint("http://[::1]:9000"), Ok(("::1".into(), 9000)));
        assert_eq!(parse_endpoint("http://[::1]"), Ok(("::1".into(), 80)));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (url, why) in [
            ("10.0.0.11:8080", "an endpoint without its scheme"),
            ("ftp://a", "an endpoint of an unknown scheme"),
            ("https://a", "an `https` endpoint is not yet supported"),
            ("http://a:0", "an endpoint on port 0"),
            ("http://a:65536", "an endpoint without a valid port"),
            ("http://a:+5", "an endpoint without a valid port"),
            ("http://a:", "an endpoint without a valid port"),
            ("http://", "an endpoint without a valid host"),
            ("http://a b", "an endpoint without a valid host"),
            // No label of a metric can hold one of these by way of an endpoint.
            ("http://a\"b", "an endpoint without a valid host"),
            ("http://a\\b", "an endpoint without a valid host"),
            ("http://::1", "an endpoint without a valid host"),
            ("http://[::1", "an endpoint without a valid host"),
            ("http://a/v2", "an endpoint with a path is not yet supported"),
            ("http://a?x", "an endpoint with a query"),
            ("http://u:p@a", "user and password in an endpoint"),
        ] {
            assert_eq!(parse_endpoint(url).map_err(|(message, _)| message), Err(why), "{url}");
        }
    }
}
