//! Floor 2: streams of OpenAI's chat completions and completions, and of all who speak like it. Deltas are added up per
//! choice, and per call of a tool within it: events come in any order of choices, and ids and names only with the first.

use std::collections::BTreeMap;

use super::tree::{Map, Tree};
use crate::analysis::json::{Value, View};

/// What a delta may repeat, and what does not grow by that.
const STAYS: &[&str] = &["role", "id", "type", "name"];

/// One choice in the making.
#[derive(Default)]
struct Choice<'d> {
    fields: Map<'d>,
    message: Option<Map<'d>>,
    calls: Calls<'d>,
}

/// The calls of tools of one choice, by their index.
#[derive(Default)]
struct Calls<'d>(BTreeMap<u64, Map<'d>>);

/// The one completion that these events make.
pub(super) fn whole<'d>(events: &[Value<'d>]) -> Map<'d> {
    let mut whole = Map::default();
    let mut choices: BTreeMap<u64, Choice> = BTreeMap::new();
    for (key, value) in events.iter().flat_map(|event| event.members()) {
        match key.raw() {
            // Chunks without a choice tell of usage and filters.
            "choices" => {
                for (at, choice) in value.elements().enumerate() {
                    choices.entry(index(choice).unwrap_or(at as u64)).or_default().add(choice);
                }
            }
            // Noise against those who guess texts by the lengths of packets.
            "obfuscation" => {}
            key => whole.set(key, value),
        }
    }
    if whole.get("object").and_then(Tree::as_text) == Some("chat.completion.chunk") {
        whole.insert("object", Tree::Own("\"chat.completion\"".into()));
    }
    let choices = choices.into_iter().map(|(index, choice)| choice.whole(index));
    whole.insert("choices", Tree::List(choices.collect()));
    whole
}

fn index(value: Value) -> Option<u64> {
    value.child("index")?.raw().parse().ok()
}

impl<'d> Choice<'d> {
    fn add(&mut self, choice: Value<'d>) {
        for (key, value) in choice.members() {
            match key.raw() {
                "index" => {}
                "delta" => self.add_delta(value),
                key @ ("text" | "logprobs") => self.fields.add(key, value),
                key => self.fields.set(key, value),
            }
        }
    }

    fn add_delta(&mut self, delta: Value<'d>) {
        let message = self.message.get_or_insert_default();
        for (key, value) in delta.members() {
            match (key.raw(), value.view()) {
                ("tool_calls", View::Array) => value.elements().for_each(|call| self.calls.add(call)),
                (key, _) => grow(message, key, value),
            }
        }
    }

    fn whole(mut self, index: u64) -> Tree<'d> {
        self.fields.insert("index", Tree::Own(index.to_string()));
        if let Some(mut message) = self.message {
            if !self.calls.0.is_empty() {
                let calls = self.calls.0.into_values().map(Tree::Map);
                message.insert("tool_calls", Tree::List(calls.collect()));
            }
            self.fields.insert("message", Tree::Map(message));
        }
        Tree::Map(self.fields)
    }
}

impl<'d> Calls<'d> {
    fn add(&mut self, call: Value<'d>) {
        let at = index(call).unwrap_or_else(|| self.without_index(call));
        let fields = self.0.entry(at).or_default();
        for (key, value) in call.members() {
            match key.raw() {
                "index" => {}
                key => grow(fields, key, value),
            }
        }
    }

    /// Where a server sends no index, another id begins another call.
    fn without_index(&self, call: Value) -> u64 {
        let Some((last, fields)) = self.0.last_key_value() else { return 0 };
        match (call.child("id").map(Value::view), fields.get("id").and_then(Tree::as_text)) {
            (Some(View::Text(id)), Some(known)) if !id.is("") && id.raw() != known => last.saturating_add(1),
            _ => *last,
        }
    }
}

/// Adds to what stands under a key; a function's arguments are a level deeper.
fn grow<'d>(fields: &mut Map<'d>, key: &'d str, value: Value<'d>) {
    if STAYS.contains(&key) {
        fields.keep(key, value);
    } else if matches!(value.view(), View::Object) {
        fields.object(key, |inner| value.members().for_each(|(key, value)| grow(inner, key.raw(), value)));
    } else {
        fields.add(key, value);
    }
}
