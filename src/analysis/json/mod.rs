//! Floor 2: JSON as it was sent. A body is read once into a flat list of nodes that borrow its text, so that
//! numbers keep their digits (`1E400`, `6000000000000002181`), every value knows where it stands, and a place can
//! be compared, hidden or rewritten without printing anything anew. A general tree would round the numbers and
//! forget the bytes.
//!
//! What is read is JSON (RFC 8259), plus the bare `NaN`, `Infinity` and `-Infinity` that Python and C++ servers
//! send: they are numbers here, and [`Doc::is_strict`] says whether the body did without them. Nesting is bounded
//! by [`MAX_DEPTH`], so every walk down a document may recurse.

use std::borrow::Cow;
use std::fmt;

use crate::types::{Pointer, Step};

pub mod number;
mod parse;
mod rewrite;

pub use parse::ParseError;
pub use rewrite::{RewriteError, rewrite, splice};

/// How deep values may be nested.
pub const MAX_DEPTH: usize = 128;

/// A document, read.
#[derive(Debug, Clone)]
pub struct Doc<'a> {
    text: &'a str,
    nodes: Vec<Node>,
    strict: bool,
}

/// One value, or one key: its text, and the node after all that lies below it. Sixteen bytes, because a body may
/// hold as many values as half its bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    next: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    True,
    False,
    Number,
    /// A string whose text is its content.
    Plain,
    /// A string with escapes.
    Escaped,
    Array,
    Object,
}

impl<'a> Doc<'a> {
    /// Reads a body.
    pub fn parse(body: &'a [u8]) -> Result<Self, ParseError> {
        parse::parse(body)
    }

    /// The value on top.
    pub fn root(&self) -> Value<'_> {
        Value { doc: self, at: 0 }
    }

    /// The whole text, white space around the value included.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Whether this is JSON proper, without `NaN` and its like.
    pub fn is_strict(&self) -> bool {
        self.strict
    }
}

/// A value in a document.
#[derive(Clone, Copy)]
pub struct Value<'d> {
    doc: &'d Doc<'d>,
    at: u32,
}

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum View<'d> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number's token, as it was sent.
    Number(&'d str),
    /// A string.
    Text(Text<'d>),
    /// An array.
    Array,
    /// An object.
    Object,
}

/// One step on the way to a place in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name<'d> {
    /// A key of an object, unescaped; not always UTF-8, because an escape may name half a surrogate pair.
    Key(Cow<'d, [u8]>),
    /// An index of an array.
    Index(usize),
}

impl Name<'_> {
    /// Whether a pointer's step means this one.
    pub fn is(&self, step: &Step) -> bool {
        match (step, self) {
            (Step::Any, _) => true,
            (Step::Key(key), Name::Key(name)) => key.as_bytes() == name.as_ref(),
            (Step::Key(key), Name::Index(index)) => array_index(key) == Some(*index),
        }
    }
}

/// A place that a pointer with wildcards led to.
#[derive(Debug, Clone)]
pub struct Found<'d> {
    /// What each `*` stood for.
    pub wild: Vec<Name<'d>>,
    /// The value there.
    pub value: Value<'d>,
}

impl<'d> Value<'d> {
    fn node(self) -> Node {
        self.doc.nodes[self.at as usize]
    }

