//! Floor 2: two documents, walked side by side. JSON compares by meaning: escapes, the order of keys and white space
//! do not count, and numbers have tolerances. The walk names the places that differ, passes by those that do not
//! count, and never names what lies inside a redacted place.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::json::number::{Number, Relation, relate};
use super::json::{Name, Value, View};
use crate::config::routing::Tolerance;
use crate::record::DIFFERS_AT_MAX;
use crate::types::{Pointer, Step};

/// The longest pointer that is named, in bytes: a model may answer with keys of megabytes.
const POINTER_MAX: usize = 1024;

/// What holds at the places that a pointer names, and below.
#[derive(Debug, Clone, Copy)]
pub enum Sign {
    /// It does not count.
    Ignore,
    /// Its inside is not named.
    Hide,
    /// Numbers have this tolerance.
    Tolerate(Tolerance),
}

/// What holds where the walk is.
#[derive(Debug, Clone, Copy)]
struct Here {
    tolerance: Tolerance,
    /// Within a hidden place: how long the path to it is.
    hidden: Option<usize>,
}

/// The pointers that still lead somewhere from where the walk is. All of the way down is on one stack, so that a
/// step costs no allocation, and nothing at all where no pointer leads.
struct Signs<'p> {
    stack: Vec<(&'p [Step], Sign)>,
    /// Where on the stack those of the current place begin.
    from: usize,
}

impl<'p> Signs<'p> {
    fn enter(&mut self, name: &Name) -> usize {
        let before = self.from;
        self.from = self.stack.len();
        for at in before..self.from {
            let (steps, sign) = self.stack[at];
            if let Some((step, rest)) = steps.split_first()
                && name.is(step)
            {
                self.stack.push((rest, sign));
            }
        }
        before
    }

    fn leave(&mut self, before: usize) {
        self.stack.truncate(self.from);
        self.from = before;
    }

    /// The signs that stand just here.
    fn here(&self) -> impl Iterator<Item = Sign> {
        self.stack[self.from..].iter().filter(|(steps, _)| steps.is_empty()).map(|(_, sign)| *sign)
    }
}

/// A walk down two documents.
pub struct Walk<'w> {
    signs: Signs<'w>,
    path: Vec<Name<'w>>,
    here: Here,
    relation: Relation,
    differs_at: Vec<String>,
    /// Whether the hidden place that the walk is in, or was in last, is named.
    hidden_named: bool,
    truncated: bool,
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq)]
pub struct Walked {
    /// The worst that was found.
    pub relation: Relation,
    /// The places that differ, at most [`DIFFERS_AT_MAX`].
    pub differs_at: Vec<String>,
    /// Whether there were more.
    pub truncated: bool,
}

/// Compares two values by meaning and nothing else.
pub fn relation(a: Value, b: Value, tolerance: Tolerance) -> Relation {
    Walk::new(tolerance).run(a, b).relation
}

impl<'w> Walk<'w> {
    /// A walk on which numbers have this tolerance.
    pub fn new(tolerance: Tolerance) -> Self {
        Self {
            signs: Signs { stack: Vec::new(), from: 0 },
            path: Vec::new(),
            here: Here { tolerance, hidden: None },
            relation: Relation::Equal,
            differs_at: Vec::new(),
            hidden_named: false,
            truncated: false,
        }
    }

    /// With a sign at the places that a pointer names. Where two tolerances meet, the one that was put up first holds.
    pub fn sign(mut self, pointer: &'w Pointer, sign: Sign) -> Self {
        self.signs.stack.push((pointer.steps(), sign));
        self
    }

    /// Starts at a place below the top: its signs hold, but for those that stand at or above it.
    pub fn from(mut self, path: impl IntoIterator<Item = Name<'w>>) -> Self {
        for name in path {
            self.signs.enter(&name);
        }
        self.signs.stack.drain(..self.signs.from);
        self.signs.from = 0;
        self.signs.stack.retain(|(steps, _)| !steps.is_empty());
        self
    }

    /// Walks.
    pub fn run(mut self, a: Value<'w>, b: Value<'w>) -> Walked {
        self.visit(Some(a), Some(b));
        Walked { relation: self.relation, differs_at: self.differs_at, truncated: self.truncated }
    }

    fn step(&mut self, name: Name<'w>, a: Option<Value<'w>>, b: Option<Value<'w>>) {
        let before = self.signs.enter(&name);
        let above = self.here;
        self.path.push(name);
        self.visit(a, b);
        self.path.pop();
        self.here = above;
        self.signs.leave(before);
    }

