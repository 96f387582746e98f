//! Floor 2: how two answers compare, by the route's `compare` and what its `api` says does not count. Where
//! `compare.values` is set, those alone decide, and every other difference is only named.

use super::api;
use super::body::{Content, Unread};
use super::json::Doc;
use super::json::number::Relation;
use super::redact::Redactions;
use super::values::{self, How};
use super::walk::{Sign, Walk, Walked};
use crate::config::routing::{Compare, ValueRule};
use crate::record::{Comparison, Value};
use crate::types::{Api, ModelName, Outcome, PairResult, Pointer, ValueResult};

/// One side's answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The model that gave it.
    pub model: &'a ModelName,
    /// The answer.
    pub content: &'a Content<'a>,
    /// The answer, read.
    pub doc: Result<&'a Doc<'a>, &'a Unread>,
}

/// How answers are compared and what may be shown of them.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The route's rules.
    pub compare: &'a Compare,
    /// What the bodies mean.
    pub api: Api,
    /// What is compared but not shown.
    pub redactions: Redactions<'a>,
    /// Whether values are shown at all.
    pub show_values: bool,
    /// A longer value is not shown, in bytes.
    pub max_value: usize,
}

/// What a pair says.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// How the legs compare.
    pub result: PairResult,
    /// The comparison, where there was one.
    pub comparison: Option<Comparison>,
    /// Why there was none.
    pub error: Option<String>,
}

impl Verdict {
    fn without_comparison(result: PairResult, error: String) -> Self {
        Self { result, comparison: None, error: Some(error) }
    }
}

/// How a leg ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// The answer's status.
    pub status: Option<u16>,
}

/// The verdict on a pair of which a leg is not `ok`: it is neither equal nor different. A cancelled leg says nothing
/// about either model, so it comes first; then one that we could not measure, which blames none either.
pub fn without_answers([prod, candidate]: [Ended; 2]) -> Option<Verdict> {
    let either = |outcome| prod.outcome == outcome || candidate.outcome == outcome;
    let result = match (prod.outcome, candidate.outcome) {
        (Outcome::Ok, Outcome::Ok) => return None,
        _ if either(Outcome::Cancelled) => PairResult::Cancelled,
        _ if either(Outcome::Unmeasured) => PairResult::Unmeasured,
        (Outcome::Ok, _) => PairResult::CandidateFailed,
        (_, Outcome::Ok) => PairResult::ProdFailed,
        _ => PairResult::BothFailed,
    };
    let failures: Vec<String> = [("prod", prod), ("the candidate", candidate)]
        .into_iter()
        .filter(|(_, leg)| leg.outcome != Outcome::Ok)
        .map(|(side, leg)| match leg.status {
            Some(status) => format!("{side} ended with {}, status {status}", leg.outcome),
            None => format!("{side} ended with {}", leg.outcome),
        })
        .collect();
    Some(Verdict::without_comparison(result, failures.join("; ")))
}

/// The verdict on two answers of legs that are `ok`.
pub fn compare(prod: &Answer, candidate: &Answer, rules: &Rules) -> Verdict {
    if let (Ok(a), Ok(b)) = (prod.doc, candidate.doc) {
        return documents((prod.model, a), (candidate.model, b), rules);
    }
    // What is not JSON has no places: it compares as bytes, and not at all where places are asked for.
    let by_place = !rules.compare.values.is_empty();
    if let (false, Some(a), Some(b)) = (by_place, prod.content.whole(), candidate.content.whole()) {
        return bytes(a, b);
    }
    let errors: Vec<String> = [("prod", prod), ("the candidate", candidate)]
        .into_iter()
        .filter(|(_, answer)| by_place || answer.content.whole().is_none())
        .filter_map(|(side, answer)| Some(format!("the answer of {side} {}", answer.doc.err()?)))
        .collect();
    Verdict::without_comparison(PairResult::Uncompared, errors.join("; "))
}

fn bytes(a: &[u8], b: &[u8]) -> Verdict {
    let walked = if a == b {
        Walked { relation: Relation::Equal, differs_at: vec![], truncated: false }
    } else {
        Walked { relation: Relation::Differs, differs_at: vec![String::new()], truncated: false }
    };
    verdict(of_relation(walked.relation), Vec::new(), walked)
}

