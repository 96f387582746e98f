//! Floor 1: `capture` and `slices` of a route: what is recorded, under which names, and what is hidden. A place that is
//! hidden must not come to light again as a key or a slice.

use http::HeaderName;

use super::super::fault::{Notes, Place, did_you_mean};
use super::super::keys::{self, Block};
use super::super::raw::{Kind, Node, clip};
use super::super::routing::{Bucket, Capture, CaptureAnswers, Key, Redact, RedactWhat, Slice, Source};
use super::field::{header_name, is_credential, pointer};
use super::{Fields, entries, list, name, parsed, safe, scalar, size, text, word};
use crate::types::{CREDENTIAL_QUERY, Pointer, Step};

/// `max_body` where it is not written.
const MAX_BODY: usize = 256 << 10;

/// What a route without a `capture` block records.
pub(super) fn nothing() -> Capture {
    Capture {
        request: true,
        answers: CaptureAnswers::Full,
        max_body: MAX_BODY,
        headers: vec![http::header::CONTENT_TYPE],
        redact: Vec::new(),
        keys: Vec::new(),
    }
}

/// `capture`; `hash_key` is whether the server has one.
pub(super) fn read(node: &Node, hash_key: bool, notes: &mut Notes) -> Option<Capture> {
    let fields = Fields::open(node, &keys::CAPTURE, notes)?;
    let default = nothing();
    let redact = fields.read("redact", notes, |node, notes| redactions(node, hash_key, notes)).unwrap_or_default();
    let named =
        fields.read("keys", notes, |node, notes| record_keys(node, &redact, hash_key, notes)).unwrap_or_default();
    Some(Capture {
        request: fields.read("request", notes, |n, s| word(n, s, &[("full", true), ("none", false)])).unwrap_or(true),
        answers: fields.read("answers", notes, answers).unwrap_or(CaptureAnswers::Full),
        max_body: fields.read("max_body", notes, size).unwrap_or(MAX_BODY),
        headers: fields.read("headers", notes, headers).unwrap_or(default.headers),
        redact,
        keys: named,
    })
}

fn answers(node: &Node, notes: &mut Notes) -> Option<CaptureAnswers> {
    use CaptureAnswers::{Full, None, Values};
    word(node, notes, &[("full", Full), ("values", Values), ("none", None)])
}

fn headers(node: &Node, notes: &mut Notes) -> Option<Vec<HeaderName>> {
    let mut headers = Vec::new();
    for item in list(node, notes)? {
        let Some(name) = header_name(item, notes) else { continue };
        if is_credential(&name) {
            let help = "remove it; to find a caller's records, use `capture.keys` with `hash: true`";
            notes.warn(item.at, format!("`{name}` carries credentials and is never recorded"), help);
        } else if !headers.contains(&name) {
            headers.push(name);
        }
    }
    Some(headers)
}

fn redactions(node: &Node, hash_key: bool, notes: &mut Notes) -> Option<Vec<Redact>> {
    let mut redactions: Vec<Redact> = Vec::new();
    for item in list(node, notes)? {
        let Some(redact) = redaction(item, hash_key, notes) else { continue };
        if redactions.iter().any(|other| other.what == redact.what) {
            notes.fault(item.at, "a place that is listed twice", "keep one of the two");
        }
        redactions.push(redact);
    }
    Some(redactions)
}

fn redaction(node: &Node, hash_key: bool, notes: &mut Notes) -> Option<Redact> {
    if let Kind::Scalar(_) = &node.kind {
        return redacted(node, notes).map(|what| Redact { what, hash: false });
    }
    let fields = Fields::open(node, &keys::REDACT, notes)?;
    let what = fields.required("at", notes).and_then(|node| redacted(node, notes));
    let hash = fields.read("with", notes, |n, s| word(n, s, &[("hash", true)])).unwrap_or(false);
    if hash {
        needs_hash_key(hash_key, fields.key_at("with"), notes);
    }
    what.map(|what| Redact { what, hash })
}

/// A pointer, `query:NAME` or `header:NAME`.
fn redacted(node: &Node, notes: &mut Notes) -> Option<RedactWhat> {
    let written = text(node, notes)?;
    let blank = |name: &str| name.trim().is_empty();
    match written.split_once(':') {
        Some(("query", name)) if !blank(name) => Some(RedactWhat::Query(name.to_owned())),
        Some(("header", name)) if !blank(name) => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) if name == "x-request-id" => {
                let help = "it is the record's `request_id` and what its legs are found by: let clients send one that says nothing";
                notes.fault(node.at, "`x-request-id` cannot be hidden", help);
                None
            }
            Ok(name) => Some(RedactWhat::Header(name)),
            Err(_) => {
                notes.fault(node.at, "no name of a header field", "letters, digits and `-`, as in `header:x-user-id`");
                None
            }
        },
        _ if written.is_empty() || written.starts_with('/') => pointer(node, notes).map(RedactWhat::Json),
        _ => {
            let general = "write a pointer, `query:NAME` or `header:NAME`";
            let guess = match written.split(':').next() {
                Some("query" | "header") => general.to_owned(),
                _ => {
                    let name = written.trim_start_matches("$.");
                    format!("`/{}` is a place in the body, `query:{name}` a parameter", name.replace('.', "/"))
                }
            };
            let help = safe(node, guess, general);
            notes.fault(node.at, format!("cannot tell what {} hides", node.shown()), help);
            None
        }
    }
}

