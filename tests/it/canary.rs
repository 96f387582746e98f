//! The canary: which clients it answers, and what prod and the candidates see meanwhile.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use serde_json::Value;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::support::h2::{Frames, h2_post};
use crate::support::{Act, Answer, Bench, Client, Plan, Stub, get, ok_json, post, post_as, request};

pub(crate) const P: &str = r#"{"y":1}"#;
pub(crate) const C: &str = r#"{"y":2}"#;

/// The contract's formula, for the route `r`.
fn bucket(key: &str) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), xxh3_64(b"r")) % 10_000
}

/// Prod `p` and the canary `c`, which answers this share.
pub(crate) fn canary(p: SocketAddr, c: SocketAddr, keys: &str) -> Plan {
    Plan::prod(p).model("c", &[c]).route(format!("canary: {{model: c, {keys}}}"))
}

/// A text as gzip.
pub(crate) fn gzipped(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

/// The same for everyone.
pub(crate) fn all(p: SocketAddr, c: SocketAddr) -> Plan {
    canary(p, c, "percent: 100")
}

/// A POST of a client with this id.
fn of_user(user: &str) -> Vec<u8> {
    request("POST /", &[("x-user-id", user)], b"{}")
}

fn by_id(pairs: &[Value]) -> BTreeMap<&str, &Value> {
    pairs.iter().map(|pair| (pair["request_id"].as_str().unwrap(), pair)).collect()
}

#[test]
fn the_formula_gives_what_another_implementation_gives() {
    // xxhash 3.x for Python: xxh3_64_intdigest(key, seed=xxh3_64_intdigest(b"r")) % 10000.
    let known = [("u1", 9235), ("user-42", 5389), ("7", 2385), ("ключ", 4573)];
    assert_eq!(known.map(|(key, _)| bucket(key)), known.map(|(_, bucket)| bucket));
}

/// Sends one request for each key and holds arm, bucket and answer against the formula.
fn holds_the_formula(sticky: &str, server: &str, send: impl Fn(&mut Client, &str, &str) -> Answer) {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let rule = format!("percent: 50, sticky: {{{sticky}}}");
    let bench = canary(p.address, c.address, &rule).shadow("[{model: c, percent: 100}]").server(server).start();
    let mut client = bench.client();
    let keys: Vec<String> = (0..24).map(|nth| format!("10.0.{nth}.{}", nth * 3)).collect();
    let mut canaries = 0;
    for key in &keys {
        let is_canary = bucket(key) < 5000;
        canaries += u32::from(is_canary);
        let answer = send(&mut client, key, key);
        assert_eq!(answer.text(), if is_canary { C } else { P }, "{sticky} {key}");
    }
    assert!((1..24).contains(&canaries), "both arms: {canaries}");
    let pairs = bench.pairs(24);
    for (key, pair) in by_id(&pairs) {
        let arm = if bucket(key) < 5000 { "canary" } else { "prod" };
        assert_eq!((&pair["bucket"], &pair["arm"]), (&bucket(key).into(), &arm.into()), "{sticky} {key}");
        assert_eq!(pair["answered_by"]["role"], arm);
        assert_eq!(pair["candidate"]["role"], if arm == "canary" { "canary" } else { "shadow" });
    }
}

#[test]
fn a_key_from_any_place_falls_where_the_formula_says() {
    let json = |key: &str| format!("{{\"user\":{{\"id\":\"{key}\"}}}}");
    let plain = "labels: {}";
    holds_the_formula("header: x-user-id", plain, |client, id, key| {
        client.ask(request("POST /", &[("x-request-id", id), ("x-user-id", key), ("x-user-id", "other")], b"{}"))
    });
    holds_the_formula("cookie: uid", plain, |client, id, key| {
        let cookies = format!("a=b; uid={key}; uid=other");
        client.ask(request("POST /", &[("x-request-id", id), ("cookie", &cookies)], b"{}"))
    });
    holds_the_formula("query: user", plain, |client, id, key| {
        client.ask(request(&format!("POST /?a=1&user={key}&user=other"), &[("x-request-id", id)], b"{}"))
    });
    holds_the_formula("json: /user/id", plain, |client, id, key| client.ask(post_as(id, &json(key))));
    holds_the_formula("json: /user/id", plain, |client, id, key| {
        let fields = [("x-request-id", id), ("content-encoding", "gzip")];
        client.ask(request("POST /", &fields, &gzipped(&json(key))))
    });
    holds_the_formula("client_ip: true", "trusted_proxies: [127.0.0.0/8]", |client, id, key| {
        client.ask(request("POST /", &[("x-request-id", id), ("x-forwarded-for", key)], b"{}"))
    });
}

#[test]
fn an_untrusted_peers_word_about_the_client_does_not_count() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let bench = canary(p.address, c.address, "percent: 100, sticky: {client_ip: true}").start();
    for nth in 0..3 {
        let forwarded = format!("10.0.0.{nth}");
        bench.ask(request("POST /", &[("x-forwarded-for", &forwarded)], b"{}"));
    }
    assert!(bench.pairs(3).iter().all(|pair| pair["bucket"] == bucket("127.0.0.1")));
}

