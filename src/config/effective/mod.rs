//! Floor 1: what a routing file came to, every default filled in: as JSON in the shape of the file (for the admin
//! interface), and as a table (for `check`: `table`). Secrets are masked wholly, and a value that came from the
//! environment shows as its reference.

mod table;

use serde_json::{Map, Value, json};

pub use table::describe;

use super::Config;
use super::process::{Compress, Process, SinkConfig, WhenFull};
use super::raw::Step;
use super::routing::{
    CallBounds, CanaryRule, Capture, CaptureAnswers, Compare, Credentials, Health, HostRewrite, Match, Model, OnError,
    PathMatch, PathRewrite, Protocol, RedactWhat, Retry, Rewrite, Route, Source, Sticky, Tolerance, ValueAt, Version,
};
use super::scalar::{show_duration, show_size};
use super::secrets::{is_secret_key, masked_query};
use crate::types::{CREDENTIAL_HEADERS, REDACTED};

/// The effective file as JSON.
pub fn masked(config: &Config) -> Value {
    let models: Map<String, Value> =
        config.routing.models.iter().map(|model| (model.name.to_string(), self::model(model))).collect();
    let routes: Vec<Value> = config.routing.routes.iter().map(|route| self::route(route)).collect();
    let mut shown = json!({
        "version": 1,
        "server": server(&config.process),
        "models": models,
        "routes": routes,
        "pairs": pairs(&config.process.sink),
    });
    for (path, written) in &config.substituted.0 {
        put_reference(&mut shown, in_order(path), written);
    }
    shown
}

/// `retry.on` is shown in an order of its own, so a reference in it must stand for the whole list: by its number it could
/// hit a neighbour, and the value would be seen.
fn in_order(path: &[Step]) -> &[Step] {
    match path {
        [list @ .., Step::Element(..)] if list.ends_with(&[Step::Key("retry".into()), Step::Key("on".into())]) => list,
        _ => path,
    }
}

/// Puts the reference where the value stands. Where the value is part of something that is shown otherwise than it was
/// written, that is replaced whole: better too little is shown than a value.
fn put_reference(shown: &mut Value, path: &[Step], written: &str) {
    let mut at = shown;
    for step in path {
        let below = match (step, &*at) {
            (Step::Key(key), Value::Object(map)) => map.contains_key(key),
            (Step::Element(index, length), Value::Array(items)) => items.len() == *length && index < length,
            _ => false,
        };
        let next = match (step, below) {
            (Step::Key(key), true) => at.get_mut(key.as_str()),
            (Step::Element(index, _), true) => at.get_mut(*index),
            _ => {
                *at = Value::String(written.to_owned());
                return;
            }
        };
        // `below` says that there is one.
        let Some(next) = next else { return };
        at = next;
    }
    if at.as_str() != Some(REDACTED) {
        *at = Value::String(written.to_owned());
    }
}

fn server(process: &Process) -> Value {
    let listen: Vec<Value> = process.listen.iter().map(|address| json!(address.to_string())).collect();
    let limits = &process.limits;
    json!({
        "listen": if listen.len() == 1 { listen[0].clone() } else { Value::Array(listen) },
        "admin": process.admin.to_string(),
        "admin_token": process.admin_token.as_ref().map(|_| REDACTED),
        "workers": process.workers,
        "shadow_threads": process.shadow_threads,
        "drain": show_duration(process.drain),
        "drain_delay": show_duration(process.drain_delay),
        "trusted_proxies":
            process.trusted_proxies.iter().map(|cidr| format!("{}/{}", cidr.network, cidr.prefix)).collect::<Vec<_>>(),
        "labels": process.labels,
        "hash_key": process.hash_key.as_ref().map(|_| REDACTED),
        "limits": {
            "connections": limits.connections,
            "header_bytes": show_size(limits.header_bytes as u64),
            "header_timeout": show_duration(limits.header_timeout),
            "idle_timeout": show_duration(limits.idle_timeout),
            "request_bytes": show_size(limits.request_bytes),
            "shadow_bytes": show_size(limits.shadow_bytes as u64),
        },
    })
}

fn pairs(sink: &SinkConfig) -> Value {
    match sink {
        SinkConfig::File(file) => json!({"file": {
            "dir": file.dir,
            "segment": show_size(file.segment),
            "keep": show_size(file.keep),
            "keep_for": show_duration(file.keep_for),
            "compress": match file.compress { Compress::None => "none", Compress::Zstd => "zstd" },
        }}),
        SinkConfig::Kafka(kafka) => {
            let properties: Map<_, _> = kafka.properties.keys().map(|name| (name.clone(), json!(REDACTED))).collect();
            let mut pairs = json!({"kafka": {
                "brokers": kafka.brokers,
                "topic": kafka.topic,
                "key": kafka.key.as_deref().unwrap_or("request_id"),
                "create_topic": kafka.create_topic.map(|create| json!({
                    "partitions": create.partitions,
                    "replication": create.replication,
                    "retention": create.retention.map(show_duration),
                })),
                "properties": properties,
            }});
            if let Some(spool) = &kafka.spool {
                pairs["spool"] = json!({
                    "dir": spool.dir,
                    "max": show_size(spool.max),
                    "commit": show_duration(spool.commit),
                    "when_full": match spool.when_full {
                        WhenFull::DropNewest => "drop_newest",
                        WhenFull::DropOldest => "drop_oldest",
                    },
                });
            }
            pairs
        }
    }
}

