//! What a client's head has to be before anything is done with it, and what is read from it. Pure.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::error::Refusal;
use crate::config::process::Cidr;
use crate::types::RequestId;
use crate::upstream::body::Framing;
use crate::upstream::headers::REQUEST_ID;
use crate::wire::head::{digits, names_trailers};

/// A head that can be served.
#[derive(Debug)]
pub struct Checked {
    /// `Host`, or what HTTP/2 and the absolute form have in its place.
    pub host: HeaderValue,
    /// How the body is framed.
    pub framing: Framing,
    /// The client's id, or a new one.
    pub id: RequestId,
    /// Whether the client can take trailers.
    pub wants_trailers: bool,
    /// `http/1.1`, `h2` or `grpc`.
    pub protocol: &'static str,
}

/// Checks a head. `empty` is whether no body follows, as far as the transport tells.
pub fn check(head: &Parts, empty: bool, header_bytes: usize, unix_ms: u64) -> Result<Checked, Refusal> {
    match head.method {
        Method::CONNECT => return Err(Refusal::Connect),
        Method::TRACE => return Err(Refusal::Trace),
        _ => {}
    }
    let fields = Fields::of(&head.headers);
    // As HTTP/1.1 writes it.
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if head.method.as_str().len() + target + 12 + fields.bytes > header_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    let path = head.uri.path();
    let server_wide = path == "*" && head.method == Method::OPTIONS;
    if !path.starts_with('/') && !server_wide {
        return Err(Refusal::BadTarget);
    }
    let h2 = head.version == Version::HTTP_2;
    let id = fields.id.and_then(|id| RequestId::from_client(id.as_bytes()));
    Ok(Checked {
        host: fields.host(head)?,
        framing: fields.framing(empty)?,
        id: id.unwrap_or_else(|| RequestId::mint(unix_ms)),
        wants_trailers: h2 || fields.wants_trailers,
        protocol: match h2 {
            true if fields.grpc => "grpc",
            true => "h2",
            false => "http/1.1",
        },
    })
}

/// What is looked for among a head's fields, found in one pass.
#[derive(Default)]
struct Fields<'a> {
    /// The size of all of them as HTTP/1.1 writes them, in bytes.
    bytes: usize,
    host: Option<&'a HeaderValue>,
    hosts: usize,
    coding: Option<&'a HeaderValue>,
    codings: usize,
    length: Option<&'a HeaderValue>,
    id: Option<&'a HeaderValue>,
    wants_trailers: bool,
    grpc: bool,
}

impl<'a> Fields<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut found = Self::default();
        for (name, value) in headers {
            found.bytes += name.as_str().len() + value.len() + 4;
            match *name {
                HOST => {
                    found.host.get_or_insert(value);
                    found.hosts += 1;
                }
                TRANSFER_ENCODING => {
                    found.coding.get_or_insert(value);
                    found.codings += 1;
                }
                CONTENT_LENGTH => drop(found.length.get_or_insert(value)),
                CONTENT_TYPE => found.grpc |= value.as_bytes().starts_with(b"application/grpc"),
                TE => found.wants_trailers |= names_trailers(value),
                _ if *name == REQUEST_ID => drop(found.id.get_or_insert(value)),
                _ => {}
            }
        }
        found
    }

    /// The absolute form and `:authority` win over `Host` (RFC 9112 §3.2.2); HTTP/1.1 needs exactly one `Host`.
    fn host(&self, head: &Parts) -> Result<HeaderValue, Refusal> {
        if self.hosts > 1 || (self.hosts == 0 && head.version == Version::HTTP_11) {
            return Err(Refusal::BadHost);
        }
        if let Some(authority) = head.uri.authority() {
            // It takes the place of `Host`, so it has to be one: with a user in it, two readers could see two hosts.
            let host = HeaderValue::from_str(authority.as_str()).ok().filter(|host| is_host(host.as_bytes()));
            return host.ok_or(Refusal::BadHost);
        }
        match self.host {
            Some(host) if is_host(host.as_bytes()) => Ok(host.clone()),
            None if head.version < Version::HTTP_11 => Ok(HeaderValue::from_static("")),
            _ => Err(Refusal::BadHost),
        }
    }

    fn framing(&self, empty: bool) -> Result<Framing, Refusal> {
        if let Some(coding) = self.coding {
            let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            return if chunked && self.codings == 1 { Ok(Framing::Chunked) } else { Err(Refusal::Coding) };
        }
        match self.length {
            Some(length) => digits(length.as_bytes()).map(Framing::Length).ok_or(Refusal::BadLength),
            None if empty => Ok(Framing::None),
            None => Ok(Framing::Chunked),
        }
    }
}

