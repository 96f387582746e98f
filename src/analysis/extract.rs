//! Floor 2: keys, slices and versions: small texts found in a request or an answer. They come from strangers, so
//! each is bounded; what is redacted is used (a key may hash it, a slice may put it in a bucket) but not shown.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName};

use super::json::Doc;
use super::query;
use super::redact::{Redactions, keyed_hash};
use crate::config::routing::{Bucket, Key, Slice, Source};
use crate::types::{Pointer, Secret};

/// The longest key that is recorded without a hash, in bytes. A cut key would join what does not belong together,
/// so a longer one is null.
const KEY_MAX: usize = 1024;

/// The longest slice and version, in bytes; a longer one is cut.
const TEXT_MAX: usize = 256;

/// Named texts; null where there is none.
pub type Named<'n> = BTreeMap<Cow<'n, str>, Option<Cow<'n, str>>>;

/// A request, as far as texts are found in it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// Its query.
    pub query: Option<&'a str>,
    /// Its body, where that is JSON.
    pub doc: Option<&'a Doc<'a>>,
}

impl<'a> Asked<'a> {
    /// The text at a source: of several fields or cookies the first. Empty, blank, missing, `null`, an object or an
    /// array is none; JSON `7` and `"7"` are one.
    pub fn text(&self, source: &Source) -> Option<Cow<'a, str>> {
        let text = match source {
            Source::Json(pointer) => scalar_at(self.doc?, pointer)?,
            Source::Header(name) => first_header(self.headers, name)?,
            Source::Query(name) => query::value(self.query?, name)?.into(),
            Source::Cookie(name) => cookie(self.headers, name)?,
        };
        (!text.trim().is_empty()).then_some(text)
    }
}

fn scalar_at<'d>(doc: &'d Doc, pointer: &Pointer) -> Option<Cow<'d, str>> {
    doc.root().find(pointer)?.scalar()
}

fn first_header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, str>> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// HTTP/2 may send each cookie in a field of its own (RFC 9113 §8.2.3): they count as one.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, str>> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs
        .filter_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            let (found, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
            (found == name.as_bytes()).then_some(String::from_utf8_lossy(value))
        })
        .next()
}

/// A short text at a place of a document that is not hidden.
pub fn short_text(doc: &Doc, pointer: &Pointer, redactions: Redactions) -> Option<String> {
    if redactions.touch(pointer) { None } else { scalar_at(doc, pointer).and_then(shortened) }
}

/// A short text from a field that is not hidden.
pub fn short_header(headers: &HeaderMap, name: &HeaderName, redactions: Redactions) -> Option<String> {
    redactions.header(name, first_header(headers, name)?).and_then(shortened)
}

fn shortened(text: Cow<str>) -> Option<String> {
    let kept = &text[..text.floor_char_boundary(TEXT_MAX)];
    (!kept.trim().is_empty()).then(|| kept.to_string())
}

/// A text as it may be shown; none where it may not at all.
fn shown(asked: &Asked, source: &Source, redactions: Redactions) -> Option<String> {
    if redactions.hide(source) {
        return None;
    }
    let text = asked.text(source)?;
    let text = if matches!(source, Source::Json(_)) { text } else { redactions.url(text) };
    Some(text.into_owned())
}

/// `capture.keys`. A key that reads what is redacted is null unless it hashes.
pub fn keys<'n>(
    asked: &Asked,
    keys: &'n [(String, Key)],
    redactions: Redactions,
    hash_key: Option<&Secret>,
) -> Named<'n> {
    let value = |key: &Key| {
        if key.hash {
            return keyed_hash(hash_key, asked.text(&key.from)?.as_bytes());
        }
        shown(asked, &key.from, redactions).filter(|text| text.len() <= KEY_MAX)
    };
    keys.iter().map(|(name, key)| (name.into(), value(key).map(Cow::Owned))).collect()
}

/// `slices`. A slice that reads what is redacted is null unless it has buckets.
pub fn slices<'n>(asked: &Asked, slices: &'n [(String, Slice)], redactions: Redactions) -> Named<'n> {
    let value = |slice: &Slice| match slice.buckets.as_slice() {
        [] => shown(asked, &slice.from, redactions).and_then(|text| shortened(text.into())),
        buckets => bucket(buckets, &asked.text(&slice.from)?),
    };
    slices.iter().map(|(name, slice)| (name.into(), value(slice).map(Cow::Owned))).collect()
}

