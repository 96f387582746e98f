//! Floor 1: the `routes` block: matches, and who is asked. What is recorded and compared is in `capture` and `compare`.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::fault::Notes;
use super::super::keys;
use super::super::raw::{Kind, Node};
use super::super::routing::{Match, Model, PathMatch, Route};
use super::super::secrets::is_secret_key;
use super::compare::Asked;
use super::field::{header_key, method, path, prefix};
use super::{
    Fields, Known, called, canary, capture, compare, entries, later, list, name, retry, safe, shadow, size, text, word,
};
use crate::types::{Api, RouteName};

/// `copy_body` where it is not written.
const COPY_BODY: usize = 4 << 20;

/// Every route that is whole.
pub(super) fn read(node: &Node, known: &Known, notes: &mut Notes) -> Vec<Arc<Route>> {
    let items = list(node, notes).unwrap_or_default();
    if items.is_empty() && matches!(node.kind, Kind::List(_)) {
        notes.fault(
            node.at,
            "`routes` names no route",
            "write at least one: `- {name: NAME, match: {path_prefix: /}, prod: MODEL}`",
        );
    }
    let mut routes: Vec<(Arc<Route>, &Node)> = Vec::with_capacity(items.len());
    let mut names: HashSet<RouteName> = HashSet::with_capacity(items.len());
    for item in items {
        let Some(route) = route(item, known, notes) else { continue };
        // A route without a name was told so already.
        if !route.name.as_str().is_empty() && !names.insert(route.name.clone()) {
            let message = format!("two routes are named {}", called(item, "name"));
            notes.fault(item.at, message, "give each a name of its own: metrics and pairs tell them apart by it");
        }
        routes.push((Arc::new(route), item));
    }
    // What a faulty match was to mean is not known.
    if !notes.refused() {
        warn_of_hidden(&routes, notes);
    }
    routes.into_iter().map(|(route, _)| route).collect()
}

fn route(node: &Node, known: &Known, notes: &mut Notes) -> Option<Route> {
    let fields = Fields::open(node, &keys::ROUTE, notes)?;
    let route_name = fields.required("name", notes).and_then(|node| name(node, notes));
    let matcher = fields.read("match", notes, matcher).unwrap_or_default();
    let prod = fields.required("prod", notes).and_then(|node| known.models.named(node, notes));
    if let (Some(prod), Some(node)) = (&prod, fields.get("prod")) {
        check_prod(prod, &matcher, node, notes);
    }
    let fallback = fields.read("fallback", notes, |n, s| retry::fallback(n, known, prod.as_deref(), &matcher, s));
    let canary = fields.read("canary", notes, |n, s| canary::read(n, known, prod.as_deref(), &matcher, s));
    if let Some(node) = fields.get("upgrade") {
        later::upgrade(node, fields.key_at("upgrade"), notes);
    }
    let shadow =
        fields.read("shadow", notes, |node, notes| shadow::list_of(node, known, prod.as_deref(), &matcher, notes));
    let shadow = shadow.unwrap_or_default();
    let control = fields.read("control", notes, shadow::control);
    let asked = Asked::of(prod.as_deref(), &shadow, canary.as_ref(), fallback.as_deref());
    let compare =
        fields.read("compare", notes, |node, notes| compare::read(node, &asked, known, notes)).unwrap_or_default();
    let capture = fields.read("capture", notes, |node, notes| capture::read(node, known.hash_key, notes));
    let capture = capture.unwrap_or_else(capture::nothing);
    let slices =
        fields.read("slices", notes, |node, notes| capture::slices(node, &capture.redact, notes)).unwrap_or_default();
    Some(Route {
        name: RouteName::new(route_name.unwrap_or_default()),
        matcher,
        api: fields.read("api", notes, api).unwrap_or(Api::Auto),
        prod: prod?,
        shadow,
        control,
        canary,
        fallback,
        retry: fields.read("retry", notes, retry::read).unwrap_or_default(),
        copy_body: fields.read("copy_body", notes, size).unwrap_or(COPY_BODY),
        capture,
        slices,
        compare,
    })
}

fn api(node: &Node, notes: &mut Notes) -> Option<Api> {
    let words: Vec<(&str, Api)> = Api::ALL.iter().map(|api| (api.as_str(), *api)).collect();
    word(node, notes, &words)
}

/// What holds for a model that answers the client.
fn check_prod(prod: &Model, matcher: &Match, node: &Node, notes: &mut Notes) {
    shadow::check_prefix(prod, matcher, node.at, notes);
    if !prod.rewrite.json.is_empty() {
        let message = "the prod model has `rewrite.json`: request bodies are gathered before prod is asked";
        notes.warn(node.at, message, "bodies up to `copy_body` are held, larger ones are answered with 413");
    }
}

