//! What a canary that fails costs: its clients nothing where prod is asked in its place.

use std::time::Duration;

use crate::canary::{C, P, all, canary, chunked, gzipped};
use crate::support::{Act, End, Plan, Stub, answer, post, request};

#[test]
fn a_canary_that_is_ejected_costs_its_clients_nothing() {
    let p = Stub::json(P);
    let c = Stub::nobody();
    let bench = all(p.address, c).start();
    for _ in 0..60 {
        assert_eq!(bench.ask(post("/", "{}")).text(), P);
    }
    let metrics = bench.metrics();
    assert!(metrics.sum("shadowpair_endpoint_ejected_total", &[("model", "c")]) >= 1.0);
    assert_eq!(metrics.sum("shadowpair_endpoint_up", &[("model", "c")]), 0.0);
    let asked = metrics.sum("shadowpair_legs_total", &[("role", "canary")]);
    assert!((5.0..=10.0).contains(&asked), "five, and a probe a back-off: {asked}");
    let pairs = bench.pairs(asked as usize);
    assert!(pairs.iter().all(|pair| pair["arm"] == "canary" && pair["answered_by"]["role"] == "prod"));
    assert_eq!(metrics.sum("shadowpair_requests_total", &[("answered_by", "prod"), ("code", "200")]), 60.0);
}

/// A canary that fails before its first byte, each in a way of its own, and what that is called.
fn failing() -> Vec<(&'static str, Option<Stub>)> {
    let garbage = Stub::sending("no http at all\r\n\r\n");
    vec![
        ("connect_error", None),
        ("reset", Some(Stub::on_head(|_| vec![Act::Reset]))),
        ("timeout", Some(Stub::doing(vec![Act::Hang]))),
        ("http_error", Some(Stub::sending(answer("500 Oops", &[], b"boom")))),
        ("protocol_error", Some(garbage)),
    ]
}

