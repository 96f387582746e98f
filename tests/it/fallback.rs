//! Fallback and retry: who answers when a model fails, in every combination, and how often anyone is asked.

use std::net::SocketAddr;

use crate::support::{Act, Answer, Bench, Client, End, Plan, Stub, answer, get, ok_json, post, request};

const BODY: &str = r#"{"x":1}"#;

/// How a model behaves in the table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Ok,
    Refuses,
    Hangs,
    Resets,
    Fails,
    BreaksOff,
}

const ALL: [Does; 6] = [Does::Ok, Does::Refuses, Does::Hangs, Does::Resets, Does::Fails, Does::BreaksOff];

impl Does {
    fn stub(self, who: &str) -> Option<Stub> {
        let half = b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhalf".to_vec();
        Some(match self {
            Does::Ok => Stub::json(&format!("{{\"y\":\"{who}\"}}")),
            Does::Refuses => return None,
            Does::Hangs => Stub::doing(vec![Act::Hang]),
            Does::Resets => Stub::doing(vec![Act::Reset]),
            Does::Fails => Stub::sending(answer("500 Internal Server Error", &[], b"{\"y\":\"broken\"}")),
            Does::BreaksOff => Stub::doing(vec![Act::Send(half), Act::Close]),
        })
    }

    fn outcome(self) -> &'static str {
        match self {
            Does::Ok => "ok",
            Does::Refuses => "connect_error",
            Does::Hangs => "timeout",
            Does::Resets | Does::BreaksOff => "reset",
            Does::Fails => "http_error",
        }
    }

    /// Whether it fails before its first byte.
    fn has_no_answer(self) -> bool {
        matches!(self, Does::Refuses | Does::Hangs | Does::Resets)
    }

    /// What the client gets of it, where it is the one that answers.
    fn seen(self, role: &'static str) -> (u16, &'static str, End) {
        match self {
            Does::Ok => (200, role, End::Whole),
            Does::Fails => (500, role, End::Whole),
            Does::BreaksOff => (200, role, End::Cut),
            Does::Refuses | Does::Resets => (502, "proxy", End::Whole),
            Does::Hangs => (504, "proxy", End::Whole),
        }
    }
}

fn address(stub: Option<&Stub>) -> SocketAddr {
    stub.map_or_else(Stub::nobody, |stub| stub.address)
}

/// A short limit only for whoever hangs: on a busy machine the others may take their time.
fn limit(does: Does) -> &'static str {
    if does == Does::Hangs { "timeout: {first_byte: 150ms}" } else { "timeout: {first_byte: 10s}" }
}

fn ask(bench: &Bench) -> Answer {
    bench.ask(post("/", BODY))
}

#[test]
fn the_fallback_answers_where_prod_has_failed_before_its_first_byte() {
    for prod in ALL {
        for fallback in ALL {
            let (p, f) = (prod.stub("prod"), fallback.stub("fallback"));
            let bench = Plan::prod(address(p.as_ref()))
                .with("p", limit(prod))
                .model("f", &[address(f.as_ref())])
                .with("f", limit(fallback))
                .route("fallback: f")
                .start();
            let got = ask(&bench);
            let asked = prod.has_no_answer();
            let answers =
                if asked && !fallback.has_no_answer() { fallback.seen("fallback") } else { prod.seen("prod") };
            let case = format!("prod {prod:?}, fallback {fallback:?}");
            assert_eq!((got.status, got.end), (answers.0, answers.2), "{case}");
            let code = answers.0.to_string();
            bench.wait_metric("shadowpair_requests_total", &[("answered_by", answers.1), ("code", &code)], 1.0);
            let legs = |role, does: Does| {
                let labels = [("role", role), ("outcome", does.outcome())];
                bench.metrics().count("shadowpair_legs_total", &labels)
            };
            assert_eq!(legs("prod", prod), 1.0, "{case}");
            assert_eq!(
                bench.metrics().count("shadowpair_legs_total", &[("role", "fallback")]),
                f64::from(u8::from(asked))
            );
            if asked {
                assert_eq!(legs("fallback", fallback), 1.0, "{case}");
                if let Some(f) = &f {
                    assert_eq!(f.one().value("x-shadowpair-role").as_deref(), Some("fallback"));
                    assert_eq!(f.one().body, BODY.as_bytes(), "from its first byte");
                }
            }
        }
    }
}