fn needs_hash_key(hash_key: bool, at: Place, notes: &mut Notes) {
    if !hash_key {
        notes.fault(
            at,
            "a hash without `server.hash_key`",
            "add `server: {hash_key: \"${file:PATH}\"}`: an unkeyed hash is easily reversed",
        );
    }
}

fn record_keys(node: &Node, redact: &[Redact], hash_key: bool, notes: &mut Notes) -> Option<Vec<(String, Key)>> {
    let mut found = Vec::new();
    for entry in entries(node, "`keys`", notes)? {
        let Some(fields) = Fields::open(&entry.value, &keys::KEY, notes) else { continue };
        let hash = fields.read("hash", notes, |node, notes| parsed(node, notes, scalar::truth)).unwrap_or(false);
        if hash {
            needs_hash_key(hash_key, fields.key_at("hash"), notes);
        }
        let Some(from) = source(&fields, &keys::KEY, notes) else { continue };
        let hidden = if hash { None } else { hidden(&from, redact) };
        if let Some(why) = hidden {
            notes.fault(entry.key_at, format!("key `{}` would show what {why}", clip(&entry.key)), "add `hash: true`");
        }
        found.push((entry.key.clone(), Key { from, hash }));
    }
    Some(found)
}

/// `slices`, held against what `capture.redact` hides.
pub(super) fn slices(node: &Node, redact: &[Redact], notes: &mut Notes) -> Option<Vec<(String, Slice)>> {
    let mut found = Vec::new();
    for entry in entries(node, "`slices`", notes)? {
        let Some(fields) = Fields::open(&entry.value, &keys::SLICE, notes) else { continue };
        let buckets = fields.read("buckets", notes, buckets).unwrap_or_default();
        let Some(from) = source(&fields, &keys::SLICE, notes) else { continue };
        if let Some(why) = hidden(&from, redact).filter(|_| fields.get("buckets").is_none()) {
            let message = format!("slice `{}` would show what {why}", clip(&entry.key));
            notes.fault(entry.key_at, message, "add `buckets: [10, 100]`: a bucket says less than the value");
        }
        found.push((entry.key.clone(), Slice { from, buckets }));
    }
    Some(found)
}

/// Where a text is found: just one of `json`, `header`, `query`, `cookie`.
fn source(fields: &Fields<'_>, block: &'static Block, notes: &mut Notes) -> Option<Source> {
    match fields.one_of(&["json", "header", "query", "cookie"], notes) {
        Some(("json", node)) => pointer(node, notes).map(Source::Json),
        Some(("header", node)) => header_name(node, notes).map(Source::Header),
        Some(("query", node)) => name(node, notes).map(|name| Source::Query(name.to_owned())),
        Some((_, node)) => name(node, notes).map(|name| Source::Cookie(name.to_owned())),
        None => {
            let help = "write one of `json: /pointer`, `header: name`, `query: name`, `cookie: name`";
            notes.fault(fields.at, format!("{} that says not where it is found", block.name), help);
            None
        }
    }
}

fn buckets(node: &Node, notes: &mut Notes) -> Option<Vec<Bucket>> {
    let items = list(node, notes)?;
    if items.is_empty() {
        notes.fault(node.at, "`buckets` is empty", "write ascending bounds, as in `[10, 100, 1000]`");
    }
    let mut buckets: Vec<Bucket> = Vec::with_capacity(items.len());
    for item in items {
        let Some(bound) = parsed(item, notes, scalar::number) else { continue };
        if buckets.last().is_some_and(|last| last.bound >= bound) {
            notes.fault(item.at, "bounds that do not ascend", "write them from the lowest to the highest, each once");
        }
        buckets.push(Bucket { bound, text: text(item, notes)?.to_owned() });
    }
    Some(buckets)
}

/// Why what stands there must not be shown.
fn hidden(from: &Source, redact: &[Redact]) -> Option<&'static str> {
    let never = match from {
        Source::Header(name) => is_credential(name),
        Source::Query(name) => CREDENTIAL_QUERY.iter().any(|credential| name.eq_ignore_ascii_case(credential)),
        Source::Json(_) | Source::Cookie(_) => false,
    };
    if never {
        return Some("is never recorded: credentials");
    }
    let redacted = redact.iter().any(|redact| match (&redact.what, from) {
        (RedactWhat::Json(hidden), Source::Json(place)) => overlap(hidden, place),
        (RedactWhat::Query(hidden), Source::Query(name)) => hidden.eq_ignore_ascii_case(name),
        (RedactWhat::Header(hidden), Source::Header(name)) => hidden == name,
        _ => false,
    });
    redacted.then_some("`capture.redact` hides")
}

/// Whether one place can be inside the other.
fn overlap(a: &Pointer, b: &Pointer) -> bool {
    a.steps().iter().zip(b.steps()).all(|(a, b)| a == b || *a == Step::Any || *b == Step::Any)
}

/// Whether `pairs.kafka.key` names a key of some route; else what would be right.
pub(super) fn unknown_key<'a>(key: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    let found = key == "request_id" || known.clone().into_iter().any(|name| name == key);
    (!found).then(|| did_you_mean(key, "keys", known))
}