#[test]
fn a_failed_canary_answer_is_asked_again_of_prod_from_the_first_byte() {
    let fields = [("x-model", "p"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("x-request-id", "of-prod")];
    let p = Stub::sending(answer("201 Made", &fields, b"\x00\xff from prod"));
    let alone = Plan::prod(p.address).start();
    let expected = alone.ask(request("POST /", &[], b"{}"));
    drop(alone);
    let large = vec![b'x'; 1 << 20];
    for (outcome, c) in failing() {
        let address = c.as_ref().map_or_else(Stub::nobody, |stub| stub.address);
        let bench = canary(p.address, address, "percent: 100, timeout: 300ms, on_error: prod").start();
        let before = p.seen().len();
        let small = b"{\"x\":1}".as_slice();
        let sent = [
            request("POST /", &[("idempotency-key", "k")], small),
            chunked("POST /", &[("idempotency-key", "k")], small),
            request("POST /", &[("idempotency-key", "k")], &large),
            chunked("POST /", &[("idempotency-key", "k")], &large),
        ];
        for (nth, sent) in sent.iter().enumerate() {
            let answer = bench.ask(sent);
            assert_eq!(answer.head.raw, expected.head.raw, "{outcome}");
            assert_eq!((answer.body, answer.end), (expected.body.clone(), End::Whole), "{outcome}");
            let seen = p.seen().remove(before + nth);
            assert!(seen.body == if nth < 2 { small } else { &large }, "{outcome}: all of it, {nth}");
            assert_eq!(seen.value("idempotency-key").as_deref(), Some("k"));
            assert_eq!(seen.value("x-shadowpair-role"), None);
        }
        for pair in bench.pairs(4) {
            assert_eq!((&pair["arm"], &pair["candidate"]["role"]), (&"canary".into(), &"canary".into()), "{pair}");
            assert_eq!(pair["candidate"]["outcome"], outcome, "{pair}");
            assert_eq!((&pair["answered_by"]["model"], &pair["answered_by"]["role"]), (&"p".into(), &"prod".into()));
            assert_eq!((&pair["answered_by"]["status"], &pair["prod"]["outcome"]), (&201.into(), &"ok".into()));
            assert_eq!(pair["result"], "candidate_failed");
        }
        assert_eq!(p.seen().len(), before + 4, "{outcome}: prod is asked once a request");
    }
}

#[test]
fn a_canary_whose_rewrite_cannot_be_applied_is_passed_by_and_not_blamed() {
    let gzip = gzipped(r#"{"model":"m"}"#);
    for on_error in ["prod", "none"] {
        let (p, c) = (Stub::json(P), Stub::json(C));
        let bench = canary(p.address, c.address, &format!("percent: 100, on_error: {on_error}"))
            .with("c", r#"rewrite: {json: {/model: "n"}}"#)
            .start();
        for body in [gzip.as_slice(), b"no JSON", b""] {
            let answer = bench.ask(request("POST /", &[], body));
            assert_eq!((answer.status, answer.text().as_str()), (200, P), "{on_error}");
        }
        bench.wait_skipped("rewrite_failed", 3.0);
        assert!(c.seen().is_empty());
        assert_eq!(
            p.wait(3).iter().map(|seen| seen.body.as_slice()).collect::<Vec<_>>(),
            [gzip.as_slice(), b"no JSON", b""]
        );
        assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[("role", "canary")]), 0.0);
        assert_eq!(bench.metrics().sum("shadowpair_in_flight", &[("role", "canary")]), 0.0);
        assert_eq!(bench.ask(post("/", r#"{"model":"m"}"#)).text(), C, "{on_error}");
        assert_eq!(c.one().body, br#"{"model":"n"}"#);
        let pair = bench.pair();
        assert_eq!((&pair["tally"]["sampled"], &pair["tally"]["skipped"]), (&4.into(), &3.into()), "{on_error}");
    }
}

#[test]
fn a_4xx_is_the_canarys_own_answer() {
    let p = Stub::json(P);
    let c = Stub::sending(answer("422 Unprocessable", &[], b"bad input"));
    let bench = all(p.address, c.address).start();
    let answer = bench.ask(post("/", "{}"));
    assert_eq!((answer.status, answer.text().as_str()), (422, "bad input"));
    let pair = bench.pair();
    assert_eq!((&pair["answered_by"]["role"], &pair["answered_by"]["status"]), (&"canary".into(), &422.into()));
    assert_eq!(pair["result"], "candidate_failed");
}

#[test]
fn a_body_larger_than_copy_body_gets_the_canarys_answer_as_it_is() {
    let p = Stub::json(P);
    let c = Stub::sending(answer("500 Oops", &[], b"boom"));
    let bench = all(p.address, c.address).route("copy_body: 1KiB").start();
    for sent in [request("POST /", &[], &[b'x'; 5000]), chunked("POST /", &[], &[b'x'; 5000])] {
        let answer = bench.ask(sent);
        assert_eq!((answer.status, answer.text().as_str()), (500, "boom"));
    }
    assert_eq!((p.seen().len(), c.seen().len()), (0, 2));
    assert_eq!(bench.metrics().sum("shadowpair_requests_total", &[("answered_by", "canary"), ("code", "500")]), 2.0);
}

#[test]
fn with_on_error_none_failures_are_passed_on() {
    let p = Stub::json(P);
    for (outcome, c) in failing() {
        let address = c.as_ref().map_or_else(Stub::nobody, |stub| stub.address);
        let bench = canary(p.address, address, "percent: 100, timeout: 200ms, on_error: none").start();
        let answer = bench.ask(post("/", "{}"));
        let (status, role) = match outcome {
            "http_error" => (500, "canary"),
            "timeout" => (504, "proxy"),
            _ => (502, "proxy"),
        };
        assert_eq!(answer.status, status, "{outcome}");
        if role == "proxy" {
            let error = answer.error();
            assert!(error.contains("the canary"), "{error}");
            assert!(!error.contains(&address.port().to_string()) && !error.contains("127.0.0.1"), "{error}");
        }
        let pair = bench.pair();
        assert_eq!((&pair["candidate"]["outcome"], &pair["prod"]["outcome"]), (&outcome.into(), &"ok".into()));
        assert_eq!((&pair["answered_by"]["role"], &pair["answered_by"]["status"]), (&role.into(), &status.into()));
        assert_eq!(pair["answered_by"]["model"].is_null(), role == "proxy");
    }
}

#[test]
fn a_canary_in_whose_place_nobody_is_asked_is_never_ejected_wholly() {
    let (p, c) = (Stub::json(P), Stub::doing(vec![Act::Close]));
    let bench = canary(p.address, c.address, "percent: 100, on_error: none, pair_percent: 0").start();
    (0..12).for_each(|_| assert_eq!(bench.ask(post("/", "{}")).status, 502));
    assert_eq!(c.seen().len(), 12, "each was tried");
}

#[test]
fn a_canary_that_breaks_off_after_its_first_byte_breaks_the_transfer() {
    let p = Stub::json(P);
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    let c = Stub::doing(vec![Act::Send(begun), Act::Pause(Duration::from_millis(50)), Act::Close]);
    let bench = all(p.address, c.address).start();
    let answer = bench.ask(post("/", "{}"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "half"));
    assert_ne!(answer.end, End::Whole);
    let pair = bench.pair();
    assert_eq!((&pair["candidate"]["outcome"], &pair["prod"]["outcome"]), (&"reset".into(), &"ok".into()));
    assert_eq!(pair["answered_by"]["role"], "canary");
    assert_eq!(p.seen().len(), 1, "in the shadow, not for the client");
}

#[test]
fn a_client_that_leaves_a_hanging_canary_leaves_a_pair_behind() {
    let p = Stub::json(P);
    let c = Stub::doing(vec![Act::Hang]);
    let bench = all(p.address, c.address).start();
    let mut client = bench.client();
    client.send(post("/", "{}"));
    c.wait(1);
    drop(client);
    let pair = bench.pair();
    assert_eq!((&pair["answered_by"]["role"], &pair["answered_by"]["status"]), (&"canary".into(), &499.into()));
    assert_eq!((&pair["candidate"]["outcome"], &pair["result"]), (&"cancelled".into(), &"cancelled".into()));
}
