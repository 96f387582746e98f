//! Floor 2: from a copied body to what is read and recorded of it. A body is decoded once, read as JSON once, and
//! recorded as text wherever it is text; what is not recorded says why.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::decode::{DecodeError, decode};
use super::json::{Doc, ParseError};
use super::material::Captured;
use super::stream::{self, Stream};
use crate::record::Body;
use crate::types::Api;

/// A copied body, decoded, or what stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// The whole of it, without its content codings.
    Whole(Cow<'a, [u8]>),
    /// What came before the leg broke off, as it was on the wire.
    Partial(&'a [u8]),
    /// The whole of it as it was on the wire: it is not what its head says.
    Undecodable(Cow<'a, [u8]>, DecodeError),
    /// Larger than `copy_body`, on the wire or decoded.
    TooLarge,
    /// Not copied.
    NotCaptured,
}

/// Why a body cannot be read as JSON. Each reads on from "the answer of prod".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// There is nothing to read.
    #[error("is empty")]
    Empty,
    /// It is something else.
    #[error(transparent)]
    NotJson(#[from] ParseError),
    /// It broke off.
    #[error("broke off")]
    Partial,
    /// It is not what its head says.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// It was not kept whole.
    #[error("is larger than copy_body")]
    TooLarge,
    /// It was not kept.
    #[error("was not captured")]
    NotCaptured,
}

impl<'a> Content<'a> {
    /// Decodes a copied body by the fields it came with, within a limit in bytes.
    pub fn of(body: &'a Captured, headers: &HeaderMap, limit: usize) -> Self {
        match body {
            Captured::Whole(bytes) => match decode(bytes, headers, limit) {
                Ok(decoded) => Self::Whole(decoded),
                Err(DecodeError::TooLarge(_)) => Self::TooLarge,
                Err(error) => Self::Undecodable(Cow::Borrowed(bytes), error),
            },
            Captured::Pieces(pieces) => {
                let bytes = pieces.concat();
                match decode(&bytes, headers, limit).map(|decoded| match decoded {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(decoded) => Some(decoded),
                }) {
                    Ok(decoded) => Self::Whole(Cow::Owned(decoded.unwrap_or(bytes))),
                    Err(DecodeError::TooLarge(_)) => Self::TooLarge,
                    Err(error) => Self::Undecodable(Cow::Owned(bytes), error),
                }
            }
            Captured::Partial(bytes) => Self::Partial(bytes),
            Captured::TooLarge => Self::TooLarge,
            Captured::NotCaptured => Self::NotCaptured,
        }
    }

    /// What came as a stream is the one answer that it carries; and whether it ended as it should.
    pub fn streamed(self, headers: &HeaderMap, api: Api) -> (Self, bool) {
        let Self::Whole(bytes) = self else { return (self, true) };
        match stream::read(&bytes, headers, api) {
            None => (Self::Whole(bytes), true),
            Some(Stream { answer: None, ended_well }) => (Self::Whole(bytes), ended_well),
            Some(Stream { answer: Some(answer), ended_well }) => {
                (Self::Whole(Cow::Owned(answer.into_bytes())), ended_well)
            }
        }
    }

    /// Reads it as JSON.
    pub fn read(&self) -> Result<Doc<'_>, Unread> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Err(Unread::Empty),
            Self::Whole(bytes) => Ok(Doc::parse(bytes)?),
            Self::Partial(_) => Err(Unread::Partial),
            Self::Undecodable(_, error) => Err(error.clone().into()),
            Self::TooLarge => Err(Unread::TooLarge),
            Self::NotCaptured => Err(Unread::NotCaptured),
        }
    }

    /// The whole of it, where there is that.
    pub fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// How a body is recorded.
pub struct Recording<'r> {
    /// Whether it is recorded at all.
    pub captured: bool,
    /// How much of it, in bytes.
    pub max_body: usize,
    /// Hides what must be hidden in a document; none where nothing must.
    pub redact: Option<&'r dyn Fn(&Doc) -> String>,
}

