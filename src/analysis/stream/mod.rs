//! Floor 2: an answer that came as a stream, as the one JSON answer that the same API would have given without
//! streaming, so that pointers, redactions and ignores serve both. Its events are told apart ([`events`]), what kind of
//! stream they make is told by their shape ([`kind`]), and what each adds is put together ([`tree`]) from the text as it
//! was sent: numbers keep their digits, and an escape that was cut in two is whole again.
//!
//! Whether a stream ended as it should is watched while it passes ([`watch`]).

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::json::Doc;
use events::Event;
use kind::Kind;

mod blocks;
mod choices;
mod events;
mod kind;
mod tree;
pub mod watch;

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

/// The one answer that a stream carries, as JSON; none for what is no stream, or one of a kind that is not known.
pub fn answer(body: &[u8], headers: &HeaderMap) -> Option<String> {
    let wire = Wire::of(headers).or_else(|| Wire::of_body(body))?;
    let text = std::str::from_utf8(body).ok()?;
    let events = events::read(text, wire);
    let docs = events.iter().filter(|event| !event.is_done()).map(Event::read).collect::<Option<Vec<_>>>()?;
    let docs: Vec<Doc> = docs.into_iter().flatten().collect();
    let values: Vec<_> = docs.iter().map(Doc::root).collect();
    let whole = match values.iter().find_map(|value| Kind::of(*value)) {
        Some(kind) => kind.whole(&values)?,
        // A model that fails at once says so without a stream.
        None => tree::Tree::Sent(*values.iter().find(|value| kind::is_error(**value))?),
    };
    let mut json = String::with_capacity(body.len() / 2);
    whole.write(&mut json);
    Some(json)
}

#[cfg(test)]
mod tests;
