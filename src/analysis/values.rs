//! Floor 2: `compare.values`: the places that decide. Each is read on both sides by its kind; what cannot be read so
//! is `uncompared`, which is neither equal nor different.

use super::json::number::{Number, Relation, delta, relate};
use super::json::{Found, Name, Value, View};
use super::walk::{Sign, Walk, relation};
use crate::config::routing::{Tolerance, ValueRule};
use crate::record;
use crate::types::{Pointer, Step, ValueKind, ValueResult};

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

/// What servers whose JSON knows no such numbers write in their place (protobuf's JSON mapping does).
const NUMBERS_AS_TEXT: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// How a value is compared.
pub struct How<'h> {
    /// The rule.
    pub rule: &'h ValueRule,
    /// How far its numbers may differ.
    pub tolerance: Tolerance,
    /// The places that do not count within JSON.
    pub ignore: &'h [&'h Pointer],
    /// Whether it may be shown: else only its result is.
    pub shown: bool,
    /// A longer one is not shown, in bytes.
    pub max: usize,
}

/// One side's value: where it was looked for, and all that was found.
struct Side<'d> {
    at: &'d Pointer,
    found: Vec<Found<'d>>,
}

impl<'d> Side<'d> {
    fn bytes(&self) -> usize {
        self.found.iter().map(|found| found.value.raw().len()).sum()
    }

    /// The one value that was found, and of an array of one element that.
    fn sole(&self) -> Option<Value<'d>> {
        let [only] = self.found.as_slice() else { return None };
        let mut value = only.value;
        loop {
            let mut elements = value.elements();
            match (elements.next(), elements.next()) {
                (Some(element), None) => value = element,
                _ => return Some(value),
            }
        }
    }
}

/// Compares a value; none as a place is that of a model for which the rule names none.
pub fn compare<'d>(
    how: &How<'d>,
    prod: (Value<'d>, Option<&'d Pointer>),
    candidate: (Value<'d>, Option<&'d Pointer>),
) -> (record::Value, ValueResult) {
    let side = |(root, at): (Value<'d>, Option<&'d Pointer>)| Some(Side { at: at?, found: root.find_all(at?) });
    let (prod, candidate) = (side(prod), side(candidate));
    let mut value = blank(how.rule);
    let result = match (&prod, &candidate) {
        (Some(a), Some(b)) => match how.rule.kind {
            ValueKind::Number | ValueKind::Vector => numbers(how, a, b, &mut value),
            ValueKind::Class | ValueKind::Text => labels(how.rule.kind, a, b, &mut value),
            ValueKind::Json => json(how, a, b, &mut value),
        },
        _ => ValueResult::Uncompared,
    };
    let fits = [&prod, &candidate].into_iter().flatten().all(|side| side.bytes() <= how.max);
    if !(how.shown && fits) {
        value = blank(how.rule);
    }
    value.result = result.as_str().into();
    (value, result)
}

fn blank(rule: &ValueRule) -> record::Value {
    record::Value {
        name: rule.name.clone(),
        kind: rule.kind.as_str().into(),
        result: String::new(),
        prod: None,
        candidate: None,
        delta: None,
        prod_text: None,
        candidate_text: None,
    }
}

fn result_of(relation: Relation) -> ValueResult {
    match relation {
        Relation::Equal => ValueResult::Equal,
        Relation::Within => ValueResult::WithinTolerance,
        Relation::Differs => ValueResult::Differs,
    }
}

/// Whether both sides found as many places, for the same keys and elements.
fn aligned(a: &Side, b: &Side) -> bool {
    a.found.len() == b.found.len() && a.found.iter().zip(&b.found).all(|(x, y)| x.wild == y.wild)
}