fn matcher(node: &Node, notes: &mut Notes) -> Option<Match> {
    let fields = Fields::open(node, &keys::MATCH, notes)?;
    let path = match fields.one_of(&["path", "path_prefix"], notes) {
        Some(("path", node)) => {
            let path = path(node, notes);
            if path.is_some_and(|path| path.ends_with("/*")) {
                notes.warn(node.at, "a `*` in `path` stands for itself", "write `path_prefix` for all that lies below");
            }
            path.map(|path| PathMatch::Exact(path.to_owned()))
        }
        Some((_, node)) => prefix(node, notes).map(PathMatch::Prefix),
        None => None,
    };
    let methods = fields.read("methods", notes, list).unwrap_or_default();
    Some(Match {
        host: fields.read("host", notes, host),
        path: path.unwrap_or_default(),
        methods: methods.iter().filter_map(|node| method(node, notes)).collect(),
        headers: fields.read("headers", notes, headers).unwrap_or_default(),
    })
}

/// As requests are matched: lower case, no port, no trailing dot.
fn host(node: &Node, notes: &mut Notes) -> Option<String> {
    let written = text(node, notes)?;
    let end = written.rfind(']').map_or(0, |at| at + 1);
    let name = written.get(end..).and_then(|tail| tail.rfind(':')).map_or(written, |colon| &written[..end + colon]);
    let name = name.strip_suffix('.').unwrap_or(name);
    if super::models::is_host(name) {
        return Some(name.to_ascii_lowercase());
    }
    let help = match written {
        "*" => "leave `host` out to match any",
        _ if written.contains('*') => "hosts are matched whole, there are no wildcards: one route for each",
        _ if written.contains("://") => "write the host alone, as in `models.example.com`",
        _ => "write a host as in `models.example.com`",
    };
    notes.fault(
        node.at,
        format!("{} is no host", node.shown()),
        safe(node, help.to_owned(), "write a host as in `models.example.com`"),
    );
    None
}

fn headers(node: &Node, notes: &mut Notes) -> Option<Vec<(http::HeaderName, String)>> {
    let mut headers: Vec<(http::HeaderName, String)> = Vec::new();
    for entry in entries(node, "`match.headers`", notes)? {
        let Some(name) = header_key(entry, notes) else { continue };
        if name == http::header::HOST {
            notes.fault(entry.key_at, "`host` among the fields", "use `match.host`, which knows about ports and case");
        }
        if name.as_str().starts_with("x-shadowpair-") {
            notes.fault(entry.key_at, "a client's `x-shadowpair-*` fields are stripped", "match on another field");
        }
        if headers.iter().any(|(other, _)| *other == name) {
            notes.fault(
                entry.key_at,
                format!("`{name}` is named twice"),
                "keep one of the two: names of fields have no case",
            );
        }
        let secret = super::field::is_credential(&name) || is_secret_key(name.as_str());
        let value = super::field::header_value(&entry.value, secret, notes);
        headers.extend(value.and(text(&entry.value, notes)).map(|value| (name, value.to_owned())));
    }
    Some(headers)
}

/// A route whose every request an earlier one takes is most likely in the wrong place.
fn warn_of_hidden(routes: &[(Arc<Route>, &Node)], notes: &mut Notes) {
    for (index, (route, node)) in routes.iter().enumerate() {
        let hiding = routes[..index].iter().find(|(earlier, _)| hides(&earlier.matcher, &route.matcher));
        if let Some((_, earlier)) = hiding {
            let (hidden, by) = (called(node, "name"), called(earlier, "name"));
            let message = format!("route {hidden} never matches: the earlier route {by} takes all of its requests");
            notes.warn(node.at, message, format!("the first match wins: move {hidden} before {by}, or narrow {by}"));
        }
    }
}

/// Whether everything that `later` matches is matched by `earlier`.
fn hides(earlier: &Match, later: &Match) -> bool {
    let path = match (&earlier.path, &later.path) {
        (PathMatch::Any, _) => true,
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a == b,
        (PathMatch::Prefix(a), PathMatch::Exact(b) | PathMatch::Prefix(b)) => {
            b.strip_prefix(a.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        // Every path but that of `OPTIONS *`.
        (PathMatch::Prefix(a), PathMatch::Any) => a.is_empty(),
        (PathMatch::Exact(_), _) => false,
    };
    path && (earlier.host.is_none() || earlier.host == later.host)
        && (earlier.methods.is_empty()
            || !later.methods.is_empty() && later.methods.iter().all(|method| earlier.methods.contains(method)))
        && earlier.headers.iter().all(|field| later.headers.contains(field))
}
