//! What is changed in a request to one model, and that it is changed for that model only.

use std::io::Write;

use crate::support::stub::Seen;
use crate::support::wire::Framing;
use crate::support::{Act, Plan, Stub, get, post, request};

const JSON: &str = r#"rewrite: {json: {/model: "a-much-longer-name", /a~1b: 1, /list/0/x: 2}}"#;

#[test]
fn a_json_rewrite_changes_just_its_places_and_the_length() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", JSON).start();
    let body = "{ \"model\" : \"m\",\r\n  \"big\": 6000000000000002181, \"huge\": 1E400,\n\t\"list\": [ {\"x\": 1, \"z\": \"\\u00e9\"} ],\
        \"a/b\": null , \"n\": 1.0 }";
    let want = "{ \"model\" : \"a-much-longer-name\",\r\n  \"big\": 6000000000000002181, \"huge\": 1E400,\n\t\"list\": [ {\"x\": 2, \"z\": \"\\u00e9\"} ],\
        \"a/b\": 1 , \"n\": 1.0 }";
    let fields =
        [("content-md5", "abc="), ("digest", "sha-256=abc"), ("content-digest", "sha-256=:abc:"), ("x-end", "1")];
    bench.ask(request("POST /", &fields, body.as_bytes()));
    let copy = c.one();
    assert_eq!(String::from_utf8_lossy(&copy.body), want);
    assert_eq!(copy.framing, Framing::Length(want.len()));
    assert!(copy.head.values("transfer-encoding").is_empty());
    for gone in ["content-md5", "digest", "content-digest"] {
        assert_eq!(copy.value(gone), None, "{gone} is of the old body");
    }
    assert_eq!(copy.value("x-end").as_deref(), Some("1"));
    let prod = p.one();
    assert_eq!(prod.body, body.as_bytes());
    assert_eq!(prod.value("digest").as_deref(), Some("sha-256=abc"));
    let pair = bench.pair();
    assert_eq!(pair["request"]["body"]["data"], body, "the record holds the client's own");
}

#[test]
fn a_json_rewrite_adds_keys_that_are_missing() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", r#"rewrite: {json: {/model: "n", /a~1b: 1}}"#).start();
    bench.ask("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n7\r\n{\"x\":1}\r\n0\r\n\r\n");
    let copy = c.one();
    let json: serde_json::Value = serde_json::from_slice(&copy.body).unwrap();
    assert_eq!(json, serde_json::json!({"x": 1, "model": "n", "a/b": 1}));
    let lengths = copy.head.values("content-length").len() + copy.head.values("transfer-encoding").len();
    assert_eq!(lengths, 1, "Content-Length or chunked, never both");
}

#[test]
fn a_large_json_body_is_rewritten_whole() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", r#"rewrite: {json: {/model: "n"}}"#).start();
    let body = format!("{{\"pad\":\"{}\",\"model\":1}}", "a".repeat(2 << 20));
    bench.ask(post("/", &body));
    let copy = c.one();
    let want = body.replace("\"model\":1", "\"model\":\"n\"");
    assert!(copy.body == want.as_bytes());
    assert_eq!(copy.framing, Framing::Length(want.len()));
    assert!(p.one().body == body.as_bytes(), "prod's is untouched");
}

