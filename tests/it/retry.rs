//! A second try of prod: for whom, when, how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::stub::Seen;
use crate::support::{Act, Bench, End, Plan, Stub, answer, get, ok_json, post, post_as, request};

const OK: &str = r#"{"y":1}"#;

/// A model that fails its first request in this way and answers all later ones.
fn fails_once(failure: Vec<Act>) -> Stub {
    let seen = AtomicUsize::new(0);
    Stub::new(move |_| {
        let first = seen.fetch_add(1, Ordering::SeqCst) == 0;
        if first { failure.clone() } else { vec![Act::Send(ok_json(OK))] }
    })
}

fn busy() -> Vec<u8> {
    answer("503 Busy", &[("retry-after", "7")], b"later")
}

fn ids(seen: &[Seen]) -> Vec<String> {
    seen.iter().filter_map(|seen| seen.value("x-request-id")).collect()
}

/// One worker, so that there is one budget.
fn plan(p: &Stub) -> Plan {
    Plan::prod(p.address).server("workers: 1")
}

fn outcomes(bench: &Bench, outcome: &str) -> f64 {
    bench.metrics().sum("shadowpair_legs_total", &[("role", "prod"), ("outcome", outcome)])
}

#[test]
fn a_get_goes_out_again_after_a_reset_or_a_503() {
    for (failure, outcome) in [(vec![Act::Reset], "reset"), (vec![Act::Send(busy())], "http_error")] {
        let (p, c) = (fails_once(failure), Stub::json(OK));
        let bench = Plan::pair(p.address, c.address).start();
        let answer = bench.ask(get("/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, OK), "{outcome}");
        assert_eq!(p.seen().len(), 2);
        assert_eq!((outcomes(&bench, outcome), outcomes(&bench, "ok")), (1.0, 1.0));
        assert_eq!(bench.metrics().sum("shadowpair_requests_total", &[("answered_by", "prod")]), 1.0);
        let pair = bench.pair();
        assert_eq!((&pair["prod"]["outcome"], &pair["result"]), (&"ok".into(), &"equal".into()), "the try that counts");
    }
}

#[test]
fn it_goes_to_another_endpoint() {
    let (bad, good) = (Stub::sending(busy()), Stub::json(OK));
    let bench = plan(&bad).endpoint("p", good.address).start();
    for _ in 0..30 {
        assert_eq!(bench.ask(get("/")).status, 200);
    }
    let (failed, answered) = (ids(&bad.seen()), ids(&good.seen()));
    assert!(!failed.is_empty() && answered.len() == 30, "{} and {}", failed.len(), answered.len());
}

#[test]
fn a_post_goes_out_once_unless_its_route_is_idempotent() {
    for failure in [vec![Act::Reset], vec![Act::Send(busy())]] {
        let p = fails_once(failure.clone());
        let bench = plan(&p).start();
        let status = bench.ask(post("/", "{}")).status;
        assert!(status == 502 || status == 503, "{status}");
        assert_eq!(p.seen().len(), 1);
        drop(bench);
        let p = fails_once(failure);
        let bench = plan(&p).route("retry: {attempts: 1, on: [connect, reset, 503], idempotent: true}").start();
        assert_eq!(bench.ask(post("/", r#"{"x":1}"#)).text(), OK);
        let seen = p.seen();
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|seen| seen.body == br#"{"x":1}"#), "from its first byte");
        assert!(seen.iter().all(|seen| seen.value("x-shadowpair-role").is_none()), "prod's legs are unmarked");
    }
}

#[test]
fn a_put_with_a_body_is_held_for_its_second_try() {
    let p = fails_once(vec![Act::Reset]);
    let bench = plan(&p).start();
    assert_eq!(bench.ask(request("PUT /", &[], b"state")).status, 200);
    assert!(p.seen().iter().all(|seen| seen.body == b"state") && p.seen().len() == 2);
}

#[test]
fn the_second_answer_is_final_whatever_it_is() {
    let p = Stub::sending(busy());
    let bench = plan(&p).start();
    let answer = bench.ask(get("/"));
    assert_eq!((answer.status, answer.text().as_str()), (503, "later"));
    assert_eq!(answer.value("retry-after").as_deref(), Some("7"));
    assert_eq!(p.seen().len(), 2, "once, not again and again");
}

#[test]
fn what_the_file_does_not_list_and_attempts_0_are_not_tried_again() {
    let five_hundred = || Stub::sending(answer("500 Oops", &[], b"boom"));
    for (p, rule, status) in [
        (five_hundred(), "retry: {attempts: 1}", 500),
        (Stub::sending(busy()), "retry: {attempts: 0}", 503),
        (Stub::sending(busy()), "retry: {on: [reset]}", 503),
        (Stub::doing(vec![Act::Reset]), "retry: {on: [503]}", 502),
        (Stub::doing(vec![Act::Hang]), "retry: {attempts: 1}", 504),
    ] {
        let bench = plan(&p).with("p", "timeout: {first_byte: 300ms}").route(rule).start();
        assert_eq!(bench.ask(get("/")).status, status, "{rule}");
        assert_eq!(p.seen().len(), 1, "{rule}");
    }
}

#[test]
fn a_listed_timeout_is_tried_again() {
    let p = fails_once(vec![Act::Hang]);
    let bench = plan(&p).with("p", "timeout: {first_byte: 300ms}").route("retry: {on: [timeout]}").start();
    assert_eq!(bench.ask(get("/")).status, 200);
    assert_eq!(p.seen().len(), 2);
}

#[test]
fn a_body_larger_than_copy_body_has_no_second_try() {
    let p = fails_once(vec![Act::Send(busy())]);
    let bench = plan(&p).route("retry: {idempotent: true}").route("copy_body: 1KiB").start();
    assert_eq!(bench.ask(request("POST /", &[], &[b'x'; 4096])).status, 503);
    assert_eq!(p.seen().len(), 1);
}

#[test]
fn nothing_is_tried_again_once_an_answer_has_begun() {
    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
    let p = Stub::doing(vec![Act::Send(begun), Act::Pause(std::time::Duration::from_millis(50)), Act::Close]);
    let bench = plan(&p).start();
    let answer = bench.ask(get("/"));
    assert!(answer.status == 200 && answer.end != End::Whole);
    assert_eq!(p.seen().len(), 1);
}

#[test]
fn second_tries_are_a_fifth_of_the_recent_requests_at_most() {
    let p = Stub::sending(busy());
    let bench = plan(&p).start();
    let mut client = bench.client();
    let start = std::time::Instant::now();
    for _ in 0..400 {
        assert_eq!(client.ask(get("/")).status, 503);
    }
    // A fifth, and three a second over the ten seconds that are remembered and those that the test took.
    let floor = 3 * (10 + start.elapsed().as_secs() as usize + 1);
    let tries = p.seen().len() - 400;
    assert!((20..=80 + floor).contains(&tries), "{tries} second tries of 400, floor {floor}");
}

#[test]
fn a_request_that_was_certainly_not_read_goes_to_another_endpoint_also_by_post() {
    let good = Stub::json(OK);
    let bench = plan(&good).endpoint("p", Stub::nobody()).start();
    for nth in 0..40 {
        assert_eq!(bench.ask(post_as(&format!("id-{nth}"), "{}")).status, 200);
    }
    assert_eq!(good.seen().len(), 40);
}

#[test]
fn a_shadow_is_not_tried_again() {
    let (p, calls) = (Stub::json(OK), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let c = Stub::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        vec![Act::Reset]
    });
    let bench = Plan::pair(p.address, c.address).route("retry: {idempotent: true}").start();
    assert_eq!(bench.ask(get("/")).status, 200);
    assert_eq!(bench.pair()["candidate"]["outcome"], "reset");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
