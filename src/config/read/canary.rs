//! Floor 1: `canary` of a route: which candidate answers which share of the clients, and what keeps a client on its arm.

use super::super::fault::Notes;
use super::super::keys;
use super::super::raw::{Node, clip};
use super::super::routing::{CanaryRule, Match, Model, OnError, Source, Sticky};
use super::field::{header_name, percent, pointer};
use super::{Fields, Known, name, parsed, scalar, shadow, some_time, word};
use crate::types::Percent;

/// `canary`, where its model is known.
pub(super) fn read(
    node: &Node,
    known: &Known,
    prod: Option<&Model>,
    matcher: &Match,
    notes: &mut Notes,
) -> Option<CanaryRule> {
    let fields = Fields::open(node, &keys::CANARY, notes)?;
    let model_node = fields.required("model", notes);
    let model = model_node.and_then(|node| known.models.named(node, notes));
    if let (Some(model), Some(node)) = (&model, model_node) {
        check_model(model, prod, matcher, node, notes);
    }
    let percent_of_keys = fields.required("percent", notes).and_then(|node| percent(node, notes));
    let sticky = fields.read("sticky", notes, sticky);
    let timeout = fields.read("timeout", notes, some_time);
    let pair_percent = fields.read("pair_percent", notes, percent).unwrap_or(Percent::ALL);
    let on_error = fields.read("on_error", notes, on_error).unwrap_or(OnError::Prod);
    Some(CanaryRule {
        model: model?,
        percent: percent_of_keys.unwrap_or_default(),
        sticky,
        timeout,
        pair_percent,
        on_error,
    })
}

fn on_error(node: &Node, notes: &mut Notes) -> Option<OnError> {
    word(node, notes, &[("prod", OnError::Prod), ("none", OnError::None)])
}

/// The candidate answers clients, so what holds for prod holds for it.
fn check_model(model: &Model, prod: Option<&Model>, matcher: &Match, node: &Node, notes: &mut Notes) {
    if prod.is_some_and(|prod| prod.name == model.name) {
        let message = format!("model `{}` is prod and cannot be its own canary", clip(model.name.as_str()));
        notes.fault(node.at, message, "name the candidate");
    }
    shadow::check_prefix(model, matcher, node.at, notes);
    if !model.rewrite.json.is_empty() {
        let message = "the canary's model has `rewrite.json`: request bodies are gathered before it is asked";
        notes.warn(node.at, message, "bodies up to `copy_body` are held, larger ones are answered with 413");
    }
}

/// Just one of its keys.
fn sticky(node: &Node, notes: &mut Notes) -> Option<Sticky> {
    let fields = Fields::open(node, &keys::STICKY, notes)?;
    let from = match fields.one_of(keys::STICKY.keys, notes) {
        Some(("client_ip", node)) => return client_ip(node, notes),
        Some(("header", node)) => sticky_header(node, notes).map(Source::Header),
        Some(("json", node)) => sticky_json(node, notes).map(Source::Json),
        Some(("query", node)) => name(node, notes).map(|name| Source::Query(name.to_owned())),
        Some((_, node)) => name(node, notes).map(|name| Source::Cookie(name.to_owned())),
        None => {
            let help = "write one of `header`, `cookie`, `query`, `json`, `client_ip`";
            notes.fault(node.at, "`sticky` names no key", help);
            None
        }
    };
    from.map(Sticky::From)
}

fn client_ip(node: &Node, notes: &mut Notes) -> Option<Sticky> {
    if parsed(node, notes, scalar::truth)? {
        return Some(Sticky::ClientIp);
    }
    notes.fault(node.at, "`client_ip` that is not true names no key", "write `true`, or leave `sticky` out");
    None
}

/// A key is hashed and never recorded, so a credential may serve as one; but some change while the client stays the
/// same, and then it changes its arm.
fn sticky_header(node: &Node, notes: &mut Notes) -> Option<http::HeaderName> {
    let header = header_name(node, notes)?;
    let help = match header.as_str() {
        name if name.starts_with("x-shadowpair-") => {
            notes.fault(node.at, "a client's `x-shadowpair-*` fields are stripped", "name another field");
            return None;
        }
        "cookie" => "all cookies together: write `cookie: NAME` for the one that stays",
        "authorization" | "proxy-authorization" => "where tokens are renewed, name a field that stays",
        _ => return Some(header),
    };
    notes.warn(node.at, "a field that changes moves its client to the other arm", help);
    Some(header)
}

fn sticky_json(node: &Node, notes: &mut Notes) -> Option<crate::types::Pointer> {
    let place = pointer(node, notes)?;
    let message = "the key stands in the body: request bodies are gathered before a model is asked";
    notes.warn(
        node.at,
        message,
        "bodies up to `copy_body` are held; larger ones have no key, and chance draws their arm",
    );
    Some(place)
}