/// The name of the bucket that a number falls into: `<10`, `10..100`, `>=1000`. A bound belongs to the bucket above;
/// what is not a number has none.
fn bucket(buckets: &[Bucket], text: &str) -> Option<String> {
    let number: f64 = text.trim().parse().ok().filter(|number: &f64| number.is_finite())?;
    let above = buckets.partition_point(|bucket| bucket.bound <= number);
    Some(match (above.checked_sub(1).and_then(|below| buckets.get(below)), buckets.get(above)) {
        (Some(low), Some(high)) => format!("{}..{}", low.text, high.text),
        (Some(low), None) => format!(">={}", low.text),
        (None, Some(high)) => format!("<{}", high.text),
        (None, None) => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::config::routing::{Redact, RedactWhat};

    fn json(pointer: &str) -> Source {
        Source::Json(Pointer::parse(pointer).unwrap())
    }

    fn headers(list: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn json_scalars_are_text_and_nothing_else_is() {
        let headers = HeaderMap::new();
        let doc =
            Doc::parse(br#"{"n": 7, "s": "7", "t": true, "e": " ", "z": null, "o": {"k": 1E400}, "l": [1]}"#).unwrap();
        let asked = Asked { headers: &headers, query: None, doc: Some(&doc) };
        let text = |p: &str| asked.text(&json(p)).map(Cow::into_owned);
        assert_eq!([text("/n"), text("/s"), text("/t")].map(Option::unwrap), ["7", "7", "true"]);
        assert_eq!([text("/o/k"), text("/l/0"), text("/o/*")].map(Option::unwrap), ["1E400", "1", "1E400"]);
        for none in ["/e", "/z", "/o", "/l", "/x", ""] {
            assert_eq!(text(none), None, "{none}");
        }
        assert_eq!(Asked { doc: None, ..asked }.text(&json("/n")), None);
    }

    #[test]
    fn of_fields_cookies_and_query_fields_the_first_counts() {
        let headers = headers(&[
            ("x-a", b"1"),
            ("x-a", b"2"),
            ("x-raw", b"\xff"),
            ("cookie", b"a=1; uid=\"u 1\";"),
            ("cookie", b" uid=2; late=x=y"),
        ]);
        let asked = Asked { headers: &headers, query: Some("q=%C3%A9&q=2"), doc: None };
        let text = |source: &Source| asked.text(source).map(Cow::into_owned);
        assert_eq!(text(&Source::Header(HeaderName::from_static("x-a"))).unwrap(), "1");
        assert_eq!(text(&Source::Header(HeaderName::from_static("x-raw"))).unwrap(), "\u{fffd}");
        assert_eq!(text(&Source::Cookie("uid".into())).unwrap(), "\"u 1\"");
        assert_eq!(text(&Source::Cookie("late".into())).unwrap(), "x=y");
        assert_eq!(text(&Source::Query("q".into())).unwrap(), "é");
        assert_eq!(text(&Source::Cookie("none".into())), None);
    }

    #[test]
    fn a_number_falls_into_the_bucket_whose_lower_bound_it_reaches() {
        let buckets = ["10", "100", "1e3"].map(|text| Bucket { bound: text.parse().unwrap(), text: text.into() });
        let named = |text: &str| bucket(&buckets, text);
        let names = ["9.99", "10", "99", "100", "1000", "-5"].map(|text| named(text).unwrap());
        assert_eq!(names, ["<10", "10..100", "10..100", "100..1e3", ">=1e3", "<10"]);
        for none in ["x", "NaN", "inf", ""] {
            assert_eq!(named(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_redacted_is_hashed_or_bucketed_and_otherwise_null() {
        let rules = [Redact { what: RedactWhat::Json(Pointer::parse("/user").unwrap()), hash: false }];
        let secret = Secret::new("key");
        let redactions = Redactions::new(&rules, Some(&secret));
        let headers = headers(&[("authorization", b"t")]);
        let doc = Doc::parse(br#"{"user": {"id": "u1", "age": 30}, "open": "o"}"#).unwrap();
        let asked = Asked { headers: &headers, query: Some("token=t"), doc: Some(&doc) };
        let key = |name: &str, from: Source, hash| (name.to_string(), Key { from, hash });
        let all = [
            key("plain", json("/user/id"), false),
            key("hashed", json("/user/id"), true),
            key("open", json("/open"), false),
            key("token", Source::Query("token".into()), false),
            key("auth", Source::Header(HeaderName::from_static("authorization")), false),
        ];
        let found = keys(&asked, &all, redactions, Some(&secret));
        let hash = keyed_hash(Some(&secret), b"u1");
        assert_eq!(found["hashed"].as_deref(), hash.as_deref());
        assert_eq!(found["open"].as_deref(), Some("o"));
        assert!(["plain", "token", "auth"].iter().all(|name| found[*name].is_none()));
        let bucket = Bucket { bound: 18.0, text: "18".into() };
        let all = [
            ("age".to_string(), Slice { from: json("/user/age"), buckets: vec![] }),
            ("adult".to_string(), Slice { from: json("/user/age"), buckets: vec![bucket] }),
        ];
        let found = slices(&asked, &all, redactions);
        assert_eq!((found["age"].as_deref(), found["adult"].as_deref()), (None, Some(">=18")));
    }

    #[test]
    fn a_long_text_is_cut_and_a_long_key_is_null() {
        let body = format!("\"{}\"", "é".repeat(2000));
        let doc = Doc::parse(body.as_bytes()).unwrap();
        let headers = HeaderMap::new();
        let asked = Asked { headers: &headers, query: None, doc: Some(&doc) };
        let none = Redactions::new(&[], None);
        let whole = [("s".into(), Slice { from: json(""), buckets: vec![] })];
        let found = slices(&asked, &whole, none);
        assert_eq!(found["s"].as_ref().unwrap().len(), 256);
        let whole = [("k".into(), Key { from: json(""), hash: false })];
        let found = keys(&asked, &whole, none, None);
        assert_eq!(found["k"], None);
    }
}
