//! Floor 1: what a route does when a call to prod fails before its first byte: `retry` on another endpoint, `fallback`
//! to another model.

use std::sync::Arc;

use super::super::fault::{Notes, nearest};
use super::super::keys;
use super::super::raw::{Node, clip};
use super::super::routing::{Match, Model, Retry};
use super::{Fields, Known, list, parsed, safe, scalar, shadow, text, whole};

/// `fallback`.
pub(super) fn fallback(
    node: &Node,
    known: &Known,
    prod: Option<&Model>,
    matcher: &Match,
    notes: &mut Notes,
) -> Option<Arc<Model>> {
    let model = known.models.named(node, notes)?;
    if prod.is_some_and(|prod| prod.name == model.name) {
        let message = format!("model `{}` is prod and cannot be its own fallback", clip(model.name.as_str()));
        notes.fault(node.at, message, "name another model: prod has failed when it is asked");
    }
    shadow::check_prefix(&model, matcher, node.at, notes);
    Some(model)
}

/// `retry`.
pub(super) fn read(node: &Node, notes: &mut Notes) -> Option<Retry> {
    let fields = Fields::open(node, &keys::RETRY, notes)?;
    let default = Retry::default();
    let attempts = fields.read("attempts", notes, |n, s| whole(n, 0, 1, s)).unwrap_or(default.attempts);
    let idempotent = fields.read("idempotent", notes, |n, s| parsed(n, s, scalar::truth)).unwrap_or(default.idempotent);
    let causes = fields.read("on", notes, causes).unwrap_or(default);
    Some(Retry { attempts, idempotent, ..causes })
}

/// `retry.on`: just these, in place of the default ones.
fn causes(node: &Node, notes: &mut Notes) -> Option<Retry> {
    let mut retry = Retry { connect: false, reset: false, timeout: false, statuses: Vec::new(), ..Retry::default() };
    for item in list(node, notes)? {
        let Some(found) = text(item, notes) else { continue };
        let twice = match (found, status(found)) {
            ("connect", _) => std::mem::replace(&mut retry.connect, true),
            ("reset", _) => std::mem::replace(&mut retry.reset, true),
            ("timeout", _) => std::mem::replace(&mut retry.timeout, true),
            (_, Some(status)) => {
                let twice = retry.statuses.contains(&status);
                retry.statuses.push(status);
                twice
            }
            (_, None) => {
                unknown_cause(found, item, notes);
                false
            }
        };
        if twice {
            notes.fault(item.at, "a cause that is listed twice", "keep one of the two");
        }
    }
    Some(retry)
}

/// A status that says that the call failed.
fn status(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|status| (400..=599).contains(status))
}

fn unknown_cause(found: &str, node: &Node, notes: &mut Notes) {
    let general = "it is one of `connect`, `reset`, `timeout`, or a status from 400 to 599";
    let near = nearest(found, ["connect", "reset", "timeout"]);
    let help = near.map_or(general.to_owned(), |near| format!("did you mean `{near}`?"));
    notes.fault(node.at, format!("unknown cause {}", node.shown()), safe(node, help, general));
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_cause_is_a_failing_status_in_three_digits() {
        for (text, found) in [("400", Some(400)), ("503", Some(503)), ("599", Some(599))] {
            assert_eq!(status(text), found);
        }
        for text in ["399", "600", "0503", "+503", "5xx", "", "50", "５０３"] {
            assert_eq!(status(text), None, "{text}");
        }
    }
}
