//! Floor 1: the routing file as it was typed: a tree of scalars, lists and mappings, each with its place. Scalars keep
//! their text (`1.10` stays `1.10`, `05` stays `05`), because only the reader of a field knows what it should be. serde
//! is not used: it guesses scalars' types and stops at the first fault. What belongs to YAML ends here: anchors,
//! aliases and `<<` are resolved, a key written twice is a fault, `${}` is replaced, and size, depth and what aliases
//! may multiply are bounded.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use super::environment::{self, Variables};
use super::fault::{Notes, Place};
use super::secrets;
use super::syntax;

/// How deep lists and mappings may be nested, aliases included. Readers recurse only as deep as this.
pub(super) const DEPTH_MAX: usize = 64;

/// How many nodes aliases may add to a file.
const ALIASED_MAX: usize = 100_000;

/// A scalar, list or mapping, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
    /// A scalar whose reference to the environment cannot be resolved: noted already, and no reader has more to say.
    Unresolved,
}

/// A text before anybody asked what it means.
#[derive(Debug, Clone)]
pub(super) struct Scalar {
    /// With `${}` replaced.
    pub(super) text: String,
    /// As it was written, where `${}` was replaced: all of it that may be shown.
    pub(super) written: Option<String>,
    /// Neither quoted nor a block: YAML may see a null, number or truth value in it.
    pub(super) plain: bool,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Place,
    pub(super) value: Node,
}

impl Node {
    /// `null`, `~` or nothing at all: as if the key was not there. Text from the environment is never null.
    pub(super) fn is_null(&self) -> bool {
        let Kind::Scalar(Scalar { text, written: None, plain: true }) = &self.kind else { return false };
        matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// What a message calls it; never a value that came from the environment.
    pub(super) fn shown(&self) -> String {
        match &self.kind {
            _ if self.is_null() => "nothing".to_owned(),
            Kind::Scalar(scalar) => format!("`{}`", without_secrets(scalar.written.as_ref().unwrap_or(&scalar.text))),
            Kind::List(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
            Kind::Unresolved => "a reference".to_owned(),
        }
    }
}

/// The beginning of a text, with what looks like a secret in it starred out.
fn without_secrets(text: &str) -> String {
    // Looked at beyond what is shown: the `@` that makes a password of what stands before it may come late.
    let head: String = text.lines().next().unwrap_or_default().chars().take(2_048).collect();
    let shown = clip(&secrets::star_out(&head));
    if head.len() < text.len() && !shown.ends_with('…') { shown + "…" } else { shown }
}

/// Long or many-lined text would drown the message around it.
pub(super) fn clip(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let clipped: String = line.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clipped.len() < text.len() { format!("{clipped}…") } else { clipped }
}

/// The tree of a file's text (without byte-order mark), or none where it is not one YAML document.
pub(super) fn parse(text: &str, variables: Variables<'_>, notes: &mut Notes) -> Option<Node> {
    let options = serde_saphyr::granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder { variables, notes, open: Vec::new(), root: None, anchors: HashMap::new(), aliased: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Err(error) => {
                syntax::note(&error, text, builder.notes);
                return None;
            }
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                if documents > 1 {
                    let help = "a routing file is one document: remove the `---`, or split the file";
                    builder.notes.fault(place(span), "a second YAML document begins here", help);
                    return None;
                }
            }
            Ok((event, span)) => builder.take(event, span)?,
        }
    }
    builder.root
}

fn place(span: Span) -> Place {
    let start = span.start.byte_offset().unwrap_or(0);
    Place { start, end: span.end.byte_offset().unwrap_or(start).max(start) }
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: Place,
    anchor: usize,
    children: Children,
}

enum Children {
    List(Vec<Node>),
    /// The last key waits for its value.
    Mapping(Vec<Entry>, Option<(String, Place)>),
}

struct Builder<'a> {
    variables: Variables<'a>,
    notes: &'a mut Notes,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
}

