//! Floor 1: what YAML holds as JSON: the values that `rewrite.json` sets.

use serde_json::{Map, Number, Value};

use super::super::fault::Notes;
use super::super::raw::{Kind, Node, Scalar};

/// By YAML 1.2's core schema: quoted is text; plain is null, truth value or number where it looks like one, else text.
pub(super) fn json_value(node: &Node, notes: &mut Notes) -> Option<Value> {
    match &node.kind {
        Kind::List(items) => items.iter().map(|item| json_value(item, notes)).collect::<Option<_>>().map(Value::Array),
        Kind::Mapping(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key.clone(), json_value(&entry.value, notes)?);
            }
            Some(Value::Object(map))
        }
        Kind::Unresolved => None,
        Kind::Scalar(_) if node.is_null() => Some(Value::Null),
        Kind::Scalar(Scalar { text, plain: false, .. }) => Some(Value::String(text.clone())),
        Kind::Scalar(Scalar { text, .. }) => match plain(text) {
            Ok(value) => Some(value),
            Err(help) => {
                notes.fault(node.at, format!("{} can be read as several values", node.shown()), help);
                None
            }
        },
    }
}

fn plain(text: &str) -> Result<Value, &'static str> {
    match text {
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let unsigned = text.trim_start_matches(['-', '+']);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(Value::String(text.to_owned()));
    }
    // YAML's spellings of what is no number of JSON's.
    if [".nan", ".inf"].iter().any(|odd| unsigned.eq_ignore_ascii_case(odd)) {
        return Err("quote it for a text; JSON has no such number");
    }
    let digits = unsigned.bytes().all(|b| b.is_ascii_digit());
    if digits && unsigned.len() > 1 && unsigned.starts_with('0') {
        return Err("quote it for a text; a number has no leading zeros");
    }
    // JSON's own grammar for numbers, so that what is written comes out as it was meant; large ones only as far as they
    // are exact.
    if digits {
        let number = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
        return number.map(Value::Number).map_err(|_| "quote it for a text; a whole number has at most 64 bits");
    }
    let exact = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(number) if exact => match Number::from_f64(number) {
            Some(number) => Ok(Value::Number(number)),
            None => Err("quote it for a text; JSON has no such number"),
        },
        _ => Ok(Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::plain;
    use serde_json::json;

    #[test]
    fn plain_scalars_are_what_they_look_like() {
        assert_eq!(plain("true"), Ok(json!(true)));
        assert_eq!(plain("no"), Ok(json!("no")));
        assert_eq!(plain("-5"), Ok(json!(-5)));
        assert_eq!(plain("18446744073709551615"), Ok(json!(u64::MAX)));
        assert_eq!(plain("1.50"), Ok(json!(1.5)));
        assert_eq!(plain("1.2.3"), Ok(json!("1.2.3")));
        assert_eq!(plain("2024-11-03"), Ok(json!("2024-11-03")));
        assert_eq!(plain("10MiB"), Ok(json!("10MiB")));
        assert!(plain("0123").is_err());
        assert!(plain("99999999999999999999").is_err());
        assert!(plain("1e999").is_err());
        assert!([".nan", ".NaN", ".Inf", "-.inf", "+.INF"].iter().all(|odd| plain(odd).is_err()));
    }
}
