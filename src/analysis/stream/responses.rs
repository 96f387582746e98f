//! Floor 2: streams of OpenAI's Responses. Their last event holds the whole response; where that is missing, or leaves
//! out what the events before it said, the items are put together from those.

use std::collections::BTreeMap;

use super::shape::is_error;
use super::tree::{MAX_PARTS, Map, Tree};
use crate::analysis::json::{Value, View};

/// One item of the output in the making.
#[derive(Default)]
struct Item<'d> {
    /// As its own event said it, which needs nothing added.
    done: Option<Value<'d>>,
    fields: Map<'d>,
    parts: BTreeMap<u64, Map<'d>>,
}

/// The one response that these events make, or the error that came in its place.
pub(super) fn whole<'d>(events: &[Value<'d>]) -> Option<Map<'d>> {
    let states = events.iter().rev().filter_map(|event| event.child("response"));
    let state = states.into_iter().find(|state| matches!(state.view(), View::Object));
    let error = events.iter().rev().find(|event| is_error(**event) && event.child("response").is_none());
    if let Some(error) = error {
        return Some(Map::of(*error));
    }
    let mut response = Map::of(state?);
    let said = state?.child("output").is_some_and(|output| output.elements().next().is_some());
    if !said {
        let mut items: BTreeMap<u64, Item> = BTreeMap::new();
        for event in events {
            if let Some(at) = number(*event, "output_index") {
                items.entry(at).or_default().add(*event);
            }
            if items.len() > MAX_PARTS {
                return None;
            }
        }
        response.insert("output", Tree::List(items.into_values().map(Item::whole).collect()));
    }
    Some(response)
}

fn number(event: Value, key: &str) -> Option<u64> {
    event.child(key)?.raw().parse().ok()
}

impl<'d> Item<'d> {
    fn add(&mut self, event: Value<'d>) {
        let Some(View::Text(kind)) = event.child("type").map(Value::view) else { return };
        let part = number(event, "content_index").filter(|at| *at < MAX_PARTS as u64).unwrap_or(0);
        let (item, delta) = (event.child("item"), event.child("delta"));
        match &*kind.to_str() {
            "response.output_item.done" => self.done = item,
            "response.output_item.added" => item.into_iter().for_each(|item| self.fields = Map::of(item)),
            "response.content_part.added" => {
                let fields = event.child("part").map(Map::of).unwrap_or_default();
                self.parts.insert(part, fields);
            }
            "response.output_text.delta" => self.grow(part, "text", delta),
            "response.refusal.delta" => self.grow(part, "refusal", delta),
            "response.function_call_arguments.delta" => {
                delta.into_iter().for_each(|delta| self.fields.add("arguments", delta));
            }
            _ => {}
        }
    }

    fn grow(&mut self, part: u64, key: &'static str, delta: Option<Value<'d>>) {
        if let Some(delta) = delta {
            self.parts.entry(part).or_default().add(key, delta);
        }
    }

    fn whole(mut self) -> Tree<'d> {
        if let Some(done) = self.done {
            return Tree::Sent(done);
        }
        if !self.parts.is_empty() {
            self.fields.insert("content", Tree::List(self.parts.into_values().map(Tree::Map).collect()));
        }
        Tree::Map(self.fields)
    }
}