fn numbers(how: &How, a: &Side, b: &Side, value: &mut record::Value) -> ValueResult {
    let (x, y) = (read(how.rule.kind, a), read(how.rule.kind, b));
    let shown = |numbers: &Vec<Option<Number>>| numbers.iter().map(|number| (*number)?.finite()).collect();
    value.prod = x.as_ref().map(shown);
    value.candidate = y.as_ref().map(shown);
    let (Some(x), Some(y)) = (x, y) else { return ValueResult::Uncompared };
    // One number stands for itself, whether or not in an array.
    let both_single = how.rule.kind == ValueKind::Number && x.len() == 1 && y.len() == 1;
    let same_shapes = || a.found.iter().zip(&b.found).all(|(x, y)| same_shape(x.value, y.value));
    let comparable = both_single || (aligned(a, b) && same_shapes());
    if !comparable {
        return ValueResult::Differs;
    }
    value.delta = Some(x.iter().zip(&y).map(|(x, y)| delta((*x)?, (*y)?)).collect());
    let relations = x.iter().zip(&y).map(|(x, y)| match (x, y) {
        (Some(x), Some(y)) => relate(*x, *y, &how.tolerance),
        (None, None) => Relation::Equal,
        _ => Relation::Differs,
    });
    result_of(relations.max().unwrap_or(Relation::Equal))
}

/// The numbers of a side, arrays laid flat; `null` is a number that is not there. None where there is nothing, or
/// something that is no number.
fn read<'d>(kind: ValueKind, side: &Side<'d>) -> Option<Vec<Option<Number<'d>>>> {
    let mut numbers = Vec::new();
    let scalar_vector = |value: Value| !side.at.has_wildcard() && !matches!(value.view(), View::Array);
    let fits = side
        .found
        .iter()
        .all(|found| !(kind == ValueKind::Vector && scalar_vector(found.value)) && collect(found.value, &mut numbers));
    (fits && !side.found.is_empty()).then_some(numbers)
}

fn collect<'d>(value: Value<'d>, numbers: &mut Vec<Option<Number<'d>>>) -> bool {
    match value.view() {
        View::Number(token) => numbers.push(Some(Number::read(token))),
        View::Null => numbers.push(None),
        View::Text(text) => match NUMBERS_AS_TEXT.into_iter().find(|number| text.is(number)) {
            Some(number) => numbers.push(Some(Number::read(number))),
            None => return false,
        },
        View::Array => return value.elements().all(|element| collect(element, numbers)),
        View::Bool(_) | View::Object => return false,
    }
    true
}

fn same_shape(a: Value, b: Value) -> bool {
    match (a.view(), b.view()) {
        (View::Array, View::Array) => {
            let (mut left, mut right) = (a.elements(), b.elements());
            loop {
                match (left.next(), right.next()) {
                    (None, None) => return true,
                    (Some(x), Some(y)) if same_shape(x, y) => {}
                    _ => return false,
                }
            }
        }
        (View::Array, _) | (_, View::Array) => false,
        _ => true,
    }
}

fn labels(kind: ValueKind, a: &Side, b: &Side, value: &mut record::Value) -> ValueResult {
    let fits = |side: &Side| !side.found.is_empty() && side.found.iter().all(|found| is_label(kind, found.value));
    value.prod_text = if fits(a) { label_text(a) } else { None };
    value.candidate_text = if fits(b) { label_text(b) } else { None };
    if !(fits(a) && fits(b)) {
        return ValueResult::Uncompared;
    }
    if let (Some(x), Some(y)) = (a.sole(), b.sole()) {
        return result_of(relation(x, y, EXACT));
    }
    each(a, b, |x, y, _| relation(x, y, EXACT))
}

/// A class is any scalar, a text a string; `null` is one that is not there; an array holds one for each row.
fn is_label(kind: ValueKind, value: Value) -> bool {
    match value.view() {
        View::Text(_) | View::Null => true,
        View::Number(_) | View::Bool(_) => kind == ValueKind::Class,
        View::Array => value.elements().all(|element| is_label(kind, element)),
        View::Object => false,
    }
}

fn label_text(side: &Side) -> Option<String> {
    match side.sole().map(|value| (value, value.view())) {
        Some((_, View::Null)) => None,
        Some((value, View::Array | View::Object)) => Some(value.raw().into()),
        Some((value, _)) => value.scalar().map(Into::into),
        None => json_text(side),
    }
}

/// As it was sent; of several places a JSON array.
fn json_text(side: &Side) -> Option<String> {
    match side.found.as_slice() {
        [] => None,
        [only] if !side.at.has_wildcard() => Some(only.value.raw().into()),
        several => {
            let raws: Vec<&str> = several.iter().map(|found| found.value.raw()).collect();
            Some(format!("[{}]", raws.join(",")))
        }
    }
}

