//! The functions that every request passes through, each timed alone by criterion: a route among 1 and 10,000, the arm
//! of a sticky key, the answer's copy beside the answer, and the record of a pair: compared, built, encoded.
//!
//! `cargo bench --bench hot`, or `cargo bench --bench hot -- route` for some of them. The comparison with other proxies
//! is `benches/peers/run`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// criterion's macros make a public function without a word on it.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Method};

use shadowpair::analysis::body::Content;
use shadowpair::analysis::diff::{self, Answer, Rules};
use shadowpair::analysis::material::{AnsweredFacts, Captured, LegFacts, PairContext, PairFacts, RequestFacts};
use shadowpair::analysis::pair;
use shadowpair::analysis::redact::Redactions;
use shadowpair::analysis::stream::read;
use shadowpair::analysis::stream::watch::Watch;
use shadowpair::budget::Budget;
use shadowpair::config::load;
use shadowpair::config::routing::{Model, Route};
use shadowpair::proxy::assign::assign;
use shadowpair::record::Tally;
use shadowpair::snapshot::table::{Asked, Table};
use shadowpair::types::{Api, Arm, Outcome, Percent, RequestId, Role};
use shadowpair::upstream::capture::Capture;

criterion_group!(hot, route, arm, tee, stream, record);
criterion_main!(hot);

/// The routes of a file with so many, the last of which takes everything.
fn routes(count: usize) -> Vec<Arc<Route>> {
    let mut yaml = String::from(
        "version: 1\nserver: {listen: 127.0.0.1:0, admin: 127.0.0.1:0}\nmodels:\n  \
         prod: {endpoints: [\"http://127.0.0.1:1\"]}\n  next: {endpoints: [\"http://127.0.0.1:2\"]}\nroutes:\n",
    );
    for at in 1..count {
        yaml += &format!("  - {{name: r{at}, match: {{path_prefix: /v1/tenants/{at}}}, prod: prod}}\n");
    }
    yaml += "  - name: all\n    match: {path_prefix: /}\n    prod: prod\n    \
             shadow: [{model: next, percent: 100}]\n    \
             canary: {model: next, percent: 5, sticky: {header: x-user-id}}\n    \
             compare: {values: [{name: y, at: /y, kind: number, tolerance: {absolute: 0.001}}]}\n";
    let loaded = load::from_str("bench.yaml", &yaml).unwrap_or_else(|faults| panic!("{faults}"));
    loaded.config.routing.routes
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    let headers = HeaderMap::new();
    for count in [1, 10_000] {
        let routes = routes(count);
        let table = Table::new(routes.iter().map(|route| &route.matcher));
        for (name, path) in [("last", "/v1/models/iris:predict"), ("prefix", "/v1/tenants/5000/iris:predict")] {
            let asked = Asked { host: "models.example:8080", path, method: &Method::POST, headers: &headers };
            assert!(table.find(&asked).is_some());
            group.bench_function(format!("{name} of {count}"), |bench| bench.iter(|| table.find(black_box(&asked))));
        }
    }
}

fn arm(criterion: &mut Criterion) {
    let route = routes(1).remove(0);
    let rule = route.canary.as_ref();
    assert!(rule.is_some());
    criterion.bench_function("assign", |bench| {
        bench.iter(|| assign(black_box(route.name.as_str()), rule, black_box(Some("user-4711")), 0));
    });
}

fn tee(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tee");
    let budget = Budget::new(1 << 30);
    for (name, pieces, size) in [("1 KB in one piece", 1, 1 << 10), ("256 KB in 16 pieces", 16, 16 << 10)] {
        let data = vec![b'x'; size];
        group.throughput(Throughput::Bytes((pieces * size) as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut capture = Capture::new(4 << 20, budget.charge());
                for _ in 0..pieces {
                    capture.push(black_box(&data));
                }
                capture.finish(true)
            });
        });
    }
}

/// A JSON answer of about a kilobyte: some numbers of it are as `shift` says.
/// 300 tokens of a chat, an event each, as OpenAI's API sends them.
fn stream(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream");
    let chunk = "data: {\"id\":\"chatcmpl-ASYMZ4oSykiIFK4lXLReDiKyAjsQl\",\"object\":\"chat.completion.chunk\",\
        \"created\":1731368639,\"model\":\"gpt-4-0613\",\"system_fingerprint\":null,\"choices\":[{\"index\":0,\
        \"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
    let mut watch = Watch::of(&headers, Api::Auto).unwrap();
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("watch, an event", |bench| bench.iter(|| watch.saw(black_box(chunk.as_bytes()))));
    let whole = chunk.repeat(300) + "data: [DONE]\n\n";
    group.throughput(Throughput::Bytes(whole.len() as u64));
    group.bench_function("read, 300 events", |bench| {
        bench.iter(|| read(black_box(whole.as_bytes()), &headers, Api::Auto))
    });
    group.finish();
}

