//! Floor 1: JSON Schemas (2020-12) of the two formats that other programs write or read: the routing file, for editors,
//! and the pair record, for consumers. They are written by hand, because their prose is what makes them useful; tests
//! hold them against what the code reads and writes.

use serde_json::{Value, json};

/// Of the routing file.
pub fn routing() -> Value {
    let mut schema = parse(include_str!("schema/routing.json"));
    let blocks = schema.get_mut("$defs").and_then(Value::as_object_mut);
    blocks.into_iter().flat_map(|blocks| blocks.values_mut()).for_each(let_options_stand_empty);
    let_options_stand_empty(&mut schema);
    schema
}

/// `control:` with nothing behind it is null to YAML, and to the readers as if the key was not there. Said here once, not
/// at every key of the file.
fn let_options_stand_empty(block: &mut Value) {
    let required = block.get("required").cloned().unwrap_or_default();
    let is_required = |key: &str| required.as_array().is_some_and(|keys| keys.iter().any(|required| required == key));
    let Some(properties) = block.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (_, property) in properties.iter_mut().filter(|(key, _)| !is_required(key)) {
        let Some(property) = property.as_object_mut() else { continue };
        match property.get_mut("anyOf").and_then(Value::as_array_mut) {
            Some(choices) => choices.push(json!({"type": "null"})),
            None => {
                // What describes the key stays with it; what its value must be becomes one of two choices.
                let (prose, value) = std::mem::take(property).into_iter().partition(|(word, _)| is_prose(word));
                *property = prose;
                property.insert("anyOf".to_owned(), json!([Value::Object(value), {"type": "null"}]));
            }
        }
    }
}

fn is_prose(word: &str) -> bool {
    matches!(word, "description" | "default")
}

/// Of the pair record.
pub fn pair() -> Value {
    parse(include_str!("schema/pair.json"))
}