fn json(how: &How, a: &Side, b: &Side, value: &mut record::Value) -> ValueResult {
    value.prod_text = json_text(a);
    value.candidate_text = json_text(b);
    if a.found.is_empty() || b.found.is_empty() {
        return ValueResult::Uncompared;
    }
    each(a, b, |x, y, wild| {
        let walk = how.ignore.iter().fold(Walk::new(how.tolerance), |walk, place| walk.sign(place, Sign::Ignore));
        walk.from(path(a.at, wild)).run(x, y).relation
    })
}

/// The way to a place: the pointer's keys, and for each `*` what it stood for.
fn path<'d>(at: &'d Pointer, wild: &[Name<'d>]) -> Vec<Name<'d>> {
    let mut wild = wild.iter().cloned();
    let names = at.steps().iter().filter_map(|step| match step {
        Step::Key(key) => Some(Name::Key(key.as_bytes().into())),
        Step::Any => wild.next(),
    });
    names.collect()
}

/// The worst of how the places relate, pair by pair.
fn each<'d>(a: &Side<'d>, b: &Side<'d>, relate: impl Fn(Value<'d>, Value<'d>, &[Name<'d>]) -> Relation) -> ValueResult {
    if !aligned(a, b) {
        return ValueResult::Differs;
    }
    let relations = a.found.iter().zip(&b.found).map(|(x, y)| relate(x.value, y.value, &x.wild));
    result_of(relations.max().unwrap_or(Relation::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::json::Doc;
    use crate::config::routing::ValueAt;

    fn value(kind: ValueKind, at: (&str, &str), a: &str, b: &str, tolerance: f64) -> record::Value {
        let (x, y) = (Pointer::parse(at.0).unwrap(), Pointer::parse(at.1).unwrap());
        let rule = ValueRule { name: "v".into(), at: ValueAt::Same(x.clone()), kind, tolerance: None };
        let ignore = [Pointer::parse("/j/id").unwrap(), Pointer::parse("/j/*/id").unwrap(), x.clone()];
        let ignore: Vec<&Pointer> = ignore.iter().collect();
        let tolerance = Tolerance { absolute: tolerance, relative: 0.0 };
        let how = How { rule: &rule, tolerance, ignore: &ignore, shown: true, max: 1000 };
        let (a, b) = (Doc::parse(a.as_bytes()).unwrap(), Doc::parse(b.as_bytes()).unwrap());
        compare(&how, (a.root(), Some(&x)), (b.root(), Some(&y))).0
    }

    fn result(kind: ValueKind, a: &str, b: &str) -> String {
        value(kind, ("", ""), a, b, 0.1).result
    }

    #[test]
    fn numbers_go_element_by_element_and_one_stands_for_itself() {
        use ValueKind::Number;
        assert_eq!(result(Number, "1", "1.0"), "equal");
        assert_eq!(result(Number, "[0.5]", "0.5"), "equal");
        assert_eq!(result(Number, "[[0.5]]", "[0.55]"), "within_tolerance");
        assert_eq!(result(Number, "[1, 2]", "[1, 2.05]"), "within_tolerance");
        assert_eq!(result(Number, "[1, 2]", "[1, 3]"), "differs");
        assert_eq!(result(Number, "[1, 1]", "[1, 1, 1]"), "differs");
        assert_eq!(result(Number, "[[1, 1]]", "[1, 1]"), "differs");
        assert_eq!(result(Number, "[]", "[]"), "equal");
        let shown = value(Number, ("/y", "/y"), r#"{"y": [1, 2, null]}"#, r#"{"y": [1.5, 1E400, 0]}"#, 0.0);
        assert_eq!(shown.prod, Some(vec![Some(1.0), Some(2.0), None]));
        assert_eq!(shown.candidate, Some(vec![Some(1.5), None, Some(0.0)]));
        assert_eq!(shown.delta, Some(vec![Some(0.5), None, None]));
        assert_eq!((shown.prod_text, shown.candidate_text), (None, None));
    }

    #[test]
    fn nan_equals_nan_and_null_equals_null_only() {
        use ValueKind::{Number, Vector};
        assert_eq!(result(Vector, "[NaN, -Infinity]", "[\"NaN\", \"-Infinity\"]"), "equal");
        assert_eq!(result(Number, "NaN", "0"), "differs");
        assert_eq!(result(Number, "null", "null"), "equal");
        assert_eq!(result(Number, "null", "0"), "differs");
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_uncompared() {
        use ValueKind::{Class, Json, Number, Text, Vector};
        for (kind, a, b) in [
            (Number, "1", "\"1\""),
            (Number, "true", "true"),
            (Vector, "1", "1"),
            (Vector, "[1, {}]", "[1, {}]"),
            (Class, "{}", "{}"),
            (Text, "1", "1"),
        ] {
            assert_eq!(result(kind, a, b), "uncompared", "{a} {b}");
        }
        for kind in [Number, Vector, Class, Text, Json] {
            assert_eq!(value(kind, ("/y", "/z"), r#"{"y": [1]}"#, r#"{"y": [1]}"#, 0.0).result, "uncompared");
        }
        let one_side = value(Number, ("/y", "/y"), r#"{"y": 1}"#, "{}", 0.0);
        assert_eq!((one_side.prod, one_side.candidate, one_side.delta), (Some(vec![Some(1.0)]), None, None));
    }

    #[test]
    fn classes_and_texts_are_equal_or_not() {
        use ValueKind::{Class, Text};
        assert_eq!(result(Class, "[1]", "1.0"), "equal");
        assert_eq!(result(Class, "1", "\"1\""), "differs");
        assert_eq!(result(Class, "[1, \"a\"]", "[1, \"a\" ]"), "equal");
        assert_eq!(result(Text, "\"\\u00e9\"", "\"é\""), "equal");
        assert_eq!(result(Text, "null", "\"é\""), "differs");
        let shown = value(Class, ("/y", "/z/0"), r#"{"y": ["\u0063at"]}"#, r#"{"z": [7]}"#, 0.0);
        assert_eq!((shown.prod_text.as_deref(), shown.candidate_text.as_deref()), (Some("cat"), Some("7")));
        assert_eq!((shown.prod, shown.result.as_str()), (None, "differs"));
    }

    #[test]
    fn json_compares_by_meaning_with_tolerance_and_without_what_is_ignored() {
        let a = r#"{"j": {"id": 1, "x": [1, 2], "k": {"id": 1}}}"#;
        let b = r#"{"j": {"x": [1, 2.05], "k": {"id": 2}, "id": 2}}"#;
        let shown = value(ValueKind::Json, ("/j", "/j"), a, b, 0.1);
        assert_eq!(shown.result, "within_tolerance");
        assert_eq!(shown.prod_text.as_deref(), Some(r#"{"id": 1, "x": [1, 2], "k": {"id": 1}}"#));
        assert_eq!(value(ValueKind::Json, ("/j/*", "/j/*"), a, b, 0.1).result, "differs");
    }

    #[test]
    fn a_wildcard_aligns_keys_and_elements() {
        use ValueKind::{Class, Number, Vector};
        let at = ("/p/*/s", "/p/*/s");
        let a = r#"{"p": {"dog": {"s": 0.1}, "cat": {"s": 0.9}}}"#;
        let shown = value(Vector, at, a, r#"{"p": {"cat": {"s": 0.9}, "dog": {"s": 0.3}}}"#, 0.0);
        assert_eq!(shown.prod, Some(vec![Some(0.9), Some(0.1)]));
        assert_eq!(shown.delta.unwrap()[0], Some(0.0));
        assert_eq!(value(Number, at, a, r#"{"p": {"cat": {"s": 0.9}, "fox": {"s": 0.1}}}"#, 1.0).result, "differs");
        let rows = value(Class, at, r#"{"p": [{"s": "a"}, {"s": 1}]}"#, r#"{"p": [{"s": "a"}, {"s": 2}]}"#, 0.0);
        assert_eq!((rows.result.as_str(), rows.prod_text.as_deref()), ("differs", Some("[\"a\",1]")));
    }

    #[test]
    fn what_is_hidden_or_very_long_shows_its_result_only() {
        let long = format!("[{}1]", "1,".repeat(600));
        let shown = value(ValueKind::Vector, ("", ""), &long, &long, 0.0);
        assert_eq!((shown.result.as_str(), shown.prod, shown.delta), ("equal", None, None));
    }
}