#[test]
fn where_a_json_rewrite_cannot_be_applied_the_copy_is_skipped_and_counted() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", r#"rewrite: {json: {/model: "n"}}"#).start();
    let top_level = include_bytes!("../fixtures/payloads/mlflow/records-top-level.request.json");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(br#"{"model":"m"}"#).unwrap();
    let zipped = gzip.finish().unwrap();
    let inputs: [&[u8]; 7] = [b"not json", b"[{\"a\":1}]", top_level, b"\x1f\x8b\x08\x00", &zipped, b"{\"x\": 1", b""];
    for body in inputs {
        let coding = if body == zipped { "gzip" } else { "identity" };
        assert_eq!(bench.ask(request("POST /", &[("content-encoding", coding)], body)).status, 200);
    }
    bench.wait_skipped("rewrite_failed", 7.0);
    assert!(c.seen().is_empty());
    assert_eq!(p.wait(7).iter().map(|seen| seen.body.as_slice()).collect::<Vec<_>>(), inputs);
    bench.ask(post("/", r#"{"model":"m"}"#));
    assert_eq!(bench.pair()["tally"]["skipped"], 7, "seen in the next pair");
}

#[test]
fn prods_own_rewrite_is_applied_on_the_answer_path() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address)
        .with("p", r#"rewrite: {json: {/model: "prod"}}"#)
        .route("copy_body: 1KiB")
        .route("control: {percent: 100}")
        .start();
    assert_eq!(bench.ask(post("/", r#"{"model":"m", "x":1}"#)).status, 200);
    let asked = p.wait(2);
    assert!(asked.iter().all(|seen| seen.body == br#"{"model":"prod", "x":1}"#), "its control too: {asked:?}");
    assert_eq!(c.one().body, br#"{"model":"m", "x":1}"#, "for that model only");
    assert_eq!(bench.ask(post("/", "no JSON")).status, 200, "what cannot be rewritten is prod's, as it came");
    assert!(p.wait(4)[2..].iter().all(|seen| seen.body == b"no JSON"), "and its control's");
    let large = bench.ask(post("/", &format!("{{\"pad\":\"{}\"}}", "a".repeat(2000))));
    assert_eq!(large.status, 413, "beyond copy_body it cannot be rewritten");
    assert!(!large.error().is_empty());
    assert_eq!(p.seen().len(), 4);
}

#[test]
fn digests_of_the_old_body_are_removed_from_trailers_too() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", r#"rewrite: {json: {/model: "n"}}"#).start();
    bench.ask(
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\ntrailer: content-digest, repr-digest, x-end\r\n\r\n\
         d\r\n{\"model\":\"m\"}\r\n0\r\ncontent-digest: sha-256=:abc:\r\nrepr-digest: sha-256=:abc:\r\nx-end: 1\r\n\r\n",
    );
    let trailers = |seen: &Seen| seen.trailers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(trailers(&c.one()), ["x-end"]);
    assert_eq!(trailers(&p.one()), ["content-digest", "repr-digest", "x-end"]);
}

#[test]
fn digests_of_a_body_that_goes_out_as_it_came_stay() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).with("p", r#"rewrite: {json: {/model: "n"}}"#).start();
    bench.ask(request("POST /", &[("content-md5", "abc=")], b"no JSON"));
    bench.ask(request("POST /", &[("content-md5", "abc=")], b"{}"));
    let digests: Vec<_> = p.wait(2).iter().map(|seen| seen.value("content-md5")).collect();
    assert_eq!(digests, [Some("abc=".to_owned()), None]);
}

#[test]
fn a_fallback_whose_rewrite_cannot_be_made_is_not_asked_and_not_counted() {
    let (p, f) = (Stub::doing(vec![Act::Reset]), Stub::json(r#"{"y":3}"#));
    let bench = Plan::prod(p.address)
        .model("f", &[f.address])
        .with("f", r#"rewrite: {json: {/model: "f"}}"#)
        .route("copy_body: 1KiB")
        .route("fallback: f")
        .start();
    assert_eq!(bench.ask(post("/", r#"{"model":"m"}"#)).text(), r#"{"y":3}"#);
    assert_eq!(bench.ask(post("/", &format!("{{\"pad\":\"{}\"}}", "a".repeat(2000)))).status, 502);
    assert_eq!(f.one().body, br#"{"model":"f"}"#);
    assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[("role", "fallback")]), 1.0);
    assert_eq!(bench.metrics().sum("shadowpair_in_flight", &[("role", "fallback")]), 0.0);
}

#[test]
fn path_host_and_fields_are_rewritten_for_one_model() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let rewrite = "rewrite: {path: /v2/models/new/infer, host: fraud.internal, headers: {set: {x-team: risk, x-new: a}, remove: [x-debug]}}";
    let bench = Plan::pair(p.address, c.address).with("c", rewrite).start();
    let fields = [("x-team", "old"), ("x-team", "older"), ("x-debug", "1"), ("x-keep", "1")];
    bench.ask(request("POST /v2/models/old/infer?q=%zz", &fields, b"{}"));
    let copy = c.one();
    assert_eq!(copy.target(), "POST /v2/models/new/infer?q=%zz");
    assert_eq!(copy.value("host").as_deref(), Some("fraud.internal"));
    assert_eq!(copy.head.values("x-team"), ["risk"]);
    assert_eq!((copy.value("x-new").as_deref(), copy.value("x-debug")), (Some("a"), None));
    assert_eq!(copy.value("x-keep").as_deref(), Some("1"));
    let prod = p.one();
    assert_eq!(prod.target(), "POST /v2/models/old/infer?q=%zz");
    assert_eq!(prod.value("host").as_deref(), Some("models.test"));
    assert_eq!(prod.head.values("x-team"), ["old", "older"]);
    assert_eq!(prod.value("x-debug").as_deref(), Some("1"));
}

#[test]
fn a_path_prefix_is_replaced_and_the_host_may_be_the_endpoints_own() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address)
        .matching("{path_prefix: /v2/}")
        .with("c", r#"rewrite: {path_prefix: /new/, host: "@endpoint"}"#)
        .start();
    let mut client = bench.client();
    for path in ["/v2/models/m/infer?a=/v2/", "/v2/", "/v2", "/v2//x"] {
        assert_eq!(client.ask(get(path)).status, 200);
        c.wait(p.seen().len());
    }
    let targets: Vec<String> = c.seen().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(targets[0], "GET /new/models/m/infer?a=/v2/");
    assert_eq!(targets[1], "GET /new/");
    assert!(targets[2] == "GET /new" || targets[2] == "GET /new/", "{}", targets[2]);
    assert_eq!(targets[3], "GET /new//x");
    assert_eq!(c.seen()[0].value("host"), Some(c.address.to_string()));
}

#[test]
fn credentials_are_stripped_for_the_model_that_asks_for_it() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).with("c", "credentials: strip").start();
    let fields = [
        ("authorization", "Bearer s3cret"),
        ("cookie", "sid=s3cret"),
        ("x-api-key", "s3cret"),
        ("api-key", "s3cret"),
        ("x-goog-api-key", "s3cret"),
        ("x-user", "u"),
    ];
    bench.ask(request("GET /", &fields, b""));
    let copy = c.one();
    assert!(!String::from_utf8_lossy(&copy.head.raw).contains("s3cret"));
    assert_eq!(copy.value("x-user").as_deref(), Some("u"));
    assert_eq!(p.one().value("authorization").as_deref(), Some("Bearer s3cret"));
}