impl Builder<'_> {
    /// None gives the file up.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let at = place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                // `!!str` is a way to quote; other tags ask for types that a routing file does not have.
                let quoted = match tag {
                    None => false,
                    Some(tag) => self.tag(at, tag.core_suffix()),
                };
                let kind = self.scalar(at, text.into_owned(), style == ScalarStyle::Plain && !quoted);
                self.add(Node { at, kind }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                tag.map(|tag| self.tag(at, tag.core_suffix()));
                self.begin(at, anchor, Children::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                tag.map(|tag| self.tag(at, tag.core_suffix()));
                self.begin(at, anchor, Children::Mapping(Vec::new(), None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { at, anchor, children } = self.open.pop()?;
                let kind = match children {
                    Children::List(items) => Kind::List(items),
                    Children::Mapping(entries, _) => Kind::Mapping(self.mapping(entries)),
                };
                self.add(Node { at, kind }, anchor);
            }
            Event::Alias(anchor) => self.alias(at, anchor)?,
            _ => {}
        }
        Some(())
    }

    /// Whether the tag says "text".
    fn tag(&mut self, at: Place, core: Option<&str>) -> bool {
        if !matches!(core, Some("str" | "seq" | "map")) {
            self.notes.fault(at, "YAML tags have no meaning here", "remove the `!…` before it; text can be quoted");
        }
        core == Some("str")
    }

    fn scalar(&mut self, at: Place, written: String, plain: bool) -> Kind {
        let is_key = matches!(self.open.last(), Some(Open { children: Children::Mapping(_, None), .. }));
        if !written.contains("${") {
            return Kind::Scalar(Scalar { text: written, written: None, plain });
        }
        if is_key {
            self.notes.fault(
                at,
                "`${}` in a key",
                "only values are replaced from the environment: write the key itself",
            );
            return Kind::Scalar(Scalar { text: written, written: None, plain });
        }
        match environment::expand(&written, self.variables) {
            Ok(text) => Kind::Scalar(Scalar { text, written: Some(written), plain }),
            Err(fault) => {
                self.notes.fault(at, fault.message, fault.help);
                Kind::Unresolved
            }
        }
    }

    fn begin(&mut self, at: Place, anchor: usize, children: Children) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            self.notes.fault(at, "nested too deep", format!("at most {DEPTH_MAX} levels are read"));
            return None;
        }
        self.open.push(Open { at, anchor, children });
        Some(())
    }

    fn add(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.children) {
            None => self.root = Some(node),
            Some(Children::List(items)) => items.push(node),
            Some(Children::Mapping(entries, waiting)) => match waiting.take() {
                None => *waiting = Some(key(node, self.notes)),
                Some((key, key_at)) => {
                    // A value that is not there has no place of its own.
                    let at = if node.is_null() { key_at } else { node.at };
                    entries.push(Entry { key, key_at, value: Node { at, ..node } });
                }
            },
        }
    }

    fn alias(&mut self, at: Place, anchor: usize) -> Option<()> {
        let Some(node) = self.anchors.get(&anchor) else {
            self.notes.fault(at, "an alias inside its own anchor", "an anchor cannot hold itself: write the value out");
            return None;
        };
        let (count, depth) = measure(node);
        self.aliased += count;
        if self.aliased > ALIASED_MAX || self.open.len() + depth > DEPTH_MAX {
            let help = format!("at most {ALIASED_MAX} nodes and {DEPTH_MAX} levels: write the value out");
            self.notes.fault(at, "the file's aliases stand for too much", help);
            return None;
        }
        let node = node.clone();
        self.add(node, 0);
        Some(())
    }

    /// A finished mapping: no key twice, and what `<<` merges in behind the keys that were written here.
    fn mapping(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut first: HashMap<String, Place> = HashMap::with_capacity(entries.len());
        let (merges, written): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.key == "<<");
        let mut kept = Vec::with_capacity(written.len());
        for entry in written {
            match first.insert(entry.key.clone(), entry.key_at) {
                None => kept.push(entry),
                Some(_) => {
                    let message = format!("the key `{}` is written twice", clip(&entry.key));
                    self.notes.fault(entry.key_at, message, "keep one of the two, or merge them");
                }
            }
        }
        for merge in merges {
            let sources = match merge.value.kind {
                Kind::List(items) => items,
                _ => vec![merge.value],
            };
            for source in sources {
                let Kind::Mapping(entries) = source.kind else {
                    self.notes.fault(merge.key_at, "`<<` merges mappings only", "write `<<: *anchor` of a mapping");
                    continue;
                };
                // Of several that are merged in, the earlier one wins.
                kept.extend(
                    entries.into_iter().filter(|entry| first.insert(entry.key.clone(), entry.key_at).is_none()),
                );
            }
        }
        kept
    }
}

fn key(node: Node, notes: &mut Notes) -> (String, Place) {
    match node.kind {
        Kind::Scalar(scalar) => (scalar.text, node.at),
        Kind::List(_) | Kind::Mapping(_) | Kind::Unresolved => {
            notes.fault(node.at, format!("{} as a key", node.shown()), "a key is a plain text");
            (String::new(), node.at)
        }
    }
}

/// How many nodes it has, and how deep they are nested.
fn measure(node: &Node) -> (usize, usize) {
    let children: Vec<(usize, usize)> = match &node.kind {
        Kind::Scalar(_) | Kind::Unresolved => return (1, 0),
        Kind::List(items) => items.iter().map(measure).collect(),
        Kind::Mapping(entries) => entries.iter().map(|entry| measure(&entry.value)).collect(),
    };
    let count = children.iter().map(|(count, _)| count).sum::<usize>();
    let depth = children.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
    (count + 1, depth + 1)
}

/// One step from a node to one below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// To the value of this key.
    Key(String),
    /// To this element of a list of so many.
    Element(usize, usize),
}

/// Where values came from the environment, and how they are written. Whatever shows the file shows this in their place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Substituted(pub(super) Vec<(Vec<Step>, String)>);

impl Substituted {
    /// All of a tree's.
    pub(super) fn of(root: &Node) -> Self {
        let mut found = Self::default();
        found.walk(root, &mut Vec::new());
        found
    }

    fn walk(&mut self, node: &Node, path: &mut Vec<Step>) {
        match &node.kind {
            Kind::Scalar(Scalar { written: Some(written), .. }) => self.0.push((path.clone(), written.clone())),
            Kind::Scalar(_) | Kind::Unresolved => {}
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Step::Element(index, items.len()));
                    self.walk(item, path);
                    path.pop();
                }
            }
            Kind::Mapping(entries) => {
                for entry in entries {
                    path.push(Step::Key(entry.key.clone()));
                    self.walk(&entry.value, path);
                    path.pop();
                }
            }
        }
    }
}