fn answer(shift: f64) -> Bytes {
    let numbers: Vec<String> = (0..120).map(|at| format!("{:.4}", f64::from(at) / 7.0 + shift)).collect();
    Bytes::from(format!(r#"{{"id":"fixed","model":"iris","y":{:.4},"data":[{}]}}"#, 0.75 + shift, numbers.join(",")))
}

fn leg(model: &Arc<Model>, role: Role, body: Bytes) -> LegFacts {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    LegFacts {
        model: Arc::clone(model),
        role,
        endpoint: Some("http://127.0.0.1:1".into()),
        reused: Some(true),
        outcome: Outcome::Ok,
        status: Some(200),
        grpc_status: None,
        start_us: Some(10),
        sent_us: Some(20),
        first_byte_us: Some(300),
        total_us: Some(310),
        lag_us: 0,
        headers,
        bytes: body.len() as u64,
        body: Captured::Whole(body),
    }
}

fn request() -> RequestFacts {
    let asked = http::Request::post("/v1/models/iris:predict").header("content-type", "application/json");
    let (head, ()) = asked.body(()).expect("a request").into_parts();
    let body = answer(0.0);
    RequestFacts {
        id: RequestId::from_client(b"0193a2b4-5c6d-7e8f-9012-3456789abcde").expect("an id"),
        time: UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
        head: Arc::new(head),
        protocol: "http/1.1",
        bytes: body.len() as u64,
        body: Captured::Whole(body),
    }
}

/// What the analysis thread does with a pair of 1 KB answers, as a whole and in its parts.
fn record(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pair of 1 KB");
    let (route, request) = (routes(1).remove(0), request());
    let next = Arc::clone(&route.shadow[0].model);
    let prod = leg(&route.prod, Role::Prod, answer(0.0));
    for (name, shift) in [("equal", 0.0), ("differs", 0.5)] {
        let candidate = leg(&next, Role::Shadow, answer(shift));
        group.bench_function(format!("diff, {name}"), |bench| bench.iter(|| compare(&route, &prod, &candidate)));
        let context = PairContext { producer: "host-1".into(), labels: [].into(), hash_key: None };
        let facts = PairFacts {
            route: &route,
            request: &request,
            arm: Arm::Prod,
            bucket: None,
            answered: &AnsweredFacts {
                model: Some(Arc::clone(&route.prod)),
                by: shadowpair::types::AnsweredBy::Prod,
                status: 200,
            },
            sample_percent: Percent::ALL,
            tally: Tally { seen: 1, sampled: 1, skipped: 0 },
            prod: &prod,
            candidate: &candidate,
        };
        let build = |contents: &pair::Contents| {
            black_box(pair::build(&context, &facts, contents, "c0ffee", "id".into(), 1));
        };
        group.bench_function(format!("build, {name}"), |bench| bench.iter(|| build(&pair::Contents::of(&facts))));
        let contents = pair::Contents::of(&facts);
        let pair = pair::build(&context, &facts, &contents, "c0ffee", "id".into(), 1).0;
        group.bench_function(format!("encode, {name}"), |bench| bench.iter(|| pair.encode()));
    }
}

/// Reads both answers and compares them, as a pair's record does.
fn compare(route: &Route, prod: &LegFacts, candidate: &LegFacts) -> diff::Verdict {
    let contents = [prod, candidate].map(|leg| Content::of(&leg.body, &leg.headers, route.copy_body));
    let docs = contents.each_ref().map(Content::read);
    let side = |at: usize, leg| Answer { model: leg, content: &contents[at], doc: docs[at].as_ref() };
    let rules = Rules {
        compare: &route.compare,
        api: Api::None,
        redactions: Redactions::new(&[], None),
        show_values: true,
        max_value: route.capture.max_body,
    };
    diff::compare(black_box(&side(0, &prod.model.name)), black_box(&side(1, &candidate.model.name)), &rules)
}
