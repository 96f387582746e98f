//! Floor 2: streams whose answers are lists of parts: Anthropic's messages, whose events name the block that they add
//! to, and Gemini's candidates, whose events bring further parts.

use std::collections::BTreeMap;

use super::tree::{MAX_PARTS, Map, Tree};
use crate::analysis::json::{Doc, Value, View};

/// One block of a message in the making.
#[derive(Default)]
struct Block<'d> {
    fields: Map<'d>,
    /// A tool's input: JSON that comes as pieces of its text, still escaped.
    input: String,
}

/// The one message that Anthropic's events make.
pub(super) fn message<'d>(events: &[Value<'d>]) -> Option<Map<'d>> {
    let mut message = Map::default();
    let mut blocks: BTreeMap<u64, Block> = BTreeMap::new();
    for event in events {
        let at = event.child("index").and_then(|index| index.raw().parse().ok()).unwrap_or(0);
        for (key, value) in event.members() {
            match key.raw() {
                "message" => message = Map::of(value),
                "content_block" => blocks.entry(at).or_default().fields = Map::of(value),
                "delta" if event.child("index").is_some() => blocks.entry(at).or_default().add(value),
                "delta" => value.members().for_each(|(key, value)| message.set(key.raw(), value)),
                // Counts that come at the end replace those of the beginning, and leave the others.
                "usage" => message.object("usage", |usage| {
                    value.members().for_each(|(key, value)| usage.set(key.raw(), value));
                }),
                "error" => message.set("error", value),
                _ => {}
            }
        }
        if blocks.len() > MAX_PARTS {
            return None;
        }
    }
    message.insert("content", Tree::List(blocks.into_values().map(Block::whole).collect()));
    Some(message)
}

impl<'d> Block<'d> {
    fn add(&mut self, delta: Value<'d>) {
        for (key, value) in delta.members() {
            match (key.raw(), value.view()) {
                ("type", _) => {}
                ("partial_json", View::Text(text)) => self.input.push_str(text.raw()),
                ("citation", _) => self.fields.push("citations", value),
                (key, _) => self.fields.add(key, value),
            }
        }
    }

    fn whole(mut self) -> Tree<'d> {
        if !self.input.is_empty() {
            let text = format!("\"{}\"", self.input);
            let input = Doc::parse(text.as_bytes()).ok().and_then(|text| Some(text.root().scalar()?.into_owned()));
            // An input that broke off stays the text that it is.
            let input = input.filter(|input| Doc::parse(input.as_bytes()).is_ok()).unwrap_or(text);
            self.fields.insert("input", Tree::Own(input));
        }
        Tree::Map(self.fields)
    }
}

/// The one answer that Gemini's events make.
pub(super) fn candidates<'d>(events: &[Value<'d>]) -> Option<Map<'d>> {
    let mut whole = Map::default();
    let mut candidates: BTreeMap<u64, Candidate> = BTreeMap::new();
    for (key, value) in events.iter().flat_map(|event| event.members()) {
        if key.raw() != "candidates" {
            whole.set(key.raw(), value);
            continue;
        }
        for (at, candidate) in value.elements().enumerate() {
            let at = candidate.child("index").and_then(|index| index.raw().parse().ok()).unwrap_or(at as u64);
            candidates.entry(at).or_default().add(candidate);
        }
        if candidates.len() > MAX_PARTS {
            return None;
        }
    }
    whole.insert("candidates", Tree::List(candidates.into_values().map(Candidate::whole).collect()));
    Some(whole)
}

/// One candidate in the making.
#[derive(Default)]
struct Candidate<'d> {
    fields: Map<'d>,
    content: Option<Map<'d>>,
    parts: Vec<Map<'d>>,
}

impl<'d> Candidate<'d> {
    fn add(&mut self, candidate: Value<'d>) {
        for (key, value) in candidate.members() {
            if key.raw() != "content" {
                self.fields.set(key.raw(), value);
                continue;
            }
            let content = self.content.get_or_insert_default();
            for (key, value) in value.members() {
                match key.raw() {
                    "parts" => value.elements().for_each(|part| add_part(&mut self.parts, part)),
                    key => content.keep(key, value),
                }
            }
        }
    }

    fn whole(mut self) -> Tree<'d> {
        if let Some(mut content) = self.content {
            content.insert("parts", Tree::List(self.parts.into_iter().map(Tree::Map).collect()));
            self.fields.insert("content", Tree::Map(content));
        }
        Tree::Map(self.fields)
    }
}

/// A text goes on from the text before it, where both are thoughts or neither is.
fn add_part<'d>(parts: &mut Vec<Map<'d>>, part: Value<'d>) {
    let new = Map::of(part);
    match parts.last_mut() {
        Some(last) if is_text(last) && is_text(&new) && is_thought(last) == is_thought(&new) => {
            for (key, value) in part.members() {
                match key.raw() {
                    "text" => last.add("text", value),
                    key => last.set(key, value),
                }
            }
        }
        // The last words may be none.
        Some(_) if new.get("text").and_then(Tree::as_text) == Some("") => {}
        _ => parts.push(new),
    }
}

fn is_text(part: &Map) -> bool {
    part.get("text").and_then(Tree::as_text).is_some()
}

fn is_thought(part: &Map) -> bool {
    matches!(part.get("thought"), Some(Tree::Sent(value)) if value.raw() == "true")
}