fn documents(prod: (&ModelName, &Doc), candidate: (&ModelName, &Doc), rules: &Rules) -> Verdict {
    let api = api::resolve(rules.api, Some(prod.1));
    let ignore: Vec<&Pointer> = rules.compare.ignore.iter().chain(api::ignores(api)).collect();
    let compared: Vec<(Value, ValueResult)> =
        rules.compare.values.iter().map(|rule| value(rule, prod, candidate, &ignore, rules)).collect();
    let mut walk = Walk::new(rules.compare.tolerance);
    for pointer in ignore {
        walk = walk.sign(pointer, Sign::Ignore);
    }
    for pointer in rules.redactions.pointers() {
        walk = walk.sign(pointer, Sign::Hide);
    }
    for rule in &rules.compare.values {
        // Where one place stands for both sides, what its rule allows is no difference.
        let (at, there) = (rule.at.of(prod.0), rule.at.of(candidate.0));
        if let (Some(pointer), Some(tolerance), true) = (at, rule.tolerance, at == there) {
            walk = walk.sign(pointer, Sign::Tolerate(tolerance));
        }
    }
    let walked = walk.run(prod.1.root(), candidate.1.root());
    let result = of_values(compared.iter().map(|(_, result)| *result)).unwrap_or(of_relation(walked.relation));
    verdict(result, compared.into_iter().map(|(value, _)| value).collect(), walked)
}

fn value<'a>(
    rule: &'a ValueRule,
    prod: (&ModelName, &'a Doc<'a>),
    candidate: (&ModelName, &'a Doc<'a>),
    ignore: &'a [&'a Pointer],
    rules: &Rules,
) -> (Value, ValueResult) {
    let (at, there) = (rule.at.of(prod.0), rule.at.of(candidate.0));
    let redacted = [at, there].into_iter().flatten().any(|pointer| rules.redactions.touch(pointer));
    let how = How {
        rule,
        tolerance: rule.tolerance.unwrap_or(rules.compare.tolerance),
        ignore,
        shown: rules.show_values && !redacted,
        max: rules.max_value,
    };
    values::compare(&how, (prod.1.root(), at), (candidate.1.root(), there))
}

fn of_relation(relation: Relation) -> PairResult {
    match relation {
        Relation::Equal => PairResult::Equal,
        Relation::Within => PairResult::WithinTolerance,
        Relation::Differs => PairResult::Differs,
    }
}

/// One value that differs decides; one that cannot be compared leaves it open; none without values.
fn of_values(results: impl Iterator<Item = ValueResult>) -> Option<PairResult> {
    let worst = results.max_by_key(|result| match result {
        ValueResult::Equal => 0,
        ValueResult::WithinTolerance => 1,
        ValueResult::Uncompared => 2,
        ValueResult::Differs => 3,
    })?;
    Some(match worst {
        ValueResult::Equal => PairResult::Equal,
        ValueResult::WithinTolerance => PairResult::WithinTolerance,
        ValueResult::Uncompared => PairResult::Uncompared,
        ValueResult::Differs => PairResult::Differs,
    })
}

