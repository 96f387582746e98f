//! Just enough of JSON Schema (2020-12) to hold a record against what `shadowpair schema pair` prints. A word of the
//! schema that is not known here is a failure, so that no part of it goes unheeded. The suites with real parts use a
//! whole validator.

use std::sync::LazyLock;

use serde_json::Value;

static PAIR: LazyLock<Value> = LazyLock::new(shadowpair::config::schema::pair);

/// Holds a record against the schema.
#[track_caller]
pub(crate) fn assert_pair(pair: &Value) {
    let mut faults = Vec::new();
    check(&PAIR, pair, "", &mut faults);
    assert!(faults.is_empty(), "not as `shadowpair schema pair` says: {faults:?}\n{pair}");
}

fn check(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    for (word, rule) in schema.as_object().unwrap_or_else(|| panic!("no schema at {at}: {schema}")) {
        let holds = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let name = rule.as_str().and_then(|path| path.strip_prefix('#')).expect("a place in the schema");
                check(PAIR.pointer(name).expect("a definition"), value, at, faults);
                true
            }
            "anyOf" => rule.as_array().expect("choices").iter().any(|choice| {
                let mut faults = Vec::new();
                check(choice, value, at, &mut faults);
                faults.is_empty()
            }),
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is_of(name, value)),
                name => is_of(name, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().expect("words").contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().expect("a number")),
            "format" => value.as_str().is_none_or(|text| has_format(rule, text)),
            "required" => {
                let missing = |key: &&Value| value.get(key.as_str().expect("a key")).is_none();
                !value.is_object() || !rule.as_array().expect("keys").iter().any(|key| missing(&key))
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, item, &format!("{at}/{index}"), faults);
                }
                true
            }
            "properties" | "additionalProperties" => {
                members(word, rule, schema, value, at, faults);
                true
            }
            unknown => panic!("`{unknown}` of the schema is not understood: teach it to {}", file!()),
        };
        if !holds {
            faults.push(format!("{at} {word} {rule}"));
        }
    }
}

fn members(word: &str, rule: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    for (key, member) in value.as_object().into_iter().flatten() {
        let named = schema.get("properties").and_then(|named| named.get(key));
        let below = match (word, named) {
            ("properties", Some(named)) => named,
            ("additionalProperties", None) => rule,
            _ => continue,
        };
        match below {
            Value::Bool(true) => {}
            Value::Bool(false) => faults.push(format!("{at}/{key} is not in the schema")),
            below => check(below, member, &format!("{at}/{key}"), faults),
        }
    }
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type: {other}"),
    }
}

fn has_format(format: &Value, text: &str) -> bool {
    match format.as_str().expect("a format") {
        "uuid" => {
            let shape =
                |(at, c): (usize, char)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() };
            text.len() == 36 && text.chars().enumerate().all(shape)
        }
        "date-time" => humantime::parse_rfc3339(text).is_ok(),
        other => panic!("no format: {other}"),
    }
}

#[test]
fn what_is_not_as_the_schema_says_is_found() {
    let mut faults = Vec::new();
    check(&PAIR, &serde_json::json!({"schema": "x", "id": "no", "seq": 0, "labels": {"a": 1}}), "", &mut faults);
    let found = faults.join("\n");
    for place in ["/schema const", "/id format", "/seq minimum", "/labels/a type", " required"] {
        assert!(found.contains(place), "{place}: {found}");
    }
}