    fn visit(&mut self, a: Option<Value<'w>>, b: Option<Value<'w>>) {
        let mut tolerance = None;
        for sign in self.signs.here() {
            match sign {
                Sign::Ignore => return,
                Sign::Hide if self.here.hidden.is_some() => {}
                Sign::Hide => (self.here.hidden, self.hidden_named) = (Some(self.path.len()), false),
                Sign::Tolerate(own) => tolerance = tolerance.or(Some(own)),
            }
        }
        self.here.tolerance = tolerance.unwrap_or(self.here.tolerance);
        match (a, b) {
            (Some(a), Some(b)) => self.compare(a, b),
            _ => self.differs(),
        }
    }

    fn compare(&mut self, a: Value<'w>, b: Value<'w>) {
        // The same text means the same.
        if a.raw() == b.raw() {
            return;
        }
        match (a.view(), b.view()) {
            (View::Number(x), View::Number(y)) => {
                match relate(Number::read(x), Number::read(y), &self.here.tolerance) {
                    Relation::Differs => self.differs(),
                    relation => self.relation = self.relation.max(relation),
                }
            }
            (View::Text(x), View::Text(y)) if x == y => {}
            (View::Array, View::Array) => self.arrays(a, b),
            (View::Object, View::Object) => self.objects(a, b),
            _ => self.differs(),
        }
    }

    fn arrays(&mut self, a: Value<'w>, b: Value<'w>) {
        let (mut left, mut right) = (a.elements(), b.elements());
        for index in 0.. {
            match (left.next(), right.next()) {
                (None, None) => return,
                _ if self.is_known() => return,
                (x, y) => self.step(Name::Index(index), x, y),
            }
        }
    }

    fn objects(&mut self, a: Value<'w>, b: Value<'w>) {
        let (mut left, mut right) = (a.entries().into_iter().peekable(), b.entries().into_iter().peekable());
        while !self.is_known() {
            // Both are in the order of their keys: the smaller of the two next keys is one that the other side lacks.
            let order = match (left.peek(), right.peek()) {
                (Some((x, _)), Some((y, _))) => x.cmp(y),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (None, None) => return,
            };
            let x = left.next_if(|_| order.is_le());
            let y = right.next_if(|_| order.is_ge());
            if let Some((key, _)) = x.as_ref().or(y.as_ref()) {
                self.step(Name::Key(key.clone()), x.as_ref().map(|x| x.1), y.as_ref().map(|y| y.1));
            }
        }
    }

    /// Whether nothing more can be learnt here: all that may be named is, and worse than different there is not.
    fn is_known(&self) -> bool {
        self.truncated || (self.here.hidden.is_some() && self.hidden_named)
    }

    fn differs(&mut self) {
        self.relation = Relation::Differs;
        // One hidden place is walked in one go, and named once.
        if self.here.hidden.is_some() && std::mem::replace(&mut self.hidden_named, true) {
            return;
        }
        if self.differs_at.len() == DIFFERS_AT_MAX {
            self.truncated = true;
            return;
        }
        let shown = self.here.hidden.unwrap_or(self.path.len());
        self.differs_at.push(pointer_text(&self.path[..shown]));
    }
}

