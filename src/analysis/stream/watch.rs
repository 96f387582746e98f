//! Floor 2: whether a stream ended as it should, seen while it passes. A server that fails in the middle of a stream
//! has sent its 200 long ago: all that it can do is to send an error as an event, or to stop. A stream of tokens is many
//! small pieces on the answer path, so nothing of it is kept: its lines are followed, and its JSON scanned (`scan`).

use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::Wire;
use super::events::BOM;
use super::scan::{Facts, Held, Scan};
use crate::types::Api;

/// Longer than the names of the fields and events that count.
const NAME: usize = 16;

/// Which part of a line of server-sent events is passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Field,
    Data,
    Event,
    Skipped,
}

/// What is known of a stream that passes.
#[derive(Debug)]
pub struct Watch {
    wire: Wire,
    part: Part,
    /// The field's name or the event's, as far as it has passed.
    name: Held<NAME>,
    /// Whether the last byte was a carriage return, after which a line feed ends no line.
    returned: bool,
    /// Whether the event has data, and is called an error.
    data: bool,
    error: bool,
    scan: Scan,
    told: Told,
}

/// What its events have told.
#[derive(Debug, Default)]
struct Told {
    known: bool,
    typed: bool,
    failed: bool,
    /// Whether the last event says that the model failed, in a stream of a kind that is not known: there `error` may be a
    /// part of a prediction, and one bad row among good ones.
    ends_in_error: bool,
    /// Whether it is of a kind that says when it is finished.
    promised: bool,
    finished: bool,
}

impl Told {
    fn take(&mut self, facts: Facts) {
        self.known |= facts.known;
        self.typed |= facts.typed;
        self.promised |= facts.promised;
        self.finished |= facts.finished || (facts.done && !self.typed);
        self.failed |= facts.failed || (facts.error && self.known);
        self.ends_in_error = facts.error && !facts.others;
    }
}

impl Watch {
    /// For an answer with these fields, on a route whose bodies mean this; none where it is no stream, one that is
    /// compressed, or one of a kind that is not known.
    pub fn of(headers: &HeaderMap, api: Api) -> Option<Box<Self>> {
        let wire = Wire::of(headers).filter(|_| watches(api))?;
        is_plain(headers).then(|| Box::new(Self::new(wire)))
    }

    /// Whether a stream that has passed already ended as it should.
    pub(super) fn judges(wire: Wire, body: &[u8]) -> bool {
        let mut watch = Self::new(wire);
        watch.saw(body);
        watch.ended_well()
    }

    fn new(wire: Wire) -> Self {
        Self {
            wire,
            part: Part::Field,
            name: Held::EMPTY,
            returned: false,
            data: false,
            error: false,
            scan: Scan::new(),
            told: Told::default(),
        }
    }

    /// A piece has passed.
    pub fn saw(&mut self, mut piece: &[u8]) {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            let ends = &piece[end..=end];
            let (part, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            let second = std::mem::replace(&mut self.returned, ends == b"\r") && ends == b"\n" && part.is_empty();
            if !second {
                self.follow(part);
                self.line_ends();
            }
        }
        self.returned &= piece.is_empty();
        self.follow(piece);
    }

    /// It has ended, as far as HTTP goes: whether it did so as it should, and not within a document.
    pub fn ended_well(&mut self) -> bool {
        self.event_ends();
        let Told { failed, ends_in_error, finished, promised, .. } = self.told;
        !failed && !ends_in_error && !self.scan.is_within() && (finished || !promised)
    }

    /// A part of a line.
    fn follow(&mut self, part: &[u8]) {
        match (self.wire, self.part) {
            (Wire::Ndjson, _) | (Wire::Sse, Part::Data) => self.scan.over(part, |facts| self.told.take(facts)),
            (Wire::Sse, Part::Event) => self.name.push(part),
            (Wire::Sse, Part::Skipped) => {}
            (Wire::Sse, Part::Field) => match memchr::memchr(b':', part) {
                None => self.name.push(part),
                Some(colon) => {
                    self.name.push(&part[..colon]);
                    self.part = self.field();
                    self.name.clear();
                    self.follow(&part[colon + 1..]);
                }
            },
        }
    }

    /// What the field's value is.
    fn field(&mut self) -> Part {
        let name = self.name.get();
        match name.strip_prefix(BOM).unwrap_or(name) {
            b"data" => {
                self.data = true;
                Part::Data
            }
            b"event" => Part::Event,
            _ => Part::Skipped,
        }
    }

    fn line_ends(&mut self) {
        let part = std::mem::replace(&mut self.part, Part::Field);
        match (self.wire, part) {
            // A line that broke off says nothing, and the next one begins anew.
            (Wire::Ndjson, _) => {
                self.scan.over(b"\n", |facts| self.told.take(facts));
                self.scan.reset();
            }
            // Data goes on in the next line.
            (Wire::Sse, Part::Data) => self.scan.over(b"\n", |facts| self.told.take(facts)),
            (Wire::Sse, Part::Event) => self.error = self.name.get().trim_ascii() == b"error",
            (Wire::Sse, Part::Field) if self.name.is_empty() => {
                self.event_ends();
                self.scan.reset();
            }
            (Wire::Sse, Part::Field | Part::Skipped) => {}
        }
        self.name.clear();
    }

    fn event_ends(&mut self) {
        let (data, error) = (std::mem::take(&mut self.data), std::mem::take(&mut self.error));
        self.told.failed |= data && error;
    }
}

/// Whether streams of such an API may be of a kind that is known.
pub(super) fn watches(api: Api) -> bool {
    matches!(api, Api::Auto | Api::Openai | Api::Oip)
}

/// Whether nothing was done to the body on its way.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding == "identity")
}
