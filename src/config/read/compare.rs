//! Floor 1: `compare` of a route: which values decide, and how far they may differ.

use super::super::fault::{Notes, did_you_mean};
use super::super::keys;
use super::super::raw::{Entry, Kind, Node, clip};
use super::super::routing::{CanaryRule, Compare, Model, ShadowRule, Tolerance, ValueAt, ValueRule};
use super::field::pointer;
use super::{Fields, Known, called, entries, list, name, parsed, scalar, word};
use crate::types::{ModelName, Pointer, ValueKind};

/// The models of a route.
pub(super) struct Asked<'r> {
    /// None where the route's is faulty.
    prod: Option<&'r Model>,
    /// Each of them once; their answers are compared with prod's.
    candidates: Vec<&'r Model>,
    /// Its answer stands in for prod's, so a place in it may be told.
    fallback: Option<&'r Model>,
}

impl<'r> Asked<'r> {
    /// Of a route with these.
    pub(super) fn of(
        prod: Option<&'r Model>,
        shadow: &'r [ShadowRule],
        canary: Option<&'r CanaryRule>,
        fallback: Option<&'r Model>,
    ) -> Self {
        let mut candidates: Vec<&Model> = shadow.iter().map(|rule| &*rule.model).collect();
        let canary = canary.map(|rule| &*rule.model);
        candidates.extend(canary.filter(|model| !candidates.iter().any(|other| other.name == model.name)));
        Self { prod, candidates, fallback }
    }

    /// Those whose answers are compared.
    fn compared(&self) -> impl Iterator<Item = &'r Model> {
        self.prod.into_iter().chain(self.candidates.iter().copied())
    }
}

/// `compare`.
pub(super) fn read(node: &Node, asked: &Asked<'_>, known: &Known, notes: &mut Notes) -> Option<Compare> {
    let fields = Fields::open(node, &keys::COMPARE, notes)?;
    let mut values: Vec<ValueRule> = Vec::new();
    for item in fields.read("values", notes, list).unwrap_or_default() {
        let Some(rule) = value(item, asked, known, notes) else { continue };
        if values.iter().any(|other| other.name == rule.name) {
            let message = format!("two values are named {}", called(item, "name"));
            notes.fault(item.at, message, "give each a name of its own");
        }
        values.push(rule);
    }
    let ignore = fields.read("ignore", notes, list).unwrap_or_default();
    Some(Compare {
        values,
        tolerance: fields.read("tolerance", notes, tolerance).unwrap_or_default(),
        ignore: ignore.iter().filter_map(|node| pointer(node, notes)).collect(),
    })
}

fn value(node: &Node, asked: &Asked<'_>, known: &Known, notes: &mut Notes) -> Option<ValueRule> {
    let fields = Fields::open(node, &keys::VALUE, notes)?;
    let name = fields.required("name", notes).and_then(|node| name(node, notes));
    let at = fields.required("at", notes).and_then(|node| place(node, asked, known, notes));
    let kind = fields.read("kind", notes, kind).unwrap_or(ValueKind::Json);
    let tolerance = fields.read("tolerance", notes, tolerance);
    if tolerance.is_some() && matches!(kind, ValueKind::Class | ValueKind::Text) {
        let help = "a tolerance is for numbers: use `kind: number` or `vector`, or remove it";
        notes.warn(fields.key_at("tolerance"), format!("`tolerance` says nothing about kind `{kind}`"), help);
    }
    Some(ValueRule { name: name?.to_owned(), at: at?, kind, tolerance })
}

fn kind(node: &Node, notes: &mut Notes) -> Option<ValueKind> {
    let words: Vec<(&str, ValueKind)> = ValueKind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    word(node, notes, &words)
}

/// One pointer, or one for each model of the route.
fn place(node: &Node, asked: &Asked<'_>, known: &Known, notes: &mut Notes) -> Option<ValueAt> {
    if !matches!(node.kind, Kind::Mapping(_)) {
        return pointer(node, notes).map(ValueAt::Same);
    }
    let mut places: Vec<(ModelName, Pointer)> = Vec::new();
    let written = entries(node, "`at`", notes)?;
    for entry in written {
        let place = pointer(&entry.value, notes);
        if is_of_route(entry, asked, known, notes) {
            places.extend(place.map(|place| (ModelName::new(entry.key.as_str()), place)));
        }
    }
    for model in asked.compared() {
        if !written.iter().any(|entry| entry.key == model.name.as_str()) {
            let message = format!("`at` says not where model `{}` has the value", clip(model.name.as_str()));
            notes.fault(node.at, message, "one pointer for every model of the route, or one pointer for all");
        }
    }
    Some(ValueAt::ByModel(places))
}

fn is_of_route(entry: &Entry, asked: &Asked<'_>, known: &Known, notes: &mut Notes) -> bool {
    if asked.compared().chain(asked.fallback).any(|model| model.name.as_str() == entry.key) {
        return true;
    }
    let all = known.models.ordered.iter().map(|model| model.name.as_str());
    if !all.clone().any(|name| name == entry.key) {
        let message = format!("no model is named `{}`", clip(&entry.key));
        notes.fault(entry.key_at, message, did_you_mean(&entry.key, "models", all));
    } else if asked.prod.is_some() {
        let message = format!("model `{}` is not asked by this route", clip(&entry.key));
        notes.warn(entry.key_at, message, "remove it, or name the model under `shadow` or `canary`");
    }
    false
}

fn tolerance(node: &Node, notes: &mut Notes) -> Option<Tolerance> {
    if let Kind::Scalar(_) = &node.kind {
        let message = format!("a tolerance is `absolute` or `relative`, found {}", node.shown());
        notes.fault(node.at, message, "write `{absolute: 0.001}` or `{relative: 0.01}`");
        return None;
    }
    let fields = Fields::open(node, &keys::TOLERANCE, notes)?;
    let mut bound = |key: &str| {
        let node = fields.get(key)?;
        let value = parsed(node, notes, scalar::number)?;
        if value < 0.0 {
            notes.fault(node.at, "a negative tolerance", "write 0 or more");
        }
        Some(value)
    };
    Some(Tolerance { absolute: bound("absolute").unwrap_or_default(), relative: bound("relative").unwrap_or_default() })
}
