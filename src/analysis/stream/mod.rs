//! Floor 2: an answer that came as a stream, as the one JSON answer that the same API would have given without
//! streaming, so that pointers, redactions and ignores serve both. Its events are told apart (`events`), what kind of
//! stream they make is told by their shape (`kind`), and what each adds is put together (`tree`) from the text as it
//! was sent: numbers keep their digits, and an escape that was cut in two is whole again.
//!
//! Whether a stream ended as it should is watched while it passes ([`watch`]).

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use self::events::Event;
use self::kind::Kind;
use self::watch::Watch;
use super::json::{Doc, View};
use crate::types::Api;

mod blocks;
mod choices;
mod events;
mod kind;
mod responses;
mod scan;
mod shape;
mod tree;
pub mod watch;

pub(super) use self::shape::is_gemini;

/// How a stream's events are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Server-sent events: <https://html.spec.whatwg.org/multipage/server-sent-events.html>.
    Sse,
    /// One JSON text a line.
    Ndjson,
}

impl Wire {
    /// What an answer's head says.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
        let is = |name: &[u8]| value[..end].trim_ascii().eq_ignore_ascii_case(name);
        let ndjson: [&[u8]; 6] = [
            b"application/x-ndjson",
            b"application/ndjson",
            b"application/jsonl",
            b"application/x-jsonl",
            b"application/jsonlines",
            b"application/x-jsonlines",
        ];
        if is(b"text/event-stream") { Some(Self::Sse) } else { ndjson.into_iter().any(is).then_some(Self::Ndjson) }
    }

    /// What a body looks like, whatever its head says: no JSON text begins so, or has a line break between two objects.
    fn of_body(body: &[u8]) -> Option<Self> {
        let body = body.strip_prefix(events::BOM).unwrap_or(body);
        let sse: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
        if sse.iter().any(|start| body.starts_with(start)) {
            return Some(Self::Sse);
        }
        let objects: [&[u8]; 2] = [b"}\n{", b"}\r\n{"];
        let ndjson = body.starts_with(b"{") && objects.iter().any(|seam| memchr::memmem::find(body, seam).is_some());
        ndjson.then_some(Self::Ndjson)
    }
}

/// A stream, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Stream {
    /// The one answer that it carries, as JSON; none where it is of a kind that is not known.
    pub answer: Option<String>,
    /// Whether it ended as it should, where nobody has watched that while it passed: it was compressed, or is not called
    /// what it is.
    pub ended_well: bool,
}

/// Reads a body that may be a stream, on a route whose bodies mean this; none for what is none.
pub fn read(body: &[u8], headers: &HeaderMap, api: Api) -> Option<Stream> {
    let said = Wire::of(headers);
    let wire = said.or_else(|| Wire::of_body(body))?;
    let answer = answer(body, wire, api);
    let watched = (said.is_some() && watch::is_plain(headers)) || !watch::watches(api);
    // What only looks like a stream is one where it is of a known kind.
    let ended_well = watched || (said.is_none() && answer.is_none()) || Watch::judges(wire, body);
    Some(Stream { answer, ended_well })
}

/// The most events that are read: as many as a model sends within `copy_body`. Each takes some hundreds of bytes while
/// it is read, whatever its length.
const MAX_EVENTS: usize = 50_000;
/// The first events tell what kind of stream it is; if so many do not, none will.
const KIND_EVENTS: usize = 16;

fn answer(body: &[u8], wire: Wire, api: Api) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let said = events::read(text, wire).take_while(|event| !event.is_done()).filter(|event| !event.says_nothing());
    let events: Vec<Event> = said.take(MAX_EVENTS + 1).collect();
    if events.len() > MAX_EVENTS {
        return None;
    }
    let (docs, kind) = documents(&events)?;
    let values: Vec<_> = docs.iter().map(Doc::root).collect();
    let whole = match kind {
        Some(kind) if kind.is_of(api) => kind.whole(&values)?,
        Some(_) => return None,
        // A model that fails at once says so, and nothing else.
        None => match values.as_slice() {
            [only] if shape::is_error(*only) => tree::Tree::Sent(*only),
            _ => return None,
        },
    };
    let mut json = String::with_capacity(body.len() / 2);
    whole.write(&mut json);
    Some(json)
}

/// The objects that the events hold, and the kind of stream that they tell; none where an event holds something else. The
/// last one may have broken off.
fn documents<'e>(events: &'e [Event]) -> Option<(Vec<Doc<'e>>, Option<Kind>)> {
    let (mut docs, mut kind) = (Vec::new(), None);
    for event in events {
        let Some(read) = event.read() else {
            if event.ended {
                return None;
            }
            continue;
        };
        for doc in read {
            match doc.root().view() {
                View::Null => continue,
                View::Object => {}
                _ => return None,
            }
            kind = kind.or_else(|| Kind::of(doc.root()));
            docs.push(doc);
            if kind.is_none() && docs.len() >= KIND_EVENTS {
                return None;
            }
        }
    }
    Some((docs, kind))
}

#[cfg(test)]
mod tests;
