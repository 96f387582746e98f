//! Floor 1: the things of HTTP and JSON that several blocks name: header fields, methods, paths, pointers.

use http::{HeaderName, HeaderValue, Method};

use super::super::fault::Notes;
use super::super::raw::{Entry, Node};
use super::{safe, text};
use crate::types::{CREDENTIAL_HEADERS, Percent, Pointer, PointerError};

/// A JSON Pointer.
pub(super) fn pointer(node: &Node, notes: &mut Notes) -> Option<Pointer> {
    let text = text(node, notes)?;
    match Pointer::parse(text) {
        Ok(pointer) => Some(pointer),
        Err(error) => {
            let fixed = format!("/{}", text.trim_start_matches("$.").replace('.', "/"));
            let guess = match error {
                PointerError::NoSlash => format!("{error}; did you mean `{fixed}`?"),
                PointerError::Escape => error.to_string(),
            };
            let help = safe(node, guess, &error.to_string());
            notes.fault(node.at, format!("expected a JSON Pointer, found {}", node.shown()), help);
            None
        }
    }
}

/// A share; always written with its key, so that nobody has to guess.
pub(super) fn percent(node: &Node, notes: &mut Notes) -> Option<Percent> {
    super::parsed(node, notes, super::scalar::percent).and_then(Percent::from_basis_points)
}

/// The name of a header field; lower case from here on.
pub(super) fn header_name(node: &Node, notes: &mut Notes) -> Option<HeaderName> {
    let name = text(node, notes)?;
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        let help = "letters, digits and `-`, as in `x-country`";
        notes.fault(node.at, format!("{} is no name of a header field", node.shown()), help);
    }
    parsed
}

/// The same where the name is a key.
pub(super) fn header_key(entry: &Entry, notes: &mut Notes) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(entry.key.as_bytes()).ok();
    if parsed.is_none() {
        let message = format!("`{}` is no name of a header field", super::clip(&entry.key));
        notes.fault(entry.key_at, message, "letters, digits and `-`, as in `x-country`");
    }
    parsed
}

/// Whether a field carries credentials.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    CREDENTIAL_HEADERS.contains(&name.as_str())
}

/// The value of a header field. One that is secret is marked as such, for whoever prints it.
pub(super) fn header_value(node: &Node, secret: bool, notes: &mut Notes) -> Option<HeaderValue> {
    if secret {
        notes.secret(node.at);
    }
    let value = text(node, notes)?;
    let Ok(mut value) = HeaderValue::from_bytes(value.as_bytes()) else {
        notes.fault(node.at, "no value of a header field", "one line of text without control characters");
        return None;
    };
    value.set_sensitive(secret);
    Some(value)
}

/// A method that the proxy serves.
pub(super) fn method(node: &Node, notes: &mut Notes) -> Option<Method> {
    let name = text(node, notes)?;
    // Methods are case-sensitive, but nobody who writes `post` means a method of that name.
    let upper = name.to_ascii_uppercase();
    if matches!(upper.as_str(), "CONNECT" | "TRACE") {
        notes.fault(
            node.at,
            format!("{} is never proxied", node.shown()),
            "CONNECT is answered with 501, TRACE with 405",
        );
        return None;
    }
    let standard = matches!(upper.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH");
    let parsed = Method::from_bytes(if standard { upper.as_bytes() } else { name.as_bytes() }).ok();
    if parsed.is_none() {
        notes.fault(node.at, format!("{} is no HTTP method", node.shown()), "write it as in `POST`");
    }
    parsed
}

/// A path as it stands on the request line, without a query.
pub(super) fn path<'n>(node: &'n Node, notes: &mut Notes) -> Option<&'n str> {
    let more = "a path has neither `?` nor `#`; the query is left as it came";
    target(node, ['?', '#'].as_slice(), ("is more than a path", more), notes)
}

/// A path with or without a query, for a request of our own.
pub(super) fn path_and_query<'n>(node: &'n Node, notes: &mut Notes) -> Option<&'n str> {
    target(node, ['#'].as_slice(), ("has a fragment", "leave out what begins with `#`: it is never sent"), notes)
}

/// What stands on the request line, without some characters; or why it must not have these.
fn target<'n>(
    node: &'n Node,
    without: &[char],
    because: (&'static str, &'static str),
    notes: &mut Notes,
) -> Option<&'n str> {
    let path = text(node, notes)?;
    let (message, help) = if !path.starts_with('/') {
        ("does not begin with `/`", safe(node, format!("write `/{path}`"), "a path begins with `/`"))
    } else if path.contains(without) {
        (because.0, because.1.to_owned())
    } else if !path.bytes().all(|b| b.is_ascii_graphic()) {
        (
            "has characters that no request line can carry",
            "write them percent-encoded, as in `%20` for a blank".to_owned(),
        )
    } else if path.parse::<http::uri::PathAndQuery>().is_err() {
        ("has characters that no request line can carry", "write them percent-encoded, as in `%3C` for `<`".to_owned())
    } else {
        return Some(path);
    };
    notes.fault(node.at, format!("the path {} {message}", node.shown()), help);
    None
}

/// A path prefix without its last `/`: it counts by whole segments, so `/v2/` and `/v2` are one.
pub(super) fn prefix(node: &Node, notes: &mut Notes) -> Option<String> {
    path(node, notes).map(|path| path.trim_end_matches('/').to_owned())
}
