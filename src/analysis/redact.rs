//! Floor 2: `capture.redact`. What is redacted is compared but not shown: in bodies, queries and fields its place
//! holds nothing (`null`, `REDACTED`) or a keyed hash, and whatever else could show it (values, keys, slices, the
//! pointers of differences) asks here first. Everything around it stays as it was sent.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use http::header::COOKIE;
use sha2::Sha256;

use super::json::{Doc, Value, View, splice};
use super::query;
use crate::config::routing::{Redact, RedactWhat, Source};
use crate::types::{CREDENTIAL_HEADERS, CREDENTIAL_QUERY, Pointer, REDACTED, Secret, Step};

/// A keyed hash: `hmac:` and 64 hex digits of HMAC-SHA256. None without a key, because a hash that anybody can
/// compute hides nothing.
pub fn keyed_hash(key: Option<&Secret>, text: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key?.reveal().as_bytes()).ok()?;
    mac.update(text);
    let digest = mac.finalize().into_bytes();
    let mut hash = String::with_capacity(5 + 2 * digest.len());
    hash.push_str("hmac:");
    for byte in digest {
        hash.extend([byte >> 4, byte & 15].map(|half| char::from(b"0123456789abcdef"[usize::from(half)])));
    }
    Some(hash)
}

/// A route's redactions.
#[derive(Debug, Clone, Copy)]
pub struct Redactions<'r> {
    rules: &'r [Redact],
    hash_key: Option<&'r Secret>,
}

impl<'r> Redactions<'r> {
    /// These rules, with the key for those that hash.
    pub fn new(rules: &'r [Redact], hash_key: Option<&'r Secret>) -> Self {
        Self { rules, hash_key }
    }

    /// The places in bodies that are hidden.
    pub fn pointers(self) -> impl Iterator<Item = &'r Pointer> {
        self.rules.iter().filter_map(|rule| match &rule.what {
            RedactWhat::Json(pointer) => Some(pointer),
            _ => None,
        })
    }

    /// Whether something in bodies is hidden.
    pub fn in_bodies(self) -> bool {
        self.pointers().next().is_some()
    }

    /// Whether the place is hidden, holds what is hidden, or lies within it.
    pub fn touch(self, pointer: &Pointer) -> bool {
        self.pointers().any(|hidden| overlap(hidden.steps(), pointer.steps()))
    }

    /// Whether what is found there must not be shown as it is. Credentials never are. A single cookie may be: who
    /// names it has chosen it, and it is hidden with `header:cookie`.
    pub fn hide(self, source: &Source) -> bool {
        match source {
            Source::Json(pointer) => self.touch(pointer),
            Source::Header(name) => CREDENTIAL_HEADERS.contains(&name.as_str()) || self.of_header(name).is_some(),
            Source::Cookie(_) => self.of_header(&COOKIE).is_some(),
            Source::Query(name) => {
                CREDENTIAL_QUERY.iter().any(|credential| query::is_named(name.as_bytes(), credential))
                    || self.of_query(name.as_bytes()).is_some()
            }
        }
    }

    /// A document with what is hidden in it replaced, and every other byte as it was sent. Of a key that stands
    /// twice both values are.
    pub fn document(self, doc: &Doc) -> String {
        let mut splices = Vec::new();
        for rule in self.rules {
            if let RedactWhat::Json(pointer) = &rule.what {
                let mut hide = |value: Value| splices.push((value.span(), self.value(value, rule.hash)));
                hidden_places(doc.root(), pointer.steps(), &mut hide);
            }
        }
        splice(doc.text(), splices)
    }

    /// What stands in a value's place: `null` keeps the indices of an array and the keys of an object as they were.
    /// A scalar is hashed by its text, so that it meets the hash of a key that reads the same; the rest as sent.
    fn value(self, value: Value, hash: bool) -> String {
        let text = if hash { value.scalar().unwrap_or(value.raw().into()) } else { "".into() };
        let hashed = if hash { keyed_hash(self.hash_key, text.as_bytes()) } else { None };
        hashed.map_or("null".into(), |hash| format!("\"{hash}\""))
    }

    /// A query with what is hidden in it replaced; credentials always are.
    pub fn query(self, query: &str) -> String {
        query::redacted(query, |field| {
            let rule = self.of_query(&field.name)?;
            Some(self.text(rule, &query::percent_decoded(field.value.unwrap_or_default())))
        })
    }

    /// A field's value as it may be shown; none where it may not at all.
    pub fn header<'v>(self, name: &HeaderName, value: Cow<'v, str>) -> Option<Cow<'v, str>> {
        if CREDENTIAL_HEADERS.contains(&name.as_str()) {
            return None;
        }
        match self.of_header(name) {
            Some(rule) => Some(self.text(rule, value.as_bytes()).into()),
            None => Some(self.url(value)),
        }
    }

    /// A text that may be or hold a URL (`referer`, `location`): its query is hidden as that of the request is.
    pub fn url(self, text: Cow<'_, str>) -> Cow<'_, str> {
        if text.bytes().any(|byte| matches!(byte, b'?' | b'#' | b'%')) { self.query(&text).into() } else { text }
    }

    fn text(self, rule: &Redact, text: &[u8]) -> String {
        let hashed = if rule.hash { keyed_hash(self.hash_key, text) } else { None };
        hashed.unwrap_or_else(|| REDACTED.into())
    }

    fn of_query(self, name: &[u8]) -> Option<&'r Redact> {
        self.rules.iter().find(|rule| matches!(&rule.what, RedactWhat::Query(hidden) if query::is_named(name, hidden)))
    }

    fn of_header(self, name: &HeaderName) -> Option<&'r Redact> {
        self.rules.iter().find(|rule| matches!(&rule.what, RedactWhat::Header(hidden) if hidden == name))
    }
}