fn verdict(result: PairResult, values: Vec<Value>, walked: Walked) -> Verdict {
    let comparison = Comparison {
        equal: result == PairResult::Equal,
        within_tolerance: matches!(result, PairResult::Equal | PairResult::WithinTolerance),
        values,
        differs_at: walked.differs_at,
        differs_at_truncated: walked.truncated,
    };
    Verdict { result, comparison: Some(comparison), error: None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http::header::CONTENT_ENCODING;

    use super::*;
    use crate::analysis::material::Captured;
    use crate::config::routing::{Redact, RedactWhat, Tolerance, ValueAt};
    use crate::types::ValueKind;

    macro_rules! payload {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/payloads/", $name)).as_slice()
        };
    }

    fn at(pointer: &str) -> Pointer {
        Pointer::parse(pointer).unwrap()
    }

    fn rule(pointer: &str, kind: ValueKind, absolute: f64) -> ValueRule {
        let tolerance = Some(Tolerance { absolute, relative: 0.0 });
        ValueRule { name: "v".into(), at: ValueAt::Same(at(pointer)), kind, tolerance }
    }

    /// A route's rules, and two answers of models p and c.
    struct Case {
        compare: Compare,
        api: Api,
        redact: Vec<Redact>,
        show: bool,
        headers: HeaderMap,
    }

    impl Case {
        fn new(values: Vec<ValueRule>) -> Self {
            let compare = Compare { values, ..Compare::default() };
            Self { compare, api: Api::Auto, redact: vec![], show: true, headers: HeaderMap::new() }
        }

        fn captured(&self, prod: &Captured, candidate: &Captured) -> Verdict {
            let contents = [prod, candidate].map(|body| Content::of(body, &self.headers, 1 << 20));
            let docs = contents.each_ref().map(Content::read);
            let models = ["p", "c"].map(ModelName::new);
            let answer = |i: usize| Answer { model: &models[i], content: &contents[i], doc: docs[i].as_ref() };
            let rules = Rules {
                compare: &self.compare,
                api: self.api,
                redactions: Redactions::new(&self.redact, None),
                show_values: self.show,
                max_value: 1 << 20,
            };
            compare(&answer(0), &answer(1), &rules)
        }

        fn verdict(&self, prod: impl AsRef<[u8]>, candidate: impl AsRef<[u8]>) -> Verdict {
            let body = |bytes: &[u8]| Captured::Whole(Bytes::copy_from_slice(bytes));
            self.captured(&body(prod.as_ref()), &body(candidate.as_ref()))
        }

        fn differs_at(&self, prod: impl AsRef<[u8]>, candidate: impl AsRef<[u8]>) -> Vec<String> {
            self.verdict(prod, candidate).comparison.unwrap().differs_at
        }
    }

    /// The body of a message that is recorded whole.
    fn body_of(message: &[u8]) -> &[u8] {
        let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        &message[end + 4..]
    }

    #[test]
    fn of_two_gzipped_chat_answers_only_the_joke_differs() {
        let mut case = Case::new(vec![]);
        case.headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        let (a, b) = (payload!("openai/chat-gzip.response.http"), payload!("openai/chat-gzip-again.response.http"));
        assert_eq!(case.differs_at(body_of(a), body_of(b)), ["/choices/0/message/content"]);
        case.api = Api::None;
        let all = ["/choices/0/message/content", "/created", "/id", "/usage/completion_tokens", "/usage/total_tokens"];
        assert_eq!(case.differs_at(body_of(a), body_of(b)), all);
    }

    #[test]
    fn ids_of_calls_and_of_answers_do_not_count_by_default() {
        let chat = std::str::from_utf8(payload!("openai/tools.response.json")).unwrap();
        let again = chat.replace("call_", "other_").replace("chatcmpl-", "x-").replace("173", "999");
        assert_eq!(Case::new(vec![]).verdict(chat, again).result, PairResult::Equal);
        let seldon = std::str::from_utf8(payload!("seldon-v1/strdata.response.json")).unwrap();
        let plain = seldon.replace("\\u003c", "<").replace("9bp9", "0000");
        assert_eq!(Case::new(vec![]).verdict(seldon, plain).result, PairResult::Equal);
    }

    #[test]
    fn classes_and_probabilities_differ_in_shape() {
        let (a, b) = (payload!("oip-v2/iris.response.json"), payload!("oip-v2/iris-proba.response.json"));
        let case = Case::new(vec![rule("/outputs/0/data", ValueKind::Vector, 0.1)]);
        let verdict = case.verdict(a, b);
        let comparison = verdict.comparison.unwrap();
        assert_eq!((verdict.result, comparison.values[0].delta.as_ref()), (PairResult::Differs, None));
        let expected = [
            "/outputs/0/data/0", // 1 against 8.8e-06; the second is within 0.1
            "/outputs/0/data/2",
            "/outputs/0/data/3",
            "/outputs/0/data/4",
            "/outputs/0/data/5",
            "/outputs/0/datatype",
            "/outputs/0/shape/1",
        ];
        assert_eq!(comparison.differs_at, expected);
    }

    #[test]
    fn values_alone_decide_where_they_are_set() {
        let mut case = Case::new(vec![rule("/y", ValueKind::Number, 0.1)]);
        let verdict = case.verdict(r#"{"y": 1, "z": 1, "id": 1}"#, r#"{"y": 1.05, "z": 2, "id": 2}"#);
        let comparison = verdict.comparison.unwrap();
        assert_eq!(verdict.result, PairResult::WithinTolerance);
        assert!(!comparison.equal && comparison.within_tolerance);
        assert_eq!(comparison.differs_at, ["/id", "/z"]);
        case.compare.values.push(rule("/z", ValueKind::Class, 0.0));
        case.compare.values.push(rule("/missing", ValueKind::Number, 0.0));
        assert_eq!(case.verdict(r#"{"y": 1, "z": 1}"#, r#"{"y": 1, "z": 2}"#).result, PairResult::Differs);
        let open = case.verdict(r#"{"y": 1, "z": 1}"#, r#"{"y": 1, "z": 1}"#);
        let comparison = open.comparison.unwrap();
        assert_eq!((open.result, comparison.equal, open.error), (PairResult::Uncompared, false, None));
        assert_eq!(comparison.values[2].result, "uncompared");
    }

    #[test]
    fn a_value_may_stand_at_another_place_in_each_model() {
        let places = vec![(ModelName::new("p"), at("/predictions/0")), (ModelName::new("c"), at("/outputs/0/data/0"))];
        let case = Case::new(vec![ValueRule { at: ValueAt::ByModel(places), ..rule("", ValueKind::Number, 0.0) }]);
        let verdict = case.verdict(r#"{"predictions": [1]}"#, r#"{"outputs": [{"data": [1.0]}]}"#);
        assert_eq!(verdict.result, PairResult::Equal);
        assert_eq!(verdict.comparison.unwrap().differs_at, ["/outputs", "/predictions"]);
    }

    #[test]
    fn without_values_everything_outside_ignore_decides() {
        let mut case = Case::new(vec![]);
        case.compare.ignore = vec![at("/noise")];
        case.compare.tolerance = Tolerance { absolute: 0.0, relative: 0.01 };
        assert_eq!(case.verdict(r#"{"y": 100, "noise": 1}"#, r#"{"y": 100.0}"#).result, PairResult::Equal);
        assert_eq!(case.verdict(r#"{"y": 100}"#, r#"{"y": 101}"#).result, PairResult::WithinTolerance);
        assert_eq!(case.verdict(r#"{"y": 100}"#, r#"{"y": 102}"#).result, PairResult::Differs);
        assert_eq!(case.verdict(r#"{"y": 100}"#, r#"{"y": "100"}"#).result, PairResult::Differs);
    }

    #[test]
    fn a_body_with_nan_compares_by_place() {
        let body = std::str::from_utf8(payload!("tfserving/nan.response.json")).unwrap();
        let case = Case::new(vec![rule("/predictions", ValueKind::Vector, 0.0)]);
        assert_eq!(case.verdict(body, body.replace("3.0", "3")).result, PairResult::Equal);
        assert_eq!(case.differs_at(body, body.replace("[NaN", "[0")), ["/predictions/0/0"]);
    }

    #[test]
    fn what_is_not_json_compares_as_bytes_without_rules_and_not_at_all_with_them() {
        let bytes = Case::new(vec![]);
        assert_eq!(bytes.verdict("a=1", "a=1").result, PairResult::Equal);
        assert_eq!(bytes.verdict("", "").result, PairResult::Equal);
        assert_eq!(bytes.differs_at("a=1", "{}"), [""]);
        assert_eq!(bytes.verdict([0xff], [0xfe]).result, PairResult::Differs);
        let ruled = Case::new(vec![rule("/y", ValueKind::Number, 0.0)]);
        let verdict = ruled.verdict(payload!("triton/classification-bad.response.json"), "");
        assert_eq!((verdict.result, verdict.comparison), (PairResult::Uncompared, None));
        let error = "the answer of prod is not JSON: byte 18 is out of place; the answer of the candidate is empty";
        assert_eq!(verdict.error.as_deref(), Some(error));
    }

    #[test]
    fn what_was_not_kept_whole_is_uncompared() {
        let whole = Captured::Whole(Bytes::from_static(b"text"));
        let verdict = Case::new(vec![]).captured(&whole, &Captured::TooLarge);
        assert_eq!(verdict.result, PairResult::Uncompared);
        assert_eq!(verdict.error.as_deref(), Some("the answer of the candidate is larger than copy_body"));
        let verdict = Case::new(vec![]).captured(&Captured::NotCaptured, &whole);
        assert_eq!(verdict.error.as_deref(), Some("the answer of prod was not captured"));
    }

    #[test]
    fn what_is_redacted_is_compared_but_not_shown() {
        let mut case = Case::new(vec![rule("/user", ValueKind::Json, 0.0), rule("/y", ValueKind::Number, 0.0)]);
        case.redact = vec![Redact { what: RedactWhat::Json(at("/user/data")), hash: false }];
        let verdict =
            case.verdict(r#"{"user": {"data": {"anna": 1}}, "y": 1}"#, r#"{"user": {"data": {"berta": 1}}, "y": 1}"#);
        let comparison = verdict.comparison.clone().unwrap();
        assert_eq!((verdict.result, comparison.values[0].result.as_str()), (PairResult::Differs, "differs"));
        assert_eq!(comparison.differs_at, ["/user/data"]);
        assert_eq!(comparison.values[1].prod, Some(vec![Some(1.0)]));
        let shown = format!("{verdict:?}");
        assert!(!shown.contains("anna") && !shown.contains("berta"), "{shown}");
        case.show = false;
        assert_eq!(case.verdict("{\"y\": 1}", "{\"y\": 1}").comparison.unwrap().values[1].prod, None);
    }
}