#[test]
fn the_canary_the_prod_and_the_pair_say_who_did_what() {
    for canary in ALL {
        for prod in ALL {
            let (c, p) = (canary.stub("canary"), prod.stub("prod"));
            let bench = Plan::prod(address(p.as_ref()))
                .with("p", limit(prod))
                .model("c", &[address(c.as_ref())])
                .with("c", limit(canary))
                .route("canary: {model: c, percent: 100, sticky: {header: x-user-id}}")
                .compare_all()
                .start();
            let got = bench.ask(request("POST /", &[("x-user-id", "u")], BODY.as_bytes()));
            let case = format!("canary {canary:?}, prod {prod:?}");
            let answers = match canary {
                Does::Ok | Does::BreaksOff => canary.seen("canary"),
                _ => prod.seen("prod"),
            };
            assert_eq!((got.status, got.end), (answers.0, answers.2), "{case}");
            let pair = bench.pair();
            assert_eq!(pair["arm"], "canary", "{case}");
            assert_eq!(pair["answered_by"]["role"], answers.1, "{case}");
            assert_eq!(pair["answered_by"]["status"], answers.0, "{case}");
            assert_eq!(pair["candidate"]["role"], "canary");
            assert_eq!(pair["candidate"]["outcome"], canary.outcome(), "{case}");
            assert_eq!(
                (&pair["prod"]["role"], &pair["prod"]["outcome"]),
                (&"prod".into(), &prod.outcome().into()),
                "{case}"
            );
            let failed = |does: Does| does != Does::Ok;
            let result = match (failed(prod), failed(canary)) {
                (true, true) => "both_failed",
                (true, false) => "prod_failed",
                (false, true) => "candidate_failed",
                (false, false) => "differs",
            };
            assert_eq!(pair["result"], result, "{case}");
            assert!(p.is_none_or(|p| p.seen().len() == 1), "{case}: prod is asked once");
        }
    }
}

