//! Floor 1: blocks whose behaviour is still to come. They are read like all others, so that their faults are told and
//! nothing is ignored in silence, and then refused by name.

use super::super::fault::{Notes, Place};
use super::super::keys;
use super::super::raw::Node;
use super::field::{header_name, path, percent, pointer};
use super::{Fields, Known, list, name, parsed, scalar, size, some_time, text, whole, word};
use crate::config::routing::Model;

/// Refuses what stands here.
pub(super) fn refuse(what: &str, at: Place, notes: &mut Notes) {
    notes.fault(at, format!("{what} is not yet supported"), "leave it out: the rest of the file works without it");
}

/// `tls` of a listener.
pub(super) fn tls(node: &Node, at: Place, notes: &mut Notes) {
    refuse("`tls`", at, notes);
    let Some(fields) = Fields::open(node, &keys::TLS, notes) else { return };
    for key in ["cert", "key"] {
        fields.required(key, notes).and_then(|node| name(node, notes));
    }
    fields.read("client_ca", notes, name);
}

/// `health` of a model.
pub(super) fn health(node: &Node, at: Place, notes: &mut Notes) {
    refuse("`health`", at, notes);
    let Some(fields) = Fields::open(node, &keys::HEALTH, notes) else { return };
    fields.required("path", notes).and_then(|node| path(node, notes));
    fields.read("interval", notes, some_time);
}

/// `fallback` of a route.
pub(super) fn fallback(node: &Node, at: Place, known: &Known, prod: Option<&Model>, notes: &mut Notes) {
    refuse("`fallback`", at, notes);
    if known.models.named(node, notes).is_some_and(|model| prod.is_some_and(|prod| prod.name == model.name)) {
        notes.fault(node.at, "`fallback` is the prod model", "name another model: prod has failed when it is asked");
    }
}

/// `canary` of a route.
pub(super) fn canary(node: &Node, at: Place, known: &Known, prod: Option<&Model>, notes: &mut Notes) {
    refuse("`canary`", at, notes);
    let Some(fields) = Fields::open(node, &keys::CANARY, notes) else { return };
    if let Some(node) = fields.required("model", notes)
        && known.models.named(node, notes).is_some_and(|model| prod.is_some_and(|prod| prod.name == model.name))
    {
        notes.fault(node.at, "the canary is the prod model", "name the candidate");
    }
    fields.required("percent", notes).and_then(|node| percent(node, notes));
    fields.read("sticky", notes, sticky);
    fields.read("timeout", notes, some_time);
    fields.read("pair_percent", notes, percent);
    fields.read("on_error", notes, |node, notes| word(node, notes, &[("prod", ()), ("none", ())]));
}

fn sticky(node: &Node, notes: &mut Notes) -> Option<()> {
    let fields = Fields::open(node, &keys::STICKY, notes)?;
    match fields.one_of(keys::STICKY.keys, notes) {
        Some(("header", node)) => header_name(node, notes).map(drop),
        Some(("json", node)) => pointer(node, notes).map(drop),
        Some(("client_ip", node)) => parsed(node, notes, scalar::truth).map(drop),
        Some((_, node)) => name(node, notes).map(drop),
        None => {
            notes.fault(
                node.at,
                "`sticky` names no key",
                "write one of `header`, `cookie`, `query`, `json`, `client_ip`",
            );
            None
        }
    }
}

/// `retry` of a route.
pub(super) fn retry(node: &Node, at: Place, notes: &mut Notes) {
    refuse("`retry`", at, notes);
    let Some(fields) = Fields::open(node, &keys::RETRY, notes) else { return };
    fields.read("attempts", notes, |node, notes| whole::<u32>(node, 0, 1, notes));
    fields.read("idempotent", notes, |node, notes| parsed(node, notes, scalar::truth));
    for node in fields.read("on", notes, list).unwrap_or_default() {
        let Some(found) = text(node, notes) else { continue };
        let status = found.parse::<u16>().is_ok_and(|status| (400..=599).contains(&status));
        if !status && !matches!(found, "connect" | "reset" | "timeout") {
            let help = "it is one of `connect`, `reset`, `timeout`, or a status from 400 to 599";
            notes.fault(node.at, format!("unknown cause {}", node.shown()), help);
        }
    }
}

/// `upgrade` of a route; an empty list is the default.
pub(super) fn upgrade(node: &Node, at: Place, notes: &mut Notes) {
    let Some(items) = list(node, notes) else { return };
    if !items.is_empty() {
        refuse("`upgrade`", at, notes);
    }
    for item in items {
        word(item, notes, &[("websocket", ())]);
    }
}

/// `spool` of `pairs`.
pub(super) fn spool(node: &Node, at: Place, notes: &mut Notes) {
    refuse("`spool`", at, notes);
    let Some(fields) = Fields::open(node, &keys::SPOOL, notes) else { return };
    fields.read("dir", notes, name);
    fields.read("max", notes, size::<u64>);
}