/// The files are part of the program; that they are JSON is tested.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::{Value, json};

    use super::super::keys::{BLOCKS, FILE};
    use crate::record::{AnsweredBy, Body, Comparison, Leg, Pair, Request, SCHEMA, Tally, Value as PairValue};
    use crate::types::{Api, Outcome, PairResult, Role, ValueKind, ValueResult};

    fn keys(object: &Value) -> BTreeSet<&str> {
        object.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    /// The words of an `enum`, also where a reference to the environment may stand in its place.
    fn words<'s>(schema: &'s Value, pointer: &str) -> Vec<&'s str> {
        let found = schema.pointer(pointer).unwrap();
        let list = found.get("enum").or_else(|| found.pointer("/anyOf/0/enum")).expect("an enum");
        list.as_array().unwrap().iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn the_routing_schema_knows_just_the_keys_that_the_readers_know() {
        let schema = super::routing();
        let mut described: BTreeSet<&str> = keys(&schema["$defs"]);
        for block in BLOCKS {
            let definition = if **block == FILE { &schema } else { &schema["$defs"][block.schema] };
            assert_eq!(keys(&definition["properties"]), block.keys.iter().copied().collect(), "{}", block.schema);
            assert_eq!(definition["additionalProperties"], json!(false), "{}", block.schema);
            described.remove(block.schema);
        }
        // What is left are scalars.
        described.retain(|name| schema["$defs"][*name].get("properties").is_some());
        assert_eq!(described, BTreeSet::new());
    }

    #[test]
    fn what_is_optional_may_stand_empty_and_what_is_required_may_not() {
        let schema = super::routing();
        let nothing = json!({"type": "null"});
        let choices = |pointer: &str| schema.pointer(pointer).unwrap()["anyOf"].as_array().cloned().unwrap_or_default();
        for optional in ["/properties/pairs", "/$defs/route/properties/control", "/$defs/server/properties/labels"] {
            assert_eq!(choices(optional).last(), Some(&nothing), "{optional}");
        }
        let described = &schema["$defs"]["server"]["properties"]["labels"];
        assert_eq!(described["description"], "Carried into every record.");
        for required in ["/properties/routes", "/$defs/route/properties/prod", "/$defs/model/properties/endpoints"] {
            assert!(!choices(required).contains(&nothing), "{required}");
        }
    }

    #[test]
    fn every_reference_inside_a_schema_leads_somewhere() {
        fn walk(schema: &Value, at: &Value) {
            if let Some(target) = at.get("$ref").and_then(Value::as_str) {
                assert!(schema.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            let below: Vec<&Value> = match at {
                Value::Object(map) => map.values().collect(),
                Value::Array(items) => items.iter().collect(),
                _ => Vec::new(),
            };
            below.into_iter().for_each(|below| walk(schema, below));
        }
        for schema in [super::routing(), super::pair()] {
            walk(&schema, &schema);
        }
    }

    #[test]
    fn the_schemas_list_the_words_of_the_code() {
        let (routing, pair) = (super::routing(), super::pair());
        let all = |words: &[&'static str]| words.to_vec();
        macro_rules! spelt {
            ($words:ty) => {
                all(&<$words>::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>())
            };
        }
        assert_eq!(words(&routing, "/$defs/route/properties/api"), spelt!(Api));
        assert_eq!(words(&routing, "/$defs/value/properties/kind"), spelt!(ValueKind));
        assert_eq!(words(&pair, "/$defs/value/properties/kind"), spelt!(ValueKind));
        assert_eq!(words(&pair, "/$defs/value/properties/result"), spelt!(ValueResult));
        assert_eq!(words(&pair, "/$defs/leg/properties/role"), spelt!(Role));
        assert_eq!(words(&pair, "/$defs/leg/properties/outcome"), spelt!(Outcome));
        assert_eq!(words(&pair, "/properties/result"), spelt!(PairResult));
        assert_eq!(pair["properties"]["schema"]["const"], SCHEMA);
    }

    #[test]
    fn the_pair_schema_has_just_the_columns_of_the_record() {
        let schema = super::pair();
        let record = serde_json::to_value(a_pair()).unwrap();
        let columns = |definition: &str, value: &Value| {
            let definition = schema.pointer(definition).unwrap();
            assert_eq!(keys(&definition["properties"]), keys(value), "{definition}");
            let required = definition["required"].as_array().unwrap();
            assert_eq!(required.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(), keys(value));
        };
        columns("", &record);
        columns("/$defs/answeredBy", &record["answered_by"]);
        columns("/$defs/tally", &record["tally"]);
        columns("/$defs/request", &record["request"]);
        columns("/$defs/leg", &record["prod"]);
        columns("/$defs/body", &record["prod"]["body"]);
        columns("/$defs/comparison", &record["comparison"]);
        columns("/$defs/value", &record["comparison"]["values"][0]);
    }

    fn a_leg() -> Leg {
        Leg {
            model: String::new(),
            version: None,
            role: String::new(),
            endpoint: None,
            reused: None,
            outcome: String::new(),
            status: None,
            grpc_status: None,
            start_us: None,
            sent_us: None,
            first_byte_us: None,
            total_us: None,
            lag_us: 0,
            content_type: None,
            headers: BTreeMap::new(),
            bytes: 0,
            body: Body::none("empty"),
        }
    }

    fn a_pair() -> Pair {
        let value = PairValue {
            name: String::new(),
            kind: String::new(),
            result: String::new(),
            prod: None,
            candidate: None,
            delta: None,
            prod_text: None,
            candidate_text: None,
        };
        Pair {
            schema: SCHEMA.into(),
            id: String::new(),
            producer: String::new(),
            seq: 1,
            labels: BTreeMap::new(),
            request_id: String::new(),
            traceparent: None,
            time: String::new(),
            route: String::new(),
            config: String::new(),
            arm: String::new(),
            answered_by: AnsweredBy { model: None, version: None, role: String::new(), status: 200 },
            bucket: None,
            keys: BTreeMap::new(),
            slices: BTreeMap::new(),
            sample_percent: 0.0,
            tally: Tally::default(),
            protocol: String::new(),
            request: Request {
                method: String::new(),
                path: String::new(),
                query: None,
                headers: BTreeMap::new(),
                content_type: None,
                bytes: 0,
                body: Body::none("empty"),
            },
            prod: a_leg(),
            candidate: a_leg(),
            result: String::new(),
            comparison: Some(Comparison {
                equal: true,
                within_tolerance: true,
                values: vec![value],
                differs_at: Vec::new(),
                differs_at_truncated: false,
            }),
            comparison_error: None,
        }
    }
}
