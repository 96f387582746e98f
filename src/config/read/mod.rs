//! Floor 1: from what was typed to what is meant. Every reader takes a node, notes what is wrong with it and goes on,
//! so that one run finds every fault of a file; none means "noted already, leave it out". A reader that has to return
//! something whole puts defaults in the faulty places: a file with faults is refused anyway.

mod canary;
mod capture;
mod compare;
mod field;
mod json;
mod later;
mod models;
mod pairs;
mod retry;
mod routes;
mod server;
mod shadow;

use std::collections::HashMap;
use std::sync::Arc;

use super::fault::{Notes, Place, did_you_mean};
use super::keys::{self, Block};
use super::process::Process;
use super::raw::{Entry, Kind, Node, Scalar, clip};
use super::routing::{Model, Routing};
use super::scalar::{self, Wrong};

/// All that the tree of a file means.
pub(super) fn file(root: &Node, notes: &mut Notes) -> (Process, Routing) {
    let Some(fields) = Fields::open(root, &keys::FILE, notes) else { return (server::nothing(), Routing::default()) };
    match fields.required("version", notes) {
        Some(node) if text(node, notes).is_some_and(|version| version != "1") => {
            notes.fault(node.at, format!("no known version: {}", node.shown()), "this shadowpair reads `version: 1`");
        }
        _ => {}
    }
    let mut process = server::read(fields.get("server"), notes);
    let models = fields.required("models", notes).map(|node| models::read(node, notes)).unwrap_or_default();
    let known = Known { models, hash_key: fields.get("server").is_some_and(has_hash_key) };
    let routes = fields.required("routes", notes).map(|node| routes::read(node, &known, notes)).unwrap_or_default();
    process.sink = pairs::read(fields.get("pairs"), &routes, notes);
    (process, Routing { models: known.models.into_ordered(), routes })
}

fn has_hash_key(server: &Node) -> bool {
    let Kind::Mapping(entries) = &server.kind else { return false };
    entries.iter().any(|entry| entry.key == "hash_key" && !entry.value.is_null())
}

/// What a route may refer to.
struct Known {
    models: Models,
    hash_key: bool,
}

/// The models of the file, in its order and by name.
#[derive(Default)]
struct Models {
    ordered: Vec<Arc<Model>>,
    by_name: HashMap<String, usize>,
}

impl Models {
    fn add(&mut self, model: Model) {
        self.by_name.insert(model.name.as_str().to_owned(), self.ordered.len());
        self.ordered.push(Arc::new(model));
    }

    fn into_ordered(self) -> Vec<Arc<Model>> {
        self.ordered
    }

    /// The model that a node names.
    fn named(&self, node: &Node, notes: &mut Notes) -> Option<Arc<Model>> {
        let name = text(node, notes)?;
        if let Some(model) = self.by_name.get(name).and_then(|index| self.ordered.get(*index)) {
            return Some(Arc::clone(model));
        }
        let help = did_you_mean(name, "models", self.ordered.iter().map(|model| model.name.as_str()));
        notes.fault(node.at, format!("no model is named {}", node.shown()), safe(node, help, "name one of `models`"));
        None
    }
}

/// A mapping that is read key by key.
struct Fields<'n> {
    at: Place,
    entries: &'n [Entry],
    block: &'static Block,
}

impl<'n> Fields<'n> {
    /// Notes a node that is no mapping, and every key that is not known.
    fn open(node: &'n Node, block: &'static Block, notes: &mut Notes) -> Option<Self> {
        let known = || block.keys.iter().copied();
        let Kind::Mapping(entries) = &node.kind else {
            if let Kind::Unresolved = &node.kind {
                return None;
            }
            let names: Vec<String> = known().map(|key| format!("`{key}`")).collect();
            let help = format!("its keys are {}", names.join(", "));
            notes.fault(node.at, format!("{} is a mapping, found {}", block.name, node.shown()), help);
            return None;
        };
        for entry in entries.iter().filter(|entry| !block.keys.contains(&entry.key.as_str())) {
            // What was to be a secret and is misspelt is one all the same.
            if super::fault::nearest(&entry.key, known()).is_some_and(super::secrets::is_secret_key) {
                mark_secret(&entry.value, notes);
            }
            let message = format!("unknown key `{}` in {}", clip(&entry.key), block.name);
            notes.fault(entry.key_at, message, did_you_mean(&entry.key, "keys", known()));
        }
        Some(Self { at: node.at, entries, block })
    }