fn model(model: &Model) -> Value {
    let timeout = &model.timeout;
    json!({
        "version": match &model.version {
            Version::Unknown => Value::Null,
            Version::Label(label) => json!(label),
            Version::Json(pointer) => json!({"json": pointer.as_str()}),
            Version::Header(name) => json!({"header": name.as_str()}),
        },
        "endpoints": model.endpoints.iter().map(|endpoint| &*endpoint.label).collect::<Vec<_>>(),
        "protocol": match model.protocol { Protocol::Auto => "auto", Protocol::Http1 => "http1", Protocol::H2 => "h2" },
        "timeout": {
            "connect": show_duration(timeout.connect),
            "first_byte": show_duration(timeout.first_byte),
            "idle": show_duration(timeout.idle),
            "total": show_duration(timeout.total),
        },
        "max_connections": model.max_connections,
        "credentials": match model.credentials { Credentials::Pass => "pass", Credentials::Strip => "strip" },
        "health": model.health.as_ref().map(health),
        "rewrite": rewrite(&model.rewrite),
    })
}

fn health(health: &Health) -> Value {
    json!({"path": masked_query(&health.path), "interval": show_duration(health.interval)})
}

/// Only what is rewritten: here nothing is the default of everything.
fn rewrite(rewrite: &Rewrite) -> Value {
    let mut shown = Map::new();
    match &rewrite.path {
        PathRewrite::Keep => {}
        PathRewrite::Exact(path) => drop(shown.insert("path".into(), json!(path))),
        PathRewrite::Prefix(prefix) => drop(shown.insert("path_prefix".into(), json!(rooted(prefix)))),
    }
    match &rewrite.host {
        HostRewrite::Keep => {}
        HostRewrite::Set(host) => drop(shown.insert("host".into(), json!(String::from_utf8_lossy(host.as_bytes())))),
        HostRewrite::Endpoint => drop(shown.insert("host".into(), json!("@endpoint"))),
    }
    if !rewrite.set_headers.is_empty() || !rewrite.remove_headers.is_empty() {
        let set = rewrite.set_headers.iter().map(|(name, value)| {
            let text = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), json!(if value.is_sensitive() { REDACTED } else { &*text }))
        });
        let remove: Vec<&str> = rewrite.remove_headers.iter().map(|name| name.as_str()).collect();
        shown.insert("headers".into(), json!({"set": set.collect::<Map<_, _>>(), "remove": remove}));
    }
    if !rewrite.json.is_empty() {
        let places = rewrite
            .json
            .iter()
            .map(|(place, value)| (place.as_str().to_owned(), without_secrets(place.as_str(), value)));
        shown.insert("json".into(), Value::Object(places.collect()));
    }
    Value::Object(shown)
}

/// What a request's body is given, without the values of keys that name secrets, however deep.
fn without_secrets(key: &str, value: &Value) -> Value {
    match value {
        _ if is_secret_key(key) => json!(REDACTED),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), without_secrets(key, value))).collect(),
        Value::Array(items) => items.iter().map(|item| without_secrets("", item)).collect(),
        plain => plain.clone(),
    }
}

fn route(route: &Route) -> Value {
    let shadow = route.shadow.iter().map(|rule| {
        let mut shown = bounds(&rule.bounds);
        shown.insert("model".into(), json!(rule.model.name.as_str()));
        shown.insert("percent".into(), json!(rule.percent.as_f64()));
        Value::Object(shown)
    });
    let control = route.control.as_ref().map(|rule| {
        let mut shown = bounds(&rule.bounds);
        shown.insert("percent".into(), json!(rule.percent.as_f64()));
        Value::Object(shown)
    });
    let slices = route.slices.iter().map(|(name, slice)| {
        let mut shown = source(&slice.from);
        if !slice.buckets.is_empty() {
            let bounds: Vec<f64> = slice.buckets.iter().map(|bucket| bucket.bound).collect();
            shown.insert("buckets".into(), json!(bounds));
        }
        (name.clone(), Value::Object(shown))
    });
    json!({
        "name": route.name.as_str(),
        "match": matcher(&route.matcher),
        "api": route.api.as_str(),
        "prod": route.prod.name.as_str(),
        "fallback": route.fallback.as_ref().map(|model| model.name.as_str()),
        "shadow": shadow.collect::<Vec<_>>(),
        "control": control,
        "canary": route.canary.as_ref().map(canary),
        "retry": retry(&route.retry),
        "copy_body": show_size(route.copy_body as u64),
        "capture": capture(&route.capture),
        "slices": slices.collect::<Map<_, _>>(),
        "compare": compare(&route.compare),
    })
}

