//! Prod that fails, and clients that leave: one clear outcome for each, for the client, in the metrics, in the pair.

use std::time::Duration;

use serde_json::Value;

use crate::support::wire::Framing;
use crate::support::{Act, Answer, Bench, End, Gate, Plan, Stub, get, ok_json, post, until};

/// The proxy's own error names the route and the cause, and nothing of the inside.
fn assert_error(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    let error = answer.error();
    assert!(error.split(|c: char| !c.is_alphanumeric()).any(|word| word == "r"), "it names the route: {error}");
    assert!(!error.contains("127.0.0.1"), "it names no endpoint: {error}");
    for inside in ["hyper", "Error(", "os error", "panicked"] {
        assert!(!error.contains(inside), "it shows nothing of the inside: {error}");
    }
    assert!(answer.value("x-request-id").is_some());
}

/// Prod fails in some way before its first byte: what the client, the metrics and the pair say.
fn fails_before_the_first_byte(p: std::net::SocketAddr, status: u16, outcomes: &[&str]) {
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p, c.address).with("p", "timeout: {connect: 500ms, first_byte: 200ms}").start();
    assert_error(&bench.ask(post("/", r#"{"x":1}"#)), status);
    let code = status.to_string();
    bench.wait_metric("shadowpair_requests_total", &[("answered_by", "proxy"), ("code", &code)], 1.0);
    let pair = bench.pair();
    let outcome = pair["prod"]["outcome"].as_str().unwrap();
    assert!(outcomes.contains(&outcome), "{outcome}");
    assert_eq!(bench.metrics().sum("shadowpair_legs_total", &[("role", "prod"), ("outcome", outcome)]), 1.0);
    assert_eq!(pair["result"], "prod_failed");
    assert_eq!(pair["prod"]["status"], Value::Null);
    assert_eq!(pair["answered_by"]["role"], "proxy");
    assert_eq!(pair["answered_by"]["model"], Value::Null);
    assert_eq!(pair["answered_by"]["status"], status);
    assert_eq!(pair["candidate"]["outcome"], "ok", "the copy is made all the same");
    assert_eq!(c.one().body, br#"{"x":1}"#);
}

#[test]
fn prod_that_refuses_is_a_502() {
    fails_before_the_first_byte(Stub::nobody(), 502, &["connect_error"]);
}

#[test]
fn prod_that_takes_no_connection_in_time_is_a_504() {
    // With room for no more connections the kernel leaves the next ones waiting.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let p = listener.local_addr().unwrap();
    let waiting: Vec<_> =
        (0..4).map_while(|_| std::net::TcpStream::connect_timeout(&p, Duration::from_millis(100)).ok()).collect();
    assert!(waiting.len() < 4, "the queue is full");
    fails_before_the_first_byte(p, 504, &["connect_error"]);
}

#[test]
fn prod_that_hangs_is_a_504() {
    fails_before_the_first_byte(Stub::doing(vec![Act::Hang]).address, 504, &["timeout"]);
}

#[test]
fn prod_that_resets_is_a_502() {
    let p = Stub::doing(vec![Act::Reset]);
    fails_before_the_first_byte(p.address, 502, &["reset"]);
    assert_eq!(p.seen().len(), 1, "a POST that may have been read is not sent again");
}

#[test]
fn prod_that_closes_without_an_answer_is_a_502() {
    let p = Stub::doing(vec![Act::Close]);
    fails_before_the_first_byte(p.address, 502, &["reset"]);
    assert_eq!(p.seen().len(), 1, "a POST that may have been read is not sent again");
}

#[test]
fn prod_that_answers_garbage_is_a_502() {
    let p = Stub::sending("SSH-2.0-OpenSSH_9.6\r\n\r\n");
    fails_before_the_first_byte(p.address, 502, &["protocol_error"]);
}

#[test]
fn prod_that_ends_inside_its_head_is_a_502() {
    let p = Stub::doing(vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()), Act::Close]);
    fails_before_the_first_byte(p.address, 502, &["reset", "protocol_error"]);
}

#[test]
fn prod_that_answers_in_bad_framing_is_a_502() {
    let p = Stub::sending("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc");
    fails_before_the_first_byte(p.address, 502, &["protocol_error"]);
}

#[test]
fn prod_that_switches_protocols_unasked_is_a_502() {
    let p = Stub::sending("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nraw");
    fails_before_the_first_byte(p.address, 502, &["protocol_error"]);
}

#[test]
fn prods_own_errors_pass_as_they_are() {
    let p = Stub::sending("HTTP/1.1 503 Slow Down\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nbusy");
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let answer = bench.ask(get("/"));
    assert_eq!((answer.status, answer.reason.as_str(), answer.text().as_str()), (503, "Slow Down", "busy"));
    assert_eq!(answer.value("retry-after").as_deref(), Some("7"));
    let pair = bench.pair();
    assert_eq!((&pair["prod"]["outcome"], &pair["result"]), (&"http_error".into(), &"prod_failed".into()));
    assert_eq!((&pair["answered_by"]["role"], &pair["answered_by"]["status"]), (&"prod".into(), &503.into()));
    assert_eq!(pair["prod"]["body"]["data"], "busy");
}

fn broken(head: &str, how: Act) -> (Stub, Stub, Bench) {
    let head = head.as_bytes().to_vec();
    let p = Stub::doing(vec![Act::Send(head), how]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).with("p", "timeout: {idle: 300ms}").start();
    (p, c, bench)
}

/// The pair of an answer that broke off says so, and keeps what came.
fn assert_broken_pair(bench: &Bench, outcomes: &[&str], kept: &str) {
    let pair = bench.pair();
    assert!(outcomes.iter().any(|o| pair["prod"]["outcome"] == *o), "{}", pair["prod"]);
    assert_eq!(pair["prod"]["status"], 200);
    assert_eq!(pair["result"], "prod_failed");
    assert_eq!(pair["answered_by"]["role"], "prod");
    assert_eq!(pair["prod"]["bytes"], kept.len());
}

#[test]
fn half_a_chunked_answer_breaks_the_clients_transfer() {
    for how in [Act::Close, Act::Reset] {
        let (_p, _c, bench) = broken("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", how);
        let answer = bench.ask(get("/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "all that came is passed on");
        assert!(matches!(answer.end, End::Cut | End::Reset), "no last chunk: {:?}", answer.end);
        assert_broken_pair(&bench, &["reset"], "hello");
    }
}

#[test]
fn an_answer_whose_framing_is_none_breaks_the_clients_transfer_and_is_called_so() {
    for rest in ["zz\r\n", "5\nhello", "1\r\nabc\r\n", "0\r\nno field\r\n\r\n"] {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        let p = Stub::new(move |_| vec![Act::Send(format!("{head}{rest}").into_bytes())]);
        let c = Stub::json(r#"{"y":1}"#);
        let bench = Plan::pair(p.address, c.address).start();
        let answer = bench.ask(get("/"));
        assert!(matches!(answer.end, End::Cut | End::Reset), "{rest:?}: {:?}", answer.end);
        let pair = bench.pair();
        assert_eq!(pair["prod"]["outcome"], "protocol_error", "{rest:?}");
        assert_eq!(pair["result"], "prod_failed");
    }
}

#[test]
fn an_answer_shorter_than_its_length_breaks_the_clients_transfer() {
    for how in [Act::Close, Act::Reset] {
        let (_p, _c, bench) = broken("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", how);
        let answer = bench.ask(get("/"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
        assert_eq!(answer.value("content-length").as_deref(), Some("10"));
        assert!(matches!(answer.end, End::Cut | End::Reset), "{:?}", answer.end);
        assert_broken_pair(&bench, &["reset"], "hello");
    }
}

#[test]
fn an_answer_that_pauses_longer_than_idle_breaks_the_clients_transfer() {
    let (_p, _c, bench) = broken("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Act::Hang);
    let answer = bench.ask(get("/"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert!(matches!(answer.end, End::Cut | End::Reset), "{:?}", answer.end);
    assert_broken_pair(&bench, &["timeout"], "hello");
}

#[test]
fn half_an_answer_is_an_rst_for_an_http_1_0_client() {
    let (_p, _c, bench) = broken("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", Act::Close);
    let answer = bench.ask("GET / HTTP/1.0\r\nhost: t\r\n\r\n");
    assert_eq!(answer.end, End::Reset, "an orderly close would read as the end: {answer:?}");
}

#[test]
fn a_client_whose_body_is_malformed_is_a_400_and_no_499() {
    let large = format!("0\r\nx: {}\r\n\r\n", "a".repeat(20 << 10));
    for rest in ["ZZ\r\n", "5\nhello", &large] {
        let p = Stub::json(r#"{"y":1}"#);
        let bench = Plan::prod(p.address).start();
        let head = "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let answer = bench.ask(format!("{head}{rest}"));
        assert_eq!((answer.status, answer.end), (400, End::Whole), "{}", answer.text());
        assert!(answer.error().contains("malformed"), "{}", answer.error());
        bench.wait_metric("shadowpair_requests_total", &[("code", "400"), ("answered_by", "proxy")], 1.0);
        assert_eq!(bench.metrics().count("shadowpair_requests_total", &[("code", "499")]), 0.0);
    }
}

#[test]
fn a_client_that_stops_half_way_is_a_499() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nhalf");
    until("prod has the half", || p.received() > 0);
    drop(client);
    bench.wait_metric("shadowpair_requests_total", &[("code", "499")], 1.0);
    bench.wait_skipped("request_incomplete", 1.0);
    assert_ne!(p.wait(1)[0].end, End::Whole, "prod is not given half a body as a whole one");
    assert!(c.seen().is_empty());
}

#[test]
fn a_client_that_half_closes_has_left() {
    let p = Stub::doing(vec![Act::Hang]);
    let bench = Plan::prod(p.address).start();
    let client = bench.client();
    let mut sending = bench.client();
    sending.send(post("/", r#"{"x":1}"#));
    until("prod has the request", || p.received() > 0);
    sending.wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    bench.wait_metric("shadowpair_requests_total", &[("code", "499")], 1.0);
    until("prod's call is ended", || p.ended() == 1);
    drop(client);
}

#[test]
fn a_client_that_leaves_during_the_answer_is_a_499_and_still_a_pair() {
    let p = Stub::doing(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec()),
        Act::Hang,
    ]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send(post("/", r#"{"x":1}"#));
    client.wire.head().unwrap();
    client.wire.reset();
    drop(client);
    bench.wait_metric("shadowpair_requests_total", &[("code", "499"), ("answered_by", "prod")], 1.0);
    let pair = bench.pair();
    assert_eq!(pair["answered_by"]["status"], 499);
    assert_eq!(pair["answered_by"]["role"], "prod");
    assert_eq!(pair["prod"]["outcome"], "cancelled");
    assert_eq!(pair["result"], "cancelled");
    until("prod's call is ended", || p.ended() == 1);
}

#[test]
fn a_client_that_leaves_before_the_answer_is_a_499_and_still_a_pair() {
    let p = Stub::doing(vec![Act::Hang]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send(post("/", r#"{"x":1}"#));
    c.wait(1);
    drop(client);
    let pair = bench.pair();
    assert_eq!(pair["answered_by"]["status"], 499);
    assert_eq!((&pair["prod"]["outcome"], &pair["prod"]["status"]), (&"cancelled".into(), &Value::Null));
    assert_eq!(pair["candidate"]["outcome"], "ok");
}

#[test]
fn a_request_body_that_pauses_too_long_is_a_408() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).server("limits: {idle_timeout: 200ms}").start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\nhalf");
    let answer = client.answer();
    assert_error(&answer, 408);
    assert!(client.is_closed());
    bench.wait_metric("shadowpair_requests_total", &[("code", "408"), ("answered_by", "proxy")], 1.0);
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let flood = vec![b'x'; 64 << 10];
    let p = Stub::doing(vec![Act::Send(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()), Act::Flood(flood)]);
    let bench = Plan::prod(p.address).server("limits: {idle_timeout: 300ms}").start();
    let mut client = bench.client();
    client.send(get("/"));
    until("prod's call is ended", || p.ended() == 1);
    bench.wait_metric("shadowpair_in_flight", &[], 0.0);
    drop(client);
}

#[test]
fn an_answer_with_both_lengths_is_made_clean_and_its_connection_not_reused() {
    let p = Stub::sending(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = bench.client();
    for nth in 1..=2 {
        let answer = client.ask(get("/"));
        if answer.status == 200 {
            assert_eq!((answer.value("content-length"), answer.text().as_str()), (None, "hello"));
            assert_eq!(answer.end, End::Whole);
        } else {
            assert_error(&answer, 502);
        }
        assert_eq!(p.accepted(), nth, "such a connection is not used again");
    }
}

#[test]
fn bytes_after_an_answer_never_answer_the_next_request() {
    let gate = Gate::default();
    let stray = [ok_json(r#"{"y":1}"#), ok_json(r#"{"stray":1}"#)].concat();
    let p = Stub::doing(vec![Act::Send(stray), Act::Wait(gate.clone())]);
    gate.open();
    let bench = Plan::prod(p.address).server("workers: 1").start();
    let mut client = bench.client();
    for _ in 0..5 {
        let answer = client.ask(get("/"));
        assert!(answer.status == 502 || answer.text() == r#"{"y":1}"#, "{answer:?}");
    }
}

#[test]
fn an_unmatched_request_is_a_404_that_says_so() {
    let p = Stub::json(r#"{"y":1}"#);
    let bench = Plan::prod(p.address).matching("{path: /only}").start();
    let answer = bench.ask(get("/other"));
    assert_eq!(answer.status, 404);
    assert!(answer.error().contains("route"), "{}", answer.error());
    bench.wait_metric("shadowpair_requests_total", &[("route", ""), ("code", "404")], 1.0);
}

#[test]
fn a_limit_of_zero_is_none() {
    let p = Stub::doing(vec![Act::Pause(Duration::from_millis(400)), Act::Send(ok_json("{}"))]);
    let limits = "timeout: {connect: 0s, first_byte: 0s, idle: 100ms, total: 0s}";
    let bench = Plan::prod(p.address).with("p", limits).start();
    for request in [get("/"), post("/", "{}")] {
        assert_eq!(bench.ask(request).status, 200);
    }
}

#[test]
fn an_own_error_before_the_body_has_come_announces_the_close() {
    let bench = Plan::prod(Stub::nobody()).matching("{path_prefix: /only}").start();
    for (path, status) in [("/other", 404), ("/only", 502)] {
        let mut client = bench.client();
        let answer = client.send(format!("POST {path} HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n")).answer();
        assert_eq!((answer.status, answer.value("connection").as_deref()), (status, Some("close")), "{path}");
        assert_ne!(client.send("hello").wire.rest().1, End::Silent, "{path}");
    }
    for path in ["/other", "/only"] {
        let mut client = bench.client();
        for _ in 0..3 {
            assert_eq!(client.ask(get(path)).value("connection"), None, "without a body it is kept");
        }
    }
}

#[test]
fn a_call_that_takes_longer_than_total_is_broken_off() {
    let p = Stub::new(|_| {
        let mut acts = vec![Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
        for _ in 0..100 {
            acts.extend([Act::Send(b"1\r\nx\r\n".to_vec()), Act::Pause(Duration::from_millis(20))]);
        }
        acts
    });
    let bench = Plan::prod(p.address).with("p", "timeout: {total: 200ms}").start();
    let mut client = bench.client();
    client.send(get("/"));
    client.wire.head().unwrap();
    let body = client.wire.body(Framing::Chunked);
    assert_ne!(body.end, End::Whole);
    bench.wait_metric("shadowpair_legs_total", &[("role", "prod"), ("outcome", "timeout")], 1.0);
}
