//! Floor 2: whether a stream ended as it should, seen while it passes. A server that fails in the middle of a stream
//! has sent its 200 long ago: all that it can do is to send an error as an event, or to stop.
//!
//! A stream of tokens is many small pieces on the answer path, so they are not read as JSON: a few names are looked for
//! in each line, and a line is read only where it may hold an error. What a model writes cannot be taken for them: quotes
//! within a text are escaped.

use std::sync::LazyLock;

use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use memchr::memmem::Finder;

use super::events::{BOM, DONE};
use super::{Wire, kind};
use crate::analysis::json::Doc;

/// How much of a line that came in pieces is looked at, in bytes.
const LINE_MAX: usize = 16 << 10;

/// Looks for one name.
struct Name(LazyLock<Finder<'static>>);

macro_rules! name {
    ($name:literal) => {
        Name(LazyLock::new(|| Finder::new(concat!("\"", $name, "\""))))
    };
}

static ERROR: Name = name!("error");
static TYPE: Name = name!("type");
static FINISH_REASON: Name = name!("finish_reason");
static CANDIDATES: Name = name!("candidates");
static GEMINI_FINISH_REASON: Name = name!("finishReason");
static GENERATED_TEXT: Name = name!("generated_text");
static DONE_FLAG: Name = name!("done");
static RESPONSE_FAILED: Name = name!("response.failed");

impl Name {
    fn is_in(&self, line: &[u8]) -> bool {
        self.0.find(line).is_some()
    }

    /// What follows this name and its colon, wherever it stands in a line.
    fn values<'l>(&'l self, line: &'l [u8]) -> impl Iterator<Item = &'l [u8]> {
        let length = self.0.needle().len();
        self.0
            .find_iter(line)
            .filter_map(move |at| Some(line[at + length..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start()))
    }
}

/// What is known of a stream that passes.
#[derive(Debug)]
pub struct Watch {
    wire: Wire,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// Whether a line was longer than what is looked at.
    cut: bool,
    begun: bool,
    failed: bool,
    /// Whether it is of a kind that says when it is finished.
    promised: bool,
    finished: bool,
}

impl Watch {
    /// For an answer with these fields; none where it is no stream, or one that is compressed.
    pub fn of(headers: &HeaderMap) -> Option<Box<Self>> {
        let wire = Wire::of(headers)?;
        let plain = headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding == "identity");
        plain.then(|| Box::new(Self::new(wire)))
    }

    fn new(wire: Wire) -> Self {
        let (line, cut) = (Vec::new(), false);
        Self { wire, line, cut, begun: false, failed: false, promised: false, finished: false }
    }

    /// A piece has passed.
    pub fn saw(&mut self, mut piece: &[u8]) {
        while let Some(end) = memchr::memchr2(b'\n', b'\r', piece) {
            let line = &piece[..end];
            if self.line.is_empty() {
                self.see(line);
            } else {
                self.hold(line);
                self.see_held();
            }
            piece = &piece[end + 1..];
        }
        self.hold(piece);
    }

    /// It has ended, as far as HTTP goes: whether it did so as it should.
    pub fn ended_well(&mut self) -> bool {
        self.see_held();
        !self.failed && (self.finished || self.cut || !self.promised)
    }

    fn hold(&mut self, part: &[u8]) {
        let room = LINE_MAX.saturating_sub(self.line.len());
        self.cut |= part.len() > room;
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn see_held(&mut self) {
        let mut held = std::mem::take(&mut self.line);
        self.see(&held);
        held.clear();
        self.line = held;
    }

    fn see(&mut self, line: &[u8]) {
        let line = if self.begun { line } else { line.strip_prefix(BOM).unwrap_or(line) };
        self.begun = true;
        match self.wire {
            Wire::Ndjson => self.see_data(line),
            Wire::Sse => {
                if let Some(data) = line.strip_prefix(b"data:") {
                    self.see_data(data);
                } else if let Some(name) = line.strip_prefix(b"event:") {
                    self.failed |= name.trim_ascii() == b"error";
                }
            }
        }
    }

    fn see_data(&mut self, data: &[u8]) {
        let data = data.trim_ascii();
        if data == DONE.as_bytes() {
            self.finished = true;
            return;
        }
        if ERROR.is_in(data) || RESPONSE_FAILED.is_in(data) {
            self.failed |= Doc::parse(data).is_ok_and(|doc| kind::is_error(doc.root()));
        }
        let mut said = |promised: bool, finished: bool| {
            self.promised |= promised;
            self.finished |= finished;
        };
        for value in FINISH_REASON.values(data).chain(GENERATED_TEXT.values(data)) {
            said(value.starts_with(b"null"), value.starts_with(b"\""));
        }
        if self.wire == Wire::Ndjson {
            DONE_FLAG.values(data).for_each(|value| said(value.starts_with(b"false"), value.starts_with(b"true")));
            return;
        }
        said(CANDIDATES.is_in(data), GEMINI_FINISH_REASON.values(data).any(|value| value.starts_with(b"\"")));
        for value in TYPE.values(data) {
            let is = |word: &[u8]| value.starts_with(word);
            let begins = is(b"\"message_start\"") || is(b"\"response.created\"");
            let ends = is(b"\"message_stop\"") || is(b"\"response.completed\"") || is(b"\"response.incomplete\"");
            said(begins, ends);
        }
    }
}
