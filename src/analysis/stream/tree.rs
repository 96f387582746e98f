//! Floor 2: a JSON text in the making. What no event adds to stays as it was sent, unread; texts and arrays grow by what
//! stands between their quotes or brackets, as it was sent, so that nothing is printed anew and what a model sends takes
//! no more room than its text.

use std::collections::BTreeMap;

use crate::analysis::json::{Value, View};

/// The most parts (choices, calls, blocks) that an answer is put together from; no model answers with as many.
pub(super) const MAX_PARTS: usize = 1024;

/// A value in the making.
#[derive(Debug, Clone)]
pub(super) enum Tree<'d> {
    /// What one event sent.
    Sent(Value<'d>),
    /// JSON that stands in no event.
    Own(String),
    /// A text, still escaped.
    Text(String),
    /// The insides of arrays, none of them empty.
    Joined(Vec<&'d str>),
    /// An array.
    List(Vec<Tree<'d>>),
    /// An object.
    Map(Map<'d>),
}

/// An object in the making, by its keys without their quotes: sorted, because models may send as many as they like.
#[derive(Debug, Clone, Default)]
pub(super) struct Map<'d>(BTreeMap<&'d str, Tree<'d>>);

/// What stands between the brackets of an array, where anything does.
fn inside(array: Value<'_>) -> Option<&str> {
    let raw = array.raw();
    Some(raw[1..raw.len() - 1].trim_ascii()).filter(|inside| !inside.is_empty())
}

impl<'d> Tree<'d> {
    /// Adds what a later event brings: texts and arrays grow, objects do so by their members, anything else is
    /// replaced. `null` adds nothing.
    pub(super) fn add(&mut self, value: Value<'d>) {
        let view = value.view();
        self.open(view);
        match (&mut *self, view) {
            (_, View::Null) => {}
            (Self::Text(text), View::Text(more)) => text.push_str(more.raw()),
            (Self::Joined(insides), View::Array) => insides.extend(inside(value)),
            (Self::Map(map), View::Object) => value.members().for_each(|(key, value)| map.add(key.raw(), value)),
            _ => *self = Self::Sent(value),
        }
    }

    /// One more element.
    pub(super) fn push(&mut self, element: Value<'d>) {
        self.open(View::Array);
        match self {
            Self::Joined(insides) => insides.push(element.raw()),
            _ => *self = Self::Joined(vec![element.raw()]),
        }
    }

    /// What was sent becomes what can grow, where it is of the kind that is to be added.
    fn open(&mut self, more: View) {
        let Self::Sent(sent) = self else { return };
        *self = match (sent.view(), more) {
            (View::Text(text), View::Text(_)) => Self::Text(text.raw().to_owned()),
            (View::Array, View::Array) => Self::Joined(inside(*sent).into_iter().collect()),
            (View::Object, View::Object) => Self::Map(Map::of(*sent)),
            _ => return,
        };
    }

    /// A text's content, escaped as it was sent.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Sent(sent) => match sent.view() {
                View::Text(text) => Some(text.raw()),
                _ => None,
            },
            Self::Own(_) | Self::Joined(_) | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// What stands under a key of an object.
    pub(super) fn get(&self, key: &str) -> Option<&Tree<'d>> {
        match self {
            Self::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// Whether it says nothing: `null`, or an empty text.
    fn is_blank(&self) -> bool {
        self.as_text() == Some("") || matches!(self, Self::Sent(sent) if matches!(sent.view(), View::Null))
    }

    /// Writes it as JSON.
    pub(super) fn write(&self, json: &mut String) {
        match self {
            Self::Sent(value) => json.push_str(value.raw()),
            Self::Own(own) => json.push_str(own),
            Self::Text(text) => quoted(text, json),
            Self::Joined(insides) => listed(['[', ']'], insides, json, |inside, json| json.push_str(inside)),
            Self::List(list) => listed(['[', ']'], list, json, Self::write),
            Self::Map(Map(members)) => listed(['{', '}'], members, json, |(key, value), json| {
                quoted(key, json);
                json.push(':');
                value.write(json);
            }),
        }
    }
}

fn quoted(escaped: &str, json: &mut String) {
    json.push('"');
    json.push_str(escaped);
    json.push('"');
}

fn listed<T>(
    brackets: [char; 2],
    items: impl IntoIterator<Item = T>,
    json: &mut String,
    write: impl Fn(T, &mut String),
) {
    json.push(brackets[0]);
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        write(item, json);
    }
    json.push(brackets[1]);
}

impl<'d> Map<'d> {
    /// An object as it was sent; empty for anything else.
    pub(super) fn of(value: Value<'d>) -> Self {
        Self(value.members().map(|(key, value)| (key.raw(), Tree::Sent(value))).collect())
    }

    /// What stands under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Tree<'d>> {
        self.0.get(key)
    }

    /// Changes the object under a key, which is made where there is none.
    pub(super) fn object(&mut self, key: &'d str, change: impl FnOnce(&mut Self)) {
        let mut object = match self.0.remove(key) {
            Some(Tree::Map(map)) => map,
            Some(Tree::Sent(value)) => Self::of(value),
            _ => Self::default(),
        };
        change(&mut object);
        self.insert(key, Tree::Map(object));
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, key: &str) -> Option<Tree<'d>> {
        self.0.remove(key)
    }

    /// Puts a value under a key.
    pub(super) fn insert(&mut self, key: &'d str, value: Tree<'d>) {
        self.0.insert(key, value);
    }

    /// Adds to what stands under a key.
    pub(super) fn add(&mut self, key: &'d str, value: Value<'d>) {
        self.0.entry(key).and_modify(|tree| tree.add(value)).or_insert(Tree::Sent(value));
    }

    /// Puts together what stands under a key: arrays grow, objects do so by their members, of all else the last counts.
    pub(super) fn merge(&mut self, key: &'d str, value: Value<'d>) {
        match value.view() {
            View::Array => self.add(key, value),
            View::Object => {
                self.object(key, |inner| value.members().for_each(|(key, value)| inner.merge(key.raw(), value)));
            }
            _ => self.set(key, value),
        }
    }

    /// One more element of the array under a key.
    pub(super) fn push(&mut self, key: &'d str, element: Value<'d>) {
        self.0.entry(key).or_insert_with(|| Tree::Joined(Vec::new())).push(element);
    }

    /// What stands under a key is this from now on, unless that says nothing.
    pub(super) fn set(&mut self, key: &'d str, value: Value<'d>) {
        let new = Tree::Sent(value);
        if !new.is_blank() || !self.0.contains_key(key) {
            self.insert(key, new);
        }
    }

    /// What stands under a key stays, once it says something.
    pub(super) fn keep(&mut self, key: &'d str, value: Value<'d>) {
        if self.0.get(key).is_none_or(Tree::is_blank) {
            self.set(key, value);
        }
    }
}
