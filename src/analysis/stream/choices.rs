//! Floor 2: streams of OpenAI's chat completions and completions, and of all who speak like it. Deltas are added up per
//! choice, and per call of a tool within it: events come in any order of choices, and ids and names only with the first.

use std::collections::BTreeMap;

use super::tree::{MAX_PARTS, Map, Tree};
use crate::analysis::json::{Value, View};

/// What a delta may repeat, and what does not grow by that.
const STAYS: &[&str] = &["role", "id", "type"];
/// What grows, also by what it ended with.
const GROWS: &[&str] =
    &["content", "text", "arguments", "refusal", "reasoning", "reasoning_content", "thinking", "transcript", "data"];

/// One choice in the making.
#[derive(Default)]
struct Choice<'d> {
    fields: Map<'d>,
    message: Option<Map<'d>>,
    /// Arrays whose elements grow: calls of tools, say.
    lists: BTreeMap<&'d str, Growing<'d>>,
}

/// Elements that grow, in the order in which they began.
#[derive(Default)]
struct Growing<'d> {
    elements: Vec<Map<'d>>,
    /// Where the last one with an index stands.
    places: BTreeMap<u64, usize>,
}

/// The one completion that these events make; none where a choice is none.
pub(super) fn whole<'d>(events: &[Value<'d>]) -> Option<Map<'d>> {
    let mut whole = Map::default();
    let mut choices: BTreeMap<u64, Choice> = BTreeMap::new();
    for (key, value) in events.iter().flat_map(|event| event.members()) {
        match key.raw() {
            // Chunks without a choice tell of usage and filters.
            "choices" => {
                for (at, choice) in value.elements().enumerate() {
                    choices.entry(index(choice).unwrap_or(at as u64)).or_default().add(choice)?;
                }
            }
            // Noise against those who guess texts by the lengths of packets.
            "obfuscation" => {}
            key => whole.set(key, value),
        }
        if choices.len() > MAX_PARTS {
            return None;
        }
    }
    if whole.get("object").and_then(Tree::as_text) == Some("chat.completion.chunk") {
        whole.insert("object", Tree::Own("\"chat.completion\"".into()));
    }
    let choices = choices.into_iter().map(|(index, choice)| choice.whole(index));
    whole.insert("choices", Tree::List(choices.collect()));
    Some(whole)
}

fn index(value: Value) -> Option<u64> {
    value.child("index")?.raw().parse().ok()
}

impl<'d> Choice<'d> {
    fn add(&mut self, choice: Value<'d>) -> Option<()> {
        matches!(choice.view(), View::Object).then_some(())?;
        for (key, value) in choice.members() {
            match (key.raw(), value.view()) {
                ("index", _) => {}
                ("delta", View::Object) => self.add_delta(value)?,
                ("delta", View::Null) => {}
                ("delta", _) => return None,
                ("text", _) => self.fields.add("text", value),
                // Token ids, filters' verdicts and the like come piece by piece, too.
                (key, _) => self.fields.merge(key, value),
            }
        }
        Some(())
    }

    fn add_delta(&mut self, delta: Value<'d>) -> Option<()> {
        let message = self.message.get_or_insert_default();
        for (key, value) in delta.members() {
            let numbered = || value.elements().next().is_some_and(|element| index(element).is_some());
            match (key.raw(), value.view()) {
                (key, View::Array) if key == "tool_calls" || numbered() => {
                    let list = self.lists.entry(key).or_default();
                    value.elements().try_for_each(|element| list.add(element, key != "tool_calls"))?;
                }
                (key, _) => grow(message, key, value),
            }
        }
        Some(())
    }

    fn whole(mut self, index: u64) -> Tree<'d> {
        self.fields.insert("index", Tree::Own(index.to_string()));
        if let Some(mut message) = self.message {
            // An answer that came whole says null where there is no text.
            let calls = self.lists.contains_key("tool_calls");
            if message.get("content").is_none_or(|content| calls && content.as_text() == Some("")) {
                message.insert("content", Tree::Own("null".into()));
            }
            for (key, list) in self.lists {
                message.insert(key, Tree::List(list.elements.into_iter().map(Tree::Map).collect()));
            }
            self.fields.insert("message", Tree::Map(message));
        }
        Tree::Map(self.fields)
    }
}

impl<'d> Growing<'d> {
    /// Calls of tools have an index in streams alone.
    fn add(&mut self, element: Value<'d>, keeps_index: bool) -> Option<()> {
        let at = index(element);
        let last = at.map_or(self.elements.len().checked_sub(1), |at| self.places.get(&at).copied());
        let place = last.filter(|last| self.elements.get(*last).is_some_and(|known| !is_another(known, element)));
        let place = place.unwrap_or(self.elements.len());
        if place == self.elements.len() {
            self.elements.push(Map::default());
        }
        self.places.extend(at.map(|at| (at, place)));
        let fields = self.elements.get_mut(place)?;
        for (key, value) in element.members() {
            match key.raw() {
                "index" if keeps_index => fields.keep("index", value),
                "index" => {}
                key => grow(fields, key, value),
            }
        }
        (self.elements.len() <= MAX_PARTS).then_some(())
    }
}

/// Whether an element begins another one, though it has the same index, or none: by another id, or, where there are no
/// ids, another name.
fn is_another(known: &Map, element: Value) -> bool {
    let text = |value: Option<Value>| match value.map(Value::view) {
        Some(View::Text(text)) => Some(text.raw().to_owned()).filter(|text| !text.is_empty()),
        _ => None,
    };
    let id = text(element.child("id"));
    match (known.get("id").and_then(Tree::as_text).filter(|id| !id.is_empty()), id) {
        (Some(known), Some(id)) => known != id,
        (Some(_), None) | (None, Some(_)) => false,
        (None, None) => {
            let name = text(element.child("function").and_then(|function| function.child("name")));
            let known = known.get("function").and_then(|function| function.get("name")).and_then(Tree::as_text);
            name.zip(known).is_some_and(|(name, known)| !known.is_empty() && name != known)
        }
    }
}

/// Adds to what stands under a key; a function's arguments are a level deeper.
fn grow<'d>(fields: &mut Map<'d>, key: &'d str, value: Value<'d>) {
    match value.view() {
        _ if STAYS.contains(&key) => fields.keep(key, value),
        View::Object => {
            fields.object(key, |inner| value.members().for_each(|(key, value)| grow(inner, key.raw(), value)));
        }
        // A name, a format: it comes at once, again and again, or in fragments.
        View::Text(text) if !GROWS.contains(&key) && fields.get(key).and_then(Tree::as_text) == Some(text.raw()) => {}
        View::Text(_) | View::Array | View::Null => fields.add(key, value),
        View::Number(_) | View::Bool(_) => fields.set(key, value),
    }
}