    /// The key's value; none where it is not written, or null.
    fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value).filter(|node| !node.is_null())
    }

    fn entry(&self, key: &str) -> Option<&'n Entry> {
        debug_assert!(self.block.keys.contains(&key), "{key} is not in the table of keys");
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Where the key stands.
    fn key_at(&self, key: &str) -> Place {
        self.entry(key).map_or(self.at, |entry| entry.key_at)
    }

    /// The key's value; that there is none is a fault.
    fn required(&self, key: &str, notes: &mut Notes) -> Option<&'n Node> {
        let found = self.get(key);
        if found.is_none() {
            let message = format!("{} has no `{key}`", self.block.name);
            notes.fault(self.key_at(key), message, format!("add `{key}`: it has no default"));
        }
        found
    }

    /// The key's value as its reader sees it.
    fn read<T>(
        &self,
        key: &str,
        notes: &mut Notes,
        reader: impl FnOnce(&'n Node, &mut Notes) -> Option<T>,
    ) -> Option<T> {
        self.get(key).and_then(|node| reader(node, notes))
    }

    /// Of several keys, the one that is written; that there are more is a fault.
    fn one_of(&self, keys: &[&'static str], notes: &mut Notes) -> Option<(&'static str, &'n Node)> {
        let mut written = keys.iter().filter_map(|key| self.get(key).map(|node| (*key, node)));
        let first = written.next();
        for (key, _) in written {
            let other = first.map_or("", |(key, _)| key);
            let message = format!("`{other}` and `{key}` in one {}", self.block.name.trim_start_matches("a "));
            notes.fault(self.key_at(key), message, "keep one of the two");
        }
        first
    }
}

/// A help that was made from a node's value, unless that came from the environment.
fn safe(node: &Node, help: String, general: &str) -> String {
    match &node.kind {
        Kind::Scalar(Scalar { written: Some(_), .. }) => general.to_owned(),
        Kind::Scalar(scalar) if super::secrets::star_out(&scalar.text) != scalar.text => general.to_owned(),
        _ => help,
    }
}

/// Whatever shape a secret was given, none of it is shown.
fn mark_secret(node: &Node, notes: &mut Notes) {
    match &node.kind {
        Kind::List(items) => items.iter().for_each(|item| mark_secret(item, notes)),
        Kind::Mapping(entries) => entries.iter().for_each(|entry| mark_secret(&entry.value, notes)),
        Kind::Scalar(_) | Kind::Unresolved => notes.secret(node.at),
    }
}

/// What a message calls the thing that this node describes: the value of one of its keys, as it was written.
fn called(node: &Node, key: &str) -> String {
    let Kind::Mapping(entries) = &node.kind else { return node.shown() };
    entries.iter().find(|entry| entry.key == key).map_or_else(String::new, |entry| entry.value.shown())
}

/// The text of a scalar.
fn text<'n>(node: &'n Node, notes: &mut Notes) -> Option<&'n str> {
    match &node.kind {
        Kind::Scalar(scalar) if !node.is_null() => Some(&scalar.text),
        Kind::Unresolved => None,
        _ => {
            notes.fault(
                node.at,
                format!("expected one value, found {}", node.shown()),
                "write a text, number or truth value",
            );
            None
        }
    }
}