#[test]
fn split_cookie_fields_of_http2_count_as_one() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let bench = canary(p.address, c.address, "percent: 100, sticky: {cookie: uid}").start();
    let mut asked = h2_post("/", Frames::bytes("{}"));
    for cookie in ["a=1", "uid=u7", "uid=u8"] {
        asked.headers_mut().append("cookie", cookie.parse().unwrap());
    }
    assert_eq!(bench.h2().ask(asked).unwrap().body, C.as_bytes());
    assert_eq!(bench.pair()["bucket"], bucket("u7"));
}

#[test]
fn without_a_key_chance_draws_the_arm() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let rule = "percent: 50, sticky: {json: /k}";
    let bench = canary(p.address, c.address, rule).shadow("[{model: c, percent: 100}]").start();
    let bodies =
        ["{}", r#"{"k":null}"#, r#"{"k":""}"#, r#"{"k":"  "}"#, r#"{"k":{}}"#, r#"{"k":[1]}"#, "no json", "[", ""];
    let mut client = bench.client();
    let mut canaries = 0;
    for nth in 0..90 {
        canaries += u32::from(client.ask(post("/", bodies[nth % 9])).text() == C);
    }
    // Six standard deviations of the binomial.
    assert!((17..=73).contains(&canaries), "about half of 90: {canaries}");
    assert!(bench.pairs(90).iter().all(|pair| pair["bucket"].is_null()));
}

#[test]
fn a_blank_or_missing_header_cookie_or_query_is_no_key() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    for (sticky, with) in [
        ("header: x-user-id", request("POST /", &[("x-user-id", " ")], b"{}")),
        ("header: x-user-id", request("POST /", &[], b"{}")),
        ("cookie: uid", request("POST /", &[("cookie", "uid=; b=c")], b"{}")),
        ("query: user", request("POST /?user=&users=x", &[], b"{}")),
        ("query: user", request("POST /?user=%20", &[], b"{}")),
    ] {
        let bench = canary(p.address, c.address, &format!("percent: 100, sticky: {{{sticky}}}")).start();
        assert_eq!(bench.ask(with).text(), C);
        assert!(bench.pair()["bucket"].is_null(), "{sticky}");
    }
}