/// Visits what a pointer hides, and a text on the way there that is JSON of its own: it cannot be hidden in part.
fn hidden_places(at: Value, steps: &[Step], hide: &mut impl FnMut(Value)) {
    for taken in 0..steps.len() {
        at.places(&steps[..taken], &mut |value| match value.view() {
            View::Text(text) if text.is_document() => hide(value),
            _ => {}
        });
    }
    at.places(steps, hide);
}

/// Whether one place is, or lies within, the other.
fn overlap(a: &[Step], b: &[Step]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b || matches!(a, Step::Any) || matches!(b, Step::Any))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(pointer: &str, hash: bool) -> Redact {
        Redact { what: RedactWhat::Json(Pointer::parse(pointer).unwrap()), hash }
    }

    fn redacted(body: &str, rules: &[Redact]) -> String {
        let key = Secret::new("key");
        Redactions::new(rules, Some(&key)).document(&Doc::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn a_hash_is_hmac_sha256_in_hex() {
        // RFC 4231, test case 2.
        let hash = keyed_hash(Some(&Secret::new("Jefe")), b"what do ya want for nothing?");
        let expected = "hmac:5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hash.as_deref(), Some(expected));
        assert_eq!(keyed_hash(None, b"x"), None);
    }

    #[test]
    fn what_is_hidden_goes_and_the_rest_stays_byte_for_byte() {
        let body = "{ \"inputs\": [ {\"data\":[1, 2,\t3 , 4E400]} ],\n \"user\": {\"id\": \"x\\u0041\", \"n\": 1.0} }";
        let hidden = redacted(body, &[json("/inputs/0/data/2", false), json("/user/id", false), json("/none", false)]);
        assert_eq!(hidden, body.replace("\t3", "\tnull").replace("\"x\\u0041\"", "null"));
        assert_eq!(
            redacted(body, &[json("/user", false), json("/user/id", true)]),
            body.replace("{\"id\": \"x\\u0041\", \"n\": 1.0}", "null")
        );
        assert_eq!(redacted("{\"a\": [[1], [2]]}", &[json("/a/*/0", false)]), "{\"a\": [[null], [null]]}");
        assert_eq!(redacted("7", &[json("", false)]), "null");
    }

    #[test]
    fn the_first_of_two_equal_keys_is_hidden_too() {
        let body = r#"{"user": {"id": "a"}, "us\u0065r": {"id": "b", "i\u0064": "c"}}"#;
        assert_eq!(
            redacted(body, &[json("/user/id", false)]),
            r#"{"user": {"id": null}, "us\u0065r": {"id": null, "i\u0064": null}}"#
        );
    }

    #[test]
    fn what_lies_in_json_that_is_sent_as_text_is_hidden_with_the_text() {
        let body = r#"{"call": {"arguments": "{\"card\": 42}", "name": "pay"}, "plain": "x"}"#;
        assert_eq!(
            redacted(
                body,
                &[json("/call/arguments/card", false), json("/plain/card", false), json("/call/name/0", false)]
            ),
            r#"{"call": {"arguments": null, "name": "pay"}, "plain": "x"}"#
        );
        assert_eq!(redacted(r#"" [1, 2]""#, &[json("/*", false)]), "null");
    }

    #[test]
    fn a_hash_is_of_the_scalars_text_and_needs_a_key() {
        let hash = |text: &str| format!("\"{}\"", keyed_hash(Some(&Secret::new("key")), text.as_bytes()).unwrap());
        assert_eq!(redacted(r#"["7"]"#, &[json("/0", true)]), format!("[{}]", hash("7")));
        assert_eq!(redacted("[7]", &[json("/*", true)]), format!("[{}]", hash("7")));
        assert_eq!(redacted("[[1, 2]]", &[json("/0", true)]), format!("[{}]", hash("[1, 2]")));
        let rules = [json("/0", true)];
        assert_eq!(Redactions::new(&rules, None).document(&Doc::parse(b"[7]").unwrap()), "[null]");
    }

    #[test]
    fn places_above_and_below_what_is_hidden_are_touched() {
        let rules = [json("/a/*/c", false)];
        let touched = |p: &str| Redactions::new(&rules, None).touch(&Pointer::parse(p).unwrap());
        for pointer in ["", "/a", "/a/0", "/a/0/c", "/a/b/c/d", "/*/x"] {
            assert!(touched(pointer), "{pointer}");
        }
        for pointer in ["/b", "/a/0/d", "/a/*/e"] {
            assert!(!touched(pointer), "{pointer}");
        }
    }

    #[test]
    fn queries_and_fields_are_hidden_and_credentials_always() {
        let header = |name: &'static str| HeaderName::from_static(name);
        let rules = [
            Redact { what: RedactWhat::Query("customer".into()), hash: true },
            Redact { what: RedactWhat::Header(header("x-user")), hash: false },
        ];
        let key = Secret::new("key");
        let redactions = Redactions::new(&rules, Some(&key));
        let hash = keyed_hash(Some(&key), b"a b").unwrap();
        assert_eq!(redactions.query("customer=a%20b&token=t&x=1"), format!("customer={hash}&token=REDACTED&x=1"));
        assert_eq!(redactions.header(&header("x-user"), "u".into()).as_deref(), Some("REDACTED"));
        assert_eq!(redactions.header(&header("x-other"), "u".into()).as_deref(), Some("u"));
        assert_eq!(redactions.header(&header("authorization"), "u".into()), None);
        assert!(
            redactions.hide(&Source::Query("Api_Key".into())) && redactions.hide(&Source::Query("Customer".into()))
        );
        let referer = redactions.header(&header("referer"), "https://h/p?CUSTOMER=a+b&key=k#token=t".into());
        assert_eq!(referer, Some(format!("https://h/p?CUSTOMER={hash}&key=REDACTED#token=REDACTED").into()));
        assert!(redactions.hide(&Source::Header(header("x-api-key"))) && !redactions.hide(&Source::Cookie("c".into())));
    }
}