/// A text that is not blank.
fn name<'n>(node: &'n Node, notes: &mut Notes) -> Option<&'n str> {
    let name = text(node, notes)?;
    if name.trim().is_empty() {
        notes.fault(node.at, "an empty name", "write a name");
        return None;
    }
    Some(name)
}

/// The elements of a list.
fn list<'n>(node: &'n Node, notes: &mut Notes) -> Option<&'n [Node]> {
    match &node.kind {
        Kind::List(items) => Some(items),
        Kind::Unresolved => None,
        _ => {
            let help = safe(node, in_brackets(node), "write a list: `[a, b]`, or a line with `- ` for each element");
            notes.fault(node.at, format!("expected a list, found {}", node.shown()), help);
            None
        }
    }
}

fn in_brackets(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(scalar) => format!("write a list: `[\"{}\"]`", clip(&scalar.text)),
        _ => "write a list: put a `- ` before each element".to_owned(),
    }
}

/// The keys and values of a mapping whose keys are the author's own names.
fn entries<'n>(node: &'n Node, what: &str, notes: &mut Notes) -> Option<&'n [Entry]> {
    match &node.kind {
        Kind::Mapping(entries) => {
            for entry in entries.iter().filter(|entry| entry.key.trim().is_empty()) {
                notes.fault(entry.key_at, format!("an empty name in {what}"), "write a name");
            }
            Some(entries)
        }
        Kind::Unresolved => None,
        _ => {
            notes.fault(
                node.at,
                format!("{what} is a mapping, found {}", node.shown()),
                "write `name: value` lines, or `{name: value}`",
            );
            None
        }
    }
}

/// A scalar that one of the pure readers of `scalar` understands.
fn parsed<T>(node: &Node, notes: &mut Notes, reader: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<T> {
    match reader(text(node, notes)?) {
        Ok(value) => Some(value),
        Err(Wrong { expected, fix, form }) => {
            let help = safe(node, fix.unwrap_or_else(|| form.to_owned()), form);
            notes.fault(node.at, format!("expected {expected}, found {}", node.shown()), help);
            None
        }
    }
}

/// A size in bytes that this machine can count.
fn size<T: TryFrom<u64>>(node: &Node, notes: &mut Notes) -> Option<T> {
    parsed(node, notes, |text| {
        let too_large = Wrong { expected: "a smaller size", fix: None, form: "write a size that fits into memory" };
        scalar::size(text).and_then(|size| T::try_from(size).map_err(|_| too_large))
    })
}

fn duration(node: &Node, notes: &mut Notes) -> Option<std::time::Duration> {
    parsed(node, notes, scalar::duration)
}

/// A duration that cannot be 0: where "none" has no meaning, or would wait for ever.
fn some_time(node: &Node, notes: &mut Notes) -> Option<std::time::Duration> {
    let time = duration(node, notes)?;
    if time.is_zero() {
        notes.fault(node.at, "a time of 0s", "write a longer one, or leave the key out for its default");
        return None;
    }
    Some(time)
}

fn whole<T: TryFrom<u64>>(node: &Node, least: u64, most: u64, notes: &mut Notes) -> Option<T> {
    parsed(node, notes, |text| scalar::whole(text, least, most)).and_then(|number| T::try_from(number).ok())
}

/// One word of a closed set.
fn word<T: Copy>(node: &Node, notes: &mut Notes, words: &[(&str, T)]) -> Option<T> {
    let found = text(node, notes)?;
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == found) {
        return Some(*value);
    }
    let known = words.iter().map(|(word, _)| *word);
    let all: Vec<String> = known.clone().map(|word| format!("`{word}`")).collect();
    let general = format!("it is one of {}", all.join(", "));
    let help = super::fault::nearest(found, known).map_or(general.clone(), |near| format!("did you mean `{near}`?"));
    notes.fault(node.at, format!("unknown word {}", node.shown()), safe(node, help, &general));
    None
}
