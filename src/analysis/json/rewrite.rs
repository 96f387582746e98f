//! Floor 2: a body with some places set anew and every other byte as it was sent: numbers that no `f64` holds,
//! escapes, white space and the order of keys survive, because only the places that change are printed.

use std::ops::Range;

use serde_json::Value as Json;

use super::{Doc, MAX_DEPTH, ParseError, Value, View};
use crate::types::{Pointer, Step};

/// Why a rewrite cannot be applied to a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The body is not JSON, or cannot be read as such.
    #[error("the body {0}")]
    NotJson(#[from] ParseError),
    /// A key cannot be added to an array, nor an element that is not there.
    #[error("`{pointer}` cannot be set: an array stands where the key `{key}` is meant, or it has no such element")]
    Array {
        /// The place that was to be set.
        pointer: String,
        /// The step at which it failed.
        key: String,
    },
    /// A key cannot be added to a string, a number, `true`, `false` or `null`.
    #[error("`{pointer}` cannot be set: a plain value stands where an object with the key `{key}` is meant")]
    Scalar {
        /// The place that was to be set.
        pointer: String,
        /// The step at which it failed.
        key: String,
    },
}

/// The body with each place set to its value, one after the other. A key that is missing is added at the end of its
/// object, with the objects in between where these are missing, too; a key that stands twice is set twice; `*` sets
/// every key or element that is there. All other bytes stay as they are.
pub fn rewrite(body: &[u8], edits: &[(Pointer, Json)]) -> Result<Vec<u8>, RewriteError> {
    let mut current = body.to_vec();
    for (pointer, value) in edits {
        let doc = Doc::parse(&current)?;
        let mut edit = Edit { pointer, value: value.to_string(), splices: Vec::new() };
        edit.set(doc.root(), pointer.steps())?;
        current = splice(doc.text(), edit.splices).into_bytes();
    }
    Ok(current)
}

/// The text with each range replaced. Of two ranges that overlap the one that begins first counts, and of two that
/// begin at one place the longer.
pub fn splice(text: &str, mut splices: Vec<(Range<usize>, String)>) -> String {
    splices.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    let added: usize = splices.iter().map(|(_, new)| new.len()).sum();
    let mut spliced = String::with_capacity(text.len() + added);
    let mut done = 0;
    for (range, new) in splices {
        if range.start >= done {
            spliced.push_str(&text[done..range.start]);
            spliced.push_str(&new);
            done = range.end;
        }
    }
    spliced.push_str(&text[done..]);
    spliced
}

struct Edit<'e> {
    pointer: &'e Pointer,
    /// What is set, printed.
    value: String,
    splices: Vec<(Range<usize>, String)>,
}

impl Edit<'_> {
    fn set(&mut self, at: Value, steps: &[Step]) -> Result<(), RewriteError> {
        let Some((step, rest)) = steps.split_first() else {
            self.splices.push((at.span(), self.value.clone()));
            return Ok(());
        };
        let mut children = Vec::new();
        at.places(std::slice::from_ref(step), &mut |child| children.push(child));
        if let (true, Step::Key(key)) = (children.is_empty(), step) {
            return self.add(at, key, rest);
        }
        children.into_iter().try_for_each(|child| self.set(child, rest))
    }

    fn add(&mut self, parent: Value, key: &str, rest: &[Step]) -> Result<(), RewriteError> {
        let (pointer, missing) = (self.pointer.as_str().to_string(), key.to_string());
        match parent.view() {
            View::Object => {}
            View::Array => return Err(RewriteError::Array { pointer, key: missing }),
            _ => return Err(RewriteError::Scalar { pointer, key: missing }),
        }
        let Some(member) = member(key, rest, &self.value) else { return Ok(()) };
        let (place, member) = match parent.members().last() {
            Some((_, last)) => (last.span().end, format!(",{member}")),
            None => (parent.span().start + 1, member),
        };
        self.splices.push((place..place, member));
        Ok(())
    }
}

