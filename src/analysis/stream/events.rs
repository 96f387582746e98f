//! Floor 2: a stream's events. Server-sent events as their standard has them (any of three line ends, comments, a blank
//! after the colon or none, several lines of data), and more forgiving where servers are known to be loose: an event
//! counts without the blank line after the last one, and lines of data that are no JSON together may be so each.

use std::borrow::Cow;

use super::Wire;
use crate::analysis::json::Doc;

/// The mark with which some begin a stream, in UTF-8.
pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// How OpenAI's streams end.
pub(super) const DONE: &str = "[DONE]";

/// What servers call events that only keep a connection alive.
const PINGS: [&str; 5] = ["ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"];

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'t> {
    name: &'t str,
    data: Cow<'t, str>,
    /// Whether its end has come, and not only the stream's.
    pub ended: bool,
}

impl Event<'_> {
    /// Whether it only says that the stream is over.
    pub(super) fn is_done(&self) -> bool {
        self.data.trim() == DONE
    }

    /// Whether it only keeps the connection alive, or is an empty line.
    pub(super) fn says_nothing(&self) -> bool {
        PINGS.contains(&self.name) || self.data.trim().is_empty()
    }

    /// What it holds: a document, or one a line; none where that is no JSON.
    pub(super) fn read(&self) -> Option<Vec<Doc<'_>>> {
        let data = self.data.trim();
        if let Ok(doc) = Doc::parse(data.as_bytes()) {
            return Some(vec![doc]);
        }
        let lines = data.lines().filter(|line| *line != DONE);
        let docs: Result<Vec<_>, _> = lines.map(|line| Doc::parse(line.as_bytes())).collect();
        docs.ok()
    }
}

/// All events, in order.
pub(super) fn read(text: &str, wire: Wire) -> Box<dyn Iterator<Item = Event<'_>> + '_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match wire {
        Wire::Ndjson => Box::new(text.split_inclusive('\n').map(|line| {
            let (data, ended) = (line.trim_end().into(), line.ends_with('\n'));
            Event { name: "", data, ended }
        })),
        Wire::Sse => Box::new(sse(text)),
    }
}

fn sse(text: &str) -> impl Iterator<Item = Event<'_>> {
    let mut lines = lines(text);
    std::iter::from_fn(move || {
        let (mut name, mut data) = ("", None::<Cow<str>>);
        for line in lines.by_ref() {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    return Some(Event { name, data, ended: true });
                }
                name = "";
            } else if let Some(called) = field(line, "event") {
                name = called.trim();
            } else if let Some(more) = field(line, "data") {
                match &mut data {
                    None => data = Some(more.into()),
                    Some(data) => {
                        let data = data.to_mut();
                        data.push('\n');
                        data.push_str(more);
                    }
                }
            }
        }
        data.map(|data| Event { name, data, ended: false })
    })
}

/// The value of a line, where it is this field's.
pub(super) fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let value = line.strip_prefix(name)?;
    if value.is_empty() {
        return Some(value);
    }
    let value = value.strip_prefix(':')?;
    Some(value.strip_prefix(' ').unwrap_or(value))
}

/// Lines that end with a line feed, a carriage return, or both; what comes after the last end is one, where anything does.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.filter(|text| !text.is_empty())?;
        let Some(at) = memchr::memchr2(b'\n', b'\r', text.as_bytes()) else {
            rest = None;
            return Some(text);
        };
        let after = &text[at..];
        rest = after.strip_prefix("\r\n").or_else(|| after.get(1..));
        Some(&text[..at])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(text: &str) -> Vec<String> {
        read(text, Wire::Sse).map(|event| event.data.into_owned()).collect()
    }

    #[test]
    fn events_are_told_apart_as_the_standard_has_it() {
        let text =
            "\u{feff}: hello\n\nevent: x\ndata: a\ndata:b\nid: 7\n\ndata\n\ndata:  c\n\nretry: 5\n\ndatabase: no\n\n";
        assert_eq!(data(text), ["a\nb", "", " c"]);
        for end in ["\r\n", "\r"] {
            assert_eq!(data(&text.replace('\n', end)), data(text));
        }
        assert_eq!(data("data: a\r\n\r\ndata: b\r\rdata: c\n\n"), ["a", "b", "c"]);
    }

    #[test]
    fn the_last_event_counts_without_a_blank_line_after_it() {
        assert_eq!(data("data: a\n\ndata: b"), ["a", "b"]);
        assert_eq!(data("data: a\n\ndata: b\n"), ["a", "b"]);
        assert_eq!(data("").len(), 0);
    }

    #[test]
    fn lines_of_data_may_be_documents_each() {
        let docs = |text: &str| read(text, Wire::Sse).map(|event| event.read().map(|docs| docs.len())).collect();
        let all: Vec<Option<usize>> =
            docs("data: {\"a\":\ndata: 1}\n\ndata: {}\ndata: {}\ndata: [DONE]\n\ndata:\n\ndata: ping\n\n");
        assert_eq!(all, [Some(1), Some(2), Some(0), None]);
    }
}
