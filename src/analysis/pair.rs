//! Floor 2: from the facts of a pair to its record. Everything that is formatted, decoded, read, hidden and compared
//! is so here, on the analysis thread (or a lane, where a pair is small), never on the answer path.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

use super::api;
use super::body::{self, Content, Recording, Unread};
use super::diff::{self, Answer, Ended, Rules, Verdict};
use super::extract::{self, Asked};
use super::json::Doc;
use super::material::{AnsweredFacts, LegFacts, PairContext, PairFacts, RequestFacts};
use super::redact::Redactions;
use crate::config::routing::{CaptureAnswers, Route, Source, Version};
use crate::record::{AnsweredBy, Body, Leg, Pair, Request, SCHEMA};
use crate::types::{Api, Outcome, PairResult};

/// The last second that RFC 3339 can write.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// The bodies of a pair, decoded: the record holds their texts.
pub struct Contents<'a> {
    request: Content<'a>,
    answers: [Content<'a>; 2],
    /// How the legs ended: of a stream that nobody could watch on its way, that is only known now.
    outcomes: [Outcome; 2],
}

impl<'a> Contents<'a> {
    /// Those of these facts.
    pub fn of(facts: &PairFacts<'a>) -> Self {
        let answer = |leg: &'a LegFacts| {
            let content = Content::of(&leg.body, &leg.headers, facts.route.copy_body);
            let (content, ended_well) = content.streamed(&leg.headers, facts.route.api);
            let failed = leg.outcome == Outcome::Ok && !ended_well;
            (content, if failed { Outcome::StreamError } else { leg.outcome })
        };
        let ((prod, prod_outcome), (candidate, outcome)) = (answer(facts.prod), answer(facts.candidate));
        let request = request_content(facts.route, facts.request);
        Self { request, answers: [prod, candidate], outcomes: [prod_outcome, outcome] }
    }
}

/// Builds the record of a pair, and says what it is counted under. `seq` is the ledger's, which asks for that result
/// first: a caller may pass 0 and set it then.
pub fn build<'a>(
    context: &'a PairContext,
    facts: &PairFacts<'a>,
    contents: &'a Contents<'a>,
    config_hash: &'a str,
    id: String,
    seq: u64,
) -> (Pair<Cow<'a, str>>, PairResult) {
    let (route, asked, hash_key) = (facts.route, facts.request, context.hash_key.as_ref());
    let (content, outcomes, contents) = (&contents.request, contents.outcomes, &contents.answers);
    let doc = content.read();
    let first = contents[0].read();
    // Most candidates answer what prod does: the same bytes are read once.
    let second = (contents[0] != contents[1]).then(|| contents[1].read());
    let docs = [&first, second.as_ref().unwrap_or(&first)].map(Result::as_ref);
    let [prod, candidate] = [(0, facts.prod), (1, facts.candidate)].map(|(at, leg)| Answer {
        model: &leg.model.name,
        content: &contents[at],
        doc: docs[at],
    });
    let api = api::resolve(route.api, prod.doc.or(candidate.doc).ok());
    let build = Build { route, redactions: Redactions::new(&route.capture.redact, hash_key), api };
    let ended = |at: usize, leg: &LegFacts| Ended { outcome: outcomes[at], status: leg.status };
    let ended = [ended(0, facts.prod), ended(1, facts.candidate)];
    let verdict = build.verdict(ended, &prod, &candidate);
    let [prod, candidate] = [(0, facts.prod), (1, facts.candidate)]
        .map(|(at, leg): (usize, _)| build.leg(leg, outcomes[at], &contents[at], docs[at]));
    let found = Asked { headers: &asked.head.headers, query: asked.head.uri.query(), doc: doc.as_ref().ok() };
    let pair = Pair {
        schema: SCHEMA.into(),
        id: id.into(),
        producer: (&*context.producer).into(),
        seq,
        labels: context.labels.iter().map(|(name, label)| (name.into(), label.into())).collect(),
        request_id: asked.id.as_str().into(),
        traceparent: traceparent(&asked.head.headers, build.redactions),
        time: rfc3339(asked.time).into(),
        route: route.name.as_str().into(),
        config: config_hash.into(),
        arm: facts.arm.as_str().into(),
        answered_by: answered_by(facts.answered, [&prod, &candidate]),
        bucket: facts.bucket,
        keys: extract::keys(&found, &route.capture.keys, build.redactions, hash_key),
        slices: extract::slices(&found, &route.slices, build.redactions),
        sample_percent: facts.sample_percent.as_f64(),
        tally: facts.tally,
        protocol: asked.protocol.into(),
        request: build.request(asked, content, doc.as_ref()),
        prod,
        candidate,
        result: verdict.result.as_str().into(),
        comparison: verdict.comparison,
        comparison_error: verdict.error.map(Into::into),
    };
    (pair, verdict.result)
}

