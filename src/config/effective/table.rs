//! Floor 1: the effective file as a person reads it. Made from what is masked already, so that it cannot show more.

use comfy_table::{Table, presets};
use serde_json::Value;

use super::{masked, retry};
use crate::config::Config;
use crate::config::routing::Retry;

/// The effective file as a few lines and two tables.
pub fn describe(config: &Config) -> String {
    let shown = masked(config);
    let text = |pointer: &str| shown.pointer(pointer).map(plain).unwrap_or_default();
    let sink = match shown.pointer("/pairs/kafka") {
        Some(_) => {
            let spool = shown.pointer("/pairs/spool/dir").map(plain);
            let spool =
                spool.map_or("no spool".to_owned(), |dir| format!("spool in {dir}, {}", text("/pairs/spool/max")));
            format!("kafka, topic {} at {}; {spool}", text("/pairs/kafka/topic"), text("/pairs/kafka/brokers"))
        }
        None => format!("files in {}", text("/pairs/file/dir")),
    };
    let mut out = format!(
        "listen  {}\nadmin   {}\npairs   {sink}\nconfig  {}\n\n",
        text("/server/listen"),
        text("/server/admin"),
        config.hash
    );
    let routes: Vec<(String, &Value)> = shown["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(1..)
        .map(|(route, number): (_, usize)| (number.to_string(), route))
        .collect();
    let models: Vec<(String, &Value)> =
        shown["models"].as_object().into_iter().flatten().map(|(name, model)| (one_line(name), model)).collect();
    let (routes, models) = (table(ROUTES, &routes), table(MODELS, &models));
    // The table pads its last column; trailing blanks help nobody.
    for line in format!("{routes}\n\n{models}").lines() {
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// One thing of every row.
struct Column {
    head: &'static str,
    /// Whether a row is a reason to show it: most files use few of the things that there are.
    wanted: fn(&Value) -> bool,
    cell: fn(&Value) -> String,
}

impl Column {
    const fn usual(head: &'static str, cell: fn(&Value) -> String) -> Self {
        Self { head, wanted: |_| true, cell }
    }

    const fn rare(head: &'static str, wanted: fn(&Value) -> bool, cell: fn(&Value) -> String) -> Self {
        Self { head, wanted, cell }
    }
}

/// Behind a route's number.
const ROUTES: (&str, &[Column]) = (
    "",
    &[
        Column::usual("route", |route| one_line(&plain(&route["name"]))),
        Column::usual("match", |route| match_line(&route["match"])),
        Column::usual("prod", |route| one_line(&plain(&route["prod"]))),
        Column::rare("fallback", |route| !route["fallback"].is_null(), |route| or_none(&route["fallback"], plain)),
        Column::rare("retry", |route| route["retry"] != retry(&Retry::default()), |route| retry_line(&route["retry"])),
        Column::usual("shadow", |route| lines(&route["shadow"], call_line)),
        Column::usual("control", |route| or_none(&route["control"], call_line)),
        Column::rare("canary", |route| !route["canary"].is_null(), |route| or_none(&route["canary"], canary_line)),
        Column::usual("compares", |route| {
            lines(&route["compare"]["values"], |value| format!("{} ({})", plain(&value["name"]), plain(&value["kind"])))
        }),
    ],
);

/// Behind a model's name.
const MODELS: (&str, &[Column]) = (
    "model",
    &[
        Column::usual("endpoints", |model| lines(&model["endpoints"], plain)),
        Column::usual("version", |model| or_none(&model["version"], plain)),
        Column::usual("protocol", |model| plain(&model["protocol"])),
        Column::rare("health", |model| !model["health"].is_null(), |model| or_none(&model["health"], health_line)),
    ],
);

/// What stands where there is nothing.
const NOTHING: &str = "-";

fn table((first, columns): (&str, &[Column]), rows: &[(String, &Value)]) -> Table {
    let mut heads = vec![first];
    let mut lines: Vec<Vec<String>> = rows.iter().map(|(label, _)| vec![label.clone()]).collect();
    for column in columns {
        if rows.iter().any(|(_, row)| (column.wanted)(row)) {
            heads.push(column.head);
            lines.iter_mut().zip(rows).for_each(|(line, (_, row))| line.push((column.cell)(row)));
        }
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heads).add_rows(lines);
    table
}

/// `POST models.example.com /v2/* x-tenant: acme`; `any` where nothing is asked for.
fn match_line(matcher: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(matcher.get("methods").map(|methods| plain(methods).replace(", ", "|")));
    words.extend(matcher.get("host").map(plain));
    words.extend(matcher.get("path").map(plain));
    words.extend(matcher.get("path_prefix").map(|prefix| format!("{}/*", plain(prefix).trim_end_matches('/'))));
    for (name, value) in matcher.get("headers").and_then(Value::as_object).into_iter().flatten() {
        words.push(format!("{name}: {}", plain(value)));
    }
    if words.is_empty() { "any".to_owned() } else { one_line(&words.join(" ")) }
}

/// `fraud-v2 100 %`, with the bounds that are not the usual ones to be read in the file.
fn call_line(call: &Value) -> String {
    let mut line = String::new();
    if let Some(model) = call.get("model") {
        line = format!("{} ", plain(model));
    }
    line.push_str(&format!("{} %, {} at once", plain(&call["percent"]), plain(&call["max_in_flight"])));
    if !call["timeout"].is_null() {
        line.push_str(&format!(", {}", plain(&call["timeout"])));
    }
    if call["max_rps"] != 0 {
        line.push_str(&format!(", {}/s", plain(&call["max_rps"])));
    }
    line
}

/// `fraud-v2 5 % by header x-user-id, on error prod`.
fn canary_line(canary: &Value) -> String {
    let mut line = format!("{} {} % by {}", plain(&canary["model"]), plain(&canary["percent"]), key(&canary["sticky"]));
    if !canary["timeout"].is_null() {
        line.push_str(&format!(", first byte {}", plain(&canary["timeout"])));
    }
    if canary["pair_percent"] != 100.0 {
        line.push_str(&format!(", {} % paired", plain(&canary["pair_percent"])));
    }
    line + ", on error " + &plain(&canary["on_error"])
}

/// What decides a request's arm.
fn key(sticky: &Value) -> String {
    match sticky.as_object().and_then(|sticky| sticky.iter().next()) {
        Some((key, Value::String(place))) if key != "client_ip" => format!("{key} {place}"),
        Some((key, _)) => key.clone(),
        None => "chance".to_owned(),
    }
}

/// `connect, reset, 503`, and whether this goes for every method.
fn retry_line(retry: &Value) -> String {
    if retry["attempts"] == 0 {
        return "off".to_owned();
    }
    let on = match plain(&retry["on"]) {
        nothing if nothing.is_empty() => "only what was not read".to_owned(),
        on => on,
    };
    if retry["idempotent"] == true { format!("{on}, any method") } else { on }
}

/// `/v2/health/ready every 5s`.
fn health_line(health: &Value) -> String {
    format!("{} every {}", plain(&health["path"]), plain(&health["interval"]))
}

fn lines(items: &Value, line: impl Fn(&Value) -> String) -> String {
    let lines: Vec<String> = items.as_array().into_iter().flatten().map(|item| one_line(&line(item))).collect();
    if lines.is_empty() { NOTHING.to_owned() } else { lines.join("\n") }
}

fn or_none(item: &Value, line: impl Fn(&Value) -> String) -> String {
    if item.is_null() { NOTHING.to_owned() } else { one_line(&line(item)) }
}

/// A value as text: without quotes, whole numbers without a fraction.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

/// Names are free to hold anything, the table is not.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