/// Prod with two endpoints: the first fails in this way, the other answers.
fn two(bad: Vec<Act>, rule: &str) -> (Stub, Stub, Bench) {
    let (bad, good) = (Stub::doing(bad), Stub::json(r#"{"y":1}"#));
    let bench = Plan::prod(bad.address).endpoint("p", good.address).route(rule).start();
    (bad, good, bench)
}

/// Asks until the bad endpoint has been asked `times` times; the statuses.
fn until_bad(bench: &Bench, bad: &Stub, times: usize, request: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while bad.seen().len() < times {
        assert!(statuses.len() < 400, "the bad endpoint is asked, too");
        statuses.push(bench.ask(request).status);
    }
    statuses
}

#[test]
fn what_may_be_sent_twice_is_asked_again_of_another_endpoint() {
    let unavailable = Act::Send(answer("503 Service Unavailable", &[], b"busy"));
    for bad in [vec![Act::Reset], vec![unavailable.clone()]] {
        let (bad, _good, bench) = two(bad, "retry: {attempts: 1}");
        let statuses = until_bad(&bench, &bad, 3, &get("/"));
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
}

#[test]
fn a_prediction_by_post_is_asked_again_only_where_the_route_says_so() {
    let (bad, _good, bench) = two(vec![Act::Reset], "retry: {attempts: 1}");
    assert!(until_bad(&bench, &bad, 1, &post("/", BODY)).contains(&502), "it may have been read");
    let (bad, good, bench) = two(vec![Act::Reset], "retry: {attempts: 1, idempotent: true}");
    let statuses = until_bad(&bench, &bad, 2, &post("/", BODY));
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(good.seen().iter().all(|seen| seen.body == BODY.as_bytes()), "from its first byte");
}

#[test]
fn no_attempts_are_none_and_no_body_that_was_not_held_goes_out_twice() {
    let (bad, _good, bench) = two(vec![Act::Reset], "retry: {attempts: 0}");
    assert!(until_bad(&bench, &bad, 1, &get("/")).contains(&502));
    let (bad, _good, bench) = two(vec![Act::Reset], "copy_body: 1KiB\n    retry: {attempts: 1, idempotent: true}");
    let large = request("POST /", &[], &vec![b'a'; 4096]);
    assert!(until_bad(&bench, &bad, 1, &large).contains(&502));
}

#[test]
fn second_tries_keep_to_their_share_of_the_requests() {
    let p = Stub::sending(answer("503 Service Unavailable", &[], b"busy"));
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = Client::to(bench.traffic);
    let start = std::time::Instant::now();
    for _ in 0..500 {
        assert_eq!(client.ask(get("/")).status, 503);
    }
    // A fifth of the requests, and three a second that little traffic may have all the same (ten seconds are remembered).
    let floor = 3 * (10 + start.elapsed().as_secs() as usize + 1);
    let again = p.seen().len() - 500;
    assert!((1..=100 + floor).contains(&again), "{again} second tries for 500 requests");
}

#[test]
fn an_answer_with_a_retried_status_passes_when_it_comes_again() {
    let p = Stub::sending(answer("503 Service Unavailable", &[("x-why", "busy")], b"busy"));
    let bench = Plan::prod(p.address).start();
    let got = bench.ask(get("/"));
    assert_eq!((got.status, got.text().as_str(), got.value("x-why").as_deref()), (503, "busy", Some("busy")));
    assert_eq!(p.seen().len(), 2, "once more, and no more");
    let other = Stub::sending(ok_json("{}"));
    let bench = Plan::prod(other.address).start();
    assert_eq!(bench.ask(get("/")).status, 200);
    assert_eq!(other.seen().len(), 1);
}

#[test]
fn when_canary_and_prod_have_no_answer_the_fallback_has_the_last_word() {
    for canary in [Does::Refuses, Does::Fails] {
        for prod in [Does::Refuses, Does::Resets] {
            for fallback in ALL {
                let (c, p, f) = (canary.stub("canary"), prod.stub("prod"), fallback.stub("fallback"));
                let bench = Plan::prod(address(p.as_ref()))
                    .model("c", &[address(c.as_ref())])
                    .model("f", &[address(f.as_ref())])
                    .with("f", limit(fallback))
                    .route("canary: {model: c, percent: 100}")
                    .route("fallback: f")
                    .start();
                let got = ask(&bench);
                let answers = if fallback.has_no_answer() { prod.seen("prod") } else { fallback.seen("fallback") };
                let case = format!("canary {canary:?}, prod {prod:?}, fallback {fallback:?}");
                assert_eq!((got.status, got.end), (answers.0, answers.2), "{case}");
                let pair = bench.pair();
                assert_eq!(
                    (&pair["arm"], &pair["answered_by"]["role"]),
                    (&"canary".into(), &answers.1.into()),
                    "{case}"
                );
                assert_eq!(pair["answered_by"]["status"], answers.0, "{case}");
                assert_eq!(pair["result"], "both_failed", "{case}");
                assert_eq!(pair["prod"]["outcome"], prod.outcome(), "{case}");
                assert_eq!(pair["candidate"]["outcome"], canary.outcome(), "{case}");
                let labels = [("role", "fallback"), ("outcome", fallback.outcome())];
                assert_eq!(bench.metrics().count("shadowpair_legs_total", &labels), 1.0, "{case}");
            }
        }
    }
}