/// The key of a pair's Kafka message: the value of the key with this name, else the request's id.
pub fn message_key<S: Borrow<str> + Ord>(pair: &Pair<S>, kafka_key: Option<&str>) -> String {
    let named = kafka_key.and_then(|name| pair.keys.get(name)).and_then(Option::as_ref);
    named.unwrap_or(&pair.request_id).borrow().to_owned()
}

/// The request's body, where anything asks for it: else it is neither decoded nor read.
fn request_content<'a>(route: &Route, asked: &'a RequestFacts) -> Content<'a> {
    let keys = route.capture.keys.iter().map(|(_, key)| &key.from);
    let mut sources = keys.chain(route.slices.iter().map(|(_, slice)| &slice.from));
    if route.capture.request || sources.any(|source| matches!(source, Source::Json(_))) {
        Content::of(&asked.body, &asked.head.headers, route.copy_body)
    } else {
        Content::NotCaptured
    }
}

/// What the parts of one record have in common.
struct Build<'b> {
    route: &'b Route,
    redactions: Redactions<'b>,
    api: Api,
}

impl<'b> Build<'b> {
    fn verdict(&self, ended: [Ended; 2], prod: &Answer, candidate: &Answer) -> Verdict {
        let rules = Rules {
            compare: &self.route.compare,
            api: self.api,
            redactions: self.redactions,
            show_values: self.route.capture.answers != CaptureAnswers::None,
            max_value: self.route.capture.max_body,
        };
        diff::without_answers(ended).unwrap_or_else(|| diff::compare(prod, candidate, &rules))
    }