/// The record of a body.
pub fn record<'c>(content: &'c Content, doc: Result<&Doc<'c>, &Unread>, how: &Recording) -> Body<Cow<'c, str>> {
    if !how.captured {
        return none("not_captured");
    }
    let (bytes, partial) = match content {
        Content::NotCaptured => return none("not_captured"),
        Content::TooLarge => return none("too_large"),
        Content::Whole(bytes) => (bytes.as_ref(), false),
        Content::Partial(bytes) => (*bytes, true),
        Content::Undecodable(bytes, _) => (bytes.as_ref(), false),
    };
    if bytes.is_empty() {
        return none("empty");
    }
    if let Some(redact) = how.redact {
        return match doc {
            // To hide a place the whole must be read, and what is cut could not be read by whoever checks it.
            Ok(doc) if bytes.len() <= how.max_body => text(redact(doc).into(), doc.is_strict(), how.max_body),
            _ => none("redaction_failed"),
        };
    }
    let body = match as_text(content, doc, bytes) {
        Some(whole) => text(whole.into(), doc.is_ok_and(Doc::is_strict), how.max_body),
        None => base64(bytes, how.max_body),
    };
    Body { truncated: body.truncated || partial, ..body }
}

/// No body, and why.
fn none(reason: &'static str) -> Body<Cow<'static, str>> {
    Body { encoding: "none".into(), data: None, truncated: false, reason: Some(reason.into()) }
}

/// Text up to so many bytes, cut between characters; JSON that is cut is none any more.
fn text(whole: Cow<'_, str>, json: bool, max: usize) -> Body<Cow<'_, str>> {
    let end = whole.floor_char_boundary(max);
    let truncated = end < whole.len();
    let kept = match whole {
        Cow::Borrowed(whole) => Cow::Borrowed(&whole[..end]),
        Cow::Owned(mut whole) => {
            whole.truncate(end);
            Cow::Owned(whole)
        }
    };
    let encoding = if json && !truncated { "json" } else { "utf8" };
    Body { encoding: encoding.into(), data: Some(kept), truncated, reason: None }
}

fn base64(bytes: &[u8], max: usize) -> Body<Cow<'static, str>> {
    let kept = &bytes[..bytes.len().min(max)];
    let truncated = kept.len() < bytes.len();
    Body { encoding: "base64".into(), data: Some(STANDARD.encode(kept).into()), truncated, reason: None }
}

/// The body as text, where it is text; of one that broke off inside a character, what comes before that.
fn as_text<'b>(content: &Content, doc: Result<&Doc<'b>, &Unread>, bytes: &'b [u8]) -> Option<&'b str> {
    match (content, doc) {
        (_, Ok(doc)) => Some(doc.text()),
        (Content::Undecodable(..), _) => None,
        (Content::Partial(_), _) => match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) if error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
            Err(_) => None,
        },
        _ => std::str::from_utf8(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http::header::CONTENT_ENCODING;
    use proptest::prelude::*;

    use super::*;

    fn own(body: Body<Cow<str>>) -> Body {
        Body {
            encoding: body.encoding.into_owned(),
            data: body.data.map(Cow::into_owned),
            truncated: body.truncated,
            reason: body.reason.map(Cow::into_owned),
        }
    }

    fn recorded(captured: &Captured, max_body: usize) -> Body {
        let content = Content::of(captured, &HeaderMap::new(), 1 << 20);
        own(record(&content, content.read().as_ref(), &Recording { captured: true, max_body, redact: None }))
    }

    fn whole(body: impl AsRef<[u8]>) -> Captured {
        Captured::Whole(Bytes::copy_from_slice(body.as_ref()))
    }

    fn body(encoding: &str, data: &str, truncated: bool) -> Body {
        own(Body { encoding: encoding.into(), data: Some(data.into()), truncated, reason: None })
    }

    #[test]
    fn json_text_and_bytes_are_told_apart_by_what_they_are() {
        assert_eq!(recorded(&whole(" {\"y\": 1E400}\n"), 99), body("json", " {\"y\": 1E400}\n", false));
        assert_eq!(recorded(&whole("\"\\ud800\""), 99), body("json", "\"\\ud800\"", false));
        assert_eq!(recorded(&whole("[NaN]"), 99), body("utf8", "[NaN]", false));
        assert_eq!(recorded(&whole("\u{feff}{}"), 99), body("utf8", "\u{feff}{}", false));
        assert_eq!(recorded(&whole("[".repeat(10_000)), 1 << 20), body("utf8", &"[".repeat(10_000), false));
        assert_eq!(recorded(&whole([0xff, 0xfe, 0]), 99), body("base64", "//4A", false));
    }

    #[test]
    fn a_body_in_pieces_reads_as_the_whole_does() {
        let pieces = |body: &[u8]| Captured::Pieces(body.chunks(7).map(Bytes::copy_from_slice).collect());
        let json = br#"{"y": [1.25, "a longer text"]}"#;
        assert_eq!(recorded(&pieces(json), 99), recorded(&whole(json), 99));
        let packed = {
            use std::io::Write;
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packer.write_all(json).expect("memory");
            packer.finish().expect("memory")
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        for body in [&packed[..], &packed[..9], b"no gzip at all"] {
            let (one, other) = (whole(body), pieces(body));
            assert_eq!(Content::of(&one, &headers, 99), Content::of(&other, &headers, 99));
            assert_eq!(Content::of(&one, &headers, 9), Content::of(&other, &headers, 9));
        }
    }

    #[test]
    fn what_is_not_there_says_why() {
        assert_eq!(recorded(&whole(""), 99), Body::none("empty"));
        assert_eq!(recorded(&Captured::Partial(Bytes::new()), 99), Body::none("empty"));
        assert_eq!(recorded(&Captured::TooLarge, 99), Body::none("too_large"));
        assert_eq!(recorded(&Captured::NotCaptured, 99), Body::none("not_captured"));
        let off = Recording { captured: false, max_body: 99, redact: None };
        let content = Content::Whole(b"{}".as_slice().into());
        assert_eq!(own(record(&content, content.read().as_ref(), &off)), Body::none("not_captured"));
    }

    #[test]
    fn a_large_body_is_cut_between_characters() {
        let a = |n| "a".repeat(n);
        let euro = recorded(&whole(a(1023) + "€…"), 1024);
        assert_eq!(euro, body("utf8", &a(1023), true));
        assert_eq!(recorded(&whole(a(1022) + "🦀"), 1024), body("utf8", &a(1022), true));
        assert_eq!(recorded(&whole(format!("\"{}\"", a(1023))), 1024), body("utf8", &format!("\"{}", a(1023)), true));
        let invalid = recorded(&whole([a(1023).as_bytes(), &[0xe2, 0x82]].concat()), 1024);
        assert_eq!((invalid.encoding.as_str(), invalid.truncated), ("base64", true));
        assert_eq!(STANDARD.decode(invalid.data.unwrap()).unwrap().len(), 1024);
    }

    #[test]
    fn a_body_that_broke_off_is_text_up_to_its_last_whole_character_and_never_json() {
        let partial = |bytes: &[u8]| recorded(&Captured::Partial(Bytes::copy_from_slice(bytes)), 99);
        assert_eq!(partial(b"12"), body("utf8", "12", true));
        assert_eq!(partial("né".as_bytes()), body("utf8", "né", true));
        assert_eq!(partial(&"né".as_bytes()[..2]), body("utf8", "n", true));
        assert_eq!(partial(&[0xff, b'a']), body("base64", "/2E=", true));
    }

    #[test]
    fn what_cannot_be_decoded_is_recorded_as_it_came() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let captured = whole("{}");
        let content = Content::of(&captured, &headers, 99);
        let how = Recording { captured: true, max_body: 99, redact: None };
        assert_eq!(own(record(&content, content.read().as_ref(), &how)), body("base64", "e30=", false));
        assert_eq!(content.read().unwrap_err().to_string(), "is not valid gzip");
    }

    #[test]
    fn what_must_be_hidden_and_cannot_be_is_not_shown() {
        let hide = |doc: &Doc| doc.text().replace("secret", "null");
        let how = Recording { captured: true, max_body: 20, redact: Some(&hide) };
        let shown = |captured: Captured| {
            let content = Content::of(&captured, &HeaderMap::new(), 1 << 20);
            own(record(&content, content.read().as_ref(), &how))
        };
        assert_eq!(shown(whole("[\"secret\"]")), body("json", "[\"null\"]", false));
        for captured in ["secret".to_string(), format!("[\"secret\"{}]", " ".repeat(20))].map(whole) {
            assert_eq!(shown(captured), Body::none("redaction_failed"));
        }
        assert_eq!(shown(Captured::Partial(Bytes::from_static(b"[\"secret\"]"))), Body::none("redaction_failed"));
        assert_eq!(shown(whole("")), Body::none("empty"));
    }

    proptest! {
        #[test]
        fn whatever_it_is_it_is_bounded_and_true(bytes in proptest::collection::vec(any::<u8>(), 1..40), text in ".{1,20}", max in 0usize..24) {
            for bytes in [bytes, text.into_bytes()] {
                let body = recorded(&whole(&bytes), max);
                let data = body.data.unwrap();
                let kept = if body.encoding == "base64" { STANDARD.decode(data).unwrap() } else { data.into_bytes() };
                prop_assert!(kept.len() <= max && bytes.starts_with(&kept));
                prop_assert_eq!(body.truncated, bytes.len() > max);
                prop_assert!(max - kept.len() < 4 || kept.len() == bytes.len());
            }
        }
    }
}