/// `"key":value`, with objects in between for the rest of the way. None where a `*` has nothing to stand for, or
/// where the way is deeper than anything that could be read again.
fn member(key: &str, rest: &[Step], value: &str) -> Option<String> {
    if rest.len() >= MAX_DEPTH {
        return None;
    }
    let mut member = format!("{}:", Json::from(key));
    for step in rest {
        let Step::Key(key) = step else { return None };
        member.push_str(&format!("{{{}:", Json::from(&**key)));
    }
    member.push_str(value);
    member.extend(std::iter::repeat_n('}', rest.len()));
    Some(member)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn edits(list: &[(&str, Json)]) -> Vec<(Pointer, Json)> {
        list.iter().map(|(pointer, value)| (Pointer::parse(pointer).unwrap(), value.clone())).collect()
    }

    fn rewritten(body: &str, list: &[(&str, Json)]) -> Result<String, RewriteError> {
        rewrite(body.as_bytes(), &edits(list)).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn other_tokens_and_white_space_stay_byte_for_byte() {
        let body =
            "{ \"n\" : 6000000000000002181,\r\n  \"e\":1E400, \"s\":\"\\u003c\\/\", \"model\" : \"m\" , \"f\": 1.0 }\n";
        let new = rewritten(body, &[("/model", json!("a-much-longer-name"))]).unwrap();
        assert_eq!(new, body.replace("\"m\"", "\"a-much-longer-name\""));
    }

    #[test]
    fn what_is_missing_is_added_with_its_parents() {
        let list = [("/model", json!("x")), ("/a~1b", json!(1)), ("/list/0/x", json!(2))];
        assert_eq!(rewritten("{}", &list).unwrap(), r#"{"model":"x","a/b":1,"list":{"0":{"x":2}}}"#);
        assert_eq!(rewritten("{ }", &list[..1]).unwrap(), r#"{"model":"x" }"#);
        let body = r#"{"list": [ {"y": 1} ] }"#;
        assert_eq!(rewritten(body, &list[2..]).unwrap(), r#"{"list": [ {"y": 1,"x":2} ] }"#);
        assert_eq!(rewritten("{}", &[("/a\"b", json!({"c": [null]}))]).unwrap(), r#"{"a\"b":{"c":[null]}}"#);
    }

    #[test]
    fn a_wildcard_sets_all_and_a_key_that_stands_twice_is_set_twice() {
        assert_eq!(rewritten("[1, [2],3]", &[("/*", json!(0))]).unwrap(), "[0, 0,0]");
        assert_eq!(rewritten(r#"{"i":[{},{"p":1}]}"#, &[("/i/*/p", json!(2))]).unwrap(), r#"{"i":[{"p":2},{"p":2}]}"#);
        assert_eq!(rewritten(r#"{"i":[]}"#, &[("/i/*/p", json!(2))]).unwrap(), r#"{"i":[]}"#);
        assert_eq!(rewritten(r#"{"m":1,"\u006d":2}"#, &[("/m", json!(3))]).unwrap(), r#"{"m":3,"\u006d":3}"#);
        assert_eq!(rewritten(" 1 ", &[("", json!({"a": 1}))]).unwrap(), " {\"a\":1} ");
    }

    #[test]
    fn later_edits_see_earlier_ones() {
        let list = [("/a", json!({})), ("/a/b", json!(1)), ("/a/c", json!(2)), ("/a/b", json!(3))];
        assert_eq!(rewritten("{}", &list).unwrap(), r#"{"a":{"b":3,"c":2}}"#);
    }

    #[test]
    fn what_cannot_be_rewritten_says_why() {
        let message = |body: &[u8], at: &str| rewrite(body, &edits(&[(at, json!(1))])).unwrap_err().to_string();
        assert_eq!(message(b"x=1", "/model"), "the body is not JSON: byte 0 is out of place");
        assert_eq!(message(b"", "/model"), "the body is not JSON: byte 0 is out of place");
        let records = include_bytes!("../../../tests/fixtures/payloads/mlflow/records-top-level.request.json");
        let array = "`/model` cannot be set: an array stands where the key `model` is meant, or it has no such element";
        assert_eq!(message(records, "/model"), array);
        assert!(message(b"{\"list\":[]}", "/list/0/x").contains("the key `0`"));
        assert!(message(b"{\"list\":[]}", "/list/-").contains("the key `-`"));
        let scalar = "`/a/b` cannot be set: a plain value stands where an object with the key `b` is meant";
        assert_eq!(message(b"{\"a\":null}", "/a/b"), scalar);
    }

    proptest! {
        #[test]
        fn setting_a_key_changes_nothing_else(keys in proptest::collection::btree_map("[a-z]{1,3}", any::<i32>(), 0..6), at in "[a-z]{1,3}") {
            let body = serde_json::to_vec_pretty(&keys).unwrap();
            let new = rewrite(&body, &edits(&[(&format!("/{at}"), json!("new"))])).unwrap();
            let mut expected: Json = serde_json::from_slice(&body).unwrap();
            expected[&at] = json!("new");
            prop_assert_eq!(serde_json::from_slice::<Json>(&new).unwrap(), expected);
            // And back: with the old value in its place the bytes are the old ones.
            if let Some(old) = keys.get(&at) {
                prop_assert_eq!(rewrite(&new, &edits(&[(&format!("/{at}"), json!(old))])).unwrap(), body);
            }
        }
    }
}
