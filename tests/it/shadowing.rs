//! The copy: whatever becomes of it, the client's bytes are prod's, and memory stays within its bound.

use std::time::Duration;

use crate::support::pairs::measured;
use crate::support::{Act, Bench, Client, End, Gate, Plan, Stub, answer, get, ok_json, post, post_as, request, until};

const PROD: &[u8] = b"HTTP/1.1 200 Fine\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\nx-a: 1\r\nx-a: 2\r\n\
    content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"y\"\r\n3\r\n:1}\r\n0\r\n\r\n";

/// Every byte that a client gets for these requests over one connection.
fn transcript(bench: &Bench) -> Vec<u8> {
    let mut client = bench.client();
    for nth in 0..3 {
        client.send(post_as(&format!("id-{nth}"), r#"{"x":1}"#));
    }
    client.send(request("POST /last", &[("x-request-id", "last"), ("connection", "close")], b"{}"));
    let (bytes, end) = client.wire.rest();
    assert_eq!(end, End::Cut, "closed in an orderly way");
    bytes
}

/// The client's bytes are those without a shadow while the candidate does this, and every request makes its pair.
fn prod_answer_is_unchanged(c: std::net::SocketAddr, outcomes: &[&str]) {
    let p = Stub::sending(PROD);
    let alone = transcript(&Plan::prod(p.address).start());
    let limit = "limits: {shadow_bytes: 1MiB}";
    let bench = Plan::pair(p.address, c)
        .shadow("[{model: c, percent: 100, timeout: 500ms}]")
        .route("copy_body: 64KiB")
        .server(limit)
        .start();
    let beside = transcript(&bench);
    assert_eq!(String::from_utf8_lossy(&beside), String::from_utf8_lossy(&alone));
    let late = [("reason", "lagging")];
    let shed = |bench: &Bench| bench.metrics().count("shadowpair_shadow_skipped_total", &late);
    until("every leg has ended", || bench.metrics().count("shadowpair_pairs_total", &[]) + shed(&bench) == 4.0);
    let metrics = bench.metrics();
    assert!(metrics.sum("shadowpair_shadow_bytes", &[]) <= metrics.sum("shadowpair_shadow_limit_bytes", &[]));
    for pair in bench.pairs(4 - shed(&bench) as usize) {
        assert_eq!(pair["prod"]["outcome"], "ok");
        let outcome = measured(&pair["candidate"], Duration::from_millis(500));
        assert!(outcome.is_none_or(|outcome| outcomes.contains(&outcome)), "{outcome:?}");
        let result = match outcome {
            Some("ok") => "uncompared",
            Some(_) => "candidate_failed",
            None => "unmeasured",
        };
        assert_eq!(pair["result"], result);
    }
}

#[test]
fn prod_answer_is_unchanged_when_candidate_hangs() {
    let c = Stub::doing(vec![Act::Hang]);
    prod_answer_is_unchanged(c.address, &["timeout"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_never_reads() {
    let c = Stub::on_accept(vec![Act::Pause(Duration::from_secs(1))]);
    prod_answer_is_unchanged(c.address, &["timeout"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_resets() {
    let c = Stub::doing(vec![Act::Reset]);
    prod_answer_is_unchanged(c.address, &["reset"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_resets_at_once() {
    let c = Stub::on_accept(vec![Act::Reset]);
    prod_answer_is_unchanged(c.address, &["reset", "connect_error"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_closes() {
    let c = Stub::doing(vec![Act::Close]);
    prod_answer_is_unchanged(c.address, &["reset"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_refuses() {
    prod_answer_is_unchanged(Stub::nobody(), &["connect_error"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_answers_500() {
    let c = Stub::sending(answer("500 No", &[("connection", "close")], b"{\"error\":\"no\"}"));
    prod_answer_is_unchanged(c.address, &["http_error", "reset"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_answers_garbage() {
    let c = Stub::sending("\u{0}\u{1}\u{2} not HTTP at all \r\n\r\n");
    prod_answer_is_unchanged(c.address, &["protocol_error"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_sends_half_an_answer() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"y\":".to_vec();
    let c = Stub::doing(vec![Act::Send(half), Act::Close]);
    prod_answer_is_unchanged(c.address, &["reset"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_floods_its_body() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let c = Stub::doing(vec![Act::Send(head), Act::Flood(vec![b'x'; 64 << 10])]);
    prod_answer_is_unchanged(c.address, &["timeout", "reset", "ok"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_floods_its_head() {
    let c = Stub::doing(vec![Act::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Act::Flood(b"x-more: 1\r\n".repeat(1000))]);
    prod_answer_is_unchanged(c.address, &["protocol_error", "timeout", "reset"]);
}

#[test]
fn prod_answer_is_unchanged_when_candidate_speaks_another_protocol() {
    let (p, c) = (Stub::sending(PROD), Stub::json(r#"{"y":1}"#));
    let alone = transcript(&Plan::prod(p.address).start());
    let bench = Plan::pair(p.address, c.address).with("c", "protocol: h2").start();
    assert_eq!(String::from_utf8_lossy(&transcript(&bench)), String::from_utf8_lossy(&alone));
    assert!(bench.pairs(4).iter().all(|pair| pair["result"] == "candidate_failed"));
}

#[test]
fn requests_at_once_are_never_mixed_up() {
    let echo = |seen: &crate::support::stub::Seen| vec![Act::Send(ok_json(&String::from_utf8_lossy(&seen.body)))];
    let (p, c) = (Stub::new(echo), Stub::new(echo));
    let bench =
        Plan::pair(p.address, c.address).compare_all().route("control: {percent: 100, max_in_flight: 1000}").start();
    let traffic = bench.traffic;
    let clients: Vec<_> = (0..4_usize)
        .map(|who| {
            std::thread::spawn(move || {
                let mut client = Client::to(traffic);
                for nth in 0..40 {
                    let body = format!("[\"{who}-{nth}\", \"{}\"]", "x".repeat(who * 1000 + nth * nth * 7));
                    assert_eq!(client.ask(post_as(&format!("{who}-{nth}"), &body)).text(), body);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    for pair in bench.pairs(320) {
        let id = pair["request_id"].as_str().unwrap();
        let asked = &pair["request"]["body"]["data"];
        assert!(asked.as_str().unwrap().starts_with(&format!("[\"{id}\"")), "{id}: {asked}");
        assert_eq!((asked, asked), (&pair["prod"]["body"]["data"], &pair["candidate"]["body"]["data"]));
    }
}

#[test]
fn a_candidate_that_hangs_delays_no_request_of_the_same_connection() {
    let gate = Gate::default();
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::pair(p.address, c.address).shadow("[{model: c, percent: 100, timeout: 30s}]").start();
    let mut client = bench.client();
    for _ in 0..50 {
        assert_eq!(client.ask(post("/", r#"{"x":1}"#)).status, 200);
    }
    assert_eq!(bench.metrics().count("shadowpair_pairs_total", &[]), 0.0, "all were answered while every copy waited");
    gate.open();
    bench.pairs(50);
}

#[test]
fn the_copy_starts_when_the_request_is_complete_beside_prod() {
    let gate = Gate::default();
    let p = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let c = Stub::json(r#"{"y":1}"#);
    let bench = Plan::pair(p.address, c.address).start();
    let mut client = bench.client();
    client.send("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 4\r\n\r\nab");
    until("prod has the half", || p.received() > 0);
    assert_eq!(c.received(), 0, "the copy waits for the whole");
    client.send("cd");
    assert_eq!(c.one().body, b"abcd", "and does not wait for prod");
    gate.open();
    assert_eq!(client.answer().status, 200);
    bench.pairs(1);
}

#[test]
fn copies_keep_to_the_memory_bound_and_give_it_back() {
    let gate = Gate::default();
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 100, timeout: 30s}]")
        .route("capture: {request: none}")
        .server("limits: {shadow_bytes: 1MiB}")
        .start();
    let mut client = bench.client();
    let limit = bench.metrics().sum("shadowpair_shadow_limit_bytes", &[]);
    assert_eq!(limit, f64::from(1 << 20));
    for _ in 0..20 {
        assert_eq!(client.ask(request("POST /", &[], &vec![b'a'; 100_000])).status, 200);
        assert!(bench.metrics().sum("shadowpair_shadow_bytes", &[]) <= limit);
    }
    until("what does not fit is shed", || {
        bench.metrics().count("shadowpair_shadow_skipped_total", &[("reason", "memory")]) >= 8.0
    });
    let shed = bench.metrics().count("shadowpair_shadow_skipped_total", &[]);
    assert!(bench.metrics().sum("shadowpair_shadow_bytes", &[]) >= 400_000.0, "the copies that wait are charged");
    gate.open();
    bench.pairs(20 - shed as usize);
    until("all is given back", || bench.metrics().sum("shadowpair_shadow_bytes", &[]) == 0.0);
}

#[test]
fn a_candidates_large_answers_keep_to_the_memory_bound() {
    let big = answer("200 OK", &[], &vec![b'x'; 900_000]);
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::sending(big);
    let bench = Plan::pair(p.address, c.address).server("limits: {shadow_bytes: 1MiB}").start();
    let clients: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = bench.client();
            client.send(post("/", "{}"));
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.answer().text(), r#"{"y":1}"#);
        let metrics = bench.metrics();
        assert!(metrics.sum("shadowpair_shadow_bytes", &[]) <= metrics.sum("shadowpair_shadow_limit_bytes", &[]));
    }
    until("every copy has ended", || {
        let metrics = bench.metrics();
        metrics.count("shadowpair_pairs_total", &[]) + metrics.count("shadowpair_shadow_skipped_total", &[]) == 8.0
    });
}

#[test]
fn a_request_over_copy_body_is_not_copied_and_reaches_prod_whole() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).route("copy_body: 1KiB").start();
    let body = vec![b'a'; 3000];
    assert_eq!(bench.ask(request("POST /", &[], &body)).status, 200);
    let mut chunked = b"POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nbb8\r\n".to_vec();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(bench.ask(chunked).status, 200);
    bench.wait_skipped("body_too_large", 2.0);
    assert!(p.wait(2).iter().all(|seen| seen.body == body));
    assert_eq!(bench.ask(request("POST /", &[], &body[..1024])).status, 200);
    assert_eq!(bench.pair()["tally"]["skipped"], 2);
    assert_eq!(c.one().body.len(), 1024);
}

#[test]
fn a_shadows_timeout_bounds_its_whole_leg() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![
        Act::Send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec()),
        Act::Hang,
    ]);
    let bench = Plan::pair(p.address, c.address).shadow("[{model: c, percent: 100, timeout: 200ms}]").start();
    bench.ask(post("/", "{}"));
    let pair = bench.pair();
    assert!(matches!(measured(&pair["candidate"], Duration::from_millis(200)), Some("timeout") | None), "{pair}");
    assert_eq!((&pair["candidate"]["status"], &pair["candidate"]["bytes"]), (&200.into(), &5.into()));
    until("the candidate's call is ended", || c.ended() == 1);
}

#[test]
fn more_copies_at_once_than_max_in_flight_are_skipped() {
    let gate = Gate::default();
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Wait(gate.clone()), Act::Send(ok_json(r#"{"y":1}"#))]);
    let bench =
        Plan::pair(p.address, c.address).shadow("[{model: c, percent: 100, max_in_flight: 2, timeout: 30s}]").start();
    for _ in 0..5 {
        assert_eq!(bench.ask(post("/", "{}")).status, 200);
    }
    bench.wait_skipped("in_flight", 3.0);
    assert_eq!(bench.metrics().sum("shadowpair_in_flight", &[("role", "shadow")]), 2.0);
    gate.open();
    bench.pairs(2);
}

#[test]
fn more_copies_a_second_than_max_rps_are_skipped() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).shadow("[{model: c, percent: 100, max_rps: 1}]").start();
    let mut client = bench.client();
    for _ in 0..20 {
        assert_eq!(client.ask(post("/", "{}")).status, 200);
    }
    until("all are counted", || bench.metrics().count("shadowpair_requests_total", &[]) == 20.0);
    let skipped = bench.metrics().sum("shadowpair_shadow_skipped_total", &[("reason", "rate")]);
    assert!(skipped >= 10.0, "twenty at once are not all within one a second: {skipped}");
    bench.pairs(20 - skipped as usize);
}

#[test]
fn only_copies_are_marked() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).route("control: {percent: 100}").start();
    let fields = [
        ("x-request-id", "one"),
        ("idempotency-key", "abc"),
        ("x-shadowpair-role", "prod"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("baggage", "b=2"),
    ];
    bench.ask(request("POST /", &fields, b"{}"));
    bench.pairs(2);
    let asked = p.wait(2);
    let (control, prod): (Vec<_>, Vec<_>) = asked.iter().partition(|seen| seen.value("x-shadowpair-role").is_some());
    assert_eq!((prod.len(), control.len()), (1, 1));
    assert_eq!(prod[0].value("idempotency-key").as_deref(), Some("abc"));
    assert_eq!(control[0].value("x-shadowpair-role").as_deref(), Some("control"));
    assert_eq!(control[0].value("idempotency-key").as_deref(), Some("abc-control"));
    let shadow = c.one();
    assert_eq!(shadow.value("x-shadowpair-role").as_deref(), Some("shadow"));
    assert_eq!(shadow.value("idempotency-key").as_deref(), Some("abc-shadow"));
    for seen in [prod[0], control[0], &shadow] {
        assert_eq!(seen.value("x-request-id").as_deref(), Some("one"));
        for (name, value) in &fields[3..] {
            assert_eq!(seen.value(name).as_deref(), Some(*value));
        }
        assert_eq!(seen.value("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    }
}

#[test]
fn no_trace_is_minted() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    bench.ask(get("/"));
    for stub in [&p, &c] {
        assert_eq!(stub.one().value("traceparent"), None);
    }
}

#[test]
fn a_copy_that_may_have_been_read_is_not_sent_again() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::doing(vec![Act::Reset]);
    let bench = Plan::pair(p.address, c.address).start();
    for _ in 0..4 {
        bench.ask(get("/"));
    }
    bench.pairs(4);
    assert_eq!(c.seen().len(), 4);
}

#[test]
fn a_candidate_that_closes_kept_connections_costs_no_pair() {
    let p = Stub::json(r#"{"y":1}"#);
    let c = Stub::new(|_| vec![Act::Send(ok_json(r#"{"y":1}"#)), Act::Pause(Duration::from_millis(10)), Act::Close]);
    let bench = Plan::pair(p.address, c.address).start();
    for nth in 1..=20 {
        bench.ask(post("/", "{}"));
        until("the candidate has closed", || c.ended() == nth);
    }
    assert!(bench.pairs(20).iter().all(|pair| pair["result"] == "equal"));
}