    /// Its text, as it was sent.
    pub fn raw(self) -> &'d str {
        &self.doc.text[self.span()]
    }

    /// Where its text stands in the document.
    pub fn span(self) -> std::ops::Range<usize> {
        let node = self.node();
        node.start as usize..node.end as usize
    }

    /// What it is.
    pub fn view(self) -> View<'d> {
        match self.node().kind {
            Kind::Null => View::Null,
            Kind::True => View::Bool(true),
            Kind::False => View::Bool(false),
            Kind::Number => View::Number(self.raw()),
            Kind::Plain | Kind::Escaped => View::Text(self.as_text()),
            Kind::Array => View::Array,
            Kind::Object => View::Object,
        }
    }

    fn as_text(self) -> Text<'d> {
        let node = self.node();
        let inner = node.start as usize + 1..node.end as usize - 1;
        Text { raw: &self.doc.text[inner], escaped: node.kind == Kind::Escaped }
    }

    /// A scalar's text: a string's content, a number's token, `true` or `false`. None for null, arrays, objects.
    pub fn scalar(self) -> Option<Cow<'d, str>> {
        match self.view() {
            View::Text(text) => Some(text.to_str()),
            View::Number(_) | View::Bool(_) => Some(self.raw().into()),
            View::Null | View::Array | View::Object => None,
        }
    }

    fn nodes_below(self) -> Below<'d> {
        let node = self.node();
        let has_children = matches!(node.kind, Kind::Array | Kind::Object);
        Below { doc: self.doc, at: self.at + 1, end: if has_children { node.next } else { self.at + 1 } }
    }

    /// The elements of an array; nothing for anything else.
    pub fn elements(self) -> impl Iterator<Item = Value<'d>> {
        let mut below = self.nodes_below();
        let is_array = self.node().kind == Kind::Array;
        std::iter::from_fn(move || if is_array { below.next() } else { None })
    }

    /// The members of an object as they were sent, keys that stand twice included; nothing for anything else.
    pub fn members(self) -> impl Iterator<Item = (Text<'d>, Value<'d>)> {
        let mut below = self.nodes_below();
        let is_object = self.node().kind == Kind::Object;
        std::iter::from_fn(move || if is_object { Some((below.next()?.as_text(), below.next()?)) } else { None })
    }

    /// The members of an object by meaning: in the order of their keys, and of a key that stands twice the last.
    pub fn entries(self) -> Vec<(Cow<'d, [u8]>, Value<'d>)> {
        let mut entries: Vec<_> = self.members().map(|(key, value)| (key.bytes(), value)).collect();
        // The sort is stable: reversed, the last of equal keys comes first and is the one that stays.
        entries.reverse();
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        entries
    }

    /// The member with this key, or the element with this index.
    pub fn child(self, key: &str) -> Option<Value<'d>> {
        match self.node().kind {
            Kind::Array => self.elements().nth(array_index(key)?),
            _ => self.members().filter(|(name, _)| name.is(key)).last().map(|(_, value)| value),
        }
    }

    /// The place that a pointer names; the first where it names more.
    pub fn find(self, pointer: &Pointer) -> Option<Value<'d>> {
        if pointer.has_wildcard() {
            return self.find_all(pointer).into_iter().next().map(|found| found.value);
        }
        pointer.steps().iter().try_fold(self, |value, step| match step {
            Step::Key(key) => value.child(key),
            Step::Any => None,
        })
    }

    /// Every place that a pointer names, in an order that does not depend on the order of keys.
    pub fn find_all(self, pointer: &Pointer) -> Vec<Found<'d>> {
        let mut found = Vec::new();
        self.collect(pointer.steps(), &mut Vec::new(), &mut found);
        found
    }

    fn collect(self, steps: &[Step], wild: &mut Vec<Name<'d>>, found: &mut Vec<Found<'d>>) {
        let Some((step, rest)) = steps.split_first() else {
            return found.push(Found { wild: wild.clone(), value: self });
        };
        if let Step::Key(key) = step {
            if let Some(child) = self.child(key) {
                child.collect(rest, wild, found);
            }
            return;
        }
        let elements = self.elements().enumerate().map(|(index, value)| (Name::Index(index), value));
        let members = self.entries().into_iter().map(|(key, value)| (Name::Key(key), value));
        for (name, child) in elements.chain(members) {
            wild.push(name);
            child.collect(rest, wild, found);
            wild.pop();
        }
    }

    /// Visits every place that a pointer names, and of a key that stands twice each: what is hidden or rewritten
    /// must be so for a reader that takes the first, too.
    pub fn places(self, steps: &[Step], visit: &mut impl FnMut(Value<'d>)) {
        let Some((step, rest)) = steps.split_first() else { return visit(self) };
        match step {
            Step::Any => self.elements().for_each(|child| child.places(rest, visit)),
            Step::Key(key) => {
                let element = array_index(key).and_then(|index| self.elements().nth(index));
                element.into_iter().for_each(|child| child.places(rest, visit));
            }
        }
        for (name, child) in self.members() {
            if matches!(step, Step::Any) || matches!(step, Step::Key(key) if name.is(key)) {
                child.places(rest, visit);
            }
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.raw())
    }
}

/// The nodes just below a container, each followed by the one after all that lies below it.
struct Below<'d> {
    doc: &'d Doc<'d>,
    at: u32,
    end: u32,
}

impl<'d> Iterator for Below<'d> {
    type Item = Value<'d>;

    fn next(&mut self) -> Option<Value<'d>> {
        if self.at >= self.end {
            return None;
        }
        let value = Value { doc: self.doc, at: self.at };
        self.at = value.node().next;
        Some(value)
    }
}

/// The index that a pointer's step names: digits without a leading zero (RFC 6901 §4); `-` names no element.
fn array_index(key: &str) -> Option<usize> {
    let digits = key.bytes().all(|b| b.is_ascii_digit());
    let padded = key.len() > 1 && key.starts_with('0');
    if digits && !padded { key.parse().ok() } else { None }
}