    fn request(
        &self,
        asked: &'b RequestFacts,
        content: &'b Content<'b>,
        doc: Result<&Doc<'b>, &Unread>,
    ) -> Request<Cow<'b, str>> {
        let head = &*asked.head;
        Request {
            method: head.method.as_str().into(),
            path: head.uri.path().into(),
            query: head.uri.query().map(|query| self.redactions.query(query).into()),
            headers: self.headers(&head.headers),
            content_type: self.header(&head.headers, &CONTENT_TYPE),
            bytes: asked.bytes,
            body: self.body(content, doc, self.route.capture.request),
        }
    }

    fn leg(
        &self,
        leg: &'b LegFacts,
        outcome: Outcome,
        content: &'b Content<'b>,
        doc: Result<&Doc<'b>, &Unread>,
    ) -> Leg<Cow<'b, str>> {
        Leg {
            model: leg.model.name.as_str().into(),
            version: self.version(leg, doc.ok()),
            role: leg.role.as_str().into(),
            endpoint: leg.endpoint.as_deref().map(Into::into),
            reused: leg.reused,
            outcome: outcome.as_str().into(),
            status: leg.status,
            grpc_status: leg.grpc_status,
            start_us: leg.start_us,
            sent_us: leg.sent_us,
            first_byte_us: leg.first_byte_us,
            total_us: leg.total_us,
            lag_us: leg.lag_us,
            content_type: self.header(&leg.headers, &CONTENT_TYPE),
            headers: self.headers(&leg.headers),
            bytes: leg.bytes,
            body: self.body(content, doc, self.route.capture.answers == CaptureAnswers::Full),
        }
    }

    fn body(&self, content: &'b Content<'b>, doc: Result<&Doc<'b>, &Unread>, captured: bool) -> Body<Cow<'b, str>> {
        let hide = |doc: &Doc| self.redactions.document(doc);
        let redact = self.redactions.in_bodies().then_some(&hide as &dyn Fn(&Doc) -> String);
        let how = Recording { captured, max_body: self.route.capture.max_body, redact };
        body::record(content, doc, &how)
    }

    /// The fields that `capture.headers` lists.
    fn headers(&self, headers: &'b HeaderMap) -> BTreeMap<Cow<'b, str>, Cow<'b, str>> {
        let mut listed = BTreeMap::new();
        // One after another: `collect` would put them into a list before.
        for name in &self.route.capture.headers {
            listed.extend(self.header(headers, name).map(|value| (name.as_str().into(), value)));
        }
        listed
    }

    /// A field as it is recorded: lines that repeat are one, bytes that are no text are replaced.
    fn header(&self, headers: &'b HeaderMap, name: &HeaderName) -> Option<Cow<'b, str>> {
        let mut lines = headers.get_all(name).iter().map(|value| lossy(value.as_bytes()));
        let mut value = lines.next()?;
        for line in lines {
            let value = value.to_mut();
            value.push_str(", ");
            value.push_str(&line);
        }
        self.redactions.header(name, value)
    }

    /// The model's version as the routing file has it, else where the route's API says it.
    fn version(&self, leg: &'b LegFacts, doc: Option<&Doc>) -> Option<Cow<'b, str>> {
        let pointer = match &leg.model.version {
            Version::Label(label) => return Some(label.into()),
            Version::Header(name) => {
                return extract::short_header(&leg.headers, name, self.redactions).map(Into::into);
            }
            Version::Json(pointer) => pointer,
            Version::Unknown => api::version_pointer(self.api)?,
        };
        extract::short_text(doc?, pointer, self.redactions).map(Into::into)
    }
}

/// What the client got; the version is that of the leg that answered, or the file's.
fn answered_by<'a>(answered: &'a AnsweredFacts, legs: [&Leg<Cow<'a, str>>; 2]) -> AnsweredBy<Cow<'a, str>> {
    let model = answered.model.as_deref();
    let version = model.and_then(|model| {
        let leg = legs.into_iter().find(|leg| leg.model == model.name.as_str());
        match (&model.version, leg) {
            (Version::Label(label), _) => Some(label.into()),
            (_, leg) => leg?.version.clone(),
        }
    });
    AnsweredBy {
        model: model.map(|model| model.name.as_str().into()),
        version,
        role: answered.by.as_str().into(),
        status: answered.status,
    }
}

/// `from_utf8_lossy`, which reads byte by byte what is nearly always text.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

fn traceparent<'a>(headers: &'a HeaderMap, redactions: Redactions) -> Option<Cow<'a, str>> {
    let name = HeaderName::from_static("traceparent");
    let value = std::str::from_utf8(headers.get(&name)?.as_bytes()).ok()?;
    redactions.header(&name, value.into())
}

/// RFC 3339 with microseconds, in UTC. A clock that stands outside the years 1970 to 9999 is held at their ends.
fn rfc3339(time: SystemTime) -> String {
    let time = time.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND);
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;
    use crate::analysis::material::Captured;
    use crate::config::routing::*;
    use crate::record::Tally;
    use crate::types::{AnsweredBy as By, *};

    fn at(pointer: &str) -> Pointer {
        Pointer::parse(pointer).unwrap()
    }

    fn model(name: &str, version: Version) -> Arc<Model> {
        let (credentials, rewrite) = (Credentials::Pass, Rewrite::default());
        let (protocol, timeout) = (Protocol::Auto, Timeouts::default());
        let name = ModelName::new(name);
        Arc::new(Model {
            name,
            version,
            endpoints: vec![],
            protocol,
            timeout,
            max_connections: 0,
            credentials,
            rewrite,
            health: None,
        })
    }

    fn headers(list: &[(&'static str, &'static [u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    /// A request of a fraud model, answered by p and shadowed to c.
    struct Case {
        route: Route,
        request: RequestFacts,
        prod: LegFacts,
        candidate: LegFacts,
        answered: AnsweredFacts,
    }

    fn leg(model: &Arc<Model>, role: Role, body: &'static str) -> LegFacts {
        LegFacts {
            model: Arc::clone(model),
            role,
            endpoint: Some("http://m:1".into()),
            reused: Some(true),
            outcome: Outcome::Ok,
            status: Some(200),
            grpc_status: None,
            start_us: Some(10),
            sent_us: Some(20),
            first_byte_us: Some(30),
            total_us: Some(40),
            lag_us: 0,
            headers: headers(&[("content-type", b"application/json"), ("x-model-version", b"v7")]),
            bytes: body.len() as u64,
            body: Captured::Whole(Bytes::from_static(body.as_bytes())),
        }
    }

    fn capture() -> Capture {
        let key = |from, hash| Key { from, hash };
        Capture {
            request: true,
            answers: CaptureAnswers::Full,
            max_body: 1 << 10,
            headers: ["content-type", "x-country", "authorization"].map(HeaderName::from_static).into(),
            redact: vec![Redact { what: RedactWhat::Json(at("/user")), hash: false }],
            keys: vec![
                ("order".into(), key(Source::Json(at("/id")), false)),
                ("user".into(), key(Source::Json(at("/user")), true)),
                ("none".into(), key(Source::Cookie("c".into()), false)),
            ],
        }
    }

    impl Case {
        fn new() -> Self {
            let p = model("p", Version::Json(at("/model_version")));
            let c = model("c", Version::Header(HeaderName::from_static("x-model-version")));
            let rule = |name: &str, pointer| ValueRule {
                name: name.into(),
                at: ValueAt::Same(at(pointer)),
                kind: ValueKind::Number,
                tolerance: Some(Tolerance { absolute: 0.1, relative: 0.0 }),
            };
            let country = Slice { from: Source::Header(HeaderName::from_static("x-country")), buckets: vec![] };
            let route = Route {
                name: RouteName::new("fraud"),
                matcher: Match::default(),
                api: Api::Auto,
                prod: Arc::clone(&p),
                shadow: vec![],
                control: None,
                canary: None,
                fallback: None,
                retry: crate::config::routing::Retry::default(),
                copy_body: 1 << 20,
                capture: capture(),
                slices: vec![("country".into(), country)],
                compare: Compare { values: vec![rule("score", "/y"), rule("user", "/user")], ..Compare::default() },
            };
            let body = r#"{"id": 7, "user": "anna", "x": 1E400}"#;
            let fields = headers(&[
                ("content-type", b"text/plain"),
                ("x-country", b"DE"),
                ("x-country", b"\xff"),
                ("authorization", b"Bearer t"),
                ("traceparent", b"00-1-2-01"),
            ]);
            let (mut head, ()) = http::Request::post("/predict?token=t&q=%C3%A9").body(()).unwrap().into_parts();
            head.headers = fields;
            let request = RequestFacts {
                id: RequestId::from_client(b"r-1").unwrap(),
                time: UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001),
                head: Arc::new(head),
                protocol: "http/1.1",
                bytes: body.len() as u64,
                body: Captured::Whole(Bytes::from_static(body.as_bytes())),
            };
            let prod = leg(&p, Role::Prod, r#"{"y": 1.0, "user": 5, "model_version": "v6"}"#);
            let candidate = leg(&c, Role::Shadow, r#"{"y": 1.05, "user": 5}"#);
            let answered = AnsweredFacts { model: Some(p), by: By::Prod, status: 200 };
            Self { route, request, prod, candidate, answered }
        }

        fn pair(&self) -> Pair {
            let context = PairContext {
                producer: "host-1".into(),
                labels: [("cluster".to_string(), "eu1".to_string())].into(),
                hash_key: Some(Secret::new("key")),
            };
            let facts = PairFacts {
                route: &self.route,
                request: &self.request,
                arm: Arm::Prod,
                bucket: None,
                answered: &self.answered,
                sample_percent: Percent::ALL,
                tally: Tally { seen: 3, sampled: 2, skipped: 1 },
                prod: &self.prod,
                candidate: &self.candidate,
            };
            let contents = Contents::of(&facts);
            let (pair, result) = build(&context, &facts, &contents, "c0ffee", "id-1".into(), 9);
            assert_eq!(pair.result, result.as_str());
            serde_json::from_slice(&pair.encode().unwrap()).unwrap()
        }
    }

    fn as_json(pair: &Pair) -> Value {
        let line = pair.encode().unwrap();
        assert!(!line.contains(&b'\n'));
        assert_eq!(line, serde_json::to_vec(pair).unwrap());
        assert_eq!(&serde_json::from_slice::<Pair>(&line).unwrap(), pair);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_record_says_all_that_happened() {
        let record = as_json(&Case::new().pair());
        for (pointer, expected) in [
            ("/schema", json!("shadowpair.pair.v1")),
            ("/seq", json!(9)),
            ("/time", json!("2023-11-14T22:13:20.000001Z")),
            ("/request_id", json!("r-1")),
            ("/traceparent", json!("00-1-2-01")),
            ("/labels", json!({"cluster": "eu1"})),
            ("/answered_by", json!({"model": "p", "version": "v6", "role": "prod", "status": 200})),
            ("/slices", json!({"country": "DE"})),
            ("/sample_percent", json!(100.0)),
            ("/tally", json!({"seen": 3, "sampled": 2, "skipped": 1})),
            ("/request/path", json!("/predict")),
            ("/request/query", json!("token=REDACTED&q=%C3%A9")),
            ("/request/headers", json!({"content-type": "text/plain", "x-country": "DE, \u{fffd}"})),
            ("/request/body/encoding", json!("json")),
            ("/request/body/data", json!(r#"{"id": 7, "user": null, "x": 1E400}"#)),
            ("/prod/version", json!("v6")),
            ("/candidate/version", json!("v7")),
            ("/candidate/role", json!("shadow")),
            ("/candidate/content_type", json!("application/json")),
            ("/result", json!("within_tolerance")),
            ("/comparison/values/0/prod", json!([1.0])),
            ("/comparison/differs_at", json!(["/model_version"])),
            ("/comparison_error", json!(null)),
        ] {
            assert_eq!(record.pointer(pointer), Some(&expected), "{pointer}");
        }
    }

    #[test]
    fn what_is_redacted_stands_nowhere_in_the_record() {
        let record = as_json(&Case::new().pair());
        let text = record.to_string();
        assert!(!text.contains("anna") && !text.contains("Bearer") && !text.contains("token=t"));
        let user = &record["comparison"]["values"][1];
        assert_eq!((&user["result"], &user["prod"], &user["delta"]), (&json!("equal"), &json!(null), &json!(null)));
        assert!(record["keys"]["user"].as_str().unwrap().starts_with("hmac:"));
        assert_eq!((&record["keys"]["order"], &record["keys"]["none"]), (&json!("7"), &json!(null)));
    }

    #[test]
    fn a_leg_that_is_not_ok_names_the_side() {
        use Outcome::*;
        let expected = [
            (HttpError, Ok, "prod_failed", "prod ended with http_error, status 200"),
            (Ok, Timeout, "candidate_failed", "the candidate ended with timeout, status 200"),
            (
                Reset,
                HttpError,
                "both_failed",
                "prod ended with reset, status 200; the candidate ended with http_error, status 200",
            ),
            (
                Reset,
                Cancelled,
                "cancelled",
                "prod ended with reset, status 200; the candidate ended with cancelled, status 200",
            ),
            (Ok, Unmeasured, "unmeasured", "the candidate ended with unmeasured, status 200"),
        ];
        for (prod, candidate, result, error) in expected {
            let mut case = Case::new();
            (case.prod.outcome, case.candidate.outcome) = (prod, candidate);
            let pair = case.pair();
            assert_eq!((pair.result.as_str(), pair.comparison.as_ref()), (result, None));
            assert_eq!(pair.comparison_error.as_deref(), Some(error));
        }
    }

    #[test]
    fn the_capture_levels_hold() {
        let mut case = Case::new();
        case.route.capture.request = false;
        case.route.capture.answers = CaptureAnswers::Values;
        let pair = case.pair();
        assert_eq!(
            [&pair.request.body, &pair.prod.body, &pair.candidate.body].map(|b| b.reason.as_deref()),
            [Some("not_captured"); 3]
        );
        assert_eq!(pair.keys["order"].as_deref(), Some("7"));
        assert_eq!(pair.comparison.unwrap().values[0].prod, Some(vec![Some(1.0)]));
        case.route.capture.answers = CaptureAnswers::None;
        assert_eq!(case.pair().comparison.unwrap().values[0].prod, None);
    }

    #[test]
    fn the_message_key_is_the_named_key_or_the_request() {
        let pair = Case::new().pair();
        assert_eq!(message_key(&pair, Some("order")), "7");
        for missing in [None, Some("none"), Some("unknown")] {
            assert_eq!(message_key(&pair, missing), "r-1");
        }
    }

    #[test]
    fn a_clock_out_of_range_is_held() {
        assert_eq!(rfc3339(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(UNIX_EPOCH + LAST_SECOND + LAST_SECOND), "9999-12-31T23:59:59.000000Z");
    }
}
