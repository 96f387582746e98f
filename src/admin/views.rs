//! What the API shows of the live state, as JSON.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::config::routing::PathMatch;
use crate::control::reload::Last;
use crate::snapshot::candidate::Candidate;
use crate::snapshot::{RouteState, Snapshot};
use crate::types::{Outcome, SkipReason};
use crate::upstream::Target;
use crate::upstream::endpoint::Side;

/// Effective routes in the order in which they are tried, with live counts.
pub(super) fn routes(snapshot: &Snapshot, last: &Last) -> Value {
    let routes: Vec<Value> = snapshot.routes.iter().map(|state| route(state)).collect();
    let reload = json!({ "outcome": last.outcome, "at": last.at, "faults": last.faults });
    json!({ "config": &*snapshot.hash, "last_reload": reload, "routes": routes })
}

fn route(state: &RouteState) -> Value {
    let rule = &state.rule;
    let headers = rule.matcher.headers.iter().map(|(name, value)| (name.to_string(), json!(value)));
    let (path, path_prefix) = match &rule.matcher.path {
        PathMatch::Any => (None, None),
        PathMatch::Exact(path) => (Some(path.clone()), None),
        PathMatch::Prefix(prefix) => (None, Some(if prefix.is_empty() { "/".to_owned() } else { prefix.clone() })),
    };
    let outcomes =
        Outcome::ALL.iter().map(|o| (o.as_str().to_owned(), json!(state.prod.metrics.total[*o as usize].get())));
    json!({
        "name": rule.name.as_str(),
        "match": {
            "host": rule.matcher.host,
            "path": path,
            "path_prefix": path_prefix,
            "methods": rule.matcher.methods.iter().map(|method| method.as_str()).collect::<Vec<_>>(),
            "headers": headers.collect::<serde_json::Map<_, _>>(),
        },
        "seen": state.seen.load(Ordering::Relaxed),
        "prod": {
            "model": rule.prod.name.as_str(),
            "in_flight": state.prod.metrics.in_flight.get(),
            "outcomes": outcomes.collect::<serde_json::Map<_, _>>(),
            "endpoints": endpoints(&state.prod.target, Side::Worker),
        },
        "candidates": state.candidates.iter().map(candidate).collect::<Vec<_>>(),
    })
}

fn candidate(candidate: &Candidate) -> Value {
    let skips = SkipReason::ALL.iter().map(|reason| (reason.as_str().to_owned(), json!(candidate.skips(*reason))));
    let outcomes = Outcome::ALL.iter().map(|o| (o.as_str().to_owned(), json!(candidate.leg.total[*o as usize].get())));
    json!({
        "model": candidate.model().as_str(),
        "role": candidate.role.as_str(),
        "percent": candidate.percent.as_f64(),
        "max_in_flight": candidate.bounds.max_in_flight,
        "max_rps": candidate.bounds.max_rps,
        "in_flight": candidate.in_flight(),
        "sampled": candidate.sampled(),
        "skipped": skips.collect::<serde_json::Map<_, _>>(),
        "outcomes": outcomes.collect::<serde_json::Map<_, _>>(),
        "endpoints": endpoints(&candidate.target, Side::Lane),
    })
}

fn endpoints(target: &Target, side: Side) -> Vec<Value> {
    let endpoint = target.endpoints.iter().map(|endpoint| {
        json!({
            "address": &*endpoint.url.label,
            "active": endpoint.active.load(Ordering::Relaxed),
            "ejected": endpoint.is_ejected(side),
        })
    });
    endpoint.collect()
}