/// A string's content, between its quotes.
#[derive(Debug, Clone, Copy)]
pub struct Text<'d> {
    raw: &'d str,
    escaped: bool,
}

impl<'d> Text<'d> {
    /// What stands between its quotes, escaped as it was sent.
    pub fn raw(self) -> &'d str {
        self.raw
    }

    /// What it says. Not always UTF-8: half a surrogate pair (`\ud800`) is kept as the three bytes that it would be.
    pub fn bytes(self) -> Cow<'d, [u8]> {
        if self.escaped { parse::unescape(self.raw).into() } else { self.raw.as_bytes().into() }
    }

    /// What it says, with a replacement character for what is not Unicode.
    pub fn to_str(self) -> Cow<'d, str> {
        if !self.escaped {
            return self.raw.into();
        }
        let bytes = parse::unescape(self.raw);
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()).into()
    }

    /// Whether it is JSON of its own, as the arguments of a tool call are.
    pub fn is_document(self) -> bool {
        self.to_str().trim_start().starts_with(['{', '['])
    }

    /// Whether it says this.
    pub fn is(self, text: &str) -> bool {
        if self.escaped { *self.bytes() == *text.as_bytes() } else { self.raw == text }
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.escaped || other.escaped { self.bytes() == other.bytes() } else { self.raw == other.raw }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pointer: &str) -> Pointer {
        Pointer::parse(pointer).unwrap()
    }

    fn raw_at(body: &str, pointer: &str) -> Option<String> {
        Doc::parse(body.as_bytes()).unwrap().root().find(&at(pointer)).map(|value| value.raw().to_string())
    }

    #[test]
    fn a_pointer_finds_keys_indices_and_the_last_of_two_equal_keys() {
        let body = r#"{"a/b": [10, {"~": 1E400}], "": 5, "k": 1, "\u006b": 2, "0": "zero"}"#;
        assert_eq!(raw_at(body, "/a~1b/0").unwrap(), "10");
        assert_eq!(raw_at(body, "/a~1b/1/~0").unwrap(), "1E400");
        assert_eq!(raw_at(body, "/").unwrap(), "5");
        assert_eq!(raw_at(body, "/k").unwrap(), "2");
        assert_eq!(raw_at(body, "/0").unwrap(), "\"zero\"");
        assert_eq!(raw_at(body, "").unwrap(), body);
        for missing in ["/a~1b/2", "/a~1b/00", "/a~1b/-", "/a~1b/+1", "/k/x", "/nope"] {
            assert_eq!(raw_at(body, missing), None, "{missing}");
        }
    }

    #[test]
    fn a_wildcard_finds_all_in_an_order_of_its_own() {
        let doc = Doc::parse(br#"{"s": {"b": {"x": 2}, "a": {"x": 1}, "c": {}}, "l": [{"x": 3}, 4]}"#).unwrap();
        let raws = |p: &str| doc.root().find_all(&at(p)).iter().map(|f| f.value.raw()).collect::<Vec<_>>();
        assert_eq!(raws("/s/*/x"), ["1", "2"]);
        assert_eq!(raws("/l/*/x"), ["3"]);
        assert_eq!(raws("/*/*/x"), ["3", "1", "2"]);
        assert_eq!(doc.root().find_all(&at("/s/*/x"))[0].wild, [Name::Key(b"a".as_slice().into())]);
    }

    #[test]
    fn places_are_found_behind_every_one_of_two_equal_keys() {
        let doc = Doc::parse(br#"{"u": {"id": 1}, "u": {"id": 2, "id": 3}, "v": [{"id": 4}]}"#).unwrap();
        let mut ids = Vec::new();
        doc.root().places(at("/u/id").steps(), &mut |value| ids.push(value.raw()));
        doc.root().places(at("/v/0/id").steps(), &mut |value| ids.push(value.raw()));
        doc.root().places(at("/*/*/id").steps(), &mut |value| ids.push(value.raw()));
        assert_eq!(ids, ["1", "2", "3", "4", "4"]);
    }

    #[test]
    fn strings_are_equal_by_meaning_and_half_a_surrogate_is_only_itself() {
        let doc = Doc::parse(r#"["é<", "\u00e9\u003c", "\ud83e\udd80", "🦀", "\ud800", "\ufffd", "\/"]"#.as_bytes());
        let doc = doc.unwrap();
        let texts: Vec<Text> = doc.root().elements().map(Value::as_text).collect();
        assert!(texts[0] == texts[1] && texts[2] == texts[3]);
        assert!(texts[4] != texts[5]);
        assert_eq!(texts[4].to_str(), "\u{fffd}\u{fffd}\u{fffd}");
        assert!(texts[6].is("/"));
    }
}
