//! Floor 1: blocks whose behaviour is still to come. They are read like all others, so that their faults are told and
//! nothing is ignored in silence, and then refused by name.

use super::super::fault::{Notes, Place};
use super::super::keys;
use super::super::raw::Node;
use super::{Fields, list, name, word};

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