fn pointer_text(path: &[Name]) -> String {
    // A model that answers something else altogether makes a hundred of these for each pair.
    let mut text = String::with_capacity(64);
    for name in path {
        text.push('/');
        match name {
            Name::Index(index) => drop(write!(text, "{index}")),
            Name::Key(key) => {
                let key: Cow<str> = String::from_utf8_lossy(&key[..key.len().min(POINTER_MAX)]);
                if key.contains(['~', '/']) {
                    text.push_str(&key.replace('~', "~0").replace('/', "~1"));
                } else {
                    text.push_str(&key);
                }
            }
        }
        if text.len() > POINTER_MAX {
            text.truncate(text.floor_char_boundary(POINTER_MAX));
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::analysis::json::Doc;

    const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

    fn walked(a: &str, b: &str, signs: &[(&str, Sign)]) -> Walked {
        let (a, b) = (Doc::parse(a.as_bytes()).unwrap(), Doc::parse(b.as_bytes()).unwrap());
        let pointers: Vec<_> = signs.iter().map(|(p, sign)| (Pointer::parse(p).unwrap(), *sign)).collect();
        let walk = pointers.iter().fold(Walk::new(EXACT), |walk, (pointer, sign)| walk.sign(pointer, *sign));
        walk.run(a.root(), b.root())
    }

    fn differs_at(a: &str, b: &str, signs: &[(&str, Sign)]) -> Vec<String> {
        walked(a, b, signs).differs_at
    }

    #[test]
    fn json_compares_by_meaning() {
        let a = r#"{"a": [1, 1.0, "\u00e9\/"], "b": {"x": null, "y": true}, "d": 0, "d": 1}"#;
        let b = r#"{ "b":{"y":true,"x":null},"a":[1.0,1,"é/"], "d": 1 }"#;
        assert_eq!(walked(a, b, &[]).relation, Relation::Equal);
    }

    #[test]
    fn every_place_that_differs_is_named() {
        let a = r#"{"num": 1, "text": "1", "null": null, "list": [1, 2, 3], "only/a~": 0, "shape": {}}"#;
        let b = r#"{"num": 2, "text": 1, "null": 0, "list": [1, 5], "shape": []}"#;
        let expected = ["/list/1", "/list/2", "/null", "/num", "/only~1a~0", "/shape", "/text"];
        assert_eq!(differs_at(a, b, &[]), expected);
        assert_eq!(differs_at(b, a, &[]), expected);
        assert_eq!(differs_at("1", "[1]", &[]), [""]);
    }

    #[test]
    fn what_is_ignored_is_passed_by_with_all_below_it() {
        let a = r#"{"id": 1, "list": [{"id": 1, "x": 1}, {"id": 2}], "o": {"p": {"q": 1}}, "extra": 1}"#;
        let b = r#"{"id": 2, "list": [{"id": 3, "x": 1}, {"id": 4}], "o": {"p": []}}"#;
        let ignore = |p| (p, Sign::Ignore);
        assert_eq!(differs_at(a, b, &[ignore("/id"), ignore("/list/*/id"), ignore("/extra")]), ["/o/p"]);
        assert_eq!(differs_at(a, b, &[ignore("/*/*/id"), ignore("/o"), ignore("/list/1")]), ["/extra", "/id"]);
        assert_eq!(differs_at(a, b, &[ignore("")]).len(), 0);
    }

    #[test]
    fn a_tolerance_holds_at_its_place_and_below() {
        let half = Tolerance { absolute: 0.5, relative: 0.0 };
        let (a, b) = (r#"{"x": [1, 2], "y": 1}"#, r#"{"x": [1.5, 2.6], "y": 1.5}"#);
        assert_eq!(differs_at(a, b, &[("/x", Sign::Tolerate(half))]), ["/x/1", "/y"]);
        let within = walked("[1]", "[1.5]", &[("/*", Sign::Tolerate(half))]);
        assert_eq!((within.relation, within.differs_at.len()), (Relation::Within, 0));
    }

    #[test]
    fn the_inside_of_a_hidden_place_is_not_named() {
        let a = r#"{"user": {"secret-key": 1, "list": [1, 2]}, "z": 1}"#;
        let b = r#"{"user": {"other-key": 1, "list": [3, 4]}, "z": 2}"#;
        assert_eq!(differs_at(a, b, &[("/user", Sign::Hide)]), ["/user", "/z"]);
        assert_eq!(differs_at(a, b, &[("/user/list/*", Sign::Hide)])[..2], ["/user/list/0", "/user/list/1"]);
    }

    #[test]
    fn at_most_a_hundred_places_are_named_and_long_names_are_cut() {
        let list = |n: i32, from: i32| format!("{:?}", (from..from + n).collect::<Vec<_>>());
        let hundred = walked(&list(100, 0), &list(100, 1), &[]);
        assert_eq!((hundred.differs_at.len(), hundred.truncated), (100, false));
        let more = walked(&list(101, 0), &list(101, 1), &[]);
        assert_eq!((more.differs_at.len(), more.truncated), (100, true));
        let key = "é".repeat(5000);
        let long = &differs_at(&format!("{{\"{key}\": [1]}}"), &format!("{{\"{key}\": [2]}}"), &[])[0];
        assert!(long.len() <= POINTER_MAX + '…'.len_utf8() && long.ends_with('…'));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let scalar = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|b| json!(b)),
            (-3i64..3).prop_map(|n| json!(n)),
            any::<f64>().prop_map(|n| json!(n)),
            ".{0,3}".prop_map(|s| json!(s)),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            let object = proptest::collection::btree_map("[ab~/é]{0,2}", inner.clone(), 0..4);
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(|list| json!(list)),
                object.prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn anything_equals_itself_however_it_is_printed(x in any_json()) {
            let walked = walked(&x.to_string(), &serde_json::to_string_pretty(&x).unwrap(), &[]);
            prop_assert_eq!(walked, Walked { relation: Relation::Equal, differs_at: vec![], truncated: false });
        }

        #[test]
        fn it_is_symmetric_and_agrees_with_serde_json(x in any_json(), y in any_json()) {
            let there = walked(&x.to_string(), &y.to_string(), &[]);
            prop_assert_eq!(&there, &walked(&y.to_string(), &x.to_string(), &[]));
            // A named place is one that does differ.
            for pointer in &there.differs_at {
                prop_assert_ne!(x.pointer(pointer), y.pointer(pointer));
            }
            prop_assert_eq!(there.relation == Relation::Differs, !there.differs_at.is_empty());
        }
    }
}