#[test]
fn the_number_7_and_the_text_7_are_one_key() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let bench = canary(p.address, c.address, "percent: 100, sticky: {json: /k}").start();
    bench.ask(post("/", r#"{"k":7}"#));
    bench.ask(post("/", r#"{"k":"7"}"#));
    assert!(bench.pairs(2).iter().all(|pair| pair["bucket"] == bucket("7")));
}

/// `{"k":"u1","x":"aaa…"}` of so many bytes.
#[test]
fn a_key_in_a_body_that_unfolds_beyond_measure_is_none() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let bench = canary(p.address, c.address, "percent: 100, sticky: {json: /k}").start();
    let ask = |pad: usize| {
        let body = gzipped(&format!("{{\"k\":\"u\",\"pad\":\"{}\"}}", "a".repeat(pad)));
        assert_eq!(bench.ask(request("POST /", &[("content-encoding", "gzip")], &body)).status, 200);
    };
    ask(100);
    ask(1 << 20);
    let pairs = bench.pairs(2);
    assert_eq!(pairs[0]["bucket"], bucket("u"));
    assert_eq!(pairs[1]["bucket"], Value::Null);
}

fn big_json(bytes: usize) -> String {
    let start = r#"{"k":"u1","x":""#;
    format!("{start}{}\"}}", "a".repeat(bytes - start.len() - 2))
}

pub(crate) fn chunked(line: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line} HTTP/1.1\r\nhost: models.test\r\ntransfer-encoding: chunked\r\n").into_bytes();
    for (name, value) in fields {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    for piece in body.chunks(7000) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[test]
fn a_body_larger_than_copy_body_has_no_key_and_passes_whole() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    for share in [0, 100] {
        let rule = format!("percent: {share}, sticky: {{json: /k}}");
        let bench = canary(p.address, c.address, &rule).route("copy_body: 64KiB").start();
        let (model, said) = if share == 0 { (&p, P) } else { (&c, C) };
        for size in [65_536, 65_537, 1 << 20] {
            let body = big_json(size);
            for sent in [request("POST /", &[], body.as_bytes()), chunked("POST /", &[], body.as_bytes())] {
                let answer = bench.ask(sent);
                assert_eq!((answer.status, answer.text().as_str()), (200, said), "{size} bytes at {share} %");
                assert!(model.seen().last().unwrap().body == body.as_bytes(), "{size} bytes at {share} %");
            }
        }
        if share == 100 {
            bench.wait_skipped("body_too_large", 4.0);
            assert!(bench.pairs(2).iter().all(|pair| pair["bucket"] == bucket("u1")), "what fits has its key");
        }
    }
}

#[test]
fn a_body_too_large_for_a_key_is_replayed_to_prod_when_the_canary_refuses() {
    let p = Stub::json(P);
    let rule = "percent: 100, sticky: {json: /k}";
    let bench = canary(p.address, Stub::nobody(), rule).route("copy_body: 64KiB").start();
    let body = big_json(1 << 20);
    assert_eq!(bench.ask(request("POST /", &[], body.as_bytes())).text(), P);
    assert!(p.one().body == body.as_bytes());
}

/// Requests at prod by their id, without the marked ones.
fn unmarked(p: &Stub) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in p.seen().iter().filter(|seen| seen.value("x-shadowpair-role").is_none()) {
        *counts.entry(seen.value("x-request-id").unwrap()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn while_the_canary_answers_prod_is_asked_once_for_all_who_need_it() {
    let (p, c, d) = (Stub::json(P), Stub::json(C), Stub::json(P));
    let bench = all(p.address, c.address)
        .model("d", &[d.address])
        .shadow("[{model: d, percent: 100}]")
        .route("control: {percent: 100}")
        .start();
    for nth in 0..10 {
        assert_eq!(bench.ask(post_as(&format!("id-{nth}"), "{}")).text(), C);
    }
    let pairs = bench.pairs(30);
    assert_eq!(unmarked(&p), (0..10).map(|nth| (format!("id-{nth}"), 1)).collect());
    assert_eq!(p.seen().len(), 20, "and once more for the control");
    for role in ["canary", "shadow", "control"] {
        let theirs: Vec<&Value> = pairs.iter().filter(|pair| pair["candidate"]["role"] == role).collect();
        assert_eq!(theirs.len(), 10);
        for pair in theirs {
            assert_eq!((&pair["prod"]["role"], &pair["prod"]["outcome"]), (&"prod".into(), &"ok".into()), "{pair}");
            assert_eq!((&pair["arm"], &pair["answered_by"]["role"]), (&"canary".into(), &"canary".into()));
            assert_eq!(pair["answered_by"]["model"], "c");
            assert_eq!(pair["result"], if role == "canary" { "differs" } else { "equal" });
        }
    }
}

#[test]
fn pair_percent_decides_about_the_canarys_pair_alone() {
    let (p, c, d) = (Stub::json(P), Stub::json(C), Stub::json(P));
    let none = canary(p.address, c.address, "percent: 100, pair_percent: 0");
    let bench = none.clone().start();
    (0..10).for_each(|_| assert_eq!(bench.ask(post("/", "{}")).text(), C));
    drop(bench);
    assert_eq!((p.seen().len(), c.seen().len()), (0, 10), "nobody needs prod");
    let bench = none.model("d", &[d.address]).shadow("[{model: d, percent: 100}]").start();
    (0..10).for_each(|_| assert_eq!(bench.ask(post("/", "{}")).text(), C));
    let pairs = bench.pairs(10);
    assert!(pairs.iter().all(|pair| pair["candidate"]["role"] == "shadow" && pair["result"] == "equal"));
    assert_eq!((p.seen().len(), unmarked(&p).len()), (10, 10));
}

#[test]
fn a_model_that_is_shadow_and_canary_is_called_once_for_a_request() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let rule = "percent: 50, sticky: {header: x-user-id}";
    let bench = canary(p.address, c.address, rule).shadow("[{model: c, percent: 100}]").start();
    for nth in 0..40 {
        bench.ask(of_user(&format!("u{nth}")));
    }
    let pairs = bench.pairs(40);
    let canaries = pairs.iter().filter(|pair| pair["candidate"]["role"] == "canary").count();
    assert_eq!(canaries, (0..40).filter(|nth| bucket(&format!("u{nth}")) < 5000).count());
    assert_eq!((c.seen().len(), p.seen().len()), (40, 40));
}

#[test]
fn the_canarys_leg_is_marked_and_prods_beside_it_is_not() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let bench = all(p.address, c.address).start();
    let fields = [("idempotency-key", "k1"), ("x-shadowpair-role", "prod"), ("x-request-id", "id")];
    bench.ask(request("POST /", &fields, b"{}"));
    let (prod, canary) = (p.one(), c.one());
    assert_eq!(canary.value("x-shadowpair-role").as_deref(), Some("canary"));
    assert_eq!(canary.value("idempotency-key").as_deref(), Some("k1-canary"));
    assert_eq!(prod.value("x-shadowpair-role"), None);
    assert_eq!(prod.value("idempotency-key").as_deref(), Some("k1"));
    assert_eq!((prod.value("x-request-id"), canary.value("x-request-id")), (Some("id".into()), Some("id".into())));
    bench.pair();
}

#[test]
fn an_answer_of_the_canary_waits_for_no_shadow() {
    let (p, d) = (Stub::doing(vec![Act::Hang]), Stub::doing(vec![Act::Hang]));
    let c = Stub::json(C);
    let bench = all(p.address, c.address)
        .with("p", "timeout: {first_byte: 700ms}")
        .model("d", &[d.address])
        .shadow("[{model: d, percent: 100, timeout: 700ms}]")
        .start();
    assert_eq!(bench.ask(post("/", "{}")).text(), C);
    let pairs = bench.pairs(2);
    assert!(pairs.iter().all(|pair| pair["prod"]["outcome"] == "timeout" && pair["answered_by"]["role"] == "canary"));
}

#[test]
fn the_sample_knows_nothing_of_the_bucket() {
    let (p, c, d) = (Stub::json(P), Stub::json(C), Stub::json(P));
    let bench = canary(p.address, c.address, "percent: 50, pair_percent: 0, sticky: {header: x-user-id}")
        .model("d", &[d.address])
        .shadow("[{model: d, percent: 50}]")
        .start();
    let mut client = bench.client();
    for nth in 0..800 {
        client.ask(of_user(&format!("u{nth}")));
    }
    let arms: Vec<usize> = [true, false]
        .map(|canary| (0..800).filter(|nth| (bucket(&format!("u{nth}")) < 5000) == canary).count())
        .to_vec();
    bench.settle();
    let pairs = bench.pairs(bench.metrics().count("shadowpair_pairs_total", &[]) as usize);
    let skipped = bench.metrics().count("shadowpair_shadow_skipped_total", &[]);
    assert_eq!(skipped, 0.0, "nothing was shed");
    let sampled: Vec<usize> =
        ["canary", "prod"].map(|arm| pairs.iter().filter(|pair| pair["arm"] == arm).count()).to_vec();
    let (all, share) = (sampled[0] + sampled[1], (sampled[0] + sampled[1]) as f64 / 800.0);
    let cell = |seen: f64, expected: f64| (seen - expected).powi(2) / expected;
    let chi: f64 = (0..2)
        .map(|arm| {
            let (n, hit) = (arms[arm] as f64, sampled[arm] as f64);
            cell(hit, n * share) + cell(n - hit, n * (1.0 - share))
        })
        .sum();
    // One degree of freedom: 28.4 is exceeded by chance once in ten million runs.
    assert!(chi < 28.4, "{chi}: {sampled:?} of {arms:?}");
    assert!((300..=500).contains(&all), "about half of 800: {all}");
}

#[test]
fn clients_admitted_at_1_percent_are_still_admitted_at_5() {
    let (p, c) = (Stub::json(P), Stub::json(C));
    let one: Vec<String> = (0..2000).map(|nth| format!("u{nth}")).filter(|key| bucket(key) < 100).take(8).collect();
    assert_eq!(one.len(), 8);
    for percent in [1, 5] {
        let rule = format!("percent: {percent}, sticky: {{header: x-user-id}}");
        let bench = canary(p.address, c.address, &rule).start();
        one.iter().for_each(|key| assert_eq!(bench.ask(of_user(key)).text(), C, "{key} at {percent} %"));
        let metrics = bench.metrics();
        let labels = [("role", "canary"), ("model", "c")];
        assert!((metrics.sum("shadowpair_share_ratio", &labels) - f64::from(percent) / 100.0).abs() < 1e-9);
    }
}

#[test]
fn a_get_without_a_body_is_served_by_the_canary_too() {
    let (p, c) = (Stub::json(P), Stub::sending(ok_json(C)));
    let bench: Bench = all(p.address, c.address).start();
    assert_eq!(bench.ask(get("/")).text(), C);
    assert_eq!(bench.pair()["prod"]["outcome"], "ok");
}
