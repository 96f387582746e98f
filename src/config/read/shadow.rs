//! Floor 1: `shadow` and `control` of a route: who is asked beside prod, how often, and within which bounds.

use super::super::fault::{Notes, Place};
use super::super::keys;
use super::super::raw::{Node, clip};
use super::super::routing::{CallBounds, ControlRule, Match, Model, PathMatch, PathRewrite, ShadowRule};
use super::field::percent;
use super::{Fields, Known, list, some_time, whole};

/// `max_in_flight` of a shadow, where it is not written.
const SHADOW_IN_FLIGHT: usize = 256;

/// `max_in_flight` of the control, where it is not written.
const CONTROL_IN_FLIGHT: usize = 64;

/// The entries of `shadow` that are whole.
pub(super) fn list_of(
    node: &Node,
    known: &Known,
    prod: Option<&Model>,
    matcher: &Match,
    notes: &mut Notes,
) -> Option<Vec<ShadowRule>> {
    let mut rules: Vec<ShadowRule> = Vec::new();
    for item in list(node, notes)? {
        let Some(fields) = Fields::open(item, &keys::SHADOW, notes) else { continue };
        let model_node = fields.required("model", notes);
        let model = model_node.and_then(|node| known.models.named(node, notes));
        let percent = fields.required("percent", notes).and_then(|node| percent(node, notes));
        let bounds = bounds(&fields, SHADOW_IN_FLIGHT, notes);
        let (Some(model), Some(at)) = (model, model_node.map(|node| node.at)) else { continue };
        if prod.is_some_and(|prod| prod.name == model.name) {
            let help = "to measure how much prod differs from itself, use `control: {percent: 1}`";
            notes.fault(
                at,
                format!("model `{}` is prod and cannot be its own shadow", clip(model.name.as_str())),
                help,
            );
        }
        if rules.iter().any(|rule| rule.model.name == model.name) {
            let help = "one request makes one call: keep one entry, with the percentage that is wanted";
            notes.fault(at, format!("model `{}` is named twice under `shadow`", clip(model.name.as_str())), help);
        }
        check_prefix(&model, matcher, at, notes);
        rules.push(ShadowRule { model, percent: percent.unwrap_or_default(), bounds });
    }
    Some(rules)
}

/// `control`.
pub(super) fn control(node: &Node, notes: &mut Notes) -> Option<ControlRule> {
    let fields = Fields::open(node, &keys::CONTROL, notes)?;
    let percent = fields.required("percent", notes).and_then(|node| percent(node, notes));
    Some(ControlRule { percent: percent.unwrap_or_default(), bounds: bounds(&fields, CONTROL_IN_FLIGHT, notes) })
}

fn bounds(fields: &Fields<'_>, max_in_flight: usize, notes: &mut Notes) -> CallBounds {
    CallBounds {
        timeout: fields.read("timeout", notes, some_time),
        max_in_flight: fields.read("max_in_flight", notes, |n, s| whole(n, 1, 1_000_000, s)).unwrap_or(max_in_flight),
        max_rps: fields.read("max_rps", notes, |n, s| whole(n, 0, 10_000_000, s)).unwrap_or(0),
    }
}

/// `rewrite.path_prefix` replaces the route's prefix, so there must be one.
pub(super) fn check_prefix(model: &Model, matcher: &Match, at: Place, notes: &mut Notes) {
    let by_prefix = matches!(matcher.path, PathMatch::Prefix(_));
    if matches!(model.rewrite.path, PathRewrite::Prefix(_)) && !by_prefix {
        let message = format!(
            "model `{}` has `rewrite.path_prefix`, and this route is not matched by prefix",
            clip(model.name.as_str())
        );
        notes.fault(at, message, "match the route by `path_prefix`, or give the model `rewrite: {path: …}`");
    }
}