fn bounds(bounds: &CallBounds) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("timeout".into(), json!(bounds.timeout.map(show_duration)));
    shown.insert("max_in_flight".into(), json!(bounds.max_in_flight));
    shown.insert("max_rps".into(), json!(bounds.max_rps));
    shown
}

fn canary(rule: &CanaryRule) -> Value {
    let sticky = rule.sticky.as_ref().map(|sticky| match sticky {
        Sticky::From(from) => Value::Object(source(from)),
        Sticky::ClientIp => json!({"client_ip": true}),
    });
    json!({
        "model": rule.model.name.as_str(),
        "percent": rule.percent.as_f64(),
        "sticky": sticky,
        "timeout": rule.timeout.map(show_duration),
        "pair_percent": rule.pair_percent.as_f64(),
        "on_error": match rule.on_error { OnError::Prod => "prod", OnError::None => "none" },
    })
}

fn retry(retry: &Retry) -> Value {
    let words = [("connect", retry.connect), ("reset", retry.reset), ("timeout", retry.timeout)];
    let words = words.into_iter().filter(|(_, on)| *on).map(|(word, _)| json!(word));
    let on: Vec<Value> = words.chain(retry.statuses.iter().map(|status| json!(status))).collect();
    json!({"attempts": retry.attempts, "on": on, "idempotent": retry.idempotent})
}

fn matcher(matcher: &Match) -> Value {
    let mut shown = Map::new();
    if let Some(host) = &matcher.host {
        shown.insert("host".into(), json!(host));
    }
    match &matcher.path {
        PathMatch::Any => {}
        PathMatch::Exact(path) => drop(shown.insert("path".into(), json!(path))),
        PathMatch::Prefix(prefix) => drop(shown.insert("path_prefix".into(), json!(rooted(prefix)))),
    }
    if !matcher.methods.is_empty() {
        shown.insert("methods".into(), json!(matcher.methods.iter().map(|m| m.as_str()).collect::<Vec<_>>()));
    }
    if !matcher.headers.is_empty() {
        let headers = matcher.headers.iter().map(|(name, value)| {
            let secret = CREDENTIAL_HEADERS.contains(&name.as_str()) || is_secret_key(name.as_str());
            (name.to_string(), json!(if secret { REDACTED } else { value.as_str() }))
        });
        shown.insert("headers".into(), Value::Object(headers.collect()));
    }
    Value::Object(shown)
}

/// A prefix as the file spells it: its root is `/`.
fn rooted(prefix: &str) -> &str {
    if prefix.is_empty() { "/" } else { prefix }
}

fn capture(capture: &Capture) -> Value {
    let redact = capture.redact.iter().map(|redact| {
        let at = match &redact.what {
            RedactWhat::Json(pointer) => pointer.as_str().to_owned(),
            RedactWhat::Query(name) => format!("query:{name}"),
            RedactWhat::Header(name) => format!("header:{name}"),
        };
        if redact.hash { json!({"at": at, "with": "hash"}) } else { json!(at) }
    });
    let keys = capture.keys.iter().map(|(name, key)| {
        let mut shown = source(&key.from);
        shown.insert("hash".into(), json!(key.hash));
        (name.clone(), Value::Object(shown))
    });
    json!({
        "request": if capture.request { "full" } else { "none" },
        "answers": match capture.answers {
            CaptureAnswers::Full => "full",
            CaptureAnswers::Values => "values",
            CaptureAnswers::None => "none",
        },
        "max_body": show_size(capture.max_body as u64),
        "headers": capture.headers.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        "redact": redact.collect::<Vec<_>>(),
        "keys": keys.collect::<Map<_, _>>(),
    })
}

fn source(from: &Source) -> Map<String, Value> {
    let (key, place) = match from {
        Source::Json(pointer) => ("json", pointer.as_str()),
        Source::Header(name) => ("header", name.as_str()),
        Source::Query(name) => ("query", name.as_str()),
        Source::Cookie(name) => ("cookie", name.as_str()),
    };
    Map::from_iter([(key.to_owned(), json!(place))])
}

fn compare(compare: &Compare) -> Value {
    let tolerance = |t: &Tolerance| json!({"absolute": t.absolute, "relative": t.relative});
    let values = compare.values.iter().map(|rule| {
        let at = match &rule.at {
            ValueAt::Same(pointer) => json!(pointer.as_str()),
            ValueAt::ByModel(places) => {
                Value::Object(places.iter().map(|(name, at)| (name.to_string(), json!(at.as_str()))).collect())
            }
        };
        let tolerance = rule.tolerance.as_ref().map(tolerance);
        json!({"name": rule.name, "at": at, "kind": rule.kind.as_str(), "tolerance": tolerance})
    });
    json!({
        "values": values.collect::<Vec<_>>(),
        "tolerance": tolerance(&compare.tolerance),
        "ignore": compare.ignore.iter().map(|pointer| pointer.as_str()).collect::<Vec<_>>(),
    })
}
