//! Fields with a meaning of their own on the way to a model, whether they stand in a head or in trailers.

use http::header::{CONTENT_LENGTH, HOST, TRAILER};
use http::{HeaderMap, HeaderName};

use crate::types::CREDENTIAL_HEADERS;

/// The field that marks every leg but prod's.
pub const ROLE: HeaderName = HeaderName::from_static("x-shadowpair-role");
/// The id that the client, the models and the pair share.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Fields that only this proxy may set.
const OWN_PREFIX: &str = "x-shadowpair-";

/// Whether a field belongs to one connection only.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(name.as_str(), "connection" | "proxy-connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade")
}

/// Whether the proxy sets a field itself, or is the only one that may: a client's own does not pass.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    let forwarded = || *name == FORWARDED_FOR || *name == FORWARDED_PROTO || *name == FORWARDED_HOST;
    let framing = *name == HOST || *name == CONTENT_LENGTH;
    framing || *name == REQUEST_ID || text.starts_with(OWN_PREFIX) || (text.starts_with("x-forwarded-") && forwarded())
}

/// Fields that describe the old bytes of a body that is rewritten.
const DIGESTS: &[&str] = &["content-md5", "digest", "content-digest", "repr-digest"];

/// What a model is not told of what the client says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Withheld {
    /// Fields that carry credentials.
    pub(super) credentials: bool,
    /// Digests of the client's body, where another goes out.
    pub(super) digests: bool,
}

impl Withheld {
    /// Whether that is this field.
    pub(super) fn has(self, name: &HeaderName) -> bool {
        let text = name.as_str();
        (self.credentials && CREDENTIAL_HEADERS.contains(&text)) || (self.digests && DIGESTS.contains(&text))
    }
}

/// A request's trailers for one model: what a head may not say they may not either, because models that merge the two
/// would believe it.
pub(super) fn request_trailers(trailers: &HeaderMap, withheld: Withheld) -> HeaderMap {
    let allowed = |name: &HeaderName| !is_ours(name) && !is_hop_by_hop(name) && *name != TRAILER && !withheld.has(name);
    picked(trailers, allowed)
}

/// An answer's trailers for the client: all but what belongs to one connection, which HTTP/2 takes for an error.
pub fn answer_trailers(trailers: HeaderMap) -> HeaderMap {
    if trailers.keys().any(is_hop_by_hop) { picked(&trailers, |name| !is_hop_by_hop(name)) } else { trailers }
}

fn picked(fields: &HeaderMap, pick: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let kept = fields.iter().filter(|(name, _)| pick(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