/// Whether a `Host` can be one: an authority without user and password. An empty one is allowed (RFC 9110 §7.2).
fn is_host(value: &[u8]) -> bool {
    if is_plain_host(value) {
        return true;
    }
    let Ok(authority) = http::uri::Authority::try_from(value) else { return value.is_empty() };
    !value.contains(&b'@') && authority.as_str().strip_prefix(authority.host()).is_some_and(is_port)
}

/// What nearly every `Host` is: letters, digits, dots and hyphens, and maybe a port. It is an authority without a look at
/// the whole grammar, which would copy it.
fn is_plain_host(value: &[u8]) -> bool {
    let name = value.iter().position(|byte| !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-'));
    match name {
        None => !value.is_empty(),
        Some(0) => false,
        Some(at) => value[at] == b':' && std::str::from_utf8(&value[at..]).is_ok_and(is_port),
    }
}

/// Whether this can follow a host: nothing, or a colon and a port, which may be empty (RFC 3986 §3.2.3).
fn is_port(rest: &str) -> bool {
    let port = rest.strip_prefix(':').unwrap_or(rest);
    port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Whether this peer's `x-forwarded-*` are believed.
pub fn is_trusted(peer: IpAddr, trusted: &[Cidr]) -> bool {
    trusted.iter().any(|network| network.contains(peer))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_request(request: http::request::Builder) -> Result<Checked, Refusal> {
        let (head, ()) = request.body(()).expect("request").into_parts();
        check(&head, true, 1024, 0)
    }

    #[test]
    fn host_rules() {
        let get = || http::Request::get("/x");
        assert_eq!(check_request(get()).err(), Some(Refusal::BadHost));
        assert_eq!(check_request(get().header("host", "a").header("host", "b")).err(), Some(Refusal::BadHost));
        assert_eq!(check_request(get().header("host", "u:p@a")).err(), Some(Refusal::BadHost));
        for port in ["a:b", "a:99999", "a:+80"] {
            assert_eq!(check_request(get().header("host", port)).err(), Some(Refusal::BadHost), "{port}");
        }
        assert_eq!(check_request(get().header("host", "a:")).expect("valid").host, "a:");
        assert_eq!(check_request(get().header("host", "[::1]:8080")).expect("valid").host, "[::1]:8080");
        let absolute = http::Request::get("http://b.example/x").header("host", "a");
        assert_eq!(check_request(absolute).expect("valid").host, "b.example");
        let user = http::Request::get("http://a:b@c.example/x").header("host", "a");
        assert_eq!(check_request(user).err(), Some(Refusal::BadHost));
        assert_eq!(check_request(get().version(Version::HTTP_10)).expect("valid").host, "");
    }

    proptest! {
        #[test]
        fn a_plain_host_is_one_by_the_whole_grammar_too(value in "[a-zA-Z0-9.-]{0,12}(:[0-9]{0,6})?|[ -~]{0,12}") {
            let authority = http::uri::Authority::try_from(value.as_bytes());
            let whole = authority.is_ok_and(|authority| {
                !value.contains('@') && value.strip_prefix(authority.host()).is_some_and(is_port)
            });
            prop_assert_eq!(is_host(value.as_bytes()), whole || value.is_empty(), "{}", value);
        }
    }

    #[test]
    fn framing_rules() {
        let post = || http::Request::post("/x").header("host", "a");
        assert_eq!(check_request(post()).expect("valid").framing, Framing::None);
        assert_eq!(check_request(post().header("content-length", "5")).expect("valid").framing, Framing::Length(5));
        assert_eq!(check_request(post().header("content-length", "+5")).err(), Some(Refusal::BadLength));
        let chunked = post().header("transfer-encoding", "Chunked").header("content-length", "5");
        assert_eq!(check_request(chunked).expect("valid").framing, Framing::Chunked);
        for coding in ["gzip, chunked", "xchunked", "chunked, identity"] {
            assert_eq!(check_request(post().header("transfer-encoding", coding)).err(), Some(Refusal::Coding));
        }
    }

    #[test]
    fn a_large_head_is_refused() {
        let large = http::Request::get("/x").header("host", "a").header("x", "y".repeat(1024));
        assert_eq!(check_request(large).err(), Some(Refusal::HeadTooLarge));
    }
}
